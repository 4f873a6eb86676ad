"""Similarities on an NVIDIA GPU: what `subsel.similarity` is on the CPU, of one class or many.

Features, or matrices given or computed, lie in the GPU's memory; the kernels of
`subsel.kernels.cuda` search all classes together. Importing this needs the package numba-cuda.
"""

import math
import warnings
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from tqdm import tqdm

from subsel.optimizers.greedy import portions
from subsel.selection import Selection
from subsel.similarity import METRICS, Scale, choose_rule, choose_scale, grid, matrix_pays, spread
from subsel.validation import (
    as_float_array,
    bad_entry,
    check_memory,
    float_type,
    in_gpu_memory,
)

if find_spec("numba_cuda") is None:
    raise ImportError(
        'backend="cuda" needs the package numba-cuda: pip install "subsel[cuda]" '
        '(with a driver for CUDA 12: pip install "numba-cuda[cu12]")'
    )

from numba import config, cuda
from numba.cuda.cudadrv.driver import CudaAPIError

from subsel.kernels import cpu
from subsel.kernels import cuda as kernels
from subsel.kernels.cuda import AFRESH, CHANGES, LANES, LEADS, THREADS

SPATIAL_FROM = 20_000
"""Rows of a class from which on an order in space, found on the CPU, saves more than it takes."""

_OLDEST = (6, 0)
_RECORDED = 16  # rounds in a CUDA graph
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


def require_gpu() -> None:
    """Say what is missing, and what cures it, where there is no GPU that can be used.

    Raises
    ------
    RuntimeError
    """
    if config.ENABLE_CUDASIM:
        return
    if not cuda.is_available():
        raise RuntimeError(
            'backend="cuda" finds no NVIDIA GPU, or no driver for one: `nvidia-smi` must list a '
            'GPU, and `python -m numba -s` says what Numba found; or use backend="cpu"'
        )
    capability = cuda.get_current_device().compute_capability
    if tuple(capability) < _OLDEST:
        wanted, found = (".".join(map(str, pair)) for pair in (_OLDEST, capability))
        raise RuntimeError(
            f'backend="cuda" needs a GPU of compute capability {wanted} or later; this one has '
            f'{found}: use backend="cpu"'
        )


class Device:
    """The GPU, and the stream on which all is queued."""

    def __init__(self, stream: Any = 0) -> None:
        require_gpu()
        self.stream = stream

    def empty(self, shape: Any, dtype: Any) -> Any:
        """An array of undefined contents."""
        return cuda.device_array(shape, dtype, stream=self.stream)

    def upload(self, array: np.ndarray) -> Any:
        """A copy in the GPU's memory."""
        return cuda.to_device(np.ascontiguousarray(array), stream=self.stream)

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host, once all that was queued is done."""
        host = array.copy_to_host(stream=self.stream)
        self.synchronize()
        return host

    def run(self, kernel: Any, blocks: Any, threads: int, *arguments: Any) -> None:
        """Call a kernel once; it shares what is compiled with `repeat`."""
        self._launch(kernel.specialize(*arguments), blocks, threads)(*arguments)

    def repeat(self, steps: list[tuple], count: int) -> None:
        """Run kernels one after the other, `count` times over; a step is what `run` takes.

        A launch takes the host longer than most of these kernels take the GPU, so many rounds are
        recorded as a CUDA graph, which takes one launch.
        """
        if config.ENABLE_CUDASIM:
            for step in steps * count:
                self.run(*step)
            return
        # With no types to look up at each launch.
        steps = [(kernel.specialize(*rest[2:]), *rest) for kernel, *rest in steps]
        if count > 2 * _RECORDED:
            self._queue(steps, 1)  # so that kernels are loaded
            graph = self._recorded(steps)
            if graph is not None:
                stream = self._launch(*steps[0][:3]).stream
                for _ in range((count - 1) // _RECORDED):
                    graph.launch(stream)
                self._queue(steps, (count - 1) % _RECORDED)
                self.synchronize()  # before the graph goes
                return
            count -= 1
        self._queue(steps, count)

    def _queue(self, steps: list[tuple], count: int) -> None:
        launches = [(self._launch(*step[:3]), step[3:]) for step in steps]
        for launch, arguments in launches * count:
            launch(*arguments)

    def _recorded(self, steps: list[tuple]) -> Any:
        """Some rounds as a CUDA graph, or None."""
        try:
            from cuda.core import Device as CoreDevice

            core = CoreDevice()
            core.set_current()  # wanted once in each thread; the context is Numba's
            builder = core.create_graph_builder().begin_building()
            Device(builder)._queue(steps, _RECORDED)
            return builder.end_building().complete()
        except Exception as error:
            warnings.warn(
                f"no CUDA graph could be recorded ({type(error).__name__}: {error}); kernels are "
                "launched one by one, which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        if self.stream:
            self.stream.synchronize()
        else:
            cuda.synchronize()

    def _launch(self, kernel: Any, blocks: Any, threads: int) -> Any:
        with warnings.catch_warnings():  # that few blocks do not fill the GPU
            warnings.simplefilter("ignore")
            return kernel[blocks, threads, self.stream]

    def free_memory(self) -> float:
        """Bytes of the GPU's memory that are free."""
        return float(cuda.current_context().get_memory_info()[0])


