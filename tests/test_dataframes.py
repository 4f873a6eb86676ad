"""Tables of pandas, polars, pyarrow and others at the door: the same bits as from NumPy."""

import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import subsel
from subsel.validation import as_float_array, as_host_array, check_labels, in_gpu_memory

X = np.random.default_rng(0).integers(-9, 9, (40, 3)).astype(np.float32)
NAMES = list("abc")
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)


class OnlyArrow:
    """A table of a library that nobody has heard of."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


HALVES = [list(row) for row in X.astype(np.float16)]  # older pyarrow takes no other numbers
COLUMNS = {name: X[:, i] for i, name in enumerate(NAMES)}
TABLES = {
    "pandas": pd.DataFrame(COLUMNS),
    "pandas, names that are numbers": pd.DataFrame(X),
    "pandas, nullable": pd.DataFrame(COLUMNS, dtype="Float32"),
    "pandas, of Arrow": pd.DataFrame(COLUMNS, dtype="float[pyarrow]"),
    "pandas, mixed": pd.DataFrame(COLUMNS).astype({"a": "Int8", "b": "int16"}),
    "pandas, vectors": pd.Series(list(X)),
    "pandas, a table of vectors": pd.DataFrame({"v": list(X)}),
    "pandas, vectors of Arrow": pd.Series(FIXED, dtype=pd.ArrowDtype(FIXED.type)),
    "polars": pl.DataFrame(COLUMNS),
    "polars, lists": pl.Series(X.tolist(), dtype=pl.List(pl.Float32)),
    "polars, arrays": pl.Series(X),
    "polars, vectors and numbers": pl.DataFrame({"v": X[:, :2], "c": X[:, 2]}),
    "pyarrow": pa.table(COLUMNS),
    "pyarrow, a batch": pa.record_batch(COLUMNS),
    "pyarrow, vectors": FIXED,
    "pyarrow, parts of vectors": pa.chunked_array([FIXED[:7], FIXED[7:]]),
    "pyarrow, lists": pa.array(X.tolist(), pa.list_(pa.float32())),
    "pyarrow, part of lists": pa.array([[1.0], *X.tolist()], pa.list_(pa.float32()))[1:],
    "pyarrow, large lists": pa.table({"v": pa.array(HALVES, pa.large_list(pa.float16()))}),
    "Arrow alone": OnlyArrow(pa.table(COLUMNS)),
    "Arrow alone, vectors": OnlyArrow(pa.chunked_array([FIXED])),
}


@pytest.mark.parametrize("form", TABLES)
def test_features(form):
    found = as_float_array(TABLES[form], "X")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X)


def test_a_column_that_dlpack_does_not_know_is_not_on_a_gpu():
    class Column:
        def __dlpack_device__(self):
            raise pa.ArrowTypeError("DataType is not compatible with DLPack spec")

    assert not in_gpu_memory(Column())


def test_the_door_is_that_of_every_function():
    wanted = subsel.select(X, 5, labels=X[:, 0] > 0, weights=X[:, 1] ** 2)
    table, other = pl.DataFrame(COLUMNS), pd.DataFrame(COLUMNS)
    found = subsel.select(table, 5, labels=other["a"] > 0, weights=table["b"] ** 2)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    costs = np.arange(1.0, 41)
    wanted = subsel.select(X, 90, costs=costs, groups=X[:, 0] > 0, at_most=9, given=[3])
    found = subsel.select(
        FIXED, 90, costs=pa.array(costs), groups=table["a"] > 0, at_most=9, given=pl.Series([3])
    )
    np.testing.assert_array_equal(found.indices, wanted.indices)
    assert subsel.FacilityLocation.from_features(table).value([1, 2]) == (
        subsel.FacilityLocation.from_features(X).value([1, 2])
    )
    found = subsel.greedi(table, 4, partitions=2, random_state=0)
    wanted = subsel.greedi(X, 4, partitions=2, random_state=0)
    np.testing.assert_array_equal(found.indices, wanted.indices)


@pytest.mark.parametrize("make", [pd.Series, pl.Series, pa.array, lambda x: pa.chunked_array([x])])
@pytest.mark.parametrize("labels", [[3, 1, 3], [True, False, True], ["b", "a", "b"]])
def test_labels(make, labels):
    assert check_labels(make(labels)).tolist() == labels


def test_labels_in_categories():
    words = ["b", "a", "b"]
    for column in (
        pd.Series(words, dtype="category"),
        pl.Series(words, dtype=pl.Categorical),
        pl.Series(words, dtype=pl.Enum(["a", "b"])),
        pa.array(words).dictionary_encode(),
    ):
        assert check_labels(column).tolist() == words


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame({"a": [1, 2], "b": [1, None]}), "'b', the first in row 1"),
        (pd.DataFrame({"a": [1, 2], "b": pd.array([None, 3], "Int64")}), "'b', the first in row 0"),
        (pa.table({"a": [None, None, 1.0]}), "2 missing values in column 'a'"),
        (pl.DataFrame({"a": [[1, 2], None]}), "X has a missing value in column 'a'"),
        (pl.DataFrame({"a": [[1, 2], [1, None]]}), "column 'a' has a missing value in row 1"),
        (pl.DataFrame({"a": [[1, 2], [1]]}), "the vector of row 1 has 1 numbers, not 2"),
        (pd.Series([[1, 2], [1]], name="a"), "column 'a': the vector of row 1 has 1 numbers"),
        (pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "X has a column 'b' of String"),
        (pl.DataFrame({"a": [["x"], ["y"]]}), "column 'a' must hold numbers, not"),
        (pl.LazyFrame({"a": [1, 2]}), r"X is a lazy table; pass its .collect\(\)"),
        (pd.DataFrame(X, columns=["a", "a", "b"]), "several columns of the same name: rename"),
        (pa.table([X[:, 0], X[:, 1]], names=["a", "a"]), "several columns of the same name"),
        (pl.DataFrame({"a": [{"x": 1.0}] * 3}), r"X has Struct.* in column 'a'; columns must be"),
    ],
)
def test_what_is_no_feature(table, message):
    with pytest.raises((TypeError, ValueError), match=message):
        subsel.select(table, 1)


def test_missing_labels():
    for column in (pd.Series(["a", None]), pl.Series([1, None]), pa.array([True, None])):
        with pytest.raises(ValueError, match=r"labels has a missing value.* the first in row 1"):
            subsel.select(X[:2], 1, labels=column)


def test_bfloat16():
    narrow = X.astype(pytest.importorskip("ml_dtypes").bfloat16)
    found, wanted = subsel.select(narrow, 4), subsel.select(X, 4)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


def test_datasets():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"v": X.tolist(), "y": ["b", "a"] * 20}).select(range(30))
    np.testing.assert_array_equal(as_float_array(data["v"], "X"), X[:30])
    np.testing.assert_array_equal(as_float_array(data.select_columns("v"), "X"), X[:30])
    assert check_labels(data["y"]).tolist() == ["b", "a"] * 15


def test_without_narwhals_numbers_are_read_still(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    np.testing.assert_array_equal(as_float_array(pd.DataFrame(COLUMNS), "X"), X)


def test_arrays_need_nothing_of_this(monkeypatch):
    monkeypatch.setattr("subsel.validation.is_table", None)
    assert as_host_array(X, "X") is X


@pytest.mark.parametrize(
    ("backend", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("pyarrow", pa.Table)]
)
def test_to_frame(backend, kind):
    chosen = subsel.select(X, 3)
    frame = chosen.to_frame(backend)
    assert isinstance(frame, kind)
    columns = {name: np.asarray(frame[name]).tolist() for name in ("row", "rank", "gain", "size")}
    assert columns == {
        "row": chosen.indices.tolist(),
        "rank": [1, 2, 3],
        "gain": chosen.gains.tolist(),
        "size": chosen.sizes.tolist(),
    }


def test_to_frame_says_what_to_install(monkeypatch):
    chosen = subsel.select(X, 3, objective="disparity_sum")
    assert list(chosen.to_frame().columns) == ["row", "rank", "gain"]
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match="pip install polars"):
        chosen.to_frame("polars")
    with pytest.raises(ValueError, match="backend must be one of"):
        chosen.to_frame("spark")
