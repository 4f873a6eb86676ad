"""Gains of any coverage objective: one loop for every store and every rule.

The term of point i in the gain of candidate j is worth(join(level_i, s_ij)) - worth(level_i),
rounded to a grid so fine that a float64 holds every sum of terms without rounding. So gains do not
depend on the order of summation, nor on threads, layout or backend, and equal candidates tie.
"""

import numpy as np
from numba import prange

from subsel.kernels.compiling import by_type, kernel
from subsel.kernels.cpu.lanes import quantize, similarities
from subsel.kernels.cpu.stores import Columns, Dense, Sparse, Tiled
from subsel.kernels.cpu.vectors import LANES, four_lines, one_line
from subsel.kernels.rules import join, worth

CHUNK = 64
"""Candidates that one thread evaluates together, so that lines of a matrix are read once."""


@by_type
def tile_count(store, n_points):
    """The number of tiles of LANES points."""


@by_type
def lines(store, picked, b, out):
    """Similarities of one candidate or four to the points of a tile, as stored, into `out`."""


@by_type
def members(store, b, n_points):
    """How many points a tile has."""


@tile_count.of(Dense)
def _dense_count(store, n_points):
    return -(-n_points // LANES)


@tile_count.of(Tiled)
def _tiled_count(store, n_points):
    return store.point_tiles.shape[0]


@members.of(Dense)
def _dense_members(store, b, n_points):
    return min(LANES, n_points - b * LANES)


@members.of(Tiled)
def _tiled_members(store, b, n_points):
    return store.point_members[b]


@lines.of(Dense)
def _dense_lines(store, picked, b, out):
    matrix = store.matrix
    first = b * LANES
    for q in range(len(picked)):
        slot = picked[q]
        # Slices, for indices that start at 0: LLVM does not vectorize where one might be negative.
        line = out[q * LANES : (q + 1) * LANES]
        if store.by_candidate:
            stored = matrix[slot, first : first + LANES]
            for j in range(stored.size):
                line[j] = stored[j]
        else:
            stored = matrix[first : first + LANES, slot]
            for j in range(stored.size):
                line[j] = stored[j]


@lines.of(Tiled)
def _tiled_lines(store, picked, b, out):
    tile = store.point_tiles[b]
    metric, gamma = store.metric, store.gamma
    similarities(tile, store.rows, picked, metric, gamma, store.up, store.down, out)


@kernel(fastmath={"reassoc"})
def exact_sum(terms):
    """The sum of numbers on the grid, in any order, as it is exact."""
    total = 0.0
    for j in range(terms.size):
        total += terms[j]
    return total


@by_type
def evaluate(store, rule, level, value, scale, slots, gains):
    """Gains of at most a chunk of candidates.

    `value` is the worth of each point now. `scale` has the unit and the offset of similarities, and
    the grid of terms.
    """


@by_type
def raise_levels(store, rule, level, value, scale, slot):
    """Add a candidate: new levels and worths; returns what it gained."""


@evaluate.of(Dense)
@evaluate.of(Tiled)
def _evaluate_lines(store, rule, level, value, scale, slots, gains):
    unit, offset, up, down = scale
    quad = four_lines(store_type(store))
    terms = one_line(level)
    for b in range(tile_count(store, level.size)):
        # Unsigned, so that no index might be negative: else LLVM does not use vectors.
        first = np.uint64(b * LANES)
        count = np.uint64(members(store, b, level.size))
        for a in range(0, slots.size, 4):
            last = slots.size - 1
            picked = (
                slots[a],
                slots[min(a + 1, last)],
                slots[min(a + 2, last)],
                slots[min(a + 3, last)],
            )
            lines(store, picked, b, quad)
            for q in range(min(4, slots.size - a)):
                line = quad[q * LANES : (q + 1) * LANES]
                for j in range(count):
                    i = first + j
                    s = unit * (np.float64(line[j]) + offset)
                    term = worth(rule, i, join(rule, level[i], s)) - value[i]
                    terms[j] = quantize(term, up, down)
                gains[a + q] += exact_sum(terms[:count])


@evaluate.of(Sparse)
@evaluate.of(Columns)
def _evaluate_columns(store, rule, level, value, scale, slots, gains):
    _, _, up, down = scale
    for a in range(slots.size):
        total = 0.0
        for p in range(store.column_starts[slots[a]], store.column_starts[slots[a] + 1]):
            i = store.column_rows[p]
            term = worth(rule, i, join(rule, level[i], np.float64(store.column_data[p])))
            total += quantize(term - value[i], up, down)
        gains[a] = total


@by_type
def store_type(store):
    """The type of the similarities."""


@store_type.of(Dense)
def _dense_type(store):
    return store.matrix.dtype


@store_type.of(Tiled)
def _tiled_type(store):
    return store.rows.dtype


@raise_levels.of(Dense)
@raise_levels.of(Tiled)
def _raise_by_lines(store, rule, level, value, scale, slot):
    unit, offset, up, down = scale
    line = one_line(store_type(store))
    terms = one_line(level)
    won = 0.0
    for b in range(tile_count(store, level.size)):
        lines(store, (slot,), b, line)
        first = np.uint64(b * LANES)  # unsigned, as above
        count = np.uint64(members(store, b, level.size))
        for j in range(count):
            i = first + j
            level[i] = join(rule, level[i], unit * (np.float64(line[j]) + offset))
            now = worth(rule, i, level[i])
            terms[j] = quantize(now - value[i], up, down)
            value[i] = now
        won += exact_sum(terms[:count])
    return won


@raise_levels.of(Sparse)
@raise_levels.of(Columns)
def _raise_by_column(store, rule, level, value, scale, slot):
    _, _, up, down = scale
    won = 0.0
    for p in range(store.column_starts[slot], store.column_starts[slot + 1]):
        i = store.column_rows[p]
        level[i] = join(rule, level[i], np.float64(store.column_data[p]))
        now = worth(rule, i, level[i])
        won += quantize(now - value[i], up, down)
        value[i] = now
    return won


@kernel
def gains_serial(store, rule, level, value, scale, slots):
    """Gains of some candidates, by slot."""
    gains = np.zeros(slots.size)
    for a in range(0, slots.size, CHUNK):
        part = slots[a : a + CHUNK]
        evaluate(store, rule, level, value, scale, part, gains[a : a + CHUNK])
    return gains


@kernel(parallel=True)
def gains_parallel(store, rule, level, value, scale, slots):
    """The same on all threads."""
    gains = np.zeros(slots.size)
    chunks = -(-slots.size // CHUNK)
    for c in prange(chunks):
        a = c * CHUNK
        part = slots[a : a + CHUNK]
        evaluate(store, rule, level, value, scale, part, gains[a : a + CHUNK])
    return gains


@kernel
def cover(store, rule, level, value, scale, slot):
    """Add a candidate; returns what it gained."""
    return raise_levels(store, rule, level, value, scale, slot)


@kernel
def worths(rule, level, value):
    """The worth of each point at its level, into `value`."""
    for i in range(level.size):
        value[i] = worth(rule, i, level[i])


@kernel
def largest_term(rule, level, largest):
    """The most that one point can gain from one first candidate, of similarity `largest`."""
    most = 0.0
    for i in range(level.size):
        term = worth(rule, i, join(rule, level[i], largest)) - worth(rule, i, level[i])
        most = max(most, term)
    return most


@by_type
def row_sums_of_tile(store, b, sums):
    """Sums of the stored similarities of a tile's points to all candidates; exact, on the grid."""


@row_sums_of_tile.of(Dense)
@row_sums_of_tile.of(Tiled)
def _sums_of_lines(store, b, sums):
    quad = four_lines(store_type(store))
    up, down = np.float64(store.up), np.float64(store.down)
    own = sums[b * LANES : b * LANES + members(store, b, sums.size)]
    last = candidates(store) - 1
    for a in range(0, last + 1, 4):
        picked = (a, min(a + 1, last), min(a + 2, last), min(a + 3, last))
        lines(store, picked, b, quad)
        for q in range(min(4, last + 1 - a)):
            line = quad[q * LANES : (q + 1) * LANES]
            for j in range(own.size):
                own[j] += quantize(np.float64(line[j]), up, down)


@row_sums_of_tile.of(Sparse)
def _sums_of_rows(store, b, sums):
    for i in range(b * LANES, min((b + 1) * LANES, sums.size)):
        for p in range(store.row_starts[i], store.row_starts[i + 1]):
            sums[i] += quantize(np.float64(store.row_data[p]), store.up, store.down)


@by_type
def candidates(store):
    """How many candidates there are."""


@candidates.of(Dense)
def _dense_candidates(store):
    return store.matrix.shape[0] if store.by_candidate else store.matrix.shape[1]


@candidates.of(Tiled)
def _tiled_candidates(store):
    return store.members.sum()


@kernel
def row_sums_serial(store, begin, end, sums):
    """Sums of the stored similarities of some tiles' points to all candidates, into `sums`."""
    for b in range(begin, end):
        row_sums_of_tile(store, b, sums)


@kernel(parallel=True)
def row_sums_parallel(store, begin, end, sums):
    """The same on all threads."""
    for b in prange(begin, end):
        row_sums_of_tile(store, b, sums)
