"""Random inputs in random disguises, for the fuzzers of selections and of objectives."""

import math
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp

IN_FLOAT32 = ["f4", ">f4", "f2", ">f2", "i1", "u1", "i2", ">i2", "u2", "?"]
IN_FLOAT64 = ["f8", ">f8", "i4", "u4", "i8", ">i8", "u8", "g"]
FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


def shape(random, *, square=False):
    """Rows and columns: mostly few, now and then so many that kernels use all threads."""
    most = random.choice([4, 40, 150, 500, 2200], p=[0.2, 0.45, 0.25, 0.09, 0.01])
    rows = int(random.integers(most * 9 // 10 if most > 2000 else 1, most + 1))
    columns = rows if square or most > 2000 else int(random.integers(1, most + 1))
    return rows, columns


def budget(random, n, rows):
    """Often few, at times all; few where the specification would take long."""
    most = min(n, max(1, 3 * 10**7 // (n * rows)))
    return int(random.choice([1, most, random.integers(1, most + 1)]))


def numbers(random, size):
    """Numbers of at least 0, and whether they are small whole numbers, whose sums are exact."""
    kinds = ["levels", "uniform", "heavy", "tiny", "wild", "few"]
    kind = random.choice(kinds, p=[0.4, 0.2, 0.15, 0.1, 0.05, 0.1])
    if kind == "levels":
        return random.integers(0, random.choice([2, 3, 9, 120]), size).astype(float), True
    if kind == "uniform":
        return random.random(size), False
    if kind == "heavy":
        return abs(random.standard_cauchy(size)), False
    if kind == "tiny":
        return 10.0 ** random.uniform(-14, 0, size), False
    if kind == "wild":
        return 10.0 ** random.uniform(-300, 0, size), False
    return random.random(size) * (random.random(size) < 0.1), False


def repeated(random, array, axis):
    """The same with some rows or columns in the place of others."""
    n = array.shape[axis]
    if random.random() < 0.7:
        return array
    source = random.integers(0, max(1, n // random.choice([1, 4, n])), n)
    return np.take(array, source, axis)


def typed(random, values, exact, *, low=-300, high=300):
    """Values in a random number type, scaled to a random magnitude; the same numbers in float64.

    The power of ten is within `low` and `high`, and what the type holds. Now and then whole numbers
    from all that their type holds take the place of the values. Last, whether sums are exact.
    """
    whole = exact and random.random() < 0.5
    choices = IN_FLOAT32 + IN_FLOAT64 if whole else ["f4", ">f4", "f2", "f8", "f8", ">f8", "g"]
    dtype = np.dtype(random.choice(choices))
    if dtype.kind in "iu" and random.random() < 0.2:
        limits = np.iinfo(dtype)
        least = limits.min if values.min() < 0 else 0
        native = dtype.newbyteorder("=")
        values = random.integers(least, limits.max, values.shape, native, endpoint=True)
        exact = False
    elif dtype.kind == "b":
        values = values != 0
    elif dtype.kind == "u":
        values = abs(values)
    elif dtype.kind == "f":
        largest = float(abs(values).max()) or 1.0
        bounds = {"e": (-2, 2), "f": (-42, 36)}.get(dtype.char, (-300, 300))
        tens = random.choice([0, random.integers(max(low, bounds[0]), min(high, bounds[1]) + 1)])
        twos = int(tens / math.log10(2)) - math.frexp(largest)[1] * (not exact)
        values = np.ldexp(values, twos)
    array = values.astype(dtype)
    return array, array.astype(np.float64), exact


def clean(array):
    """The plain copy that everything is compared with: C order, native float32 or float64."""
    float32 = array.dtype.char in "?bBhHef"
    return np.ascontiguousarray(array.astype(np.float32 if float32 else np.float64))


def disguised(random, array, folder):
    """The same numbers in another container, order or place, and what it is, in words."""
    kind = random.choice(
        ["C", "F", "strided", "reversed", "read-only", "unaligned", "mapped", "list", "object"]
    )
    if kind == "F":
        array = np.asfortranarray(array)
    elif kind == "strided":
        array = np.repeat(array, 2, axis=0)[1::2]
        if array.ndim == 2:
            array = np.repeat(array, 3, axis=1)[:, 2::3]
    elif kind == "reversed":
        array = np.flip(np.ascontiguousarray(np.flip(array)))
    elif kind == "read-only":
        array = array.copy()
        array.flags.writeable = False
    elif kind == "unaligned":
        raw = np.empty(array.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
        array = raw[1:].view(array.dtype).reshape(array.shape)
    elif kind == "mapped":
        file = Path(folder) / "array.npy"
        np.save(file, array)
        array = np.load(file, mmap_mode="r")
    elif kind == "list" and array.dtype.char in "dlLqQ" and array.size < 10**5:
        return array.tolist()
    elif kind == "object" and array.dtype.char == "d" and array.size < 10**5:
        return array.astype(object)
    return array


def in_format(array, fmt, kind="array"):
    """The same as a sparse matrix of scipy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)  # many diagonals
        return getattr(sp, f"{fmt}_{kind}")(array)
