"""Stores of similarities, as the search sees them: a dense matrix, a sparse matrix, or features.

For each there are two kernels, chosen by the type of the store:

``cover``
    A new representative `e`: raise ``best[i] = max(best[i], s[i, e])`` and write the points that
    changed into a log, with what their similarity was before.
``sweep``
    For some points, add ``sign * (min(max(s[i, j], low[i]), high[i]) - low[i])`` to the gain of
    every candidate `j` of a block. With ``low = best``, ``high = inf`` and ``sign = +1`` this is
    the marginal gain from scratch; with ``low`` the similarity before, ``high`` the one after and
    ``sign = -1`` it subtracts from the gains what has been covered meanwhile. The clamped
    similarity is one of the numbers given, so it needs no more digits than they have. For features,
    `gains` are those of all candidates, and for a dense matrix those of the block.
"""

from typing import NamedTuple

import numpy as np

from subsel.kernels.compiling import by_type
from subsel.kernels.cpu.lanes import (
    clamp,
    features_at,
    quantize,
    rounding,
    similarities,
    squared_gaps,
    squared_reach,
)
from subsel.kernels.cpu.log import ADDED, SEEN, capped, end_run, improve, unmet
from subsel.kernels.cpu.vectors import LANES, ROWS, add_lines, add_rows, fetch, four_lines, one_line

_AHEAD = 64
"""So many rows ahead, an entry of a column is fetched from memory."""


class Dense(NamedTuple):
    """Similarities in an array (points, candidates).

    `by_candidate` says that the rows of the array are candidates as well, because it is symmetric,
    or instead, because it is (candidates, points). Only `subsel.kernels.cpu.coverage` uses the
    latter.
    """

    matrix: np.ndarray
    by_candidate: bool
    up: float
    down: float


class Sparse(NamedTuple):
    """Similarities in compressed rows and compressed columns; absent ones are 0."""

    row_starts: np.ndarray
    row_columns: np.ndarray
    row_data: np.ndarray
    column_starts: np.ndarray
    column_rows: np.ndarray
    column_data: np.ndarray
    up: float
    down: float


class Columns(NamedTuple):
    """Compressed columns only: the amounts that each candidate has, for coverage by a rule."""

    column_starts: np.ndarray
    column_rows: np.ndarray
    column_data: np.ndarray


class Tiled(NamedTuple):
    """Features of points and of candidates, each in `count` tiles of near rows.

    There are (count, d * LANES) tiles, dimension by dimension; the same as (count * LANES, d) rows,
    or, to save memory, the tiles once more; boxes around each, from `least` to `largest`, for
    points dimension by dimension (d * count,), for candidates (count, d); and (count,) members.
    `shrink` is a factor that keeps bounds on distances safe.
    """

    point_rows: np.ndarray
    point_tiles: np.ndarray
    point_least: np.ndarray
    point_largest: np.ndarray
    point_members: np.ndarray
    rows: np.ndarray
    tiles: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    members: np.ndarray
    metric: int
    gamma: float
    up: float
    down: float
    shrink: float


@by_type
def cover(store, slot, search, spare):
    """Make a candidate represent the points that are more similar to it than to their own."""


@by_type
def sweep(store, block, points, low, high, m, sign, gains):
    """Change the gains of a block for the first `m` of `points`; returns similarities seen."""


@by_type
def weighted_sweep(store, block, points, weights, low, high, m, sign, grid, gains):
    """The same with similarities that count `weights` times, rounded to another grid then."""


@by_type
def group_gaps(store, block, out):
    """Lower bounds of squared distances from the candidates of a block to each group of points."""


@by_type
def point_gaps(store, block, group, out):
    """The same for the points of one group."""


@by_type
def store_reach(store, s):
    """Squared distance beyond which no candidate is more similar to a point than `s`."""


@cover.of(Dense)
def _dense_cover(store, slot, search, spare):
    matrix = store.matrix
    n_points = matrix.shape[0]
    for i in range(n_points):
        if not store.by_candidate:
            fetch(matrix, min(i + _AHEAD, n_points - 1) * matrix.shape[1] + slot)
        s = matrix[slot, i] if store.by_candidate else matrix[i, slot]
        s = capped(search, i, quantize(np.float64(s), store.up, store.down))
        if s > search.best[i]:
            improve(search, i, s)
    end_run(search, 0, np.inf)
    search.counts[SEEN] += matrix.shape[0]
    search.counts[ADDED] += 1


@cover.of(Sparse)
def _sparse_cover(store, slot, search, spare):
    start, stop = store.column_starts[slot], store.column_starts[slot + 1]
    for p in range(start, stop):
        i = store.column_rows[p]
        s = quantize(np.float64(store.column_data[p]), store.up, store.down)
        s = capped(search, i, s)
        if s > search.best[i]:
            improve(search, i, s)
    end_run(search, 0, np.inf)
    search.counts[SEEN] += stop - start
    search.counts[ADDED] += 1


