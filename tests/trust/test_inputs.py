"""Every array argument of every public function, in every form: a clean copy's answer, or an error.

An error is a ValueError or a TypeError that names the argument. Nothing else is allowed: no other
answer, no other exception, no warning.
"""

import array
import decimal
import fractions
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import scipy.sparse as sp

import subsel

ROWS = np.random.default_rng(0).integers(-6, 7, (24, 3)).astype(np.float32)
"""Whole numbers, so that every number type holds them; some rows are alike."""

SIMILARITY = np.abs(ROWS @ ROWS.T)[:, :20]
NAMES = [["b", "a", "cc"][i % 3] for i in range(len(ROWS))]
CLASSES = np.array([3, 1, 2])[np.arange(len(ROWS)) % 3]
SOME = np.array([7, 0, 19, 4])


def answer(selection):
    """Everything that a selection says, but for how it was made."""
    parts = [selection.indices, selection.gains, [selection.value]]
    if selection.sizes is not None:
        parts += [selection.assignment, selection.sizes]
    return parts


def searched(f):
    return answer(subsel.greedy(f, 6))


def facility(columns=None):
    f = subsel.FacilityLocation(SIMILARITY)
    f.add(5)
    return f


FEATURES = {
    "select": ("X", lambda X: answer(subsel.select(X, 6))),
    "select labels": ("X", lambda X: answer(subsel.select(X, 6, labels=CLASSES))),
    "select dot": ("X", lambda X: answer(subsel.select(X, 0.2, metric="dot", method="greedy"))),
    "select beside": (
        "given_features",
        lambda X: answer(subsel.select(ROWS[:9] + 0.25, 6, given_features=X)),
    ),
    "assign": ("X_new", lambda X: subsel.assign(X, ROWS[:5] + 0.25)),
    "stream": ("chunk", lambda X: answer(subsel.StreamSelector(3).partial_fit(X).result())),
    "stream for points": (
        "points",
        lambda X: answer(subsel.StreamSelector(3, X).partial_fit(ROWS).result()),
    ),
    "assign to": ("representatives", lambda X: subsel.assign(ROWS + 0.25, X)),
    "from_features": ("X", lambda X: searched(subsel.FacilityLocation.from_features(X, "rbf"))),
    "greedi": ("X", lambda X: answer(subsel.greedi(X, 2, partitions=2, random_state=0))),
    "GraphCut": ("X", lambda X: searched(subsel.GraphCut.from_features(X))),
    "DisparityMin": ("X", lambda X: searched(subsel.DisparityMin.from_features(X))),
    "LogDeterminant": ("X", lambda X: searched(subsel.LogDeterminant.from_features(X))),
}
WRONG_FEATURES = {
    "select": ("X", lambda X: subsel.select(X, 1)),
    "assign": ("X_new", lambda X: subsel.assign(X, ROWS)),
    "stream": ("chunk", lambda X: subsel.StreamSelector(3).partial_fit(X)),
    "assign to": ("representatives", lambda X: subsel.assign(ROWS, X)),
    "from_features": ("X", subsel.FacilityLocation.from_features),
    "greedi": ("X", lambda X: subsel.greedi(X, 1)),
    "GraphCut": ("X", subsel.GraphCut.from_features),
    "DisparityMin": ("X", subsel.DisparityMin.from_features),
    "LogDeterminant": ("X", subsel.LogDeterminant.from_features),
}
MATRICES = {
    "FacilityLocation": ("similarity", lambda S: searched(subsel.FacilityLocation(S))),
    "GraphCut": (
        "similarity",
        lambda S: searched(subsel.GraphCut(S, redundancy=np.eye(SIMILARITY.shape[1]))),
    ),
    "greedy": ("similarity", searched),
    "lazy_greedy": ("similarity", lambda S: answer(subsel.lazy_greedy(S, 6))),
    "stochastic_greedy": (
        "similarity",
        lambda S: answer(subsel.stochastic_greedy(S, 6, random_state=0)),
    ),
}
WRONG_MATRICES = {
    "FacilityLocation": ("similarity", subsel.FacilityLocation),
    "greedy": ("similarity", lambda S: subsel.greedy(S, 1)),
    "GraphCut": ("similarity", lambda S: subsel.GraphCut(S, redundancy=np.eye(20))),
    "lazy_greedy": ("similarity", lambda S: subsel.lazy_greedy(S, 1)),
    "stochastic_greedy": ("similarity", lambda S: subsel.stochastic_greedy(S, 1)),
}
INDICES = {
    "gains": ("candidates", lambda i: [facility().gains(i)]),
    "restrict": ("candidates", lambda i: answer(subsel.greedy(facility().restrict(i), 3))),
    "value": ("indices", lambda i: [[facility().value(i)]]),
    "assign": ("indices", lambda i: facility().assign(i)),
    "given": ("given", lambda i: answer(subsel.greedy(SIMILARITY, 3, given=i))),
    "exclude": ("exclude", lambda i: answer(subsel.lazy_greedy(SIMILARITY, 3, exclude=i))),
}
LABELS = {
    "select": ("labels", lambda labels: answer(subsel.select(ROWS, 6, labels=labels))),
    "greedi": (
        "labels",
        lambda labels: answer(subsel.greedi(ROWS, 3, labels=labels, random_state=0)),
    ),
}


