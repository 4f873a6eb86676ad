"""Greedy where pairs have inner products: values are computed when they might be the largest.

A value of each row tells how good it is, and adding an element changes all of them by products with
one vector. That can wait: until then the old value bounds the new one from above. Rows are in tiles
(`subsel.kernels.cpu.columns`), and a tile is settled if its best old value might be the best of
all. Whenever values are computed, they have the same bits.

`Sums` are gains of graph cut and redundancy. The products of a row with all selected rows add up to
its product with their sum, so one product makes up for all that was missed. `Residuals` are those
of the log-determinant. Each element takes a square from them. A tile that has missed some takes
them in their order, and stays in the fastest memory meanwhile.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from subsel.kernels.compiling import by_type, inner, kernel
from subsel.kernels.cpu.columns import shrink
from subsel.kernels.cpu.vectors import LANES, one_line, tile_products

ADDED, TODO = range(2)
"""In `counts`: how many elements were added, and how many tiles have to be settled before the
search goes on."""


class Sums(NamedTuple):
    """A growing selection, whose rows have the sum `total` (d,).

    The value of a row x is ``base - factor * <x, total>``; padding has the base -inf. By tile: how
    often it was settled (`times`), and by how much a value can rise with each element (`rise`, 0 if
    no product is negative). `spare` is for rounding of the base.

    Both have, by row, the value when it was computed last, and by tile how many elements had been
    added by then (`seen`). In a search: which rows must not be added (`taken`, padding included),
    by tile the largest value of the others (`top`), and the tiles `todo`. Values within `tolerance`
    of the largest, as a part of it, count as equal.
    """

    base: np.ndarray
    factor: float
    total: np.ndarray
    times: np.ndarray
    rise: np.ndarray
    spare: float
    tolerance: float
    values: np.ndarray
    seen: np.ndarray
    counts: np.ndarray
    taken: np.ndarray
    top: np.ndarray
    todo: np.ndarray


class Residuals(NamedTuple):
    """A growing selection that shrinks M = `middle` (d, d); the value of a row x is <x, M x>.

    The e-th element takes ``factors[e] * <x, across[e]>**2`` from it. Times `scale`, this is what
    the selected elements leave unexplained of x.
    """

    scale: float
    middle: np.ndarray
    across: np.ndarray
    factors: np.ndarray
    tolerance: float
    values: np.ndarray
    seen: np.ndarray
    counts: np.ndarray
    taken: np.ndarray
    top: np.ndarray
    todo: np.ndarray


@by_type
def settle(search, rows, b):
    """Compute the values of a tile."""


@by_type(makes_arrays=True)
def _include(search, rows, element):
    """Add an element."""


@by_type(inline=True)
def _bound(search, b):
    """An upper bound of the values in a tile that is not settled."""


@by_type(inline=True)
def _work(search, b):
    """How many products settling a tile takes for each row."""


@settle.of(Sums)
def _subtract_sum(search, rows, b):
    line, first = one_line(search.base), b * LANES
    tile_products(rows.tiles, b, search.total, line)
    for j in range(LANES):
        product = line[j] * rows.factor[first + j]
        search.values[first + j] = search.base[first + j] - search.factor * product
    search.seen[b] = search.counts[ADDED]
    search.times[b] += 1


@_include.of(Sums)
def _add_row(search, rows, element):
    tile, lane = element // LANES, element % LANES
    for k in range(search.total.size):
        search.total[k] += rows.tiles[tile, k, lane] * rows.factor[element]
    search.counts[ADDED] += 1


@_bound.of(Sums)
def _bound_of_sums(search, b):
    """By Cauchy and Schwarz. Rounding grows with all elements, and with the terms of a product."""
    added = np.float64(search.counts[ADDED])
    rounding = 2.0**-50 * added * (added + search.total.size)
    return search.top[b] + search.rise[b] * (added - search.seen[b] + rounding) + search.spare


@_work.of(Sums)
def _one_product(search, b):
    return 1


@settle.of(Residuals)
def _subtract_squares(search, rows, b):
    line, first = one_line(search.values), b * LANES
    for e in range(search.seen[b], search.counts[ADDED]):
        tile_products(rows.tiles, b, search.across[e], line)
        for j in range(LANES):
            product = line[j] * rows.factor[first + j]
            search.values[first + j] -= product * product * search.factors[e]
    search.seen[b] = search.counts[ADDED]


@_include.of(Residuals)
def _shrink_middle(search, rows, element):
    row, e = np.empty(search.middle.shape[0]), search.counts[ADDED]
    tile, lane = element // LANES, element % LANES
    for k in range(row.size):
        row[k] = rows.tiles[tile, k, lane] * rows.factor[element]
    across, left = shrink(search.middle, row, search.scale)
    search.across[e] = across
    search.factors[e] = search.scale / (1 + search.scale * left)
    search.counts[ADDED] += 1


@_bound.of(Residuals)
def _bound_of_residuals(search, b):
    return search.top[b]


@_work.of(Residuals)
def _products_missed(search, b):
    return search.counts[ADDED] - search.seen[b]


@kernel
def settle_serial(search, rows, tiles):
    """Compute the values of some tiles."""
    for b in tiles:
        settle(search, rows, b)


@kernel(parallel=True)
def settle_parallel(search, rows, tiles):
    """The same on all threads."""
    for at in prange(tiles.size):
        settle(search, rows, tiles[at])


@kernel
def include(search, rows, element):
    """Add an element."""
    _include(search, rows, element)


@inner
def _find_top(search, b):
    """The largest value in a tile, by halves, which makes vector instructions of it."""
    line, first = one_line(search.values), b * LANES
    for j in range(LANES):
        line[j] = -np.inf if search.taken[first + j] else search.values[first + j]
    width = LANES // 2
    while width:
        for j in range(width):
            line[j] = line[j] if line[j] > line[width + j] else line[width + j]
        width //= 2
    search.top[b] = line[0]


@inner
def _first(search, best, least):
    """The first row that has the best value; -1 if another value counts as equal."""
    first = -1
    for b in range(search.top.size):
        if search.seen[b] == search.counts[ADDED] and search.top[b] >= least:
            for j in range(b * LANES, (b + 1) * LANES):
                if search.values[j] >= least and not search.taken[j]:
                    if search.values[j] < best:
                        return -1
                    first = j if first < 0 else first
    return first


@kernel
def advance(search, rows, elements, values, at, too_much):
    """Greedy: fill `elements` and `values` from position `at` on; returns the next position.

    Stops early if more than `too_much` products by tile must be computed at once, for the first
    TODO tiles of `todo`, which have to be settled before the next call. Also stops early, with no
    such tiles, if different values count as equal; the least of them could be ``values[at]``.
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
            settle(search, rows, lead)
            _find_top(search, lead)
            best = max(best, top[lead])
        least = best - search.tolerance * abs(best)
        counts[TODO], work = 0, 0
        for b in range(top.size):
            if seen[b] < counts[ADDED] and _bound(search, b) >= least:
                todo[counts[TODO]] = b
                counts[TODO] += 1
                work += _work(search, b)
        if work > too_much:
            return at
        for b in todo[: counts[TODO]]:
            if _bound(search, b) >= least:
                settle(search, rows, b)
                _find_top(search, b)
                best = max(best, top[b])
                least = best - search.tolerance * abs(best)
        counts[TODO] = 0
        element = _first(search, best, least)
        if element < 0:
            values[at] = least
            return at
        elements[at], values[at] = element, best
        at += 1
        search.taken[element] = True
        _find_top(search, element // LANES)
        _include(search, rows, element)
    return at
