"""Metrics without kernels of their own, sparse features and functions, at their edges."""

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

import subsel
from subsel.constraints import MinDistance
from subsel.kernels import reference

PAIRS = (subsel.GraphCut, subsel.SumRedundancy)
SPREAD = (subsel.DisparitySum, subsel.DisparityMin)
SIMILAR = (*PAIRS, subsel.LogDeterminant, subsel.FacilityLocation, subsel.SaturatedCoverage)
NAMES = {"manhattan": "cityblock"}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(150, 9)).round(1)


@pytest.fixture(scope="module")
def B():
    B = np.random.default_rng(1).random((150, 100)) < 0.3
    B[[7, 8]], B[20] = False, B[3]
    return B


def laplacian(A, B):
    return np.exp(-cdist(A, B, "cityblock") / 9)


@pytest.mark.parametrize("metric", ["manhattan", "hamming", "correlation", "jaccard"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_they_are_those_of_scipy(X, B, metric, dtype):
    own = B if metric == "jaccard" else X.astype(dtype)
    D = cdist(own.astype(bool if metric == "jaccard" else float), own, NAMES.get(metric, metric))
    f = subsel.DisparityMin.from_features(own, metric)
    for i, j in ((0, 1), (3, 20), (7, 8), (7, 9), (149, 2)):
        np.testing.assert_allclose(f.value([i, j]), D[i, j], rtol=1e-6, atol=1e-7)
    f = subsel.FacilityLocation.from_features(own, metric)
    wanted = reference.value(f.offset - D, [3, 50])
    np.testing.assert_allclose(f.value([3, 50]), wanted, rtol=1e-6)


@pytest.mark.parametrize("number", [bool, np.uint8, np.int64, np.float32, ">u2"])
def test_bits_of_any_number_type(B, number):
    wanted = subsel.greedy(subsel.GraphCut.from_features(B, "jaccard"), 20)
    for given in (B.astype(number), np.asfortranarray(B.astype(number)), B.astype(number)[:, :]):
        found = subsel.greedy(subsel.GraphCut.from_features(given, "tanimoto"), 20)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.gains, wanted.gains)
    S = 1 - cdist(B, B, "jaccard")
    np.testing.assert_allclose(wanted.value, reference.graph_cut(S, wanted.indices), rtol=1e-12)


@pytest.mark.parametrize("width", [1, 7, 8, 63, 64, 65, 200])
def test_rows_that_fill_no_word(width):
    B = np.random.default_rng(2).random((9, width)) < 0.5
    D = cdist(B, B, "jaccard")
    f = subsel.DisparitySum.from_features(B, "jaccard")
    np.testing.assert_allclose(f.value([*range(9)]), np.triu(D).sum(), rtol=1e-12)


@pytest.mark.parametrize("metric", ["manhattan", "hamming", "jaccard", "correlation"])
def test_neither_threads_nor_layout_change_a_bit(X, B, metric, monkeypatch):
    monkeypatch.setattr("subsel.sources.columns.PARALLEL_WORK", 0)
    monkeypatch.setattr("subsel.sources.measures._PARALLEL_WORK", 0)
    own = 1.0 * B if metric == "jaccard" else X
    threads, found = numba.get_num_threads(), []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for given in (own, np.asfortranarray(own), own.tolist()):
                for cls in (subsel.DisparityMin, subsel.FacilityLocation):
                    found.append(subsel.greedy(cls.from_features(given, metric), 20))
    finally:
        numba.set_num_threads(threads)
    for at, other in enumerate(found):
        np.testing.assert_array_equal(other.indices, found[at % 2].indices)
        np.testing.assert_array_equal(other.gains, found[at % 2].gains)


def test_shares_that_are_equal_tie_exactly():
    """Sums of thirds are off by rounding, in other orders by other amounts; counts are exact."""
    X = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])
    f = subsel.FacilityLocation.from_features(X, "hamming")
    gains = f.gains([0, 1, 2, 3])
    assert (gains[0], gains[1]) == (gains[3], gains[2])


