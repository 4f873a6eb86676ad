"""Similarities computed from features."""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import LANES, Tiled
from subsel.pacing import interruptible, portion, portions
from subsel.sources import base
from subsel.sources.base import Similarity
from subsel.sources.dense import DenseSimilarity
from subsel.sources.measures import Measured
from subsel.sources.scale import (
    UNIT_LENGTH,
    Scale,
    centred,
    choose_rule,
    choose_scale,
    is_tiled,
    matrix_fits,
    spread,
)
from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_held_array,
    check_entries,
    check_matrix_shape,
    check_memory,
    read_only,
)

_PORTION = 2**18
"""Narrow numbers that are converted at a time."""

_FEW = 2**22
"""Features up to which rows are kept beside tiles, 16 MB in float32."""

_LONG = 2**21
"""Numbers from which on an order in space takes longer than Ctrl-C may wait."""


class Tiles:
    """Rows of features in groups of LANES neighbours, one tile each, with a box around them.

    Few rows are also kept row by row, which is a little faster. Of many there are only the tiles,
    and they are filled a few at a time.

    Parameters
    ----------
    rows : ndarray of shape (n, d), or `Prepared`
    """

    def __init__(self, rows: Any) -> None:
        n, d = rows.shape
        few = n * d <= _FEW
        find = cpu.spatial_order
        whole = read_only(rows[:])
        self.order = find(whole) if n * d <= _LONG else interruptible(find, whole)
        del whole
        self.slot = np.empty(n, np.int64)
        self.slot[self.order] = np.arange(n)
        self.count = -(-n // LANES)
        padding = self.count * LANES - n
        slots = np.concatenate([self.order, np.full(padding, self.order[-1])])
        members = np.full(self.count, LANES)
        members[-1] -= padding
        self.members = read_only(members)
        tiles = np.empty((self.count, d, LANES), rows.dtype)
        low, high = np.empty((2, self.count, d), rows.dtype)
        step = self.count if few else max(1, _PORTION // (d * LANES))
        for start in range(0, self.count, step):
            part = slice(start, start + step)
            some = rows[slots[start * LANES : (start + step) * LANES]]
            tiled = some.reshape(-1, LANES, d)
            tiles[part] = tiled.transpose(0, 2, 1)
            low[part], high[part] = tiled.min(axis=1), tiled.max(axis=1)
        self.tiles = read_only(tiles.reshape(self.count, d * LANES))
        self.rows = read_only(some) if few else self.tiles
        self.boxes = read_only(low), read_only(high)

    def rows_at(self, slots: np.ndarray) -> np.ndarray:
        """Some of the rows."""
        by_tile = self.tiles.reshape(self.count, -1, LANES)
        return by_tile[slots // LANES, :, slots % LANES]


class Features:
    """Checked features in main memory, (n, d), from which sources of similarities are made.

    Narrow ones, such as float16 and int8, stay as they are until a source is made of them.

    Attributes
    ----------
    array : ndarray
    dtype : dtype
        Of the numbers that they are computed in, float32 or float64.
    """

    together = False
    """Whether all classes are searched in the same launches."""

    def __init__(self, X: ArrayLike) -> None:
        self.array, self.dtype = as_held_array(X, "X")
        check_matrix_shape(self.array.shape, "X", "(n, d)")
        check_entries(self.array, "X", dtype=self.dtype)

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, indices: np.ndarray) -> "Features":
        """A copy of some rows."""
        part = Features.__new__(Features)
        part.array, part.dtype = self.array[indices].astype(self.dtype, copy=False), self.dtype
        return part

    def similarity(self, metric: str, gamma: float | None, memory: float | None) -> Similarity:
        """Similarities between the rows, by the fastest way that fits into `memory`."""
        if not is_tiled(metric):
            return Measured(self.floats(), metric).similarity(memory)
        own = Conditioned.of(self.array, metric, gamma, dtype=self.dtype)
        return own.fastest(check_memory(memory))

    def floats(self) -> np.ndarray:
        """All rows as they are computed in."""
        return self.array.astype(self.dtype, copy=False)

    def beside(
        self, others: np.ndarray, metric: str, gamma: float | None, memory: float | None
    ) -> Similarity:
        """Similarities of the rows to these rows and to `others`, which come after them."""
        stacked = np.concatenate([self.floats(), others])
        if not is_tiled(metric):
            return Measured(stacked, metric).similarity(memory, len(self))
        return Conditioned.of(stacked, metric, gamma, len(self)).fastest(check_memory(memory))

    def others(self, items: ArrayLike, name: str) -> np.ndarray:
        """Checked features of other items, with the same number of columns and of the same type."""
        array = as_float_array(items, name)
        d = self.array.shape[1]
        check_matrix_shape(array.shape, name, f"(items, {d}), like X")
        if array.shape[1] != d:
            raise ValueError(f"{name} must have the {d} columns that X has, not {array.shape[1]}")
        with np.errstate(over="ignore"):  # what overflows becomes inf, and is refused as that
            array = array.astype(self.dtype)
        check_entries(array, name)
        return array

    def guided(
        self, metric: str, gamma: float | None, memory: float | None, others: list[np.ndarray]
    ) -> tuple[Similarity, list[np.ndarray]]:
        """Similarities of the rows to one another, and each row's largest to rows of others.

        All of them have the same unit and an offset that makes none of them negative.
        """
        stacked = np.concatenate([self.floats(), *others])
        n, at, largest = len(self), len(self), []
        if not is_tiled(metric):
            measured = Measured(stacked, metric)
            for other in others:
                largest.append(measured.largest(at, at + len(other), n))
                at += len(other)
            return measured.similarity(memory, n, n), largest
        whole = Conditioned.of(stacked, metric, gamma)
        metric = whole.metric
        own = Conditioned(whole.rows[:n], metric, whole.scale)
        for other in others:
            rows = np.concatenate([own.rows, whole.rows[at : at + len(other)]])
            facing = Conditioned(rows, metric, whole.scale, n).facing(n)
            largest.append(facing.best(facing.represent(np.arange(len(other)))[0]))
            at += len(other)
        return own.fastest(check_memory(memory)), largest


class Conditioned:
    """Features prepared for the kernels (an array, or `Prepared`), and the unit of similarities.

    The first `n_points` of the rows are the points that are represented, by default all; every row
    is a candidate. `rows` may be a part of `total` rows, for which sums have to be exact.
    """

    def __init__(
        self, rows: Any, metric: str, scale: Scale, total: int | None = None,
        n_points: int | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.metric, self.scale = rows, metric, scale
        self.n_points = n_points or len(rows)
        total = total or self.n_points
        self.rule = choose_rule(metric, scale, total, rows.shape[1], rows.dtype)

    @classmethod
    def of(
        cls, features: np.ndarray, metric: str, gamma: float | None, n_points: int | None = None,
        dtype: Any = None,
    ) -> "Conditioned":  # fmt: skip
        """Checked features, which become numbers of `dtype`; see `conditioned`."""
        dtype = features.dtype if dtype is None else dtype
        if features.dtype == dtype:
            features = read_only(features)
        if metric in ("cosine", "correlation"):
            scale, kind = UNIT_LENGTH, "cosine"
        else:
            ends = [(rows.min(axis=0), rows.max(axis=0)) for _, rows in parts(features, dtype)]
            low = reduce(np.minimum, [least for least, _ in ends])
            high = reduce(np.maximum, [most for _, most in ends])
            middle, extent = spread(metric, low, high)
            radius = max(farthest(rows, middle, extent) for _, rows in parts(features, dtype))
            scale, kind = choose_scale(metric, gamma, low, high, radius), metric
        if features.size <= _FEW:
            rows: Any = conditioned(features, metric, scale, dtype)
        else:
            rows = Prepared(features, metric, scale, dtype)
        return cls(rows, kind, scale, n_points=n_points)

    def fastest(self, memory: int) -> Similarity:
        """A matrix if it is faster, fits into so many bytes and can be allocated; else tiles."""
        n, d = self.rows.shape
        if matrix_fits(self.metric, n, d, self.rows.itemsize, memory):
            try:
                return self.matrix()
            except MemoryError:
                pass  # tiles give the same answer
        return self.tiled()

    def tiled(self) -> "FeatureSimilarity":
        """A source without a matrix, in which all rows are candidates."""
        tiles = points = Tiles(self.rows)
        if self.n_points < len(self.rows):
            points = Tiles(read_only(self.rows[: self.n_points]))
        return FeatureSimilarity(points, tiles, self.metric, self.scale, self.rule)

    def facing(self, count: int) -> "FeatureSimilarity":
        """A source in which the first `count` rows are points and the others candidates."""
        points, candidates = Tiles(read_only(self.rows[:count])), Tiles(self.rows[count:])
        return FeatureSimilarity(points, candidates, self.metric, self.scale, self.rule)

    def matrix(self) -> DenseSimilarity:
        """A matrix of all similarities of the points to the rows, with the same bits as tiles."""
        n, d = self.rows.shape
        rows = read_only(np.pad(self.rows[:], [(0, -n % LANES), (0, 0)]))
        count = len(rows) // LANES
        tiles = read_only(rows.reshape(count, LANES, d).transpose(0, 2, 1))
        # A product with each of sixteen features counts as a similarity.
        pieces = cpu.threads() if n * n // 2 * d >= 16 * base.PARALLEL_WORK else 1
        out, sums, least = np.empty((n, n), rows.dtype), np.zeros((pieces, n)), np.empty(pieces)
        smallest, fixed = math.inf, (tiles.reshape(count, d * LANES), rows, self.rule)
        for part in portions(count, portion(n * n // 2, count)):
            if pieces == 1:
                least[0] = cpu.tile_matrix(*fixed, part.start, part.stop, 1, out, sums[0])
            else:
                cpu.tile_matrix_parallel(*fixed, part.start, part.stop, out, sums, least)
            smallest = min(smallest, float(least.min()))
        scale = self.scale
        similarity = DenseSimilarity(
            read_only(out[: self.n_points]), span=scale.span, symmetric=self.n_points == n,
            offset=scale.offset, unit=scale.unit,
        )  # fmt: skip
        if self.n_points == n:
            similarity.known = sums.sum(axis=0), smallest
        return similarity


class FeatureSimilarity(Similarity):
    """Similarities computed from tiles of features whenever they are needed; memory O(n d).

    A tile is skipped if it is so far from a point that none of its rows can be more similar than
    the representative of the point.
    """

    path = "features"
    width = LANES

    def __init__(
        self, points: Tiles, candidates: Tiles, metric: str, scale: Scale, rule: tuple
    ) -> None:
        self.points, self.candidates = points, candidates
        self.metric, self.scale, self.rule = metric, scale, rule
        self.n_points, self.n = len(points.order), len(candidates.order)
        self.unit, self.offset, self.span = scale.unit, scale.offset, scale.span
        self._number = points.tiles.dtype.type
        least, largest = (read_only(corner.T).reshape(-1) for corner in points.boxes)
        self.store = Tiled(
            points.rows, points.tiles, least, largest, points.members,
            candidates.rows, candidates.tiles, *candidates.boxes, candidates.members,
            *rule,
        )  # fmt: skip

    def restrict(self, candidates: np.ndarray) -> "FeatureSimilarity":
        """The same points with fewer candidates."""
        chosen = Tiles(self.candidates.rows_at(self.slots(candidates)))
        return FeatureSimilarity(self.points, chosen, self.metric, self.scale, self.rule)

    @property
    def mirrored(self) -> bool:  # type: ignore[override]
        """Whether candidates are the points."""
        return self.candidates is self.points

    def sums(self, low: float) -> np.ndarray | None:
        """The sum of each row's similarities, at least `low`, from each pair of rows once."""
        if not self.mirrored:
            return None
        count, pairs = self.points.count, self.n**2 // 2
        pieces = cpu.threads() if pairs >= base.PARALLEL_WORK else 1
        sums = np.zeros((pieces, self.point_slots))
        for part in portions(count, portion(pairs, count)):
            if pieces == 1:
                cpu.sum_pairs(self.store, low, part.start, part.stop, 1, sums[0])
            else:
                cpu.sum_pairs_parallel(self.store, low, part.start, part.stop, sums)
        return sums.sum(axis=0)[: self.n]

    @property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return self.candidates.order

    @property
    def point_slots(self) -> int:
        """Slots of points, padding included."""
        return self.points.count * LANES

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return self.candidates.slot[candidates]

    def points_in_slots(self, values: np.ndarray) -> np.ndarray:
        """Values in the order of the points, by slot; padding has the last one's."""
        by_slot = np.full(self.point_slots, values[self.points.order[-1]], values.dtype)
        by_slot[self.points.slot] = values
        return by_slot

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot[self.points.slot]


def farthest(features: np.ndarray, middle: np.ndarray, extent: float) -> float:
    """Largest distance of a row to `middle`. No feature is farther from it than `extent`."""
    return cpu.radius(features, middle, extent) if 0 < extent < math.inf else extent


class Prepared:
    """Conditioned rows (n, d) that are made anew, some at a time, whenever they are asked for."""

    def __init__(self, features: np.ndarray, metric: str, scale: Scale, dtype: Any) -> None:
        self._features, self._how = features, (metric, scale, dtype)
        self.dtype, self.itemsize = np.dtype(dtype), np.dtype(dtype).itemsize
        n, d = features.shape
        self._wide = any(_any_zero(rows, metric) for _, rows in parts(features, dtype))
        self.shape = n, d + self._wide

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: Any) -> np.ndarray:
        return conditioned(self._features[some], *self._how, wide=self._wide)


def _any_zero(rows: np.ndarray, metric: str) -> bool:
    """Whether a row has no direction."""
    if metric == "correlation":
        return bool((rows.min(axis=1) == rows.max(axis=1)).any())
    return metric == "cosine" and not rows.any(axis=1).all()


def conditioned(
    features: np.ndarray, metric: str, scale: Scale, dtype: Any = None, wide: bool | None = None
) -> np.ndarray:
    """Features as the kernels need them: near 1 in magnitude, or of unit length for cosine.

    Where there are rows of zeros, or if `wide`, there is one more column, which is 1 for these: a
    direction of their own, orthogonal to all others. Correlation is the cosine of centred rows.
    """
    dtype = features.dtype if dtype is None else dtype
    n, d = features.shape
    out = np.empty((n, d + bool(wide)), dtype)
    any_zero = False
    for part, rows in parts(features, dtype):
        if metric in ("cosine", "correlation"):
            rows = read_only(centred(rows)) if metric == "correlation" else rows
            any_zero |= cpu.unit_rows(rows, out[part])
        else:
            np.ldexp(rows, -scale.exponent, out=out[part])
    if wide is None and any_zero:
        out = np.column_stack([out, ~out.any(axis=1)])
    return read_only(out)


def parts(features: np.ndarray, dtype: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows as numbers of a type; some at a time if there are many, or if they are converted."""
    n, d = features.shape
    whole = features.dtype == dtype and features.size <= _FEW
    step = n if whole else max(1, _PORTION // d)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        yield part, read_only(features[part].astype(dtype, "C", copy=False))
