"""Greedy facility location of many classes at a time: pick, cover, update."""

import math
from typing import Any, NamedTuple

from numba import cuda, float64, int32

from subsel.kernels.cuda.tiles import (
    DOT,
    EACH,
    GAMMA,
    LANES,
    QUEUE,
    ROWS,
    SHRINK,
    SIDE,
    THREADS,
    pairs,
    similarity,
    squared_gap,
    squared_reach,
)

CHANGES, AFRESH, LEADS = range(3)
"""Kinds of updates: gains by the changed points, gains from scratch, only each tile's best."""


class Search(NamedTuple):
    """Growing selections.

    For each point: the `best` similarity to a selected element, that similarity `before` the last
    pick, and the position of the `assigned` element in the order of adding. For each class, from
    its first slot on: the points that `changed`.

    For each candidate: `gains`, whether it is `taken`, and the `order` that breaks ties. For each
    tile: the largest gain of a candidate that is not taken (`top`), and this candidate (`lead`).

    For each class: the candidate `chosen` last or -1, how many were `added`, how many are to be
    added (`goal`), and how many points changed (`moved`). `seen`: the number of similarities looked
    at.
    """

    best: Any
    before: Any
    assigned: Any
    changed: Any
    gains: Any
    taken: Any
    order: Any
    top: Any
    lead: Any
    chosen: Any
    added: Any
    goal: Any
    moved: Any
    seen: Any


@cuda.jit(device=True, inline="always")
def _ahead(gain, candidate, other_gain, other, order):
    """Whether a candidate is better than another: a larger gain, or the lower index."""
    if gain != other_gain:
        return gain > other_gain
    return order[candidate] < order[other]


@cuda.jit(device=True, inline="always")
def _find_best(top, lead, width, order):
    """Move the best of the first `width` (a power of two) candidates to the first place."""
    t = cuda.threadIdx.x
    cuda.syncthreads()
    while width > 1:
        width //= 2
        if t < width and _ahead(top[t + width], lead[t + width], top[t], lead[t], order):
            top[t], lead[t] = top[t + width], lead[t + width]
        cuda.syncthreads()


