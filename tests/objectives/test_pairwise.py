"""Graph cut, sum redundancy and dispersion: what the tests over all objectives do not reach."""

import numba
import numpy as np
import pytest
import scipy.sparse
from stepwise import same_in_steps

import subsel
from subsel import DisparityMin, DisparitySum, GraphCut, SumRedundancy
from subsel.kernels import reference
from subsel.sources import linear

N, D = 333, 7


@pytest.fixture(scope="module")
def X():
    X = np.random.default_rng(0).standard_normal((N, D))
    X[200], X[300], X[17] = X[5], 4 * X[5], 0
    return X


def raw(X, metric):
    return reference.similarity(X, metric, c0={"dot": 0.0, "cosine": 1.0}.get(metric))


def distances(X, metric):
    return -reference.similarity(X, metric, c0=0.0)


CASES = [
    *((cls, metric) for cls in (GraphCut, SumRedundancy) for metric in ("dot", "cosine", "rbf")),
    *((cls, metric) for cls in (DisparitySum, DisparityMin) for metric in ("euclidean", "cosine")),
]


@pytest.mark.parametrize(("cls", "metric"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_give_what_their_matrix_gives(X, cls, metric, dtype):
    X = X.astype(dtype)
    own = (raw if cls in (GraphCut, SumRedundancy) else distances)(X.astype(np.float64), metric)
    f = cls.from_features(X, metric)
    formula = {
        GraphCut: reference.graph_cut, SumRedundancy: reference.sum_redundancy,
        DisparitySum: reference.disparity_sum, DisparityMin: reference.disparity_min,
    }[cls]  # fmt: skip
    chosen = subsel.greedy(f, 40)
    for count in (1, 2, 39, 40):
        wanted = formula(own, chosen.indices[:count].tolist())
        np.testing.assert_allclose(chosen.values[count - 1], wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(f.value(chosen.indices[:count]), wanted, rtol=1e-9, atol=1e-9)
    some = np.arange(0, N, 29)
    before = formula(own, chosen.indices.tolist())
    wanted = [formula(own, [*chosen.indices, j]) - before for j in some]
    np.testing.assert_allclose(f.gains(some), wanted, rtol=1e-9, atol=1e-8)
    part = f.restrict(np.arange(N)[::-3])
    again = cls.from_features(X[::-3], metric)
    some = np.array([4, 90, 33])
    if cls is GraphCut:  # which keeps all points
        np.testing.assert_allclose(part.value(some), formula(own, (N - 1 - 3 * some).tolist()))
    else:
        assert part.value(some) == again.value(some)


@pytest.mark.parametrize(("cls", "metric"), CASES)
def test_bits_do_not_depend_on_threads_layout_or_copies(X, cls, metric, monkeypatch):
    monkeypatch.setattr("subsel.sources.columns.PARALLEL_WORK", 0)
    monkeypatch.setattr(linear, "PARALLEL_WORK", 0)
    threads = numba.get_num_threads()
    found = []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for features in (X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X.tolist()):
                found.append(subsel.greedy(cls.from_features(features, metric), 30))
    finally:
        numba.set_num_threads(threads)
    for other in found[1:]:
        np.testing.assert_array_equal(other.indices, found[0].indices)
        np.testing.assert_array_equal(other.gains, found[0].gains)


def of_products(sign, **options):
    """Objectives of products, which are computed lazily, with ties among whole numbers."""
    rows = np.random.default_rng(1).integers(-5 if sign == "signed" else 0, 6, (700, 5))
    rows[rows.sum(axis=1) == 0, 0] = 1
    for metric in ("dot", "cosine"):
        yield GraphCut.from_features(rows, metric, **options)
        yield SumRedundancy.from_features(rows.astype(np.float32), metric)


@pytest.mark.parametrize("sign", ["positive", "signed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_lazily_the_same_bits_as_from_every_gain(sign, threads, monkeypatch):
    monkeypatch.setattr(linear, "threads", lambda: threads)
    monkeypatch.setattr(linear, "PARALLEL_WORK", 2000)
    taken = np.arange(700) % 7 == 3
    for f, plain in zip(of_products(sign, lam=3), of_products(sign, lam=3), strict=True):
        assert f.submodular == (sign == "positive")
        closed = same_in_steps(f, plain, taken)
        again, gains = f.extend(taken.copy(), 600)  # also what was added
        assert (gains[np.isin(again, np.flatnonzero(closed))] == 0).all()


def test_few_products_are_computed():
    X = np.random.default_rng(0).gamma(1.0, size=(5000, 8))
    for metric in ("dot", "cosine"):
        chosen = subsel.greedy(GraphCut.from_features(X, metric), 100)
        assert chosen.n_evaluations < 5000 * 100 / 5
        f = GraphCut.from_features(X - 1, metric, lam=0.1)  # products of both signs
        assert subsel.greedy(f, 20).n_evaluations < 5000 * 20 / 3


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_copies_are_at_distance_exactly_zero(X, metric):
    big = 1e6 + X.astype(np.float32)
    big[200] = big[5]
    for features in (X, big):
        f = DisparitySum.from_features(features, metric)
        f.add(5)
        same = [200, 300] if metric == "cosine" and features is X else [200]
        assert (f.gains(same) == 0).all()
        assert f.value([5, 200]) == 0


def test_rows_of_zeros_are_orthogonal_to_all_but_their_like():
    f = SumRedundancy.from_features([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    f.add(0)
    assert f.gains([1, 2]).tolist() == [-1.0, -3.0]
    f = DisparitySum.from_features([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], "cosine")
    f.add(0)
    np.testing.assert_allclose(f.gains([1, 2]), [1.0, 0.0], atol=1e-15)


def test_the_first_of_many_equals_has_the_lowest_index(X):
    X = X[18:]
    for f in (
        SumRedundancy.from_features(X, "cosine"), SumRedundancy.from_features(X, "rbf"),
        DisparitySum.from_features(X), DisparityMin.from_features(X),
    ):  # fmt: skip
        assert subsel.greedy(f, 1).indices.tolist() == [0]


def test_farthest_first_beside_what_is_given():
    points = np.array([[0.0], [0.1], [3.0], [9.0], [5.0]])
    chosen = subsel.greedy(DisparityMin.from_features(points), 3, given=[0, 1])
    assert chosen.indices.tolist() == [3, 4, 2]
    assert chosen.gains.tolist() == [0, 0, 0]
    assert chosen.value == pytest.approx(0.1)


def test_more_elements_than_distinct_rows():
    X = np.repeat(np.arange(4.0)[:, None] ** 2, 3, axis=0)
    for cls in (DisparityMin, DisparitySum, SumRedundancy, GraphCut):
        f = cls(np.abs(X - X.T)) if cls in (DisparityMin, DisparitySum) else cls(X @ X.T)
        chosen = subsel.greedy(f, 12)
        assert sorted(chosen.indices) == [*range(12)]
    farthest = subsel.greedy(DisparityMin.from_features(X), 6)
    assert farthest.indices[:4].tolist() == [0, 9, 6, 3]
    assert farthest.value == 0


def test_diversity_is_bought_with_lam(X):
    redundancy = [
        -reference.sum_redundancy(
            raw(X, "rbf"), subsel.greedy(GraphCut.from_features(X, "rbf", lam=lam), 20).indices
        )
        for lam in (0, 0.5, 5, 50)
    ]
    assert sorted(redundancy, reverse=True) == redundancy
    assert redundancy[-1] < redundancy[0]


@pytest.mark.parametrize("n", [1, 2, 64, 65])
def test_sizes_around_a_tile(n):
    X = np.random.default_rng(n).standard_normal((n, 3))
    for cls, metric in CASES:
        chosen = subsel.greedy(cls.from_features(X, metric), n)
        assert sorted(chosen.indices) == [*range(n)]


def test_all_zeros():
    for cls in (GraphCut, SumRedundancy, DisparitySum, DisparityMin):
        for f in (cls(np.zeros((3, 3))), cls.from_features(np.zeros((3, 2)))):
            chosen = subsel.greedy(f, 3)
            assert chosen.indices.tolist() == [0, 1, 2] or cls in (GraphCut, SumRedundancy)


def test_what_a_repr_says():
    assert repr(GraphCut(np.eye(2), lam=0.25)) == "GraphCut(n=2, lam=0.25, path='dense')"
    assert repr(SumRedundancy(scipy.sparse.eye(2))) == "SumRedundancy(n=2, path='sparse')"


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: GraphCut(np.array([[1.0, np.nan], [0, 1]])), r"similarity\[0, 1\] is nan"),
        (lambda: GraphCut(scipy.sparse.csr_array([[0, np.inf], [0, 1]])), r"\[0, 1\] is inf"),
        (lambda: GraphCut(np.ones((2, 3))), r"square, \(n, n\), not of shape \(2, 3\); or give"),
        (lambda: GraphCut(np.ones((2, 3)), redundancy=np.eye(2)), "similarity has 3 candidates"),
        (lambda: GraphCut(GOOD, redundancy=np.ones((3, 2))), "redundancy must be square"),
        (lambda: GraphCut(GOOD, private=np.ones((2, 3))), "private must have one row for each"),
        (lambda: GraphCut(GOOD, private=[[np.inf]] * 3), r"private\[0, 0\] is inf"),
        (lambda: GraphCut(GOOD, lam=-1), "lam must be"),
        (lambda: GraphCut(GOOD, lam=np.nan), "lam must be"),
        (lambda: GraphCut(GOOD, nu=-1), "nu must be"),
        (lambda: GraphCut(GOOD, backend="cuda"), "on the CPU only: pass backend='cpu'"),
        (lambda: GraphCut(np.empty((0, 0))), "must not be empty"),
        (lambda: GraphCut.from_features(GOOD, "euclidean"), "metric must be one of 'dot'"),
        (lambda: GraphCut.from_features(GOOD, gamma=1.0), "gamma needs metric='rbf'"),
        (lambda: GraphCut.from_features(GOOD, "rbf", gamma=0), "gamma must be"),
        (lambda: GraphCut.from_features([[1e200]], "dot"), "X has entries up to 1e.200"),
        (lambda: GraphCut.from_features([[np.nan]]), r"X\[0, 0\] is nan"),
        (lambda: GraphCut.from_features(GOOD, private=np.ones((2, 2))), "as many features as X, 3"),
        (lambda: GraphCut.from_features(GOOD, private=[[1, 2, np.nan]]), r"private\[0, 2\] is nan"),
        (lambda: GraphCut(1e200 * GOOD), r"numbers as large as 1e\+200, .* rescale it"),
        (lambda: SumRedundancy(-1e200 * scipy.sparse.eye(3)), "rescale it"),
        (lambda: GraphCut(GOOD, lam=1e60), "lam must be"),
        (lambda: SumRedundancy(np.ones(3)), "similarity must be 2-D"),
        (lambda: DisparitySum([[0, -1], [-1, 0]]), r"distances\[0, 1\] is -1.0; .* negative"),
        (lambda: DisparitySum([[0, 1], [2, 0]]), r"symmetric, but distances\[0, 1\] .* by 1:"),
        (lambda: DisparityMin(GOOD), r"distances\[0, 0\] is 1.0, .* similarities\?"),
        (lambda: DisparityMin([[0, np.inf], [np.inf, 0]]), r"distances\[0, 1\] is inf"),
        (lambda: DisparityMin(GOOD).add(7), "similarities"),
        (lambda: DisparityMin.from_features(GOOD, "dot"), "metric must be one of 'euclidean'"),
        (lambda: GraphCut(GOOD).restrict([]), "candidates must not be empty"),
        (lambda: DisparitySum.from_features(GOOD).restrict([3]), r"candidates\[0\] is 3"),
        (lambda: subsel.lazy_greedy(DisparitySum.from_features(GOOD), 2), "use subsel.greedy"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_sparse_distances_and_text_are_refused():
    with pytest.raises(TypeError, match="absent distances are not 0"):
        DisparitySum(scipy.sparse.eye(3))
    with pytest.raises(TypeError, match="similarity must be numeric"):
        GraphCut([["a"]])
    with pytest.raises(ValueError, match="metric of sparse X must be one of"):
        GraphCut.from_features(scipy.sparse.eye(3), "rbf")


def test_what_rounding_left_of_a_distance_matrix_is_forgiven(X):
    D = distances(X, "euclidean")
    noise = 1 + 1e-15 * np.random.default_rng(1).standard_normal(D.shape)
    noisy = D * noise
    np.fill_diagonal(noisy, 1e-9)
    assert DisparityMin(noisy).value([5, 200]) == 0
    np.testing.assert_array_equal(
        subsel.greedy(DisparityMin(noisy), 9).indices, subsel.greedy(DisparityMin(D), 9).indices
    )


def test_no_matrix_is_made():
    import tracemalloc

    X = np.random.default_rng(0).standard_normal((20_000, 10)).astype(np.float32)
    for cls, metric in CASES:
        if metric == "rbf" and cls is GraphCut:
            continue  # its pass over all pairs takes a while
        subsel.greedy(cls.from_features(X[:3000], metric), 3)  # compile, or load
        tracemalloc.start()
        try:
            subsel.greedy(cls.from_features(X, metric), 10)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 12 * X.nbytes
