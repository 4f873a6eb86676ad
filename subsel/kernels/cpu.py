"""Numba kernels of facility location on the CPU.

A *store* says where similarities come from: a dense matrix, a sparse one, or features. For each
there are two kernels, chosen by the type of the store:

``cover``
    A new representative `e`: raise ``best[i] = max(best[i], s[i, e])`` and write the points that
    changed into a log, with what their similarity was before.
``sweep``
    For some points, add ``sign * (min(max(s[i, j], low[i]), high[i]) - low[i])`` to the gain of
    every candidate `j` of a block. With ``low = best``, ``high = inf`` and ``sign = +1`` this is
    the marginal gain from scratch; with ``low`` the similarity before, ``high`` the one after and
    ``sign = -1`` it takes out of the gains what has been covered meanwhile. The clamped similarity
    is one of the numbers given, so it needs no more digits than they have.

The rest is the same for all. Candidates are in blocks. `settle` brings the gains of one block up to
date from the log, in which a point that changed several times since counts once. Gains only fall,
so an unsettled block's are upper bounds, and `advance`, which is greedy, settles only blocks that
might hold the best candidate.

Exactness. Similarities are rounded to a common grid (`_quantize`) so fine that a float64 holds
every sum of them without rounding. All sums below are therefore exact: any order of summation, any
number of threads, any skipped zero and any subtraction of an old term leave the same bits.
Similarities themselves are computed with explicit fused multiply-adds in a fixed order, so that
they too have the same bits wherever they are computed.

All kernels live in this one file: Numba's disk cache does not notice a changed callee elsewhere.
"""

import math
import sys
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, prange, set_num_threads, types
from numba.core import cgutils, event
from numba.extending import intrinsic, overload

LANES = 64
"""Rows in a tile: a few vector registers wide on every current CPU."""

EUCLIDEAN, COSINE, DOT, RBF = range(4)

LOGGED, RUNS, ADDED, SEEN, TODO = range(5)
"""In `Search.counts`: entries and runs in the log, elements added, similarities seen, `todo`."""

_CHUNK = 256
"""Points handed to a sweep at once: what is known of them stays in the first-level cache."""

_WORTH_BOUNDS = 8
"""Points of one group from which on bounds for each are worth computing."""


class Dense(NamedTuple):
    """Similarities in an array (points, candidates)."""

    matrix: np.ndarray
    symmetric: bool
    up: float
    down: float


class Sparse(NamedTuple):
    """Similarities in compressed rows and compressed columns; absent ones are 0."""

    row_starts: np.ndarray
    row_columns: np.ndarray
    row_data: np.ndarray
    column_starts: np.ndarray
    column_rows: np.ndarray
    column_data: np.ndarray
    up: float
    down: float


class Tiled(NamedTuple):
    """Features of points and of candidates, each in `count` tiles of near rows.

    There are (count * LANES, d) rows; (count, d * LANES) tiles, which are the same, dimension by
    dimension; boxes around each, from `least` to `largest`, for points dimension by dimension
    (d * count,), for candidates (count, d); and (count,) members. `shrink` is a factor that keeps
    bounds on distances safe.
    """

    point_rows: np.ndarray
    point_tiles: np.ndarray
    point_least: np.ndarray
    point_largest: np.ndarray
    point_members: np.ndarray
    rows: np.ndarray
    tiles: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    members: np.ndarray
    metric: int
    gamma: float
    up: float
    down: float
    shrink: float


class Search(NamedTuple):
    """A growing selection.

    By point: `best` similarity to a selected element (inf for padding), position of that element in
    order of adding (`assigned`), `last` entry in the log or -1. By group of LANES points: `reach`,
    the squared distance beyond which no candidate can improve any of them.

    The log: points that `changed`, their similarity `before`, the point's `previous` entry; and the
    runs of entries that are of one group: `run_start`, `run_group`, and its reach before.

    By candidate: `gains`, whether `taken`, and the `order` that breaks ties. By block of `width`
    candidates: the largest gain of those not taken (`top`) and which it is (`lead`), both as of the
    number of runs that there were when the block was `settled` (-1: never). `todo`: blocks to
    settle. `counts`: see LOGGED.
    """

    best: np.ndarray
    assigned: np.ndarray
    last: np.ndarray
    reach: np.ndarray
    changed: np.ndarray
    before: np.ndarray
    previous: np.ndarray
    run_start: np.ndarray
    run_group: np.ndarray
    run_reach: np.ndarray
    gains: np.ndarray
    taken: np.ndarray
    order: np.ndarray
    top: np.ndarray
    lead: np.ndarray
    settled: np.ndarray
    todo: np.ndarray
    counts: np.ndarray
    width: int


