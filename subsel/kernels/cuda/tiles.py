"""Tiles of features and matrices on a GPU, and the similarities in them."""

import math
from typing import Any, NamedTuple

from numba import config, cuda, int32

from subsel.kernels.cpu import COSINE, DOT, EUCLIDEAN, RBF

EACH = 4
"""The number of candidates, and of points, whose pairs one thread computes."""

SIDE = 4 if config.ENABLE_CUDASIM else 16  # in the simulator each thread is one of Python's
LANES = EACH * SIDE
"""The number of slots in a tile."""

THREADS = SIDE * SIDE
"""The number of threads in a block."""

ROWS = THREADS // LANES
"""The number of rows of a matrix, LANES wide, that a block reads at a time."""

QUEUE = LANES + THREADS
"""The number of points that can wait until they fill a tile."""

DEPTH, STRIDE = 16, LANES + 1
"""Features of a tile in shared memory at a time, and their stride, which uses all banks."""

GAMMA, UP, DOWN, SHRINK = range(4)
"""Columns of `Features.rule`."""


class Slots(NamedTuple):
    """For each class its first slot and its number of members; for each tile its class."""

    start: Any
    size: Any
    group: Any


class Features(NamedTuple):
    """Rows of points and candidates, (slots, d), and boxes around candidates' tiles, (tiles, d).

    `rule` has a row for each class. From `whole` on, numbers of this type have no fractions.
    """

    points: Slots
    candidates: Slots
    rows: Any
    columns: Any
    least: Any
    largest: Any
    rule: Any
    metric: int
    whole: Any


class Matrices(NamedTuple):
    """One matrix (points, candidates) for each class, from `at` on, all in one array.

    Adding `round_off` and subtracting it rounds to the grid of the class.
    """

    points: Slots
    candidates: Slots
    entries: Any
    at: Any
    round_off: Any


@cuda.jit(device=True, inline="always")
def quantize(s, up, down, whole):
    """Round to the grid. Two additions are cheaper than the instruction that rounds."""
    s = s * up
    if -whole < s < whole:
        near = whole if s >= 0 else -whole
        s = (s + near) - near
    return s * down


@cuda.jit(device=True, inline="always")
def similarity(x, metric, rule, c, whole):
    """The similarity less the offset, on the grid, from a squared distance (or product)."""
    number = rule.dtype.type
    up, down = rule[c, UP], rule[c, DOWN]
    if metric == EUCLIDEAN:
        return -quantize(number(math.sqrt(x)), up, down, whole)
    if metric == COSINE:
        return -quantize(number(0.5) * x, up, down, whole)
    if metric == DOT:
        return quantize(x, up, down, whole)
    return -quantize(number(-math.expm1(-rule[c, GAMMA] * x)), up, down, whole)


@cuda.jit(device=True, inline="always")
def squared_reach(s, metric, gamma):
    """Squared distance beyond which no candidate is more similar than `s` (less the offset)."""
    if metric == EUCLIDEAN:
        return s * s
    if metric == COSINE:
        return -2.0 * s
    if metric == RBF and s > -0.99:  # nearer to -1, rounding of exp outweighs the margin
        return -math.log1p(s) / gamma
    return math.inf


@cuda.jit(device=True, inline="always")
def squared_gap(store, i, tile, shrink):
    """Squared distance, a little less, from a point to the box around a tile of candidates."""
    number = store.rows.dtype.type
    gap = number(0)
    for k in range(store.rows.shape[1]):
        x = store.rows[i, k]
        t, above = store.least[tile, k] - x, x - store.largest[tile, k]
        t = t if t > above else above
        t = t if t > 0 else number(0)
        gap += t * t * shrink
    return gap


@cuda.jit(device=True, inline="always")
def pairs(rows, picked, start, count, columns, left, metric, out):
    """Squared distances (or products) of this thread's candidates and points.

    A block has the LANES candidates from `left` on, and the `count` points picked[start],
    picked[start + 1] and so on. A thread has the candidates x + SIDE * a and the points y + SIDE *
    b of these, and fills ``out[a, b]``: one chain of fused multiply-adds in the order of the
    features.
    """
    number = rows.dtype.type
    one = cuda.shared.array((DEPTH, STRIDE), rows.dtype)
    other = cuda.shared.array((DEPTH, STRIDE), rows.dtype)
    u = cuda.local.array(EACH, rows.dtype)
    d = rows.shape[1]
    t = cuda.threadIdx.x
    x, y = t % SIDE, t // SIDE
    for a in range(EACH):
        for b in range(EACH):
            out[a, b] = number(0)
    for k0 in range(0, d, DEPTH):
        depth = DEPTH if d - k0 > DEPTH else d - k0
        for at in range(t, LANES * DEPTH, THREADS):
            lane, k = at // DEPTH, at % DEPTH
            if k < depth:
                one[k, lane] = columns[left + lane, k0 + k]
                point = picked[start + (lane if lane < count else 0)]
                other[k, lane] = rows[point, k0 + k]
        cuda.syncthreads()
        for k in range(depth):
            for a in range(EACH):
                u[a] = one[k, x + SIDE * a]
            for b in range(EACH):
                v = other[k, y + SIDE * b]
                for a in range(EACH):
                    if metric == DOT:
                        out[a, b] = cuda.fma(u[a], v, out[a, b])
                    else:
                        w = u[a] - v
                        out[a, b] = cuda.fma(w, w, out[a, b])
        cuda.syncthreads()


@cuda.jit
def fill_matrices(store, matrices):
    """Fill a matrix of similarities for each class, whose points are its candidates.

    Blocks: (tiles of points, number of tiles of the largest class).
    """
    picked = cuda.shared.array(LANES, int32)
    sums = cuda.local.array((EACH, EACH), store.rows.dtype)
    t = cuda.threadIdx.x
    c = store.points.group[cuda.blockIdx.x]
    start, size = store.points.start[c], store.points.size[c]
    top = cuda.blockIdx.x * LANES - start
    left = cuda.blockIdx.y * LANES
    if left >= size:
        return
    if t < LANES:
        picked[t] = start + top + t
    cuda.syncthreads()
    pairs(store.rows, picked, 0, LANES, store.columns, start + left, store.metric, sums)
    for b in range(EACH):
        i = top + t // SIDE + SIDE * b
        for a in range(EACH):
            j = left + t % SIDE + SIDE * a
            if i < size and j < size:
                s = similarity(sums[a, b], store.metric, store.rule, c, store.whole)
                matrices.entries[matrices.at[c] + i * size + j] = s
