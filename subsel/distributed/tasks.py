"""The tasks. Each is a function of its arguments alone, so that a lost task can be run again."""

from typing import Any, NamedTuple

import numpy as np

from subsel.distributed.chunks import Chunk, gathered, read
from subsel.distributed.goal import Goal
from subsel.distributed.plan import Plan
from subsel.distributed.rows import Rows, by_class, joined, spans
from subsel.objectives import Objective
from subsel.optimizers import lazy_greedy
from subsel.selection import sizes_of
from subsel.sources.features import farthest
from subsel.validation import as_float_array, bad_entry, read_only


def ranges(
    chunks: list[Chunk], given: dict, classes: np.ndarray | None, goal: Goal
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """By class, the range of each column. Refuses entries that the goal does not allow."""
    found = []
    for chunk, rows, own in read(chunks, given, classes):
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            i, j = np.argwhere(~np.isfinite(rows))[0]
            raise bad_entry(float(rows[i, j]), f"X[{chunk.start + i}, {j}]", chunk.place(i))
        if wrong := goal.first_wrong(rows):
            i, j, wanted = wrong
            where = f"X[{chunk.start + i}, {j}] is {rows[i, j]}{chunk.place(i)}"
            raise ValueError(f"{where}; {wanted}")
        if own is None:
            found.append((0, low, high))
        else:
            for c, at in by_class(own):
                found.append((c, rows[at].min(axis=0), rows[at].max(axis=0)))
    return found


def radius(
    chunks: list[Chunk],
    given: dict,
    classes: np.ndarray | None,
    middles: list[tuple[np.ndarray, float]],
) -> np.ndarray:
    """By class, the largest distance of a row to the middle of the ranges."""
    largest = np.zeros(len(middles))
    for _, rows, own in read(chunks, given, classes):
        for c, at in by_class(own):
            largest[c] = max(largest[c], farthest(read_only(rows[at]), *middles[c]))
    return largest


def some(
    chunks: list[Chunk], given: dict, classes: np.ndarray | None, wanted: np.ndarray
) -> np.ndarray:
    """The features of the wanted rows (ascending) that are in this piece."""
    inside = (wanted >= chunks[0].start) & (wanted < chunks[-1].stop)
    return gathered(chunks, given, wanted[inside])


class Found(NamedTuple):
    """What a node of the tree passes on to its parent about a class."""

    chosen: Rows  # in order of selection
    single: Rows  # the best selection of one partition, likewise
    sample: Rows  # a uniform draw from the rows below
    seen: int  # similarities


def selected(plan: Plan, c: int, points: Rows, candidates: Rows | None = None) -> tuple[Rows, int]:
    """Select rows of a class from candidates (None: the points); also the similarities computed."""
    own = points if candidates is None else candidates
    closed, given = own.closed, np.empty(0, np.int64)
    if held := held_of(plan, c):
        own = candidates = joined([own.take(~closed), *held])
        given = np.arange(len(own.at) - len(held[0].at), len(own.at))
        closed = np.zeros(len(own.at), bool)
        closed[given] = True
    constraint = plan.limits.constraint(own, closed, plan.counts[c])
    if constraint is None:
        return own.take(given[:0]), 0
    judges = len(points.at) if plan.goal.sampled else plan.n
    f = plan.goal.objective(plan, c, points, candidates, _scale(plan, c, points))
    exclude = None
    if len(given) == 0 and closed.any():
        exclude = closed
    chosen = lazy_greedy(f, constraint, given=given, exclude=exclude)
    return own.take(chosen.indices), chosen.n_evaluations * judges


def held_of(plan: Plan, c: int) -> list[Rows]:
    """The given rows of a class, or None."""
    return [plan.held[c]] if plan.held and len(plan.held[c].at) else []


def _scale(plan: Plan, c: int, points: Rows) -> float:
    """The factor from a sum over some points to a sum over all rows of the class."""
    return plan.sizes[c] / max(1, len(points.at))


def partition(
    plan: Plan,
    number: int,
    chunks: list[Chunk] | np.ndarray,
    given: dict,
    classes: np.ndarray | None,
    facts: np.ndarray,
) -> dict[int, Found]:
    """Select from the rows of one partition, by class."""
    index = plan.rows(number)
    rows = Rows(index, gathered(chunks, given, index), facts)
    found = {}
    for c, at in by_class(classes):
        own = rows.take(at)
        chosen, seen = selected(plan, c, own)
        sample = own.take(plan.draw(c, len(own.at), 0, number))
        found[c] = Found(chosen, chosen, sample, seen)
    return found


def merge(plan: Plan, place: tuple[int, int], *children: dict[int, Found]) -> dict[int, Found]:
    """Select, by class, among the rows that the children selected, evaluated on their samples."""
    found = {}
    for c in sorted(set().union(*children)):
        below = [child[c] for child in children if c in child]
        points = joined([part.sample for part in below])
        rows = joined([part.chosen for part in below])
        rows = rows.take(np.argsort(rows.at))  # so that the lowest wins among equal gains
        chosen, seen = selected(plan, c, points, rows)
        single = _best(plan, c, points, [part.single for part in below])
        sample = points.take(plan.draw(c, len(points.at), *place))
        found[c] = Found(chosen, single, sample, sum((part.seen for part in below), seen))
    return found


def _best(plan: Plan, c: int, points: Rows, singles: list[Rows]) -> Rows:
    """The best of several selections; under a count, the best of the largest ones."""
    held = held_of(plan, c)
    rows = joined([*singles, *held])
    if not len(rows.at):
        return singles[0]
    f = plan.goal.objective(plan, c, points, rows, _scale(plan, c, points))
    given = np.arange(len(rows.at))[sum(len(single.at) for single in singles) :]
    values = [f.value(np.append(given, own)) for own in spans(singles)]
    if plan.limits.only_count:
        most = max(len(single.at) for single in singles)
        pairs = zip(values, singles, strict=True)
        values = [v if len(single.at) == most else -np.inf for v, single in pairs]
    return singles[plan.goal.first_of_best(values)]


def worth(f: Objective, elements: np.ndarray) -> np.ndarray:
    """The gain of each element when they are added one by one."""
    gains = np.empty(len(elements))
    f.reset()
    for step, element in enumerate(elements):
        gains[step] = f.gains(np.array([element]))[0]
        f.add(int(element))
    return gains


def evaluate(
    chunks: list[Chunk],
    given: dict,
    classes: np.ndarray | None,
    judged: tuple[Plan, list[list[Rows]]],
    keep: bool,
) -> list[tuple[int, int, np.ndarray, np.ndarray, Any, Any]]:
    """Evaluate the contenders on some rows: a tuple for each class and contender.

    A tuple holds the class, the number of the contender, the gains (of the given rows, then of the
    contender), the sizes of the contender's elements, and the positions and assignment of the rows
    of the class, or placeholders where these are not needed.
    """
    plan, contenders = judged
    features = gathered(chunks, given, np.arange(chunks[0].start, chunks[-1].stop))
    tallies = []
    for c, at in by_class(classes):
        rivals, held = contenders[c], held_of(plan, c)
        rows = joined([*held, *rivals])
        first, *own_of = spans([*(held or [rows.take(slice(0))]), *rivals])
        if not plan.goal.plain:
            points = Rows(np.empty(0), features[at], np.empty(0))
            f = plan.goal.parts()[0].objective(plan, c, points, rows)
            for rival, own in enumerate(own_of):
                gains = worth(f, np.append(first, own))
                tallies.append((c, rival, gains, np.zeros(len(own), np.int64), slice(0), 0))
            continue
        source = plan.similarity(c, features[at], rows.features)
        for rival, own in enumerate(own_of):
            search, gains = source.represent(np.append(first, own))
            assigned = _to_own(source.assignment(search), len(first))
            sizes = sizes_of(assigned, len(own))
            kept = (at, assigned.astype(np.int32)) if keep else (slice(0), 0)
            tallies.append((c, rival, gains, sizes, *kept))
    return tallies


def _to_own(assigned: np.ndarray, given: int) -> np.ndarray:
    """Positions among the selected elements instead of among all; -1 for a given element."""
    return np.maximum(assigned - given, -1)


def assign(
    rows: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    plan: Plan,
    chosen: list[Rows],
    places: list[np.ndarray],
) -> np.ndarray:
    """For each row the position of its representative."""
    assignment = np.empty(len(rows), np.int64)
    if len(rows):
        rows = as_float_array(rows, "X")
        for c, at in by_class(classes):
            held = held_of(plan, c)
            source = plan.similarity(c, rows[at], joined([*held, chosen[c]]).features)
            search, _ = source.represent(np.arange(source.n))
            given = source.n - len(chosen[c].at)
            # The last entry stands for -1, a row that what is given represents.
            assignment[at] = np.append(places[c], -1)[_to_own(source.assignment(search), given)]
    return assignment