def assert_same(call, given, clean):
    for ours, wanted in zip(call(given), call(clean), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def mapped(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows)
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


def read_only(rows):
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


def unaligned(rows):
    raw = np.empty(rows.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(rows.tobytes(), np.uint8)
    return raw[1:].view(rows.dtype).reshape(rows.shape)


class Matrix(np.ndarray):
    """As numpy.matrix, whose rows are never without a second axis."""

    def __getitem__(self, at):
        return np.atleast_2d(super().__getitem__(at))


class OnlyArray:
    """Says by ``__array__`` alone what it holds, as tables and images of many libraries do."""

    def __init__(self, rows):
        self.rows = rows

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.rows, dtype)


class OnlyDLPack:
    """Says by DLPack alone what it holds, as arrays of the Array API standard may."""

    def __init__(self, rows):
        self.rows = rows.copy()

    def __dlpack__(self, **options):
        return self.rows.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.rows.__dlpack_device__()


def library(name):
    return pytest.importorskip(name)


def newer_numpy(dtype):
    if not hasattr(np.dtypes, dtype):
        pytest.skip(f"NumPy has no {dtype} yet")
    return getattr(np.dtypes, dtype)


def tensor(rows):
    return library("torch").tensor(rows)


def negated(rows):
    """A tensor that torch has yet to negate: it holds the numbers with the other sign."""
    torch = library("torch")
    return torch.complex(torch.zeros(rows.shape), -torch.tensor(rows)).conj().imag


def objects(rows):
    """Numbers of many types in an array of Python objects."""
    kinds = [float, int, np.float32, np.int64, decimal.Decimal, fractions.Fraction]
    numbers = [kinds[i % len(kinds)](int(x)) for i, x in enumerate(rows.flat)]
    out = np.empty(len(numbers), object)
    out[:] = numbers
    return out.reshape(rows.shape)


AS_FLOAT32 = {
    "read-only": read_only,
    "F order": np.asfortranarray,
    "columns of a wider array": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "reversed": lambda rows: np.ascontiguousarray(rows[::-1, ::-1])[::-1, ::-1],
    "big-endian": lambda rows: rows.astype(">f4"),
    "little-endian": lambda rows: rows.astype("<f4"),
    "unaligned": unaligned,
    "float16": lambda rows: rows.astype(np.float16),
    "big-endian float16": lambda rows: rows.astype(">f2"),
    "int16": lambda rows: rows.astype(np.int16),
    "__array__": OnlyArray,
    "DLPack": OnlyDLPack,
    "list of arrays": list,
    "tensor": tensor,
    "tensor, transposed": lambda rows: tensor(rows.T.copy()).T,
    "tensor that requires grad": lambda rows: tensor(rows).requires_grad_(),
    "list of tensors that require grad": lambda rows: [*tensor(rows).requires_grad_()],
    "list of lists of tensors": lambda rows: [[*row] for row in tensor(rows).requires_grad_()],
    "parameter": lambda rows: library("torch").nn.Parameter(tensor(rows)),
    "tensor with the negative bit": negated,
    "bfloat16": lambda rows: tensor(rows).bfloat16(),
    "float8": lambda rows: tensor(rows).to(library("torch").float8_e4m3fn),
    "uint16 tensor": lambda rows: tensor(rows.astype(np.int16)),
    "DataFrame": lambda rows: library("pandas").DataFrame(rows),
    "DataFrame of polars": lambda rows: library("polars").DataFrame(rows),
    "ml_dtypes": lambda rows: rows.astype(library("ml_dtypes").bfloat16),
}
AS_FLOAT64 = {
    "list": np.ndarray.tolist,
    "tuple of tuples": lambda rows: tuple(map(tuple, rows.tolist())),
    "list of buffers": lambda rows: [array.array("d", row) for row in rows.tolist()],
    "buffer": lambda rows: memoryview(rows.astype(np.float64)),
    "big-endian float64": lambda rows: rows.astype(">f8"),
    "longdouble": lambda rows: rows.astype(np.longdouble),
    "int64": lambda rows: rows.astype(np.int64),
    "matrix": lambda rows: rows.astype(np.float64).view(Matrix),
    "objects": objects,
    "list of objects": lambda rows: objects(rows).tolist(),
    "float64 tensor": lambda rows: tensor(rows).double(),
    "DataFrame of objects": lambda rows: library("pandas").DataFrame(objects(rows)),
    "DataFrame, nullable integers": lambda rows: library("pandas").DataFrame(
        rows.astype(int), dtype="Int64"
    ),
    "DataFrame, nullable floats": lambda rows: library("pandas").DataFrame(
        rows.astype(float), dtype="Float64"
    ),
    "DataFrame of pyarrow": lambda rows: library("pandas").DataFrame(
        rows.astype(float), dtype=library("pyarrow") and "float64[pyarrow]"
    ),
    "Table of pyarrow": lambda rows: library("pyarrow").table(
        {str(i): column for i, column in enumerate(rows.astype(float).T)}
    ),
    "polars, whole numbers": lambda rows: library("polars").DataFrame(rows.astype(int)),
    "strict Array API": lambda rows: library("array_api_strict").asarray(rows.astype(float)),
    "dask": lambda rows: library("dask.array").from_array(rows.astype(float), chunks=6),
}


def cases(*groups):
    return [
        pytest.param(name, call, form, number, id=f"{where}-{title}")
        for calls, clean in groups
        for where, (name, call) in calls.items()
        for number, forms in ((np.float32, AS_FLOAT32), (np.float64, AS_FLOAT64))
        for title, form in forms.items()
    ]


@pytest.mark.parametrize(("name", "call", "form", "number"), cases((FEATURES, ROWS)))
def test_features_in_every_form(name, call, form, number):
    assert_same(call, form(ROWS), ROWS.astype(number))


@pytest.mark.parametrize(("name", "call", "form", "number"), cases((MATRICES, SIMILARITY)))
def test_matrices_in_every_form(name, call, form, number):
    rows = np.minimum(SIMILARITY, 16)  # whole numbers that floats of 8 bits hold
    assert_same(call, form(rows), rows.astype(number))


@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in FEATURES.items()])
def test_features_in_a_file(call, tmp_path):
    assert_same(call, mapped(tmp_path, ROWS), ROWS)
    assert_same(call, mapped(tmp_path, ROWS.astype(">f4")), ROWS)


