"""Similarities on an NVIDIA GPU, for one class or many.

Features, or matrices given or computed, lie in the GPU's memory; the kernels of
`subsel.kernels.cuda` search all classes together.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels import cuda as kernels
from subsel.kernels.cuda import AFRESH, CHANGES, LANES, LEADS, THREADS
from subsel.sources.cuda_levels import CudaLevels, row_sums
from subsel.sources.device import Array, Device, Layout, as_array, gathered, require_gpu
from subsel.sources.scale import (
    METRICS,
    Scale,
    choose_rule,
    choose_scale,
    grid,
    matrix_pays,
    spread,
)
from subsel.validation import bad_entry, check_matrix_shape, check_memory, float_type

__all__ = ["CudaDense", "CudaFeatures", "CudaSimilarity", "Features", "as_array", "require_gpu"]

SPATIAL_FROM = 20_000
"""Rows of a class from which on an order in space, found on the CPU, saves more than it takes."""


class Features:
    """Checked features in the GPU's memory, (n, d), from which sources of similarities are made."""

    together = True
    """Whether all classes are searched in the same launches."""

    def __init__(self, X: Any) -> None:
        self.array = as_array(X, "X")
        check_matrix_shape(self.array.shape, "X", "(n, d)")

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, indices: np.ndarray) -> "Features":
        """A copy of some rows."""
        return Features(self.array.rows(indices))

    def similarity(
        self, metric: str, gamma: float | None, memory: float | None
    ) -> "CudaSimilarity":
        """Similarities between the rows, by the fastest way that fits into `memory`."""
        return self.of_classes([np.arange(len(self))], metric, gamma, memory)

    def of_classes(
        self, members: list[np.ndarray], metric: str, gamma: float | None, memory: float | None
    ) -> "CudaSimilarity":
        """Similarities between the rows of each class, in matrices if they fit and are faster."""
        if callable(metric) or metric not in METRICS:
            some = ", ".join(map(repr, METRICS))
            raise ValueError(f"metric must be one of {some} on a GPU; others: backend='cpu'")
        array = self.array
        budget = array.device.free_memory() / 4 if memory is None else check_memory(memory)
        itemsize = np.dtype(float_type(array.data.dtype, "X")).itemsize
        size = sum(len(rows) ** 2 for rows in members) * itemsize
        wanted = matrix_pays(metric, array.shape[1]) and size <= budget
        source = CudaFeatures.from_features(array, members, metric, gamma, in_space=not wanted)
        return (source.matrices() if wanted else None) or source


@dataclass
class State:
    """A search: the kernels' arrays, and whether gains were summed."""

    arrays: kernels.Search
    known: bool = False


