"""Similarities of some rows to the rows of a tile, and the rounding that makes their sums exact.

Similarities are computed with explicit fused multiply-adds in a fixed order, so that they have the
same bits wherever they are computed. Then they are rounded to a common grid (`quantize`) so fine
that a float64 holds every sum of them without rounding.
"""

import math

import numpy as np

from subsel.kernels.compiling import inlined, inner
from subsel.kernels.cpu.vectors import (
    COSINE,
    DOT,
    EUCLIDEAN,
    LANES,
    RBF,
    products,
    rint,
    squares,
)


@inlined
def quantize(s, up, down):
    """Round to the grid: `up` is a power of two, `down` its inverse."""
    return rint(s * up) * down


@inlined
def rounding(down):
    """A number whose addition and subtraction rounds to the grid, in fewer operations.

    It is 1.5 * 2**52 steps of the grid; no similarity is larger than a quarter of that.
    """
    return 1.5 * 2.0**52 * down


@inlined
def clamp(s, low, high):
    """`s` within low..high, by comparisons that compile to vector instructions."""
    s = s if s > low else low
    return s if s < high else high


@inlined
def similarities(tile, rows, picked, metric, gamma, up, down, out):
    """Similarities less the offset of some rows to the LANES columns of a tile, row after row.

    They are -||x - y||, cos - 1, <x, y>, and exp(-gamma ||x - y||^2) - 1, on the grid.
    """
    if metric == DOT:
        products(tile, rows, picked, metric, up, down, out)
    else:
        squares(tile, rows, picked, metric, up, down, out)
        if metric == RBF:
            for j in range(out.size):
                out[j] = -quantize(-math.expm1(-gamma * out[j]), up, down)


@inlined
def squared_reach(s, metric, gamma):
    """Squared distance beyond which no candidate is more similar than `s` (less the offset)."""
    if s < np.inf:
        if metric == EUCLIDEAN:
            return s * s
        if metric == COSINE:
            return -2.0 * s
        if metric == RBF and s > -0.99:  # nearer to -1, rounding of exp outweighs the margin
            return -math.log1p(s) / gamma
        return np.inf
    return -np.inf


@inner(makes_arrays=True)
def room(size, like):
    """An array of `size` numbers of the type of another array.

    Numba compiles ``np.empty`` again for each literal size, and this function once for each type.
    """
    return np.empty(size, like.dtype)


@inlined
def features_at(rows, slot, tiles):
    """Where the features of a row are, in rows or in tiles: a line, the first, and the step."""
    if rows.shape[1] * LANES == tiles.shape[1]:
        return slot, 0, 1
    return slot // LANES, slot % LANES, LANES


@inner
def squared_gaps(least, largest, first, step, lows, highs, shrink, out):
    """Squared distances, slightly reduced, from a box to boxes stored dimension by dimension.

    The corners of the box are every `step`-th number of `least` and of `largest`.
    """
    width = np.uint64(out.size)  # unsigned, or LLVM would not use vectors
    out[:] = 0
    at = first
    for k in range(lows.size // out.size):
        from_, to = least[at], largest[at]
        at += step
        line = np.uint64(k) * width
        for j in range(width):
            below, above = from_ - highs[line + j], lows[line + j] - to
            t = below if below > above else above
            t = t if t > 0 else out.dtype.type(0)
            out[j] += t * t * shrink
