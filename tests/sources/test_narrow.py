"""Features in little memory: narrow types are converted late, and many rows are kept once."""

import tracemalloc
from importlib import import_module

import ml_dtypes
import numpy as np
import pytest

import subsel

features = import_module("subsel.sources.features")  # not the function of this name

METRICS = ("euclidean", "cosine", "dot", "rbf", "correlation")
NARROW = (np.float16, np.int8, np.uint8, np.bool_, np.int16, ml_dtypes.bfloat16, ">f2")


def same(chosen, wanted):
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(chosen, name), value, err_msg=name)


def drawn(n, d, seed=0):
    """Small whole numbers, which every narrow type holds, with copies and rows of zeros."""
    X = np.random.default_rng(seed).integers(0, 7, size=(n, d))
    X[::17] = 0
    X[5::19] = X[4]
    return X


@pytest.fixture(params=["row by row", "tiles alone"])
def layout(request, monkeypatch):
    """How features are kept, and converted a few at a time."""
    monkeypatch.setattr(features, "_PORTION", 300)
    if request.param == "tiles alone":
        monkeypatch.setattr(features, "_FEW", 0)
    return request.param


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("order", ["C", "F"])
def test_narrow_types_select_what_float32_does(layout, dtype, order):
    X = np.asarray(drawn(300, 4).astype(dtype), order=order)
    labels = np.arange(300) % 7
    for options in ({}, {"labels": labels}, {"labels": labels, "refine": True}):
        same(subsel.select(X, 0.1, **options),
             subsel.select(X.astype(np.float32), 0.1, **options))  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("memory", [0, 2**30])
def test_every_metric_reads_narrow_types(layout, metric, memory):
    X = (drawn(200, 40) - 3).astype(np.float16) / 8
    same(subsel.select(X, 20, metric=metric, memory=memory),
         subsel.select(X.astype(np.float32), 20, metric=metric, memory=memory))  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_alone_have_the_same_bits(monkeypatch, metric, dtype):
    X = np.random.default_rng(1).normal(size=(330, 5)).astype(dtype)
    X[[3, 90]] = 0
    weights, more = np.arange(330) / 7, X[:20] + 1
    for options in (
        {}, {"weights": weights}, {"refine": True}, {"given": [4, 60]}, {"given_features": more},
        {"candidates": np.arange(0, 330, 4)}, {"objective": "saturated_coverage"},
    ):  # fmt: skip
        wanted = subsel.select(X, 25, metric=metric, memory=0, **options)
        with monkeypatch.context() as patch:
            patch.setattr(features, "_FEW", 0)
            same(subsel.select(X, 25, metric=metric, memory=0, **options), wanted)


def test_a_query_beside_tiles_alone(monkeypatch):
    X = np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)

    def search():
        f = subsel.FacilityLocation.from_features(X, query=X[:9] + 1, private=X[9:11] - 2)
        return subsel.greedy(f, 12)

    wanted = search()
    monkeypatch.setattr(features, "_FEW", 0)
    same(search(), wanted)


def test_memory_mapped_float16(layout, tmp_path):
    X = drawn(500, 6).astype(np.float16)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for options in ({}, {"labels": np.arange(500) // 70}):
        same(subsel.select(mapped, 30, **options), subsel.select(X, 30, **options))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_infinite_entries_are_named(dtype, order):
    X = np.asarray(drawn(70_000, 2).astype(dtype), order=order)
    X[69_000, 1] = np.inf
    with pytest.raises(ValueError, match=r"X\[69000, 1\] is inf"):
        subsel.select(X, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.float32])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_most_memory_is_one_layout_in_float32(dtype, metric):
    n, d = 70_000, 64
    X = drawn(n, d).astype(dtype)
    subsel.FacilityLocation.from_features(X[:70], metric, memory=0)  # compiles
    tracemalloc.start()
    try:
        f = subsel.FacilityLocation.from_features(X, metric, memory=0)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f.path == "features"
    layout = 4 * n * (d + (metric == "cosine"))
    assert kept < 1.25 * layout
    assert most < 1.5 * layout


def test_of_narrow_classes_one_is_converted_at_a_time():
    n, d, count = 40_000, 32, 40
    X, labels = drawn(n, d).astype(np.float16), np.arange(n) * count // n
    options = {"labels": labels, "memory": 0}
    subsel.select(X[:2000], 40, labels=labels[:2000], memory=0)
    tracemalloc.start()
    try:
        subsel.select(X, 40, **options)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 * n * d
