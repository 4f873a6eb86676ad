"""Greedy facility location: gains kept up to date from a log, block by block.

Candidates are in blocks. `settle` brings the gains of one block up to date from the log. A point
that changed several times since counts once. Gains only fall, so an unsettled block's are upper
bounds, and `advance`, which is greedy, settles only blocks that might hold the best one.

All sums are exact (see `subsel.kernels.cpu.lanes`). So the bits do not depend on the order of
summation, on the number of threads, on skipped zeros or on the subtraction of old terms.
"""

import numpy as np
from numba import prange

from subsel.kernels.compiling import by_type, inlined, inner, kernel
from subsel.kernels.cpu.lanes import quantize, room
from subsel.kernels.cpu.log import (
    ADDED,
    LOGGED,
    RUNS,
    SEEN,
    TODO,
    GeneralSearch,
    Search,
    clear_log,
    most_of,
    per_cost,
    weighed,
)
from subsel.kernels.cpu.stores import (
    Dense,
    Sparse,
    Tiled,
    cover,
    group_gaps,
    point_gaps,
    store_reach,
    sweep,
    weighted_sweep,
)
from subsel.kernels.cpu.vectors import COSINE, EUCLIDEAN, LANES, ROWS, fetch, one_line, scratch

_CHUNK = 256
"""Points handed to a sweep at once: what is known of them stays in the first-level cache."""

_AHEAD, _FETCHED = 4, 64
"""So many changed points ahead, so many entries of a sparse row are fetched from memory."""

_a_chunk = scratch(_CHUNK + max(4, ROWS))

_WORTH_BOUNDS = 8
"""Points of one group from which on bounds for each are worth computing."""


@kernel
def represent(store, slots, search):
    """Add candidates one after the other; return the gain of each, without updating other gains."""
    gains = np.zeros(slots.size)
    spare = _spare_room(search)
    for step in range(slots.size):
        cover(store, slots[step], search, spare)
        for entry in range(search.counts[LOGGED]):
            i = search.changed[entry]
            before = weighed(search, i, search.before[entry])
            gains[step] += weighed(search, i, search.best[i]) - before
        clear_log(search)
    return gains


@inner(makes_arrays=True)
def _spare_room(search):
    """Scratch space for what is computed again and again for each group of points or each block."""
    return room(max(search.reach.size, search.top.size), search.reach)


@inner
def _add(store, slot, search, spare):
    """Add a candidate."""
    cover(store, slot, search, spare)
    if search.counts[ADDED] == 1 and 2 * search.counts[LOGGED] > search.best.size:
        # The first element changes nearly every point. Gains are then faster to compute from
        # scratch than from the log, because bounds on distances apply from now on.
        search.settled[:] = -1
        search.last[:] = -1
        clear_log(search)


@kernel
def add(store, slot, search):
    """Add a candidate."""
    _add(store, slot, search, _spare_room(search))


@inner
def _find_lead(search, block):
    """The best candidate of a block that is not taken, the lowest of equals."""
    order = search.order
    start = block * search.width
    stop = min(start + search.width, order.size)
    gains, taken = search.gains[start:stop], search.taken[start:stop]
    top = -np.inf
    lead = start
    for j in range(gains.size):
        worth = per_cost(search, start + j, gains[j])
        # Few are as good as the best so far, so nothing else of the others is looked at.
        if worth >= top and not taken[j] and (worth > top or order[start + j] < order[lead]):
            top = worth
            lead = start + j
    search.top[block] = top
    search.lead[block] = lead


@inner
def _find_leads(search):
    """The best candidate of each block; in a block that was never settled, any could be it."""
    for block in range(search.top.size):
        if search.settled[block] == -1:
            search.top[block] = np.inf
            search.lead[block] = block * search.width
        elif search.settled[block] >= 0:
            _find_lead(search, block)


@by_type
def most_gain(store, search, block, spare):
    """An upper bound of the gains of the candidates of a block; inf where none is known."""


@most_gain.of(Dense)
@most_gain.of(Sparse)
def _no_bound(store, search, block, spare):
    return np.inf


