"""Facility location with weights, a query and private items, beyond `test_members`."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.kernels import reference


def long_run(f, own, **form):
    """A selection of many elements, whose gains are those of the formula."""
    chosen = subsel.greedy(f, 120)
    F = [reference.guided_facility_location(own, chosen.indices[:k], **form) for k in range(121)]
    np.testing.assert_allclose(chosen.gains, np.diff(F), rtol=1e-9, atol=1e-9 * F[-1])
    np.testing.assert_allclose(chosen.value, F[-1], rtol=1e-9)
    assert (np.diff(chosen.gains) <= 0).all()
    return chosen


@pytest.mark.parametrize("memory", [0, 2**30])
def test_many_picks_from_features(memory):
    """Enough of them for several blocks, settled from the log and thinned, at exact sums."""
    random = np.random.default_rng(0)
    X, Q, P = (
        random.normal(size=(700, 40)),
        random.normal(size=(9, 40)),
        random.normal(size=(5, 40)),
    )
    form = {"weights": random.random(700), "eta": 0.9, "nu": 0.8}
    f = subsel.FacilityLocation.from_features(X, query=Q, private=P, memory=memory, **form)
    S = reference.similarity(np.concatenate([X, Q, P]), c0=f.offset)[:700]
    chosen = long_run(f, S[:, :700], query=S[:, 700:709], private=S[:, 709:], **form)
    lazy = subsel.lazy_greedy(f, 120)
    np.testing.assert_array_equal(chosen.indices, lazy.indices)
    np.testing.assert_array_equal(chosen.gains, lazy.gains)


@pytest.mark.parametrize("store", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("parts", ["weights", "query", "private", "all"])
def test_many_picks_from_a_matrix(store, parts):
    random = np.random.default_rng(1)
    S = random.random((2100, 2100)) * (random.random((2100, 2100)) < 0.02)
    form = {
        "weights": random.random(2100),
        "query": random.random((2100, 3)) * 0.4,
        "private": random.random((2100, 2)) * 0.2,
    }
    if parts != "all":
        form = {parts: form[parts]}
    long_run(subsel.FacilityLocation(store(S), **form), S, **form)


def test_one_is_the_default_of_weights():
    S = np.random.default_rng(2).random((60, 50))
    plain = subsel.greedy(S, 20)
    for options in (
        {"weights": np.ones(60)},
        {"query": np.full((60, 1), 2.0)},
        {"private": np.zeros((60, 1))},
        {"query": np.ones((60, 1)), "eta": 1e300},
    ):
        guided = subsel.greedy(subsel.FacilityLocation(S, **options), 20)
        np.testing.assert_array_equal(guided.indices, plain.indices)
        np.testing.assert_allclose(guided.gains, plain.gains, rtol=1e-12)


def test_counts_as_weights_are_repeated_points():
    S = np.random.default_rng(3).integers(0, 9, (40, 30)) / 8
    counts = np.arange(40) % 4
    weighted = subsel.greedy(subsel.FacilityLocation(S, weights=counts), 20)
    repeated = subsel.greedy(np.repeat(S, counts, axis=0), 20)
    np.testing.assert_array_equal(weighted.indices, repeated.indices)
    np.testing.assert_array_equal(weighted.gains, repeated.gains)


def test_private_items_that_cover_all_leave_nothing():
    X = np.random.default_rng(4).normal(size=(30, 3))
    f = subsel.FacilityLocation.from_features(X, private=X)
    chosen = subsel.greedy(f, 30)
    np.testing.assert_array_equal(chosen.indices, np.arange(30))  # an n-way tie at every step
    np.testing.assert_array_equal(chosen.gains, 0)
    np.testing.assert_array_equal(f.assignment, -1)


def test_a_query_is_reached_and_then_nothing_counts():
    X = np.array([[0.0], [1.0], [5.0], [6.0]])
    f = subsel.FacilityLocation.from_features(X, "rbf", query=[[0.5]], gamma=1.0)
    chosen = subsel.greedy(f, 4)
    assert set(chosen.indices[:2].tolist()) == {0, 1}
    assert chosen.gains[1] > 0.4
    assert (chosen.gains[2:] < 1e-8).all()


def test_a_distant_query_is_no_negative_similarity():
    X = np.random.default_rng(5).normal(size=(50, 3))
    Q = [[100.0, 0, 0]]
    f = subsel.FacilityLocation.from_features(X, query=Q)
    S = reference.similarity(np.concatenate([X, Q]), c0=f.offset)[:50]
    assert S.min() >= 0
    chosen = subsel.greedy(f, 5)
    value = reference.guided_facility_location(S[:, :50], chosen.indices, query=S[:, 50:])
    np.testing.assert_allclose(chosen.value, value, rtol=1e-12)


def test_any_thread_count_and_pickles_have_the_same_bits():
    import numba

    X = np.random.default_rng(6).normal(size=(3000, 4)).astype(np.float32)
    form = {"weights": np.random.default_rng(7).random(3000), "query": X[:5], "private": X[5:9]}
    f = subsel.FacilityLocation.from_features(X, memory=0, nu=0.9, **form)
    wanted = subsel.greedy(f, 60)
    numba.set_num_threads(1)
    try:
        for other in (f, pickle.loads(pickle.dumps(f))):  # noqa: S301
            found = subsel.greedy(other, 60)
            np.testing.assert_array_equal(found.indices, wanted.indices)
            np.testing.assert_array_equal(found.gains, wanted.gains)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def test_assign_is_by_similarity_alone():
    S = np.random.default_rng(8).random((20, 10))
    guided = subsel.FacilityLocation(S, query=np.full((20, 1), 0.1), weights=np.arange(20))
    for ours, plain in zip(
        guided.assign([3, 1]), subsel.FacilityLocation(S).assign([3, 1]), strict=True
    ):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, r"weights must have one number for each point, \(2,\)"),
        ({"weights": [1.0, -1.0]}, r"weights\[1\] is -1.0; it must be a finite number of"),
        ({"weights": [np.nan, 1.0]}, r"weights\[0\] is nan"),
        ({"query": [[1.0]]}, "query must have a row for each of the 2 points, not 1"),
        ({"query": [1.0, 1.0]}, "query must be 2-D"),
        ({"query": [[1.0], [-1.0]]}, r"query\[1, 0\] is -1.0; similarities must not be negative"),
        ({"private": [[1.0], [np.nan]]}, r"private\[1, 0\] is nan"),
        ({"private": sp.csr_array([[1.0], [-1.0]])}, r"private\[1, 0\] is -1.0"),
        ({"query": np.empty((2, 0))}, "query must not be empty"),
        ({"query": [[1.0], [1.0]], "eta": -1}, r"eta must be a number in \[0, inf\)"),
        ({"nu": np.nan}, "nu must be a number"),
        ({"eta": "1"}, "eta must be a number"),
        ({"weights": [1, 1], "backend": "cuda"}, "weights, query and private work on the CPU only"),
    ],
)  # fmt: skip
def test_refused_with_a_matrix(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.FacilityLocation([[1.0, 2.0], [3.0, 4.0]], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": [[1.0]]}, "query must have the 2 columns that X has, not 1"),
        ({"query": [1.0, 2.0]}, "query must be 2-D"),
        ({"private": [[1.0, np.nan]]}, r"private\[0, 1\] is nan"),
        ({"private": [["a", "b"]]}, "private must be numeric"),
        ({"weights": [1.0]}, "weights must have one number for each point"),
        (
            {"query": [[1.0, 2.0]], "backend": "cuda"},
            "weights, query and private work on the CPU only",
        ),
    ],
)
def test_refused_with_features(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.FacilityLocation.from_features([[1.0, 2.0], [3.0, 4.0]], **options)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("d", [1, 3])
def test_small_shapes_and_zeros(n, d):
    for X in (np.zeros((n, d)), np.ones((n, d))):
        for metric in ("euclidean", "cosine", "dot", "rbf"):
            f = subsel.FacilityLocation.from_features(
                X, metric, query=X[:1], private=0 * X[:1], weights=np.zeros(n)
            )
            chosen = subsel.greedy(f, n)
            np.testing.assert_array_equal(chosen.indices, np.arange(n))
            np.testing.assert_array_equal(chosen.gains, 0)


def test_a_weight_of_zero_beside_padding():
    """The last row of the last tile fills it up; its weight of 0 met infinities there."""
    X = np.random.default_rng(0).random((70, 3))
    f = subsel.FacilityLocation.from_features(X, weights=np.zeros(70), memory=0)
    assert f.value([1, 2]) == 0