@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in MATRICES.items()])
def test_a_matrix_in_a_file(call, tmp_path):
    assert_same(call, mapped(tmp_path, SIMILARITY), SIMILARITY)


@pytest.mark.parametrize("fmt", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in MATRICES.items()])
def test_sparse_matrices_of_every_format(call, fmt, kind):
    make = getattr(sp, f"{fmt}_{kind}")
    for number in (np.float32, np.float64, np.int8, np.uint16, np.int64, bool, np.longdouble):
        rows = np.minimum(SIMILARITY, 100).astype(number)
        assert_same(call, make(rows), np.asarray(rows, np.float64))


@pytest.mark.parametrize("index", ["i4", "i8", ">i4", ">i8"])
@pytest.mark.parametrize("number", [">f4", ">f8"])
def test_sparse_matrices_in_any_byte_order(index, number):
    S = sp.csr_array(SIMILARITY.astype(float))
    S.indices, S.indptr, S.data = S.indices.astype(index), S.indptr.astype(index), S.data
    S.data = S.data.astype(number)
    assert_same(searched, S, SIMILARITY.astype(float))


@pytest.mark.parametrize("fmt", ["csr", "csc", "coo", "bsr"])
def test_sparse_duplicates_are_summed_beyond_their_number_type(fmt):
    S = getattr(sp, f"{fmt}_array")(sp.csr_array(np.full((3, 4), 100, np.int8)))
    double = sp.coo_array(S)
    double = sp.coo_array(
        (np.tile(double.data, 2), tuple(np.tile(at, 2) for at in double.coords)), shape=(3, 4)
    )
    assert subsel.greedy(double, 1).value == 600


def test_a_matrix_that_remembers_an_order_that_it_has_lost():
    S = sp.csr_array(np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]))
    assert S.has_canonical_format  # scipy remembers that
    S.indices[:] = [1, 1, 2, 1]
    before = S.copy()
    assert_same(lambda S: answer(subsel.greedy(S, 3)), S, np.array([[0, 3.0, 0], [0, 4.0, 3.0]]))
    np.testing.assert_array_equal(S.indices, before.indices)
    np.testing.assert_array_equal(S.data, before.data)


def test_entries_of_a_sparse_matrix_behind_its_end_do_not_count():
    S = sp.csr_array(np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]))
    wanted = answer(subsel.greedy(S, 3))
    S.data = np.append(S.data, [np.nan, 1e300])
    S.indices = np.append(S.indices, [99, -5]).astype(np.int32)
    for ours, right in zip(answer(subsel.greedy(S, 3)), wanted, strict=True):
        np.testing.assert_array_equal(ours, right)


