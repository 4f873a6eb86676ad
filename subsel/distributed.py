"""Selection from more rows than one machine can search, on Dask or on the threads of this process.

The way: two passes over the rows for their ranges; partitions, each searched by itself; a tree of
merges; one more pass for what holds of all rows. Each step is a list of tasks without state, whose
draws depend on their place alone. An engine runs them, here or on a cluster (`_run`).
"""

import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from tqdm import tqdm

from subsel.coreset import budgets
from subsel.kernels import cpu
from subsel.objectives import FacilityLocation
from subsel.optimizers import greedy
from subsel.selection import Selection
from subsel.similarity import (
    METRICS,
    FeatureSimilarity,
    Scale,
    choose_scale,
    farthest,
    prepared,
    spread,
)
from subsel.validation import (
    ArrayLike,
    as_float_array,
    bad_entry,
    check_backend,
    check_budget,
    check_choice,
    check_count,
    check_labels,
    check_matrix_shape,
    check_memory,
    check_random_state,
    read_only,
)

MAX_ROWS = 50_000
"""Rows that a task may hold, where nothing else is said."""

_BLOCKS, _ROWS, _SAMPLE = range(3)
"""What random numbers are for."""


def greedi(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int],
    *,
    partitions: int | None = None,
    max_rows: int | None = None,
    spread: int = 16,
    sample: int | None = None,
    labels: ArrayLike | None = None,
    metric: str = "euclidean",
    memory: float = 0,
    backend: str = "auto",
    random_state: int | np.random.Generator | None = None,
    progress: bool = False,
) -> Selection:
    """Select representative rows in partitions, then among those selected; for very many rows.

    Runs on the active Dask client, or without one on threads of this process. Rows are dealt to
    partitions; greedy selects from each; a tree of merges selects among the selected, evaluated on
    a uniform sample of rows. The better of the outcome and the best selection of a single partition
    is returned, both evaluated on all rows.

    Parameters
    ----------
    X : dask.array.Array or array_like, shape (n, d)
        Finite features. A dask array is read chunk by chunk, several times, and never gathered;
        its chunks must be of known size. A memory-mapped file is opened by each worker, where it
        must have the same path. Any other array is sent to the workers in parts.
    budget : int or float, or mapping with labels
        As in `select`.
    partitions : int, optional
        In how many parts rows are searched at first, 1..n. Default: the fewest that `max_rows`
        allows.
    max_rows : int, optional
        Rows that a task may hold, at least 8 times the budget if there are several partitions.
        Default: 50 000, or what a partition, a chunk of X and a single merge of all partitions
        need, if that is more.
    spread : int, default 16
        Each partition's rows are a uniform draw from as many blocks of neighbouring rows, which are
        dealt at random; its task reads all of these. 1: partitions are blocks of rows as they lie
        (GreeDi). At least `partitions`: rows are dealt uniformly (RandGreeDi).
    sample : int, optional
        Select from a uniform sample of so many rows only (all are represented in the end). Not with
        labels. Default: from all.
    labels : array_like of int, bool or str, shape (n,), optional
        Class of each row, as in `select`. Each class is searched, merged and judged by itself.
    metric : {"euclidean", "cosine", "dot", "rbf"}, default "euclidean"
        Similarity of two rows.
    memory : float, default 0
        Bytes that a task may take for a matrix of similarities beside its rows, where that is the
        faster way. The selection does not depend on it.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where tasks search and evaluate: on the processors, or on the GPU of the worker that they
        run on (without a Dask client, of this process, one task at a time). "auto" means "cuda"
        for an array in a GPU's memory, "cpu" for any other.
    random_state : int, numpy.random.Generator or None, default None
        Deals rows and draws samples.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        `value`, `gains` and `sizes` are exact, over all rows. As the order was found on a part of
        the rows, a gain may be larger than the one before it. `assignment` is a NumPy array, or for
        a dask array a dask array in the same chunks, which is computed when asked for. With labels,
        classes are merged by gain, each in its order.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above, or X has NaN or inf (said in which chunk and row).
    ImportError, RuntimeError
        If a GPU is asked for, and numba-cuda, a driver or a GPU is missing (on a worker).

    Notes
    -----
    The same seed gives the same bits for any number of workers, with and without Dask, however X is
    chunked, on processors and on GPUs (but for "rbf", see docs/cuda.md), and `value` is exactly
    ``FacilityLocation.from_features(X).value(indices)`` (with labels, the sum of those of classes).

    Time O(n m d ln k) over all workers for partitions of m rows, and O(m^2 d ln k) one after the
    other for each level of merges; memory of a task O(m d). See docs/scaling.md, also for what is
    guaranteed.

    References
    ----------
    Mirzasoleiman, Karbasi, Sarkar, Krause (2013), "Distributed submodular maximization" (GreeDi;
    section 4.5 on evaluating a decomposable function on a sample). Barbosa, Ene, Nguyen, Ward
    (2015), "The power of randomization" (RandGreeDi). Gopal, Ferdous, Maji, Pothen (2024),
    "GreedyML" (the tree).

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.random.default_rng(0).normal(size=(2000, 3))
    >>> chosen = subsel.greedi(X, 20, partitions=4, random_state=0)
    >>> len(chosen), int(chosen.sizes.sum())
    (20, 2000)
    """
    check_choice(metric, METRICS, "metric")
    random = check_random_state(random_state)
    allowed = check_memory(memory)
    place = check_backend(backend, X)
    if max_rows is not None:
        max_rows = check_count(max_rows, "max_rows", 1)
    engine = _engine(place)
    source = _dask_source(X) if _is_dask(X) else _array_source(X, engine, max_rows or MAX_ROWS)
    n, classes = source.n, None
    if labels is None:
        sizes, counts = [n], [check_budget(budget, n, fraction=True)]
    else:
        if sample is not None:
            raise ValueError("sample goes without labels; select from a part of X instead")
        members, counts = budgets(budget, check_labels(labels, n))
        sizes = [len(rows) for rows in members]
        classes = np.empty(n, np.min_scalar_type(len(counts)))
        for c, rows in enumerate(members):
            classes[rows] = c
    plan = _Plan(
        n, sizes, counts, metric, allowed, place, int(random.integers(2**63)),
        **_layout(n, sum(counts), partitions, max_rows, spread, sample, source.largest),
    )  # fmt: skip
    return _Run(engine, source, plan, classes, progress).selection()


