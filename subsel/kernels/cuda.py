"""Numba kernels of facility location on NVIDIA GPUs.

Many classes are searched at a time, each with points and candidates of its own, in *slots*: every
class begins at a multiple of LANES, and a tile of LANES slots belongs to one class. A *store* says
where similarities come from, features or matrices. The rest is the same for both, and a pick takes
three launches for all classes together:

``pick``
    The best of the tiles' best candidates, one block a class.
``cover_...``
    Each point of the class is compared with the candidate picked. Those more similar to it than to
    what represented them go on the class's list of `changed` points. One thread a point.
``update_...``
    Takes out of every candidate's gain what these points would have added, and finds the best
    candidate of each tile. One block a tile of candidates, which alone writes to their gains. Where
    more than half of the points changed, and at the start, gains are summed from scratch.

The list of changed points has no particular order. It needs none, as all sums are exact, and so are
similarities the same as on the CPU: see `subsel.kernels.cpu`, whose rounding to a grid, bounds and
clamped sums these are. Nothing crosses the bus until the elements are asked for.

From features, a block holds a tile of candidates and some points in shared memory, and a thread
EACH x EACH pairs of them in registers. Points too far from the box around a tile to count for any
of its candidates are left out before.
"""

import math
from typing import Any, NamedTuple

from numba import config, cuda, float64, int32
from numba.cuda import libdevice

from subsel.kernels.cpu import COSINE, DOT, EUCLIDEAN, RBF

EACH = 4
"""Candidates, and points, of which one thread keeps all pairs."""

SIDE = 4 if config.ENABLE_CUDASIM else 16  # in the simulator each thread is one of Python's
LANES = EACH * SIDE
"""Slots in a tile."""

THREADS = SIDE * SIDE
"""Threads in a block."""

ROWS = THREADS // LANES
"""Rows of a matrix that a block reads at a time, LANES wide."""

QUEUE = LANES + THREADS
"""Points that can wait for a tile to be full."""

DEPTH, STRIDE = 16, LANES + 1
"""Features of a tile in shared memory at a time, and how far apart, for all banks to be used."""

GAMMA, UP, DOWN, SHRINK = range(4)
"""Columns of `Features.rule`."""

CHANGES, AFRESH, LEADS = range(3)
"""What to update: gains by what changed, gains from scratch, only the best of each tile."""


class Slots(NamedTuple):
    """By class: first slot and number of members; by tile: its class."""

    start: Any
    size: Any
    group: Any


class Features(NamedTuple):
    """Rows of points and of candidates, (slots, d), boxes around tiles of candidates, (tiles, d).

    `rule` has a row for each class. Below `whole`, numbers of this type may have fractions.
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

    Adding and subtracting `round_off` rounds to the grid of a class.
    """

    points: Slots
    candidates: Slots
    entries: Any
    at: Any
    round_off: Any


