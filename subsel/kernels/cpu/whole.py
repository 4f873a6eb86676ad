"""Work over all similarities at once: a matrix is scanned or filled, or all gains are summed."""

import numpy as np
from numba import prange

from subsel.kernels.compiling import kernel
from subsel.kernels.cpu.lanes import rounding, similarities
from subsel.kernels.cpu.vectors import (
    LANES,
    ROWS,
    add_lines_both_ways,
    eight_lines,
    four_lines,
    one_line,
    one_tile,
    scan_rows,
    write_larger,
)


@kernel
def scan(matrix, first, stop, down, sums):
    """Add some rows to the sums of the columns; returns their least and their largest entry.

    Entries are rounded to the grid of `down`. The sum of a column is not finite if an entry is not.
    """
    round_off = rounding(down)
    least, most = one_line(matrix), one_line(matrix)
    least[:], most[:] = np.inf, -np.inf
    whole = first + (stop - first) // ROWS * ROWS
    for i in range(first, whole, ROWS):
        scan_rows(matrix, i, round_off, sums, least, most)
    for i in range(whole, stop):
        row = matrix[i]
        for j in range(row.size):
            least[0], most[0] = min(least[0], row[j]), max(most[0], row[j])
            sums[j] += np.float64(row[j]) + round_off - round_off
    return least.min(), most.max()


@kernel
def write_above(matrix, best, first, stop, counts, columns, data):
    """Write the entries of some rows that are larger than `best` of the row, and their columns.

    `counts` gets how many there are in each row, and the result is how many there are in all.
    `columns` and `data` must have room for all entries.
    """
    at, width = 0, matrix.shape[1]
    for i in range(first, stop):
        start, low = at, matrix.dtype.type(best[i])
        at = write_larger(matrix, i, low, columns, data, at)
        for j in range(width - width % LANES, width):
            if matrix[i, j] > low:
                columns[at], data[at] = j, matrix[i, j]
                at += 1
        counts[i] = at - start
    return at


@kernel
def is_symmetric(matrix):
    """Whether a square matrix equals its transpose exactly, tile by tile."""
    n = matrix.shape[0]
    for i0 in range(0, n, LANES):
        for j0 in range(0, i0 + 1, LANES):
            differs = False
            for i in range(i0, min(i0 + LANES, n)):
                for j in range(j0, min(j0 + LANES, n)):
                    differs |= matrix[i, j] != matrix[j, i]
            if differs:
                return False
    return True


@kernel
def turned(matrix, start, stop):
    """Some columns of a matrix as rows; 16 at a time, each written from front to end."""
    out = np.empty((stop - start, matrix.shape[0]), matrix.dtype)
    for first in range(start, stop, 16):
        rows = out[first - start : first - start + 16]
        for i in range(matrix.shape[0]):
            line = matrix[i, first : min(first + 16, stop)]
            for j in range(line.size):
                rows[j, i] = line[j]
    return out


@kernel
def sum_pairs(store, low, first, stop, step, sums):
    """Sums of similarities, at least `low`, of some tiles to themselves and to those after them.

    The tiles are those of ``range(first, stop, step)``. For candidates that are the points: a pair
    is computed once and counts for both. Sums are exact in any order.
    """
    rows, tiles, metric, gamma = store.rows, store.tiles, store.metric, store.gamma
    low_ = tiles.dtype.type(low)
    quad = four_lines(tiles)
    total, own = one_line(sums), eight_lines(sums)
    for a in range(first, stop, step):
        count = store.members[a]
        for b in range(a, tiles.shape[0]):
            tile = tiles[b]
            # Padding must count neither for a tile's rows nor for its columns.
            whole = b > a and count == LANES and store.members[b] == LANES
            total[:] = 0.0
            own[:] = 0.0
            for i in range(0, count, 4):
                start = a * LANES + i
                picked = (start, start + 1, start + 2, start + 3)
                similarities(tile, rows, picked, metric, gamma, store.up, store.down, quad)
                if whole:
                    add_lines_both_ways(quad, low, np.inf, i, total, own)
                    continue
                for q in range(min(4, count - i)):
                    for j in range(LANES):
                        s = np.float64(max(quad[q * LANES + j], low_))
                        total[j] += s
                        own[8 * (i + q)] += s if b > a and j < store.members[b] else 0.0
            for j in range(LANES):
                sums[b * LANES + j] += total[j]
            if b > a:
                for i in range(count):
                    for part in range(8):
                        sums[a * LANES + i] += own[8 * i + part]


@kernel(parallel=True)
def sum_pairs_parallel(store, low, first, stop, sums):
    """The same of ``range(first, stop)``, on as many threads as there are rows in `sums`."""
    for p in prange(sums.shape[0]):
        sum_pairs(store, low, first + p, stop, sums.shape[0], sums[p])


@kernel
def tile_matrix(tiles, rows, rule, first, stop, step, out, sums):
    """Similarities of some blocks of LANES rows to all rows, into `out`; returns the least.

    The blocks are those of ``range(first, stop, step)``. `rows`, padded to whole blocks, are what
    the tiles are made of, so only tiles from the block's own on are computed, and mirrored. They
    are also added to the sum of each row, while they are at hand; sums are exact in any order.
    """
    metric, gamma, up, down, _ = rule
    n = out.shape[0]
    part, least = one_tile(tiles), one_line(tiles)
    total, own = one_line(sums), eight_lines(sums)
    least[:] = np.inf
    for block in range(first, stop, step):
        top = block * LANES
        height = min(LANES, n - top)
        for b in range(block, tiles.shape[0]):
            left = b * LANES
            width = min(LANES, n - left)
            total[:] = 0.0
            own[:] = 0.0
            for i in range(0, LANES, 4):
                quad = part[i * LANES : (i + 4) * LANES]
                picked = (top + i, top + i + 1, top + i + 2, top + i + 3)
                similarities(tiles[b], rows, picked, metric, gamma, up, down, quad)
                for j in range(width, LANES):  # of padding, which must not count
                    for q in range(4):
                        quad[q * LANES + j] = 0.0
                add_lines_both_ways(quad, -np.inf, np.inf, i, total, own)
            for i in range(height):
                line, place = part[i * LANES : i * LANES + width], out[top + i, left : left + width]
                # Numba compiles the assignment of a slice for three times as long as this loop.
                for j in range(width):
                    place[j] = line[j]
                    least[j] = line[j] if line[j] < least[j] else least[j]
                for k in range(8):
                    sums[top + i] += own[8 * i + k]
            if b > block:
                for j in range(width):
                    sums[left + j] += total[j]
                    for i in range(LANES):
                        out[left + j, top + i] = part[i * LANES + j]
    smallest = least[0]
    for j in range(1, LANES):
        smallest = least[j] if least[j] < smallest else smallest
    return smallest


@kernel(parallel=True)
def tile_matrix_parallel(tiles, rows, rule, first, stop, out, sums, least):
    """The same of ``range(first, stop)``, on a thread for each row of `sums`, each with a least."""
    for p in prange(least.size):
        least[p] = tile_matrix(tiles, rows, rule, first + p, stop, least.size, out, sums[p])
