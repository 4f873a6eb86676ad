"""One selection: the tasks of each step, from the first pass over the rows to the last."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from subsel.distributed import tasks
from subsel.distributed.chunks import Piece, Source
from subsel.distributed.engines import Cluster, Task, Threads
from subsel.distributed.plan import Plan
from subsel.distributed.tasks import Rows, by_class
from subsel.progress import Progress
from subsel.selection import Selection, by_falling_gain
from subsel.sources.scale import Scale, choose_scale
from subsel.sources.scale import spread as middle_and_reach


@dataclass
class Run:
    """One selection: its steps, which run one after the other."""

    engine: Threads | Cluster
    source: Source
    plan: Plan
    classes: np.ndarray | None
    progress: bool

    def selection(self) -> Selection:
        """All steps."""
        plan = self.plan
        self.pieces = self.source.pieces(plan.max_rows)
        passes = 2 if plan.metric == "cosine" else 3
        total = passes * len(self.pieces) + len(plan.tree())
        with (
            self.engine,
            Progress(
                desc="greedi", unit="task", total=total, disable=not self.progress
            ) as self.bar,
        ):
            plan.scales = self._scales()
            contenders, seen = self._search()
            return self._judged(contenders, seen)

    def _results(self, todo: Iterable[Task]) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Places and results of the wanted tasks as they are done; tasks come after what they take.

        No more tasks are started than the engine has use for, the first first, and what a task has
        taken is let go.
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
        """Each piece of the rows, and what the function makes of it."""

        def todo() -> Iterator[Task]:
            for number, piece in enumerate(self.pieces):
                classes = None if self.classes is None else self.classes[piece.start : piece.stop]
                yield Task((number,), function, (piece.chunks, piece.given, classes, *arguments))

        for (number,), result in self._results(todo()):
            yield self.pieces[number], result

    def _scales(self) -> list[Scale]:
        """A scale for each class, as if all its rows were in one place."""
        plan, source = self.plan, self.source
        low = np.full((len(plan.sizes), source.d), np.inf, source.dtype)
        high = -low
        for _, ranges in self._over_rows(tasks.ranges):
            for c, least, largest in ranges:
                np.minimum(low[c], least, out=low[c])
                np.maximum(high[c], largest, out=high[c])
        radius = np.zeros(len(plan.sizes))
        if plan.metric != "cosine":
            middles = [middle_and_reach(plan.metric, *pair) for pair in zip(low, high, strict=True)]
            for _, part in self._over_rows(tasks.radius, self.engine.shared(middles)):
                np.maximum(radius, part, out=radius)
        corners = zip(low, high, radius.tolist(), strict=True)
        return [choose_scale(plan.metric, None, *corner) for corner in corners]

    def _search(self) -> tuple[list[list[Rows]], int]:
        """For each class the root's selection, and a single partition's; similarities seen."""
        plan, tree = self.plan, self.plan.tree()

        def todo() -> Iterator[Task]:
            for node in tree:
                place = (node.level, node.number)
                root = node is tree[-1]
                if node.children:
                    below = tuple((child.level, child.number) for child in node.children)
                    yield Task(place, tasks.merge, (plan, place), below, root, root)
                else:
                    rows, given = self.source.of_partition(plan, node.number)
                    classes = None
                    if self.classes is not None:
                        classes = self.classes[plan.rows(node.number)]
                    arguments = plan, node.number, rows, given, classes
                    yield Task(place, tasks.partition, arguments, (), root, root)

        ((_, root),) = self._results(todo())
        contenders = []
        for c, count in enumerate(plan.counts):
            merged, single = root[c].chosen, root[c].single
            same = len(single.at) < count or np.array_equal(single.at, merged.at)
            contenders.append([merged] if same else [merged, single])
        return contenders, sum(found.seen for found in root.values())

    def _judged(self, contenders: list[list[Rows]], seen: int) -> Selection:
        """The better for each class by F over all rows, and what it is worth."""
        plan, source = self.plan, self.source
        gains = [[np.zeros(len(rows.at)) for rows in rivals] for rivals in contenders]
        sizes = [[np.zeros(len(rows.at), np.int64) for rows in rivals] for rivals in contenders]
        keep = source.lazy is None
        assigned = np.zeros((2, plan.n if keep else 0), np.int32)
        given = self.engine.shared((plan, contenders))
        for piece, tallies in self._over_rows(tasks.evaluate, given, keep):
            for c, rival, won, taken, at, positions in tallies:
                gains[c][rival] += won
                sizes[c][rival] += taken
                if keep:
                    assigned[rival, piece.start : piece.stop][at] = positions
        best = [int(np.argmax([won.sum() for won in rivals])) for rivals in gains]
        chosen = [rivals[b] for rivals, b in zip(contenders, best, strict=True)]
        won = [rivals[b] for rivals, b in zip(gains, best, strict=True)]
        # Classes are merged by gain, each in its own order even where a gain rises.
        ranking, places = by_falling_gain([np.minimum.accumulate(some) for some in won])
        all_gains = np.concatenate(won)[ranking]
        assignment: Any
        if not keep:
            assignment = _lazy_assignment(source.lazy, plan, chosen, places, self.classes)
        else:
            assignment = np.empty(plan.n, np.int64)
            for c, at in by_class(self.classes):
                assignment[at] = places[c][assigned[best[c]][at]]
        counted = np.concatenate([some[b] for some, b in zip(sizes, best, strict=True)])
        return Selection(
            indices=np.concatenate([rows.at for rows in chosen])[ranking],
            gains=all_gains,
            value=math.fsum(all_gains),
            n_evaluations=-(-seen // plan.n),
            assignment=assignment,
            sizes=counted[ranking],
            path="features",
        )


def _lazy_assignment(
    X: Any,
    plan: Plan,
    chosen: list[Rows],
    places: list[np.ndarray],
    classes: np.ndarray | None,
) -> Any:
    """A dask array in X's chunks: for each row the position of what represents it."""
    import dask.array as da

    arrays = [X, "ij"]
    if classes is not None:
        arrays += [da.from_array(classes, chunks=(X.chunks[0],)), "i"]
    return da.blockwise(
        tasks.assign, "i", *arrays, plan=plan, chosen=chosen, places=places,
        concatenate=True, dtype=np.int64, meta=np.empty(0, np.int64),
    )  # fmt: skip
