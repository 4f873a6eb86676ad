"""Similarities from distances that a user gives: similarity = largest distance - distance."""

import copy
import warnings
from typing import Any

import numpy as np

from subsel.sources.base import Similarity
from subsel.sources.dense import DenseSimilarity
from subsel.sources.sparse import SparseSimilarity
from subsel.validation import (
    as_csr,
    as_float_array,
    as_host_array,
    check_entries,
    check_matrix_shape,
    check_stored,
    read_only,
)


class Distances:
    """Checked distances (n_points, n), dense or as a sparse graph of neighbours.

    In a graph, an absent entry stands for a distance of at least the largest one. In a square
    graph, every item is at distance 0 from itself, even if that entry is absent.
    """

    together = False
    """Whether all classes are searched in the same launches."""

    def __init__(self, D: Any, name: str) -> None:
        if hasattr(D, "tocsr"):
            check_matrix_shape(D.shape, name, "(n_points, n_candidates)")
            self.array = as_csr(D, name)
            self.largest = check_stored(self.array, name, "distances")
        else:
            self.array = as_float_array(D, name)
            check_matrix_shape(self.array.shape, name, "(n_points, n_candidates)")
            self.largest = check_entries(self.array, name, non_negative=True, what="distances")

    def __len__(self) -> int:
        return self.array.shape[0]

    def rows(self, indices: np.ndarray) -> "Distances":
        """Distances of some items to one another."""
        part = copy.copy(self)
        part.array = self.array[indices][:, indices]
        return part

    def similarity(self, metric: str, gamma: float | None, memory: float | None) -> Similarity:
        """Similarities of points and candidates."""
        if isinstance(self.array, np.ndarray):
            # Stored as distances, so that small ones keep their digits.
            return DenseSimilarity(
                read_only(-self.array), span=self.largest, symmetric=False, offset=self.largest
            )
        graph = self.array.copy()
        graph.data = self.largest - graph.data
        if graph.shape[0] == graph.shape[1]:
            from scipy.sparse import csr_array  # takes longer to import than subsel

            n = len(self)
            own = np.full(n, self.largest, graph.dtype), np.arange(n), np.arange(n + 1)
            graph = graph.maximum(csr_array(own, shape=(n, n)))
        return SparseSimilarity(graph, graph.tocsc(), self.largest)


def warn_of_distances(
    source: Any,
    name: str,
    cure: str = "pass the largest distance minus each one",
    stacklevel: int = 3,
) -> None:
    """Warn if a dense matrix of similarities looks like a matrix of distances.

    It does if its diagonal is 0 and most other entries are positive.
    """
    matrix = getattr(source, "matrix", None)
    if not isinstance(matrix, np.ndarray) or len(matrix) < 3 or matrix.shape[0] != matrix.shape[1]:
        return
    n = len(matrix)
    if not matrix.diagonal().any() and np.count_nonzero(matrix > 0) > n * (n - 1) / 2:
        warnings.warn(
            f"{name} has zeros on its diagonal and is positive elsewhere, as distances are; if "
            f"these are distances, {cure}",
            stacklevel=stacklevel,
        )


def warn_of_pairs(features: Any, stacklevel: int = 4) -> None:
    """Warn if features look like a matrix of distances, or of similarities, between the rows.

    They do if they are symmetric with one number on the diagonal, and most other numbers are not 0:
    positive beside a diagonal of 0, or else below the diagonal. Fewer than 8 rows may do so
    by chance.
    """
    X = getattr(features, "array", None)
    if not isinstance(X, np.ndarray) or len(X) < 8 or X.shape[0] != X.shape[1]:
        return
    n, own = len(X), X[0, 0]
    if (X.diagonal() != own).any():
        return
    beside = np.count_nonzero(X if own == 0 else (X != 0) & (own > X))
    if beside > n * (n - 1) / 2 and (own or X.min() == 0) and np.array_equal(X, X.T):
        what, cure = "similarities", "subsel.greedy in place of select"
        if own == 0:
            what, cure = "distances", 'metric="precomputed"'
        warnings.warn(
            f"X is symmetric and has {own:g} on its diagonal, as a matrix of {what} has, but its "
            f"rows are taken for features; if these are {what}, use {cure}",
            stacklevel=stacklevel,
        )


def warn_of_rising(similarities: Any, stacklevel: int = 3) -> None:
    """Warn if similarities of neighbours rise along each row, as distances do.

    Fewer than 8 rows may do so by chance.
    """
    steps = np.diff(as_float_array(similarities, "similarities"), axis=1)
    if len(steps) >= 8 and (steps >= 0).all() and (steps > 0).any(axis=1).all():
        warnings.warn(
            "similarities rise along each row, as distances to ever farther neighbours do; if "
            "these are distances, pass them as distances=",
            stacklevel=stacklevel,
        )


def graph_of(indices: Any, values: Any, n_candidates: int | None, name: str) -> Any:
    """A sparse matrix (n, n_candidates) of the neighbours of each row, with a value for each.

    Negative indices stand for no neighbour.
    """
    from scipy.sparse import csr_array

    at = as_host_array(indices, "indices")
    if at.ndim != 2 or at.dtype.kind not in "iu":
        raise TypeError(
            f"indices must be integers (n, k), or a sparse graph of distances, not {at.dtype} of "
            f"shape {at.shape}"
        )
    check_matrix_shape(at.shape, "indices", "(n, k)")
    array = as_float_array(values, name)
    if array.shape != at.shape:
        raise ValueError(f"{name} must have the shape of indices, {at.shape}, not {array.shape}")
    n = len(at) if n_candidates is None else n_candidates
    if at.max() >= n:
        i, j = (int(x[0]) for x in np.nonzero(at >= n))
        raise ValueError(f"indices[{i}, {j}] is {at[i, j]}; it must be below {n}")
    held = at >= 0
    ordered = np.sort(at, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        i, j = (int(x[0]) for x in np.nonzero(twice))
        raise ValueError(f"indices[{i}] contains {ordered[i, j]} more than once")
    wrong = held & ~((array >= 0) & (array < np.inf))
    if wrong.any():
        i, j = (int(x[0]) for x in np.nonzero(wrong))
        wanted = f"{name} must be finite and not negative"
        raise ValueError(f"{name}[{i}, {j}] is {array[i, j]}; {wanted}")
    starts = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
    return csr_array((array[held], at[held], starts), shape=(len(at), n))
