"""What an optimizer needs of an objective."""

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
    with it, on plain NumPy arrays. `subsel.testing.check_objective` tries whether it keeps what it
    promises.

    Attributes
    ----------
    n : int
        Size of the ground set (candidates).
    submodular : bool, default True
        Whether a gain never rises as elements are added. `lazy_greedy` relies on it.
    monotone : bool, default True
        Whether no gain is negative.
    rounding : float or None, default None
        By how much a computed gain may exceed an earlier one of the same candidate, though F is
        submodular. None means 2**-44 of the largest first gain; 0 that gains are exact.
    n_evaluations : int
        Marginal gains evaluated since the last `reset`. Optimizers count for an objective that
        leaves it at None.
    keeps_gains : bool
        Whether the gains of all candidates are kept up to date as elements are added, so that
        asking for one costs nothing and a lazy search has nothing to save.
    lazy : bool
        Whether `extend` evaluates only candidates that might be the best, so that a lazy search has
        nothing to save.
    path : str
        How the similarities are obtained; recorded in `Selection.path`.
    caution : str
        What a person should know of the elements added since the last `reset`, or nothing;
        optimizers warn of it at the end of a search.
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

    __array_ufunc__ = None  # a NumPy number times an objective is left to the objective
    _mixture: ClassVar[Any]  # what sums and multiples make; the class Mixture puts itself here

    def __repr__(self) -> str:
        path = f", path={self.path!r}" if self.path else ""
        return f"{type(self).__name__}(n={self.n}{path})"

    def __mul__(self, weight: float) -> "Objective":
        """A `Mixture` in which this objective counts `weight` times."""
        if isinstance(weight, Objective) or np.ndim(weight):
            return NotImplemented
        return self._mixture([self], [check_number(weight, "weight", -math.inf)])

    __rmul__ = __mul__

    def __add__(self, other: "Objective") -> "Objective":
        """A `Mixture` of both."""
        return self._mixture([self, other]) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: "Objective") -> "Objective":
        """A `Mixture` in which the other counts -1 times."""
        return self + -1.0 * other if isinstance(other, Objective) else NotImplemented

    def searched(self) -> list["Objective"]:
        """The objectives whose selection a search of this one changes: itself; of a mixture, all.

        An optimizer refuses one that is being searched already.
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
        """F(indices), from scratch; S stays as it is."""

    def restrict(self, candidates: np.ndarray) -> "Objective":
        """The same objective on a part of the ground set; its element j is ``candidates[j]``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be restricted to candidates")

    def extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the candidate of largest gain, `count` times; this is greedy.

        Parameters
        ----------
        taken : ndarray of bool, shape (n,)
            Candidates not to add, at most n - count; those added are marked in it.
        count : int
        costs : ndarray of float64, shape (n,), optional
            Positive numbers by which gains are divided before they are compared.

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
        This checks the arguments and calls ``_extend``, which an objective overrides that knows the
        best candidate without all gains.
        """
        count = check_extension(taken, count, self.n)
        if costs is not None:
            costs = check_values(costs, "costs", self.n, low=0.0)
        return self._extend(taken, count, costs)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `extend` says, of arguments that were checked."""
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
        """Upper bounds of the gains of all candidates, where they are known at no cost."""
        return None

    def take(self, elements: np.ndarray) -> np.ndarray:
        """Add elements one after the other (int64 indices); what each of them gained."""
        gains = np.empty(len(elements))
        for at in range(len(elements)):
            gains[at] = self.checked_gains(elements[at : at + 1])[0]
            self.add(int(elements[at]))
        return gains

    def exchange(
        self, elements: np.ndarray, closed: np.ndarray, max_swaps: int | None
    ) -> tuple[np.ndarray, np.ndarray | None, int] | None:
        """Exchange elements for others, beside S, as long as one such swap makes F larger.

        Only for an objective that knows a faster way than to ask for gains; `refine` does that
        where this is None.

        Parameters
        ----------
        elements : ndarray of int64, shape (k,)
            Distinct, and not in S, which stays as it is.
        closed : ndarray of bool, shape (n,)
            What they are not exchanged for; none of them is closed.
        max_swaps : int, optional

        Returns
        -------
        elements : ndarray of int64, shape (k,)
            In the places of those that they were exchanged for.
        gains : ndarray of float64, shape (n,), or None
            What each candidate gains beside S and all of the elements, where that is known.
        evaluations : int
            As many gains as the work was worth.
        """
        return None

    def checked_gains(self, candidates: np.ndarray) -> np.ndarray:
        """`gains`, in float64, once they are seen to be one finite number for each candidate."""
        return check_gains(self.gains(read_only(candidates)), candidates, type(self).__name__)
