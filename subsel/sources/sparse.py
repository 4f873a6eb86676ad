"""Similarities in a sparse matrix."""

from typing import Any

import numpy as np

from subsel.kernels.cpu import Sparse
from subsel.sources.base import Similarity
from subsel.sources.scale import grid
from subsel.validation import as_csr, check_stored, read_only


class SparseSimilarity(Similarity):
    """Similarities in compressed rows and columns; absent entries are 0."""

    path = "sparse"
    unassigned = -1
    width = 512
    _too_much = 2**62

    def __init__(self, rows: Any, columns: Any, span: float) -> None:
        self.columns, self.span = columns, span
        self.n_points, self.n = rows.shape
        up, down = grid(self.n_points, span)
        self.store = Sparse(*compressed(rows), *compressed(columns), up, down)

    @property
    def dtype(self) -> Any:
        """The type of the similarities."""
        return self.columns.dtype

    @property
    def terms(self) -> float:
        """The number of similarities that one gain takes from scratch."""
        return self.columns.nnz / self.n

    @classmethod
    def from_matrix(cls, matrix: Any, name: str) -> "SparseSimilarity":
        """Check a user's scipy matrix or array, in any format; duplicate entries are summed."""
        rows = as_csr(matrix, name)
        span = check_stored(rows, name)
        return cls(rows, rows.tocsc(), span)

    def largest(self) -> np.ndarray:
        """Each point's largest similarity."""
        return self.columns.max(axis=1).toarray().ravel().astype(np.float64)

    def restrict(self, candidates: np.ndarray) -> "SparseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = self.columns[:, candidates]
        return SparseSimilarity(columns.tocsr(), columns, self.span)


def compressed(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, indices and entries. Indices are int32 if they fit: kernels are compiled for it."""
    index = np.int32 if max(matrix.shape) < 2**31 else np.int64
    return (
        read_only(matrix.indptr.astype(np.int64)),
        read_only(matrix.indices.astype(index, copy=False)),
        read_only(matrix.data),
    )
