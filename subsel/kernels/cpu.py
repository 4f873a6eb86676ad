"""Numba kernels of facility location on the CPU.

Every storage of similarities (dense matrix, sparse matrix, features) has the same two kernels:

``*_cover``
    A new representative `e`: raise ``best[i] = max(best[i], s[i, e])`` and list the points that
    changed, with the similarity to their representative before and after.
``*_sweep``
    For those points, add ``sign * min(max(s[i, j] - before[i], 0), after[i] - before[i])`` to
    ``gains[j]`` for every candidate `j`. With ``after = inf`` and ``sign = +1`` this is the
    marginal gain from scratch; with ``sign = -1`` it takes out of the gains what `e` has covered.

Exactness. Similarities are rounded to a common grid (`_quantize`) so fine that a float64 holds
every sum of them without rounding. All sums below are therefore exact: any order of summation, any
number of threads, any skipped zero and any subtraction of an old term leave the same bits.
Similarities themselves are computed with explicit fused multiply-adds in a fixed order, so that
they too have the same bits wherever they are computed.

All kernels live in this one file: Numba's disk cache does not notice a changed callee elsewhere.
"""

import math
import sys

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads
from numba.core import event
from numba.extending import intrinsic

LANES = 64
"""Candidates (and points) per tile: a few vector registers wide on every current CPU."""

EUCLIDEAN, COSINE, DOT, RBF = range(4)


class _CompilationNotice(event.Listener):
    """Tells a person who waits, once, that kernels are being compiled; cached ones are not."""

    def on_start(self, event_):
        if event_.data["dispatcher"].py_func.__module__ == __name__:
            event.unregister("numba:compile", self)
            if sys.stderr.isatty():
                sys.stderr.write("subsel: compiling for this machine, once; some ten seconds ...\n")

    def on_end(self, event_):
        """Nothing to say."""


event.register("numba:compile", _CompilationNotice())


def threads():
    """Threads that parallel kernels will use (``numba.set_num_threads``, NUMBA_NUM_THREADS)."""
    return get_num_threads()


def single_thread():
    """Keep kernels called from this Python thread to one thread."""
    set_num_threads(1)


