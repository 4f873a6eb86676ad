"""A budget of costs: tokens, bytes, minutes of labelling."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from subsel.constraints.base import Constraint, State
from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_scalar,
    check_choice,
    check_number,
    flatter,
)

RULES = ("ratio", "plain", "best")


class Knapsack(Constraint):
    """Limit the sum of the costs of all selected elements.

    Parameters
    ----------
    costs : array_like, shape (n,)
        The cost of each candidate: positive, finite.
    budget : float
        The largest total cost of the selected elements. `given` elements cost nothing.
    rule : {"best", "ratio", "plain"}, default "best"
        How an optimizer compares elements that still fit:

        - ``"ratio"``: by gain / cost.
        - ``"plain"``: by gain alone.
        - ``"best"``: by gain / cost. In addition, at each prefix of the selection the element of
          largest gain that still fits is tried as the last one, and the best set of all is
          returned. Only `greedy` and `lazy_greedy` support this.

    Raises
    ------
    ValueError, TypeError
        If a cost (named in the message) or the budget is not a positive number, the number of costs
        differs from the number of candidates, or no element that may be selected fits the budget.

    Notes
    -----
    Sums are exact for the costs as written in decimal: three times 0.1 fits a budget of 0.3,
    although it does not in floating point. A sum that equals the budget fits.

    For a monotone submodular F, greedy by ``"best"`` reaches at least 1/2 of the largest F of any
    set within the budget (Yaroslavtsev, Zhou, Avdiukhin 2020, "Greedy+Max"). The other two rules
    have no such guarantee. Trying single elements costs little: bounds from the gain / cost ratios
    rule out nearly all of them, except at the last few prefixes.

    If a target, coverage or min_gain ends the search early, single elements are not tried at that
    point.

    References
    ----------
    Yaroslavtsev, Zhou, Avdiukhin (2020), "'Bring your own greedy'+max: near-optimal
    1/2-approximations for submodular knapsack".

    Examples
    --------
    >>> import subsel
    >>> S = [[1.0, 0.9, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.8]]
    >>> within = subsel.constraints.Knapsack([1, 3, 1], 2)
    >>> subsel.greedy(S, within).indices
    array([0, 2])
    """

    def __init__(self, costs: ArrayLike, budget: float, *, rule: str = "best") -> None:
        self.costs = _checked(costs)
        self.budget = check_number(budget, "budget", 0)
        self.rule = check_choice(rule, RULES, "rule")

    def __repr__(self) -> str:
        return f"Knapsack({len(self.costs)} costs, {self.budget}, rule={self.rule!r})"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        if len(self.costs) != len(closed):
            raise ValueError(
                f"costs must have one entry for each of {len(closed)} candidates, not "
                f"{len(self.costs)}"
            )
        left = self.costs[~closed]
        if left.size and written(left.min()) > written(self.budget):
            raise ValueError(
                f"budget is {self.budget}, less than the smallest cost, {left.min()}, of what may "
                "be selected"
            )
        return _Filling(self, closed)

    def most_of(self, gains: np.ndarray) -> float:
        """The gains of what fits by gain / cost, plus a fraction of the next element."""
        some = np.flatnonzero((gains > 0) & (self.costs <= _at_most(written(self.budget))))
        gains, costs = gains[some], self.costs[some]
        order = np.argsort(-gains / costs, kind="stable")
        filled = np.cumsum(costs[order])
        budget = float(self.budget)
        whole = int(np.searchsorted(filled, budget, side="right"))
        total = math.fsum(gains[order[:whole]])
        if whole < len(order):
            last = order[whole]
            room = budget - (filled[whole - 1] if whole else 0.0)
            total += gains[last] * min(1.0, room / costs[last])
        return total

    def cost(self, elements: np.ndarray) -> float:
        """The sum of the elements' costs."""
        return float(sum(map(written, self.costs[elements]), Fraction()))


class _Filling(State):
    def __init__(self, knapsack: Knapsack, closed: np.ndarray) -> None:
        self._costs, self._left = knapsack.costs, written(knapsack.budget)
        self._safe = 1
        self.costs = None if knapsack.rule == "plain" else knapsack.costs
        self.singles = knapsack.rule == "best"
        cheapest = np.cumsum(np.sort(self._costs[~closed]))
        self.most = int(np.searchsorted(cheapest, float(self._left) * (1 + 1e-9), side="right"))

    def safe(self) -> int:
        return self._safe

    def close(self, closed: np.ndarray) -> None:
        closed |= self._costs > _at_most(self._left)
        dearest = self._costs.max(where=~closed, initial=0)
        self._safe = int(self._left / written(dearest)) if dearest else 1

    def add(self, elements: np.ndarray) -> None:
        self._left -= sum(map(written, self._costs[elements]), Fraction())


def written(number: Any) -> Fraction:
    """The exact value of a number as written in decimal: 0.1 is 1/10."""
    if isinstance(number, float | np.floating):
        return Fraction(str(number))
    return Fraction(number if isinstance(number, Fraction | Decimal) else int(number))


def _at_most(limit: Fraction) -> float:
    """The largest float whose decimal form does not exceed a limit."""
    nearest = float(limit)
    return nearest if written(nearest) <= limit else math.nextafter(nearest, -math.inf)


def _checked(costs: ArrayLike) -> np.ndarray:
    """Checked costs in float64, with their decimal values: 0.1 in float32 becomes 0.1."""
    array = as_float_array(costs, "costs")
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"costs must have one entry for each candidate, not shape "
            f"{array.shape}{flatter(array.shape, 'costs')}"
        )
    bad = np.flatnonzero(~((array > 0) & (array < np.inf)))
    if bad.size:
        raise ValueError(f"costs[{bad[0]}] is {array[bad[0]]}; costs must be positive and finite")
    if array.dtype == np.float32 and (array != np.rint(array)).any():
        array = array.astype(str)
    return np.array(as_scalar(array), np.float64)
