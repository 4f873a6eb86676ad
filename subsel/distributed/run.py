"""One distributed selection: the tasks of each step, from the first pass over the rows on."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from subsel.distributed import tasks
from subsel.distributed.chunks import Piece, Source
from subsel.distributed.engines import Cluster, Task, Threads
from subsel.distributed.plan import Plan
from subsel.distributed.rows import Rows, by_class, joined
from subsel.progress import Progress
from subsel.selection import Selection, by_falling_gain
from subsel.sources.scale import Scale, choose_scale
from subsel.sources.scale import spread as middle_and_reach


@dataclass
class Run:
    """One distributed selection, whose steps run one after another."""

    engine: Threads | Cluster
    source: Source
    plan: Plan
    classes: np.ndarray | None
    facts: np.ndarray  # of each row, see `Rows`
    given: np.ndarray  # rows that are held already
    progress: bool

    def selection(self) -> Selection:
        """Run all steps and return the result."""
        plan = self.plan
        self.pieces = self.source.pieces(plan.max_rows)
        self.drawn = plan.drawn_rows()
        passes = 1 if not plan.goal.sampled else 2 if plan.metric == "cosine" else 3
        total = passes * len(self.pieces) + len(plan.tree())
        total += sum(self._having(rows).size for rows in (self.given, self.drawn))
        with (
            self.engine,
            Progress(
                desc="greedi", unit="task", total=total, disable=not self.progress
            ) as self.bar,
        ):
            plan.scales = self._scales()
            plan.held = self._held()
            plan.drawn = self._features(self.drawn)
            contenders, seen = self._search()
            return self._judged(contenders, seen)

    def _results(self, todo: Iterable[Task]) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Place and result of each wanted task, as tasks finish; tasks come after those they need.

        Tasks start in their order, only as many at a time as the engine can use, and results are
        released once all tasks that need them are done.
        """
        coming = iter(todo)
        blocked: list[Task] = []
        running: dict[Any, Task] = {}
        done: dict[tuple[int, ...], Any] = {}
        while True:
            slots = self.engine.slots()
            while len(running) < slots:
                ready = next((task for task in blocked if done.keys() >= set(task.below)), None)
                if ready is not None:
                    blocked.remove(ready)
                elif (task := next(coming, None)) is None:
                    break
                elif done.keys() >= set(task.below):
                    ready = task
                else:
                    blocked.append(task)
                    continue
                below = [done.pop(place) for place in ready.below]
                running[self.engine.start(ready, below)] = ready
            if not running:
                return
            for future in self.engine.finished(list(running)):
                task = running.pop(future)
                self.bar.update()
                if task.wanted:
                    yield task.place, future.result()
                else:
                    done[task.place] = future

    def _over_rows(self, function: Callable, *arguments: Any) -> Iterator[tuple[Piece, Any]]:
        """Each piece of the rows, with the result of the function for it."""

        def todo() -> Iterator[Task]:
            for number, piece in enumerate(self.pieces):
                classes = None if self.classes is None else self.classes[piece.start : piece.stop]
                yield Task((number,), function, (piece.chunks, piece.given, classes, *arguments))

        for (number,), result in self._results(todo()):
            yield self.pieces[number], result

    def _scales(self) -> list[Scale]:
        """A scale for each class, the same as if all rows of the class were in one array."""
        plan, source = self.plan, self.source
        low = np.full((len(plan.sizes), source.d), np.inf, source.dtype)
        high = -low
        for _, ranges in self._over_rows(tasks.ranges, plan.goal):
            for c, least, largest in ranges:
                np.minimum(low[c], least, out=low[c])
                np.maximum(high[c], largest, out=high[c])
        if not plan.goal.sampled:
            return []
        radius = np.zeros(len(plan.sizes))
        if plan.metric != "cosine":
            middles = [middle_and_reach(plan.metric, *pair) for pair in zip(low, high, strict=True)]
            for _, part in self._over_rows(tasks.radius, self.engine.shared(middles)):
                np.maximum(radius, part, out=radius)
        corners = zip(low, high, radius.tolist(), strict=True)
        return [choose_scale(plan.metric, None, *corner) for corner in corners]

    def _having(self, wanted: np.ndarray) -> np.ndarray:
        """The pieces that have any of the wanted rows (ascending)."""
        stops = np.array([piece.stop for piece in self.pieces])
        return np.unique(np.searchsorted(stops, wanted, side="right"))

    def _features(self, wanted: np.ndarray) -> np.ndarray:
        """The features of some rows (ascending)."""

        def todo() -> Iterator[Task]:
            for number in self._having(wanted).tolist():
                piece = self.pieces[number]
                yield Task((number,), tasks.some, (piece.chunks, piece.given, None, wanted))

        parts = dict(self._results(todo()))
        nothing = np.empty((0, self.source.d), self.source.dtype)
        return np.concatenate([nothing, *(parts[place] for place in sorted(parts))])

    def _held(self) -> list[Rows]:
        """For each class the given rows; empty if there are none."""
        if not len(self.given):
            return []
        rows = Rows(self.given, self._features(self.given), self.facts[self.given])
        classes = np.zeros(len(self.given), int)
        if self.classes is not None:
            classes = self.classes[self.given]
        return [rows.take(classes == c) for c in range(len(self.plan.counts))]

    def _search(self) -> tuple[list[list[Rows]], int]:
        """For each class the root's selection and the best partition's; the similarities seen."""
        plan, tree = self.plan, self.plan.tree()
        shared = self.engine.shared(plan)

        def todo() -> Iterator[Task]:
            for node in tree:
                place = (node.level, node.number)
                root = node is tree[-1]
                if node.children:
                    below = tuple((child.level, child.number) for child in node.children)
                    yield Task(place, tasks.merge, (shared, place), below, root, root)
                else:
                    rows, given = self.source.of_partition(plan, node.number)
                    classes = None
                    if self.classes is not None:
                        classes = self.classes[plan.rows(node.number)]
                    facts = self.facts[plan.rows(node.number)]
                    arguments = shared, node.number, rows, given, classes, facts
                    yield Task(place, tasks.partition, arguments, (), root, root)

        ((_, root),) = self._results(todo())
        contenders = []
        for c, count in enumerate(plan.counts):
            merged, single = root[c].chosen, root[c].single
            if plan.limits.only_count:
                same = len(single.at) < count
            else:
                single, same = plan.limits.completed(single, merged, count), False
            same = same or np.array_equal(single.at, merged.at)
            contenders.append([merged] if same else [merged, single])
        return contenders, sum(found.seen for found in root.values())

    def _judged(self, contenders: list[list[Rows]], seen: int) -> Selection:
        """For each class the selection with the larger F over all rows, and its evaluation."""
        plan, source = self.plan, self.source
        gains, sizes, assigned = self._evaluated(contenders)
        best = [plan.goal.first_of_best([won.sum() for won in rivals]) for rivals in gains]
        chosen = [rivals[b] for rivals, b in zip(contenders, best, strict=True)]
        judged = [rivals[b] for rivals, b in zip(gains, best, strict=True)]
        pairs = [
            (some, len(some) - len(rows.at)) for some, rows in zip(judged, chosen, strict=True)
        ]
        base = math.fsum(gain for some, given in pairs for gain in some[:given])
        won = [some[given:] for some, given in pairs]
        # Classes are merged by gain, each in its own order even where a gain rises.
        ranking, places = by_falling_gain([np.minimum.accumulate(some) for some in won])
        all_gains = np.concatenate(won)[ranking]
        assignment: Any = None
        if assigned is not None:
            assignment = np.empty(plan.n, np.int64)
            for c, at in by_class(self.classes):
                # The last entry stands for -1, which marks a row that a given row represents.
                assignment[at] = np.append(places[c], -1)[assigned[best[c]][at]]
        elif plan.goal.plain:
            assignment = _lazy_assignment(source.lazy, plan, chosen, places, self.classes)
        counted = np.concatenate([some[b] for some, b in zip(sizes, best, strict=True)])
        value = math.fsum([base, *all_gains])
        values = base + np.cumsum(all_gains)
        values[-1:] = value
        return Selection(
            indices=np.concatenate([rows.at for rows in chosen])[ranking],
            gains=all_gains,
            value=value,
            n_evaluations=-(-seen // plan.n),
            assignment=assignment,
            sizes=counted[ranking] if plan.goal.plain else None,
            path="features",
            values=values,
        )

    def _evaluated(
        self, contenders: list[list[Rows]]
    ) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], np.ndarray | None]:
        """The evaluation of each contender over all rows.

        The gains of the given rows, then of the contender; the number of rows that each element
        represents; and, for facility location on rows in this process, the element of each
        contender that represents each row.
        """
        plan = self.plan
        held = [len(rows.at) for rows in plan.held] or [0] * len(plan.counts)
        gains = [
            [np.zeros(given + len(rows.at)) for rows in rivals]
            for rivals, given in zip(contenders, held, strict=True)
        ]
        sizes = [[np.zeros(len(rows.at), np.int64) for rows in rivals] for rivals in contenders]
        over, alone = plan.goal.parts()
        if alone.terms:
            for rival, rows in enumerate(contenders[0]):
                own = joined([*plan.held, rows])
                f = alone.objective(plan, 0, own)
                gains[0][rival] += tasks.worth(f, np.arange(len(own.at)))
        if not over.terms:
            return gains, sizes, None
        keep = self.source.lazy is None and plan.goal.plain
        assigned = np.zeros((2, plan.n if keep else 0), np.int32)
        shared = self.engine.shared((plan, contenders))
        results = self._over_rows(tasks.evaluate, shared, keep)
        if not plan.goal.plain:  # whose sums are exact in any order
            results = iter(sorted(results, key=lambda result: result[0].start))
        for piece, tallies in results:
            for c, rival, won, taken, at, positions in tallies:
                gains[c][rival] += won
                sizes[c][rival] += taken
                if keep:
                    assigned[rival, piece.start : piece.stop][at] = positions
        return gains, sizes, assigned if keep else None


def _lazy_assignment(
    X: Any,
    plan: Plan,
    chosen: list[Rows],
    places: list[np.ndarray],
    classes: np.ndarray | None,
) -> Any:
    """A dask array in the chunks of X: for each row the position of its representative."""
    import dask.array as da

    arrays = [X, "ij"]
    if classes is not None:
        arrays += [da.from_array(classes, chunks=(X.chunks[0],)), "i"]
    return da.blockwise(
        tasks.assign, "i", *arrays, plan=plan, chosen=chosen, places=places,
        concatenate=True, dtype=np.int64, meta=np.empty(0, np.int64),
    )  # fmt: skip