@cover.of(Tiled)
def _tiled_cover(store, slot, search, spare):
    tiles, metric, gamma = store.point_tiles, store.metric, store.gamma
    place, first, step = features_at(store.rows, slot, store.tiles)
    row = store.rows[place]
    gaps = spare[: tiles.shape[0]]
    lows, highs = store.point_least, store.point_largest
    squared_gaps(row, row, first, step, lows, highs, store.shrink, gaps)
    line = one_line(tiles)
    for b in range(tiles.shape[0]):
        if gaps[b] >= search.reach[b]:
            continue
        similarities(tiles[b], store.rows, (slot,), metric, gamma, store.up, store.down, line)
        worst = np.inf
        for j in range(LANES):
            i = b * LANES + j
            s = capped(search, i, np.float64(line[j]))
            if s > search.best[i]:
                improve(search, i, s)
            worst = min(worst, unmet(search, i, search.best[i]))
        end_run(search, b, search.reach[b])
        search.reach[b] = squared_reach(worst, metric, gamma)
        search.counts[SEEN] += store.point_members[b]
    search.counts[ADDED] += 1


@sweep.of(Dense)
def _dense_sweep(store, block, points, low, high, m, sign, gains):
    round_off = rounding(store.down)
    # The padding of the last rows adds nothing.
    points[m : m + ROWS - 1], low[m : m + ROWS - 1], high[m : m + ROWS - 1] = points[0], 0.0, 0.0
    for a in range(0, m, ROWS):
        add_rows(store.matrix, points, low, high, a, block[0], round_off, sign, gains)
    return m * gains.size


@sweep.of(Tiled)
def _tiled_sweep(store, block, points, low, high, m, sign, gains):
    metric, gamma = store.metric, store.gamma
    b = block[0] // LANES
    tile = store.tiles[b]
    quad = four_lines(tile)
    total = one_line(gains)
    total[:] = 0.0
    base = 0.0
    # The padding of the last four adds nothing, not even to a partial sum, which might otherwise
    # need one digit more than a float64 has.
    points[m : m + 3], low[m : m + 3], high[m : m + 3] = points[0], 0.0, 0.0
    for a in range(0, m, 4):
        picked = (points[a], points[a + 1], points[a + 2], points[a + 3])
        similarities(tile, store.point_rows, picked, metric, gamma, store.up, store.down, quad)
        add_lines(quad, low, high, a, total)
        base += low[a] + low[a + 1] + low[a + 2] + low[a + 3]
    out = gains[b * LANES : (b + 1) * LANES]
    for j in range(LANES):
        out[j] += sign * (total[j] - base)
    return m * store.members[b]


@weighted_sweep.of(Dense)
def _dense_weighted_sweep(store, block, points, weights, low, high, m, sign, grid, gains):
    start, stop = block
    up, down = grid
    out = gains[: stop - start]  # a slice, whose indices start at 0, as LLVM wants it for vectors
    number = store.matrix.dtype.type
    for a in range(m):
        row, low0, high0 = store.matrix[points[a], start:stop], number(low[a]), number(high[a])
        weight = weights[a]
        base = quantize(weight * low[a], up, down)
        for j in range(out.size):
            s = quantize(np.float64(clamp(row[j], low0, high0)), store.up, store.down)
            out[j] += sign * (quantize(weight * s, up, down) - base)
    return m * (stop - start)


@weighted_sweep.of(Tiled)
def _tiled_weighted_sweep(store, block, points, weights, low, high, m, sign, grid, gains):
    up, down = grid
    metric, gamma = store.metric, store.gamma
    b = block[0] // LANES
    tile = store.tiles[b]
    number = tile.dtype.type
    quad = four_lines(tile)
    total = one_line(gains)
    total[:] = 0.0
    points[m : m + 3] = points[0]
    for a in range(0, m, 4):
        picked = (points[a], points[a + 1], points[a + 2], points[a + 3])
        similarities(tile, store.point_rows, picked, metric, gamma, store.up, store.down, quad)
        for q in range(min(4, m - a)):
            line = quad[q * LANES : (q + 1) * LANES]
            low0, high0, weight = number(low[a + q]), number(high[a + q]), weights[a + q]
            base = quantize(weight * low[a + q], up, down)
            for j in range(LANES):
                s = np.float64(clamp(line[j], low0, high0))
                total[j] += quantize(weight * s, up, down) - base
    out = gains[b * LANES : (b + 1) * LANES]
    for j in range(LANES):
        out[j] += sign * total[j]
    return m * store.members[b]


@group_gaps.of(Tiled)
def _tiled_group_gaps(store, block, out):
    least, largest = store.least[block], store.largest[block]
    first, step = np.int64(0), np.int64(1)  # no literals, for which Numba would compile it again
    lows, highs = store.point_least, store.point_largest
    squared_gaps(least, largest, first, step, lows, highs, store.shrink, out)


@point_gaps.of(Tiled)
def _tiled_point_gaps(store, block, group, out):
    tile = store.point_tiles[group]
    least, largest = store.least[block], store.largest[block]
    first, step = np.int64(0), np.int64(1)
    squared_gaps(least, largest, first, step, tile, tile, store.shrink, out)


@store_reach.of(Dense)
@store_reach.of(Sparse)
def _unbounded_store_reach(store, s):
    return np.inf


@store_reach.of(Tiled)
def _tiled_store_reach(store, s):
    return squared_reach(s, store.metric, store.gamma)
