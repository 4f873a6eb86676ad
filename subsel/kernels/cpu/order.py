"""Preparation of features: an order that keeps near rows together, their lengths and radius."""

import math

import numpy as np

from subsel.kernels.compiling import inner, kernel
from subsel.kernels.cpu.lanes import room
from subsel.kernels.cpu.vectors import LANES


@inner
def place_largest(keys, order, start, stop, middle):
    """Hoare's selection: afterwards no key before `middle` in start..stop exceeds a later one.

    `order` is permuted like the keys.
    """
    left, right = start, stop - 1
    while left < right:
        a, b, c = keys[left], keys[(left + right) // 2], keys[right]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@kernel
def spatial_order(features):
    """Rows ordered so that each run of LANES is close together: the leaves of a k-d tree.

    O(n (d + 1) log n) time.
    """
    n, d = features.shape
    order = np.empty(n, np.int64)
    for a in range(n):
        order[a] = a
    keys = room(n, features)
    low, high = room(d, features), room(d, features)
    starts, stops = room(128, order), room(128, order)  # deeper than halving of any n goes
    starts[0], stops[0] = 0, n
    depth = 1
    while depth:
        depth -= 1
        start, stop = starts[depth], stops[depth]
        if stop - start <= LANES:
            continue
        for k in range(d):
            low[k], high[k] = np.inf, -np.inf
        for a in range(start, stop):
            for k in range(d):
                x = features[order[a], k]
                low[k] = x if x < low[k] else low[k]
                high[k] = x if x > high[k] else high[k]
        axis = 0
        for k in range(1, d):
            if high[k] - low[k] > high[axis] - low[axis]:
                axis = k
        for a in range(start, stop):
            keys[a] = features[order[a], axis]
        middle = start + max(1, (stop - start) // (2 * LANES)) * LANES
        place_largest(keys, order, start, stop, middle)
        starts[depth], stops[depth] = start, middle
        starts[depth + 1], stops[depth + 1] = middle, stop
        depth += 2
    return order


@inner
def _length(row, middle, extent):
    """Length of (row - middle) / extent: squares summed in order, as on any backend."""
    total = 0.0
    for k in range(row.size):
        t = (np.float64(row[k]) - middle[k]) / extent
        total += t * t
    return math.sqrt(total)


@kernel
def radius(features, middle, extent):
    """Largest distance of a row to `middle`. No feature is farther from it than `extent`."""
    largest = 0.0
    for i in range(features.shape[0]):
        largest = max(largest, _length(features[i], middle, extent))
    return extent * largest


@kernel
def ranges(features, starts, low, high):
    """The smallest and the largest numbers of each class, whose rows are from ``starts[c]`` to
    ``starts[c + 1]``, into `low` and `high`, (classes, d).
    """
    for c in range(starts.size - 1):
        least, most = low[c], high[c]
        for k in range(least.size):
            least[k], most[k] = np.inf, -np.inf
        for i in range(starts[c], starts[c + 1]):
            row = features[i]
            for k in range(row.size):
                least[k] = row[k] if row[k] < least[k] else least[k]
                most[k] = row[k] if row[k] > most[k] else most[k]


@kernel
def radii(features, starts, middles, extents):
    """The same for each class.

    It is the extent itself where that is 0 or infinite.
    """
    out = extents.copy()
    for c in range(out.size):
        if 0 < out[c] < np.inf:
            out[c] = radius(features[starts[c] : starts[c + 1]], middles[c], extents[c])
    return out


@kernel
def unit_rows(features, out):
    """Scale rows to length 1, but for rows of zeros; return whether there are any.

    `out` may have one more column, which is then 1 in rows of zeros, and 0 in all others: a
    direction of their own, orthogonal to all others.
    """
    n, d = features.shape
    origin = np.zeros(d)
    any_zero = False
    for i in range(n):
        row = features[i]
        extent = 0.0
        for k in range(d):
            extent = max(extent, abs(np.float64(row[k])))
        zero = extent == 0
        any_zero |= zero
        extent += zero
        length = _length(row, origin, extent) + zero
        for k in range(d):
            out[i, k] = np.float64(row[k]) / extent / length
        if out.shape[1] > d:
            out[i, d] = zero
    return any_zero
