"""Log-determinants: long searches, kernels that are not positive definite, and what is refused."""

import re

import numba
import numpy as np
import pytest
import scipy.sparse
from stepwise import same_in_steps

import subsel
from subsel import LogDeterminant
from subsel.kernels import reference
from subsel.sources import linear

N, D = 300, 12


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).standard_normal((N, D))


def raw(X, metric):
    return reference.similarity(X, metric, c0={"dot": 0.0, "cosine": 1.0}.get(metric))


@pytest.mark.parametrize("metric", ["dot", "cosine", "rbf"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_searches_stay_exact(X, metric, dtype):
    X = X.astype(dtype)
    L = np.eye(N) + 2.0 * raw(X.astype(np.float64), metric)
    by_features = LogDeterminant.from_features(X, metric=metric, scale=2.0)
    by_kernel = LogDeterminant(L)
    for f in (by_features, by_kernel):
        chosen = subsel.greedy(f, 150)
        for count in (1, 63, 64, 65, 150):
            wanted = np.linalg.slogdet(L[np.ix_(chosen.indices[:count], chosen.indices[:count])])[1]
            np.testing.assert_allclose(chosen.values[count - 1], wanted, rtol=1e-11)
            np.testing.assert_allclose(f.value(chosen.indices[:count]), wanted, rtol=1e-11)
        some = np.setdiff1d(np.arange(0, N, 7), chosen.indices)
        rest = chosen.indices
        solved = np.linalg.solve(L[np.ix_(rest, rest)], L[np.ix_(rest, some)])
        left = L[some, some] - (L[np.ix_(rest, some)] * solved).sum(axis=0)
        np.testing.assert_allclose(f.gains(some), np.log(left), rtol=1e-9)
        assert f.monotone
        assert f.submodular


@pytest.mark.parametrize("metric", ["dot", "rbf"])
def test_bits_do_not_depend_on_threads_or_layout(X, metric, monkeypatch):
    for module in ("columns", "residuals", "linear"):
        monkeypatch.setattr(f"subsel.sources.{module}.PARALLEL_WORK", 0)
    K = raw(X, metric)
    threads = numba.get_num_threads()
    query, private = X[:9] + 0.5, X[9:20] - 0.5
    found = []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for ordered in (np.ascontiguousarray, np.asfortranarray):
                by_kernel = LogDeterminant(ordered(K), ridge=1.0)
                by_features = LogDeterminant.from_features(
                    ordered(X), metric=metric, query=query, private=private
                )
                found.append([subsel.greedy(f, 70) for f in (by_kernel, by_features)])
    finally:
        numba.set_num_threads(threads)
    for first, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(other.indices, first.indices)
            np.testing.assert_array_equal(other.gains, first.gains)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("whole", [False, True])
def test_lazily_the_same_bits_as_from_every_gain(metric, threads, whole, monkeypatch):
    monkeypatch.setattr(linear, "threads", lambda: threads)
    monkeypatch.setattr(linear, "PARALLEL_WORK", 5000)
    monkeypatch.setattr(linear, "PORTION", 2000)
    X = np.random.default_rng(1).normal(size=(700, 5))
    X = np.rint(X) if whole else X  # with many ties
    f, plain = (LogDeterminant.from_features(X, metric=metric, scale=0.5) for _ in range(2))
    same_in_steps(f, plain, np.arange(700) % 7 == 3)


def test_copies_come_last_and_say_so():
    X = np.random.default_rng(1).standard_normal((6, 40))
    X = np.concatenate([X, X[:3]])
    f = LogDeterminant(X @ X.T)
    chosen = subsel.greedy(f, 6)
    assert len({j % 6 for j in chosen.indices}) == 6
    with pytest.warns(RuntimeWarning, match="is a combination of those selected before it"):
        chosen = subsel.greedy(f, 9)
    assert sorted(chosen.indices) == [*range(9)]
    assert np.isfinite(chosen.gains).all()
    assert (chosen.gains[6:] < chosen.gains[:6].min() - 20).all()
    np.testing.assert_allclose(chosen.gains[6:], np.sort(chosen.gains[6:])[::-1])
    assert chosen.value == pytest.approx(f.value(chosen.indices))
    stopped = subsel.greedy(f, 9, min_gain=-20.0)
    assert (len(stopped), stopped.stopped) == (6, "min_gain")
    # What is worth as much as nothing is where an unconstrained search stops.
    g = LogDeterminant(0.9 * np.eye(3) + np.diag([1.0, 0, 1]))
    assert subsel.greedy(g, 3, min_gain=0).indices.tolist() == [0, 2]


def test_a_copy_changes_nothing_for_the_others():
    X = np.random.default_rng(2).standard_normal((9, 5))
    f = LogDeterminant(np.concatenate([X, X]) @ np.concatenate([X, X]).T)
    f.add(0)
    before = f.gains(np.arange(1, 9))
    f.add(9)
    assert "element 9 is a combination" in f.caution
    np.testing.assert_array_equal(f.gains(np.arange(1, 9)), before)


def test_a_mixture_passes_the_caution_on():
    f = 2.0 * LogDeterminant(np.ones((2, 2))) + subsel.Modular([1.0, 1.0])
    with pytest.warns(RuntimeWarning, match="element 1 is a combination"):
        subsel.greedy(f, 2)
    assert subsel.greedy(f, 1).indices.tolist() == [0]


def test_shares_of_equal_features():
    """Hamming, whose shares of few columns tie, so that no selection is compared in `members`."""
    X = np.random.default_rng(6).integers(0, 3, (N, 7))
    L = np.eye(N) + 1.5 * (X[:, None] == X).mean(axis=2)
    for store in (np.float32, np.float64, np.int8):
        f = LogDeterminant.from_features(X.astype(store), metric="hamming", scale=1.5)
        chosen = subsel.greedy(f, 40)
        for count in (1, 2, 9, 40):
            some = chosen.indices[:count]
            wanted = np.linalg.slogdet(L[np.ix_(some, some)])[1]
            np.testing.assert_allclose(chosen.values[count - 1], wanted, rtol=1e-11)
            np.testing.assert_allclose(f.value(some), wanted, rtol=1e-11)
        subsel.testing.check_objective(f.restrict(np.arange(0, N, 9)))


def test_copies_among_features_need_no_ridge(X):
    f = LogDeterminant.from_features(np.concatenate([X, X]), scale=1e3)
    chosen = subsel.greedy(f, 2 * N)
    assert (chosen.gains > 0).all()
    assert (np.diff(chosen.gains) <= 1e-9).all()


@pytest.mark.parametrize("where", ["at once", "later"])
def test_a_kernel_that_is_not_positive_definite_says_what_cures_it(where):
    random = np.random.default_rng(3)
    A = random.standard_normal((20, 20))
    K = (A + A.T) / 2
    np.fill_diagonal(K, -1.0 if where == "at once" else 3.0)
    with pytest.raises(ValueError, match=r"ridge") as raised:
        subsel.greedy(LogDeterminant(K), 20)
    if where == "at once":
        assert "kernel[0, 0] is -1" in str(raised.value)
        return
    assert re.search(r"pivot \d+, of element \d+ beside \[", str(raised.value))
    ridge = float(re.search(r"ridge=([\d.e+-]+) is enough", str(raised.value))[1])
    chosen = subsel.greedy(LogDeterminant(K, ridge=ridge), 20)
    assert np.isfinite(chosen.gains).all()


def test_monotone_only_where_no_residual_falls_below_one():
    K = np.array([[2.0, 1.5], [1.5, 2.0]])
    assert not LogDeterminant(K).monotone
    assert LogDeterminant(K, ridge=0.5).monotone
    assert not LogDeterminant(np.eye(2) / 2).monotone
    assert not LogDeterminant(np.ones((2, 2)) + 1).monotone
    assert LogDeterminant(K, ridge=0.5, quality=[1.0, 2.0]).monotone
    assert not LogDeterminant(K, ridge=0.5, quality=[0.7, 2.0]).monotone
    assert not LogDeterminant.from_features(K, quality=[0.9, 2.0]).monotone
    with pytest.raises(ValueError, match="not monotone"):
        subsel.greedy(LogDeterminant(K), coverage=0.5)


def test_elements_like_the_query_and_unlike_the_private_items():
    corners = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    X = np.repeat(corners, 20, axis=0) + np.random.default_rng(4).normal(0, 0.05, (60, 3))

    def corner(**items):
        f = LogDeterminant.from_features(X, scale=20.0, **items)
        return set((subsel.greedy(f, 3).indices // 20).tolist())

    assert corner(query=corners[:1]) == {0}
    assert 1 not in {*corner(private=100 * corners[1:2])} or corner() == {0, 1, 2}
    assert LogDeterminant.from_features(X, private=100 * corners[1:2]).gains([25])[0] < 0.1
    first = subsel.greedy(
        LogDeterminant.from_features(X, query=corners[:2], private=100 * corners[:1]), 1
    )
    assert first.indices[0] // 20 == 1


def test_a_query_that_explains_an_element_wholly_is_finite():
    K = raw(np.random.default_rng(5).standard_normal((5, 4)), "rbf")
    f = LogDeterminant(K, query=(K[:, :2], K[:2, :2]))
    chosen = subsel.greedy(f, 3)
    assert set(chosen.indices[:2]) == {0, 1}
    assert np.isfinite(chosen.gains).all()


@pytest.mark.parametrize("n", [1, 2, 5, 64, 65])
def test_sizes_around_a_tile(n):
    X = np.random.default_rng(n).standard_normal((n, 3))
    for metric in ("dot", "cosine", "rbf"):
        f = LogDeterminant.from_features(X, metric=metric)
        chosen = subsel.greedy(f, n)
        assert sorted(chosen.indices) == [*range(n)]
        L = np.eye(n) + raw(X, metric)
        np.testing.assert_allclose(chosen.value, np.linalg.slogdet(L)[1], rtol=1e-11)


def test_all_zeros_from_features():
    chosen = subsel.greedy(LogDeterminant.from_features(np.zeros((3, 2))), 3)
    assert chosen.indices.tolist() == [0, 1, 2]
    assert chosen.gains.tolist() == [0, 0, 0]


def test_a_kernel_of_float32_is_not_taken_for_indefinite(X):
    K = (X @ X.T).astype(np.float32)
    K = (K + K.T) / 2
    with pytest.warns(RuntimeWarning, match="combination"):
        chosen = subsel.greedy(LogDeterminant(K), 2 * D)
    exact = np.linalg.slogdet((X @ X.T)[np.ix_(chosen.indices[:D], chosen.indices[:D])])[1]
    np.testing.assert_allclose(chosen.values[D - 1], exact, rtol=1e-4)


def test_what_a_repr_says():
    assert repr(LogDeterminant(np.eye(2))) == "LogDeterminant(n=2, path='dense')"


GOOD = np.eye(3)
ITEMS = np.zeros((3, 2)), np.eye(2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LogDeterminant(np.ones((2, 3))), "kernel must be square"),
        (lambda: LogDeterminant([[1, np.nan], [0, 1]]), r"kernel\[0, 1\] is nan"),
        (lambda: LogDeterminant([[1, 0.5], [0.4, 1]]), r"symmetric, but kernel\[0, 1\].* by 0.1"),
        (lambda: LogDeterminant(scipy.sparse.csr_array([[1, 0.5], [0, 1]])), "symmetric, but"),
        (lambda: LogDeterminant(np.zeros((2, 2))), r"kernel\[0, 0\] is 0 .* must be positive"),
        (lambda: LogDeterminant(GOOD, ridge=-1), "ridge must be"),
        (lambda: LogDeterminant(GOOD, eta=-1), "eta must be"),
        (lambda: LogDeterminant(GOOD, nu=np.inf), "nu must be"),
        (lambda: LogDeterminant(GOOD, quality=[1, 1]), "one number for each candidate"),
        (lambda: LogDeterminant(GOOD, quality=[1, 0, 1]), r"quality\[1\] is 0.0; .* above 0"),
        (lambda: LogDeterminant(GOOD, quality=np.ones(3), query=ITEMS), "quality cancels out"),
        (lambda: LogDeterminant(GOOD, query=np.eye(3)), "query must be a tuple of 2 kernels"),
        (lambda: LogDeterminant(GOOD, query=ITEMS, private=ITEMS), "tuple of 3 kernels"),
        (lambda: LogDeterminant(GOOD, query=ITEMS, private=(*ITEMS, np.eye(3))), "private x query"),
        (lambda: LogDeterminant(GOOD, query=(np.eye(2), np.eye(2))), "for each of 3 candidates"),
        (lambda: LogDeterminant(GOOD, query=(np.eye(3), np.eye(2))), r"query\[1\] must be 3 x 3"),
        (lambda: LogDeterminant(GOOD, private=(GOOD, np.ones((3, 3)))), r"private\[1\] is not pos"),
        (lambda: LogDeterminant(GOOD, private=(GOOD, np.triu(np.ones((3, 3))))), "symmetric"),
        (lambda: LogDeterminant(GOOD, private=(0.9 * GOOD, GOOD), nu=2), "lower eta or nu"),
        (lambda: LogDeterminant(GOOD, backend="cuda"), "LogDeterminant is computed on the CPU"),
        (lambda: LogDeterminant.from_features(GOOD, scale=0), "scale must be"),
        (lambda: LogDeterminant.from_features(1e9 * GOOD), "lower scale"),
        (lambda: LogDeterminant.from_features(GOOD, metric="euclidean"), "metric must be one of"),
        (lambda: LogDeterminant.from_features(GOOD, query=[[1, 2]]), "as many features as X, 3"),
        (lambda: LogDeterminant.from_features(GOOD, private=9 * GOOD, nu=2), "lower eta or nu"),
        (lambda: LogDeterminant(GOOD).restrict([]), "candidates must not be empty"),
        (lambda: subsel.lazy_greedy(LogDeterminant(GOOD, query=ITEMS), 2), "use subsel.greedy"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_no_matrix_is_made():
    import tracemalloc

    X = np.random.default_rng(0).standard_normal((20_000, 10)).astype(np.float32)
    for metric, limit in (("dot", 12), ("cosine", 12), ("rbf", 25)):
        subsel.greedy(LogDeterminant.from_features(X[:3000], metric=metric), 3)  # compile, or load
        tracemalloc.start()
        try:
            subsel.greedy(LogDeterminant.from_features(X, metric=metric), 30)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < limit * X.nbytes
