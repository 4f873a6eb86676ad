"""Where similarities come from: a dense matrix, a sparse one, or features that give them anew.

Each storage offers the two operations that facility location needs, `cover` and `sweep` (see
`subsel.kernels.cpu`), on points and candidates in an order of its own ("slots"). It stores
similarities less an offset and in a unit of its own, so that distances keep their full precision
near zero: similarity = unit * (stored + offset).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import LANES
from subsel.validation import check_entries, read_only

METRICS = {
    "euclidean": cpu.EUCLIDEAN,
    "cosine": cpu.COSINE,
    "dot": cpu.DOT,
    "rbf": cpu.RBF,
}

_PARALLEL_WORK = 2**23
"""Similarities in one sweep from which on starting threads costs less than it saves."""

_CACHED = 2**17
"""Bytes of tiles to keep at work at once: some of a core's second-level cache."""


@dataclass
class Coverage:
    """How well each point is represented, by what, and what the last `cover` changed.

    `changes` are the points that changed and the similarity to their representative before and
    after; room for all of them, of which `cover` says how many are used.
    """

    best: np.ndarray
    assigned: np.ndarray
    changes: tuple[np.ndarray, np.ndarray, np.ndarray]
    reach: np.ndarray | None = None

    @classmethod
    def empty(cls, n_slots: int, start: float) -> "Coverage":
        """No point represented; every stored similarity above `start` is an improvement."""
        return cls(
            best=np.full(n_slots, start),
            assigned=np.zeros(n_slots, np.int64),
            changes=(np.empty(n_slots, np.int64), np.empty(n_slots), np.empty(n_slots)),
        )

    def consider_all(self, n_points: int) -> None:
        """List every point as if it had changed without bound: a sweep gives gains from scratch."""
        changed, before, after = self.changes
        changed[:n_points] = np.arange(n_points)
        before[:n_points] = self.best[:n_points]
        after[:n_points] = np.inf


def _grid(n_points: int, span: float) -> tuple[float, float]:
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


class _InMemory:
    """Slots are the rows and columns themselves."""

    n: int

    @cached_property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return np.arange(self.n)

    @property
    def n_slots(self) -> int:
        """Slots of candidates."""
        return self.n

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return candidates

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot

    def best_alone(self) -> tuple[int | None, float, int]:
        """No short cut to the first element: every similarity is looked at."""
        return None, 0.0, 0


class DenseSimilarity(_InMemory):
    """Similarities in an array of shape (n_points, n_candidates); slots are rows and columns."""

    path = "dense"

    def __init__(
        self, matrix: np.ndarray, *, span: float, offset: float = 0.0, unit: float = 1.0
    ) -> None:
        self.matrix = matrix
        self.n_points, self.n = matrix.shape
        self.offset, self.unit, self.span = offset, unit, span
        self.grid = _grid(self.n_points, span)
        self.threads = cpu.threads()

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, name: str) -> "DenseSimilarity":
        """Check a user's matrix. In F order it is transposed if symmetric, else copied."""
        check_entries(matrix, name, non_negative=True)
        if not matrix.flags.c_contiguous and matrix.flags.f_contiguous:
            transpose = read_only(matrix.T)
            if matrix.shape[0] == matrix.shape[1] and cpu.is_symmetric(transpose):
                matrix = transpose
        matrix = read_only(matrix)
        return cls(matrix, span=float(matrix.max()))

    def coverage(self) -> Coverage:
        """No representative yet."""
        return Coverage.empty(self.n_points, -self.offset)

    def cover(self, element: int, position: int, c: Coverage) -> tuple[int, int]:
        """Add a representative; returns how many points changed and similarities were seen."""
        m = cpu.dense_cover(
            self.matrix, element, position, self.grid, c.best, c.assigned, c.changes
        )
        return m, self.n_points

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        arguments = self.matrix, c.changes, m, self.grid, sign, gains
        if self.threads > 1 and m * self.n >= _PARALLEL_WORK:
            cpu.dense_sweep_parallel(*arguments, 512)
        else:
            cpu.dense_sweep(*arguments, 0, self.n)
        return m * self.n

    def restrict(self, candidates: np.ndarray) -> "DenseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = read_only(self.matrix[:, candidates])
        return DenseSimilarity(columns, span=self.span, offset=self.offset, unit=self.unit)


