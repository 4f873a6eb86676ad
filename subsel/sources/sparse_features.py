"""Similarities of sparse features, such as TF-IDF: the features never become dense."""

import copy
from typing import Any

import numpy as np

from subsel.sources.dense import DenseSimilarity
from subsel.sources.scale import Scale, grid, round_up
from subsel.validation import (
    ArrayLike,
    as_csr,
    as_float_array,
    check_choice,
    check_matrix_shape,
    check_memory,
    check_stored,
    read_only,
)

_PORTION = 2**20
"""Similarities that are computed at a time."""


class SparseFeatures:
    """Checked sparse features (n, d), from which a matrix of similarities is made.

    The matrix is dense, because most rows of real texts share some word. It is the product of the
    features with their transpose, computed from the non-zeros, some rows at a time.
    """

    together = False
    """Whether all classes are searched in the same launches."""

    def __init__(self, X: Any) -> None:
        self.array = checked_rows(X, "X")

    def __len__(self) -> int:
        return self.array.shape[0]

    def rows(self, indices: np.ndarray) -> "SparseFeatures":
        """A copy of some rows."""
        part = copy.copy(self)
        part.array = self.array[indices]
        return part

    def others(self, items: ArrayLike, name: str) -> Any:
        """Checked features of other items, sparse or dense, with the same number of columns."""
        array, d = checked_rows(items, name), self.array.shape[1]
        if array.shape[1] != d:
            raise ValueError(f"{name} must have the {d} columns that X has, not {array.shape[1]}")
        return array

    def similarity(self, metric: str, gamma: float | None, memory: float | None) -> DenseSimilarity:
        """Similarities between the rows, in a matrix that fits into `memory`."""
        return self.guided(metric, gamma, memory, [])[0]

    def guided(
        self, metric: str, gamma: float | None, memory: float | None, others: list[Any]
    ) -> tuple[DenseSimilarity, list[np.ndarray]]:
        """Similarities of the rows to one another, and each row's largest to rows of others."""
        from scipy.sparse import vstack

        check_sparse_metric(metric, "X")
        n, dtype = len(self), self.array.dtype
        size, allowed = n * n * dtype.itemsize, check_memory(memory)
        if size > allowed:
            raise ValueError(
                f"similarities of {n} sparse rows take {size / 1e9:.3g} GB, more than memory "
                f"allows ({allowed / 1e9:.3g} GB): use FacilityLocation.from_neighbors with a "
                "graph of nearest neighbours, float32, or features of fewer dimensions, which may "
                "be dense (sklearn.decomposition.TruncatedSVD)"
            )
        whole = vstack([self.array, *others], format="csr") if others else self.array
        whole, scale = _conditioned(whole.astype(np.float64), metric)
        own = whole[:n]
        matrix = np.empty((n, n), dtype)
        for rows, products in _products(own, own, metric):
            matrix[rows] = products
        similarity = DenseSimilarity(
            read_only(matrix), span=scale.span, symmetric=True, offset=scale.offset
        )
        largest, at = [], n
        for other in others:
            best = np.empty(n)
            for rows, products in _products(own, whole[at : at + other.shape[0]], metric):
                best[rows] = products.max(axis=1)
            largest.append(best + scale.offset)
            at += other.shape[0]
        return similarity, largest


def nearest(X_new: Any, representatives: Any, metric: Any) -> tuple[np.ndarray, np.ndarray]:
    """`subsel.assign` where one of the two is sparse: similarities as `select` computes them."""
    from scipy.sparse import vstack

    check_sparse_metric(metric, "X_new")
    points, others = checked_rows(X_new, "X_new"), checked_rows(representatives, "representatives")
    (n, d), found = points.shape, others.shape[1]
    if found != d:
        raise ValueError(f"representatives must have the {d} columns that X_new has, not {found}")
    dtype = np.result_type(points.dtype, others.dtype)
    whole = vstack([points, others], format="csr").astype(np.float64)
    whole, scale = _conditioned(whole, metric)
    up, down = grid(n, scale.span)
    assignment, nearness = np.empty(n, np.int64), np.empty(n)
    for rows, products in _products(whole[:n], whole[n:], metric):
        stored = np.rint(products.astype(dtype).astype(np.float64) * up) * down
        assignment[rows] = stored.argmax(axis=1)
        nearness[rows] = stored.max(axis=1)
    return assignment, nearness + (metric == "cosine")  # which is stored less 1


def check_sparse_metric(metric: Any, name: str) -> None:
    """Refuse a metric for which sparse features would have to become dense."""
    if metric not in ("cosine", "dot"):
        check_choice(metric, ("cosine", "dot"), f"metric of sparse {name}")


def checked_rows(X: Any, name: str) -> Any:
    """Features of finite numbers, sparse or dense, in compressed rows."""
    from scipy.sparse import csr_array  # takes longer to import than subsel

    if not hasattr(X, "tocsr"):
        X = as_float_array(X, name)
        check_matrix_shape(X.shape, name, "(n, d)")
        X = csr_array(X)
    check_matrix_shape(X.shape, name, "(n, d)")
    rows = as_csr(X, name)
    check_stored(rows, name, "features", non_negative=False)
    return rows


def unit_rows(rows: Any) -> Any:
    """Rows of length 1, float64, with one more column for rows of zeros."""
    from scipy.sparse import csr_array, hstack

    counts = np.diff(rows.indptr)
    extents = abs(rows).max(axis=1).toarray().ravel()
    zero = extents == 0
    rows = csr_array((rows.data / np.repeat(extents + zero, counts), rows.indices, rows.indptr),
                     shape=rows.shape)  # fmt: skip
    lengths = np.sqrt(_sums(rows.data * rows.data, rows))
    rows.data /= np.repeat(lengths + zero, counts)
    return hstack([rows, csr_array(zero[:, None].astype(np.float64))], format="csr")


def _conditioned(rows: Any, metric: str) -> tuple[Any, Scale]:
    """Rows of length 1 for cosine; and the scale."""
    if metric == "cosine":
        return unit_rows(rows), Scale(1.0, 2.0, 2.0)
    extents = abs(rows).max(axis=1).toarray().ravel()
    scaled = rows.data / np.repeat(extents + (extents == 0), np.diff(rows.indptr))
    lengths = np.sqrt(_sums(scaled * scaled, rows))
    radius = float((lengths * extents).max())
    if radius and not 1e-150 < radius < 1e150:
        raise ValueError(f"X spreads over {radius:g}, too far for {metric}; rescale it")
    square = round_up((radius * (1 + 1e-6)) ** 2)
    offset = square if rows.data.min(initial=0.0) < 0 else 0.0
    return rows, Scale(1.0, offset, offset + square)


def _sums(values: np.ndarray, rows: Any) -> np.ndarray:
    """The sums of values, one for each entry of compressed rows, by row."""
    at = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    return np.bincount(at, values, rows.shape[0])


def _products(rows: Any, others: Any, metric: str) -> Any:
    """Similarities less the offset, some rows at a time."""
    n, across = rows.shape[0], others.T.tocsr()
    step = max(1, _PORTION // others.shape[0])
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        products = (rows[part] @ across).toarray()
        if metric == "cosine":
            products -= 1
            products[products > -(2.0**-48)] = 0  # the rows have the same direction, up to rounding
        yield part, products
