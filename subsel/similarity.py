"""Where similarities come from: a dense matrix, a sparse one, or features that give them anew.

Each makes a store for the kernels (see `subsel.kernels.cpu`), with points and candidates in an
order of its own ("slots"). Similarities are stored less an offset and in a unit of their own, so
that distances keep their full precision near zero: similarity = unit * (stored + offset).
"""

import math
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import LANES, Dense, Search, Sparse, Tiled
from subsel.validation import as_csr, check_entries, read_only

METRICS = {
    "euclidean": cpu.EUCLIDEAN,
    "cosine": cpu.COSINE,
    "dot": cpu.DOT,
    "rbf": cpu.RBF,
}

DENSE_FROM_DIMENSION = 33
"""Width of features from which on a matrix in memory is faster than computing again; below it the
bounds on distance skip more than the matrix saves (docs/performance.md)."""

_LOG = 3
"""Changes logged for each point before all blocks are settled and the log starts anew."""

_PARALLEL_WORK = 2**22
"""Similarities to look at from which on starting threads costs less than it saves."""

_THIN_AT, _THIN_FROM, _THIN_TO = 64, 2**22, 32
"""A matrix of so many entries is thinned out once there are so many elements (a power of two, and
at each doubling again), if what is left is at most one entry in so many."""


