"""Modular: every element has its own worth, whatever else is selected."""

import math

import numpy as np

from subsel.objectives.base import Objective
from subsel.validation import (
    ArrayLike,
    as_host_array,
    check_candidates,
    check_count,
    check_indices,
    check_values,
    flatter,
)


class Modular(Objective):
    """A modular objective: F(S) = the sum of values_j over j in S.

    Use it in a `Mixture` to add relevance, quality or costs to another objective. Alone, greedy
    selects the largest values.

    Parameters
    ----------
    values : array_like, shape (n,)
        Finite numbers, of either sign.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
    monotone : bool
        Whether no value is negative.

    Raises
    ------
    ValueError
        If `values` is not 1-D, is empty, or has NaN or infinite entries.
    TypeError
        If it is not numeric.

    Notes
    -----
    O(1) for each gain; O(n log n) for a greedy search. Memory: 9 bytes for each element.

    Examples
    --------
    >>> import subsel
    >>> relevance = subsel.Modular([0.1, 0.9, 0.3])
    >>> subsel.greedy(relevance, 2).indices
    array([1, 2])
    >>> 0.5 * relevance + subsel.FacilityLocation([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    Mixture(0.5 * Modular(n=3) + 1 * FacilityLocation(n=3, path='dense'))
    """

    keeps_gains = True
    rounding = 0.0

    def __init__(self, values: ArrayLike) -> None:
        values = as_host_array(values, "values")
        if values.ndim != 1 or not len(values):
            cure = flatter(values.shape, "values")
            raise ValueError(f"values must be 1-D and not empty, not of shape {values.shape}{cure}")
        self.values = check_values(values, "values", len(values))
        self.n = len(values)
        self.monotone = bool((self.values >= 0).all())
        self.reset()

    def reset(self) -> None:
        """Make the selection empty."""
        self._added = np.zeros(self.n, bool)

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains, float64 (m,): the values of candidates, or 0 for selected elements.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
        """
        candidates = check_indices(candidates, self.n, "candidates")
        return np.where(self._added[candidates], 0.0, self.values[candidates])

    def add(self, element: int) -> None:
        """Select an element."""
        self._added[check_count(element, "element", 0, self.n - 1)] = True

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidates that are not taken, `count` of them; see `Objective.extend`."""
        candidates = np.flatnonzero(~taken)
        gains = self.gains(candidates)
        worth = gains if costs is None else gains / costs[candidates]
        order = np.argsort(-worth, kind="stable")[:count]
        taken[candidates[order]] = self._added[candidates[order]] = True
        return candidates[order], gains[order]

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat.
        """
        return math.fsum(self.values[np.unique(check_indices(indices, self.n))])

    def restrict(self, candidates: ArrayLike) -> "Modular":
        """The same objective with fewer candidates. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        return Modular(self.values[candidates])