@dataclass(frozen=True)
class Array:
    """A numeric array in the GPU's memory, and where to work on it."""

    data: Any
    device: Device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.data.shape)

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, indices: np.ndarray) -> "Array":
        """A copy of some rows."""
        slots = Layout.of([np.arange(len(indices))])
        dtype = float_type(self.data.dtype, "X")
        out = _gathered(self.device, self.data, indices[slots.local], self.shape[1], dtype)
        return Array(out[: len(indices)], self.device)


def as_array(array: Any, name: str) -> Array:
    """What lies in the GPU's memory as it is, without a copy; anything else is moved there.

    torch tensors are worked on in torch's current stream. For other arrays, the stream they name is
    waited for.
    """
    if isinstance(array, Array):
        return array
    if not in_gpu_memory(array):
        host = as_float_array(array, name)
        device = Device()
        return Array(device.upload(host), device)
    if type(array).__module__.split(".")[0] == "torch":
        return _of_tensor(array, name)
    device = Device()
    if hasattr(array, "__cuda_ndarray__"):  # Numba's own
        return Array(array, device)
    if hasattr(array, "__cuda_array_interface__"):
        return Array(cuda.as_cuda_array(array), device)
    import torch  # reads DLPack, Numba does not

    return _of_tensor(torch.from_dlpack(array), name)


def _of_tensor(tensor: Any, name: str) -> Array:
    import torch

    if str(tensor.layout) != "torch.strided" or tensor.is_complex():
        raise TypeError(f"{name} must be a dense real tensor, not {tensor.layout}, {tensor.dtype}")
    tensor = tensor.detach().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    device = Device(cuda.external_stream(stream) if stream else 0)
    current = cuda.current_context().device.id
    if tensor.device.index != current:
        raise ValueError(
            f"{name} lies on {tensor.device} but cuda:{current} is the current device: "
            f"torch.cuda.set_device({tensor.device.index}) first"
        )
    return Array(cuda.as_cuda_array(tensor), device)