def broken(fmt, part, change):
    """A sparse matrix one of whose arrays was changed after it was made."""
    random = np.random.default_rng(0)
    dense = random.random((6, 8)) * (random.random((6, 8)) < 0.6)
    S = getattr(sp, f"{fmt}_array")(dense)
    changed = np.array(getattr(S, part), copy=True)
    setattr(S, part, change(changed))
    return S


def entry(at, value):
    def change(values):
        values[at] = value
        return values

    return change


MALFORMED = [
    *(
        (fmt, part, change)
        for fmt in ("csr", "csc", "bsr")
        for part, change in [
            ("indices", entry(3, 10**6)),
            ("indices", entry(3, -1)),
            ("indices", entry(0, 8)),
            ("indices", lambda values: entry(1, 2**40)(values.astype(np.int64))),
            ("indices", lambda values: values[:-2]),
            ("indices", lambda values: values.astype(float)),
            ("indptr", entry(-1, 10**6)),
            ("indptr", entry(0, 1)),
            ("indptr", entry(2, 0)),
            ("indptr", entry(1, -4)),
            ("indptr", entry(1, 10**6)),
            ("indptr", lambda values: values[:-1]),
            ("indptr", lambda values: np.append(values, values[-1])),
            ("indptr", lambda values: values.astype(np.int64) + 2**40),
            ("data", lambda values: values[:-2]),
        ]
    ),
    ("coo", "row", entry(0, 6)),
    ("coo", "row", entry(0, -1)),
    ("coo", "col", entry(0, 10**6)),
    ("coo", "data", lambda values: values[:-1]),
    ("dia", "offsets", lambda values: np.append(values, 3)),
    ("dia", "data", lambda values: values[:-1]),
    ("lil", "data", entry(0, [])),
    ("lil", "rows", entry(0, [0, 10**6])),
]

RUN_MALFORMED = """
import sys
import pytest
import subsel
from tests.trust.test_inputs import MALFORMED, broken

for fmt, part, change in MALFORMED:
    try:
        subsel.greedy(broken(fmt, part, change), 2)
    except ValueError as error:
        assert "similarity" in str(error), error
        assert fmt in str(error), error
    else:
        raise AssertionError((fmt, part))
print(len(MALFORMED))
"""