@intrinsic
def _fma(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


@intrinsic
def _rint(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return x(x), codegen


@njit(inline="always")
def _quantize(s, up, down):
    """Round to the grid: `up` is a power of two, `down` its inverse."""
    return _rint(s * up) * down


@njit(inline="always")
def _clamp(t, span):
    """`t` within 0..span, by comparisons that compile to vector instructions."""
    t = t if t > 0.0 else 0.0
    return t if t < span else span


@njit(cache=True, nogil=True)
def is_symmetric(matrix):
    """Whether a square matrix equals its transpose exactly, tile by tile."""
    n = matrix.shape[0]
    for i0 in range(0, n, LANES):
        for j0 in range(0, i0 + 1, LANES):
            for i in range(i0, min(i0 + LANES, n)):
                for j in range(j0, min(j0 + LANES, n)):
                    if matrix[i, j] != matrix[j, i]:
                        return False
    return True


@njit(cache=True, nogil=True)
def argmax(gains, order, taken):
    """The element of largest gain not taken, the lowest of equals; slot i holds order[i]."""
    element = -1
    best = -np.inf
    for i in range(order.size):
        gain = gains[i]
        if gain >= best and not taken[order[i]] and (gain > best or order[i] < element):
            best = gain
            element = order[i]
    return element, best


@njit(cache=True, nogil=True)
def dense_cover(matrix, element, position, grid, best, assigned, changes):
    up, down = grid
    changed, before, after = changes
    m = 0
    for i in range(matrix.shape[0]):
        s = _quantize(np.float64(matrix[i, element]), up, down)
        if s > best[i]:
            changed[m] = i
            before[m] = best[i]
            after[m] = s
            best[i] = s
            assigned[i] = position
            m += 1
    return m


@njit(cache=True, nogil=True)
def dense_sweep(matrix, changes, m, grid, sign, gains, start, stop):
    """Columns `start` to `stop`, a piece of each row at a time, four rows at once.

    Adding and subtracting 1.5 * 2**52 steps of the grid rounds to it, in fewer operations than
    `_quantize`; no similarity is larger than a quarter of that.
    """
    round_off = 1.5 * 2.0**52 * grid[1]
    changed, before, after = changes
    # Slices, for indices that start at 0: LLVM does not vectorize where one might be negative.
    out = gains[start:stop]
    a = 0
    while a + 4 <= m:
        row0, row1 = matrix[changed[a], start:stop], matrix[changed[a + 1], start:stop]
        row2, row3 = matrix[changed[a + 2], start:stop], matrix[changed[a + 3], start:stop]
        low0, low1, low2, low3 = before[a], before[a + 1], before[a + 2], before[a + 3]
        span0, span1 = after[a] - low0, after[a + 1] - low1
        span2, span3 = after[a + 2] - low2, after[a + 3] - low3
        for j in range(out.size):
            total = _clamp(((np.float64(row0[j]) + round_off) - round_off) - low0, span0)
            total += _clamp(((np.float64(row1[j]) + round_off) - round_off) - low1, span1)
            total += _clamp(((np.float64(row2[j]) + round_off) - round_off) - low2, span2)
            total += _clamp(((np.float64(row3[j]) + round_off) - round_off) - low3, span3)
            out[j] += sign * total
        a += 4
    while a < m:
        row, low, span = matrix[changed[a], start:stop], before[a], after[a] - before[a]
        for j in range(out.size):
            out[j] += sign * _clamp(((np.float64(row[j]) + round_off) - round_off) - low, span)
        a += 1


@njit(cache=True, parallel=True, nogil=True)
def dense_sweep_parallel(matrix, changes, m, grid, sign, gains, width):
    n = matrix.shape[1]
    for c in prange((n + width - 1) // width):
        start = c * width
        dense_sweep(matrix, changes, m, grid, sign, gains, start, min(start + width, n))


@njit(cache=True, nogil=True)
def sparse_cover(columns, element, position, grid, best, assigned, changes):
    """One column of a matrix in compressed columns (indptr, rows, data)."""
    indptr, rows, data = columns
    up, down = grid
    changed, before, after = changes
    m = 0
    for p in range(indptr[element], indptr[element + 1]):
        i = rows[p]
        s = _quantize(np.float64(data[p]), up, down)
        if s > best[i]:
            changed[m] = i
            before[m] = best[i]
            after[m] = s
            best[i] = s
            assigned[i] = position
            m += 1
    return m


@njit(cache=True, nogil=True)
def sparse_sweep(rows, changes, m, grid, sign, gains):
    """The changed rows of a matrix in compressed rows; an absent entry is 0 and covers nothing."""
    indptr, columns, data = rows
    up, down = grid
    changed, before, after = changes
    seen = 0
    for a in range(m):
        low = before[a]
        span = after[a] - low
        for p in range(indptr[changed[a]], indptr[changed[a] + 1]):
            t = _quantize(np.float64(data[p]), up, down) - low
            gains[columns[p]] += sign * _clamp(t, span)
        seen += indptr[changed[a] + 1] - indptr[changed[a]]
    return seen


@njit(inline="always")
def _tile_distances(tile, row, out):
    """Squared distances of one row to the LANES columns of a tile.

    `tile` is flat, dimension by dimension; the number of dimensions is even. They are taken eight,
    then two at a time, so that partial sums stay in registers; each pair's chain of multiply-adds
    is the same whatever the grouping. Flat slices with constant offsets are what lets LLVM see that
    the accesses are contiguous and that one overlap check is enough.
    """
    x0, x1 = row[0], row[1]
    for j in range(LANES):
        t = tile[j] - x0
        s = t * t
        t = tile[LANES + j] - x1
        out[j] = _fma(t, t, s)
    k = 2
    while k + 8 <= row.size:
        x = tile[k * LANES : (k + 8) * LANES]
        y = row[k : k + 8]
        x0, x1, x2, x3, x4, x5, x6, x7 = y[0], y[1], y[2], y[3], y[4], y[5], y[6], y[7]
        for j in range(LANES):
            t = x[j] - x0
            s = _fma(t, t, out[j])
            t = x[LANES + j] - x1
            s = _fma(t, t, s)
            t = x[2 * LANES + j] - x2
            s = _fma(t, t, s)
            t = x[3 * LANES + j] - x3
            s = _fma(t, t, s)
            t = x[4 * LANES + j] - x4
            s = _fma(t, t, s)
            t = x[5 * LANES + j] - x5
            s = _fma(t, t, s)
            t = x[6 * LANES + j] - x6
            s = _fma(t, t, s)
            t = x[7 * LANES + j] - x7
            out[j] = _fma(t, t, s)
        k += 8
    while k < row.size:
        x = tile[k * LANES : (k + 2) * LANES]
        x0, x1 = row[k], row[k + 1]
        for j in range(LANES):
            t = x[j] - x0
            s = _fma(t, t, out[j])
            t = x[LANES + j] - x1
            out[j] = _fma(t, t, s)
        k += 2


@njit(inline="always")
def _tile_products(tile, row, out):
    """Inner products of one row with the LANES columns of a tile."""
    x0, x1 = row[0], row[1]
    for j in range(LANES):
        out[j] = _fma(tile[LANES + j], x1, tile[j] * x0)
    for k in range(2, row.size, 2):
        x = tile[k * LANES : (k + 2) * LANES]
        x0, x1 = row[k], row[k + 1]
        for j in range(LANES):
            out[j] = _fma(x[LANES + j], x1, _fma(x[j], x0, out[j]))


@njit(inline="always")
def _to_similarities(metric, gamma, up, down, out):
    """From squared distances (or products) to similarities less the offset, on the grid.

    They are -||x - y||, cos - 1, <x, y>, and exp(-gamma ||x - y||^2) - 1.
    """
    if metric == EUCLIDEAN:
        for j in range(out.size):
            out[j] = -_quantize(np.sqrt(out[j]), up, down)
    elif metric == COSINE:
        up_half = np.float32(0.5) * up
        for j in range(out.size):
            out[j] = -_quantize(out[j], up_half, down)
    elif metric == DOT:
        for j in range(out.size):
            out[j] = _quantize(out[j], up, down)
    else:
        for j in range(out.size):
            out[j] = -_quantize(-math.expm1(-gamma * out[j]), up, down)


@njit(cache=True, nogil=True)
def _tile_similarities(tile, row, rule, out):
    """Similarities less the offset of one row to the LANES columns of a tile."""
    metric, gamma, up, down, _ = rule
    if metric == DOT:
        _tile_products(tile, row, out)
    else:
        _tile_distances(tile, row, out)
    _to_similarities(metric, gamma, up, down, out)


@njit(inline="always")
def _reach(s, metric, gamma):
    """Distance beyond which no candidate is more similar to a point than `s` (less the offset)."""
    if metric == EUCLIDEAN:
        return -s
    if metric == COSINE:
        return math.sqrt(-2.0 * s)
    if metric == RBF and s > -0.99:  # nearer to -1, rounding of exp outweighs the margin
        return math.sqrt(-math.log1p(s) / gamma)
    return np.inf


@njit(cache=True, nogil=True)
def tile_radii(rows, centers):
    """Largest distance of LANES consecutive rows to their centre, rounded up."""
    radii = np.zeros(centers.shape[0])
    for i in range(rows.shape[0]):
        b = i // LANES
        square = 0.0
        for k in range(rows.shape[1]):
            t = np.float64(rows[i, k]) - np.float64(centers[b, k])
            square += t * t
        radii[b] = max(radii[b], math.sqrt(square) * (1 + 1e-12))
    return radii


@njit(cache=True, nogil=True)
def bound_losses(rows, means, members, metric, out):
    """Lower bounds of each row's summed distance (or half squared distance) to all points.

    `means` (d, groups) and `members` (groups,): the points' means by groups, in float64.
    """
    gap = np.empty(means.shape[1])
    for j in range(rows.shape[0]):
        gap[:] = 0.0
        for k in range(means.shape[0]):
            x = np.float64(rows[j, k])
            for b in range(gap.size):
                t = means[k, b] - x
                gap[b] += t * t
        total = 0.0
        for b in range(gap.size):
            total += members[b] * (math.sqrt(gap[b]) if metric == EUCLIDEAN else 0.5 * gap[b])
        out[j] = total


@njit(cache=True, nogil=True)
def tile_cover(group, row, position, rule, reach, best, assigned, changes):
    """Cover from features.

    `group`: (tiles (count, d * LANES), centers (d, count), radii (count,), members (count,)).
    `rule`: (metric, gamma, up, down, shrink), the last a factor that keeps bounds safe.
    `reach[b]`: the largest `_reach` of the points in tile b. Padding has best = inf.
    """
    tiles, centers, radii, members = group
    metric, gamma, _, _, shrink = rule
    changed, before, after = changes
    buffer = np.empty(LANES, tiles.dtype)
    m = 0
    seen = 0
    for b in range(tiles.shape[0]):
        gap = 0.0
        for k in range(row.size):
            t = np.float64(centers[k, b]) - row[k]
            gap += t * t
        limit = reach[b] + radii[b]
        if gap * shrink >= limit * limit:
            continue
        _tile_similarities(tiles[b], row, rule, buffer)
        seen += members[b]
        worst = np.inf
        for j in range(LANES):
            i = b * LANES + j
            s = np.float64(buffer[j])
            if s > best[i]:
                changed[m] = i
                before[m] = best[i]
                after[m] = s
                best[i] = s
                assigned[i] = position
                m += 1
            worst = min(worst, best[i])
        reach[b] = _reach(worst, metric, gamma) if worst < np.inf else -np.inf
    return m, seen


@njit(cache=True, nogil=True)
def _quad_similarities(tile, rows, rule, out):
    """`_tile_similarities` of four rows at once, one after the other in `rows` and `out`.

    Each element of a wide tile is then loaded once for four pairs; the bits are the same.
    """
    metric, gamma, up, down, _ = rule
    d = rows.size // 4
    out[:] = 0
    for k in range(0, d, 2):
        x = tile[k * LANES : (k + 2) * LANES]
        a0, a1, b0, b1 = rows[k], rows[k + 1], rows[d + k], rows[d + k + 1]
        c0, c1, d0, d1 = rows[2 * d + k], rows[2 * d + k + 1], rows[3 * d + k], rows[3 * d + k + 1]
        if metric == DOT:
            for j in range(LANES):
                u = x[j]
                v = x[LANES + j]
                out[j] = _fma(v, a1, _fma(u, a0, out[j]))
                out[LANES + j] = _fma(v, b1, _fma(u, b0, out[LANES + j]))
                out[2 * LANES + j] = _fma(v, c1, _fma(u, c0, out[2 * LANES + j]))
                out[3 * LANES + j] = _fma(v, d1, _fma(u, d0, out[3 * LANES + j]))
        else:
            for j in range(LANES):
                u = x[j]
                v = x[LANES + j]
                t = u - a0
                s = _fma(t, t, out[j])
                t = v - a1
                out[j] = _fma(t, t, s)
                t = u - b0
                s = _fma(t, t, out[LANES + j])
                t = v - b1
                out[LANES + j] = _fma(t, t, s)
                t = u - c0
                s = _fma(t, t, out[2 * LANES + j])
                t = v - c1
                out[2 * LANES + j] = _fma(t, t, s)
                t = u - d0
                s = _fma(t, t, out[3 * LANES + j])
                t = v - d1
                out[3 * LANES + j] = _fma(t, t, s)
    _to_similarities(metric, gamma, up, down, out)


@njit(cache=True, nogil=True)
def tile_sweep(group, points, changes, m, rule, sign, gains, start, stop):
    """Tiles `start` to `stop`: few enough to stay in the cache while the changed points pass.

    Points come four at a time, as they lie near each other, so that a tile and its gains are
    loaded once for four of them; a tile is skipped if none of the four can reach it.
    """
    tiles, centers, radii, members = group
    metric, gamma, _, _, shrink = rule
    changed, before, after = changes
    d = points.shape[1]
    gap = np.empty((4, stop - start), centers.dtype)
    quad = np.zeros(4 * d, tiles.dtype)
    reach = np.empty(4)
    low = np.empty(4)
    span = np.empty(4)
    buffer = np.empty(4 * LANES, tiles.dtype)
    seen = 0
    for a in range(0, m, 4):
        for q in range(4):
            i = min(a + q, m - 1)
            quad[q * d : (q + 1) * d] = points[changed[i]]
            low[q] = before[i]
            # What fills up the last four changes no gain.
            span[q] = after[i] - before[i] if a + q < m else 0.0
            reach[q] = _reach(before[i], metric, gamma)
            gap[q] = 0
            for k in range(d):
                x = quad[q * d + k]
                line = centers[k, start:stop]
                for b in range(line.size):
                    t = line[b] - x
                    gap[q, b] += t * t
        for b in range(start, stop):
            needed = False
            for q in range(4):
                limit = reach[q] + radii[b]
                needed |= gap[q, b - start] * shrink < limit * limit
            if not needed:
                continue
            _quad_similarities(tiles[b], quad, rule, buffer)
            seen += members[b] * min(4, m - a)
            block = gains[b * LANES : (b + 1) * LANES]
            l0, l1, l2, l3 = low[0], low[1], low[2], low[3]
            s0, s1, s2, s3 = span[0], span[1], span[2], span[3]
            for j in range(LANES):
                total = _clamp(np.float64(buffer[j]) - l0, s0)
                total += _clamp(np.float64(buffer[LANES + j]) - l1, s1)
                total += _clamp(np.float64(buffer[2 * LANES + j]) - l2, s2)
                total += _clamp(np.float64(buffer[3 * LANES + j]) - l3, s3)
                block[j] += sign * total
    return seen


@njit(cache=True, nogil=True)
def tile_sweep_serial(group, points, changes, m, rule, sign, gains, width):
    count = group[0].shape[0]
    seen = 0
    for start in range(0, count, width):
        stop = min(start + width, count)
        seen += tile_sweep(group, points, changes, m, rule, sign, gains, start, stop)
    return seen


@njit(cache=True, parallel=True, nogil=True)
def tile_sweep_parallel(group, points, changes, m, rule, sign, gains, width):
    count = group[0].shape[0]
    pieces = (count + width - 1) // width
    seen = np.zeros(pieces, np.int64)
    for c in prange(pieces):
        start = c * width
        stop = min(start + width, count)
        seen[c] = tile_sweep(group, points, changes, m, rule, sign, gains, start, stop)
    return seen.sum()


@njit(cache=True, nogil=True)
def tile_matrix(tiles, rows, rule, out, block):
    """Similarities of one block of LANES rows to all rows, into `out`.

    `rows`, padded to whole blocks, are what the tiles are made of, so only tiles from the block's
    own on are computed, and mirrored.
    """
    n = out.shape[0]
    d = rows.shape[1]
    top = block * LANES
    height = min(LANES, n - top)
    part = np.empty((LANES, LANES), tiles.dtype)
    for b in range(block, tiles.shape[0]):
        for i in range(0, LANES, 4):
            quad = rows[top + i : top + i + 4].reshape(4 * d)
            _quad_similarities(tiles[b], quad, rule, part[i : i + 4].reshape(4 * LANES))
        left = b * LANES
        width = min(LANES, n - left)
        out[top : top + height, left : left + width] = part[:height, :width]
        if b > block:
            for j in range(width):
                for i in range(height):
                    out[left + j, top + i] = part[i, j]


@njit(cache=True, parallel=True, nogil=True)
def tile_matrix_parallel(tiles, rows, rule, out):
    blocks = rows.shape[0] // LANES
    # Paired from both ends, so that threads get equal parts of a triangle.
    for block in prange((blocks + 1) // 2):
        tile_matrix(tiles, rows, rule, out, block)
        if blocks - 1 - block > block:
            tile_matrix(tiles, rows, rule, out, blocks - 1 - block)
