"""What tasks do. Each is a function of its arguments alone, so that a lost one can be run again."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from subsel.distributed.chunks import Chunk, gathered, read
from subsel.distributed.plan import Plan
from subsel.objectives import FacilityLocation
from subsel.optimizers import greedy
from subsel.sources.features import farthest
from subsel.validation import as_float_array, bad_entry, read_only


class Rows(NamedTuple):
    """Some rows of the input: where they stand in it, and their features."""

    at: np.ndarray
    features: np.ndarray

    def take(self, at: Any) -> "Rows":
        """Some of them, in the order of `at`."""
        return Rows(self.at[at], self.features[at])


def joined(parts: list[Rows]) -> Rows:
    """All of them, one part after the other."""
    return Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def spans(parts: list[Rows]) -> list[np.ndarray]:
    """Where each part's rows are once all are joined."""
    return np.split(
        np.arange(sum(len(part.at) for part in parts)),
        np.cumsum([len(part.at) for part in parts])[:-1],
    )


def by_class(classes: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """Each class that occurs, and where."""
    if classes is None:
        yield 0, slice(None)
        return
    for c in np.unique(classes):
        yield int(c), np.flatnonzero(classes == c)


def ranges(
    chunks: list[Chunk], given: dict, classes: np.ndarray | None
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """By class, the smallest and largest of each column; refuses what is not finite."""
    found = []
    for chunk, rows, own in read(chunks, given, classes):
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            i, j = np.argwhere(~np.isfinite(rows))[0]
            raise bad_entry(float(rows[i, j]), f"X[{chunk.start + i}, {j}]", chunk.place(i))
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
    """By class, the largest distance of a row to the middle."""
    largest = np.zeros(len(middles))
    for _, rows, own in read(chunks, given, classes):
        for c, at in by_class(own):
            largest[c] = max(largest[c], farthest(read_only(rows[at]), *middles[c]))
    return largest


class Found(NamedTuple):
    """What a node of the tree knows of a class, for the node above."""

    chosen: Rows  # in order of selection
    single: Rows  # the best selection of one partition, likewise
    sample: Rows  # a uniform draw from the rows below
    seen: int  # similarities


def partition(
    plan: Plan,
    number: int,
    chunks: list[Chunk] | np.ndarray,
    given: dict,
    classes: np.ndarray | None,
) -> dict[int, Found]:
    """Select from the rows of one partition, by class."""
    index = plan.rows(number)
    rows = Rows(index, gathered(chunks, given, index))
    found = {}
    for c, at in by_class(classes):
        own = rows.take(at)
        f = FacilityLocation.of(plan.similarity(c, own.features).fastest(plan.memory))
        chosen = own.take(greedy(f, min(plan.counts[c], f.n)).indices)
        sample = own.take(plan.draw(c, f.n, 0, number))
        found[c] = Found(chosen, chosen, sample, f.n_evaluations * f.n_points)
    return found


def merge(plan: Plan, place: tuple[int, int], *children: dict[int, Found]) -> dict[int, Found]:
    """Select from what was selected below, by class, for a sample of the rows below."""
    found = {}
    for c in sorted(set().union(*children)):
        below = [child[c] for child in children if c in child]
        points = joined([part.sample for part in below])
        rows = joined([part.chosen for part in below])
        rows = rows.take(np.argsort(rows.at))  # so that the lowest wins among equal gains
        f = FacilityLocation.of(plan.similarity(c, points.features, rows.features))
        chosen = rows.take(greedy(f, min(plan.counts[c], f.n)).indices)
        seen = sum(part.seen for part in below) + f.n_evaluations * f.n_points

        singles = [part.single for part in below]
        judge = plan.similarity(c, points.features, joined(singles).features)
        values = [(len(own), judge.value(judge.represent(own)[0])) for own in spans(singles)]
        single = singles[max(range(len(values)), key=values.__getitem__)]
        sample = points.take(plan.draw(c, len(points.at), *place))
        found[c] = Found(chosen, single, sample, seen)
    return found


def evaluate(
    chunks: list[Chunk],
    given: dict,
    classes: np.ndarray | None,
    judged: tuple[Plan, list[list[Rows]]],
    keep: bool,
) -> list[tuple[int, int, np.ndarray, np.ndarray, Any, Any]]:
    """Gains and sizes of each class's contenders over some rows, where these are, who got them."""
    plan, contenders = judged
    rows = gathered(chunks, given, np.arange(chunks[0].start, chunks[-1].stop))
    tallies = []
    for c, at in by_class(classes):
        rivals = contenders[c]
        source = plan.similarity(c, rows[at], joined(rivals).features)
        for rival, own in enumerate(spans(rivals)):
            search, gains = source.represent(own)
            assigned = source.assignment(search)
            sizes = np.bincount(assigned, minlength=len(own))
            kept = (at, assigned.astype(np.int32)) if keep else (slice(0), 0)
            tallies.append((c, rival, gains, sizes, *kept))
    return tallies


def assign(
    rows: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    plan: Plan,
    chosen: list[Rows],
    places: list[np.ndarray],
) -> np.ndarray:
    """For each row the position of what represents it."""
    assignment = np.empty(len(rows), np.int64)
    if len(rows):
        rows = as_float_array(rows, "X")
        for c, at in by_class(classes):
            source = plan.similarity(c, rows[at], chosen[c].features)
            search, _ = source.represent(np.arange(len(chosen[c].at)))
            assignment[at] = places[c][source.assignment(search)]
    return assignment