def test_malformed_sparse_matrices():
    """Each made the kernels read foreign memory, or crash; so in a process of its own."""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    import os

    done = subprocess.run(
        [sys.executable, "-c", RUN_MALFORMED],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.stdout == f"{len(MALFORMED)}\n", done.stderr


def test_sparse_matrices_of_objects_are_refused():
    S = sp.csr_array(np.eye(3))
    S.data = S.data.astype(object)
    with pytest.raises(TypeError, match="similarity must be numeric"):
        subsel.greedy(S, 1)


WRONG_NUMBERS = {
    "None": (None, "{}"),
    "a dict": ({0: [1.0, 2.0]}, "dict"),
    "a set": ({1.0, 2.0}, "set"),
    "a word": ("abc", "{}"),
    "a generator": ((x for x in "abc"), "{}"),
    "a number": (3.0, "2-D"),
    "one axis": (np.ones(3), "2-D"),
    "three axes": (np.ones((2, 2, 2)), "2-D"),
    "lists four deep": ([[[[1.0]]]], "{}"),
    "no rows": (np.ones((0, 3)), "empty"),
    "no columns": (np.ones((3, 0)), "empty"),
    "an empty list": ([], "2-D"),
    "ragged": ([[1.0, 2.0], [3.0]], "rectangular"),
    "complex": (np.ones((9, 2), complex), "complex"),
    "complex objects": (np.array([[1j]], object), r"\[0, 0\] is 1j"),
    "words": ([["1", "2"]], "numeric"),
    "words as objects": (np.array([[1.0, "2"]], object), r"\[0, 1\] is '2'"),
    "missing": ([[1.0, None]], r"\[0, 1\] is None.*missing"),
    "durations": (np.ones((9, 2), "m8[s]"), "numeric"),
    "durations as objects": (np.array([[np.timedelta64(1)]], object), r"\[0, 0\] is"),
    "dates": (np.ones((9, 2), "M8[s]"), "numeric"),
    "records": (np.ones((9, 2), "f4,f4"), "numeric"),
    "masked": (np.ma.masked_array(np.ones((9, 2)), np.zeros((9, 2))), "masked"),
    "masked rows": ([np.ma.masked_array([1.0, 2.0], [0, 1])], "masked"),
    "masked entries": ([[1.0, np.ma.masked]], "masked"),
    "too large a whole number": ([[10**400]], "float64 cannot hold"),
    "too large a long double": (np.full((9, 2), np.longdouble("1e4000")), r"\[0, 0\] is inf"),
    "nan": ([[1.0, 2.0], [3.0, np.nan]], r"\[1, 1\] is nan"),
    "inf": (np.array([[1.0, 2.0], [np.inf, 1.0]], np.float16), r"\[1, 0\] is inf"),
    "-inf": ([[1.0, 2.0], [-np.inf, 1.0]], r"\[1, 0\] is -inf"),
    "nan as an object": (np.array([[1.0, decimal.Decimal("nan")]], object), r"\[0, 1\] is nan"),
}


@pytest.mark.parametrize("wrong", WRONG_NUMBERS)
@pytest.mark.parametrize(
    ("name", "call"),
    [pytest.param(*c, id=w) for w, c in {**WRONG_FEATURES, **WRONG_MATRICES}.items()],
)
def test_wrong_numbers(name, call, wrong):
    given, message = WRONG_NUMBERS[wrong]
    with pytest.raises((TypeError, ValueError), match=message.format(name)) as caught:
        call(given)
    assert name in str(caught.value)


def test_an_object_that_is_no_number_is_found_in_any_part():
    X = np.ones((9000, 1), object)
    X[8999, 0] = None
    with pytest.raises(TypeError, match=r"X\[8999, 0\] is None"):
        subsel.greedi(X, 1)


def test_lists_without_end():
    endless = [1.0]
    endless.append(endless)
    double = []
    double += [double, double]
    for rows in (endless, double, [double]):
        with pytest.raises(ValueError, match="X must be"):
            subsel.select(rows, 1)
        with pytest.raises(ValueError, match="labels must be"):
            subsel.select(ROWS, 1, labels=rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda torch: torch.ones(4, 2, dtype=torch.complex64), "real"),
        (lambda torch: torch.ones(4, 2, dtype=torch.complex64).conj(), "real"),
        (lambda torch: torch.ones(4, 2).to_sparse(), "dense"),
        (lambda torch: torch.ones(4, 2).to_mkldnn(), "dense"),
        (lambda torch: torch.ones(4, 2, device="meta"), "cpu"),
        (lambda torch: torch.empty(4, 2, dtype=torch.bits8), r"bits8.*torch\.float32"),
        (lambda torch: torch.empty(4, 2, dtype=torch.float4_e2m1fn_x2), r"torch\.float32"),
        (lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    ],
)
def test_tensors_that_numpy_cannot_read(make, message):
    torch = library("torch")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about what is experimental
        given = make(torch)
    with pytest.raises(TypeError, match=f"X .*{message}"):
        subsel.select(given, 1)
    with pytest.raises(TypeError, match=f"similarity .*{message}"):
        subsel.greedy(given, 1)


def test_tables_with_missing_entries_or_words():
    pandas = library("pandas")
    table = pandas.DataFrame({"a": [1, 2, None], "b": [1.0, 2.0, 3.0]}, dtype="Float64")
    with pytest.raises(ValueError, match="X has a missing value in column 'a', the first in row 2"):
        subsel.select(table, 1)
    table = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    with pytest.raises(TypeError, match="X has a column 'b' of String"):
        subsel.select(table, 1)


WHOLE = {
    "list": np.ndarray.tolist,
    "tuple": tuple,
    "read-only": read_only,
    "reversed": lambda i: np.ascontiguousarray(i[::-1])[::-1],
    "int8": lambda i: i.astype(np.int8),
    "uint64": lambda i: i.astype(np.uint64),
    "big-endian": lambda i: i.astype(">i2"),
    "objects": lambda i: i.astype(object),
    "buffer": lambda i: array.array("l", i.tolist()),
    "__array__": OnlyArray,
    "DLPack": OnlyDLPack,
    "tensor": tensor,
    "list of tensors": lambda i: [*tensor(i)],
    "int16 tensor": lambda i: tensor(i).short(),
    "Series": lambda i: library("pandas").Series(i, index=i[::-1]),
    "Index": lambda i: library("pandas").Index(i),
    "nullable Series": lambda i: library("pandas").Series(i, dtype="Int64"),
    "Series of polars": lambda i: library("polars").Series(i),
    "strict Array API": lambda i: library("array_api_strict").asarray(i),
}


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in INDICES.items()])
def test_indices_in_every_form(call, form):
    assert_same(call, WHOLE[form](SOME), SOME)


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in LABELS.items()])
def test_labels_in_every_form(call, form):
    assert_same(call, WHOLE[form](CLASSES), CLASSES)


