"""Pairwise numbers between rows of sparse features, such as TF-IDF, one column at a time."""

from typing import Any

import numpy as np

from subsel.sources.columns import RowColumns
from subsel.sources.sparse_features import checked_rows, unit_rows
from subsel.validation import as_float_array, check_choice, check_matrix_shape


class SparseRowColumns(RowColumns):
    """Inner products, cosines, or cosine distances of the rows of sparse features.

    A column is one product of the matrix and a vector: O(non-zeros). Memory: a copy of the
    non-zeros in float64.
    """

    def __init__(self, rows: Any, width: int, metric: str, distances: bool) -> None:
        self.rows, self.n, self.width = rows, rows.shape[0], width
        self.metric, self._distances = metric, distances
        self.linear = not distances
        self.non_negative = distances or not (rows.data < 0).any()

    @classmethod
    def of(
        cls, X: Any, metric: Any, gamma: float | None = None, *,
        distances: bool = False, name: str = "X",
    ) -> "SparseRowColumns":  # fmt: skip
        """Check and prepare features (n, d); those of other items may be sparse or dense."""
        from scipy.sparse import csr_array  # takes longer to import than subsel

        known = ("cosine",) if distances else ("cosine", "dot")
        if callable(metric) or metric not in known:
            check_choice(metric, known, f"metric of sparse {name}")
        if not hasattr(X, "tocsr"):
            X = as_float_array(X, name)
            check_matrix_shape(X.shape, name, "(items, d)")
            X = csr_array(X)
        rows = checked_rows(X, name).astype(np.float64)
        width = rows.shape[1]
        if metric == "cosine":
            rows = unit_rows(rows)
        else:
            largest = float(np.abs(rows.data).max(initial=0))
            if largest and not 1e-70 < largest < 1e70:
                raise ValueError(
                    f"{name} has entries up to {largest:g}, whose squares cannot be summed in "
                    "float64; rescale it"
                )
        return cls(rows, width, metric, distances)

    def row(self, element: int) -> np.ndarray:
        """One row, dense."""
        start, stop = self.rows.indptr[element : element + 2]
        out = np.zeros(self.rows.shape[1])
        out[self.rows.indices[start:stop]] = self.rows.data[start:stop]
        return out

    def with_row(self, row: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and any row."""
        out[:] = self.rows @ row
        if self._distances:
            np.subtract(1.0, out, out=out)
            out[out < 2.0**-48] = 0  # the rows have the same direction, up to rounding
        return out

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them: O(non-zeros)."""
        super().column(element, out)
        if self.metric == "cosine":
            out[element] = 0.0 if self._distances else 1.0
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        if self.metric == "cosine":
            return np.full(self.n, 0.0 if self._distances else 1.0)
        return np.asarray((self.rows * self.rows).sum(axis=1), np.float64).ravel()

    def sums(self, others: Any = None) -> np.ndarray:
        """The sum of each candidate's numbers with all `others`, or with all candidates."""
        if not self.linear:
            return super().sums(others)
        rows = (others or self).rows
        total = np.bincount(rows.indices, rows.data, rows.shape[1])
        return self.with_row(total, np.empty(self.n))

    def restrict(self, candidates: np.ndarray) -> "SparseRowColumns":
        """The numbers between some of the candidates."""
        return SparseRowColumns(self.rows[candidates], self.width, self.metric, self._distances)