@most_gain.of(Tiled)
def _bound_from_boxes(store, search, block, spare):
    """No candidate is nearer to a point than the box around the block.

    The square root and the rounding are those of similarities, and both are monotone, so no
    computed similarity is larger either, and the sum is exact.
    """
    cosine = store.metric == COSINE
    if not cosine and store.metric != EUCLIDEAN:
        return np.inf
    gaps = spare[: search.reach.size]
    group_gaps(store, block, gaps)
    near = one_line(search.reach)
    up = store.up * near.dtype.type(0.5) if cosine else store.up
    total = 0.0
    for group in range(search.reach.size):
        if gaps[group] >= search.reach[group]:
            continue
        point_gaps(store, block, group, near)
        best = search.best[group * LANES : (group + 1) * LANES]
        for j in range(best.size):
            gap = near[j] if cosine else np.sqrt(near[j])
            total += max(-np.float64(quantize(gap, up, store.down)) - best[j], 0.0)
    return total


@by_type
def bound_block(search, store, block, spare):
    """Note an upper bound for a block that has to be settled from scratch, unless it is known."""


@bound_block.of(Search)
def _note_bound(search, store, block, spare):
    """Returns whether it was not known. `settled` says as of how many elements it is: -1 less."""
    known = -1 - search.counts[ADDED]
    if not known < search.settled[block] < 0:
        return False
    search.top[block] = min(search.top[block], most_gain(store, search, block, spare))
    search.settled[block] = known
    # Any of its candidates could be the best: the one of the lowest index decides ties.
    start = block * search.width
    lead = start
    for slot in range(start, min(start + search.width, search.order.size)):
        lead = slot if search.order[slot] < search.order[lead] else lead
    search.lead[block] = lead
    return True


@bound_block.of(GeneralSearch)
def _note_nothing(search, store, block, spare):
    return False


@by_type(inline=True)
def sweep_within(search, store, block, points, low, high, m, sign, gains):
    """A sweep in which terms count as the limits say; see `subsel.kernels.cpu.stores`."""


@sweep_within.of(Search)
def _plain_sweep(search, store, block, points, low, high, m, sign, gains):
    return sweep(store, block, points, low, high, m, sign, gains)


@sweep_within.of(GeneralSearch)
def _limited_sweep(search, store, block, points, low, high, m, sign, gains):
    if not search.weights.size:
        return sweep(store, block, points, low, high, m, sign, gains)
    weights = _a_chunk(gains)
    for a in range(m):
        weights[a] = search.weights[points[a]]
    grid = search.up, search.down
    return weighted_sweep(store, block, points, weights, low, high, m, sign, grid, gains)


@by_type
def settle(store, search, block, spare):
    """Bring the gains of one or more blocks up to date; return how many similarities it took."""


@inlined
def _changed(search, entry, afresh, first_entry):
    """A point, its similarity before and after, and whether it counts.

    `entry` is one of the log, or, if gains start afresh, the point.
    """
    if afresh:
        i = entry
        before, after = search.best[i], most_of(search, i)
        needed = before < after
    else:
        # For a point that changed several times, the first entry stands for all.
        i = search.changed[entry]
        before, after = search.before[entry], search.best[i]
        needed = search.previous[entry] < first_entry
    return i, before, after, needed


@settle.of(Tiled)
def _settle_tile(store, search, block, spare):
    best, gains = search.best, search.gains
    afresh = search.settled[block] < 0
    start = block * search.width
    span = start, min(start + search.width, search.order.size)
    if afresh:
        gains[start : start + search.width] = 0.0
    first_run = 0 if afresh else search.settled[block]
    last_run = search.reach.size if afresh else search.counts[RUNS]
    first_entry = search.run_start[first_run]
    sign = 1.0 if afresh else -1.0
    points, low, high = _a_chunk(search.order), _a_chunk(search.gains), _a_chunk(search.gains)
    gaps = spare[: search.reach.size]
    group_gaps(store, block, gaps)
    near = one_line(search.reach)
    near[:] = 0
    m = np.int64(0)  # not a literal, because Numba would compile a separate sweep for it
    seen = 0
    for run in range(first_run, last_run):
        group = run if afresh else search.run_group[run]
        if gaps[group] >= (search.reach[run] if afresh else search.run_reach[run]):
            continue
        if afresh:
            begin, end = group * LANES, min((group + 1) * LANES, best.size)
        else:
            begin, end = search.run_start[run], search.run_start[run + 1]
        bounded = end - begin >= _WORTH_BOUNDS
        if bounded:
            point_gaps(store, block, group, near)
        for left in range(begin, end, LANES):
            if m + LANES > _CHUNK:
                seen += sweep_within(search, store, span, points, low, high, m, sign, gains)
                m = np.int64(0)
            for entry in range(left, min(left + LANES, end)):
                i, before, after, needed = _changed(search, entry, afresh, first_entry)
                if bounded:
                    needed &= near[i % LANES] < store_reach(store, before)
                # Always written, and kept only if needed: this avoids a branch that could be
                # mispredicted.
                points[m], low[m], high[m] = i, before, after
                m += needed
    seen += sweep_within(search, store, span, points, low, high, m, sign, gains)
    search.settled[block] = search.counts[RUNS]
    _find_lead(search, block)
    return seen