WORDS = {
    "tuple": tuple,
    "array": np.array,
    "objects": lambda names: np.array(names, object),
    "bytes": lambda names: [name.encode() for name in names],
    "strings of numpy": lambda names: [np.str_(n) if i % 2 else n for i, n in enumerate(names)],
    "generator": lambda names: (name for name in names),
    "values of a dict": lambda names: dict(enumerate(names)).values(),
    "StringDType": lambda names: np.array(names, newer_numpy("StringDType")()),
    "Series": lambda names: library("pandas").Series(names),
    "Series of strings": lambda names: library("pandas").Series(names, dtype="string"),
    "categories": lambda names: library("pandas").Series(names, dtype="category"),
    "Series of polars": lambda names: library("polars").Series(names),
    "categories of polars": lambda names: library("polars").Series(
        names, dtype=library("polars").Categorical
    ),
}


@pytest.mark.parametrize("form", WORDS)
@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in LABELS.items()])
def test_names_in_every_form(call, form):
    assert_same(call, WORDS[form](NAMES), NAMES)


def test_truth_values_as_labels():
    wanted = answer(subsel.select(ROWS, 6, labels=(CLASSES > 1).astype(int)))
    for labels in (CLASSES > 1, (CLASSES > 1).tolist(), [np.bool_(x) for x in CLASSES > 1]):
        for ours, right in zip(answer(subsel.select(ROWS, 6, labels=labels)), wanted, strict=True):
            np.testing.assert_array_equal(ours, right)


N = len(ROWS)


class Table:
    """As a DataFrame, which gives the names of its columns to whoever iterates over it."""

    def __init__(self, columns):
        self.columns = columns

    def __iter__(self):
        return iter(self.columns)

    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, len(self.columns)))


