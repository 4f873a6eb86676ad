"""One column of pairwise numbers at a time: products, distances or rbf similarities of all rows.

Features lie in tiles of LANES rows, dimension by dimension, so that the loop over the rows of a
tile compiles to vector instructions though every sum keeps one order, that of the dimensions.
Numbers are computed in float64, whatever features are stored in, without fused multiply-adds. So a
column has the same bits for any number of threads, and equal rows have equal numbers.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from subsel.kernels.compiling import inner, kernel
from subsel.kernels.cpu.vectors import LANES, one_line, tile_products

PRODUCT, EUCLIDEAN, HALF_SQUARE, RBF, MANHATTAN, UNEQUAL, EQUAL = range(7)

_CHUNK = 16
"""Tiles that one thread goes through together."""

_LINE = 1024
"""Numbers of a column that stay in the fastest memory while rows are subtracted from them."""


class Rows(NamedTuple):
    """Features in tiles, and what is computed from them.

    `tiles` has the shape (count, d, LANES). A row is its entries in the tile times its `factor`
    (count * LANES,); padding has the factor 0. `kind` is one of the constants above; `gamma` is for
    RBF.
    """

    tiles: np.ndarray
    factor: np.ndarray
    kind: int
    gamma: float


@inner
def _products(rows, b, v, out):
    tile_products(rows.tiles, b, v, out)
    for j in range(LANES):
        out[j] *= rows.factor[b * LANES + j]


@inner
def _squared_distances(rows, b, v, out):
    tiles, factor = rows.tiles, rows.factor
    for j in range(LANES):
        out[j] = 0.0
    for k in range(v.size):
        for j in range(LANES):
            t = tiles[b, k, j] * factor[b * LANES + j] - v[k]
            out[j] += t * t


@inner
def _differences(rows, b, v, out):
    """Sums of absolute differences for MANHATTAN, else shares of different or equal features."""
    tiles, d = rows.tiles, v.size
    for j in range(LANES):
        out[j] = 0.0
    if rows.kind == MANHATTAN:
        for k in range(d):
            for j in range(LANES):
                out[j] += abs(tiles[b, k, j] - v[k])
        return
    for k in range(d):
        for j in range(LANES):
            out[j] += 1.0 if tiles[b, k, j] != v[k] else 0.0
    for j in range(LANES):
        out[j] = (out[j] if rows.kind == UNEQUAL else d - out[j]) / d


@inner
def _numbers(rows, b, v, out):
    """The numbers between the rows of tile `b` and a row `v`."""
    if rows.kind == PRODUCT:
        _products(rows, b, v, out)
        return
    if rows.kind >= MANHATTAN:
        _differences(rows, b, v, out)
        return
    _squared_distances(rows, b, v, out)
    if rows.kind == EUCLIDEAN:
        for j in range(LANES):
            out[j] = math.sqrt(out[j])
    elif rows.kind == HALF_SQUARE:
        for j in range(LANES):
            out[j] *= 0.5
    else:
        for j in range(LANES):
            out[j] = math.exp(-rows.gamma * out[j])


@inner(makes_arrays=True)
def _column_of_chunk(rows, c, v, out, add):
    line = np.empty(LANES)
    for b in range(c * _CHUNK, min((c + 1) * _CHUNK, rows.tiles.shape[0])):
        _numbers(rows, b, v, line)
        first = b * LANES
        for j in range(min(LANES, out.size - first)):
            out[first + j] = out[first + j] + line[j] if add else line[j]


@kernel
def column_serial(rows, v, out, add):
    """The numbers of all rows and of a row `v` (d,), float64, into `out` (n,), or added to it.

    Adding them here spares a pass over as many numbers as there are rows, and uses all threads.
    """
    for c in range(-(-rows.tiles.shape[0] // _CHUNK)):
        _column_of_chunk(rows, c, v, out, add)


@kernel(parallel=True)
def column_parallel(rows, v, out, add):
    """The same on all threads."""
    for c in prange(-(-rows.tiles.shape[0] // _CHUNK)):
        _column_of_chunk(rows, c, v, out, add)


@inner(makes_arrays=True)
def _sums_of_tile(rows, others, n_others, b, out):
    line, sums = np.empty(LANES), np.zeros(LANES)
    v = np.empty(rows.tiles.shape[1])
    for i in range(n_others):
        at, lane = i // LANES, i % LANES
        for k in range(v.size):
            v[k] = others.tiles[at, k, lane] * others.factor[i]
        _numbers(rows, b, v, line)
        for j in range(LANES):
            sums[j] += line[j]
    first = b * LANES
    for j in range(min(LANES, out.size - first)):
        out[first + j] = sums[j]


@kernel
def sums_serial(rows, others, n_others, out):
    """For each row the sum, in their order, of its numbers with all rows of `others`."""
    for b in range(rows.tiles.shape[0]):
        _sums_of_tile(rows, others, n_others, b, out)


@kernel(parallel=True)
def sums_parallel(rows, others, n_others, out):
    """The same on all threads."""
    for b in prange(rows.tiles.shape[0]):
        _sums_of_tile(rows, others, n_others, b, out)


@kernel
def total(rows):
    """The sum of all rows (d,), in their order."""
    count, d, _ = rows.tiles.shape
    out = np.zeros(d)
    for b in range(count):
        for k in range(d):
            for j in range(LANES):
                out[k] += rows.tiles[b, k, j] * rows.factor[b * LANES + j]
    return out


@kernel
def squares(tiles):
    """The squared length of every row of some tiles (count * LANES,)."""
    count, d, _ = tiles.shape
    out = np.zeros(count * LANES)
    for b in range(count):
        for k in range(d):
            for j in range(LANES):
                x = np.float64(tiles[b, k, j])
                out[b * LANES + j] += x * x
    return out


@kernel
def best(base, raised, factor, taken):
    """The largest of ``base - factor * raised`` that is not taken, and where.

    The first among equals wins; -1 if everything is taken. One maximum for each lane of a line, and
    no branch, make vector instructions of the first pass.
    """
    tops = one_line(base)
    tops[:] = -np.inf
    for first in range(0, base.size, LANES):
        begin = np.uint64(first)  # unsigned, or LLVM would not use vectors
        for lane in range(np.uint64(min(LANES, base.size - first))):
            j = begin + lane
            gain = -np.inf if taken[j] else base[j] - factor * raised[j]
            tops[lane] = gain if gain > tops[lane] else tops[lane]
    most = tops.max()
    for j in range(base.size):
        if base[j] - factor * raised[j] == most and not taken[j]:
            return j, most
    return -1, most


@kernel
def shrink(middle, row, scale):
    """Remove a selected row from M (d, d); return M times the row, and the row times that product.

    Sums are those of `_by_eight`.
    """
    d = row.size
    across, terms = np.empty(d), np.empty(d)
    for i in range(d):
        for j in range(d):
            terms[j] = middle[i, j] * row[j]
        across[i] = _by_eight(terms)
    for j in range(d):
        terms[j] = row[j] * across[j]
    left = _by_eight(terms)
    factor = scale / (1 + scale * left)
    for i in range(d):
        for j in range(d):
            middle[i, j] -= across[i] * across[j] * factor
    return across, left


@inner
def _by_eight(terms):
    """The sum of some numbers, every eighth of them first, as in NumPy for at most 128 of them."""
    whole = terms.size - terms.size % 8
    total = 0.0
    if whole:
        s0, s1, s2, s3 = terms[0], terms[1], terms[2], terms[3]
        s4, s5, s6, s7 = terms[4], terms[5], terms[6], terms[7]
        for j in range(8, whole, 8):
            s0 += terms[j]
            s1 += terms[j + 1]
            s2 += terms[j + 2]
            s3 += terms[j + 3]
            s4 += terms[j + 4]
            s5 += terms[j + 5]
            s6 += terms[j + 6]
            s7 += terms[j + 7]
        total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for j in range(whole, terms.size):
        total += terms[j]
    return total


@inner
def _subtract_from_line(rows, weights, c, out):
    first = c * _LINE
    length = min(_LINE, out.size - first)
    whole = weights.size - weights.size % 4
    for s in range(0, whole, 4):  # four at a time, subtracted one after the other
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for j in range(length):
            out[first + j] = (
                out[first + j]
                - rows[s, first + j] * w0
                - rows[s + 1, first + j] * w1
                - rows[s + 2, first + j] * w2
                - rows[s + 3, first + j] * w3
            )
    for s in range(whole, weights.size):
        for j in range(length):
            out[first + j] -= rows[s, first + j] * weights[s]


@kernel
def subtract_serial(rows, weights, out):
    """Subtract rows (m, n), each times its weight, from `out` (n,), in their order."""
    for c in range(-(-out.size // _LINE)):
        _subtract_from_line(rows, weights, c, out)


@kernel(parallel=True)
def subtract_parallel(rows, weights, out):
    """The same on all threads."""
    for c in prange(-(-out.size // _LINE)):
        _subtract_from_line(rows, weights, c, out)
