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
    """How well each point is represented, and what the last `cover` changed."""

    best: np.ndarray
    assigned: np.ndarray
    changed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    reach: np.ndarray | None = None

    @classmethod
    def empty(cls, n_slots: int, start: float) -> "Coverage":
        """No point represented; every stored similarity above `start` is an improvement."""
        return cls(
            best=np.full(n_slots, start),
            assigned=np.zeros(n_slots, np.int64),
            changed=np.empty(n_slots, np.int64),
            before=np.empty(n_slots),
            after=np.empty(n_slots),
        )

    def consider_all(self, n_points: int) -> None:
        """List every point as if it had changed without bound: a sweep gives gains from scratch."""
        self.changed[:n_points] = np.arange(n_points)
        self.before[:n_points] = self.best[:n_points]
        self.after[:n_points] = np.inf


def _grid(n_points: int, span: float) -> tuple[float, float]:
    """The grid on which sums of `n_points` similarities in 0..span are exact in float64."""
    if span <= 0:
        return 1.0, 1.0
    exponent = math.frexp(n_points)[1] + math.frexp(span)[1]
    if not -960 < exponent < 1000:
        raise ValueError(
            f"similarities of magnitude {span:g} cannot be summed in float64; rescale them"
        )
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

    def best_alone(self) -> None:
        """No short cut to the first element: every similarity is looked at."""