def _layout(
    n: int,
    k: int,
    partitions: int | None,
    max_rows: int | None,
    spread: Any,
    sample: int | None,
    largest: int,
) -> dict[str, Any]:
    """Partitions and tree that keep what a task holds within `max_rows`.

    `k` is the budget, `largest` the rows of X's largest chunk.
    """
    spread = check_count(spread, "spread", 1)
    taken = n if sample is None else check_count(sample, "sample", k, n)
    if partitions is not None:
        partitions = check_count(partitions, "partitions", 1, taken)
    if max_rows is None:
        max_rows = max(MAX_ROWS, largest)
        if partitions is not None:
            max_rows = max(max_rows, -(-taken // partitions), 4 * partitions * k)
    if largest > max_rows:
        raise ValueError(
            f"X has a chunk of {largest} rows, more than max_rows={max_rows}: rechunk X"
        )
    fewest = -(-taken // max_rows)
    partitions = fewest if partitions is None else partitions
    if partitions < fewest:
        raise ValueError(
            f"{partitions} partitions of {taken} rows have more than max_rows={max_rows} rows; "
            f"at least {fewest} are needed"
        )
    # A merge holds of each branch its selection, the best of a single partition, and a sample of
    # at least as many rows.
    widest = max_rows // (4 * k)
    if partitions > 1 and widest < 2:
        raise ValueError(
            f"max_rows must be at least 8 times the budget, {8 * k}, to merge partitions; "
            f"not {max_rows}"
        )
    levels = 0
    while partitions > 1 and widest**levels < partitions:
        levels += 1
    branches = 1
    while branches**levels < partitions:
        branches += 1
    return {
        "max_rows": max_rows,
        "taken": taken,
        "partitions": partitions,
        "spread": spread,
        "branches": max(branches, 2),
        "share": max_rows // max(branches, 2) - 2 * k,
    }


class _Node(NamedTuple):
    """A partition (level 0), or a merge of `children`, which are of the level below."""

    level: int
    number: int
    children: list["_Node"]


@dataclass
class _Plan:
    """All that tasks need to know beside the rows."""

    n: int
    sizes: list[int]
    counts: list[int]
    metric: str
    memory: int
    backend: str
    seed: int
    max_rows: int
    taken: int
    partitions: int
    spread: int
    branches: int
    share: int
    scales: list[Scale] = field(default_factory=list)

    def random(self, *place: int) -> np.random.Generator:
        """Numbers for a place that is named by a few counts."""
        return np.random.default_rng([self.seed, *place])

    def _group(self, partition: int) -> tuple[int, int, np.ndarray]:
        """Which group of partitions shares blocks, the place in it, and the blocks (m, 2)."""
        groups = -(-self.partitions // self.spread)
        bounds = np.arange(groups + 1) * self.partitions // groups
        group = int(np.searchsorted(bounds, partition, side="right")) - 1
        order = self.random(_BLOCKS).permutation(self.partitions)
        blocks = np.sort(order[bounds[group] : bounds[group + 1]])
        ends = np.arange(self.partitions + 1) * self.n // self.partitions
        return (
            group,
            partition - int(bounds[group]),
            np.column_stack([ends[blocks], ends[blocks + 1]]),
        )

    def blocks(self, partition: int) -> np.ndarray:
        """First row and end of the blocks that a partition's rows are drawn from (m, 2)."""
        return self._group(partition)[2]

    def rows(self, partition: int) -> np.ndarray:
        """The rows of a partition, ascending; no row is in two of them."""
        group, place, blocks = self._group(partition)
        first, lengths = blocks[:, 0], blocks[:, 1] - blocks[:, 0]
        total = int(lengths.sum())
        wanted = total
        if self.taken < self.n:
            wanted = min(total, -(-self.taken * len(blocks) // self.partitions))
        drawn = self.random(_ROWS, group).choice(total, wanted, replace=False)
        mine = np.sort(drawn[place :: len(blocks)])
        before = np.cumsum(lengths) - lengths
        block = np.searchsorted(before, mine, side="right") - 1
        return first[block] + mine - before[block]

    def tree(self) -> list[_Node]:
        """All nodes, children before their parent, so that few results wait at a time."""
        level, nodes = 0, [_Node(0, p, []) for p in range(self.partitions)]
        while len(nodes) > 1:
            level += 1
            parents = -(-len(nodes) // self.branches)
            nodes = [
                _Node(level, p, nodes[p * self.branches : (p + 1) * self.branches])
                for p in range(parents)
            ]

        def below(node: _Node) -> Iterator[_Node]:
            for child in node.children:
                yield from below(child)
            yield node

        return list(below(nodes[0]))

    def draw(self, c: int, count: int, level: int, number: int) -> np.ndarray:
        """Which of `count` rows of a class a node hands up as its sample."""
        wanted = min(count, max(1, self.share * self.counts[c] // sum(self.counts)))
        return self.random(_SAMPLE, c, level, number).choice(count, wanted, replace=False)

    def similarity(self, c: int, points: np.ndarray, candidates: np.ndarray | None = None) -> Any:
        """Of some rows of a class to each other, or to others, as it is among all rows."""
        rows = points if candidates is None else np.concatenate([points, candidates])
        scale = self.scales[c]
        ready = prepared(read_only(rows), self.metric, scale)
        make: Any = FeatureSimilarity
        if self.backend == "cuda":
            from subsel.cuda import CudaFeatures

            make = CudaFeatures.of_prepared
        source = make(ready, self.metric, scale, self.sizes[c])
        return source if candidates is None else source.facing(len(points))


class _Task(NamedTuple):
    """A call of `function` with `arguments`, and with the results of the tasks in `below`."""

    place: tuple[int, ...]
    function: Callable
    arguments: tuple
    below: tuple[tuple[int, ...], ...] = ()
    wanted: bool = True  # here, not by another task
    alone: bool = False  # no other task is left beside it


class _Rows(NamedTuple):
    """Some rows of the input: where they stand in it, and their features."""

    at: np.ndarray
    features: np.ndarray

    def take(self, at: Any) -> "_Rows":
        return _Rows(self.at[at], self.features[at])


def _joined(parts: list[_Rows]) -> _Rows:
    return _Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _spans(parts: list[_Rows]) -> list[np.ndarray]:
    """Where each part's rows are once all are joined."""
    return np.split(
        np.arange(sum(len(part.at) for part in parts)),
        np.cumsum([len(part.at) for part in parts])[:-1],
    )


class _Found(NamedTuple):
    """What a node of the tree knows of a class, for the node above."""

    chosen: _Rows  # in order of selection
    single: _Rows  # the best selection of one partition, likewise
    sample: _Rows  # a uniform draw from the rows below
    seen: int  # similarities


def _by_class(classes: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """Each class that occurs, and where."""
    if classes is None:
        yield 0, slice(None)
        return
    for c in np.unique(classes):
        yield int(c), np.flatnonzero(classes == c)


@dataclass
class _Run:
    """One selection: its steps, which run one after the other."""

    engine: "_Threads | _Cluster"
    source: "_Source"
    plan: _Plan
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
            tqdm(desc="greedi", unit="task", total=total, disable=not self.progress) as self.bar,
        ):
            plan.scales = self._scales()
            contenders, seen = self._search()
            return self._judged(contenders, seen)

    def _results(self, tasks: Iterable[_Task]) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Places and results of the wanted tasks as they are done; tasks come after what they take.

        No more tasks are started than the engine has use for, the first first, and what a task has
        taken is let go.
        """
        tasks = iter(tasks)
        blocked: list[_Task] = []
        running: dict[Any, _Task] = {}
        done: dict[tuple[int, ...], Any] = {}
        while True:
            slots = self.engine.slots()
            while len(running) < slots:
                ready = next((task for task in blocked if done.keys() >= set(task.below)), None)
                if ready is not None:
                    blocked.remove(ready)
                elif (task := next(tasks, None)) is None:
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

    def _over_rows(self, function: Callable, *arguments: Any) -> Iterator[tuple["_Piece", Any]]:
        """Each piece of the rows, and what the function makes of it."""

        def tasks() -> Iterator[_Task]:
            for number, piece in enumerate(self.pieces):
                classes = None if self.classes is None else self.classes[piece.start : piece.stop]
                yield _Task((number,), function, (piece.chunks, piece.given, classes, *arguments))

        for (number,), result in self._results(tasks()):
            yield self.pieces[number], result

    def _scales(self) -> list[Scale]:
        """A scale for each class, as if all its rows were in one place."""
        plan, source = self.plan, self.source
        low = np.full((len(plan.sizes), source.d), np.inf, source.dtype)
        high = -low
        for _, ranges in self._over_rows(_ranges):
            for c, least, largest in ranges:
                np.minimum(low[c], least, out=low[c])
                np.maximum(high[c], largest, out=high[c])
        radius = np.zeros(len(plan.sizes))
        if plan.metric != "cosine":
            middles = [spread(plan.metric, *pair) for pair in zip(low, high, strict=True)]
            for _, part in self._over_rows(_radius, self.engine.shared(middles)):
                np.maximum(radius, part, out=radius)
        corners = zip(low, high, radius.tolist(), strict=True)
        return [choose_scale(plan.metric, None, *corner) for corner in corners]

    def _search(self) -> tuple[list[list[_Rows]], int]:
        """For each class the root's selection, and a single partition's; similarities seen."""
        plan, tree = self.plan, self.plan.tree()

        def tasks() -> Iterator[_Task]:
            for node in tree:
                place = (node.level, node.number)
                root = node is tree[-1]
                if node.children:
                    below = tuple((child.level, child.number) for child in node.children)
                    yield _Task(place, _merge, (plan, place), below, root, root)
                else:
                    rows, given = self.source.of_partition(plan, node.number)
                    classes = None
                    if self.classes is not None:
                        classes = self.classes[plan.rows(node.number)]
                    arguments = plan, node.number, rows, given, classes
                    yield _Task(place, _partition, arguments, (), root, root)

        ((_, root),) = self._results(tasks())
        contenders = []
        for c, count in enumerate(plan.counts):
            merged, single = root[c].chosen, root[c].single
            same = len(single.at) < count or np.array_equal(single.at, merged.at)
            contenders.append([merged] if same else [merged, single])
        return contenders, sum(found.seen for found in root.values())

    def _judged(self, contenders: list[list[_Rows]], seen: int) -> Selection:
        """The better for each class by F over all rows, and what it is worth."""
        plan, source = self.plan, self.source
        gains = [[np.zeros(len(rows.at)) for rows in rivals] for rivals in contenders]
        sizes = [[np.zeros(len(rows.at), np.int64) for rows in rivals] for rivals in contenders]
        keep = source.lazy is None
        assigned = np.zeros((2, plan.n if keep else 0), np.int32)
        given = self.engine.shared((plan, contenders))
        for piece, tallies in self._over_rows(_evaluate, given, keep):
            for c, rival, won, taken, at, positions in tallies:
                gains[c][rival] += won
                sizes[c][rival] += taken
                if keep:
                    assigned[rival, piece.start : piece.stop][at] = positions
        best = [int(np.argmax([won.sum() for won in rivals])) for rivals in gains]
        chosen = [rivals[b] for rivals, b in zip(contenders, best, strict=True)]
        won = [rivals[b] for rivals, b in zip(gains, best, strict=True)]
        # Classes are merged by gain, each in its own order even where a gain rises.
        falling = np.concatenate([np.minimum.accumulate(some) for some in won])
        ranking = np.argsort(-falling, kind="stable")
        position = np.empty_like(ranking)
        position[ranking] = np.arange(len(ranking))
        places = np.split(position, np.cumsum(plan.counts)[:-1])
        all_gains = np.concatenate(won)[ranking]
        assignment: Any
        if not keep:
            assignment = source.assignment(plan, chosen, places, self.classes)
        else:
            assignment = np.empty(plan.n, np.int64)
            for c, at in _by_class(self.classes):
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


def _ranges(
    chunks: "list[_Chunk]", given: dict, classes: np.ndarray | None
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """By class, the smallest and largest of each column; refuses what is not finite."""
    ranges = []
    for chunk, rows, own in _read(chunks, given, classes):
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            i, j = np.argwhere(~np.isfinite(rows))[0]
            raise bad_entry(float(rows[i, j]), f"X[{chunk.start + i}, {j}]", chunk.place(i))
        if own is None:
            ranges.append((0, low, high))
        else:
            for c, at in _by_class(own):
                ranges.append((c, rows[at].min(axis=0), rows[at].max(axis=0)))
    return ranges


def _radius(
    chunks: "list[_Chunk]",
    given: dict,
    classes: np.ndarray | None,
    middles: list[tuple[np.ndarray, float]],
) -> np.ndarray:
    """By class, the largest distance of a row to the middle."""
    radius = np.zeros(len(middles))
    for _, rows, own in _read(chunks, given, classes):
        for c, at in _by_class(own):
            radius[c] = max(radius[c], farthest(read_only(rows[at]), *middles[c]))
    return radius


def _partition(
    plan: _Plan,
    number: int,
    chunks: "list[_Chunk] | np.ndarray",
    given: dict,
    classes: np.ndarray | None,
) -> dict[int, _Found]:
    """Select from the rows of one partition, by class."""
    index = plan.rows(number)
    rows = _Rows(index, _gathered(chunks, given, index))
    found = {}
    for c, at in _by_class(classes):
        own = rows.take(at)
        f = FacilityLocation.of(plan.similarity(c, own.features).fastest(plan.memory))
        chosen = own.take(greedy(f, min(plan.counts[c], f.n)).indices)
        sample = own.take(plan.draw(c, f.n, 0, number))
        found[c] = _Found(chosen, chosen, sample, f.n_evaluations * f.n_points)
    return found


def _merge(plan: _Plan, place: tuple[int, int], *children: dict[int, _Found]) -> dict[int, _Found]:
    """Select from what was selected below, by class, for a sample of the rows below."""
    found = {}
    for c in sorted(set().union(*children)):
        below = [child[c] for child in children if c in child]
        points = _joined([part.sample for part in below])
        rows = _joined([part.chosen for part in below])
        rows = rows.take(np.argsort(rows.at))  # so that the lowest wins among equal gains
        f = FacilityLocation.of(plan.similarity(c, points.features, rows.features))
        chosen = rows.take(greedy(f, min(plan.counts[c], f.n)).indices)
        seen = sum(part.seen for part in below) + f.n_evaluations * f.n_points

        singles = [part.single for part in below]
        judge = plan.similarity(c, points.features, _joined(singles).features)
        values = [(len(own), judge.value(judge.represent(own)[0])) for own in _spans(singles)]
        single = singles[max(range(len(values)), key=values.__getitem__)]
        sample = points.take(plan.draw(c, len(points.at), *place))
        found[c] = _Found(chosen, single, sample, seen)
    return found


def _evaluate(
    chunks: "list[_Chunk]",
    given: dict,
    classes: np.ndarray | None,
    judged: tuple[_Plan, list[list[_Rows]]],
    keep: bool,
) -> list[tuple[int, int, np.ndarray, np.ndarray, Any, Any]]:
    """Gains and sizes of each class's contenders over some rows, where these are, who got them."""
    plan, contenders = judged
    rows = _gathered(chunks, given, np.arange(chunks[0].start, chunks[-1].stop))
    tallies = []
    for c, at in _by_class(classes):
        rivals = contenders[c]
        source = plan.similarity(c, rows[at], _joined(rivals).features)
        for rival, own in enumerate(_spans(rivals)):
            search, gains = source.represent(own)
            assigned = source.assignment(search)
            sizes = np.bincount(assigned, minlength=len(own))
            kept = (at, assigned.astype(np.int32)) if keep else (slice(0), 0)
            tallies.append((c, rival, gains, sizes, *kept))
    return tallies


def _assign(
    rows: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    plan: _Plan,
    chosen: list[_Rows],
    places: list[np.ndarray],
) -> np.ndarray:
    """For each row the position of what represents it."""
    assignment = np.empty(len(rows), np.int64)
    if len(rows):
        rows = as_float_array(rows, "X")
        for c, at in _by_class(classes):
            source = plan.similarity(c, rows[at], chosen[c].features)
            search, _ = source.represent(np.arange(len(chosen[c].at)))
            assignment[at] = places[c][source.assignment(search)]
    return assignment


class _Chunk(NamedTuple):
    """Neighbouring rows start..stop of X. `load` gives them, here or on a worker."""

    number: int | None
    start: int
    stop: int
    load: Any

    def place(self, row: int) -> str:
        """In words, where there are chunks that a user knows of."""
        return "" if self.number is None else f" (row {row} of chunk {self.number})"


class _Piece(NamedTuple):
    """Chunks for one task, and what it takes to load them that lies in the cluster's memory."""

    start: int
    stop: int
    chunks: list[_Chunk]
    given: dict


@dataclass
class _Source:
    """The rows of X, chunk by chunk."""

    n: int
    d: int
    dtype: np.dtype
    chunks: list[_Chunk]
    largest: int  # rows of a chunk that cannot be cut further
    sent: np.ndarray | None = None  # whose rows are sent to the workers
    lazy: Any = None  # the dask array

    def pieces(self, max_rows: int) -> list[_Piece]:
        """Runs of chunks, each for one task."""
        enough = min(max_rows, max(self.n // 64 + 1, 4096))
        runs, start = [], 0
        for at, chunk in enumerate(self.chunks):
            if at > start and chunk.stop - self.chunks[start].start > enough:
                runs.append(self.chunks[start:at])
                start = at
        runs.append(self.chunks[start:])
        return [_Piece(run[0].start, run[-1].stop, run, _given(run)) for run in runs]

    def of_partition(self, plan: _Plan, number: int) -> tuple[list[_Chunk] | np.ndarray, dict]:
        """What a partition's task reads: the chunks that its rows may lie in, or rows."""
        if self.sent is not None:
            return self.sent[plan.rows(number)], {}
        starts = np.array([chunk.start for chunk in self.chunks])
        stops = np.array([chunk.stop for chunk in self.chunks])
        touched = np.zeros(len(self.chunks), bool)
        for start, stop in plan.blocks(number):
            touched[np.searchsorted(stops, start, "right") : np.searchsorted(starts, stop)] = True
        chunks = [self.chunks[at] for at in np.flatnonzero(touched)]
        return chunks, _given(chunks)

    def assignment(
        self,
        plan: _Plan,
        chosen: list[_Rows],
        places: list[np.ndarray],
        classes: np.ndarray | None,
    ) -> Any:
        """A dask array in X's chunks: for each row the position of what represents it."""
        import dask.array as da

        arrays = [self.lazy, "ij"]
        if classes is not None:
            arrays += [da.from_array(classes, chunks=(self.lazy.chunks[0],)), "i"]
        return da.blockwise(
            _assign, "i", *arrays, plan=plan, chosen=chosen, places=places,
            concatenate=True, dtype=np.int64, meta=np.empty(0, np.int64),
        )  # fmt: skip


def _given(chunks: list[_Chunk]) -> dict:
    """Futures that chunks of a persisted dask array depend on."""
    needs = (chunk.load.needs for chunk in chunks if isinstance(chunk.load, _Graph))
    return {key: future for need in needs for key, future in need.items()}


def _dask_source(X: Any) -> _Source:
    import dask
    import dask.array as da

    if not isinstance(X, da.Array):
        raise TypeError(f"X is a dask {type(X).__name__}; pass its .to_dask_array(lengths=True)")
    if any(math.isnan(size) for sizes in X.chunks for size in sizes):
        raise ValueError("X has chunks of unknown sizes; call X.compute_chunk_sizes() first")
    check_matrix_shape(X.shape, "X", "(n, d)")
    if not isinstance(X._meta, np.ndarray) or isinstance(X._meta, np.ma.MaskedArray):
        raise TypeError(f"X must have chunks of NumPy arrays, not of {type(X._meta).__name__}")
    dtype = as_float_array(np.empty((0, 1), X.dtype), "X").dtype
    if len(X.chunks[1]) > 1:
        X = X.rechunk({1: X.shape[1]})
    graph = dict(X.__dask_graph__())
    ends = np.cumsum(X.chunks[0]).tolist()
    chunks = []
    for number, (size, stop) in enumerate(zip(X.chunks[0], ends, strict=True)):
        if size:
            key = (X.name, number, 0)
            own, _ = dask.optimization.cull(graph, [key])
            needs = {name: own.pop(name) for name in list(own) if hasattr(own[name], "client")}
            chunks.append(_Chunk(number, stop - size, stop, _Graph(own, key, needs)))
    n, d = X.shape
    return _Source(n, d, dtype, chunks, max(X.chunks[0]), lazy=X)


def _array_source(X: Any, engine: "_Threads | _Cluster", most: int) -> _Source:
    if not isinstance(X, np.ndarray) or isinstance(X, np.ma.MaskedArray):
        X = as_float_array(X, "X")
    check_matrix_shape(X.shape, "X", "(n, d)")
    n, d = X.shape
    dtype = as_float_array(X[:0], "X").dtype
    step = max(1, min(most, 4096, 2**24 // (d * X.itemsize)))
    mapped = _Mapped.of(X) if isinstance(engine, _Cluster) else None
    chunks = []
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        load = _Held(X[rows]) if mapped is None else _Cut(mapped, rows)
        chunks.append(_Chunk(None, rows.start, rows.stop, load))
    sent = X if mapped is None and isinstance(engine, _Cluster) else None
    return _Source(n, d, dtype, chunks, 1, sent=sent)


@dataclass
class _Graph:
    """A chunk of a dask array: the part of its graph that makes it, and the futures in there.

    Not a tuple, which Dask would look into for work of its own.
    """

    graph: dict
    key: tuple
    needs: dict

    def __call__(self, given: dict) -> Any:
        import dask

        return dask.get({**self.graph, **{key: given[key] for key in self.needs}}, self.key)

    def __reduce__(self) -> tuple:
        return _Graph, (self.graph, self.key, dict.fromkeys(self.needs))


class _Held(NamedTuple):
    """Rows that are here."""

    rows: np.ndarray

    def __call__(self, given: dict) -> np.ndarray:
        return self.rows


class _Mapped(NamedTuple):
    """An array in a file that every worker can map."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> "_Mapped | None":
        """None if the array is not memory-mapped."""
        whole: Any = array
        while isinstance(whole, np.ndarray) and not isinstance(whole.base, mmap.mmap):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.filename is None:
            return None
        offset = whole.offset + array.ctypes.data - whole.ctypes.data
        return cls(str(whole.filename), array.shape, array.dtype, offset, array.strides)

    def open(self) -> np.ndarray:
        """The array, mapped."""
        try:
            raw = np.memmap(self.path, np.uint8, "r")
        except OSError as error:
            raise OSError(f"a worker cannot open X's file: {error}") from error
        return np.ndarray(self.shape, self.dtype, raw, self.offset, self.strides)


class _Cut(NamedTuple):
    """Rows of a mapped array."""

    array: _Mapped
    rows: slice

    def __call__(self, given: dict) -> np.ndarray:
        return self.array.open()[self.rows]


def _read(
    chunks: list[_Chunk], given: dict, classes: np.ndarray | None
) -> Iterator[tuple[_Chunk, np.ndarray, np.ndarray | None]]:
    """One chunk after the other, its rows and their classes."""
    for chunk in chunks:
        rows = as_float_array(chunk.load(given), "X")
        if rows.ndim != 2 or len(rows) != chunk.stop - chunk.start:
            raise ValueError(
                f"chunk {chunk.number} of X has shape {rows.shape}, but was to have "
                f"{chunk.stop - chunk.start} rows"
            )
        own = slice(chunk.start - chunks[0].start, chunk.stop - chunks[0].start)
        yield chunk, rows, None if classes is None else classes[own]


def _gathered(chunks: list[_Chunk] | np.ndarray, given: dict, index: np.ndarray) -> np.ndarray:
    """The features of some rows (ascending), read a chunk at a time."""
    if isinstance(chunks, np.ndarray):
        return as_float_array(chunks, "X")
    out = None
    for chunk, rows, _ in _read(chunks, given, None):
        if out is None:
            out = np.empty((len(index), rows.shape[1]), rows.dtype)
        first, last = np.searchsorted(index, (chunk.start, chunk.stop))
        out[first:last] = rows[index[first:last] - chunk.start]
    assert out is not None
    return out


class _Threads:
    """Tasks on threads of this process, each on one; `alone`, a task has all of Numba's."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, initializer=cpu.single_thread)

    def __enter__(self) -> None: ...

    def __exit__(self, failed: Any, *_: Any) -> None:
        self._pool.shutdown(wait=not failed, cancel_futures=True)

    def slots(self) -> int:
        """Tasks that may be under way."""
        return self._pool._max_workers

    def shared(self, value: Any) -> Any:
        """What several tasks take as an argument."""
        return value

    def start(self, task: _Task, below: list[Future]) -> Future:
        """Begin a task, when those that it takes are done."""
        arguments = [*task.arguments, *(future.result() for future in below)]
        if not task.alone:
            return self._pool.submit(task.function, *arguments)
        future: Future = Future()
        future.set_result(task.function(*arguments))
        return future

    def finished(self, running: list[Future]) -> list[Future]:
        """Those that are done, at least one; raises if one failed."""
        done = [future for future in running if future.done()]
        done = done or list(wait(running, return_when=FIRST_COMPLETED).done)
        for future in done:
            future.result()
        return done


class _Cluster:
    """Tasks on the workers of a Dask client, each on one thread."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._name = uuid4().hex[:8]
        self._started: set[Any] = set()
        self._shared = 0

    def __enter__(self) -> None: ...

    def __exit__(self, failed: Any, *_: Any) -> None:
        started, self._started = list(self._started), set()
        if failed and self._client.status == "running":
            self._client.cancel(started)
        elif failed and issubclass(failed, Exception):
            raise RuntimeError("the Dask client was closed while rows were being selected")

    def slots(self) -> int:
        """As many as there are threads, and as many to go on with."""
        return 2 * max(1, sum(self._client.nthreads().values()))

    def shared(self, value: Any) -> Any:
        """Sent once, kept by the scheduler, fetched by workers from each other."""
        self._shared += 1
        return self._client.submit(_same, value, key=f"greedi-share-{self._name}-{self._shared}")

    def start(self, task: _Task, below: list[Any]) -> Any:
        """Begin a task; Dask begins it anew if its worker is lost."""
        step = task.function.__name__.strip("_")
        place = "-".join(map(str, task.place))
        arguments = [_Packed.of(a) if isinstance(a, list) else a for a in task.arguments]
        future = self._client.submit(
            _on_one_thread, task.function, *arguments, *below,
            key=f"greedi-{step}-{self._name}-{place}", retries=2,
        )  # fmt: skip
        self._started.add(future)
        return future

    def finished(self, running: list[Any]) -> list[Any]:
        """Those that are done, at least one; raises if one failed."""
        import distributed

        done = list(distributed.wait(running, return_when="FIRST_COMPLETED").done)
        self._started.difference_update(done)
        for future in done:
            if future.status == "error":
                future.result()
        return done


def _same(value: Any) -> Any:
    return value


class _Packed(NamedTuple):
    """Chunks as bytes until they are read.

    As long as anything rests on a task's result, Dask's workers remember what it was called with;
    unpacked, the graphs of its chunks take twenty times the room.
    """

    data: bytes

    @classmethod
    def of(cls, chunks: list[_Chunk]) -> "_Packed":
        from distributed.protocol import pickle

        return cls(pickle.dumps(chunks))

    def chunks(self) -> list[_Chunk]:
        from distributed.protocol import pickle

        return pickle.loads(self.data)


def _on_one_thread(function: Callable, *arguments: Any) -> Any:
    cpu.single_thread()
    return function(*(a.chunks() if isinstance(a, _Packed) else a for a in arguments))


def _engine(backend: str) -> _Threads | _Cluster:
    """The active Dask client's workers; without one, threads, of which one uses the GPU."""
    distributed: Any = sys.modules.get("distributed")
    client = None
    if distributed is not None:
        with suppress(ValueError):
            client = distributed.Client.current()
    if client is None:
        if backend == "cpu":
            return _Threads(cpu.threads())
        from subsel.cuda import require_gpu

        require_gpu()
        return _Threads(1)
    if client.asynchronous or client.status != "running":
        raise ValueError(
            f"the active Dask client is {'asynchronous' if client.asynchronous else client.status}"
            "; a running, synchronous one is needed"
        )
    return _Cluster(client)


def _is_dask(X: Any) -> bool:
    return type(X).__module__.split(".")[0].startswith("dask") and hasattr(X, "__dask_graph__")
