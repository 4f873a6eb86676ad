"""The pairwise family: the worth of each element alone, less what each pair has in common.

F(S) = sum of l_j over j in S, less factor times the sum of r_ab over all ordered pairs a, b in S,
including a = b. Each member of the family defines l, r and the factor.
"""

import copy
import math
from typing import Any

import numpy as np

from subsel.objectives.base import Objective
from subsel.sources.columns import Columns, FeatureColumns
from subsel.sources.linear import ColumnSums, LinearSums
from subsel.validation import ArrayLike, check_candidates, check_count, check_indices


class Pairwise(Objective):
    """An objective that is a sum over elements and pairs of elements.

    Parameters
    ----------
    pairs : Columns
        The numbers r between candidates; see `subsel.sources.columns`.
    alone : ndarray of float64, shape (n,)
        l, the worth of each element alone.
    factor : float
        The factor of r. If it is positive and no r is negative, F is submodular.
    sums : ndarray of float64, shape (n,), optional
        The sum of each column of r, if it is known already.

    Notes
    -----
    A gain needs the sum of a candidate's r with all selected elements. If r are inner products of
    rows of features, that is one product, with the sum of the selected rows, and greedy computes
    only gains that might be the largest. Otherwise the sums are kept: adding an element takes one
    column of r, and after that every gain takes O(1).
    """

    def __init__(
        self, pairs: Columns, alone: np.ndarray, factor: float, sums: np.ndarray | None = None
    ) -> None:
        self._pairs, self._alone, self._factor = pairs, alone, float(factor)
        self.n, self.path = pairs.n, pairs.path
        base = alone - factor * pairs.diagonal()
        self.submodular = factor == 0 or (factor > 0 and pairs.non_negative)
        self.monotone = bool((base >= 0).all())
        if self.submodular:
            self.rounding = 0.0  # sums of r never fall, also when rounded
        if factor and self.monotone:
            self.monotone = pairs.non_negative and (factor < 0 or self._never_falls(base, sums))
        linear = isinstance(pairs, FeatureColumns) and pairs.linear
        self.keeps_gains, self.lazy = not linear, linear
        self._start(base)

    def _start(self, base: np.ndarray) -> None:
        sums: Any = LinearSums if self.lazy else ColumnSums
        self._sums = sums(self._pairs, base, 2 * self._factor)
        self._added = np.zeros(self.n, bool)

    def _never_falls(self, base: np.ndarray, sums: np.ndarray | None) -> bool:
        """Whether no gain beside all other elements is negative. These are the smallest gains."""
        sums = self._pairs.sums() if sums is None else sums
        others = sums - self._pairs.diagonal()
        least = base - 2 * self._factor * others
        return bool((least >= -(2.0**-44) * np.abs(self._alone).max()).all())

    def reset(self) -> None:
        """Make the selection empty."""
        self._sums = self._sums.afresh()
        self._added = np.zeros(self.n, bool)

    @property
    def n_evaluations(self) -> int | None:  # type: ignore[override]
        """Number of marginal gains computed since the last `reset`, unless all gains are kept."""
        return self._sums.evaluations

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            The gain of one that was added already is 0.
        """
        candidates = check_indices(candidates, self.n, "candidates")
        gains = self._sums.gains(candidates)
        gains[self._added[candidates]] = 0.0
        return gains

    def add(self, element: int) -> None:
        """Select an element."""
        element = check_count(element, "element", 0, self.n - 1)
        if not self._added[element]:
            self._added[element] = True
            self._sums.add(element)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        if costs is not None or (self._added & ~taken).any():
            return super()._extend(taken, count, costs)
        elements, gains = self._sums.extend(taken, count)
        self._added[elements] = True
        return elements, gains

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(k^2) numbers r.
        """
        indices = np.unique(check_indices(indices, self.n))
        if not len(indices):
            return 0.0
        common = self._pairs.restrict(indices).sums() if self._factor else np.zeros(1)
        return math.fsum([*self._alone[indices], *(-self._factor * common)])

    def restrict(self, candidates: ArrayLike) -> "Pairwise":
        """The same objective with fewer candidates. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        part = copy.copy(self)
        part.n, part._pairs = len(candidates), self._pairs.restrict(candidates)
        part._alone = self._alone[candidates]
        part._start(self._sums.base[candidates])
        return part
