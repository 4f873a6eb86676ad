"""Swaps of facility location: exchange selected elements for others until none gains.

A candidate that comes in adds to F what points gain that are more similar to it than to their first
element. An element that goes out takes from F what its points lose: they fall back on their second
element or on the candidate. So, given the first and second element of each point, one pass over the
similarities of a candidate gives the change of F for every element that might go out (FasterPAM).

All sums are exact, as in `subsel.kernels.cpu.search`, so a computed improvement is a real one.

References
----------
Schubert, Rousseeuw (2021), "Fast and eager k-medoids clustering: O(k) runtime improvement of the
PAM, CLARA, and CLARANS algorithms", algorithm 3.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from subsel.kernels.compiling import by_type, inner, kernel
from subsel.kernels.cpu.lanes import features_at, quantize, similarities, squared_gaps
from subsel.kernels.cpu.log import weighed
from subsel.kernels.cpu.stores import Dense, Sparse, Tiled, store_reach
from subsel.kernels.cpu.vectors import LANES, one_line

SWAPPED, QUIET, LOOKED = range(3)
"""In `Swaps.counts`: swaps made, candidates tried since the last one, similarities seen."""


class Swaps(NamedTuple):
    """A selection of k elements, and the two that are most similar to each point.

    By point: similarity to the `first` and to the `second` element, and their places in the
    selection (`first_place`, `second_place`); where something that is always held is more similar,
    or nothing is similar, `base`, in place k. `bar`: the second similarity, in the type of the
    similarities (inf for padding). `most`, `weights`, `up`, `down`: see `Limits`; `capped` says
    whether `most` is less than inf for any point. By group of LANES points: `reach`, the squared
    distance beyond which no candidate is more similar to any than its second element.

    By place: the slot of the element (`seats`), and what F loses without it (`loss`, one more for
    place k). `tiles`: features of the elements, as in `Tiled`. By candidate: its place or -1
    (`where`), and what it gains beside the whole selection, when it was last tried (`gains`).
    `counts`: see SWAPPED.
    """

    base: np.ndarray
    first: np.ndarray
    second: np.ndarray
    first_place: np.ndarray
    second_place: np.ndarray
    bar: np.ndarray
    most: np.ndarray
    capped: bool
    weights: np.ndarray
    up: float
    down: float
    reach: np.ndarray
    seats: np.ndarray
    loss: np.ndarray
    tiles: np.ndarray
    where: np.ndarray
    gains: np.ndarray
    counts: np.ndarray
    n_points: int


@weighed.of(Swaps)
def _weighed(search, i, s):
    if search.weights.size:
        return quantize(search.weights[i] * s, search.up, search.down)
    return s


@by_type(makes_arrays=True)
def near(store, slot, swaps, points, similar):
    """Points that a candidate is more similar to than their second element, and how similar.

    They are written into `points` and `similar`. Returns how many there are, and the number of
    similarities computed. A dense store is one by candidate here.
    """


@by_type
def offer_all(store, swaps, i, line):
    """Offer all elements to a point; `line` is for LANES similarities."""


@by_type
def seat(store, swaps, place, slot):
    """Write down the features of the element in a place."""


@near.of(Dense)
def _dense_near(store, slot, swaps, points, similar):
    row, bar = store.matrix[slot], swaps.bar
    m = 0
    for i in range(row.size):
        # Always written, and kept only if needed: this avoids a branch that could be mispredicted.
        points[m] = i
        m += row[i] > bar[i]
    for a in range(m):
        similar[a] = quantize(np.float64(row[points[a]]), store.up, store.down)
    return m, row.size


@near.of(Sparse)
def _sparse_near(store, slot, swaps, points, similar):
    start, stop = store.column_starts[slot], store.column_starts[slot + 1]
    m = 0
    for p in range(start, stop):
        i = store.column_rows[p]
        points[m] = i
        similar[m] = quantize(np.float64(store.column_data[p]), store.up, store.down)
        m += similar[m] > swaps.second[i]
    return m, stop - start


@near.of(Tiled)
def _tiled_near(store, slot, swaps, points, similar):
    tiles, metric, gamma, bar = store.point_tiles, store.metric, store.gamma, swaps.bar
    place, first, step = features_at(store.rows, slot, store.tiles)
    row = store.rows[place]
    gaps = np.empty(tiles.shape[0], tiles.dtype)
    lows, highs = store.point_least, store.point_largest
    squared_gaps(row, row, first, step, lows, highs, store.shrink, gaps)
    line = one_line(tiles)
    m = seen = 0
    for b in range(tiles.shape[0]):
        if gaps[b] >= swaps.reach[b]:
            continue
        similarities(tiles[b], store.rows, (slot,), metric, gamma, store.up, store.down, line)
        for j in range(LANES):
            i = b * LANES + j
            points[m], similar[m] = i, line[j]
            m += line[j] > bar[i]
        seen += store.point_members[b]
    return m, seen


@inner
def _offer(swaps, i, s, place):
    """Offer an element of a given similarity to a point, as its first or second element."""
    if swaps.capped:
        s = min(s, swaps.most[i])
    if s > swaps.first[i]:
        swaps.second[i], swaps.second_place[i] = swaps.first[i], swaps.first_place[i]
        swaps.first[i], swaps.first_place[i] = s, place
    elif s > swaps.second[i]:
        swaps.second[i], swaps.second_place[i] = s, place


@offer_all.of(Dense)
def _dense_offer_all(store, swaps, i, line):
    for place in range(swaps.seats.size):
        s = np.float64(store.matrix[i, swaps.seats[place]])
        _offer(swaps, i, quantize(s, store.up, store.down), place)


@offer_all.of(Sparse)
def _sparse_offer_all(store, swaps, i, line):
    for p in range(store.row_starts[i], store.row_starts[i + 1]):
        place = swaps.where[store.row_columns[p]]
        if place >= 0:
            s = quantize(np.float64(store.row_data[p]), store.up, store.down)
            _offer(swaps, i, s, place)


@offer_all.of(Tiled)
def _tiled_offer_all(store, swaps, i, line):
    metric, gamma = store.metric, store.gamma
    for t in range(swaps.tiles.shape[0]):
        tile = swaps.tiles[t]
        similarities(tile, store.point_rows, (i,), metric, gamma, store.up, store.down, line)
        for j in range(min(LANES, swaps.seats.size - t * LANES)):
            _offer(swaps, i, np.float64(line[j]), t * LANES + j)


@seat.of(Dense)
@seat.of(Sparse)
def _seat_nothing(store, swaps, place, slot):
    pass


@seat.of(Tiled)
def _seat_row(store, swaps, place, slot):
    line, first, step = features_at(store.rows, slot, store.tiles)
    for dimension in range(store.tiles.shape[1] // LANES):
        at = dimension * LANES + place % LANES
        swaps.tiles[place // LANES, at] = store.rows[line, first + dimension * step]


@inner
def _offer_again(store, swaps, i, line):
    """Find the first and second element of a point among all elements."""
    swaps.first[i] = swaps.second[i] = swaps.base[i]
    swaps.first_place[i] = swaps.second_place[i] = swaps.seats.size
    offer_all(store, swaps, i, line)


@inner
def _note(store, swaps):
    """Update what follows from the first and second elements."""
    swaps.loss[:] = 0.0
    for i in range(swaps.n_points):
        lost = weighed(swaps, i, swaps.first[i]) - weighed(swaps, i, swaps.second[i])
        swaps.loss[swaps.first_place[i]] += lost
        swaps.bar[i] = swaps.second[i]
    for group in range(swaps.reach.size):
        worst = np.inf
        for i in range(group * LANES, min((group + 1) * LANES, swaps.n_points)):
            if not swaps.capped or swaps.second[i] < swaps.most[i]:
                worst = min(worst, swaps.second[i])
        swaps.reach[group] = store_reach(store, worst)


@kernel
def begin_swaps(store, swaps):
    """Offer the elements in `seats` to all points."""
    line = one_line(swaps.bar)
    for place in range(swaps.seats.size):
        seat(store, swaps, place, swaps.seats[place])
        swaps.where[swaps.seats[place]] = place
    for i in range(swaps.n_points):
        _offer_again(store, swaps, i, line)
    swaps.counts[LOOKED] += swaps.n_points * swaps.seats.size
    _note(store, swaps)


@inner
def _judge(part, slot, row, swaps, points, similar, change):
    """The place where a candidate, `row` of the part, gains most, its gain, and the work."""
    m, seen = near(part, row, swaps, points, similar)
    for place in range(change.size):
        change[place] = -swaps.loss[place]
    alone = 0.0
    for a in range(m):
        i, s = points[a], similar[a]
        if swaps.capped:
            s = min(s, swaps.most[i])
        second = weighed(swaps, i, swaps.second[i])
        if s > swaps.first[i]:
            first = weighed(swaps, i, swaps.first[i])
            alone += weighed(swaps, i, s) - first
            change[swaps.first_place[i]] += first - second
        else:
            change[swaps.first_place[i]] += weighed(swaps, i, s) - second
    swaps.gains[slot] = alone
    best = 0
    for place in range(1, swaps.seats.size):
        if change[place] > change[best]:
            best = place
    return best, alone + change[best], seen


@inner
def _exchange(store, part, slot, row, swaps, place, points, similar):
    """Put a candidate into a place."""
    m, _ = near(part, row, swaps, points, similar)
    kept = 0
    for a in range(m):
        i = points[a]
        points[kept], similar[kept] = i, similar[a]
        kept += swaps.first_place[i] != place and swaps.second_place[i] != place
    swaps.where[swaps.seats[place]] = -1
    swaps.where[slot] = place
    swaps.seats[place] = slot
    swaps.gains[slot] = 0.0
    seat(store, swaps, place, slot)
    line = one_line(swaps.bar)
    for i in range(swaps.n_points):
        if swaps.first_place[i] == place or swaps.second_place[i] == place:
            _offer_again(store, swaps, i, line)
            swaps.counts[LOOKED] += swaps.seats.size
    for a in range(kept):
        _offer(swaps, points[a], similar[a], place)
    _note(store, swaps)


@kernel
def scan_swaps(store, part, begun, swaps, slots, quiet, most):
    """Try candidates in turn and exchange at once; return how many were tried.

    `part` is a store with a row for each of them, from the slot `begun` on. Stops once `quiet`
    candidates in a row gave no improvement, or after `most` swaps.
    """
    counts = swaps.counts
    points = np.empty(swaps.first.size, np.int64)
    similar = np.empty(swaps.first.size)
    change = np.empty(swaps.loss.size)
    for a in range(slots.size):
        if counts[QUIET] >= quiet or counts[SWAPPED] >= most:
            return a
        slot = slots[a]
        row = slot - begun
        counts[QUIET] += 1
        if swaps.where[slot] >= 0:
            continue
        place, gain, seen = _judge(part, slot, row, swaps, points, similar, change)
        counts[LOOKED] += seen
        if gain > 0:
            _exchange(store, part, slot, row, swaps, place, points, similar)
            counts[SWAPPED] += 1
            counts[QUIET] = 0
    return slots.size


@kernel(parallel=True)
def judge_swaps(part, begun, swaps, slots, pieces, gained):
    """What the best swap with each of some candidates gains, into `gained`, on all threads."""
    seen = 0
    for piece in prange(pieces):
        points = np.empty(swaps.first.size, np.int64)
        similar = np.empty(swaps.first.size)
        change = np.empty(swaps.loss.size)
        for a in range(piece, slots.size, pieces):
            slot = slots[a]
            gained[a] = 0.0
            if swaps.where[slot] < 0:
                row = slot - begun
                _, gained[a], own = _judge(part, slot, row, swaps, points, similar, change)
                seen += own
    swaps.counts[LOOKED] += seen
