"""The interface between optimizers and constraints, the constraint `Count`, and `a & b`."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from subsel.validation import check_budget, check_count


class State(ABC):
    """The state of a constraint while a selection grows.

    Attributes
    ----------
    costs : ndarray of float64, shape (n,), or None
        If given, greedy compares gains divided by these.
    most : int or None
        The largest number of elements that can be selected, if it is known; for the progress bar.
    singles : bool
        Whether greedy also tries, at each of its prefixes, the best single element that may follow,
        and returns the best set that it saw.
    """

    costs: np.ndarray | None = None
    most: int | None = None
    singles: bool = False

    @abstractmethod
    def safe(self) -> int:
        """How many elements may be added, whichever they are, before `close` must be called again.

        0 means that the selection is full. A smaller number than possible is correct too: 1 always
        is, as long as anything may be added.
        """

    @abstractmethod
    def close(self, closed: np.ndarray) -> None:
        """Mark in ``closed``, bool (n,), the elements that may not be added now or later."""

    @abstractmethod
    def add(self, elements: np.ndarray) -> None:
        """Record that these elements were selected, in this order. Each was allowed at its turn."""


class Constraint(ABC):
    """Which sets may be selected: with a set, all its subsets.

    ``a & b`` allows what both allow.

    Attributes
    ----------
    floors : bool
        Whether the constraint demands some elements, so that no other constraint may end the
        selection early.
    """

    floors: bool = False

    @abstractmethod
    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection, beside the elements that are held already.

        Parameters
        ----------
        closed : ndarray of bool, shape (n,)
            Candidates that may not be selected: those given and those excluded.
        given : ndarray of int64
            Elements held from the start. They are not selected, and do not count or cost anything.

        Raises
        ------
        ValueError, TypeError
            If the constraint does not fit n candidates, or cannot be met.
        """

    def beside(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection beside another constraint, which may end it earlier.

        The same as `start`, unless a subclass has weaker requirements in this case.
        """
        return self.start(closed, given)

    def most_of(self, gains: np.ndarray) -> float:
        """The largest sum of gains of any set that may be selected, or an upper bound of it.

        By default the sum of all gains; a subclass may return a smaller bound.

        Parameters
        ----------
        gains : ndarray of float64, shape (n,)
            Not negative; 0 for elements that may not be selected.
        """
        return math.fsum(gains)

    def cost(self, elements: np.ndarray) -> float | None:
        """The cost of a selection; None if the constraint has no costs."""
        return None

    def __and__(self, other: Any) -> "Both":
        return Both(self, other) if isinstance(other, Constraint) else NotImplemented


class Count(Constraint):
    """Exactly k elements; beside another constraint (``Count(k) & other``), at most k.

    Parameters
    ----------
    k : int
        At least 1, and at most the number of elements that may be selected. Beside another
        constraint it has no upper limit.

    Examples
    --------
    >>> import subsel
    >>> subsel.greedy([[1.0, 0.5], [0.0, 0.5]], subsel.constraints.Count(1)).indices
    array([0])
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def __repr__(self) -> str:
        return f"Count({self.k})"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        k = check_budget(self.k, len(closed))
        check_enough(k, closed, "budget")
        return _Counting(k, k)

    def beside(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection that may stay below k."""
        k = check_count(self.k, "budget", 1)
        return _Counting(k, min(k, _left(closed)))

    def most_of(self, gains: np.ndarray) -> float:
        """The sum of the k largest gains."""
        return largest(gains, int(self.k))


class _Counting(State):
    def __init__(self, count: int, most: int) -> None:
        self._left, self.most = count, most

    def safe(self) -> int:
        return self._left

    def close(self, closed: np.ndarray) -> None:
        pass

    def add(self, elements: np.ndarray) -> None:
        self._left -= len(elements)


class Unlimited(Constraint):
    """No limit: a target or another stop ends the search."""

    def __repr__(self) -> str:
        return "no budget"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        most = _left(closed)
        return _Counting(most + 1, most)  # never full: the search ends when no candidate is left


class Both(Constraint):
    """The sets that two constraints both allow, made by ``a & b``.

    Raises
    ------
    ValueError
        If one constraint demands elements (`at_least`) that the other might prevent, or if both
        divide gains by their own costs.
    """

    def __init__(self, a: Constraint, b: Constraint) -> None:
        for one in (a, b):
            if one.floors:
                raise ValueError(
                    f"{one} has at_least, which another constraint might make impossible: leave "
                    "out at_least or the other constraint (to limit all groups together, use its "
                    "argument count)"
                )
        self.a, self.b = a, b

    def __repr__(self) -> str:
        return f"{self.a} & {self.b}"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        return _Jointly(self.a.beside(closed, given), self.b.beside(closed, given))

    def most_of(self, gains: np.ndarray) -> float:
        """The smaller of the two bounds."""
        return min(self.a.most_of(gains), self.b.most_of(gains))

    def cost(self, elements: np.ndarray) -> float | None:
        """The cost by the constraint that has costs, or by the first one if both have."""
        own = self.a.cost(elements)
        return self.b.cost(elements) if own is None else own


class _Jointly(State):
    def __init__(self, a: State, b: State) -> None:
        if a.costs is not None and b.costs is not None:
            raise ValueError(
                "gains can be divided by one kind of cost only: give one of the two Knapsacks "
                "rule='plain'"
            )
        self._states = a, b
        self.costs = b.costs if a.costs is None else a.costs
        self.singles = a.singles or b.singles
        self.most = min((s.most for s in (a, b) if s.most is not None), default=None)

    def safe(self) -> int:
        return min(state.safe() for state in self._states)

    def close(self, closed: np.ndarray) -> None:
        for state in self._states:
            state.close(closed)

    def add(self, elements: np.ndarray) -> None:
        for state in self._states:
            state.add(elements)


def as_constraint(budget: Any) -> Constraint:
    """The constraint that an argument means: itself, a `Count` for a number, no limit for None."""
    if isinstance(budget, Constraint):
        return budget
    return Unlimited() if budget is None else Count(budget)


def largest(gains: np.ndarray, k: int) -> float:
    """The sum of the k largest."""
    if k < len(gains):
        gains = np.partition(gains, len(gains) - k)[len(gains) - k :]
    return math.fsum(gains)


def _left(closed: np.ndarray) -> int:
    """How many candidates may be selected."""
    return len(closed) - int(np.count_nonzero(closed))


def check_enough(k: int, closed: np.ndarray, name: str) -> None:
    """Refuse a count of more elements than may be selected."""
    left = _left(closed)
    if k > left:
        raise ValueError(
            f"{name} is {k}, but only {left} of {len(closed)} candidates are neither given nor "
            "excluded"
        )