@inner
def _sweep_rows(store, search, block, part, parts, gains):
    """Do one of several equal parts of what it takes to settle a block of a dense matrix.

    `gains` are those of the block's candidates, or what they change by. Returns similarities seen.
    """
    best = search.best
    start = block * search.width
    span = start, min(start + search.width, search.order.size)
    afresh = search.settled[block] < 0
    first_entry = 0 if afresh else search.run_start[search.settled[block]]
    entries = (best.size if afresh else search.counts[LOGGED]) - first_entry
    sign = 1.0 if afresh else -1.0
    points, low, high = _a_chunk(search.order), _a_chunk(gains), _a_chunk(gains)
    m = np.int64(0)
    seen = 0
    for at in range(entries * part // parts, entries * (part + 1) // parts):
        if m == _CHUNK // ROWS * ROWS:
            seen += sweep_within(search, store, span, points, low, high, m, sign, gains)
            m = np.int64(0)
        i, before, after, needed = _changed(search, first_entry + at, afresh, first_entry)
        points[m], low[m], high[m] = i, before, after
        m += needed
    return seen + sweep_within(search, store, span, points, low, high, m, sign, gains)


@settle.of(Dense)
def _settle_columns(store, search, block, spare):
    start = block * search.width
    gains = search.gains[start : start + search.width]
    if search.settled[block] < 0:
        gains[:] = 0.0
    seen = _sweep_rows(store, search, block, 0, 1, gains)
    search.settled[block] = search.counts[RUNS]
    _find_lead(search, block)
    return seen


@kernel
def sweep_rows(store, search, block, part, parts, changes):
    """Add to `changes` what one of several equal parts of settling a block changes its gains by.

    For a dense matrix. Nothing else is changed, so parts may be done by several threads at once.
    """
    return _sweep_rows(store, search, block, part, parts, changes)


@kernel
def settle_with(search, block, changes, seen):
    """Bring the gains of a block up to date by what all parts of `sweep_rows` have found."""
    start = block * search.width
    gains = search.gains[start : start + search.width]
    if search.settled[block] < 0:
        gains[:] = 0.0
    for row in range(changes.shape[0]):
        for j in range(changes.shape[1]):
            gains[j] += changes[row, j]
    search.settled[block] = search.counts[RUNS]
    search.counts[SEEN] += seen
    _find_lead(search, block)


@settle.of(Sparse)
def _settle_all(store, search, block, spare):
    """Bring all gains up to date, because rows of a sparse matrix are not divided into blocks."""
    best, gains = search.best, search.gains
    afresh = search.settled[0] < 0
    touched = spare[: search.top.size]
    touched[:] = afresh
    if afresh:
        gains[:] = 0.0
        first_entry, last_entry = 0, best.size
    else:
        first_entry, last_entry = search.run_start[search.settled[0]], search.counts[LOGGED]
    seen = 0
    per = 1 / search.width  # to multiply with: half a column more keeps rounding off the next block
    for entry in range(first_entry, last_entry):
        i = entry if afresh else search.changed[entry]
        if not afresh and search.previous[entry] >= first_entry:
            continue
        ahead = min(entry + _AHEAD, last_entry - 1)
        ahead = store.row_starts[ahead if afresh else search.changed[ahead]]
        for at in range(ahead, ahead + _FETCHED, 16):
            fetch(store.row_columns, at)
            fetch(store.row_data, at)
        low = best[i] if afresh else search.before[entry]
        high = most_of(search, i) if afresh else best[i]
        base = weighed(search, i, low)
        start, stop = store.row_starts[i], store.row_starts[i + 1]
        columns, entries = store.row_columns[start:stop], store.row_data[start:stop]
        # No branch skips what adds 0, as half of such branches would be mispredicted.
        for p in range(columns.size):
            s = quantize(np.float64(entries[p]), store.up, store.down)
            j = np.uint64(columns[p])
            gain = weighed(search, i, min(max(s, low), high)) - base
            gains[j] += gain if afresh else -gain
            touched[np.uint64((np.float64(j) + 0.5) * per)] = 1
        seen += stop - start
    search.settled[:] = search.counts[RUNS]
    for block in range(search.top.size):
        if touched[block]:
            _find_lead(search, block)
    return seen


@kernel(parallel=True)
def settle_parallel(store, search, blocks):
    """Bring the gains of some blocks up to date."""
    seen = 0
    for b in prange(blocks.size):
        seen += settle(store, search, blocks[b], _spare_room(search))
    search.counts[SEEN] += seen


@inner
def _pending(search, blocks):
    """The largest number of similarities that settling some blocks can take."""
    entries = 0
    for block in blocks:
        if search.settled[block] < 0:
            entries += search.best.size
        else:
            entries += search.counts[LOGGED] - search.run_start[search.settled[block]]
    return entries * search.width


@inner
def _ahead(top, lead, order, a, b):
    """Whether block `a` has the better candidate, by what is known so far."""
    if top[a] != top[b]:
        return top[a] > top[b]
    return order[lead[a]] < order[lead[b]]


@inner
def _leading(top, lead, order):
    """The block with the best candidate, by what is known so far."""
    block = top.size - 1
    for b in range(top.size - 1):
        if _ahead(top, lead, order, b, block):
            block = b
    return block


@inner
def _settle_todo(store, search, spare):
    """Settle the blocks in `todo` that still need it."""
    for b in range(search.counts[TODO]):
        if search.settled[search.todo[b]] != search.counts[RUNS]:
            search.counts[SEEN] += settle(store, search, search.todo[b], spare)
    search.counts[TODO] = 0


@kernel
def advance(store, search, elements, gains, at, too_much):
    """Greedy: fill `elements` and `gains` from position `at` on; returns the next position.

    First settles the blocks in `todo`; if `elements` is empty, it does nothing more. Stops early if
    the log has no room for another element. Also stops early, with these blocks in `todo`, if
    settling the next blocks would take more than `too_much` similarities.
    """
    counts, settled, spare = search.counts, search.settled, _spare_room(search)
    shared = 2 * search.best.size * search.width > too_much
    _settle_todo(store, search, spare)
    if at == 0 and elements.size:
        _find_leads(search)
    while at < elements.size:
        if counts[LOGGED] + search.best.size > search.changed.size:
            return at
        block = _leading(search.top, search.lead, search.order)
        if bound_block(search, store, block, spare):
            continue
        if settled[block] != counts[RUNS]:
            search.todo[0] = block
            counts[TODO] = 1
            together = _pending(search, search.todo[:1]) > too_much
            if not together:
                _settle_todo(store, search, spare)
            counts[TODO] = 0
            for b in range(settled.size):
                # From scratch, a block takes long, so the next one waits until it leads.
                if settled[b] == counts[RUNS] or (settled[b] < 0 and not shared):
                    continue
                if together or _ahead(search.top, search.lead, search.order, b, block):
                    search.todo[counts[TODO]] = b
                    counts[TODO] += 1
            if _pending(search, search.todo[: counts[TODO]]) > too_much:
                return at
            _settle_todo(store, search, spare)
            continue
        slot = search.lead[block]
        elements[at] = search.order[slot]
        gains[at] = search.gains[slot]
        at += 1
        search.taken[slot] = True
        _find_lead(search, block)
        _add(store, slot, search, spare)
    return at