class DenseSimilarity(_InMemory):
    """Similarities in an array of shape (n_points, n_candidates); slots are rows and columns."""

    path = "dense"

    def __init__(
        self, matrix: np.ndarray, *, span: float, offset: float = 0.0, unit: float = 1.0
    ) -> None:
        self.matrix = matrix
        self.n_points, self.n = matrix.shape
        self.offset, self.unit, self.span = offset, unit, span
        self.up, self.down = _grid(self.n_points, span)
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
            self.matrix, element, position, self.up, self.down,
            c.best, c.assigned, c.changed, c.before, c.after,
        )  # fmt: skip
        return m, self.n_points

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        arguments = (
            self.matrix, c.changed, c.before, c.after, m, self.up, self.down, sign, gains
        )  # fmt: skip
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
        self.up, self.down = _grid(self.n_points, span)
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
            *self._columns, element, position, self.up, self.down,
            c.best, c.assigned, c.changed, c.before, c.after,
        )  # fmt: skip
        indptr = self._columns[0]
        return m, int(indptr[element + 1] - indptr[element])

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        return cpu.sparse_sweep(
            *self._rows, c.changed, c.before, c.after, m, self.up, self.down, sign, gains
        )

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
        self.tiles = read_only(tiled.transpose(0, 2, 1)).reshape(self.count, d * LANES)
        self.members = np.full(self.count, LANES)
        self.members[-1] -= padding
        self.means = tiled.mean(axis=1, dtype=np.float64)
        self.means[-1] = tiled[-1, : self.members[-1]].mean(axis=0, dtype=np.float64)
        centers = self.means.astype(features.dtype)
        self.centers = read_only(centers.T)
        self.radii = np.full(self.count, np.inf)
        if near:
            self.radii = cpu.tile_radii(self.rows, centers)


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
        self.gamma = dtype(gamma)
        self.up, self.down = map(dtype, _grid(self.n_points, self.span))
        self.threads = cpu.threads()
        # A computed distance is off by at most (d + 4) / 2 units in the last place; the factor
        # makes every bound on distances err on the side of looking.
        self._shrink = dtype(1 - (d + 64) * 4 * np.finfo(dtype).eps)

    @classmethod
    def from_features(
        cls, features: np.ndarray, metric: str, gamma: float | None
    ) -> "FeatureSimilarity":
        """Condition checked features: a power-of-two scale, unit length for cosine, even width."""
        if metric == "cosine":
            prepared, scale = _unit_rows(features), _Scale(1.0, 2.0, 2.0)
        else:
            center = np.zeros(features.shape[1])
            if metric != "dot":
                center = features.mean(axis=0, dtype=np.float64)
            radius = math.sqrt(max(_squared_norms(features, center).max(), 0.0))
            if not radius < 1e150:
                raise ValueError(f"X has rows of length {radius:g}; rescale it to below 1e150")
            unit = 2.0 ** math.frexp(radius)[1] if radius > 0 else 1.0
            prepared = features / features.dtype.type(unit)
            bound = _round_up(radius / unit * (1 + 1e-5))
            if metric == "euclidean":
                scale = _Scale(unit, 2 * bound, 2 * bound)
            elif metric == "dot":
                offset = 0.0 if features.min() >= 0 else _round_up(bound**2)
                scale = _Scale(unit**2, offset, offset + _round_up(bound**2))
            else:
                gamma = (1 / features.shape[1] if gamma is None else gamma) * unit**2
                scale = _Scale(1.0, 1.0, 1.0)
        if prepared.shape[1] % 2:
            prepared = np.pad(prepared, [(0, 0), (0, 1)])
        return cls(read_only(prepared), METRICS[metric], gamma or 1.0, scale)

    def restrict(self, candidates: np.ndarray) -> "FeatureSimilarity":
        """The same points with fewer candidates."""
        if self._candidates is not None:
            candidates = self._candidates[candidates]
        return FeatureSimilarity(
            self.features, self.metric, float(self.gamma), self.scale, candidates
        )

    def matrix(self) -> DenseSimilarity:
        """All similarities, computed once: the same bits, in n_points * n_candidates numbers."""
        rows = _whole_blocks(self.features)
        columns = (
            rows if self._candidates is None else _whole_blocks(self.features[self._candidates])
        )
        count, d = len(columns) // LANES, rows.shape[1]
        tiles = read_only(columns.reshape(count, LANES, d).transpose(0, 2, 1))
        out = np.empty((self.n_points, self.n), rows.dtype)
        arguments = (
            tiles.reshape(count, d * LANES), rows,
            self.metric, self.gamma, self.up, self.down, self._candidates is None, out,
        )  # fmt: skip
        if self.threads > 1:
            cpu.tile_matrix_parallel(*arguments)
        else:
            for block in range(len(rows) // LANES):
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
        tiles = self.points
        return cpu.tile_cover(
            tiles.tiles, tiles.centers, tiles.radii, self.candidates.rows[slot], position,
            self.metric, self.gamma, self.up, self.down, self._shrink,
            c.reach, c.best, c.assigned, c.changed, c.before, c.after,
        )  # fmt: skip

    def sweep(self, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        """Change the gains by what the `m` changed points say; returns similarities seen."""
        return self._sweep(self.candidates, c, m, sign, gains)

    def _sweep(self, tiles: Tiles, c: Coverage, m: int, sign: float, gains: np.ndarray) -> int:
        arguments = (
            tiles.tiles, tiles.centers, tiles.radii, self.points.rows,
            c.changed, c.before, c.after, m,
            self.metric, self.gamma, self.up, self.down, self._shrink, sign, gains,
        )  # fmt: skip
        width = max(1, _CACHED // (LANES * self.features.shape[1] * self.features.itemsize))
        if self.threads > 1 and m * tiles.count * LANES >= _PARALLEL_WORK:
            width = min(width, -(-tiles.count // (8 * self.threads)))
            return cpu.tile_sweep_parallel(*arguments, width)
        return cpu.tile_sweep_serial(*arguments, width)

    def best_alone(self) -> tuple[int, float, int] | None:
        """The candidate that is best on its own, found without the gains of all.

        Distance is convex, so the distances from a candidate to the points of a tile sum to at
        least their number times the distance to their mean (Jensen). Candidates are evaluated in
        the order of that bound until it proves that none of the others can win.

        Returns
        -------
        (element, gain, similarities seen), or None where the bound does not help: another metric,
        or too many candidates close to the best.
        """
        if self.metric not in (cpu.EUCLIDEAN, cpu.COSINE):
            return None
        points, tiles = self.points, self.candidates
        losses = np.empty(self.n)
        cpu.bound_losses(
            tiles.rows[: self.n], read_only(points.means.T), points.members, self.metric, losses
        )
        bounds = self.n_points * self.offset * (1 + 1e-6) - losses * (1 - 1e-6)
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
                return None
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


def _squared_norms(features: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Squared distances of the rows to a centre, in float64, a block of rows at a time."""
    out = np.empty(len(features))
    step = max(1, 2**20 // features.shape[1])
    for start in range(0, len(features), step):
        block = features[start : start + step] - center
        with np.errstate(over="ignore"):
            out[start : start + step] = np.einsum("ij,ij->i", block, block)
    return out


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows of length 1. Rows of zeros get a direction of their own, orthogonal to all others."""
    largest = np.abs(features).max(axis=1).astype(np.float64)
    zero = largest == 0
    scaled = features / np.where(zero, 1.0, largest)[:, None]
    scaled /= np.sqrt(_squared_norms(scaled, np.zeros(1)) + zero)[:, None]
    unit = scaled.astype(features.dtype)
    return np.column_stack([unit, zero.astype(unit.dtype)]) if zero.any() else unit


def _round_up(x: float) -> float:
    """The next number with at most eight significant bits: exact on every grid we use."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)