class SparseSimilarity(_InMemory):
    """Similarities in compressed rows and columns; absent entries are 0."""

    path = "sparse"
    offset, unit, threads = 0.0, 1.0, 1

    def __init__(self, rows: Any, columns: Any, span: float) -> None:
        self.rows, self.columns, self.span = rows, columns, span
        self.n_points, self.n = rows.shape
        self.grid = _grid(self.n_points, span)
        self._rows, self._columns = (
            tuple(read_only(a) for a in (m.indptr.astype(np.int64), m.indices.astype(np.int64),
                                         m.data)) for m in (rows, columns)
        )  # fmt: skip

    @classmethod
    def from_matrix(cls, matrix: Any, name: str) -> "SparseSimilarity":
        """Check a user's scipy matrix or array, in any format; duplicate entries are summed."""
        matrix = matrix.tocoo()
        data = np.asarray(matrix.data)
        if data.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be numeric (real), not of dtype {data.dtype}")
        if data.dtype not in (np.float32, np.float64):
            matrix = matrix.astype(np.float64)
        rows = matrix.tocsr()
        for at in np.flatnonzero(~(np.isfinite(rows.data) & (rows.data >= 0)))[:1]:
            i = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            raise ValueError(
                f"{name}[{i}, {rows.indices[at]}] is {rows.data[at]}; "
                "similarities must be finite and not negative"
            )
        return cls(rows, rows.tocsc(), float(rows.data.max()) if rows.nnz else 0.0)

    def coverage(self) -> Coverage:
        """No representative yet."""
        return Coverage.empty(self.n_points, 0.0)

    def cover(self, element: int, position: int, c: Coverage) -> tuple[int, int]:
        """Add a representative; returns how many points changed and similarities were seen."""
        m = cpu.sparse_cover(
            self._columns, element, position, self.grid, c.best, c.assigned, c.changes
        )
        indptr = self._columns[0]
        return m, int(indptr[element + 1] - indptr[element])

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        return cpu.sparse_sweep(self._rows, c.changes, m, self.grid, sign, gains)

    def restrict(self, candidates: np.ndarray) -> "SparseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = self.columns[:, candidates]
        return SparseSimilarity(columns.tocsr(), columns, self.span)