class Search(NamedTuple):
    """Growing selections.

    By point: `best` similarity to a selected element, the one `before`, and the `assigned`
    element's position in order of adding. By class, from its first slot on: which `changed`.

    By candidate: `gains`, whether `taken`, and the `order` that breaks ties. By tile: the largest
    gain of those not taken (`top`) and which has it (`lead`).

    By class: candidate `chosen` last or -1, how many were `added` and are to be (`goal`), and how
    many points changed (`moved`). `seen`: similarities looked at.
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
def _quantize(s, up, down, whole):
    """Round to the grid; twice adding is cheaper than the instruction that rounds."""
    s = s * up
    if -whole < s < whole:
        near = whole if s >= 0 else -whole
        s = (s + near) - near
    return s * down


@cuda.jit(device=True, inline="always")
def _similarity(x, metric, rule, c, whole):
    """From a squared distance (or product) to a similarity less the offset, on the grid."""
    number = rule.dtype.type
    up, down = rule[c, UP], rule[c, DOWN]
    if metric == EUCLIDEAN:
        return -_quantize(number(math.sqrt(x)), up, down, whole)
    if metric == COSINE:
        return -_quantize(number(0.5) * x, up, down, whole)
    if metric == DOT:
        return _quantize(x, up, down, whole)
    return -_quantize(number(-math.expm1(-rule[c, GAMMA] * x)), up, down, whole)


@cuda.jit(device=True, inline="always")
def _squared_reach(s, metric, gamma):
    """Squared distance beyond which no candidate is more similar than `s` (less the offset)."""
    if metric == EUCLIDEAN:
        return s * s
    if metric == COSINE:
        return -2.0 * s
    if metric == RBF and s > -0.99:  # nearer to -1, rounding of exp outweighs the margin
        return -math.log1p(s) / gamma
    return math.inf


@cuda.jit(device=True, inline="always")
def _squared_gap(store, i, tile, shrink):
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
def _pairs(rows, picked, start, count, columns, left, metric, out):
    """Squared distances (or products) of this thread's candidates and points.

    The block's are LANES candidates from `left` on, and `count` points, picked[start] and so on. Of
    these a thread has candidates x + SIDE * a and points y + SIDE * b, for which it fills
    ``out[a, b]``: one chain of fused multiply-adds in the order of the features.
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
    """Matrices of similarities of each class's points, which are its candidates.

    Blocks: a tile of points, and as many as the largest class has tiles.
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
    _pairs(store.rows, picked, 0, LANES, store.columns, start + left, store.metric, sums)
    for b in range(EACH):
        i = top + t // SIDE + SIDE * b
        for a in range(EACH):
            j = left + t % SIDE + SIDE * a
            if i < size and j < size:
                s = _similarity(sums[a, b], store.metric, store.rule, c, store.whole)
                matrices.entries[matrices.at[c] + i * size + j] = s


@cuda.jit(device=True, inline="always")
def _ahead(gain, candidate, other_gain, other, order):
    """Whether a candidate is better than another: a larger gain, or the lower index."""
    if gain != other_gain:
        return gain > other_gain
    return order[candidate] < order[other]


@cuda.jit(device=True, inline="always")
def _find_best(top, lead, width, order):
    """Leave the best of the first `width` (a power of two) in the first place."""
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

    `elements` and `gains`, (classes, count), take those after the `begun` first of each class.
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
    """Choose this candidate, of the only class."""
    search.chosen[0], search.moved[0] = slot, 0
    search.added[0] += 1


@cuda.jit
def sum_won(search, gains, which):
    """Add to a gain what points won by the candidate chosen last, of the only class."""
    at = cuda.grid(1)
    if at < search.moved[0]:
        i = search.changed[at]
        cuda.atomic.add(gains, which, search.best[i] - search.before[i])


@cuda.jit(device=True, inline="always")
def _improve(search, c, start, i, s):
    """Let a point be represented by the candidate chosen last if it is more similar to it."""
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
    s = _similarity(x, store.metric, store.rule, c, store.whole)
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
    """Whether gains are summed from scratch, and of how many points or changes."""
    moved, size = search.moved[c], points.size[c]
    if mode == AFRESH or (mode == CHANGES and 2 * moved > size):
        return True, size
    return False, moved if mode == CHANGES else 0


@cuda.jit(device=True, inline="always")
def _entry(search, start, at, afresh):
    """A point, and the range within which a similarity counts for the gains."""
    if afresh:
        i = start + at
        return i, search.best[i], math.inf
    i = search.changed[start + at]
    return i, search.before[i], search.best[i]


@cuda.jit(device=True, inline="always")
def _conclude(search, tile, afresh, parts, count):
    """Add to the gains of a tile the sums of `parts`, (count, LANES); find the best candidate."""
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
        # Line up points that are near enough, and go on once there are enough to fill a tile.
        if first + t < entries:
            i, low, _ = _entry(search, start, first + t, afresh)
            if _squared_gap(store, i, tile, shrink) < _squared_reach(low, metric, gamma):
                picked[cuda.atomic.add(waiting, 0, 1)] = i
        cuda.syncthreads()
        left = waiting[0]
        while left >= LANES or (left > 0 and first + THREADS >= entries):
            count = LANES if left > LANES else left
            left -= count
            seen += count
            _pairs(store.rows, picked, left, count, store.columns, tile * LANES, metric, sums)
            for b in range(EACH):
                lane = t // SIDE + SIDE * b
                if lane < count:
                    i = picked[left + lane]
                    low = search.best[i] if afresh else search.before[i]
                    high = math.inf if afresh else search.best[i]
                    low_, high_ = number(low), number(high)
                    for a in range(EACH):
                        s = _similarity(sums[a, b], metric, store.rule, c, store.whole)
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


@cuda.jit
def gather(source, order, out):
    """Rows of the source in slots, in the type of `out`. Blocks: a tile each."""
    for lane in range(LANES):
        i = order[cuda.blockIdx.x * LANES + lane]
        for k in range(cuda.threadIdx.x, source.shape[1], THREADS):
            out[cuda.blockIdx.x * LANES + lane, k] = source[i, k]


@cuda.jit
def gather_columns(source, order, out):
    """Columns of a matrix. Blocks: as many as you like."""
    width = order.size
    for at in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[at] = source[at // width, order[at % width]]


@cuda.jit
def check(source, order, low, first_bad, largest):
    """First entry that is not finite or less than `low`, and the largest. Blocks: any number."""
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
    """Range of each feature within each tile. Blocks: a tile each."""
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
    """Range of each feature within each class. Blocks: (class, THREADS features)."""
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
    """Largest length of (row - middle) / extent within each class. Blocks: a tile of rows each.

    Squares are not fused with their sum, so that it has the same bits as on the CPU.
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
    """Divide the rows of each class by a power of two. Blocks: a tile of rows each."""
    shift = -int(exponent[group[cuda.blockIdx.x]])
    for at in range(cuda.threadIdx.x, LANES * rows.shape[1], THREADS):
        i, k = cuda.blockIdx.x * LANES + at // rows.shape[1], at % rows.shape[1]
        rows[i, k] = math.ldexp(float64(rows[i, k]), shift)


@cuda.jit
def scale_to_unit(rows):
    """Rows of length 1; the last feature tells rows of zeros. Blocks: a tile of rows each."""
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
