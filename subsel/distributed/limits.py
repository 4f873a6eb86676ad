"""What may be selected together, of all rows and of some.

A set that is allowed may lie in one partition or in several: each of its parts is allowed too. So
every partition, and every merge, selects under the whole constraint. What has to be cut down for a
part of the rows is floors: a partition can meet them only as far as it has rows of a group, and
keeps room for the rest, which another partition has.
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
    """A constraint, without what it knows of each row, which the rows' facts say.

    Attributes
    ----------
    budget : float or None
        Of costs.
    at_most, at_least : ndarray of int, shape (groups,), or None
    count : int or None
        Of all groups.
    """

    budget: Any = None
    at_most: np.ndarray | None = None
    at_least: np.ndarray | None = None
    count: int | None = None

    @classmethod
    def of(cls, constraint: Constraint) -> tuple["Limits", dict[str, np.ndarray]]:
        """From a constraint on all rows; with what has to be known of each row."""
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
        """Whether a count is all there is."""
        return self.budget is None and self.at_most is None

    def constraint(self, rows: Rows, closed: np.ndarray, most: int) -> Constraint | None:
        """What may be selected of some rows; None if nothing may. `most` is the count of all."""
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
        """A partition's selection, and after it what still may follow of the merged one.

        By a monotone objective it is worth no less.
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