WRONG_LABELS = {
    "a dict": (dict.fromkeys(range(N), 1), "not a dict"),
    "a dict in order": (OrderedDict.fromkeys(range(N), 1), "not a OrderedDict"),
    "a set": (set(range(N)), "not a set"),
    "a frozen set": (frozenset(range(N)), "not a frozenset"),
    "keys of a dict": (dict.fromkeys(range(N), 1).keys(), "not a dict_keys"),
    "a table": (Table(NAMES), "one entry per row"),
    "too few": (CLASSES[1:], "one entry per row"),
    "two axes": (CLASSES[:, None], "one entry per row"),
    "one": (3, "one entry per row"),
    "a word": ("a" * N, "one entry per row"),
    "floats": (CLASSES.astype(float), r"strings, not of dtype float64 \(.*astype\(int\)\)"),
    "complex": (CLASSES.astype(complex), "integers, booleans or strings"),
    "dates": (CLASSES.astype("M8[D]"), "integers, booleans or strings"),
    "durations": (CLASSES.astype("m8[D]"), "integers, booleans or strings"),
    "durations in a list": ([np.timedelta64(1)] * N, "integers, booleans or strings"),
    "missing": ([*NAMES[1:], None], "NoneType, str"),
    "missing numbers": ([*range(1, N), None], rf"labels\[{N - 1}\] is None"),
    "too large": ([2**70] * N, "64 bits"),
    "words and numbers": ([1, *NAMES[1:]], "int, str"),
    "words and bytes": ([b"a", *NAMES[1:]], "bytes, str"),
    "ragged": ([[1], [2, 3]] * (N // 2), "labels"),
    "masked": (np.ma.masked_array(CLASSES), "masked"),
    "a masked entry": ([*range(1, N), np.ma.masked], "masked"),
    "a null character": (["a", "a\0"] * (N // 2), "null character"),
    "a null byte": ([b"a\0", b"a"] * (N // 2), "null character"),
    "a null character in objects": (np.array(["a", "a\0"] * (N // 2), object), "null character"),
    "sparse": (sp.csr_array(CLASSES[:, None]), "sparse"),
}


@pytest.mark.parametrize("wrong", WRONG_LABELS)
@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, (_, c) in LABELS.items()])
def test_wrong_labels(call, wrong):
    given, message = WRONG_LABELS[wrong]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call(given)
    assert "labels" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        None, "abc", 3, 2.5, {0: 1}, {1, 2}, [[1, 2]], [1.0], ["1"], [True, False], [-1], [20],
        [2**70], [None], [np.timedelta64(1)], np.array([1], "m8[s]"), np.ma.masked_array([1, 2]),
        [1, np.ma.masked], sp.csr_array([[1]]), np.array([1, 2], complex),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "call"), [pytest.param(*c, id=w) for w, c in INDICES.items()]
)  # fmt: skip
def test_wrong_indices(name, call, wrong):
    if wrong is None and name in ("given", "exclude"):
        pytest.skip("none is meant")
    with pytest.raises((TypeError, ValueError), match=name):
        call(wrong)


COUNTED = {
    "select": lambda budget: subsel.select(ROWS, budget),
    "greedi": lambda budget: subsel.greedi(ROWS, budget, random_state=0),
    "greedy": lambda budget: subsel.greedy(SIMILARITY, budget),
    "lazy_greedy": lambda budget: subsel.lazy_greedy(SIMILARITY, budget),
    "stochastic_greedy": lambda budget: subsel.stochastic_greedy(SIMILARITY, budget),
    "one label": lambda budget: subsel.select(ROWS, {1: budget}, labels=[1] * N),
}


class Index:
    def __index__(self):
        return 3


@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, c in COUNTED.items()])
def test_budgets(call):
    for budget in (3, np.int8(3), np.uint64(3), np.array(3), np.array(3, ">i4"), Index()):
        assert len(call(budget)) == 3
    assert len(call(tensor(3))) == 3
    for budget in (
        np.timedelta64(3), np.timedelta64(3, "ns"), np.array(3, "m8[s]"), True, np.True_,
        np.array(True), "3", b"3", None, [3], np.array([3]), 3j, np.complex64(3), {1, 2},
        fractions.Fraction(3), decimal.Decimal(3), tensor([3]), tensor(True), 0, -1, N + 1, 10**30,
        0.0, -0.5, np.nan, np.inf,
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"budget.* must be a count"):
            call(budget)


@pytest.mark.parametrize("call", [pytest.param(c, id=w) for w, c in COUNTED.items()])
def test_floats_that_could_be_meant_as_counts(call):
    for budget in (3.0, np.float32(3), np.array(3.0), tensor(3.0)):
        with pytest.raises(ValueError, match=r"not 3\.0 \(pass the integer 3\)"):
            call(budget)
    for budget in (1.0, np.float16(1)):
        with pytest.raises(ValueError, match=r"for all, pass \d+; for one, the integer 1"):
            call(budget)


def test_fractions_where_only_counts_are_taken():
    with pytest.raises(ValueError, match=r"that fraction of 20 is the count 3"):
        subsel.greedy(SIMILARITY, 0.15)


@pytest.mark.parametrize("labels", [None, CLASSES])
def test_fractions_of_every_type(labels):
    for search in (subsel.select, subsel.greedi):
        wanted = answer(search(ROWS, 0.3, labels=labels, random_state=0))
        for budget in (np.float64(0.3), np.float32(0.3), np.array(0.3), tensor(0.3)):
            ours = answer(search(ROWS, budget, labels=labels, random_state=0))
            for one, other in zip(ours, wanted, strict=True):
                np.testing.assert_array_equal(one, other)


NO_NUMBERS = [
    np.timedelta64(1), np.array(1, "m8[s]"), True, np.True_, "1", None, [1], 1j, np.complex64(1),
]  # fmt: skip

NUMBERS = {
    "gamma": lambda x: subsel.FacilityLocation.from_features(ROWS, "rbf", gamma=x),
    "epsilon": lambda x: subsel.stochastic_greedy(SIMILARITY, 2, epsilon=x),
    "memory": lambda x: subsel.select(ROWS, 2, memory=x),
    "partitions": lambda x: subsel.greedi(ROWS, 2, partitions=x),
    "max_rows": lambda x: subsel.greedi(ROWS, 2, max_rows=x),
    "spread": lambda x: subsel.greedi(ROWS, 2, spread=x),
    "sample": lambda x: subsel.greedi(ROWS, 2, sample=x),
    "random_state": lambda x: subsel.select(ROWS, 2, random_state=x),
    "element": lambda x: subsel.FacilityLocation(SIMILARITY).add(x),
    "count": lambda x: subsel.FacilityLocation(SIMILARITY).extend(np.zeros(20, bool), x),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number(name):
    for wrong in NO_NUMBERS:
        optional = {"gamma", "memory", "partitions", "max_rows", "sample", "random_state"}
        if (wrong is None and name in optional) or (wrong == [1] and name == "random_state"):
            continue
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            NUMBERS[name](wrong)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_every_type(name):
    whole = [16, np.int8(16), np.uint64(16), np.array(16), tensor(16)]
    for value in [0.5, np.float32(0.5), np.array(0.5), tensor(0.5)] if name == "epsilon" else whole:
        NUMBERS[name](value)


class Odd(subsel.Objective):
    """An objective whose gains are what it is given, for each candidate."""

    def __init__(self, gains, n=6):
        self.give, self.n = gains, n

    def reset(self):
        """Nothing is kept."""

    def add(self, element):
        """Nothing is kept."""

    def gains(self, candidates):
        return self.give(candidates)

    def value(self, indices):
        return 0.0


def overwrites(candidates):
    candidates[:] = 0
    return np.zeros(len(candidates))


SEARCHES = [subsel.greedy, subsel.lazy_greedy, subsel.stochastic_greedy]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (lambda c: np.ones(len(c), complex), r"Odd\.gains must be numeric \(real\)"),
        (lambda c: [1j] * len(c), r"Odd\.gains must be numeric \(real\)"),
        (lambda c: ["1"] * len(c), r"Odd\.gains must be numeric"),
        (lambda c: [None] * len(c), r"Odd\.gains\[0\] is None"),
        (lambda c: np.ones(len(c), "m8[s]"), r"Odd\.gains must be numeric"),
        (lambda c: np.ma.masked_array(np.ones(len(c))), r"Odd\.gains is a masked"),
        (lambda c: dict.fromkeys(c.tolist(), 1.0), "not a dict"),
        (lambda c: np.ones((len(c), 1)), "returned an array of shape"),
        (lambda c: 1.0, "returned an array of shape"),
        (lambda c: np.full(len(c), np.nan), "finite"),
        (lambda c: np.full(len(c), np.inf), "finite"),
        (overwrites, "read-only"),
    ],
)
def test_objectives_with_odd_gains(search, gains, message):
    with pytest.raises((TypeError, ValueError), match=message):
        search(Odd(gains), 2)


@pytest.mark.parametrize("search", SEARCHES)
def test_objectives_with_gains_in_other_forms(search):
    for form in (list, np.float32, objects, lambda g: tensor(g).requires_grad_()):
        selection = search(Odd(lambda c, form=form: form((10.0 - c).astype(np.float64))), 2)
        if search is not subsel.stochastic_greedy:
            np.testing.assert_array_equal(selection.indices, [0, 1])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("n", [None, 6.0, "6", 0, -1, np.timedelta64(6), True])
def test_objectives_without_a_size(search, n):
    with pytest.raises((TypeError, ValueError), match=r"Odd\.n must be"):
        search(Odd(lambda c: np.ones(len(c)), n), 2)


@pytest.mark.parametrize("single", [(1, 1), (1, 3)])
def test_one_row(single):
    X = np.full(single, 2.5)
    for metric in ("euclidean", "cosine", "dot", "rbf"):
        chosen = subsel.select(X, 1, metric=metric, labels=["a"])
        np.testing.assert_array_equal(chosen.indices, [0])
        np.testing.assert_array_equal(chosen.sizes, [1])
    np.testing.assert_array_equal(subsel.greedi(X, 1).indices, [0])
    np.testing.assert_array_equal(subsel.greedy(X, 1).indices, [0])


def pruned(gradients=ROWS, labels=CLASSES):
    defense = library("subsel.defense")
    epic = defense.EPIC(subset_size=0.3, warmup=0, interval=1)
    epic.prune(gradients, labels, 0)
    return [epic.kept]


EXACT_FORMS = set(AS_FLOAT32) - {
    "float16", "big-endian float16", "int16", "uint16 tensor", "bfloat16", "float8", "ml_dtypes",
}  # fmt: skip
WHOLE_FORMS = set(WHOLE) - {"objects", "nullable Series"}


@pytest.mark.parametrize("form", sorted(EXACT_FORMS))
def test_gradients_in_every_form(form):
    assert_same(pruned, AS_FLOAT32[form](ROWS), ROWS)


@pytest.mark.parametrize("form", sorted(set(AS_FLOAT32) - EXACT_FORMS))
def test_gradients_that_have_lost_digits(form):
    with pytest.raises(TypeError, match="gradients must be float32 or float64"):
        pruned(AS_FLOAT32[form](ROWS))


@pytest.mark.parametrize("form", sorted(WHOLE_FORMS))
def test_labels_of_gradients_in_every_form(form):
    assert_same(lambda labels: pruned(ROWS, labels), WHOLE[form](CLASSES), CLASSES)


@pytest.mark.parametrize(
    "wrong",
    [
        CLASSES.astype("m8[s]"), [np.timedelta64(1)] * N, np.ma.masked_array(CLASSES), NAMES,
        dict.fromkeys(range(N), 1), set(range(N)), CLASSES - 5, CLASSES[1:], CLASSES > 1,
        np.full(N, 2**63, np.uint64), CLASSES.astype(float), None, [None] * N,
    ],
)  # fmt: skip
def test_wrong_labels_of_gradients(wrong):
    with pytest.raises((TypeError, ValueError), match="labels"):
        pruned(ROWS, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        np.ma.masked_array(ROWS), ROWS.astype("m8[s]"), ROWS.astype(complex), ROWS[0], ROWS[:, :0],
        np.where(ROWS > 5, np.nan, ROWS), {0: 1.0}, "abc", None, [[1.0], [2.0, 3.0]],
    ],
)  # fmt: skip
def test_wrong_gradients(wrong):
    with pytest.raises((TypeError, ValueError), match="gradients"):
        pruned(wrong)