@dataclass(frozen=True)
class Layout:
    """Members of each class in slots: its first slot, its size, and by slot which member it is.

    The last member also fills up the class's last tile.
    """

    start: np.ndarray
    size: np.ndarray
    local: np.ndarray

    @classmethod
    def of(cls, orders: list[np.ndarray]) -> "Layout":
        """Members in the order given, class by class."""
        size = np.array([len(order) for order in orders])
        start = np.concatenate([[0], np.cumsum(-(-size // LANES) * LANES)])
        filled = [np.pad(order, (0, -len(order) % LANES), mode="edge") for order in orders]
        return cls(start, size, np.concatenate(filled))

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.local) // LANES

    @property
    def group(self) -> np.ndarray:
        """Class of each tile."""
        return np.repeat(np.arange(len(self.size)), np.diff(self.start) // LANES)

    def members(self, by_slot: np.ndarray, c: int = 0) -> np.ndarray:
        """Values by slot, of a class, in the order of its members."""
        some = slice(self.start[c], self.start[c] + self.size[c])
        values = np.empty(self.size[c], by_slot.dtype)
        values[self.local[some]] = by_slot[some]
        return values

    def on(self, device: Device) -> kernels.Slots:
        """For the kernels."""
        return kernels.Slots(
            *map(device.upload, (self.start, self.size, self.group.astype(np.int32)))
        )

    def padding(self) -> np.ndarray:
        """Slots that are nobody's."""
        lane = np.arange(len(self.local)) - np.repeat(self.start[:-1], np.diff(self.start))
        return lane >= np.repeat(self.size, np.diff(self.start))


@dataclass
class State:
    """A search: the kernels' arrays, and whether gains were summed."""

    arrays: kernels.Search
    known: bool = False


class CudaSimilarity:
    """What features and matrices have in common.

    The attributes are those of `subsel.similarity.Similarity`, and so are the methods, which are
    about the only class; `offsets`, `units` and `grow_all` are of all classes.
    """

    path = ""
    _cover: Any
    _update: Any

    def __init__(self, device: Device, points: Layout, candidates: Layout, store: Any) -> None:
        self.device, self.points, self.candidates, self.store = device, points, candidates, store
        self.units = np.ones(len(points.size))
        self.offsets = np.zeros(len(points.size))

    @property
    def n(self) -> int:
        """Candidates."""
        return int(self.candidates.size.sum())

    @property
    def n_points(self) -> int:
        """Points represented."""
        return int(self.points.size.sum())

    @property
    def unit(self) -> float:
        """Similarity = unit * (stored + offset)."""
        return float(self.units[0])

    @property
    def offset(self) -> float:
        """Similarity = unit * (stored + offset)."""
        return float(self.offsets[0])

    def search(self) -> State:
        """Nothing selected."""
        up, empty, c = self.device.upload, self.device.empty, len(self.points.size)
        points, slots = len(self.points.local), len(self.candidates.local)
        tiles = self.candidates.tiles
        return State(
            kernels.Search(
                best=up(np.repeat(-self.offsets, np.diff(self.points.start))),
                before=empty(points, np.float64),
                assigned=up(np.zeros(points, np.int64)),
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

        Returns the elements and their gains, stored ones, (classes, most added); those of each
        class come first in its row.
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
        """Say which candidates are not to be added."""
        by_slot = taken[self.candidates.local] | self.candidates.padding()
        search.arrays.taken.copy_to_device(by_slot, stream=self.device.stream)

    def thinned(self, search: State) -> "CudaSimilarity":
        """What the search goes on with."""
        return self

    def grow(self, search: State, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily; how many."""
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
        slots = self.device.upload(self._slots[candidates])
        blocks = -(-len(candidates) // THREADS)
        self.device.run(
            kernels.gather_columns, blocks, THREADS, gains.reshape(1, gains.size), slots, out
        )
        return self.device.download(out)

    def add(self, search: State, element: int) -> None:
        """Add a candidate."""
        self._choose(search, self._slots[element])
        if search.known:
            self.device.run(*self._updating(search, CHANGES))

    def _choose(self, search: State, slot: int) -> None:
        self.device.run(kernels.choose, 1, 1, search.arrays, slot)
        self.device.run(*self._covering(search))

    @cached_property
    def _slots(self) -> np.ndarray:
        """Slot of each candidate."""
        return self.candidates.members(np.arange(len(self.candidates.local)))

    def assignment(self, search: State, c: int = 0) -> np.ndarray:
        """For each point, in the order of adding, the candidate that represents it."""
        return self.points.members(self.device.download(search.arrays.assigned), c)

    def value(self, search: State) -> float:
        """Sum of the points' similarities to what represents them."""
        best = self.points.members(self.device.download(search.arrays.best))
        return float((best + self.offset).sum()) * self.unit

    def represent(self, candidates: np.ndarray) -> tuple[State, np.ndarray]:
        """A search to which candidates were added one by one, and what each of them gained."""
        search = self.search()
        gains = self.device.upload(np.zeros(len(candidates)))
        for which, slot in enumerate(self._slots[candidates]):
            self._choose(search, slot)
            self.device.run(kernels.sum_won, self.points.tiles, LANES, search.arrays, gains, which)
        return search, self.device.download(gains) * self.unit

    def seen(self, search: State) -> int:
        """Similarities looked at to keep gains."""
        return int(self.device.download(search.arrays.seen)[0])

    def restrict(self, candidates: np.ndarray) -> "CudaSimilarity":
        """The same points with fewer candidates (of one class)."""
        part = copy(self)
        part.candidates = Layout.of([np.arange(len(candidates))])
        part.store = self._restricted(candidates, part.candidates)
        part.__dict__.pop("_slots", None)  # those of all candidates
        return part

    def _restricted(self, candidates: np.ndarray, layout: Layout) -> Any:
        raise NotImplementedError


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
        return cls._of(device, Layout.of([np.arange(n)]), Layout.of([np.arange(m)]), entries,
                       np.array([largest]))  # fmt: skip

    @classmethod
    def _of(
        cls, device: Device, points: Layout, candidates: Layout, entries: Any, spans: np.ndarray
    ) -> "CudaDense":
        at = np.concatenate([[0], np.cumsum(points.size * candidates.size)[:-1]])
        grids = [grid(int(n), float(span)) for n, span in zip(points.size, spans, strict=True)]
        round_off = np.array([1.5 * 2.0**52 * down for _, down in grids])
        store = kernels.Matrices(
            points.on(device), candidates.on(device), entries,
            device.upload(at), device.upload(round_off),
        )  # fmt: skip
        return cls(device, points, candidates, store)

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
        """Condition the rows of each class: a power-of-two scale, or unit length for cosine.

        Rows are put in an order in space if wanted, and if there are many.
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
        rows = _gathered(device, features.data, source, d + (metric == "cosine"), dtype)
        _check(device, rows[:, :d] if metric == "cosine" else rows, source, -math.inf, "X")
        slots = layout.on(device)
        scales = _condition(device, layout, slots, rows, metric, gamma)
        return cls._of(device, layout, slots, rows, metric, scales, layout.size)

    @classmethod
    def of_prepared(cls, features: np.ndarray, metric: str, scale: Scale, n: int) -> "CudaFeatures":
        """Rows that `subsel.similarity.prepared` made ready, of one class of `n` rows in all."""
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
        similarity = cls(device, layout, layout, store)
        similarity.metric = metric
        similarity.units = np.array([scale.unit for scale in scales])
        similarity.offsets = np.array([scale.offset for scale in scales])
        similarity.spans = np.array([scale.span for scale in scales])
        return similarity

    metric: str
    spans: np.ndarray

    def facing(self, count: int) -> "CudaFeatures":
        """The first `count` rows (of one class) as points, represented by the others alone."""
        part = copy(self)
        part.points = Layout.of([np.arange(count)])
        part.candidates = Layout.of([np.arange(self.n - count)])
        rows = self._columns(part.points.local)
        part.store = self._with_columns(count + part.candidates.local, part.candidates)
        part.store = part.store._replace(points=part.points.on(self.device), rows=rows)
        return part

    def fastest(self, memory: float) -> "CudaSimilarity":
        """Matrices of the same, if they fit in so many bytes and pay; else itself."""
        rows = self.store.rows
        pays = matrix_pays(self.metric, rows.shape[1])
        fits = (self.points.size**2).sum() * rows.dtype.itemsize <= memory
        return (self.matrices() if pays and fits else None) or self

    def matrices(self) -> CudaDense | None:
        """All similarities of each class, computed once, the same bits; None if out of memory."""
        sizes = self.points.size
        try:
            entries = self.device.empty(int((sizes * sizes).sum()), self.store.rows.dtype)
        except (CudaAPIError, MemoryError) as error:
            if isinstance(error, CudaAPIError) and int(error.args[0]) != _OUT_OF_MEMORY:
                raise
            return None
        plain = Layout.of([np.arange(n) for n in sizes])
        dense = CudaDense._of(self.device, plain, plain, entries, self.spans)
        blocks = self.points.tiles, -(-int(sizes.max()) // LANES)
        self.device.run(kernels.fill_matrices, blocks, THREADS, self.store, dense.store)
        dense.units, dense.offsets = self.units, self.offsets
        return dense

    def _restricted(self, candidates: np.ndarray, layout: Layout) -> kernels.Features:
        return self._with_columns(self._slots[candidates][layout.local], layout)

    def _with_columns(self, slots: np.ndarray, layout: Layout) -> kernels.Features:
        columns = self._columns(slots)
        least, largest = _boxes(self.device, columns)
        return self.store._replace(
            columns=columns, least=least, largest=largest, candidates=layout.on(self.device)
        )

    def _columns(self, slots: np.ndarray) -> Any:
        rows = self.store.columns
        return _gathered(self.device, rows, slots, rows.shape[1], rows.dtype)


def similarity_of_classes(
    features: Array,
    members: list[np.ndarray],
    metric: str,
    gamma: float | None,
    memory: float | None,
) -> CudaSimilarity:
    """Similarities of the rows of each class, in matrices if that pays and they fit."""
    budget = features.device.free_memory() / 4 if memory is None else check_memory(memory)
    itemsize = np.dtype(float_type(features.data.dtype, "X")).itemsize
    size = sum(len(rows) ** 2 for rows in members) * itemsize
    wanted = matrix_pays(metric, features.shape[1]) and size <= budget
    source = CudaFeatures.from_features(features, members, metric, gamma, in_space=not wanted)
    return (source.matrices() if wanted else None) or source


def select_classes(source: CudaSimilarity, counts: list[int], progress: bool) -> list[Selection]:
    """Greedy selections of all classes at a time."""
    search, goals = source.search(), np.array(counts)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with tqdm(total=sum(counts), desc="select", unit="element", disable=not progress) as bar:
        for part in portions(max(counts), 64):
            now = np.minimum(goals, part.stop)
            found.append(source.grow_all(search, now))
            bar.update(int((now - np.minimum(goals, part.start)).sum()))
    elements, gains = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    evaluations = -(-source.seen(search) // source.n_points)
    assigned = source.device.download(search.arrays.assigned)
    parts = []
    for c, k in enumerate(counts):
        assignment = source.points.members(assigned, c)
        won = gains[c, :k] * source.units[c]
        parts.append(Selection(
            indices=elements[c, :k], gains=won, value=math.fsum(won), n_evaluations=evaluations,
            assignment=assignment, sizes=np.bincount(assignment, minlength=k), path=source.path,
        ))  # fmt: skip
    return parts


def _order(features: Array, rows: np.ndarray, dtype: Any) -> np.ndarray:
    """Rows of a class in an order in space; found on the CPU."""
    host = features.device.download(features.rows(rows).data).astype(dtype, copy=False)
    return cpu.spatial_order(host) if np.isfinite(host).all() else np.arange(len(rows))


def _gathered(device: Device, rows: Any, order: np.ndarray, width: int, dtype: Any) -> Any:
    """Rows in an order that fills tiles (len(order), width); further columns are undefined."""
    out = device.empty((len(order), width), dtype)
    device.run(kernels.gather, len(order) // LANES, THREADS, rows, device.upload(order), out)
    return out


def _check(device: Device, array: Any, order: np.ndarray, low: float, name: str) -> float:
    """Refuse NaN, inf and what is less than `low`; says where the first is. The largest entry."""
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
    """Scale the rows of each class in place, as `FeatureSimilarity.from_features` does."""
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
