"""The arguments of `select` and `greedi` that limit which rows may be selected."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

import numpy as np

from subsel import sources
from subsel.constraints import Constraint, Count, Groups, Knapsack, MinDistance
from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_host_array,
    as_scalar,
    check_budget,
    check_distinct,
    check_labels,
    check_number,
    flatter,
    portion,
)


@dataclass
class OpenRows:
    """Masks (n,) of the rows that the user has already, and of those that may be selected.

    `whole` means that the objective always gets all rows as candidates.
    """

    held: np.ndarray
    open: np.ndarray
    whole: bool = False

    @classmethod
    def of(cls, n: int, given: Any, exclude: Any, candidates: Any) -> "OpenRows":
        """Make the masks from the arguments of `select`."""
        held, shut = np.zeros(n, bool), np.zeros(n, bool)
        held[check_distinct(given, n, "given")] = True
        shut[check_distinct(exclude, n, "exclude")] = True
        if (held & shut).any():
            raise ValueError(
                f"row {np.argmax(held & shut)} must not be both in given and in exclude"
            )
        if candidates is not None:
            some = np.zeros(n, bool)
            some[check_distinct(candidates, n, "candidates")] = True
            if not some.any():
                raise ValueError("candidates must not be empty")
            shut |= ~some
        return cls(held, ~(held | shut))

    def beside(self, count: int) -> "OpenRows":
        """The same rows, followed by this many further rows that the user has already."""
        held, open_ = np.ones(count, bool), np.zeros(count, bool)
        return OpenRows(np.append(self.held, held), np.append(self.open, open_))

    def part(self, stops: dict[str, float | None]) -> np.ndarray:
        """The rows that the objective gets as candidates, ascending: all, or the allowed ones."""
        few = np.flatnonzero(self.held | self.open)
        # `coverage` is a fraction of F of all rows. Also, leaving out a few rows saves no time.
        whole = self.whole or stops.get("coverage") is not None
        whole = whole or 2 * len(few) > len(self.held)
        return np.arange(len(self.held)) if whole else few

    def check_classes(self, members: list[np.ndarray], counts: list[int]) -> None:
        """Refuse classes with too few rows that may be selected."""
        if self.open.all():
            return  # a budget is at most the size of its class
        for own, k in zip(members, counts, strict=True):
            if (left := int(self.open[own].sum())) < k:
                raise ValueError(
                    f"budget asks for {k} rows of the class of row {own[0]}, but only {left} of "
                    f"its {len(own)} rows are candidates, and neither given nor excluded"
                )

    def of_class(self, own: np.ndarray) -> "OpenRows":
        """The same for some of the rows."""
        return OpenRows(self.held[own], self.open[own])


def only_for_classes(objective: str, refused: dict[str, Any]) -> None:
    """Refuse arguments that cannot be combined with labels."""
    cure = "for one selection of all rows, pass the classes as groups"
    if objective != "facility_location":
        raise ValueError(
            f"labels need the objective 'facility_location', not {objective!r}: {cure}"
        )
    for name, value in refused.items():
        if value is not None:
            raise ValueError(
                f"labels and {name} cannot be combined, because each class has a selection and a "
                f"budget of its own: {cure}"
            )


def constraint_of(
    X: ArrayLike, others: np.ndarray | None, rows: OpenRows, budget: Any, metric: Any,
    rule: str, stops: dict[str, float | None], *, costs: Any, groups: Any, at_most: Any,
    at_least: Any, min_distance: Any,
) -> Constraint | None:  # fmt: skip
    """The constraint on `OpenRows.part` by the arguments of `select`; None if a stop decides.

    `others` are features of rows that the user has already and that are not in X.
    """
    n, part = len(rows.open) - (0 if others is None else len(others)), rows.part(stops)
    known = np.where(part < n, part, 0)  # the costs and groups of these other rows are never used
    some: list[Constraint] = []
    if isinstance(budget, Constraint):
        raise TypeError(
            f"budget must be a number, not {budget}: pass the arguments of the constraint (costs, "
            "groups, at_most, at_least, min_distance), or give the constraint to subsel.greedy"
        )
    if costs is not None:
        if budget is None:
            raise ValueError("costs need a budget: the largest total cost of the selected rows")
        own = as_host_array(costs, "costs")
        if own.shape != (n,):
            raise ValueError(
                f"costs must have one entry per row of X: ({n},), not "
                f"{own.shape}{flatter(own.shape, 'costs')}"
            )
        some.append(Knapsack(own[known], budget, rule=rule))
    count = None
    if costs is None and budget is not None:
        count = check_budget(budget, n, fraction=True)
        if 0 < (left := np.count_nonzero(rows.open)) < count:
            raise ValueError(
                f"budget is {count}, but only {left} of {n} rows are candidates, and neither given "
                "nor excluded"
            )
    if groups is None:
        if not at_most is at_least is None:
            raise ValueError(
                "at_most and at_least limit each group, but groups is None: give groups, too"
            )
    else:
        if at_most is at_least is None:
            raise ValueError(
                "groups need at_most or at_least: give one of these, or leave groups out"
            )
        if at_least is not None and count is None:
            raise ValueError(
                "at_least needs a budget that is a count, so that room can be reserved"
            )
        own = check_labels(groups, n, "groups")
        some.append(Groups(own[known], at_most=at_most, at_least=at_least, count=count))
    if min_distance is not None:
        if metric == "precomputed":
            raise ValueError(
                "min_distance needs features, but X has distances (metric='precomputed'): use "
                "subsel.constraints.MinDistance with subsel.greedy"
            )
        check_number(min_distance, "min_distance", 0)
        distance: Any = metric if metric in sources.DISTANCES else "euclidean"
        own = X.tocsr() if hasattr(X, "tocsr") else as_float_array(X, "X")
        own = own if others is None else np.concatenate([own, others])
        some.append(MinDistance(own[part], min_distance, metric=distance))
    if count is not None and groups is None:
        some.append(Count(count))
    if not some and all(stop is None for stop in stops.values()):
        raise TypeError(
            f"budget must be a count in 1..{n} or a fraction in (0, 1), not {budget}; it can be "
            "left out only where target, coverage, min_distance or at_most says when to stop"
        )
    return reduce(and_, some) if some else None


def budgets(budget: Any, labels: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
    """Rows of each class that occurs (ascending, classes in sorted order), and its count."""
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    budget = as_scalar(budget)
    if isinstance(budget, Mapping):
        names = classes.tolist()
        if wrong := set(names) ^ set(budget):
            raise ValueError(
                "budget must have a count for each label and for nothing else; missing or unknown: "
                f"{sorted(wrong, key=repr)[:5]}"
            )
        counts = [
            check_budget(budget[name], int(size), name=f"budget[{name!r}]")
            for name, size in zip(names, sizes, strict=True)
        ]
    else:
        count = check_budget(budget, len(labels), fraction=True)
        if isinstance(budget, float | np.floating):
            by_size = {size: portion(budget, size) for size in set(sizes.tolist())}
            counts = [by_size[size] for size in sizes.tolist()]
        else:
            counts = apportion(count, sizes).tolist()
    return members, counts


def apportion(budget: int, sizes: np.ndarray) -> np.ndarray:
    """Share out a count in proportion to sizes (largest remainder), each from 1 to its size.

    Parameters
    ----------
    budget : int
        In len(sizes)..sum(sizes).
    sizes : ndarray of int, shape (c,)

    Returns
    -------
    ndarray of int64, shape (c,)
        They sum to `budget`. Among equal remainders the first wins.
    """
    if budget < len(sizes):
        raise ValueError(
            f"budget must be at least one for each of the {len(sizes)} classes, not {budget}"
        )
    exact, total = budget * sizes.astype(np.int64), int(sizes.sum())
    counts = np.maximum(exact // total, 1)
    missing = budget - int(counts.sum())
    # The class whose count is furthest below its exact share gets the next element, or the one
    # whose count is furthest above it loses one.
    step = 1 if missing > 0 else -1
    claims = step * (exact - counts * total)
    queue = [
        (-claim, c)
        for c, claim in enumerate(claims.tolist())
        if (counts[c] < sizes[c] if step > 0 else counts[c] > 1)
    ]
    heapq.heapify(queue)
    for _ in range(abs(missing)):
        behind, c = heapq.heappop(queue)
        counts[c] += step
        if counts[c] < sizes[c] if step > 0 else counts[c] > 1:
            heapq.heappush(queue, (behind + total, c))
    return counts
