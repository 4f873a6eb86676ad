"""Greedy where pairs have inner products: gains are computed when they might be the largest.

The products of a row with all selected rows add up to its product with the sum of these. So adding
an element adds one row to that sum, and a gain is one product, however long ago it was computed
last. Until then its old value bounds it from above. Gains are computed a tile of rows at a time.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from subsel.kernels.compiling import inner, kernel
from subsel.kernels.cpu.vectors import LANES, one_line, tile_products

ADDED, TODO = range(2)
"""In `Sums.counts`: how many elements were added, and how many tiles have to be settled before the
search goes on."""


class Sums(NamedTuple):
    """A growing selection, whose rows have the sum `total` (d,).

    The gain of a row x is ``base - factor * <x, total>``. By row, in whole tiles: its `base` (-inf
    for padding), and its gain when it was computed last (`gains`). By tile: how many elements had
    been added by then (`seen`), how often that was (`times`), and by how much a gain can rise with
    each element (`rise`, 0 if no product is negative). `spare` is for rounding of the base.

    In a search: the rows that must not be added (`taken`), by tile the largest gain of the others
    (`top`), and the tiles `todo`.
    """

    base: np.ndarray
    factor: float
    total: np.ndarray
    gains: np.ndarray
    seen: np.ndarray
    times: np.ndarray
    rise: np.ndarray
    spare: float
    counts: np.ndarray
    taken: np.ndarray
    top: np.ndarray
    todo: np.ndarray


@inner
def _settle(rows, search, b):
    """Compute the gains of a tile."""
    line, first = one_line(search.base), b * LANES
    tile_products(rows.tiles, b, search.total, line)
    for j in range(LANES):
        product = line[j] * rows.factor[first + j]
        search.gains[first + j] = search.base[first + j] - search.factor * product
    search.seen[b] = search.counts[ADDED]
    search.times[b] += 1


@kernel
def settle_serial(rows, search, tiles):
    """Compute the gains of some tiles."""
    for b in tiles:
        _settle(rows, search, b)


@kernel(parallel=True)
def settle_parallel(rows, search, tiles):
    """The same on all threads."""
    for at in prange(tiles.size):
        _settle(rows, search, tiles[at])


@inner
def _find_top(search, b):
    """The largest gain in a tile, by halves, which makes vector instructions of it."""
    line, first = one_line(search.gains), b * LANES
    for j in range(LANES):
        line[j] = -np.inf if search.taken[first + j] else search.gains[first + j]
    width = LANES // 2
    while width:
        for j in range(width):
            line[j] = line[j] if line[j] > line[width + j] else line[width + j]
        width //= 2
    search.top[b] = line[0]


@inner
def _bound(search, b):
    """An upper bound of the gains in a tile that is not settled.

    By Cauchy and Schwarz, `rise` times the number of elements since. Rounding grows with all of
    them, and with the terms of a product.
    """
    added = np.float64(search.counts[ADDED])
    rounding = 2.0**-50 * added * (added + search.total.size)
    return search.top[b] + search.rise[b] * (added - search.seen[b] + rounding) + search.spare


@inner
def _include(rows, search, element):
    tile, lane = element // LANES, element % LANES
    for k in range(search.total.size):
        search.total[k] += rows.tiles[tile, k, lane] * rows.factor[element]
    search.counts[ADDED] += 1


@kernel
def include(rows, search, element):
    """Add an element."""
    _include(rows, search, element)


@kernel
def advance(rows, search, elements, gains, at, too_many):
    """Greedy: fill `elements` and `gains` from position `at` on; returns the next position.

    Stops early if more than `too_many` tiles must be settled at once: the first TODO of `todo`,
    which have to be settled before the next call.
    """
    top, seen, todo, counts = search.top, search.seen, search.todo, search.counts
    for b in range(top.size):
        _find_top(search, b)
    while at < elements.size:
        best, most, lead = -np.inf, -np.inf, -1
        for b in range(top.size):
            if seen[b] == counts[ADDED]:
                best = max(best, top[b])
            elif _bound(search, b) > most:
                most, lead = _bound(search, b), b
        if most > best:  # its best may well be the best, so that few others can compete
            _settle(rows, search, lead)
            _find_top(search, lead)
            best = max(best, top[lead])
        counts[TODO] = 0
        for b in range(top.size):
            if seen[b] < counts[ADDED] and _bound(search, b) >= best:
                todo[counts[TODO]] = b
                counts[TODO] += 1
        if counts[TODO] > too_many:
            return at
        for b in todo[: counts[TODO]]:
            if _bound(search, b) >= best:
                _settle(rows, search, b)
                _find_top(search, b)
                best = max(best, top[b])
        b = 0
        while seen[b] < counts[ADDED] or top[b] < best:
            b += 1
        element = b * LANES
        while search.taken[element] or search.gains[element] < best:
            element += 1
        elements[at], gains[at] = element, best
        at += 1
        search.taken[element] = True
        _find_top(search, b)
        _include(rows, search, element)
    return at
