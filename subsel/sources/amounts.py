"""The amounts of features or concepts that candidates have: a matrix with a row per candidate."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from subsel.kernels.cpu import Columns, Dense
from subsel.sources.levels import CpuLevels, frozen
from subsel.sources.sparse import compressed
from subsel.validation import as_csr, check_entries, check_stored, position, read_only


class Amounts:
    """Amounts that candidates add to features, which are the points of a coverage objective.

    A candidate's amounts lie together in memory, so that a gain reads them in one pass; a sparse
    matrix is read in O(its non-zeros) and never becomes dense.

    Parameters
    ----------
    rows : ndarray of float or csr_array, shape (n, n_points)
    span : float
        The largest entry.
    """

    unit, offset = 1.0, 0.0
    store: Any

    def __init__(self, rows: Any, span: float) -> None:
        self.rows, self.span = rows, span
        self.n, self.n_points = rows.shape
        self.point_slots = self.n_points
        if isinstance(rows, np.ndarray):
            self.path, self.store = "dense", Dense(rows, True, 1.0, 1.0)
            self.terms = float(self.n_points)
        else:
            self.path, self.store = "sparse", Columns(*compressed(rows))
            self.terms = rows.nnz / self.n

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = frozen(self.store)

    @classmethod
    def from_dense(cls, array: np.ndarray, name: str, what: str) -> "Amounts":
        """Check a user's matrix, which is copied only if it is not in C order."""
        return cls(read_only(array), check_entries(array, name, non_negative=True, what=what))

    @classmethod
    def from_sparse(cls, matrix: Any, name: str, what: str) -> "Amounts":
        """Check a user's scipy matrix or array, in any format; duplicate entries are summed."""
        rows = as_csr(matrix, name)
        return cls(rows, check_stored(rows, name, what))

    def refuse(self, wrong: Callable[[np.ndarray], np.ndarray], name: str, wanted: str) -> None:
        """Raise an error that names the first wrong entry and what it must be, if there is one."""
        dense = isinstance(self.rows, np.ndarray)
        entries = self.rows if dense else self.rows.data
        bad = wrong(entries)
        if bad.any():
            at = int(bad.argmax())
            i, j = divmod(at, self.n_points) if dense else position(self.rows, at)
            raise ValueError(f"{name}[{i}, {j}] is {entries.flat[at]}; {wanted}")

    def restrict(self, candidates: np.ndarray) -> "Amounts":
        """A copy of some rows."""
        rows = self.rows[candidates]
        return Amounts(read_only(rows) if isinstance(rows, np.ndarray) else rows, self.span)

    @cached_property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return np.arange(self.n)

    def slots(self, candidates: Any) -> Any:
        """Candidates are in the order of the rows."""
        return candidates

    def points_in_slots(self, values: np.ndarray) -> np.ndarray:
        """Features are in the order of the columns."""
        return values

    def levels(self, rule: Any) -> CpuLevels:
        """A search by a rule of a coverage objective."""
        return CpuLevels(self, rule)
