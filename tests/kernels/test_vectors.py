"""What is written in LLVM's language, beside NumPy, to the last bit."""

import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from subsel.kernels import cpu
from subsel.kernels.compiling import fma
from subsel.kernels.cpu import vectors
from subsel.kernels.cpu.lanes import rounding
from subsel.kernels.cpu.vectors import COSINE, DOT, EUCLIDEAN, LANES, RBF
from subsel.sources.scale import grid


@intrinsic
def roots_in_place(typingctx, numbers):
    """Square roots of float32, as kernels have them, of a multiple of 16."""

    def codegen(context, builder, signature, args):
        array = context.make_array(numbers)(context, builder, args[0])
        vector, index = ir.VectorType(ir.FloatType(), 16), context.get_value_type(types.intp)
        count = builder.udiv(cgutils.unpack_tuple(builder, array.shape)[0], index(16))
        with cgutils.for_range(builder, count) as loop:
            start = builder.gep(array.data, [builder.mul(loop.index, index(16))])
            there = builder.bitcast(start, vector.as_pointer())
            place = cgutils.alloca_once(builder, vector)
            builder.store(builder.load(there, align=4), place)
            vectors._take_roots(context, builder, [place])
            builder.store(builder.load(place), there, align=4)
        return context.get_dummy_value()

    return types.void(numbers), codegen


@njit
def all_roots(numbers):
    roots_in_place(numbers)


def bits(first, count):
    return (first + np.arange(count, dtype=np.uint32)).view(np.float32)


@pytest.mark.parametrize(
    "numbers",
    [
        bits(127 << 23, 2**24),  # 1 to 4: all there are, but for their size
        bits(0, 2**20),  # zero and subnormal
        bits(36 << 23, 2**20) - np.float32(2.0**-91),  # about where products may underflow
        bits(254 << 23, 2**23),  # the largest
        np.tile(np.float32([0, 1e-38, 1e-30, 2, 3, 5, 1e38, 7]), 16),  # side by side
    ],
    ids=["1 to 4", "subnormal", "small", "large", "mixed"],
)
def test_roots_are_the_nearest_floats(numbers):
    found = numbers.copy()
    all_roots(found)
    np.testing.assert_array_equal(found, np.sqrt(numbers))


@njit
def run_squares(tile, rows, picked, metric, up, down, out):
    vectors.squares(tile, rows, picked, metric, up, down, out)


@njit
def run_products(tile, rows, picked, metric, up, down, out):
    vectors.products(tile, rows, picked, metric, up, down, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("picked", [(2,), (0, 3, 3, 1)], ids=["a row", "four rows"])
@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE, DOT, RBF])
@pytest.mark.parametrize("d", [1, 10])
def test_similarities_to_a_tile(dtype, picked, metric, d):
    rng = np.random.default_rng(d)
    columns, rows = rng.normal(size=(d, LANES)).astype(dtype), rng.normal(size=(4, d)).astype(dtype)
    rows[3] = columns[:, 5]  # one is at no distance
    up, down = dtype(2.0**20), dtype(2.0**-20)
    out = np.empty(len(picked) * LANES, dtype)
    run = run_products if metric == DOT else run_squares
    run(columns.ravel(), rows, picked, metric, up, down, out)
    for q, row in enumerate(picked):
        sums = np.zeros(LANES, dtype)
        for x, y in zip(columns, rows[row], strict=True):
            sums = fma(x, y, sums) if metric == DOT else fma(x - y, x - y, sums)
        if metric == EUCLIDEAN:
            sums = -np.rint(np.sqrt(sums) * up) * down
        elif metric == COSINE:
            sums = -np.rint(sums * (up / 2)) * down
        elif metric == DOT:
            sums = np.rint(sums * up) * down
        np.testing.assert_array_equal(out[q * LANES : (q + 1) * LANES], sums)


@njit
def run_add_lines(quad, low, high, at, total):
    vectors.add_lines(quad, low, high, at, total)


@njit
def run_both_ways(quad, low, high, at, total, own):
    vectors.add_lines_both_ways(quad, low, high, at, total, own)