class Similarity:
    """What the three kinds have in common; here, slots are the rows and columns themselves.

    Attributes
    ----------
    store : Dense, Sparse or Tiled
    n_points, n : int
        Points represented, and candidates.
    width : int
        Candidates in a block.
    offset, unit, span : float
        Similarity = unit * (stored + offset), stored within `span` above -offset.
    path : str
    """

    path = ""
    store: Any
    n_points: int
    n: int
    width: int
    offset = 0.0
    unit = 1.0
    span: float
    _number: Any = np.float64

    def search(self, *, log: bool = True) -> Search:
        """Nothing selected; without a `log`, gains cannot be kept."""
        blocks = -(-self.n // self.width)
        n_points = self._point_slots
        entries = (_LOG if log else 1) * n_points
        best = np.full(n_points, -self.offset)
        best[self.n_points :] = np.inf
        return Search(
            best=best,
            assigned=np.zeros(n_points, np.int64),
            last=np.full(n_points, -1),
            reach=np.full(-(-n_points // LANES), np.inf, self._number),
            changed=np.empty(entries, np.int64),
            before=np.empty(entries),
            previous=np.empty(entries, np.int64),
            run_start=np.zeros(entries + 1, np.int64),
            run_group=np.empty(entries, np.int64),
            run_reach=np.empty(entries, self._number),
            gains=np.zeros(blocks * self.width),
            taken=np.zeros(self.n, bool),
            order=self.order,
            top=np.full(blocks, np.inf),
            lead=np.arange(blocks) * self.width,
            settled=np.full(blocks, -1),
            todo=np.empty(blocks, np.int64),
            counts=np.zeros(5, np.int64),
            width=self.width,
        )

    def settle(self, search: Search, blocks: np.ndarray) -> None:
        """Bring the gains of blocks of candidates up to date, on all threads if it pays."""
        blocks = blocks[search.settled[blocks] != search.counts[cpu.RUNS]]
        if cpu.pending(search, blocks) >= self._too_much:
            cpu.settle_parallel(self.store, search, blocks)
        else:
            cpu.settle_serial(self.store, search, blocks)

    @property
    def _too_much(self) -> int:
        """Similarities from which on work is for several threads."""
        return _PARALLEL_WORK if cpu.threads() > 1 else 2**62

    def make_room(self, search: Search) -> None:
        """See to it that the log takes another element's changes."""
        if search.counts[cpu.LOGGED] + len(search.best) > len(search.changed):
            self._empty_log(search)

    def _empty_log(self, search: Search) -> None:
        self.settle(search, np.flatnonzero(search.settled >= 0))
        search.counts[cpu.LOGGED] = search.counts[cpu.RUNS] = 0
        search.last[:] = -1
        np.minimum(search.settled, 0, out=search.settled)

    def thinned(self, search: Search) -> "Similarity":
        """What the search goes on with: the same, less what cannot count for it any more."""
        return self

    def grow(self, search: Search, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily, up to where `thinned` is to be asked: how many."""
        cpu.find_leads(search)
        at = 0
        while True:
            self.make_room(search)
            at = cpu.advance(self.store, search, elements, gains, at, self._too_much)
            if at == len(elements):
                return at
            self.settle(search, search.todo[: search.counts[cpu.TODO]])

    def mark_taken(self, search: Search, taken: np.ndarray) -> None:
        """Say which candidates are not to be added."""
        np.copyto(search.taken, taken[self.order])

    def gains(self, search: Search, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates, brought up to date, in units of `unit`."""
        slots = self.slots(candidates)
        self.settle(search, np.unique(slots // search.width))
        return search.gains[slots]

    def add(self, search: Search, element: int) -> None:
        """Add a candidate."""
        self.make_room(search)
        cpu.add(self.store, self.slots(element), search)

    def assignment(self, search: Search) -> np.ndarray:
        """For each point, in the order of adding, the candidate that represents it."""
        return self.of_points(search.assigned)[: self.n_points].copy()

    def value(self, search: Search) -> float:
        """Sum of the points' similarities to what represents them."""
        best = self.of_points(search.best)[: self.n_points]
        return float((best + self.offset).sum()) * self.unit

    def represent(self, candidates: np.ndarray) -> tuple[Search, np.ndarray]:
        """A search to which candidates were added one by one, and what each of them gained."""
        search = self.search(log=False)
        gains = cpu.represent(self.store, self.slots(candidates), search)
        return search, gains * self.unit

    @staticmethod
    def seen(search: Search) -> int:
        """Similarities looked at."""
        return int(search.counts[cpu.SEEN])

    @property
    def _point_slots(self) -> int:
        return self.n_points

    @cached_property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return np.arange(self.n)

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return candidates

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot


def grid(n_points: int, span: float) -> tuple[float, float]:
    """The grid on which sums of `n_points` similarities in 0..span are exact in float64."""
    if span <= 0:
        return 1.0, 1.0
    (a, points), (b, size) = math.frexp(n_points), math.frexp(span)
    exponent = points + size + math.frexp(a * b)[1]  # of n_points * span, which may overflow
    if not -960 < exponent < 1000:
        raise ValueError(
            f"similarities of magnitude {span:g} cannot be summed in float64; rescale them"
        )
    exponent = max(exponent, math.frexp(span)[1] + 4)  # room for rounding by addition
    return 2.0 ** (53 - exponent), 2.0 ** (exponent - 53)


class DenseSimilarity(Similarity):
    """Similarities in an array of shape (n_points, n_candidates)."""

    path = "dense"

    def __init__(
        self, matrix: np.ndarray, *, span: float, symmetric: bool, offset: float = 0.0,
        unit: float = 1.0,
    ) -> None:  # fmt: skip
        self.matrix = matrix
        self.n_points, self.n = matrix.shape
        # Long stretches of a row for the processor to read ahead, and enough blocks for threads.
        blocks = 4 * -(-self.n // 2**14) if self.n > 2048 else 1
        self.width = -(-self.n // blocks)
        self.offset, self.unit, self.span = offset, unit, span
        self.store = Dense(matrix, symmetric, *grid(self.n_points, span))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, name: str) -> "DenseSimilarity":
        """Check a user's matrix. In F order it is transposed if symmetric, else copied."""
        largest = check_entries(matrix, name, non_negative=True)
        symmetric = False
        if not matrix.flags.c_contiguous and matrix.flags.f_contiguous:
            transpose = read_only(matrix.T)
            symmetric = matrix.shape[0] == matrix.shape[1] and cpu.is_symmetric(transpose)
            matrix = transpose if symmetric else matrix
        return cls(read_only(matrix), span=largest, symmetric=symmetric)

    def grow(self, search: Search, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily, up to where `thinned` is to be asked: how many."""
        added = int(search.counts[cpu.ADDED])
        room = max(_THIN_AT, 1 << added.bit_length()) - added
        return super().grow(search, elements[:room], gains[:room])

    def thinned(self, search: Search) -> Similarity:
        """After some elements: entries above their point's best, as the others cannot count.

        They are few, about one in as many as there are elements; if they are more than one in
        `_THIN_TO`, or the matrix so small that it does not matter, they are left where they are.
        """
        added = int(search.counts[cpu.ADDED])
        if added < _THIN_AT or added & (added - 1) or self.matrix.size < _THIN_FROM:
            return self
        from scipy.sparse import csr_array  # takes longer to import than subsel

        starts = np.zeros(self.n_points + 1, np.int64)
        self._in_pieces(cpu.count_above, search.best, starts[1:])
        np.cumsum(starts, out=starts)
        search.counts[cpu.SEEN] += self.matrix.size
        if starts[-1] > self.matrix.size // _THIN_TO:
            return self
        search.counts[cpu.SEEN] += self.matrix.size
        # Also the blocks that never had to be: a sparse matrix has all gains, or none.
        self.settle(search, np.arange(len(search.settled)))
        self._empty_log(search)
        columns = np.empty(starts[-1], np.int32)
        data = np.empty(starts[-1], self.matrix.dtype)
        self._in_pieces(cpu.write_above, search.best, starts, columns, data)
        rows = csr_array((data, columns, starts), self.matrix.shape)
        return SparseSimilarity(rows, rows.tocsc(), self.span)

    def _in_pieces(self, kernel: Any, *arguments: Any) -> None:
        """Call a kernel for all points, some at a time, on all threads."""
        step = -(-self.n_points // (8 * cpu.threads()))
        pieces = [(i, min(i + step, self.n_points)) for i in range(0, self.n_points, step)]
        with ThreadPoolExecutor(cpu.threads()) as pool:
            list(pool.map(lambda piece: kernel(self.matrix, *arguments, *piece), pieces))

    def restrict(self, candidates: np.ndarray) -> "DenseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = read_only(self.matrix[:, candidates])
        return DenseSimilarity(
            columns, span=self.span, symmetric=False, offset=self.offset, unit=self.unit
        )


class SparseSimilarity(Similarity):
    """Similarities in compressed rows and columns; absent entries are 0."""

    path = "sparse"
    width = 512
    _too_much = 2**62

    def __init__(self, rows: Any, columns: Any, span: float) -> None:
        self.columns, self.span = columns, span
        self.n_points, self.n = rows.shape
        up, down = grid(self.n_points, span)
        self.store = Sparse(*_compressed(rows), *_compressed(columns), up, down)

    @classmethod
    def from_matrix(cls, matrix: Any, name: str) -> "SparseSimilarity":
        """Check a user's scipy matrix or array, in any format; duplicate entries are summed."""
        rows = as_csr(matrix, name)
        for at in np.flatnonzero(~(np.isfinite(rows.data) & (rows.data >= 0)))[:1]:
            i = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            raise ValueError(
                f"{name}[{i}, {rows.indices[at]}] is {rows.data[at]}; "
                "similarities must be finite and not negative"
            )
        return cls(rows, rows.tocsc(), float(rows.data.max()) if rows.nnz else 0.0)

    def restrict(self, candidates: np.ndarray) -> "SparseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = self.columns[:, candidates]
        return SparseSimilarity(columns.tocsr(), columns, self.span)


def _compressed(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, indices and entries, in the one type that they are compiled for unless too many."""
    index = np.int32 if max(matrix.shape) < 2**31 else np.int64
    return (
        read_only(matrix.indptr.astype(np.int64)),
        read_only(matrix.indices.astype(index, copy=False)),
        read_only(matrix.data),
    )


class Tiles:
    """Rows of features in groups of LANES neighbours, one tile each, with a box around them."""

    def __init__(self, features: np.ndarray) -> None:
        n, d = features.shape
        self.order = cpu.spatial_order(features)
        self.slot = np.empty(n, np.int64)
        self.slot[self.order] = np.arange(n)
        self.count = -(-n // LANES)
        padding = self.count * LANES - n
        slots = np.concatenate([self.order, np.full(padding, self.order[-1])])
        self.rows = read_only(features[slots])
        tiled = self.rows.reshape(self.count, LANES, d)
        members = np.full(self.count, LANES)
        members[-1] -= padding
        self.tiles = read_only(tiled.transpose(0, 2, 1)).reshape(self.count, d * LANES)
        self.boxes = read_only(tiled.min(axis=1)), read_only(tiled.max(axis=1))
        self.members = members


@dataclass(frozen=True)
class Scale:
    """Similarity = unit * (stored + offset), stored within `span` above -offset.

    Features are divided by 2**exponent first; `gamma` is that of the divided ones.
    """

    unit: float
    offset: float
    span: float
    exponent: int = 0
    gamma: float = 1.0


def choose_scale(
    metric: str, gamma: float | None, low: np.ndarray, high: np.ndarray, radius: float
) -> Scale:
    """From the range of each feature, and the largest distance of a row to their middle."""
    if metric == "cosine":
        return Scale(1.0, 2.0, 2.0)
    d, limits = len(low), np.finfo(low.dtype)
    if radius and not (1e-150 < radius < 1e150 if metric == "dot" else radius < 1e300):
        raise ValueError(f"X spreads over {radius:g}, too far for {metric}; rescale it")
    # Near the spread, but not so small that the largest feature overflows.
    largest = max(abs(float(low.min())), abs(float(high.max())))
    exponent = max(math.frexp(radius)[1], math.frexp(largest)[1] - int(limits.maxexp) + 8)
    unit = math.ldexp(1.0, exponent)
    bound = _round_up(radius / unit * (1 + (d + 64) * float(limits.eps)))
    if metric == "euclidean":
        return Scale(unit, 2 * bound, 2 * bound, exponent)
    if metric == "dot":
        offset = 0.0 if low.min() >= 0 else _round_up(bound**2)
        return Scale(unit**2, offset, offset + _round_up(bound**2), exponent)
    rate = (1 / d if gamma is None else gamma) * unit * unit
    rate = min(max(rate, float(limits.tiny)), float(limits.max) / 2**10)
    return Scale(1.0, 1.0, 1.0, exponent, rate)


def spread(metric: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of the ranges (for inner products the origin), and how far features go from it."""
    middle = np.zeros(len(low)) if metric == "dot" else low.astype(np.float64) / 2 + high / 2.0
    return middle, float(np.maximum(high - middle, middle - low).max())


def choose_rule(metric: str, scale: Scale, n_points: int, d: int, dtype: Any) -> tuple:
    """What kernels need to know: metric, gamma, the grid, and a factor that keeps bounds safe."""
    up, down = grid(n_points, scale.span)
    # A computed distance is off by at most (d + 4) / 2 units in the last place; the last
    # factor makes every bound on distances err on the side of looking.
    shrink = 1 - (d + 64) * 4 * float(np.finfo(dtype).eps)
    number = np.dtype(dtype).type
    return METRICS[metric], number(scale.gamma), number(up), number(down), number(shrink)


def matrix_pays(metric: str, d: int) -> bool:
    """Whether selecting from d features is faster with all similarities in memory."""
    return d >= DENSE_FROM_DIMENSION or metric == "dot"


class FeatureSimilarity(Similarity):
    """Similarities computed from features whenever they are needed; memory O(n d).

    Points and candidates are kept in tiles of nearby rows. A tile so far from a point that none of
    its rows can be more similar than the point's representative is skipped.
    """

    path = "features"
    width = LANES

    def __init__(
        self, features: np.ndarray, metric: str, scale: Scale, n: int | None = None
    ) -> None:
        """Of prepared features, which may be a part of `n` rows that sums have to be exact for."""
        self._features: np.ndarray | None = features
        self.metric = metric
        self.n = self.n_points = len(features)
        self.unit, self.offset, self.span = scale.unit, scale.offset, scale.span
        self._number = features.dtype.type
        self.rule = choose_rule(metric, scale, n or self.n, features.shape[1], features.dtype)

    @classmethod
    def from_features(
        cls, features: np.ndarray, metric: str, gamma: float | None
    ) -> "FeatureSimilarity":
        """Condition checked features: a power-of-two scale, or unit length for cosine."""
        features = read_only(features)
        low, high = features.min(axis=0), features.max(axis=0)
        middle, extent = spread(metric, low, high)
        radius = 0.0 if metric == "cosine" else farthest(features, middle, extent)
        scale = choose_scale(metric, gamma, low, high, radius)
        return cls(prepared(features, metric, scale), metric, scale)

    def facing(self, count: int) -> "FeatureSimilarity":
        """The first `count` rows as points, represented by the others alone."""
        rows = self._features
        assert rows is not None, "only as long as there are no tiles"
        part = copy(self)
        part._features, part.n_points = read_only(rows[:count]), count
        part.candidates, part.n = Tiles(rows[count:]), len(rows) - count
        return part

    def restrict(self, candidates: np.ndarray) -> "FeatureSimilarity":
        """The same points with fewer candidates."""
        part = copy(self)
        part.points = self.points
        part.candidates = Tiles(self.candidates.rows[self.slots(candidates)])
        part.n = len(candidates)
        part.__dict__.pop("store", None)  # that of all candidates
        return part

    def fastest(self, memory: int) -> Similarity:
        """A matrix of the same, if it fits in so many bytes and pays; else itself."""
        assert self._features is not None, "only as long as there are no tiles"
        size = self.n**2 * (self._features.itemsize + 1)  # 1: see `thinned`
        pays = matrix_pays(self.metric, self._features.shape[1])
        return self.matrix() if pays and size <= memory else self

    def matrix(self) -> DenseSimilarity:
        """All similarities of the points to one another, computed once; the same bits."""
        rows = self._features
        assert rows is not None, "only as long as there are no tiles"
        rows = read_only(np.pad(rows, [(0, -len(rows) % LANES), (0, 0)]))
        count, d = len(rows) // LANES, rows.shape[1]
        tiles = read_only(rows.reshape(count, LANES, d).transpose(0, 2, 1))
        out = np.empty((self.n_points, self.n_points), rows.dtype)
        arguments = tiles.reshape(count, d * LANES), rows, self.rule, out
        if cpu.threads() > 1:
            cpu.tile_matrix_parallel(*arguments)
        else:
            for block in range(count):
                cpu.tile_matrix(*arguments, block)
        return DenseSimilarity(
            read_only(out), span=self.span, symmetric=True, offset=self.offset, unit=self.unit
        )

    @cached_property
    def points(self) -> Tiles:
        """Tiles of the points, which take the place of the features."""
        features, self._features = self._features, None
        assert features is not None
        return Tiles(features)

    @cached_property
    def candidates(self) -> Tiles:
        """Tiles of the candidates; those of the points where every point is one."""
        return self.points

    @cached_property
    def store(self) -> Tiled:
        """For the kernels."""
        points, candidates = self.points, self.candidates
        least, largest = (read_only(corner.T).reshape(-1) for corner in points.boxes)
        return Tiled(
            points.rows, points.tiles, least, largest, points.members,
            candidates.rows, candidates.tiles, *candidates.boxes, candidates.members,
            *self.rule,
        )  # fmt: skip

    def grow(self, search: Search, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily."""
        untouched = not search.counts[cpu.ADDED] and (search.settled < 0).all()
        if self.candidates is self.points and untouched:
            if cpu.threads() > 1 and self.n**2 >= 2 * _PARALLEL_WORK:
                cpu.sum_all_parallel(self.store, search, cpu.threads())
            else:
                cpu.sum_all(self.store, search)
        return super().grow(search, elements, gains)

    @property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return self.candidates.order

    @property
    def _point_slots(self) -> int:
        return self.points.count * LANES

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return self.candidates.slot[candidates]

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot[self.points.slot]


def farthest(features: np.ndarray, middle: np.ndarray, extent: float) -> float:
    """Largest distance of a row to `middle`, from which no feature is farther than `extent`."""
    return cpu.radius(features, middle, extent) if 0 < extent < math.inf else extent


def prepared(features: np.ndarray, metric: str, scale: Scale) -> np.ndarray:
    """What kernels work on: features near 1 in magnitude, or of unit length for cosine."""
    if metric != "cosine":
        return read_only(np.ldexp(features, -scale.exponent))
    rows = np.empty((len(features), features.shape[1] + 1), features.dtype)
    return read_only(rows if cpu.unit_rows(features, rows) else rows[:, :-1])


def _round_up(x: float) -> float:
    """The next number with at most eight significant bits: exact on every grid we use."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)
