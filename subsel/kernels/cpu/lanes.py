"""Similarities of some rows to the rows of a tile, and the rounding that makes their sums exact.

Similarities are computed with explicit fused multiply-adds in a fixed order, so that they have the
same bits wherever they are computed. Then they are rounded to a common grid (`quantize`) so fine
that a float64 holds every sum of them without rounding.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from subsel.kernels.compiling import fma, inlined, inner, intrinsic

LANES = 64
"""Rows in a tile: a few vector registers wide on every current CPU."""

EUCLIDEAN, COSINE, DOT, RBF = range(4)


@intrinsic(np.rint)
def rint(typingctx, x):
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

    def in_python(tile, rows, picked, out):
        columns = tile.reshape(-1, LANES)
        for q, row in enumerate(picked):
            sums = np.zeros(LANES, tile.dtype)
            for x, y in zip(columns, rows[row], strict=True):
                t = x - y if subtract else x
                sums = fma(t, t if subtract else y, sums)
            out[q * LANES : (q + 1) * LANES] = sums

    @intrinsic(in_python)
    def lanewise(typingctx, tile, rows, picked, out):
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

    return lanewise


_squared_distances = _lanewise(subtract=True)
_products = _lanewise(subtract=False)


@inlined
def quantize(s, up, down):
    """Round to the grid: `up` is a power of two, `down` its inverse."""
    return rint(s * up) * down


@inlined
def clamp(s, low, high):
    """`s` within low..high, by comparisons that compile to vector instructions."""
    s = s if s > low else low
    return s if s < high else high


@inlined
def _to_similarities(metric, gamma, up, down, out):
    """From squared distances (or products) to similarities less the offset, on the grid.

    They are -||x - y||, cos - 1, <x, y>, and exp(-gamma ||x - y||^2) - 1.
    """
    if metric == EUCLIDEAN:
        for j in range(out.size):
            out[j] = -quantize(np.sqrt(out[j]), up, down)
    elif metric == COSINE:
        up_half = np.float32(0.5) * up
        for j in range(out.size):
            out[j] = -quantize(out[j], up_half, down)
    elif metric == DOT:
        for j in range(out.size):
            out[j] = quantize(out[j], up, down)
    else:
        for j in range(out.size):
            out[j] = -quantize(-math.expm1(-gamma * out[j]), up, down)


@inlined
def similarities(tile, rows, picked, metric, gamma, up, down, out):
    """Similarities less the offset of some rows to the LANES columns of a tile, row after row."""
    if metric == DOT:
        _products(tile, rows, picked, out)
    else:
        _squared_distances(tile, rows, picked, out)
    _to_similarities(metric, gamma, up, down, out)


@inlined
def squared_reach(s, metric, gamma):
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


@inner
def room(size, like):
    """An array for `size` numbers of the type of those in another.

    Numba compiles ``np.empty`` anew for each literal size; this once for each type.
    """
    return np.empty(size, like.dtype)


@inner
def squared_gaps(least, largest, lows, highs, shrink, out):
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