def test_correlations_do_not_depend_on_shift_and_scale(X):
    f = subsel.GraphCut.from_features(X, "correlation")
    g = subsel.GraphCut.from_features(4 * X - 1.0, "correlation")
    np.testing.assert_allclose(f.gains([3, 9]), g.gains([3, 9]), rtol=1e-9)
    same = np.full((3, 5), 0.1)
    same[1] = 7.3  # rows of equals are as rows of zeros, whatever their mean is rounded to
    assert subsel.DisparitySum.from_features(same, "correlation").value([0, 1, 2]) == 0
    huge = X * 1e307
    np.testing.assert_allclose(
        subsel.GraphCut.from_features(huge, "correlation").gains([3]), f.gains([3]), rtol=1e-9
    )


@pytest.mark.parametrize("metric", ["manhattan", "hamming", "jaccard", "correlation", laplacian])
def test_select_and_assign(X, B, metric):
    own = B if metric == "jaccard" else X
    chosen = subsel.select(own, 10, metric=metric)
    at, near = subsel.assign(own, own[chosen.indices], metric)
    np.testing.assert_array_equal(at, chosen.assignment)
    if metric in ("manhattan", "hamming"):
        D = cdist(own, own[chosen.indices], NAMES.get(metric, metric))
        np.testing.assert_allclose(near, D.min(axis=1), rtol=1e-9, atol=1e-12)
    by_class = subsel.select(own, 10, metric=metric, labels=np.arange(150) % 3)
    assert len(by_class) == 10
    held = subsel.select(own[10:], 4, metric=metric, given_features=own[:10])
    beside = subsel.select(own, 4, metric=metric, given=np.arange(10), weights=np.arange(150) > 9)
    np.testing.assert_array_equal(held.indices + 10, beside.indices)


@pytest.mark.parametrize("metric", ["manhattan", "jaccard", "correlation"])
def test_a_least_distance(X, B, metric):
    own = B if metric == "jaccard" else X
    D = cdist(own, own, NAMES.get(metric, metric))
    least = float(np.quantile(D, 0.3))
    chosen = subsel.select(own, metric=metric, min_distance=least).indices
    between = D[np.ix_(chosen, chosen)] + 2 * least * np.eye(len(chosen))
    assert between.min() >= least
    again = subsel.greedy(
        subsel.FacilityLocation.from_features(own, metric), MinDistance(own, least, metric=metric)
    )
    np.testing.assert_array_equal(again.indices, chosen)


def test_a_least_distance_of_sparse_rows():
    X = sp.csr_array(np.array([[1.0, 0, 0], [2, 0, 0], [0, 1, 0]]))
    chosen = subsel.select(X, objective="graph_cut", metric="cosine", min_distance=0.5)
    assert sorted(chosen.indices.tolist()) in ([0, 2], [1, 2])