class CudaSimilarity:
    """The common part of sources of features and of matrices.

    Attributes and methods are those of `subsel.sources.base.Similarity`, for a source of one class.
    `offsets`, `units` and `grow_all` are for all classes.
    """

    path = ""
    mirrored = False
    _cover: Any
    _update: Any

    def __init__(
        self, device: Device, points: Layout, candidates: Layout, store: Any, scales: list[Scale]
    ) -> None:
        self.device, self.points, self.candidates, self.store = device, points, candidates, store
        self.scales = scales
        # As in `subsel.sources.base`: only in a matrix given by a user may a point be similar to
        # nothing.
        self.unassigned = 0
        self.units = np.array([scale.unit for scale in scales])
        self.offsets = np.array([scale.offset for scale in scales])

    @property
    def n(self) -> int:
        """The number of candidates."""
        return int(self.candidates.size.sum())

    @property
    def n_points(self) -> int:
        """The number of points."""
        return int(self.points.size.sum())

    @property
    def span(self) -> float:
        """Similarities are stored within so much above -offset."""
        return float(self.scales[0].span)

    @property
    def unit(self) -> float:
        """Similarity = unit * (stored + offset)."""
        return float(self.units[0])

    @property
    def offset(self) -> float:
        """Similarity = unit * (stored + offset)."""
        return float(self.offsets[0])

    def search(self) -> State:
        """A search with nothing selected."""
        up, empty, c = self.device.upload, self.device.empty, len(self.points.size)
        points, slots = len(self.points.local), len(self.candidates.local)
        tiles = self.candidates.tiles
        return State(
            kernels.Search(
                best=up(np.repeat(-self.offsets, np.diff(self.points.start))),
                before=empty(points, np.float64),
                assigned=up(np.full(points, self.unassigned)),
                changed=empty(points, np.int32),
                gains=empty(slots, np.float64),
                taken=up(self.candidates.padding()),
                order=up(self.candidates.local),
                top=empty(tiles, np.float64),
                lead=empty(tiles, np.int32),
                chosen=up(np.full(c, -1, np.int32)),
                added=up(np.zeros(c, np.int64)),
                goal=up(np.zeros(c, np.int64)),
                moved=up(np.zeros(c, np.int64)),
                seen=up(np.zeros(1, np.int64)),
            )
        )

    def _updating(self, search: State, mode: int) -> tuple:
        return self._update, self.candidates.tiles, THREADS, self.store, search.arrays, mode

    def _covering(self, search: State) -> tuple:
        return self._cover, self.points.tiles, LANES, self.store, search.arrays

    def _know_gains(self, search: State) -> None:
        if not search.known:
            self.device.run(*self._updating(search, AFRESH))
            search.known = True

    def grow_all(self, search: State, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidates of each class until it has as many as its goal.

        Returns the elements and their gains in stored units, both (classes, largest number added).
        The entries of each class stand at the front of its row.
        """
        begun = self.device.download(search.arrays.added)
        count = int((goals - begun).max())
        shape = len(goals), max(count, 1)
        elements, gains = self.device.empty(shape, np.int64), self.device.empty(shape, np.float64)
        search.arrays.goal.copy_to_device(goals, stream=self.device.stream)
        if search.known:
            self.device.run(*self._updating(search, LEADS))
        self._know_gains(search)
        pick = (
            kernels.pick, len(goals), THREADS,
            self.store.candidates, search.arrays, elements, gains, self.device.upload(begun),
        )  # fmt: skip
        steps = [pick, self._covering(search), self._updating(search, CHANGES)]
        self.device.repeat(steps, count)
        return self.device.download(elements), self.device.download(gains)

    def mark_taken(self, search: State, taken: np.ndarray) -> None:
        """Mark the candidates that must not be added."""
        by_slot = taken[self.candidates.local] | self.candidates.padding()
        search.arrays.taken.copy_to_device(by_slot, stream=self.device.stream)

    def priced(self, search: State, costs: np.ndarray | None) -> State | None:
        """None: searches on a GPU do not support costs."""
        return search if costs is None else None

    def thinned(self, search: State) -> "CudaSimilarity":
        """The source that the search continues with: itself."""
        return self

    def grow(self, search: State, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily; return how many."""
        goal = self.device.download(search.arrays.added) + len(elements)
        found = self.grow_all(search, goal)
        elements[:], gains[:] = (by_class[0, : len(elements)] for by_class in found)
        return len(elements)

    def gains(self, search: State, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates, in units of `unit`."""
        if not len(candidates):
            return np.empty(0)
        self._know_gains(search)
        gains, out = search.arrays.gains, self.device.empty(len(candidates), np.float64)
        slots = self.device.upload(self.slots[candidates])
        blocks = -(-len(candidates) // THREADS)
        self.device.run(
            kernels.gather_columns, blocks, THREADS, gains.reshape(1, gains.size), slots, out
        )
        return self.device.download(out)

    def add(self, search: State, element: int) -> None:
        """Add a candidate."""
        self._choose(search, self.slots[element])
        if search.known:
            self.device.run(*self._updating(search, CHANGES))

    def take(self, search: State, elements: np.ndarray) -> np.ndarray:
        """Add candidates one by one; return the gain of each, in units of `unit`."""
        gains = np.empty(len(elements))
        for at in range(len(elements)):
            gains[at] = self.gains(search, elements[at : at + 1])[0]
            self.add(search, int(elements[at]))
        return gains

    def _choose(self, search: State, slot: int) -> None:
        self.device.run(kernels.choose, 1, 1, search.arrays, slot)
        self.device.run(*self._covering(search))

    @cached_property
    def slots(self) -> np.ndarray:
        """Slot of each candidate."""
        return self.candidates.members(np.arange(len(self.candidates.local)))

    def assignment(self, search: State, c: int = 0) -> np.ndarray:
        """For each point, in the order of adding, the candidate that represents it."""
        return self.points.members(self.device.download(search.arrays.assigned), c)

    def value(self, search: State) -> float:
        """The sum of the similarities of all points to their representatives."""
        best = self.points.members(self.device.download(search.arrays.best))
        return float((best + self.offset).sum()) * self.unit

    def represent(self, candidates: np.ndarray) -> tuple[State, np.ndarray]:
        """Add candidates one by one to a new search; return it and the gain of each."""
        search = self.search()
        gains = self.device.upload(np.zeros(len(candidates)))
        for which, slot in enumerate(self.slots[candidates]):
            self._choose(search, slot)
            self.device.run(kernels.sum_won, self.points.tiles, LANES, search.arrays, gains, which)
        return search, self.device.download(gains) * self.unit

    def seen(self, search: State) -> int:
        """The number of similarities computed to keep gains up to date."""
        return int(self.device.download(search.arrays.seen)[0])

    def restrict(self, candidates: np.ndarray) -> "CudaSimilarity":
        """The same points with fewer candidates (of one class)."""
        layout = Layout.of([np.arange(len(candidates))])
        store = self._restricted(candidates, layout)
        part = type(self)(self.device, self.points, layout, store, self.scales)
        part.unassigned = self.unassigned
        return part

    def _restricted(self, candidates: np.ndarray, layout: Layout) -> Any:
        raise NotImplementedError

    def levels(self, rule: Any) -> CudaLevels:
        """A search of these similarities, of one class, by a rule of a coverage objective."""
        return CudaLevels(self, rule, isinstance(self, CudaFeatures))

    def row_sums(self) -> np.ndarray:
        """The sum of each point's similarities to all candidates, of one class, (n_points,)."""
        return row_sums(self, isinstance(self, CudaFeatures))


class CudaDense(CudaSimilarity):
    """Similarities in a matrix for each class."""

    path = "cuda dense"
    _cover = kernels.cover_matrices
    _update = kernels.update_matrices

    @classmethod
    def from_matrix(cls, matrix: Array, name: str) -> "CudaDense":
        """Check a user's matrix. One that is not C-contiguous float32 or float64 is copied."""
        device, data = matrix.device, matrix.data
        dtype = float_type(data.dtype, name)
        n, m = matrix.shape
        if data.dtype != dtype or not data.is_c_contiguous():
            data = matrix.rows(np.arange(n)).data
        largest = _check(device, data, np.arange(n), 0.0, name)
        entries = data.reshape(n * m)
        points, candidates = Layout.of([np.arange(n)]), Layout.of([np.arange(m)])
        similarity = cls.of(device, points, candidates, entries, [Scale(1.0, 0.0, largest)])
        similarity.unassigned = -1
        return similarity

    @classmethod
    def of(
        cls, device: Device, points: Layout, candidates: Layout, entries: Any, scales: list[Scale]
    ) -> "CudaDense":
        """A source from matrices of stored similarities, which follow one another in one array."""
        at = np.concatenate([[0], np.cumsum(points.size * candidates.size)[:-1]])
        grids = [grid(int(n), s.span) for n, s in zip(points.size, scales, strict=True)]
        round_off = np.array([1.5 * 2.0**52 * down for _, down in grids])
        store = kernels.Matrices(
            points.on(device), candidates.on(device), entries,
            device.upload(at), device.upload(round_off),
        )  # fmt: skip
        return cls(device, points, candidates, store, scales)

    def _restricted(self, candidates: np.ndarray, layout: Layout) -> kernels.Matrices:
        shape = self.n_points, self.n
        entries = self.device.empty(shape[0] * len(candidates), self.store.entries.dtype)
        self.device.run(
            kernels.gather_columns, -(-entries.size // THREADS), THREADS,
            self.store.entries.reshape(shape), self.device.upload(candidates), entries,
        )  # fmt: skip
        return self.store._replace(entries=entries, candidates=layout.on(self.device))


class CudaFeatures(CudaSimilarity):
    """Similarities computed from features whenever they are needed."""

    path = "cuda features"
    _cover = kernels.cover_features
    _update = kernels.update_features

    @classmethod
    def from_features(
        cls, features: Array, members: list[np.ndarray], metric: str, gamma: float | None,
        in_space: bool,
    ) -> "CudaFeatures":  # fmt: skip
        """Prepare the rows of each class: scale them by a power of two, or to unit length for
        cosine.

        If asked for, and if there are many rows, neighbouring rows are stored together.
        """
        device = features.device
        dtype = float_type(features.data.dtype, "X")
        layout = Layout.of([
            _order(features, rows, dtype) if in_space and len(rows) >= SPATIAL_FROM
            else np.arange(len(rows))
            for rows in members
        ])  # fmt: skip
        padded = np.diff(layout.start)
        before = np.repeat(np.cumsum(layout.size) - layout.size, padded)
        source = np.concatenate(members)[before + layout.local]

        d = features.shape[1]
        rows = gathered(device, features.data, source, d + (metric == "cosine"), dtype)
        _check(device, rows[:, :d] if metric == "cosine" else rows, source, -math.inf, "X")
        slots = layout.on(device)
        scales = _condition(device, layout, slots, rows, metric, gamma)
        return cls._of(device, layout, slots, rows, metric, scales, layout.size)

    @classmethod
    def of_prepared(cls, features: np.ndarray, metric: str, scale: Scale, n: int) -> "CudaFeatures":
        """A source from some of `n` rows of one class, which `conditioned` prepared."""
        device, layout = Device(), Layout.of([np.arange(len(features))])
        rows = device.upload(features[layout.local])
        slots = layout.on(device)
        return cls._of(device, layout, slots, rows, metric, [scale], np.array([n]))

    @classmethod
    def _of(
        cls, device: Device, layout: Layout, slots: kernels.Slots, rows: Any, metric: str,
        scales: list[Scale], sizes: np.ndarray,
    ) -> "CudaFeatures":  # fmt: skip
        dtype = rows.dtype.type
        store = kernels.Features(
            slots, slots, rows, rows, *_boxes(device, rows),
            device.upload(np.array([
                choose_rule(metric, scale, int(n), rows.shape[1], dtype)[1:]
                for scale, n in zip(scales, sizes, strict=True)
            ], dtype)),
            METRICS[metric], dtype(2.0 ** np.finfo(dtype).nmant),
        )  # fmt: skip
        return cls(device, layout, layout, store, scales)

    def facing(self, count: int) -> "CudaFeatures":
        """A source with the first `count` rows as points and the others as candidates."""
        points, candidates = Layout.of([np.arange(count)]), Layout.of([np.arange(self.n - count)])
        rows = self._columns(points.local)
        store = self._with_columns(count + candidates.local, candidates)
        store = store._replace(points=points.on(self.device), rows=rows)
        return CudaFeatures(self.device, points, candidates, store, self.scales)

    def fastest(self, memory: float) -> "CudaSimilarity":
        """The same in matrices if they fit into so many bytes and are faster, else itself."""
        rows = self.store.rows
        metric = next(name for name, code in METRICS.items() if code == self.store.metric)
        pays = matrix_pays(metric, rows.shape[1])
        fits = (self.points.size**2).sum() * rows.dtype.itemsize <= memory
        return (self.matrices() if pays and fits else None) or self

    def matrices(self) -> CudaDense | None:
        """Matrices of all similarities of each class, the same bits; None if out of memory."""
        sizes = self.points.size
        total = int((sizes * sizes).sum())
        entries = self.device.empty_or_none(total, self.store.rows.dtype)
        if entries is None:
            return None
        plain = Layout.of([np.arange(n) for n in sizes])
        dense = CudaDense.of(self.device, plain, plain, entries, self.scales)
        blocks = self.points.tiles, -(-int(sizes.max()) // LANES)
        self.device.run(kernels.fill_matrices, blocks, THREADS, self.store, dense.store)
        return dense

    def _restricted(self, candidates: np.ndarray, layout: Layout) -> kernels.Features:
        return self._with_columns(self.slots[candidates][layout.local], layout)

    def _with_columns(self, slots: np.ndarray, layout: Layout) -> kernels.Features:
        columns = self._columns(slots)
        least, largest = _boxes(self.device, columns)
        return self.store._replace(
            columns=columns, least=least, largest=largest, candidates=layout.on(self.device)
        )

    def _columns(self, slots: np.ndarray) -> Any:
        rows = self.store.columns
        return gathered(self.device, rows, slots, rows.shape[1], rows.dtype)


def _order(features: Array, rows: np.ndarray, dtype: Any) -> np.ndarray:
    """An order of the rows of a class that keeps neighbours together; computed on the CPU."""
    host = features.device.download(features.rows(rows).data).astype(dtype, copy=False)
    return cpu.spatial_order(host) if np.isfinite(host).all() else np.arange(len(rows))


def _check(device: Device, array: Any, order: np.ndarray, low: float, name: str) -> float:
    """Refuse NaN, inf and entries below `low`, naming the first; return the largest entry."""
    d = array.shape[1]
    first_bad = device.upload(np.array([np.iinfo(np.int64).max]))
    largest = device.upload(np.array([max(low, -np.finfo(np.float64).max)]))
    blocks = min(1024, -(-array.size // THREADS))
    device.run(kernels.check, blocks, THREADS, array, device.upload(order), low, first_bad, largest)
    at = int(device.download(first_bad)[0])
    if at != np.iinfo(np.int64).max:
        i, k = divmod(at, d)
        slot = int(np.argmax(order == i))
        entry = float(device.download(array[slot : slot + 1])[0, k])
        raise bad_entry(entry, f"{name}[{i}, {k}]")
    return float(device.download(largest)[0])


def _boxes(device: Device, rows: Any) -> tuple[Any, Any]:
    """Range of each feature within each tile."""
    tiles = len(rows) // LANES
    boxes = tuple(device.empty((tiles, rows.shape[1]), rows.dtype) for _ in range(2))
    device.run(kernels.find_boxes, tiles, THREADS, rows, *boxes)
    return boxes


def _condition(
    device: Device, layout: Layout, slots: kernels.Slots, rows: Any, metric: str,
    gamma: float | None,
) -> list[Scale]:  # fmt: skip
    """Scale the rows of each class in place, as `Conditioned.of` does."""
    classes, d = len(layout.size), rows.shape[1]
    if metric == "cosine":
        device.run(kernels.scale_to_unit, layout.tiles, LANES, rows)
        nothing = np.zeros(d, rows.dtype)
        return [choose_scale(metric, gamma, nothing, nothing, 0.0)] * classes
    ranges = tuple(device.empty((classes, d), rows.dtype) for _ in range(2))
    blocks = classes, -(-d // THREADS)
    device.run(kernels.find_ranges, blocks, THREADS, slots.start, *_boxes(device, rows), *ranges)
    low, high = map(device.download, ranges)
    middle, extent = zip(*(spread(metric, *pair) for pair in zip(low, high, strict=True)),
                         strict=True)  # fmt: skip
    largest = device.upload(np.zeros(classes))
    device.run(
        kernels.find_radius, layout.tiles, LANES, rows, slots.group,
        device.upload(np.array(middle)), device.upload(np.array(extent)), largest,
    )  # fmt: skip
    radius = np.array(extent) * np.where(np.isfinite(extent), device.download(largest), 1.0)
    scales = [
        choose_scale(metric, gamma, *row) for row in zip(low, high, radius.tolist(), strict=True)
    ]
    exponent = device.upload(np.array([scale.exponent for scale in scales]))
    device.run(kernels.divide, layout.tiles, THREADS, rows, slots.group, exponent)
    return scales