class _CompilationNotice(event.Listener):
    """Tells a person who waits, once, that kernels are being compiled; cached ones are not."""

    def on_start(self, event_):
        if event_.data["dispatcher"].py_func.__module__ == __name__:
            event.unregister("numba:compile", self)
            if sys.stderr.isatty():
                sys.stderr.write("subsel: compiling for this machine, once; some ten seconds ...\n")

    def on_end(self, event_):
        """Nothing to say."""


event.register("numba:compile", _CompilationNotice())


def threads():
    """Threads that parallel kernels will use (``numba.set_num_threads``, NUMBA_NUM_THREADS)."""
    return get_num_threads()


def single_thread():
    """Keep kernels called from this Python thread to one thread."""
    set_num_threads(1)


@intrinsic
def _rint(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return x(x), codegen


def _lanewise(subtract):
    """A kernel over the LANES columns of a tile and some rows: squared distances, or products.

    ``kernel(tile, rows, picked, out)`` fills ``out[q * LANES + j]`` for row ``rows[picked[q]]``.
    Written in vectors of 512 bits, as LLVM does not keep a Python loop's sums in registers; it
    splits them where a machine's are shorter. Each sum is one chain of fused multiply-adds in the
    order of the dimensions.
    """

    @intrinsic
    def kernel(typingctx, tile, rows, picked, out):
        def codegen(context, builder, signature, args):
            number = context.get_value_type(tile.dtype)
            lanes = 16 if tile.dtype == types.float32 else 8
            vector = ir.VectorType(number, lanes)
            index = context.get_value_type(types.intp)
            tiles, table, sums = (
                context.make_array(kind)(context, builder, args[at])
                for at, kind in ((0, tile), (1, rows), (3, out))
            )
            d = cgutils.unpack_tuple(builder, table.shape)[1]
            starts = [
                builder.gep(table.data, [builder.mul(row, d)])
                for row in cgutils.unpack_tuple(builder, args[2])
            ]
            fma = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{lanes}f{512 // lanes}",
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            undefined = ir.Constant(vector, ir.Undefined)
            nothing = ir.Constant(vector, [0.0] * lanes)

            def vector_at(data, offset):
                return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

            def broadcast(value):
                first = builder.insert_element(undefined, value, ir.IntType(32)(0))
                return builder.shuffle_vector(first, undefined, zeros)

            # Four vectors of a tile for each row at a time: with four rows, 16 registers of sums.
            for left in range(0, LANES, 4 * lanes):
                part = [
                    [cgutils.alloca_once_value(builder, nothing) for _ in range(4)] for _ in starts
                ]
                with cgutils.for_range(builder, d) as loop:
                    line = builder.add(builder.mul(loop.index, index(LANES)), index(left))
                    columns = [
                        builder.load(
                            vector_at(tiles.data, builder.add(line, index(v * lanes))),
                            align=tile.dtype.bitwidth // 8,
                        )
                        for v in range(4)
                    ]
                    for start, row in zip(starts, part, strict=True):
                        y = broadcast(builder.load(builder.gep(start, [loop.index])))
                        for x, sum_ in zip(columns, row, strict=True):
                            t = builder.fsub(x, y) if subtract else x
                            terms = [t, t if subtract else y, builder.load(sum_)]
                            builder.store(builder.call(fma, terms), sum_)
                for q, row in enumerate(part):
                    for v, sum_ in enumerate(row):
                        builder.store(
                            builder.load(sum_),
                            vector_at(sums.data, index(q * LANES + left + v * lanes)),
                            align=tile.dtype.bitwidth // 8,
                        )
            return context.get_dummy_value()

        return types.void(tile, rows, picked, out), codegen

    return kernel


_squared_distances = _lanewise(subtract=True)
_products = _lanewise(subtract=False)


@njit(inline="always")
def _quantize(s, up, down):
    """Round to the grid: `up` is a power of two, `down` its inverse."""
    return _rint(s * up) * down


@njit(inline="always")
def _clamp(s, low, high):
    """`s` within low..high, by comparisons that compile to vector instructions."""
    s = s if s > low else low
    return s if s < high else high


@njit(inline="always")
def _to_similarities(metric, gamma, up, down, out):
    """From squared distances (or products) to similarities less the offset, on the grid.

    They are -||x - y||, cos - 1, <x, y>, and exp(-gamma ||x - y||^2) - 1.
    """
    if metric == EUCLIDEAN:
        for j in range(out.size):
            out[j] = -_quantize(np.sqrt(out[j]), up, down)
    elif metric == COSINE:
        up_half = np.float32(0.5) * up
        for j in range(out.size):
            out[j] = -_quantize(out[j], up_half, down)
    elif metric == DOT:
        for j in range(out.size):
            out[j] = _quantize(out[j], up, down)
    else:
        for j in range(out.size):
            out[j] = -_quantize(-math.expm1(-gamma * out[j]), up, down)


@njit(inline="always")
def _similarities(tile, rows, picked, metric, gamma, up, down, out):
    """Similarities less the offset of some rows to the LANES columns of a tile, row after row."""
    if metric == DOT:
        _products(tile, rows, picked, out)
    else:
        _squared_distances(tile, rows, picked, out)
    _to_similarities(metric, gamma, up, down, out)


@njit(inline="always")
def _squared_reach(s, metric, gamma):
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


@njit(cache=True, nogil=True)
def _squared_gaps(least, largest, lows, highs, shrink, out):
    """Squared distances, a little less, from a box to boxes given dimension by dimension."""
    width = out.size
    out[:] = 0
    for k in range(least.size):
        from_, to = least[k], largest[k]
        low = lows[k * width : (k + 1) * width]
        high = highs[k * width : (k + 1) * width]
        for j in range(width):
            below, above = from_ - high[j], low[j] - to
            t = below if below > above else above
            t = t if t > 0 else out.dtype.type(0)
            out[j] += t * t * shrink


@njit(cache=True, nogil=True)
def _improve(search, i, s):
    """A point gets a representative that is more similar."""
    at = search.counts[LOGGED]
    search.changed[at] = i
    search.before[at] = search.best[i]
    search.previous[at] = search.last[i]
    search.last[i] = at
    search.assigned[i] = search.counts[ADDED]
    search.best[i] = s
    search.counts[LOGGED] = at + 1


@njit(cache=True, nogil=True)
def _end_run(search, group, reach):
    """What was logged since the last run is one of this group, of what reach before."""
    run = search.counts[RUNS]
    if search.counts[LOGGED] > search.run_start[run]:
        search.run_group[run] = group
        search.run_reach[run] = reach
        search.run_start[run + 1] = search.counts[LOGGED]
        search.counts[RUNS] = run + 1


def cover(store, slot, search):
    """Make a candidate the representative of points that are more similar to it than to theirs."""


def sweep(store, block, points, low, high, m, sign, gains):
    """Change the gains of a block for the first `m` of `points`; returns similarities seen."""


def group_gaps(store, block, out):
    """Lower bounds of squared distances from the candidates of a block to each group of points."""


def point_gaps(store, block, group, out):
    """The same for the points of one group."""


def squared_reach(store, s):
    """Squared distance beyond which no candidate is more similar to a point than `s`."""


@overload(cover)
def _cover(store, slot, search):
    def dense(store, slot, search):
        matrix = store.matrix
        for i in range(matrix.shape[0]):
            s = matrix[slot, i] if store.symmetric else matrix[i, slot]
            s = _quantize(np.float64(s), store.up, store.down)
            if s > search.best[i]:
                _improve(search, i, s)
        _end_run(search, 0, np.inf)
        search.counts[SEEN] += matrix.shape[0]
        search.counts[ADDED] += 1

    def sparse(store, slot, search):
        start, stop = store.column_starts[slot], store.column_starts[slot + 1]
        for p in range(start, stop):
            i = store.column_rows[p]
            s = _quantize(np.float64(store.column_data[p]), store.up, store.down)
            if s > search.best[i]:
                _improve(search, i, s)
        _end_run(search, 0, np.inf)
        search.counts[SEEN] += stop - start
        search.counts[ADDED] += 1

    def tiled(store, slot, search):
        tiles, metric, gamma = store.point_tiles, store.metric, store.gamma
        row = store.rows[slot]
        gaps = np.empty(tiles.shape[0], tiles.dtype)
        _squared_gaps(row, row, store.point_least, store.point_largest, store.shrink, gaps)
        line = np.empty(LANES, tiles.dtype)
        for b in range(tiles.shape[0]):
            if gaps[b] >= search.reach[b]:
                continue
            _similarities(tiles[b], store.rows, (slot,), metric, gamma, store.up, store.down, line)
            worst = np.inf
            for j in range(LANES):
                i = b * LANES + j
                s = np.float64(line[j])
                if s > search.best[i]:
                    _improve(search, i, s)
                worst = min(worst, search.best[i])
            _end_run(search, b, search.reach[b])
            search.reach[b] = _squared_reach(worst, metric, gamma)
            search.counts[SEEN] += store.point_members[b]
        search.counts[ADDED] += 1

    return {Dense: dense, Sparse: sparse, Tiled: tiled}[store.instance_class]


@overload(sweep)
def _sweep(store, block, points, low, high, m, sign, gains):
    def dense(store, block, points, low, high, m, sign, gains):
        matrix = store.matrix
        # Adding and subtracting 1.5 * 2**52 steps of the grid rounds to it, in fewer operations
        # than `_quantize`; no similarity is larger than a quarter of that.
        round_off = 1.5 * 2.0**52 * store.down
        start, stop = block
        # Slices, for indices that start at 0: LLVM does not vectorize where one might be negative.
        out = gains[start:stop]
        number = matrix.dtype.type
        a = 0
        while a + 4 <= m:
            row0, row1 = matrix[points[a], start:stop], matrix[points[a + 1], start:stop]
            row2, row3 = matrix[points[a + 2], start:stop], matrix[points[a + 3], start:stop]
            low0, low1 = number(low[a]), number(low[a + 1])
            low2, low3 = number(low[a + 2]), number(low[a + 3])
            high0, high1 = number(high[a]), number(high[a + 1])
            high2, high3 = number(high[a + 2]), number(high[a + 3])
            base = low[a] + low[a + 1] + low[a + 2] + low[a + 3]
            for j in range(out.size):
                total = (np.float64(_clamp(row0[j], low0, high0)) + round_off) - round_off
                total += (np.float64(_clamp(row1[j], low1, high1)) + round_off) - round_off
                total += (np.float64(_clamp(row2[j], low2, high2)) + round_off) - round_off
                total += (np.float64(_clamp(row3[j], low3, high3)) + round_off) - round_off
                out[j] += sign * (total - base)
            a += 4
        while a < m:
            row, low0, high0 = matrix[points[a], start:stop], number(low[a]), number(high[a])
            for j in range(out.size):
                s = (np.float64(_clamp(row[j], low0, high0)) + round_off) - round_off
                out[j] += sign * (s - low[a])
            a += 1
        return m * (stop - start)

    def tiled(store, block, points, low, high, m, sign, gains):
        metric, gamma = store.metric, store.gamma
        b = block[0] // LANES
        tile = store.tiles[b]
        number = tile.dtype.type
        quad = np.empty(4 * LANES, tile.dtype)
        total = np.zeros(LANES)
        base = 0.0
        # What fills up the last four adds nothing.
        points[m : m + 3], low[m : m + 3], high[m : m + 3] = points[0], low[0], low[0]
        for a in range(0, m, 4):
            picked = (points[a], points[a + 1], points[a + 2], points[a + 3])
            _similarities(tile, store.point_rows, picked, metric, gamma, store.up, store.down, quad)
            low0, low1 = number(low[a]), number(low[a + 1])
            low2, low3 = number(low[a + 2]), number(low[a + 3])
            high0, high1 = number(high[a]), number(high[a + 1])
            high2, high3 = number(high[a + 2]), number(high[a + 3])
            base += low[a] + low[a + 1] + low[a + 2] + low[a + 3]
            for j in range(LANES):
                s = np.float64(_clamp(quad[j], low0, high0))
                s += np.float64(_clamp(quad[LANES + j], low1, high1))
                s += np.float64(_clamp(quad[2 * LANES + j], low2, high2))
                total[j] += s + np.float64(_clamp(quad[3 * LANES + j], low3, high3))
        out = gains[b * LANES : (b + 1) * LANES]
        for j in range(LANES):
            out[j] += sign * (total[j] - base)
        return m * store.members[b]

    return {Dense: dense, Tiled: tiled}[store.instance_class]


@overload(group_gaps)
def _group_gaps(store, block, out):
    def unbounded(store, block, out):
        out[:] = 0

    def tiled(store, block, out):
        least, largest = store.least[block], store.largest[block]
        _squared_gaps(least, largest, store.point_least, store.point_largest, store.shrink, out)

    return tiled if store.instance_class is Tiled else unbounded


@overload(point_gaps)
def _point_gaps(store, block, group, out):
    def unbounded(store, block, group, out):
        pass

    def tiled(store, block, group, out):
        tile = store.point_tiles[group]
        _squared_gaps(store.least[block], store.largest[block], tile, tile, store.shrink, out)

    return tiled if store.instance_class is Tiled else unbounded


@overload(squared_reach)
def _store_reach(store, s):
    def unbounded(store, s):
        return np.inf

    def tiled(store, s):
        return _squared_reach(s, store.metric, store.gamma)

    return tiled if store.instance_class is Tiled else unbounded


@njit(cache=True, nogil=True)
def represent(store, slots, search):
    """Add candidates one after the other; returns what each gained, not the gains of others."""
    gains = np.zeros(slots.size)
    for step in range(slots.size):
        cover(store, slots[step], search)
        for entry in range(search.counts[LOGGED]):
            gains[step] += search.best[search.changed[entry]] - search.before[entry]
        _clear_log(search)
    return gains


@njit(cache=True, nogil=True)
def _clear_log(search):
    search.counts[LOGGED] = 0
    search.counts[RUNS] = 0


@njit(cache=True, nogil=True)
def add(store, slot, search):
    """Add a candidate."""
    cover(store, slot, search)
    if search.counts[ADDED] == 1 and 2 * search.counts[LOGGED] > search.best.size:
        # The first changes nearly every point, so that gains are had from scratch sooner than from
        # the log, all the more as bounds on distance work from now on.
        search.settled[:] = -1
        search.last[:] = -1
        _clear_log(search)


@njit(cache=True, nogil=True)
def _find_lead(search, block):
    """The best candidate of a block that is not taken, the lowest of equals."""
    gains, order = search.gains, search.order
    start = block * search.width
    top = -np.inf
    lead = start
    for slot in range(start, min(start + search.width, order.size)):
        gain = gains[slot]
        if not search.taken[slot] and (gain > top or (gain == top and order[slot] < order[lead])):
            top = gain
            lead = slot
    search.top[block] = top
    search.lead[block] = lead


@njit(cache=True, nogil=True)
def find_leads(search):
    """The best candidate of each block; of one never settled, any could be."""
    for block in range(search.top.size):
        if search.settled[block] < 0:
            search.top[block] = np.inf
            search.lead[block] = block * search.width
        else:
            _find_lead(search, block)


@njit(cache=True, nogil=True)
def _settle_block(store, search, block):
    """Bring the gains of a block up to date; returns similarities seen."""
    best = search.best
    afresh = search.settled[block] < 0
    start = block * search.width
    stop = min(start + search.width, search.order.size)
    if afresh:
        search.gains[start : start + search.width] = 0.0
    first_run = 0 if afresh else search.settled[block]
    last_run = search.reach.size if afresh else search.counts[RUNS]
    first_entry = search.run_start[first_run]
    sign = 1.0 if afresh else -1.0
    points = np.empty(_CHUNK + 4, np.int64)
    low = np.empty(_CHUNK + 4)
    high = np.empty(_CHUNK + 4)
    gaps = np.empty(search.reach.size, search.reach.dtype)
    group_gaps(store, block, gaps)
    near = np.zeros(LANES, search.reach.dtype)
    m = 0
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
                seen += sweep(store, (start, stop), points, low, high, m, sign, search.gains)
                m = 0
            for entry in range(left, min(left + LANES, end)):
                if afresh:
                    i = entry
                    before, after = best[i], np.inf
                    needed = before < np.inf
                else:
                    # Of a point that changed several times, the first entry stands for all.
                    i = search.changed[entry]
                    before, after = search.before[entry], best[i]
                    needed = search.previous[entry] < first_entry
                if bounded:
                    needed &= near[i % LANES] < squared_reach(store, before)
                # Written in any case, and kept if needed: no branch to be mispredicted.
                points[m], low[m], high[m] = i, before, after
                m += needed
    seen += sweep(store, (start, stop), points, low, high, m, sign, search.gains)
    search.settled[block] = search.counts[RUNS]
    _find_lead(search, block)
    return seen


@njit(cache=True, nogil=True)
def _settle_all(store, search):
    """For a sparse matrix, whose rows do not know of blocks: bring all gains up to date."""
    best, gains = search.best, search.gains
    afresh = search.settled[0] < 0
    touched = np.full(search.top.size, afresh)
    if afresh:
        gains[:] = 0.0
        first_entry, last_entry = 0, best.size
    else:
        first_entry, last_entry = search.run_start[search.settled[0]], search.counts[LOGGED]
    seen = 0
    for entry in range(first_entry, last_entry):
        i = entry if afresh else search.changed[entry]
        low = best[i] if afresh else search.before[entry]
        high = np.inf if afresh else best[i]
        if not afresh and search.previous[entry] >= first_entry:
            continue
        start, stop = store.row_starts[i], store.row_starts[i + 1]
        for p in range(start, stop):
            s = _quantize(np.float64(store.row_data[p]), store.up, store.down)
            if s > low:
                j = store.row_columns[p]
                gain = min(s, high) - low
                gains[j] += gain if afresh else -gain
                touched[j // search.width] = True
        seen += stop - start
    search.settled[:] = search.counts[RUNS]
    for block in range(touched.size):
        if touched[block]:
            _find_lead(search, block)
    return seen


def settle(store, search, block):
    """Bring the gains of a block, or more, up to date; returns similarities seen."""


@overload(settle)
def _settle(store, search, block):
    def some(store, search, block):
        return _settle_block(store, search, block)

    def all_(store, search, block):
        return _settle_all(store, search)

    return all_ if store.instance_class is Sparse else some


@njit(cache=True, parallel=True, nogil=True)
def settle_parallel(store, search, blocks):
    """Bring the gains of some blocks up to date."""
    seen = 0
    for b in prange(blocks.size):
        seen += settle(store, search, blocks[b])
    search.counts[SEEN] += seen


@njit(cache=True, nogil=True)
def settle_serial(store, search, blocks):
    """Bring the gains of some blocks up to date."""
    for block in blocks:
        search.counts[SEEN] += settle(store, search, block)


@njit(cache=True, nogil=True)
def pending(search, blocks):
    """How many similarities at most have to be looked at to settle some blocks."""
    entries = 0
    for block in blocks:
        if search.settled[block] < 0:
            entries += search.best.size
        else:
            entries += search.counts[LOGGED] - search.run_start[search.settled[block]]
    return entries * search.width


@njit(cache=True, nogil=True)
def _ahead(search, a, b):
    """Whether block `a` has the better candidate, as far as is known."""
    if search.top[a] != search.top[b]:
        return search.top[a] > search.top[b]
    return search.order[search.lead[a]] < search.order[search.lead[b]]


@njit(cache=True, nogil=True)
def advance(store, search, elements, gains, at, too_much):
    """Greedy: fill `elements` and `gains` from position `at` on; returns the next position.

    Stops early if the log has no room for another element, or if blocks that have to be settled
    (`todo`) make more work than `too_much`, counted in similarities.
    """
    counts, settled = search.counts, search.settled
    while at < elements.size:
        if counts[LOGGED] + search.best.size > search.changed.size:
            return at
        block = 0
        for b in range(1, settled.size):
            if _ahead(search, b, block):
                block = b
        if settled[block] != counts[RUNS]:
            search.todo[0] = block
            together = pending(search, search.todo[:1]) > too_much
            if not together:
                counts[SEEN] += settle(store, search, block)
            counts[TODO] = 0
            for b in range(settled.size):
                if settled[b] != counts[RUNS] and (together or _ahead(search, b, block)):
                    search.todo[counts[TODO]] = b
                    counts[TODO] += 1
            if pending(search, search.todo[: counts[TODO]]) > too_much:
                return at
            for b in range(counts[TODO]):
                counts[SEEN] += settle(store, search, search.todo[b])
            continue
        slot = search.lead[block]
        elements[at] = search.order[slot]
        gains[at] = search.top[block]
        at += 1
        search.taken[slot] = True
        _find_lead(search, block)
        add(store, slot, search)
    return at


@njit(cache=True, nogil=True)
def count_above(matrix, best, counts, first, stop):
    """How many entries of each of some rows are larger than `best` of the row."""
    for i in range(first, stop):
        row, low = matrix[i], matrix.dtype.type(best[i])
        count = 0
        for j in range(row.size):
            count += row[j] > low
        counts[i] = count


@njit(cache=True, nogil=True)
def write_above(matrix, best, starts, columns, data, first, stop):
    """Those entries and their columns, each row's from its start on."""
    for i in range(first, stop):
        row, low = matrix[i], matrix.dtype.type(best[i])
        at = starts[i]
        for j in range(row.size):
            if row[j] > low:
                columns[at] = j
                data[at] = row[j]
                at += 1


@njit(cache=True, nogil=True)
def is_symmetric(matrix):
    """Whether a square matrix equals its transpose exactly, tile by tile."""
    n = matrix.shape[0]
    for i0 in range(0, n, LANES):
        for j0 in range(0, i0 + 1, LANES):
            for i in range(i0, min(i0 + LANES, n)):
                for j in range(j0, min(j0 + LANES, n)):
                    if matrix[i, j] != matrix[j, i]:
                        return False
    return True


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sum_pairs(store, low, first, step, sums):
    """Sums of similarities, at least `low`, of every `step`-th tile to itself and those after it.

    For candidates that are the points: a pair is computed once and counts for both. Sums are exact,
    so that they may be associated in any order.
    """
    rows, tiles, metric, gamma = store.rows, store.tiles, store.metric, store.gamma
    low_ = tiles.dtype.type(low)
    quad = np.empty(4 * LANES, tiles.dtype)
    total = np.empty(LANES)
    for a in range(first, tiles.shape[0], step):
        for b in range(a, tiles.shape[0]):
            tile, width = tiles[b], store.members[b]
            total[:] = 0.0
            for i in range(0, store.members[a], 4):
                start = a * LANES + i
                picked = (start, start + 1, start + 2, start + 3)
                _similarities(tile, rows, picked, metric, gamma, store.up, store.down, quad)
                for j in range(4 * LANES):
                    quad[j] = quad[j] if quad[j] > low_ else low_
                for q in range(min(4, store.members[a] - i)):
                    line = quad[q * LANES : (q + 1) * LANES]
                    for j in range(LANES):
                        total[j] += np.float64(line[j])
                    if b > a:
                        own = 0.0
                        for j in range(width):
                            own += np.float64(line[j])
                        sums[start + q] += own
            for j in range(LANES):
                sums[b * LANES + j] += total[j]


@njit(cache=True, nogil=True)
def sum_all(store, search):
    """Gains of all candidates, which are the points, while none is selected."""
    low = search.best[0]
    sums = np.zeros(search.gains.size)
    _sum_pairs(store, low, 0, 1, sums)
    _take_sums(search, sums, low)


@njit(cache=True, parallel=True, nogil=True)
def sum_all_parallel(store, search, pieces):
    """`sum_all`, in pieces of equal work."""
    low = search.best[0]
    sums = np.zeros((pieces, search.gains.size))
    for p in prange(pieces):
        _sum_pairs(store, low, p, pieces, sums[p])
    for p in range(1, pieces):
        sums[0] += sums[p]
    _take_sums(search, sums[0], low)


@njit(cache=True, nogil=True)
def _take_sums(search, sums, low):
    n = search.order.size
    for slot in range(n):
        search.gains[slot] = sums[slot] - n * low
    search.settled[:] = search.counts[RUNS]
    search.counts[SEEN] += n * (n + 1) // 2


@njit(cache=True, nogil=True)
def _select(keys, order, start, stop, middle):
    """Hoare's selection: what is before `middle` in start..stop has no larger key than the rest."""
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


@njit(cache=True, nogil=True)
def spatial_order(features):
    """Rows ordered so that each run of LANES is close together: the leaves of a k-d tree.

    O(n (d + 1) log n) time.
    """
    n, d = features.shape
    order = np.arange(n)
    keys = np.empty(n, features.dtype)
    low = np.empty(d, features.dtype)
    high = np.empty(d, features.dtype)
    pending = np.empty((128, 2), np.int64)  # deeper than halves of any n go
    pending[0, 0], pending[0, 1] = 0, n
    depth = 1
    while depth:
        depth -= 1
        start, stop = pending[depth, 0], pending[depth, 1]
        if stop - start <= LANES:
            continue
        for k in range(d):
            low[k], high[k] = np.inf, -np.inf
        for a in range(start, stop):
            for k in range(d):
                x = features[order[a], k]
                low[k] = min(low[k], x)
                high[k] = max(high[k], x)
        axis = 0
        for k in range(1, d):
            if high[k] - low[k] > high[axis] - low[axis]:
                axis = k
        for a in range(start, stop):
            keys[a] = features[order[a], axis]
        middle = start + max(1, (stop - start) // (2 * LANES)) * LANES
        _select(keys, order, start, stop, middle)
        pending[depth, 0], pending[depth, 1] = start, middle
        pending[depth + 1, 0], pending[depth + 1, 1] = middle, stop
        depth += 2
    return order


@njit(cache=True, nogil=True)
def tile_matrix(tiles, rows, rule, out, block):
    """Similarities of one block of LANES rows to all rows, into `out`.

    `rows`, padded to whole blocks, are what the tiles are made of, so only tiles from the block's
    own on are computed, and mirrored.
    """
    metric, gamma, up, down, _ = rule
    n = out.shape[0]
    top = block * LANES
    height = min(LANES, n - top)
    part = np.empty((LANES, LANES), tiles.dtype)
    for b in range(block, tiles.shape[0]):
        for i in range(0, LANES, 4):
            quad = part[i : i + 4].reshape(4 * LANES)
            picked = (top + i, top + i + 1, top + i + 2, top + i + 3)
            _similarities(tiles[b], rows, picked, metric, gamma, up, down, quad)
        left = b * LANES
        width = min(LANES, n - left)
        out[top : top + height, left : left + width] = part[:height, :width]
        if b > block:
            for j in range(width):
                for i in range(height):
                    out[left + j, top + i] = part[i, j]


@njit(cache=True, parallel=True, nogil=True)
def tile_matrix_parallel(tiles, rows, rule, out):
    blocks = rows.shape[0] // LANES
    # Paired from both ends, so that threads get equal parts of a triangle.
    for block in prange((blocks + 1) // 2):
        tile_matrix(tiles, rows, rule, out, block)
        if blocks - 1 - block > block:
            tile_matrix(tiles, rows, rule, out, blocks - 1 - block)


@njit(cache=True, nogil=True)
def _length(row, middle, extent):
    """Length of (row - middle) / extent: squares summed in order, as on any backend."""
    total = 0.0
    for k in range(row.size):
        t = (np.float64(row[k]) - middle[k]) / extent
        total += t * t
    return math.sqrt(total)


@njit(cache=True, nogil=True)
def radius(features, middle, extent):
    """Largest distance of a row to `middle`, from which no feature is farther than `extent`."""
    largest = 0.0
    for i in range(features.shape[0]):
        largest = max(largest, _length(features[i], middle, extent))
    return extent * largest


@njit(cache=True, nogil=True)
def unit_rows(features, out):
    """Rows of length 1, and a column more for rows of zeros: whether there are any.

    That column is a direction of their own, orthogonal to all others.
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
        out[i, d] = zero
    return any_zero
