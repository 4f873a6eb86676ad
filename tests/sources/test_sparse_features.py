"""Facility location of sparse features."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.kernels import reference


def words(n=200, d=60, share=0.1, seed=0, negative=False):
    random = np.random.default_rng(seed)
    X = random.random((n, d)) * (random.random((n, d)) < share)
    X[7] = X[3]
    X[[11, 12]] = 0
    return X * random.choice([-1, 1], (n, d)) if negative else X


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("negative", [False, True])
def test_selects_what_the_formula_says(metric, negative):
    X = words(negative=negative)
    f = subsel.FacilityLocation.from_features(sp.csr_array(X), metric)
    S = reference.similarity(X, metric, c0=f.offset)
    assert f.offset == (2 if metric == "cosine" else f.offset if negative else 0)
    assert S.min() >= -1e-12
    chosen = subsel.greedy(f, 60)
    # Of two rows that only stand for each other, rounding decides in the reference, not here.
    indices, gains = reference.greedy(S, 60)
    np.testing.assert_allclose(chosen.gains, gains, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(f.value(indices), reference.value(S, indices), rtol=1e-9)
    subsel.testing.check_objective(f, trials=3)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_select_as_with_dense_features(metric):
    X = words()
    for options in ({}, {"labels": np.arange(200) % 3}):
        found = subsel.select(sp.coo_array(X), 30, metric=metric, **options)
        wanted = subsel.select(X, 30, metric=metric, **options)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_allclose(found.gains, wanted.gains, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found.assignment, wanted.assignment)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_query_and_private_items(metric):
    X, Q, P = words(), words(20, seed=1)[:6], words(20, seed=2)[13:]
    form = {"weights": np.arange(200) % 4, "eta": 0.9, "nu": 0.3}
    f = subsel.FacilityLocation.from_features(
        sp.csr_array(X), metric, query=sp.csr_array(Q), private=P, **form
    )
    S = reference.similarity(np.concatenate([X, Q, P]), metric, c0=f.offset)[:200]
    chosen = subsel.greedy(f, 20)
    value = reference.guided_facility_location(
        S[:, :200], chosen.indices, query=S[:, 200:206], private=S[:, 206:], **form
    )
    np.testing.assert_allclose(chosen.value, value, rtol=1e-9)


def test_many_columns_never_become_dense():
    random = np.random.default_rng(0)
    X = sp.random_array((1500, 30_000), density=2e-3, rng=random, dtype=np.float32, format="csr")
    subsel.select(X[:10], 2, metric="cosine")  # compiles
    tracemalloc.start()
    try:
        subsel.select(X, 10, metric="cosine")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6  # 180 MB as a dense matrix


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil"])
def test_every_format_selects_the_same(dtype, format):
    X = np.round(9 * words()).astype(dtype)
    wanted = subsel.select(sp.csr_matrix(X.astype(float)), 20, metric="dot")
    found = subsel.select(sp.coo_array(X).asformat(format), 20, metric="dot")
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_small_shapes_and_zeros(shape):
    for X in (np.zeros(shape), np.ones(shape)):
        for metric in ("cosine", "dot"):
            found = subsel.select(sp.csr_array(X), shape[0], metric=metric)
            wanted = subsel.select(X, shape[0], metric=metric)
            np.testing.assert_array_equal(found.indices, wanted.indices)
            np.testing.assert_allclose(found.gains, wanted.gains)


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (sp.eye_array(3).tocsr(), {}, "metric of sparse X must be one of 'cosine', 'dot', not 'eu"),
        (sp.eye_array(3).tocsr(), {"metric": "rbf"}, "metric of sparse X must be one of"),
        (sp.csr_array([[1.0, np.nan]]), {"metric": "dot"}, r"X\[0, 1\] is nan; features must be f"),
        (sp.csr_array([[1e200, 1.0]]), {"metric": "dot"}, "too far for dot; rescale it"),
        (sp.csr_array((0, 3)), {"metric": "dot"}, "X must not be empty"),
        (sp.eye_array(3).tocsr(), {"metric": "dot", "memory": 8}, "more than memory allows"),
        (sp.eye_array(3).tocsr(), {"metric": "dot", "backend": "cuda"}, "X is sparse, which works"),
    ],
)
def test_refused(X, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.select(X, 1, **options)


def test_refused_others():
    X = sp.eye_array(3).tocsr()
    for query, message in (
        (np.ones((1, 2)), "query must have the 3 columns that X has, not 2"),
        (sp.csr_array([[np.inf, 0, 0]]), r"query\[0, 0\] is inf"),
        ([1.0, 2.0, 3.0], "query must be 2-D"),
    ):
        with pytest.raises(ValueError, match=message):
            subsel.FacilityLocation.from_features(X, "dot", query=query)
