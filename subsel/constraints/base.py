"""What an optimizer needs of a constraint, and the simplest one, a count."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from subsel.validation import check_budget


class State(ABC):
    """A selection as a constraint sees it while it grows.

    Attributes
    ----------
    costs : ndarray of float64, shape (n,), or None
        If given, greedy compares gains divided by these.
    most : int or None
        How many elements can be selected at most, where that is known; for the progress bar.
    """

    costs: np.ndarray | None = None
    most: int | None = None

    @abstractmethod
    def safe(self) -> int:
        """How many elements may be added, whichever they are, before `close` has to be asked again.

        0 means that the selection is full. It need not be the most: 1 is always right while
        anything may be added.
        """

    @abstractmethod
    def close(self, closed: np.ndarray) -> None:
        """Mark in ``closed`` (n,), bool, what may not be added now or ever again."""

    @abstractmethod
    def add(self, elements: np.ndarray) -> None:
        """Elements were selected, in this order; not more than `safe` said."""


class Constraint(ABC):
    """Which sets may be selected: with a set, all its subsets."""

    @abstractmethod
    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection, beside the elements that are held already.

        Parameters
        ----------
        closed : ndarray of bool, shape (n,)
            Candidates that may not be selected: those given and those excluded.
        given : ndarray of int64
            Elements held from the start. They are not selected, and use up no count and no cost.

        Raises
        ------
        ValueError, TypeError
            If the constraint does not fit n candidates, or cannot be met.
        """


class Count(Constraint):
    """Exactly k elements.

    Parameters
    ----------
    k : int
        In 1..n.

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
        left = len(closed) - int(np.count_nonzero(closed))
        if k > left:
            raise ValueError(
                f"budget is {k}, but only {left} of {len(closed)} candidates are neither given nor "
                "excluded"
            )
        return _Counting(k)


class _Counting(State):
    def __init__(self, most: int) -> None:
        self._left = self.most = most

    def safe(self) -> int:
        return self._left

    def close(self, closed: np.ndarray) -> None:
        pass

    def add(self, elements: np.ndarray) -> None:
        self._left -= len(elements)


class Unlimited(Constraint):
    """As many elements as there are: a target decides."""

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        return _Counting(len(closed))


def as_constraint(budget: Any) -> Constraint:
    """A constraint as it is; a number as a count; None as no limit."""
    if isinstance(budget, Constraint):
        return budget
    return Unlimited() if budget is None else Count(budget)
