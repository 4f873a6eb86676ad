"""Update bounds of gains when few points changed in what they can still take.

Where the worth of a point is its level up to a cap, a candidate of similarity s gains min(s, left)
there, if `left` is what the point can still take. As long as no similarity exceeds `left`, the
terms of the point do not change; once `left` is 0, they are 0. In between, which lasts only for few
elements, min(s, before) - min(s, after) is subtracted from the gain of every candidate. All numbers
are on one grid, so an exact gain stays exact to the last bit.
"""

import numpy as np
from numba import prange

from subsel.kernels.compiling import by_type, inner, kernel
from subsel.kernels.cpu.coverage import store_type
from subsel.kernels.cpu.lanes import clamp, similarities
from subsel.kernels.cpu.stores import Dense, Tiled
from subsel.kernels.cpu.vectors import LANES, four_lines
from subsel.kernels.rules import join, left

PIECE = 16 * LANES
"""Candidates whose bounds are brought up to date together, by one thread."""


@inner
def _take_out(rule, scale, lines, low, high, upper):
    """Subtract what four points can no longer take from the bounds of some candidates."""
    unit, offset = scale[0], scale[1]
    line0, line1, line2, line3 = lines
    low0, low1, low2, low3 = low
    high0, high1, high2, high3 = high
    base = low0 + low1 + low2 + low3
    for j in range(upper.size):
        total = clamp(join(rule, 0.0, unit * (np.float64(line0[j]) + offset)), low0, high0)
        total += clamp(join(rule, 0.0, unit * (np.float64(line1[j]) + offset)), low1, high1)
        total += clamp(join(rule, 0.0, unit * (np.float64(line2[j]) + offset)), low2, high2)
        total += clamp(join(rule, 0.0, unit * (np.float64(line3[j]) + offset)), low3, high3)
        upper[j] -= total - base


@by_type
def take_out(store, rule, scale, points, low, high, begin, upper):
    """The same from a store, of candidates from `begin` on; `points` are a multiple of four."""


@take_out.of(Dense)
def _take_out_rows(store, rule, scale, points, low, high, begin, upper):
    matrix, end = store.matrix, begin + upper.size
    for a in range(0, points.size, 4):
        lines = (
            matrix[points[a], begin:end],
            matrix[points[a + 1], begin:end],
            matrix[points[a + 2], begin:end],
            matrix[points[a + 3], begin:end],
        )
        lows = low[a], low[a + 1], low[a + 2], low[a + 3]
        highs = high[a], high[a + 1], high[a + 2], high[a + 3]
        _take_out(rule, scale, lines, lows, highs, upper)


@take_out.of(Tiled)
def _take_out_tiles(store, rule, scale, points, low, high, begin, upper):
    metric, gamma = store.metric, store.gamma
    quad = four_lines(store_type(store))
    for left_ in range(0, upper.size, LANES):
        tile = store.tiles[(begin + left_) // LANES]
        out = upper[left_ : left_ + LANES]
        for a in range(0, points.size, 4):
            picked = (points[a], points[a + 1], points[a + 2], points[a + 3])
            similarities(tile, store.point_rows, picked, metric, gamma, store.up, store.down, quad)
            lines = (
                quad[:LANES], quad[LANES : 2 * LANES], quad[2 * LANES : 3 * LANES],
                quad[3 * LANES :],
            )  # fmt: skip
            lows = low[a], low[a + 1], low[a + 2], low[a + 3]
            highs = high[a], high[a + 1], high[a + 2], high[a + 3]
            _take_out(rule, scale, lines, lows, highs, out)


@inner
def changes(rule, level, before, largest, points, low, high):
    """Find the points that can take less than before, and less than the largest similarity; count
    them.

    They are written into `points`, with what they can take now and could take before, and padded to
    a multiple of four by points that have not changed. The result is -1 if they do not fit.
    """
    count = 0
    for i in range(level.size):
        after = left(rule, i, level[i])
        if after < largest and after < before[i]:
            if count == points.size:
                return -1
            points[count], low[count], high[count] = i, after, before[i]
            count += 1
    while count % 4:
        points[count], low[count], high[count] = points[0], 0.0, 0.0
        count += 1
    return count


@inner
def follow_all(store, rule, scale, points, low, high, upper):
    """Bring bounds up to date after some points changed."""
    for begin in range(0, upper.size, PIECE):
        take_out(store, rule, scale, points, low, high, begin, upper[begin : begin + PIECE])


@kernel
def follow_serial(store, rule, scale, points, low, high, upper):
    """The same for Python."""
    follow_all(store, rule, scale, points, low, high, upper)


@kernel(parallel=True)
def follow_parallel(store, rule, scale, points, low, high, upper):
    """The same on all threads."""
    for piece in prange(-(-upper.size // PIECE)):
        begin = piece * PIECE
        take_out(store, rule, scale, points, low, high, begin, upper[begin : begin + PIECE])
