"""Preparation of features and matrices on a GPU: gather, check, bound by boxes, scale."""

import math

from numba import cuda, float64
from numba.cuda import libdevice

from subsel.kernels.cuda.tiles import LANES, THREADS


@cuda.jit
def gather(source, order, out):
    """Copy rows of the source into slots, in the type of `out`. One block for each tile."""
    for lane in range(LANES):
        i = order[cuda.blockIdx.x * LANES + lane]
        for k in range(cuda.threadIdx.x, source.shape[1], THREADS):
            out[cuda.blockIdx.x * LANES + lane, k] = source[i, k]


@cuda.jit
def gather_columns(source, order, out):
    """Copy columns of a matrix. Any number of blocks."""
    width = order.size
    for at in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[at] = source[at // width, order[at % width]]


@cuda.jit
def check(source, order, low, first_bad, largest):
    """Find the first entry below `low` or not finite, and the largest one. Any number of blocks."""
    d = source.shape[1]
    high = largest[0]
    for at in range(cuda.grid(1), source.size, cuda.gridsize(1)):
        x = source[at // d, at % d]
        if not (low <= x < math.inf):
            cuda.atomic.min(first_bad, 0, order[at // d] * d + at % d)
        elif x > high:
            high = x
    cuda.atomic.max(largest, 0, high)


@cuda.jit
def find_boxes(rows, least, largest):
    """Find the range of each feature within each tile. One block for each tile."""
    tile = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, rows.shape[1], THREADS):
        low = high = rows[tile * LANES, k]
        for i in range(tile * LANES + 1, (tile + 1) * LANES):
            x = rows[i, k]
            low = x if x < low else low
            high = x if x > high else high
        least[tile, k], largest[tile, k] = low, high


@cuda.jit
def find_ranges(start, least, largest, low, high):
    """Find the range of each feature within each class. Blocks: (class, THREADS features)."""
    c, k = cuda.blockIdx.x, cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if k >= least.shape[1]:
        return
    first = start[c] // LANES
    a, b = least[first, k], largest[first, k]
    for tile in range(first + 1, start[c + 1] // LANES):
        x, y = least[tile, k], largest[tile, k]
        a = x if x < a else a
        b = y if y > b else b
    low[c, k], high[c, k] = a, b


@cuda.jit
def find_radius(rows, group, middle, extent, radius):
    """Find the largest length of (row - middle) / extent in each class. One block for each tile.

    Squares are not fused with their sum, so that the result has the same bits as on the CPU.
    """
    c = group[cuda.blockIdx.x]
    i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
    total = 0.0
    if extent[c] > 0:
        for k in range(rows.shape[1]):
            x = (float64(rows[i, k]) - middle[c, k]) / extent[c]
            total += libdevice.dmul_rn(x, x)
    cuda.atomic.max(radius, c, math.sqrt(total))


@cuda.jit
def divide(rows, group, exponent):
    """Divide the rows of each class by a power of two. One block for each tile of rows."""
    shift = -int(exponent[group[cuda.blockIdx.x]])
    for at in range(cuda.threadIdx.x, LANES * rows.shape[1], THREADS):
        i, k = cuda.blockIdx.x * LANES + at // rows.shape[1], at % rows.shape[1]
        rows[i, k] = math.ldexp(float64(rows[i, k]), shift)


@cuda.jit
def scale_to_unit(rows):
    """Scale rows to length 1; the last feature marks rows of zeros. One block for each tile."""
    i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
    d = rows.shape[1] - 1
    extent = 0.0
    for k in range(d):
        x = abs(float64(rows[i, k]))
        extent = x if x > extent else extent
    rows[i, d] = 1.0 if extent == 0 else 0.0
    if extent > 0:
        total = 0.0
        for k in range(d):
            x = float64(rows[i, k]) / extent
            total += libdevice.dmul_rn(x, x)
        length = math.sqrt(total)
        for k in range(d):
            rows[i, k] = float64(rows[i, k]) / extent / length
