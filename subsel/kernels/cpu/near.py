"""Which rows lie near one row: distances from exact differences, without a matrix of them."""

import numpy as np

from subsel.kernels.compiling import kernel

_STEP = 64
"""Features after which it is asked whether the row is too far already."""


@kernel(fastmath={"reassoc", "contract"})
def _part(features, i, e, start, stop):
    """Sum of the squared differences of some features of two rows."""
    total = 0.0
    for k in range(start, stop):
        t = np.float64(features[i, k]) - np.float64(features[e, k])
        total += t * t
    return total


@kernel
def close_near(features, e, least, closed):
    """Mark the rows whose squared distance to row `e` is less than `least`."""
    n, d = features.shape
    for i in range(n):
        if closed[i]:
            continue
        total = 0.0
        start = 0
        while start < d and total < least:
            stop = min(start + _STEP, d)
            total += _part(features, i, e, start, stop)
            start = stop
        closed[i] = total < least
