"""The interface between optimizers and objectives."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from subsel.validation import (
    check_extension,
    check_gains,
    check_number,
    check_values,
    read_only,
)


class Objective(ABC):
    """A set function F over the ground set 0..n-1, with a growing selection S, and F(empty) = 0.

    A subclass sets `n` and implements `reset`, `gains`, `add` and `value`; the optimizers then work
    with it, on plain NumPy arrays. `subsel.testing.check_objective` checks on random sets that the
    class keeps this contract.

    Attributes
    ----------
    n : int
        Size of the ground set (candidates).
    submodular : bool, default True
        Whether a gain never rises as elements are added. `lazy_greedy` relies on it.
    monotone : bool, default True
        Whether no gain is negative.
    rounding : float or None, default None
        Rounding tolerance: by how much a computed gain may exceed an earlier gain of the same
        candidate although F is submodular. None means 2**-44 of the largest first gain. 0 means
        that gains are exact.
    n_evaluations : int
        Marginal gains evaluated since the last `reset`. If an objective leaves this at None, the
        optimizer counts them itself.
    keeps_gains : bool
        Whether the objective keeps the gains of all candidates up to date as elements are added. A
        gain then costs nothing, so a lazy search would save nothing.
    lazy : bool
        Whether `extend` evaluates only candidates that might be the best. A separate lazy search
        would then save nothing.
    path : str
        How the similarities are obtained; recorded in `Selection.path`.
    caution : str
        A warning about the elements added since the last `reset`, or an empty string. Optimizers
        issue it at the end of a search.
    """

    n: int
    submodular: bool = True
    monotone: bool = True
    rounding: float | None = None
    n_evaluations: int | None = None
    keeps_gains: bool = False
    lazy: bool = False
    path: str = ""
    caution: str = ""

    __array_ufunc__ = None  # so that NumPy leaves "number * objective" to __rmul__
    _mixture: ClassVar[Any]  # set by the module of Mixture, which imports this one

    def __repr__(self) -> str:
        path = f", path={self.path!r}" if self.path else ""
        return f"{type(self).__name__}(n={self.n}{path})"

    def __mul__(self, weight: float) -> "Objective":
        """A `Mixture` of this objective alone, with a weight."""
        if isinstance(weight, Objective) or np.ndim(weight):
            return NotImplemented
        return self._mixture([self], [check_number(weight, "weight", -math.inf)])

    __rmul__ = __mul__

    def __add__(self, other: "Objective") -> "Objective":
        """A `Mixture` of both objectives."""
        return self._mixture([self, other]) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: "Objective") -> "Objective":
        """A `Mixture` in which the other objective has the weight -1."""
        return self + -1.0 * other if isinstance(other, Objective) else NotImplemented

    def searched(self) -> list["Objective"]:
        """The objectives that a search of this one changes: itself, and all parts of a mixture.

        An optimizer refuses an objective that is being searched already.
        """
        return [self]

    @abstractmethod
    def reset(self) -> None:
        """Make S empty."""

    @abstractmethod
    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """Marginal gains F(S + e) - F(S), float64, one for each candidate (int64 indices)."""

    @abstractmethod
    def add(self, element: int) -> None:
        """S <- S + element."""

    @abstractmethod
    def value(self, indices: np.ndarray) -> float:
        """F(indices), computed from scratch. This does not change S."""

    def restrict(self, candidates: np.ndarray) -> "Objective":
        """The objective on a part of the ground set, whose element j is ``candidates[j]``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restricted to candidates")

    def extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Greedy: add the candidate of largest gain, `count` times.

        Parameters
        ----------
        taken : ndarray of bool, shape (n,)
            True for candidates that must not be added, at most n - count of them. This method also
            marks the candidates that it adds.
        count : int
        costs : ndarray of float64, shape (n,), optional
            Positive costs. Greedy then compares gain / cost.

        Returns
        -------
        elements : ndarray of int64, shape (count,)
            In the order of adding. The lowest index wins among equal gains.
        gains : ndarray of float64, shape (count,)

        Raises
        ------
        ValueError, TypeError
            If an argument is not one of the above. Nothing is added then.

        Notes
        -----
        This method checks the arguments and calls ``_extend``. An objective that can find the best
        candidate without computing all gains overrides ``_extend``.
        """
        count = check_extension(taken, count, self.n)
        if costs is not None:
            costs = check_values(costs, "costs", self.n, low=0.0)
        return self._extend(taken, count, costs)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Do the work of `extend`. The arguments have been checked."""
        elements, won = np.empty(count, np.int64), np.empty(count)
        for step in range(count):
            candidates = np.flatnonzero(~taken)
            gains = self.checked_gains(candidates)
            at = int(np.argmax(gains if costs is None else gains / costs[candidates]))
            elements[step], won[step] = candidates[at], gains[at]
            taken[elements[step]] = True
            self.add(int(elements[step]))
        return elements, won

    def bounds(self) -> np.ndarray | None:
        """Upper bounds of all gains if they are known at no cost, else None."""
        return None

    def take(self, elements: np.ndarray) -> np.ndarray:
        """Add elements (int64 indices) one after the other, and return the gain of each."""
        gains = np.empty(len(elements))
        for at in range(len(elements)):
            gains[at] = self.checked_gains(elements[at : at + 1])[0]
            self.add(int(elements[at]))
        return gains

    def exchange(
        self, elements: np.ndarray, closed: np.ndarray, max_swaps: int | None
    ) -> tuple[np.ndarray, np.ndarray | None, int] | None:
        """Exchange elements for other candidates, beside S, until no swap makes F larger.

        An objective sets this only if it has a faster way than evaluating gains. Where it is None,
        `refine` evaluates gains.

        Parameters
        ----------
        elements : ndarray of int64, shape (k,)
            Distinct elements that are not in S. S itself does not change.
        closed : ndarray of bool, shape (n,)
            True for candidates that must not come in. None of `elements` is closed.
        max_swaps : int, optional

        Returns
        -------
        elements : ndarray of int64, shape (k,)
            The new elements, each in the position of the element that it replaced.
        gains : ndarray of float64, shape (n,), or None
            The gain of each candidate beside S and all of `elements`, if it is known.
        evaluations : int
            The work done, expressed as a number of gains evaluated.
        """
        return None

    def checked_gains(self, candidates: np.ndarray) -> np.ndarray:
        """The result of `gains` in float64, checked to be one finite number for each candidate."""
        return check_gains(self.gains(read_only(candidates)), candidates, type(self).__name__)
