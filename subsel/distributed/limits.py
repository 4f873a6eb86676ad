"""Which rows may be selected together, among all rows and among a part of them.

If a set is allowed, all its subsets are allowed, whichever partitions they lie in. So every
partition and every merge selects under the whole constraint. Only floors must be lowered for a part
of the rows: a partition can meet them only as far as it has rows of a group, and it keeps room for
the rest, which other partitions have.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subsel.constraints import Constraint, Count, Groups, Knapsack
from subsel.constraints.base import Both
from subsel.constraints.knapsack import written
from subsel.distributed.rows import Rows, joined


@dataclass(frozen=True)
class Limits:
    """A constraint without the numbers that belong to a row, which are in `Rows.facts`.

    Attributes
    ----------
    budget : float or None
        The largest total cost.
    at_most, at_least : ndarray of int, shape (groups,), or None
    count : int or None
        The number of rows of all groups together.
    """

    budget: Any = None
    at_most: np.ndarray | None = None
    at_least: np.ndarray | None = None
    count: int | None = None

    @classmethod
    def of(cls, constraint: Constraint) -> tuple["Limits", dict[str, np.ndarray]]:
        """The limits of a constraint on all rows, and the facts that must be known of each row."""
        facts: dict[str, np.ndarray] = {}
        limits = cls()
        parts = (constraint.a, constraint.b) if isinstance(constraint, Both) else (constraint,)
        for own in parts:
            if isinstance(own, Knapsack):
                facts["cost"] = own.costs
                limits = replace(limits, budget=own.budget)
            elif isinstance(own, Groups):
                facts["group"] = own.group.astype(np.min_scalar_type(len(own.at_most)))
                limits = replace(
                    limits, at_most=own.at_most, at_least=own.at_least, count=own.count
                )
        return limits, facts

    @property
    def only_count(self) -> bool:
        """Whether a count is the only limit."""
        return self.budget is None and self.at_most is None

    def constraint(self, rows: Rows, closed: np.ndarray, most: int) -> Constraint | None:
        """The constraint for some rows; None if none may be selected. `most`: the overall count."""
        left = int(np.count_nonzero(~closed))
        if not left:
            return None
        if self.only_count:
            return Count(min(most, left))
        some: list[Constraint] = []
        if self.budget is not None:
            costs = rows.facts["cost"]
            if written(costs[~closed].min()) > written(self.budget):
                return None
            some.append(Knapsack(costs, self.budget))
        if self.at_most is not None and self.at_least is not None:
            group = rows.facts["group"]
            left_of = np.bincount(group[~closed], minlength=len(self.at_most))
            room = np.minimum(self.at_most, left_of)
            need = np.minimum(self.at_least, room)
            count = int(room.sum())
            if self.count is not None:
                elsewhere = int((self.at_least - need).sum())
                count = min(count, self.count - elsewhere)
            if count < 1:
                return None
            names = np.unique(group).tolist()
            floors = {g: int(need[g]) for g in names} if need.any() else None
            some.append(Groups(
                group, at_most={g: int(room[g]) for g in names}, at_least=floors,
                count=count if self.budget is None else None,
            ))  # fmt: skip
        return some[0] if len(some) == 1 else some[0] & some[1]

    def completed(self, single: Rows, merged: Rows, most: int) -> Rows:
        """A partition's selection, and after it what may still be added of the merged one.

        The value of a monotone objective does not fall by this.
        """
        more = merged.take(~np.isin(merged.at, single.at))
        rows = joined([single, more])
        nothing = np.zeros(len(rows.at), bool)
        constraint = self.constraint(rows, nothing, most)
        if constraint is None:
            return single
        state = constraint.start(nothing, np.empty(0, np.int64))
        taken = list(range(len(single.at)))
        state.add(np.array(taken, np.int64))
        for element in range(len(single.at), len(rows.at)):
            closed = nothing.copy()
            state.close(closed)
            if not state.safe() or closed.all():
                break
            if not closed[element]:
                taken.append(element)
                state.add(np.array([element]))
        return rows.take(np.array(taken, np.int64))