def four_lines(dtype):
    whole = np.random.default_rng(0).integers(-1000, 1000, size=4 * LANES)
    return (whole / 256).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lines_are_added_within_their_limits(dtype):
    quad = four_lines(dtype)
    low, high = np.linspace(-2, -1, 9), np.linspace(0.5, 1.5, 9)
    total = np.arange(LANES, dtype=np.float64)
    run_add_lines(quad, low, high, 3, total)
    lines = quad.reshape(4, LANES)
    limits = low[3:7, None].astype(dtype), high[3:7, None].astype(dtype)
    expected = np.arange(LANES) + np.clip(lines, *limits).astype(np.float64).sum(axis=0)
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lines_are_added_both_ways(dtype):
    quad = four_lines(dtype)
    total, own = np.zeros(LANES), np.zeros(8 * LANES)
    run_both_ways(quad, -1.5, np.inf, 4, total, own)
    lines = np.maximum(quad.reshape(4, LANES), -1.5).astype(np.float64)
    np.testing.assert_array_equal(total, lines.sum(axis=0))
    sums = own.reshape(LANES, 8).sum(axis=1)
    np.testing.assert_array_equal(sums[4:8], lines.sum(axis=1))
    assert not sums[:4].any()
    assert not sums[8:].any()


@njit
def run_tile_products(tiles, b, v, out):
    vectors.tile_products(tiles, b, v, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 10])
def test_products_with_a_tile_are_summed_in_the_order_of_the_dimensions(dtype, d):
    rng = np.random.default_rng(d)
    tiles, v, out = (
        rng.normal(size=(3, d, LANES)).astype(dtype),
        rng.normal(size=d),
        np.empty(LANES),
    )
    run_tile_products(tiles, 1, v, out)
    expected = np.zeros(LANES)
    for x, y in zip(tiles[1].astype(np.float64), v, strict=True):
        expected += x * y
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, LANES, 3 * LANES + 5])
def test_larger_entries_are_written_side_by_side(dtype, n):
    matrix = np.random.default_rng(n).normal(size=(5, n)).astype(dtype)
    best = np.array([-9.0, 9.0, 0.5, 1.5, matrix[4].max()])
    counts = np.zeros(5, np.int64)
    columns, data = np.full(matrix.size, -1, np.int32), np.zeros(matrix.size, dtype)
    count = cpu.write_above(matrix, best, 0, 5, counts, columns, data)
    rows, places = np.nonzero(matrix > best[:, None])
    np.testing.assert_array_equal(counts, np.bincount(rows, minlength=5))
    np.testing.assert_array_equal(columns[:count], places)
    np.testing.assert_array_equal(data[:count], matrix[rows, places])


@njit
def run_add_rows(matrix, points, low, high, start, round_off, sign, sums):
    vectors.add_rows(matrix, points, low, high, 0, start, round_off, sign, sums)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "start"), [(1, 0), (40, 3), (100, 0), (4 * LANES, LANES)])
def test_rows_are_added_up_within_limits(dtype, n, start):
    random = np.random.default_rng(n)
    up, down = grid(30, 1.0)
    matrix = random.random((30, n)).astype(dtype)
    points = random.integers(30, size=cpu.ROWS)
    low = np.rint(random.random(cpu.ROWS) * 2**9) / 2**10
    high = np.where(random.random(cpu.ROWS) < 0.5, low + 2**-3, np.inf)
    first = np.rint(random.random(n - start) * up) * down
    for sign in (-1.0, 1.0):
        sums, twins = first.copy(), first.copy()
        arguments = matrix, points, low, high, start, rounding(down), sign
        run_add_rows(*arguments, sums)
        vectors._add_rows(*arguments[:4], 0, *arguments[4:], twins)
        entries = np.clip(matrix[points, start:].astype(float), low[:, None], high[:, None])
        entries = np.rint(entries * up) * down - low[:, None]
        np.testing.assert_array_equal(sums, first + sign * entries.sum(axis=0))
        np.testing.assert_array_equal(twins, sums)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 40, 3 * LANES + 5])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -1.0])
def test_a_scan_finds_sums_and_what_is_no_similarity(dtype, n, bad):
    up, down = grid(40, 1.0)
    matrix = np.random.default_rng(n).random((40, n)).astype(dtype)
    for i in (5, 38):  # among rows that are taken together, and after the last of those
        spoilt, sums = matrix.copy(), np.zeros(n)
        if bad is not None:
            spoilt[i, n // 2] = bad
        least, most = cpu.scan(spoilt, 3, 40, down, sums)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(
                sums, (np.rint(spoilt[3:].astype(float) * up) * down).sum(axis=0)
            )
        assert (least, most) == (np.nanmin(spoilt[3:]), np.nanmax(spoilt[3:]))
        low, high, twins = (
            np.full(LANES, np.inf, dtype),
            np.full(LANES, -np.inf, dtype),
            np.zeros(n),
        )
        vectors._scan_rows(spoilt, 3, rounding(down), twins, low, high)
        expected = spoilt[3 : 3 + cpu.ROWS].astype(float)
        np.testing.assert_array_equal(twins, (np.rint(expected * up) * down).sum(axis=0))
        assert (low.min(), high.max()) == (np.nanmin(expected), np.nanmax(expected))
