"""Sources of similarities: the single entry point for matrices and features, on the CPU or a GPU.

This package checks a matrix or features once and returns a source that any objective can search. No
code above it depends on where the source computes.
"""

import math
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from subsel.sources.amounts import Amounts
from subsel.sources.classes import in_classes, small_classes
from subsel.sources.columns import DISTANCES
from subsel.sources.dense import DenseSimilarity
from subsel.sources.distances import (
    Distances,
    graph_of,
    warn_of_distances,
    warn_of_pairs,
    warn_of_rising,
)
from subsel.sources.features import Conditioned, Features
from subsel.sources.scale import METRICS, Scale, check_metric
from subsel.sources.sparse import SparseSimilarity
from subsel.sources.sparse_features import SparseFeatures
from subsel.sources.swaps import exchange
from subsel.validation import (
    BACKENDS,
    ArrayLike,
    as_csr,
    as_float_array,
    as_host_array,
    check_backend,
    check_choice,
    check_matrix_shape,
)

__all__ = [
    "DISTANCES",
    "METRICS",
    "amounts",
    "check_metric",
    "conditioned",
    "distances",
    "exchange",
    "features",
    "graph_of",
    "in_classes",
    "largest",
    "matrix",
    "memberships",
    "require_gpu",
    "small_classes",
    "warn_of_distances",
    "warn_of_pairs",
    "warn_of_rising",
]


def matrix(similarity: Any, backend: str = "auto", name: str = "similarity") -> Any:
    """A source of similarities that a user gives: dense, or scipy sparse, (n_points, n)."""
    axes = "(n_points, n_candidates)"
    place = check_backend(backend, similarity)
    if hasattr(similarity, "tocsr"):
        check_matrix_shape(similarity.shape, name, axes)
        if place == "cuda":
            raise TypeError(
                f"{name} is sparse, which works on the CPU only: use backend='cpu', or "
                f"{name}.toarray()"
            )
        return SparseSimilarity.from_matrix(similarity, name)
    if place == "cuda":
        on_gpu = cuda_sources()
        entries = on_gpu.as_array(similarity, name)
        check_matrix_shape(entries.shape, name, axes)
        return on_gpu.CudaDense.from_matrix(entries, name)
    entries = as_float_array(similarity, name)
    check_matrix_shape(entries.shape, name, axes)
    return DenseSimilarity.from_matrix(entries, name)


def amounts(
    X: Any, backend: str, name: str, axes: str, what: str, high: float = math.inf
) -> Amounts:
    """The amounts of features or concepts that each candidate has: rows (n, d), dense or scipy
    sparse.

    They are kept on the CPU, even if they come from a GPU. `what` names the entries in messages;
    none may be larger than `high`.
    """
    _require_cpu(backend, what)
    if hasattr(X, "tocsr"):
        check_matrix_shape(X.shape, name, axes)
        result = Amounts.from_sparse(X, name, what)
    else:
        entries = as_float_array(X, name)
        check_matrix_shape(entries.shape, name, axes)
        result = Amounts.from_dense(entries, name, what)
    if result.span > high:
        result.refuse(lambda entries: entries > high, name, f"{what} must be in [0, {high:g}]")
    return result


def memberships(M: Any, backend: str, name: str, axes: str) -> Any:
    """Compressed rows of the ones in a matrix (n, d) of 0 and 1, dense or scipy sparse.

    Truth values need neither checks nor other numbers.
    """
    from scipy.sparse import csr_array  # takes longer to import than subsel

    sparse = hasattr(M, "tocsr")
    M = M if sparse else as_host_array(M, name)
    if M.dtype != bool:
        source = amounts(M, backend, name, axes, "memberships", 1.0)
        source.refuse(lambda x: (x != 0) & (x != 1), name, "memberships must be 0 or 1")
        M = source.rows
    else:
        _require_cpu(backend, "memberships")
        check_matrix_shape(M.shape, name, axes)
        M = as_csr(M, name, truth=True) if sparse else M
    if sparse:
        if not M.data.all():
            M = M.copy()
            M.eliminate_zeros()
        return M
    places = np.flatnonzero(M)
    starts = np.searchsorted(places, np.arange(M.shape[0] + 1) * M.shape[1])
    return csr_array((np.ones(len(places), bool), places % M.shape[1], starts), M.shape)


def _require_cpu(backend: str, what: str) -> None:
    if check_choice(backend, BACKENDS, "backend") == "cuda":
        raise ValueError(f"{what} work on the CPU only: use backend='cpu'")


def largest(similarity: ArrayLike, name: str, n_points: int) -> np.ndarray:
    """Each point's largest similarity to some items, float64, from a matrix (n_points, items)."""
    items = matrix(similarity, "cpu", name)
    if items.n_points != n_points:
        raise ValueError(
            f"{name} must have a row for each of the {n_points} points, not {items.n_points}"
        )
    return items.largest()


def features(X: ArrayLike, backend: str = "auto") -> Any:
    """Checked features (n, d), dense or sparse, from which sources of similarities are made."""
    place = check_backend(backend, X)
    if hasattr(X, "tocsr"):
        if place == "cuda":
            raise TypeError("X is sparse, which works on the CPU only: use backend='cpu'")
        return SparseFeatures(X)
    return (cuda_sources().Features if place == "cuda" else Features)(X)


def distances(D: ArrayLike, backend: str = "auto", name: str = "D") -> Distances:
    """Checked distances, of which similarities are made, on the CPU."""
    if check_choice(backend, BACKENDS, "backend") == "cuda":
        raise ValueError(
            "distances work on the CPU only: use backend='cpu', or give similarities "
            "(D.max() - D) to FacilityLocation"
        )
    return Distances(D, name)


def conditioned(rows: np.ndarray, metric: str, scale: Scale, total: int, backend: str) -> Any:
    """Features that `subsel.sources.features.conditioned` made ready, some of `total` rows."""
    if backend == "cuda":
        return cuda_sources().CudaFeatures.of_prepared(rows, metric, scale, total)
    return Conditioned(rows, metric, scale, total)


def cuda_sources() -> Any:
    """The sources on a GPU, where the package for it is there.

    Raises
    ------
    ImportError
    """
    if find_spec("numba_cuda") is None:
        raise ImportError(
            'backend="cuda" needs the package numba-cuda: pip install "subsel[cuda]" '
            '(with a driver for CUDA 12: pip install "numba-cuda[cu12]")'
        )
    return import_module("subsel.sources.cuda")


def require_gpu() -> None:
    """Raise an error that says what is missing, and how to get it, if no GPU can be used.

    Raises
    ------
    ImportError, RuntimeError
    """
    cuda_sources().require_gpu()
