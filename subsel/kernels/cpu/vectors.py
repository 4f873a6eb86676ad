"""Code in LLVM's vectors of 512 bits, because LLVM does not keep the sums of a loop in registers.

LLVM splits the vectors on machines with shorter ones. Each function has a twin in plain Python,
which gives the same bits and replaces it without the JIT.
"""

import contextlib
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from subsel.kernels.compiling import fma, intrinsic

LANES = 64
"""Rows in a tile: a few vector registers wide on every current CPU."""

EUCLIDEAN, COSINE, DOT, RBF = range(4)

_INT = ir.IntType(32)


def scratch(count: int) -> Any:
    """A function that makes an array of a given size, of a dtype or of another array's dtype.

    The array is on the stack: it costs nothing, and is gone once the function that made it returns.
    So it may be passed to other functions, but must not be returned.
    """

    @intrinsic(lambda like: np.empty(count, getattr(like, "dtype", like)))
    def room(typingctx: Any, like: Any) -> Any:
        kind = types.Array(like.dtype, 1, "C")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            index = context.get_value_type(types.intp)
            numbers = ir.ArrayType(context.get_value_type(like.dtype), count)
            place = cgutils.alloca_once(builder, numbers)
            place.align = 64
            array = context.make_array(kind)(context, builder)
            size = index(like.dtype.bitwidth // 8)
            start = builder.bitcast(place, numbers.element.as_pointer())
            context.populate_array(
                array, data=start, shape=[index(count)], strides=[size], itemsize=size, meminfo=None
            )
            return array._getvalue()

        return kind(like), codegen

    return room


@intrinsic(np.rint)
def rint(typingctx: Any, x: Any) -> Any:
    """The nearest whole number; the even one if two are equally near."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return x(x), codegen


@intrinsic(lambda array, at: None)
def fetch(typingctx, array, at):
    """Begin to load the line of the cache that an entry of an array is in, for use soon after."""

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        )
        builder.call(function, [place, _INT(0), _INT(3), _INT(1)])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(array, at), codegen


def _lanewise(subtract: bool) -> Any:
    """A kernel over the LANES columns of a tile and some rows, from their squares or products.

    ``kernel(tile, rows, picked, metric, up, down, out)`` fills ``out[q * LANES + j]`` for row
    ``picked[q]``: squared distances for RBF, and else similarities less the offset, on the grid.
    Each sum is one chain of fused multiply-adds in the order of the dimensions. `rows` are rows of
    features, or tiles of LANES rows.
    """

    def in_python(tile: Any, rows: Any, picked: Any, metric: int, up: Any, down: Any, out: Any):
        columns = tile.reshape(-1, LANES)
        for q, row in enumerate(picked):
            sums = np.zeros(LANES, tile.dtype)
            by_rows = rows.shape[1] == len(columns)
            own = rows[row] if by_rows else rows[row // LANES][row % LANES :: LANES]
            for x, y in zip(columns, own, strict=True):
                t = x - y if subtract else x
                sums = fma(t, t if subtract else y, sums)
            if metric == EUCLIDEAN:
                sums = np.sqrt(sums)
            if metric != RBF:
                rounded = np.rint(sums * (up / 2 if metric == COSINE else up)) * down
                sums = -rounded if subtract else rounded
            out[q * LANES : (q + 1) * LANES] = sums

    @intrinsic(in_python)
    def lanewise(typingctx, tile, rows, picked, metric, up, down, out):
        def codegen(context, builder, signature, args):
            number = context.get_value_type(tile.dtype)
            size = tile.dtype.bitwidth // 8
            lanes = 64 // size
            vector = ir.VectorType(number, lanes)
            index = context.get_value_type(types.intp)
            tiles, table, sums = (
                context.make_array(kind)(context, builder, args[at])
                for at, kind in ((0, tile), (1, rows), (6, out))
            )

            def load(data, offset):
                return builder.load(_place(builder, vector, data, offset), align=size)

            first = context.make_array(tile)(context, builder, args[0])
            (size_of_tile,) = cgutils.unpack_tuple(builder, first.shape)
            d = builder.udiv(size_of_tile, index(LANES))
            width = cgutils.unpack_tuple(builder, table.shape)[1]
            by_rows = builder.icmp_unsigned("==", width, d)
            step = builder.select(by_rows, index(1), index(LANES))
            across = builder.select(by_rows, d, index(1))
            starts = []
            for row in cgutils.unpack_tuple(builder, args[2]):
                above = builder.mul(builder.udiv(row, index(LANES)), size_of_tile)
                within = builder.mul(builder.urem(row, index(LANES)), across)
                starts.append(builder.gep(table.data, [builder.add(above, within)]))
            # Four vectors of a tile for each row at a time: with four rows, 16 registers of sums.
            for left in range(0, LANES, 4 * lanes):
                part = [
                    [cgutils.alloca_once_value(builder, _all(vector, 0.0)) for _ in range(4)]
                    for _ in starts
                ]
                with cgutils.for_range(builder, d) as loop:
                    line = builder.add(builder.mul(loop.index, index(LANES)), index(left))
                    columns = [
                        load(tiles.data, builder.add(line, index(v * lanes))) for v in range(4)
                    ]
                    for start, row in zip(starts, part, strict=True):
                        feature = builder.gep(start, [builder.mul(loop.index, step)])
                        y = _spread(builder, builder.load(feature), lanes)
                        for x, sum_ in zip(columns, row, strict=True):
                            t = builder.fsub(x, y) if subtract else x
                            terms = [t, t if subtract else y, builder.load(sum_)]
                            builder.store(_call(builder, "fma", *terms), sum_)
                places = [sum_ for row in part for sum_ in row]
                scale = [
                    context.cast(builder, value, kind, tile.dtype)
                    for value, kind in zip(args[4:6], (up, down), strict=True)
                ]
                if subtract:
                    _finish_distances(context, builder, args[3], places, *scale)
                else:
                    _round(builder, places, *scale)
                for a, sum_ in enumerate(places):
                    at = index(a // 4 * LANES + left + a % 4 * lanes)
                    builder.store(
                        builder.load(sum_), _place(builder, vector, sums.data, at), align=size
                    )
            return context.get_dummy_value()

        return types.void(tile, rows, picked, metric, up, down, out), codegen

    return lanewise


def _finish_distances(context, builder, metric, places, up, down):
    """From squared distances to minus distances, or for cosine minus their halves, on the grid."""

    def is_(which):
        return builder.icmp_signed("==", metric, metric.type(which))

    with builder.if_then(is_(EUCLIDEAN)):
        _take_roots(context, builder, places)
    with builder.if_then(builder.not_(is_(RBF))):
        half = builder.fmul(up, up.type(0.5))
        _round(builder, places, builder.select(is_(COSINE), half, up), builder.fneg(down))


def _round(builder, places, up, down):
    """Round to the grid."""
    lanes = places[0].type.pointee.count
    up, down = _spread(builder, up, lanes), _spread(builder, down, lanes)
    for place in places:
        whole = _call(builder, "rint", builder.fmul(builder.load(place), up))
        builder.store(builder.fmul(whole, down), place)


def _take_roots(context, builder, places):
    """Square roots of finite numbers.

    With AVX-512 there are inverse ones, right to 14 bits, in a sixth of the time of a square root.
    A step of Newton's method, and a correction by what its square lacks, give the nearest float32
    (Markstein 1990) unless something underflows on the way. Where a number is under 2**-90, they
    are the processor's own roots. This was tested on all float32 numbers (tests/kernels).
    """
    vector = places[0].type.pointee
    squares = [builder.load(place) for place in places]
    if vector.count != 16 or "+avx512f" not in context.codegen().magic_tuple()[2]:
        for x, place in zip(squares, places, strict=True):
            builder.store(_call(builder, "sqrt", x), place)
        return
    half, mask = _all(vector, 0.5), ir.IntType(16)(-1)
    kind = ir.FunctionType(vector, [vector, vector, mask.type])
    rough = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rsqrt14.ps.512")
    least = functools.reduce(
        lambda x, y: builder.select(builder.fcmp_ordered("<", x, y), x, y), squares
    )
    enough = builder.fcmp_ordered(">=", least, _all(vector, 2.0**-90))
    enough = builder.icmp_signed("==", builder.bitcast(enough, mask.type), mask)
    with builder.if_else(enough, likely=True) as (quick, safe):
        with quick:
            for x, place in zip(squares, places, strict=True):
                inverse = builder.call(rough, [x, _all(vector, 0.0), mask])
                root, rate = builder.fmul(x, inverse), builder.fmul(inverse, half)
                off = _call(builder, "fma", builder.fneg(root), rate, half)
                root, rate = (_call(builder, "fma", value, off, value) for value in (root, rate))
                lack = _call(builder, "fma", builder.fneg(root), root, x)
                builder.store(_call(builder, "fma", lack, rate, root), place)
        with safe:
            for x, place in zip(squares, places, strict=True):
                builder.store(_call(builder, "sqrt", x), place)


squares = _lanewise(subtract=True)
products = _lanewise(subtract=False)


def _tile_products(tiles: Any, b: int, v: Any, out: Any) -> None:
    """Products in float64 of a row `v` with the LANES rows of tile `b` (count, d, LANES).

    Each sum is in the order of the dimensions, and each product and sum is rounded.
    """
    sums = np.zeros(LANES)
    for x, y in zip(tiles[b], v, strict=True):
        sums += x.astype(np.float64) * y
    out[:] = sums


@intrinsic(_tile_products)
def tile_products(typingctx, tiles, b, v, out):
    """See `_tile_products`."""

    def codegen(context, builder, signature, args):
        number, double = context.get_value_type(tiles.dtype), ir.DoubleType()
        eight, doubles = ir.VectorType(number, 8), ir.VectorType(double, 8)
        size, index = tiles.dtype.bitwidth // 8, context.get_value_type(types.intp)
        table, row, sums = (
            context.make_array(kind)(context, builder, args[a])
            for a, kind in ((0, tiles), (2, v), (3, out))
        )
        d = cgutils.unpack_tuple(builder, table.shape)[1]
        first = builder.mul(args[1], builder.mul(d, index(LANES)))
        parts = [cgutils.alloca_once_value(builder, _all(doubles, 0.0)) for _ in range(0, LANES, 8)]
        with cgutils.for_range(builder, d) as loop:
            y = _spread(builder, builder.load(builder.gep(row.data, [loop.index])), 8)
            line = builder.add(first, builder.mul(loop.index, index(LANES)))
            for a, part in enumerate(parts):
                there = _place(builder, eight, table.data, builder.add(line, index(8 * a)))
                x = builder.load(there, align=size)
                x = x if number == double else builder.fpext(x, doubles)
                builder.store(builder.fadd(builder.load(part), builder.fmul(x, y)), part)
        for a, part in enumerate(parts):
            builder.store(
                builder.load(part), _place(builder, doubles, sums.data, index(8 * a)), align=8
            )
        return context.get_dummy_value()

    return types.void(tiles, b, v, out), codegen


def _sums_of_lines(both: bool) -> Any:
    """Sums in float64 of four lines of a tile's numbers, each within its limits.

    ``add(quad, low, high, at, total)`` clamps line q to ``low[at + q]..high[at + q]`` and adds it
    to `total`. With `both`, and one limit for all, also to ``own[8 (at + q)..]``: eight sums for
    each line. Sums are of numbers on a grid, and exact in any order.
    """

    def in_python(quad: Any, low: Any, high: Any, at: int, total: Any, own: Any = None) -> None:
        number = quad.dtype.type
        for q in range(4):
            line = quad[q * LANES : (q + 1) * LANES]
            limits = (low, high) if both else (low[at + q], high[at + q])
            line = np.minimum(np.maximum(line, number(limits[0])), number(limits[1]))
            line = line.astype(np.float64)
            total += line
            if both:
                own[8 * (at + q) : 8 * (at + q + 1)] += line.reshape(-1, 8).sum(axis=0)

    def codegen(context, builder, signature, args):
        quad, low, high, _, *rest = signature.args
        number, double = context.get_value_type(quad.dtype), ir.DoubleType()
        size = quad.dtype.bitwidth // 8
        lanes = 64 // size
        vector, eight = ir.VectorType(number, lanes), ir.VectorType(double, 8)
        index = context.get_value_type(types.intp)
        data, *sums = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip((quad, *rest), (args[0], *args[4:]), strict=True)
        )

        def limit(kind, value, q):
            if not both:
                limits = context.make_array(kind)(context, builder, value).data
                value = builder.load(builder.gep(limits, [builder.add(args[3], index(q))]))
                kind = kind.dtype
            return _spread(builder, context.cast(builder, value, kind, quad.dtype), lanes)

        least = [limit(low, args[1], q) for q in range(4)]
        most = [limit(high, args[2], q) for q in range(4)]
        owns = []
        if both:
            first = builder.mul(args[3], index(8))
            owns = [
                _place(builder, eight, sums[1], builder.add(first, index(8 * q))) for q in range(4)
            ]
        own = [builder.load(place, align=8) for place in owns]
        for left in range(0, LANES, lanes):
            parts = [_place(builder, eight, sums[0], index(left + at)) for at in range(0, lanes, 8)]
            totals = [builder.load(part, align=8) for part in parts]
            for q in range(4):
                x = builder.load(_place(builder, vector, data, index(q * LANES + left)), align=size)
                x = builder.select(builder.fcmp_ordered(">", x, least[q]), x, least[q])
                x = builder.select(builder.fcmp_ordered("<", x, most[q]), x, most[q])
                for a in range(len(totals)):
                    term = x
                    if number != double:
                        half = ir.Constant(ir.VectorType(_INT, 8), list(range(8 * a, 8 * a + 8)))
                        term = builder.fpext(builder.shuffle_vector(x, x, half), eight)
                    totals[a] = builder.fadd(totals[a], term)
                    if both:
                        own[q] = builder.fadd(own[q], term)
            for part, sum_ in zip(parts, totals, strict=True):
                builder.store(sum_, part, align=8)
        for place, sum_ in zip(owns, own, strict=True):
            builder.store(sum_, place, align=8)
        return context.get_dummy_value()

    if both:

        @intrinsic(in_python)
        def add_both(typingctx, quad, low, high, at, total, own):
            return types.void(quad, low, high, at, total, own), codegen

        return add_both

    @intrinsic(in_python)
    def add(typingctx, quad, low, high, at, total):
        return types.void(quad, low, high, at, total), codegen

    return add


add_lines = _sums_of_lines(both=False)
add_lines_both_ways = _sums_of_lines(both=True)


ROWS = 12
"""Rows of a matrix that are added up at a time: with both limits of each, as many as fit into the
registers. The processor reads ahead in all of them, and more is in flight than with four or eight.
"""


def _add_rows(
    matrix: Any, points: Any, low: Any, high: Any, at: int, start: int, round_off: float,
    sign: float, sums: Any,
) -> None:  # fmt: skip
    """Add `sign` times what entries exceed `low`, up to `high`, to the sums of some columns.

    Of the rows ``points[at:at + ROWS]``, with ``low[at + q]`` and ``high[at + q]`` for row q, and
    the columns from `start` on. Adding and subtracting `round_off` rounds an entry to the grid.
    """
    for a in range(at, at + ROWS):
        row = matrix[points[a], start : start + sums.size]
        row = np.minimum(np.maximum(row, row.dtype.type(low[a])), row.dtype.type(high[a]))
        sums += sign * ((row.astype(np.float64) + round_off - round_off) - low[a])


@intrinsic(_add_rows)
def add_rows(typingctx, matrix, points, low, high, at, start, round_off, sign, sums):
    """See `_add_rows`."""

    def codegen(context, builder, signature, args):
        number, index = context.get_value_type(matrix.dtype), context.get_value_type(types.intp)
        table, places, lows, highs, out = (
            context.make_array(kind)(context, builder, args[a])
            for a, kind in ((0, matrix), (1, points), (2, low), (3, high), (8, sums))
        )
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        rows, limits, base = [], [], ir.Constant(ir.DoubleType(), 0.0)
        for q in range(ROWS):
            a = builder.add(args[4], index(q))
            row = builder.mul(builder.load(builder.gep(places.data, [a])), width)
            rows.append(builder.gep(table.data, [builder.add(row, args[5])]))
            pair = [builder.load(builder.gep(kind.data, [a])) for kind in (lows, highs)]
            base = builder.fadd(base, pair[0])
            limits.append([context.cast(builder, x, types.float64, matrix.dtype) for x in pair])

        def within(q, x):
            least, most = (_spread(builder, limit, x.type.count) for limit in limits[q])
            x = builder.select(builder.fcmp_ordered(">", x, least), x, least)
            return builder.select(builder.fcmp_ordered("<", x, most), x, most)

        def add(old, total):
            less, times = (_spread(builder, x, old.type.count) for x in (base, args[7]))
            return builder.fadd(old, builder.fmul(times, builder.fsub(total, less)))

        _over_rows(context, builder, number, rows, out, args[6], within, add)
        return context.get_dummy_value()

    return types.void(matrix, points, low, high, at, start, round_off, sign, sums), codegen


def _scan_rows(matrix: Any, first: int, round_off: float, sums: Any, least: Any, most: Any) -> None:
    """Add entries, rounded as by `add_rows`, to the sums of all columns; find least and largest.

    Of the rows ``first:first + ROWS``. `least` and `most` have LANES numbers, and the least and the
    largest of all entries is among them. NaN is in the sums alone.
    """
    rows = matrix[first : first + ROWS]
    for row in rows:
        sums += row.astype(np.float64) + round_off - round_off
    least[0], most[0] = (
        np.fmin(least[0], np.fmin.reduce(rows, axis=None)),
        np.fmax(most[0], np.fmax.reduce(rows, axis=None)),
    )


@intrinsic(_scan_rows)
def scan_rows(typingctx, matrix, first, round_off, sums, least, most):
    """See `_scan_rows`."""

    def codegen(context, builder, signature, args):
        number, index = context.get_value_type(matrix.dtype), context.get_value_type(types.intp)
        table, out, low, high = (
            context.make_array(kind)(context, builder, args[a])
            for a, kind in ((0, matrix), (3, sums), (4, least), (5, most))
        )
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        starts = [builder.mul(builder.add(args[1], index(q)), width) for q in range(ROWS)]

        def compared(q, x):
            for kind, better in ((low, "<"), (high, ">")):
                place = _place(builder, x.type, kind.data, index(0))
                y = builder.load(place, align=8)
                y = builder.select(builder.fcmp_ordered(better, x, y), x, y)
                builder.store(y, place, align=8)
            return x

        rows = [builder.gep(table.data, [start]) for start in starts]
        _over_rows(context, builder, number, rows, out, args[2], compared, builder.fadd)
        return context.get_dummy_value()

    return types.void(matrix, first, round_off, sums, least, most), codegen


def _over_rows(context, builder, number, rows, out, round_off, see, add):
    """A loop over the columns of some rows: each vector of a row is seen, rounded and added up.

    ``see(q, x)`` gives what counts of a vector of row q, and ``add(old, total)`` the new sums.
    """
    index, double = context.get_value_type(types.intp), ir.DoubleType()
    (count,) = cgutils.unpack_tuple(builder, out.shape)
    size = context.get_abi_sizeof(number)

    def columns(first, lanes):
        vector, part = ir.VectorType(number, lanes), ir.VectorType(double, min(lanes, 8))
        off = _spread(builder, round_off, part.count)
        totals = [_all(part, 0.0)] * (lanes // part.count)
        for q, row in enumerate(rows):
            x = see(q, builder.load(_place(builder, vector, row, first), align=size))
            for a, total in enumerate(totals):
                term = x
                if number != double:
                    lane = [a * part.count + b for b in range(part.count)]
                    lane = ir.Constant(ir.VectorType(_INT, part.count), lane)
                    term = builder.fpext(builder.shuffle_vector(x, x, lane), part)
                term = builder.fsub(builder.fadd(term, off), off)
                totals[a] = builder.fadd(total, term)
        for a, total in enumerate(totals):
            place = _place(builder, part, out.data, builder.add(first, index(a * part.count)))
            builder.store(add(builder.load(place, align=8), total), place, align=8)

    lanes = 64 // size
    whole = builder.udiv(count, index(lanes))
    with cgutils.for_range(builder, whole) as loop:
        columns(builder.mul(loop.index, index(lanes)), lanes)
    done = builder.mul(whole, index(lanes))
    with cgutils.for_range(builder, builder.sub(count, done)) as loop:
        columns(builder.add(done, loop.index), 1)


def _write_larger(matrix: Any, i: int, low: Any, columns: Any, data: Any, at: int) -> int:
    """Write the entries of row `i` that exceed `low`, and their columns, from place `at` on.

    Only of the first columns, a multiple of LANES. Returns the next place. With AVX-512, whole
    vectors are written, their larger entries first; what follows is overwritten by the next one.
    """
    row = matrix[i, : matrix.shape[1] // LANES * LANES]
    found = np.flatnonzero(row > low)
    columns[at : at + len(found)], data[at : at + len(found)] = found, row[found]
    return at + len(found)


@intrinsic(_write_larger)
def write_larger(typingctx, matrix, i, low, columns, data, at):
    """See `_write_larger`."""

    def codegen(context, builder, signature, args):
        number = context.get_value_type(matrix.dtype)
        place = context.get_value_type(columns.dtype)
        size = matrix.dtype.bitwidth // 8
        lanes = 64 // size
        vector, mask = ir.VectorType(number, lanes), ir.VectorType(ir.IntType(1), lanes)
        places, index = ir.VectorType(place, lanes), context.get_value_type(types.intp)
        table, into, values = (
            context.make_array(kind)(context, builder, args[a])
            for a, kind in ((0, matrix), (3, columns), (4, data))
        )
        width = cgutils.unpack_tuple(builder, table.shape)[1]
        row = builder.gep(table.data, [builder.mul(args[1], width)])
        least = _spread(builder, args[2], lanes)
        next_ = cgutils.alloca_once_value(builder, args[5])
        offsets = ir.Constant(places, list(range(lanes)))

        bits = ir.IntType(lanes)
        # Compressed to memory, a vector takes AMD's processors more than a hundred cycles.
        in_registers = "+avx512vl" in context.codegen().magic_tuple()[2]

        def store(what, larger, data):
            """Write a vector's larger entries side by side."""
            there = builder.gep(data, [builder.load(next_)])
            name = "llvm.x86.avx512.mask.compress" if in_registers else "llvm.masked.compressstore"
            if what.type == places:
                name += f".v{lanes}i{columns.dtype.bitwidth}"
            else:
                name += f".v{lanes}f{8 * size}"
            ends = (what.type, what.type) if in_registers else (ir.VoidType(), there.type)
            kind = ir.FunctionType(ends[0], [what.type, ends[1], mask])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            if in_registers:
                side_by_side = builder.call(function, [what, what, larger])
                there = builder.bitcast(there, what.type.as_pointer())
                builder.store(side_by_side, there, align=4)
            else:
                builder.call(function, [what, there, larger])

        def write(first, parts):
            for left, x, larger in parts:
                store(x, larger, values.data)
                column = builder.trunc(builder.add(first, index(left)), place)
                store(builder.add(_spread(builder, column, lanes), offsets), larger, into.data)
                count = builder.ctpop(builder.bitcast(larger, bits))
                builder.store(builder.add(builder.load(next_), builder.zext(count, index)), next_)

        with cgutils.for_range(builder, builder.udiv(width, index(LANES))) as loop:
            first = builder.mul(loop.index, index(LANES))
            parts = []
            for left in range(0, LANES, lanes):
                there = _place(builder, vector, row, builder.add(first, index(left)))
                x = builder.load(there, align=size)
                parts.append((left, x, builder.fcmp_ordered(">", x, least)))
            any_ = functools.reduce(builder.or_, [larger for _, _, larger in parts])
            any_ = builder.icmp_unsigned("!=", builder.bitcast(any_, bits), bits(0))
            # Half of such branches would be mispredicted, so what is cheap is always written.
            with contextlib.nullcontext() if in_registers else builder.if_then(any_, likely=False):
                write(first, parts)
        return builder.load(next_)

    return types.intp(matrix, i, low, columns, data, at), codegen


one_line = scratch(LANES)
four_lines = scratch(4 * LANES)
eight_lines = scratch(8 * LANES)
one_tile = scratch(LANES * LANES)


# --- Words of LLVM's language -----------------------------------------------------------------


def _call(builder, name, *values):
    """LLVM's own function of vectors."""
    kind = values[0].type
    name = f"llvm.{name}.v{kind.count}f{512 // kind.count}"
    function = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)


def _all(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _spread(builder, value, lanes):
    """A number in all lanes of a vector."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _INT(0))
    return builder.shuffle_vector(first, undefined, _all(ir.VectorType(_INT, lanes), 0))


def _place(builder, vector, data, offset):
    """Where a vector is in an array."""
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())