@cuda.jit
def pick(candidates, search, elements, gains, begun):
    """Choose the best candidate of each class that has not reached its goal.

    `elements` and `gains`, (classes, count), receive those after the first `begun` of each class.
    """
    top = cuda.shared.array(THREADS, float64)
    lead = cuda.shared.array(THREADS, int32)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    first = candidates.start[c] // LANES
    if search.added[c] == search.goal[c]:
        if t == 0:
            search.chosen[c], search.moved[c] = -1, 0
        return
    top[t], lead[t] = -math.inf, candidates.start[c]
    for tile in range(first + t, candidates.start[c + 1] // LANES, THREADS):
        if _ahead(search.top[tile], search.lead[tile], top[t], lead[t], search.order):
            top[t], lead[t] = search.top[tile], search.lead[tile]
    _find_best(top, lead, THREADS, search.order)
    if t == 0:
        at = search.added[c] - begun[c]
        elements[c, at], gains[c, at] = search.order[lead[0]], top[0]
        search.taken[lead[0]] = True
        search.chosen[c], search.moved[c] = lead[0], 0
        search.added[c] += 1


@cuda.jit
def choose(search, slot):
    """Choose this candidate. There must be only one class."""
    search.chosen[0], search.moved[0] = slot, 0
    search.added[0] += 1


@cuda.jit
def sum_won(search, gains, which):
    """Add to a gain what the points add that were won last. There must be only one class."""
    at = cuda.grid(1)
    if at < search.moved[0]:
        i = search.changed[at]
        cuda.atomic.add(gains, which, search.best[i] - search.before[i])


@cuda.jit(device=True, inline="always")
def _improve(search, c, start, i, s):
    """Make the candidate chosen last represent a point if the point is more similar to it."""
    if s > search.best[i]:
        search.changed[start + cuda.atomic.add(search.moved, c, 1)] = i
        search.before[i] = search.best[i]
        search.best[i] = s
        search.assigned[i] = search.added[c] - 1


@cuda.jit
def cover_features(store, search):
    """Blocks: a tile of points each."""
    c = store.points.group[cuda.blockIdx.x]
    start, slot = store.points.start[c], search.chosen[c]
    i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
    if slot < 0 or i >= start + store.points.size[c]:
        return
    x = store.rows.dtype.type(0)
    for k in range(store.rows.shape[1]):
        u, v = store.columns[slot, k], store.rows[i, k]
        if store.metric == DOT:
            x = cuda.fma(u, v, x)
        else:
            u -= v
            x = cuda.fma(u, u, x)
    s = similarity(x, store.metric, store.rule, c, store.whole)
    _improve(search, c, start, i, float64(s))


@cuda.jit
def cover_matrices(store, search):
    """Blocks: a tile of points each."""
    c = store.points.group[cuda.blockIdx.x]
    start, slot = store.points.start[c], search.chosen[c]
    i = cuda.blockIdx.x * LANES + cuda.threadIdx.x
    if slot < 0 or i >= start + store.points.size[c]:
        return
    column = slot - store.candidates.start[c]
    s = store.entries[store.at[c] + (i - start) * store.candidates.size[c] + column]
    s = (float64(s) + store.round_off[c]) - store.round_off[c]
    _improve(search, c, start, i, s)


@cuda.jit(device=True, inline="always")
def _task(search, points, c, mode):
    """Whether gains are summed from scratch, and over how many points or changes."""
    moved, size = search.moved[c], points.size[c]
    if mode == AFRESH or (mode == CHANGES and 2 * moved > size):
        return True, size
    return False, moved if mode == CHANGES else 0


@cuda.jit(device=True, inline="always")
def _entry(search, start, at, afresh):
    """A point, and the range within which its similarity counts for the gains."""
    if afresh:
        i = start + at
        return i, search.best[i], math.inf
    i = search.changed[start + at]
    return i, search.before[i], search.best[i]


@cuda.jit(device=True, inline="always")
def _conclude(search, tile, afresh, parts, count):
    """Add the sums of `parts`, (count, LANES), to a tile's gains, and find its best candidate."""
    top = cuda.shared.array(LANES, float64)
    lead = cuda.shared.array(LANES, int32)
    t = cuda.threadIdx.x
    cuda.syncthreads()
    if t < LANES:
        slot = tile * LANES + t
        total = 0.0
        for y in range(count):
            total += parts[y, t]
        gain = total if afresh else search.gains[slot] - total
        search.gains[slot] = gain
        top[t], lead[t] = -math.inf if search.taken[slot] else gain, slot
    _find_best(top, lead, LANES, search.order)
    if t == 0:
        search.top[tile], search.lead[tile] = top[0], lead[0]


@cuda.jit
def update_features(store, search, mode):
    """Blocks: a tile of candidates each."""
    picked = cuda.shared.array(QUEUE, int32)
    waiting = cuda.shared.array(1, int32)
    parts = cuda.shared.array((SIDE, LANES), float64)
    sums = cuda.local.array((EACH, EACH), store.rows.dtype)
    totals = cuda.local.array(EACH, float64)
    number = store.rows.dtype.type
    t, tile = cuda.threadIdx.x, cuda.blockIdx.x
    c = store.candidates.group[tile]
    if mode == CHANGES and search.chosen[c] < 0:
        return
    start = store.points.start[c]
    afresh, entries = _task(search, store.points, c, mode)
    metric, gamma, shrink = store.metric, store.rule[c, GAMMA], store.rule[c, SHRINK]
    for a in range(EACH):
        totals[a] = 0.0
    if t == 0:
        waiting[0] = 0
    cuda.syncthreads()
    seen = 0
    for first in range(0, entries, THREADS):
        # Collect points that are near enough, and continue once there are enough to fill a tile.
        if first + t < entries:
            i, low, _ = _entry(search, start, first + t, afresh)
            if squared_gap(store, i, tile, shrink) < squared_reach(low, metric, gamma):
                picked[cuda.atomic.add(waiting, 0, 1)] = i
        cuda.syncthreads()
        left = waiting[0]
        while left >= LANES or (left > 0 and first + THREADS >= entries):
            count = LANES if left > LANES else left
            left -= count
            seen += count
            pairs(store.rows, picked, left, count, store.columns, tile * LANES, metric, sums)
            for b in range(EACH):
                lane = t // SIDE + SIDE * b
                if lane < count:
                    i = picked[left + lane]
                    low = search.best[i] if afresh else search.before[i]
                    high = math.inf if afresh else search.best[i]
                    low_, high_ = number(low), number(high)
                    for a in range(EACH):
                        s = similarity(sums[a, b], metric, store.rule, c, store.whole)
                        s = s if s > low_ else low_
                        s = s if s < high_ else high_
                        totals[a] += float64(s) - low
        cuda.syncthreads()
        if t == 0:
            waiting[0] = left
        cuda.syncthreads()
    if mode == CHANGES and seen == 0 and not afresh and search.chosen[c] // LANES != tile:
        return  # no gain has changed, nor which candidates are taken
    for a in range(EACH):
        parts[t // SIDE, t % SIDE + SIDE * a] = totals[a]
    _conclude(search, tile, afresh, parts, SIDE)
    if t == 0 and seen > 0:
        cuda.atomic.add(search.seen, 0, seen * LANES)


@cuda.jit
def update_matrices(store, search, mode):
    """Blocks: a tile of candidates each."""
    parts = cuda.shared.array((ROWS, LANES), float64)
    rows = cuda.shared.array(THREADS, int32)
    lows = cuda.shared.array(THREADS, float64)
    highs = cuda.shared.array(THREADS, float64)
    t, tile = cuda.threadIdx.x, cuda.blockIdx.x
    c = store.candidates.group[tile]
    if mode == CHANGES and search.chosen[c] < 0:
        return
    start, width = store.points.start[c], store.candidates.size[c]
    column = tile * LANES + t % LANES - store.candidates.start[c]
    round_off = store.round_off[c]
    afresh, entries = _task(search, store.points, c, mode)
    total = 0.0
    for first in range(0, entries, THREADS):
        if first + t < entries:
            rows[t], lows[t], highs[t] = _entry(search, start, first + t, afresh)
        cuda.syncthreads()
        count = THREADS if entries - first > THREADS else entries - first
        if column < width:
            for at in range(t // LANES, count, ROWS):
                s = store.entries[store.at[c] + (rows[at] - start) * width + column]
                s = (float64(s) + round_off) - round_off
                s = s if s > lows[at] else lows[at]
                s = s if s < highs[at] else highs[at]
                total += s - lows[at]
        cuda.syncthreads()
    parts[t // LANES, t % LANES] = total
    _conclude(search, tile, afresh, parts, ROWS)
    if t == 0 and entries > 0:
        cuda.atomic.add(search.seen, 0, entries * LANES)