# --- Sparse features ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*PAIRS, *SPREAD, subsel.LogDeterminant])
def test_many_columns_never_become_dense(cls):
    import tracemalloc

    X = sp.random_array((3000, 40_000), density=1e-3, rng=np.random.default_rng(0), format="csr")
    options = {"metric": "cosine"}
    subsel.greedy(cls.from_features(X[:10], **options), 2)
    tracemalloc.start()
    try:
        subsel.greedy(cls.from_features(X, **options), 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # 960 MB dense, 72 MB as a matrix of pairs


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_sparse_rows_beside_private_ones(metric):
    random = np.random.default_rng(3)
    X = random.random((40, 30)) * (random.random((40, 30)) < 0.2)
    X[7] = 0
    P = X[:4] + 0.5 * (X[4:8] > 0)
    for given, private in ((sp.csr_array(X), P), (sp.coo_array(X), sp.csc_array(P))):
        f = subsel.GraphCut.from_features(given, metric, private=private, nu=2.0)
        g = subsel.GraphCut.from_features(X, metric, private=P, nu=2.0)
        np.testing.assert_allclose(f.gains(range(40)), g.gains(range(40)), rtol=1e-9, atol=1e-12)
        f = subsel.LogDeterminant.from_features(given, metric=metric, query=private)
        g = subsel.LogDeterminant.from_features(X, metric=metric, query=P)
        np.testing.assert_allclose(f.value([1, 5, 7]), g.value([1, 5, 7]), rtol=1e-9)


def test_sparse_copies_are_at_distance_zero():
    X = sp.csr_array(np.array([[0.1, 0.7, 0], [0.3, 2.1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]))
    f = subsel.DisparitySum.from_features(X, "cosine")
    assert f.value([0, 1]) == f.value([2, 3]) == 0
    np.testing.assert_allclose(f.value([0, 2]), 1.0)
    np.testing.assert_allclose(f.value([0, 4]), 1.0)


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SIMILAR)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda A, B: np.ones(len(A)), r"must return a number for each row of A and each of B"),
        (lambda A, B: np.full((len(A), len(B)), np.nan), r"metric\(A, B\)\[0, 0\] is nan"),
        (lambda A, B: "no", "what metric.* returns"),
        (lambda A, B: np.ones((len(A), len(B)), complex), "what metric.* returns"),
    ],
)
def test_functions_that_return_what_they_should_not(X, cls, function, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cls.from_features(X, metric=function)


@pytest.mark.parametrize("cls", [*PAIRS, *SPREAD, subsel.LogDeterminant])
def test_functions_that_are_not_symmetric(X, cls):
    with pytest.raises(ValueError, match=r"metric must be symmetric, but for rows \d+ and \d+ of"):
        cls.from_features(X, metric=lambda A, B: A[:, :1] ** 2 + 0 * B[:, 0])


def test_functions_of_the_wrong_kind(X):
    with pytest.raises(ValueError, match=r"metric\(A, B\)\[0, 0\] is -1.0; similarities must not"):
        subsel.FacilityLocation.from_features(X, lambda A, B: -np.ones((len(A), len(B))))
    with pytest.raises(ValueError, match=r"is -1.0; distances must not be negative"):
        subsel.DisparitySum.from_features(X, lambda A, B: -np.ones((len(A), len(B))))
    with pytest.raises(ValueError, match=r"row \d+ of X and itself, .*are these similarities"):
        subsel.DisparityMin.from_features(X, laplacian)
    f = subsel.LogDeterminant.from_features(X, metric=lambda A, B: 4.0 - 3 * laplacian(A, B))
    with pytest.raises(ValueError, match="kernel of X is not positive definite: pivot"):
        subsel.greedy(f, 5)
    for cls in (*PAIRS, subsel.FacilityLocation):
        with pytest.warns(UserWarning, match=r"metric .*must return similarities"):
            cls.from_features(X, cdist)


def test_negative_similarities_of_a_function_are_found(X):
    for cls in PAIRS:
        assert cls.from_features(X, laplacian).submodular
        assert not cls.from_features(X, lambda A, B: A @ B.T).submodular


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda X: subsel.GraphCut.from_features(X, "manhattan"), "metric must be one of 'dot', "),
        (lambda X: subsel.DisparitySum.from_features(X, "dot"), "metric must be one of 'euclid"),
        (lambda X: subsel.GraphCut.from_features(X, "jaccard"), r"X\[0, 0\] is .*; metric='jacc"),
        (lambda X: subsel.FacilityLocation.from_features(X, "tanimoto"), r"such as X > 0"),
        (
            lambda X: subsel.FacilityLocation.from_features(X, "manhattan", memory=1000),
            "use a metric that needs none .*from_neighbors",
        ),
        (lambda X: subsel.select(X, 2, metric=laplacian, memory=0), "more than memory allows"),
        (lambda X: subsel.GraphCut.from_features(X, laplacian, gamma=1.0), "gamma needs"),
        (lambda X: subsel.FacilityLocation.from_features(X, "hamming", gamma=1.0), "gamma needs"),
        (
            lambda X: subsel.GraphCut.from_features(sp.csr_array(X), "rbf"),
            "metric of sparse X must be one of 'cosine', 'dot', not 'rbf'",
        ),
        (
            lambda X: subsel.DisparityMin.from_features(sp.csr_array(X)),
            "metric of sparse X must be one of 'cosine', not 'euclidean'",
        ),
        (
            lambda X: subsel.LogDeterminant.from_features(sp.csr_array(X), metric=laplacian),
            "metric of sparse X must be one of",
        ),
        (
            lambda X: subsel.GraphCut.from_features(sp.csr_array(1e100 * X), "dot"),
            "cannot be summed in float64; rescale it",
        ),
        (
            lambda X: subsel.GraphCut.from_features(sp.csr_array(X), private=np.ones((1, 2))),
            "private must have as many features as X, 9, not 2",
        ),
        (
            lambda X: subsel.GraphCut.from_features(X > 0, "jaccard", private=np.ones((1, 2))),
            "private must have as many features as X, 9, not 2",
        ),
    ],
)
def test_refused(X, make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(X)