class Tiles:
    """Rows of features in groups of LANES, one tile each, with centre and radius.

    The groups are of neighbours, or if not `near` as the rows come, and then without a radius.
    """

    def __init__(self, features: np.ndarray, near: bool = True) -> None:
        n, d = features.shape
        self.order = _spatial_order(features) if near else np.arange(n)
        self.slot = np.empty(n, np.int64)
        self.slot[self.order] = np.arange(n)
        self.count = -(-n // LANES)
        padding = self.count * LANES - n
        slots = np.concatenate([self.order, np.full(padding, self.order[-1])])
        tiled = features[slots].reshape(self.count, LANES, d)
        self.rows = read_only(tiled.reshape(-1, d))
        members = np.full(self.count, LANES)
        members[-1] -= padding
        self.means = tiled.mean(axis=1, dtype=np.float64)
        self.means[-1] = tiled[-1, : members[-1]].mean(axis=0, dtype=np.float64)
        centers = self.means.astype(features.dtype)
        self.group = (
            read_only(tiled.transpose(0, 2, 1)).reshape(self.count, d * LANES),
            read_only(centers.T),
            cpu.tile_radii(self.rows, centers) if near else np.full(self.count, np.inf),
            members,
        )


def _spatial_order(features: np.ndarray) -> np.ndarray:
    """Rows ordered so that each run of LANES is close together: the leaves of a k-d tree."""
    order = np.arange(len(features))
    pending = [(0, len(features))]
    while pending:
        start, stop = pending.pop()
        if stop - start <= LANES:
            continue
        members = order[start:stop]
        part = features[members]
        axis = np.argmax(part.max(axis=0) - part.min(axis=0))
        middle = max(1, (stop - start) // (2 * LANES)) * LANES
        order[start:stop] = members[np.argpartition(part[:, axis], middle)]
        pending += [(start, start + middle), (start + middle, stop)]
    return order


@dataclass(frozen=True)
class _Scale:
    """Similarity = unit * (stored + offset), stored within `span` above -offset."""

    unit: float
    offset: float
    span: float


class FeatureSimilarity:
    """Similarities computed from features whenever they are needed; memory O(n d).

    Points and candidates are kept in tiles of nearby rows. A tile so far from a point that none of
    its rows can be more similar than the point's representative is skipped.
    """

    path = "features"

    def __init__(
        self, features: np.ndarray, metric: int, gamma: float, scale: _Scale,
        candidates: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.features, self.metric, self.scale = features, metric, scale
        self._candidates = candidates
        self.n_points, d = features.shape
        self.n = self.n_points if candidates is None else len(candidates)
        self.unit, self.offset, self.span = scale.unit, scale.offset, scale.span
        dtype = features.dtype.type
        up, down = _grid(self.n_points, self.span)
        # A computed distance is off by at most (d + 4) / 2 units in the last place; the last
        # factor makes every bound on distances err on the side of looking.
        shrink = 1 - (d + 64) * 4 * float(np.finfo(dtype).eps)
        self.rule = metric, dtype(gamma), dtype(up), dtype(down), dtype(shrink)
        self.threads = cpu.threads()

    @classmethod
    def from_features(
        cls, features: np.ndarray, metric: str, gamma: float | None
    ) -> "FeatureSimilarity":
        """Condition checked features: a power-of-two scale, unit length for cosine, even width."""
        d = features.shape[1]
        limits = np.finfo(features.dtype)
        rate = 1.0
        if metric == "cosine":
            prepared, scale = _unit_rows(features), _Scale(1.0, 2.0, 2.0)
        else:
            low, high = features.min(axis=0), features.max(axis=0)
            center = np.zeros(d) if metric == "dot" else low / 2.0 + high / 2.0
            radius = _radius(features, center)
            if radius and not (1e-150 < radius < 1e150 if metric == "dot" else radius < 1e300):
                raise ValueError(f"X spreads over {radius:g}, too far for {metric}; rescale it")
            # Near the spread, but not so small that the largest feature overflows.
            largest = max(abs(float(low.min())), abs(float(high.max())))
            exponent = max(math.frexp(radius)[1], math.frexp(largest)[1] - limits.maxexp + 8)
            prepared, unit = np.ldexp(features, -exponent), math.ldexp(1.0, exponent)
            bound = _round_up(radius / unit * (1 + (d + 64) * float(limits.eps)))
            if metric == "euclidean":
                scale = _Scale(unit, 2 * bound, 2 * bound)
            elif metric == "dot":
                offset = 0.0 if low.min() >= 0 else _round_up(bound**2)
                scale = _Scale(unit**2, offset, offset + _round_up(bound**2))
            else:
                rate = (1 / d if gamma is None else gamma) * unit * unit
                rate = min(max(rate, float(limits.tiny)), float(limits.max) / 2**10)
                scale = _Scale(1.0, 1.0, 1.0)
        if prepared.shape[1] % 2:
            prepared = np.pad(prepared, [(0, 0), (0, 1)])
        return cls(read_only(prepared), METRICS[metric], rate, scale)

    def restrict(self, candidates: np.ndarray) -> "FeatureSimilarity":
        """The same points with fewer candidates."""
        if self._candidates is not None:
            candidates = self._candidates[candidates]
        part = FeatureSimilarity(
            self.features, self.metric, float(self.rule[1]), self.scale, candidates
        )
        part.points = self.points
        return part

    def matrix(self) -> DenseSimilarity:
        """All similarities of the points to one another, computed once; the same bits."""
        rows = _whole_blocks(self.features)
        count, d = len(rows) // LANES, rows.shape[1]
        tiles = read_only(rows.reshape(count, LANES, d).transpose(0, 2, 1))
        out = np.empty((self.n_points, self.n_points), rows.dtype)
        arguments = tiles.reshape(count, d * LANES), rows, self.rule, out
        if self.threads > 1:
            cpu.tile_matrix_parallel(*arguments)
        else:
            for block in range(count):
                cpu.tile_matrix(*arguments, block)
        return DenseSimilarity(read_only(out), span=self.span, offset=self.offset, unit=self.unit)

    @cached_property
    def points(self) -> Tiles:
        """Tiles of the points."""
        return Tiles(self.features)

    @cached_property
    def candidates(self) -> Tiles:
        """Tiles of the candidates; those of the points where every point is one."""
        if self._candidates is None:
            return self.points
        return Tiles(self.features[self._candidates])

    def coverage(self) -> Coverage:
        """No representative yet; padding can never improve."""
        tiles = self.points
        c = Coverage.empty(tiles.count * LANES, -self.offset)
        c.best[self.n_points :] = np.inf
        c.reach = np.full(tiles.count, np.inf)
        return c

    def cover(self, slot: int, position: int, c: Coverage) -> tuple[int, int]:
        """Add a representative; returns how many points changed and similarities were seen."""
        return cpu.tile_cover(
            self.points.group, self.candidates.rows[slot], position, self.rule,
            c.reach, c.best, c.assigned, c.changes,
        )  # fmt: skip

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        return self._sweep(self.candidates, c, m, sign, gains)

    def _sweep(self, tiles: Tiles, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        arguments = tiles.group, self.points.rows, c.changes, m, self.rule, sign, gains
        width = max(1, _CACHED // (LANES * self.features.shape[1] * self.features.itemsize))
        if self.threads > 1 and m * tiles.count * LANES >= _PARALLEL_WORK:
            width = min(width, -(-tiles.count // (8 * self.threads)))
            return cpu.tile_sweep_parallel(*arguments, width)
        return cpu.tile_sweep_serial(*arguments, width)

    def best_alone(self) -> tuple[int | None, float, int]:
        """The candidate that is best on its own, found without the gains of all.

        Distance is convex, so the distances from a candidate to the points of a tile sum to at
        least their number times the distance to their mean (Jensen). Candidates are evaluated in
        the order of that bound until it proves that none of the others can win.

        Returns
        -------
        (element, gain, similarities seen); the element is None where the bound does not help:
        another metric, or too many candidates close to the best.
        """
        if self.metric not in (cpu.EUCLIDEAN, cpu.COSINE):
            return None, 0.0, 0
        points, tiles = self.points, self.candidates
        losses = np.empty(self.n)
        cpu.bound_losses(
            tiles.rows[: self.n], read_only(points.means.T), points.group[3], self.metric, losses
        )
        # Computed distances are off by a little, see `rule`; so the bounds have to be loose.
        largest = self.n_points * self.offset
        bounds = largest * (1 + 1e-14) - losses * float(self.rule[-1])
        ranking = np.argsort(-bounds, kind="stable")
        c = self.coverage()
        c.consider_all(self.n_points)
        best = (-math.inf, 0)
        seen = 0
        step = 4 * LANES
        for start in range(0, self.n, step):
            some = ranking[start : start + step]
            if bounds[some[0]] < best[0]:
                break
            if start > self.n // 4:
                return None, 0.0, seen
            gains = np.zeros(step)
            seen += self._sweep(Tiles(tiles.rows[some], near=False), c, self.n_points, 1.0, gains)
            for gain, slot in zip(gains, some, strict=False):
                best = max(best, (float(gain), -int(tiles.order[slot])))
        return -best[1], best[0], seen

    @property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return self.candidates.order

    @property
    def n_slots(self) -> int:
        """Slots of candidates, padding included."""
        return self.candidates.count * LANES

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return self.candidates.slot[candidates]

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot[self.points.slot]


def _whole_blocks(rows: np.ndarray) -> np.ndarray:
    """Rows, with rows of zeros up to a multiple of LANES."""
    return read_only(np.pad(rows, [(0, -len(rows) % LANES), (0, 0)]))


def _radius(features: np.ndarray, center: np.ndarray) -> float:
    """Largest distance of a row to the centre, in float64, a block of rows at a time."""
    step = max(1, 2**20 // features.shape[1])
    blocks = range(0, len(features), step)
    with np.errstate(over="ignore"):
        largest = max(float(np.abs(features[b : b + step] - center).max()) for b in blocks)
        if not 0 < largest < math.inf:
            return largest
        return largest * max(
            float(np.linalg.norm((features[b : b + step] - center) / largest, axis=1).max())
            for b in blocks
        )


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of length 1. Rows of zeros get a direction of their own, orthogonal to all others."""
    largest = np.abs(features).max(axis=1).astype(np.float64)
    zero = largest == 0
    scaled = features / np.where(zero, 1.0, largest)[:, None]
    scaled /= (np.linalg.norm(scaled, axis=1) + zero)[:, None]
    unit = scaled.astype(features.dtype)
    return np.column_stack([unit, zero.astype(unit.dtype)]) if zero.any() else unit


def _round_up(x: float) -> float:
    """The next number with at most eight significant bits: exact on every grid we use."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)
