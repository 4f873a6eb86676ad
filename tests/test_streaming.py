"""`StreamSelector` is sieve streaming over all rows at once, which it never has."""

import pickle

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import subsel
from subsel import StreamSelector

random = np.random.default_rng(0)
X = random.standard_normal((2500, 6))
X[7] = 0
POINTS = random.standard_normal((80, 6))


def similarity(points, metric):
    """Of points and all rows, by the formula."""
    squares = cdist(points, X, "sqeuclidean")
    if metric == "rbf":
        return np.exp(-squares / 6)
    if metric == "euclidean":
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        c0 = 2 * np.linalg.norm(points - middle, axis=1).max()
        return np.maximum(c0 - np.sqrt(squares), 0)
    lengths = np.linalg.norm(points, axis=1)[:, None] * np.linalg.norm(X, axis=1)
    return 1 + points @ X.T / np.where(lengths == 0, 1, lengths)


def streamed(selector, sizes):
    start = 0
    for size in sizes:
        selector.partial_fit(X[start : start + size])
        start += size
    assert start == selector.n_rows == len(X)
    return selector.result()


def same(chosen, wanted):
    np.testing.assert_array_equal(chosen.indices, wanted.indices)
    np.testing.assert_array_equal(chosen.gains, wanted.gains)
    np.testing.assert_array_equal(chosen.features, wanted.features)
    assert chosen.value == wanted.value


CUTS = [[2500], [1, 511, 1, 1000, 987], [250] * 10]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "rbf"])
@pytest.mark.parametrize("points", [POINTS, 600])
def test_it_is_sieve_streaming_however_the_rows_are_cut(metric, points):
    own = X[:600] if isinstance(points, int) else points
    S = similarity(own, metric)
    wanted = subsel.sieve_streaming(S, 9, 0.2)
    results = [streamed(StreamSelector(9, points, metric=metric, epsilon=0.2), cut) for cut in CUTS]
    for chosen in results:
        same(chosen, results[0])
        np.testing.assert_array_equal(chosen.indices, wanted.indices)
        np.testing.assert_allclose(chosen.values, wanted.values)
        np.testing.assert_array_equal(chosen.features, X[chosen.indices])
        np.testing.assert_array_equal(chosen.assignment, S[:, chosen.indices].argmax(axis=1))
        assert chosen.sizes.sum() == len(own)
        assert chosen.bound is None
    best = subsel.greedy(S, 9)
    assert wanted.value >= (0.5 - 0.2) * best.bound
    assert wanted.value >= 0.95 * best.value


def test_what_is_pickled_goes_on_as_it_would_have():
    cut = [300, 1, 700, 20, 479, 1000]
    wanted = streamed(StreamSelector(5, 100, metric="rbf"), cut)
    selector, start = StreamSelector(5, 100, metric="rbf"), 0
    for size in cut:
        selector = pickle.loads(pickle.dumps(selector))  # noqa: S301 - our own
        selector.partial_fit(X[start : start + size]).result()  # which changes nothing
        start += size
    same(selector.result(), wanted)


def test_memory_does_not_grow_with_the_rows():
    selector, sizes = StreamSelector(4, POINTS, metric="rbf"), []
    for _ in range(6):
        selector.partial_fit(X)
        sizes.append(len(pickle.dumps(selector)))
    most = 4 * np.log(8) / np.log(1.1)  # rows that thresholds keep
    assert max(sizes) < 8 * (POINTS.size + 6 * 512 + 9 * most) + 20_000
    assert selector.n_rows == 6 * len(X)


@pytest.mark.parametrize("wrong", ["nan", "interrupted"])
def test_a_chunk_that_fails_leaves_no_trace(wrong, monkeypatch):
    wanted = streamed(StreamSelector(5, POINTS), [1200, 1300])
    selector = StreamSelector(5, POINTS).partial_fit(X[:1200])
    if wrong == "nan":
        with pytest.raises(ValueError, match=r"chunk\[1299, 5\] is nan"):
            selector.partial_fit(np.concatenate([X[1200:].ravel()[:-1], [np.nan]]).reshape(-1, 6))
    else:
        take, calls = StreamSelector._take, []

        def interrupted(self, *arguments):
            calls.append(1)
            take(self, *arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(StreamSelector, "_take", interrupted)
            with pytest.raises(KeyboardInterrupt):
                selector.partial_fit(X[1200:])
    assert selector.n_rows == 1200
    same(selector.partial_fit(X[1200:]).result(), wanted)


def test_all_rows_are_points_where_they_are_few():
    chosen = StreamSelector(5, 3000, metric="rbf").partial_fit(X).result()
    wanted = StreamSelector(5, X, metric="rbf").partial_fit(X).result()
    same(chosen, wanted)


def test_few_rows_and_none_that_is_near():
    chosen = StreamSelector(7, metric="rbf").partial_fit(X[:3]).result()
    assert set(chosen.indices.tolist()) == {0, 1, 2}
    assert chosen.stopped == "exhausted"
    far = StreamSelector(7, POINTS).partial_fit(X + 1e9).result()
    assert (len(far), far.value, far.features.shape) == (0, 0.0, (0, 6))
    assert (far.assignment == -1).all()
    alike = StreamSelector(2, [[1.0], [1.0]]).partial_fit([[1.0], [5.0]]).result()
    assert alike.indices.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "budget must be"),
        ((0.5,), {}, "budget must be"),
        ((3, 0), {}, "points must be"),
        ((3, None), {}, "points must be"),
        ((3, POINTS[0]), {}, "points must be 2-D"),
        ((3, POINTS[:0]), {}, "points must not be empty"),
        ((3, POINTS * np.inf), {}, r"points\[0, 0\] is -?inf"),
        ((3, POINTS * 1e200), {}, "points spread over"),
        ((3,), {"metric": "dot"}, "metric must be"),
        ((3,), {"epsilon": 1}, "epsilon must be"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        StreamSelector(*arguments, **options)


def test_chunks_that_are_refused():
    selector = StreamSelector(3, POINTS)
    with pytest.raises(ValueError, match="no rows were processed yet"):
        selector.result()
    with pytest.raises(ValueError, match="chunk must have 6 columns, not 5"):
        selector.partial_fit(X[:, :5])
    with pytest.raises(ValueError, match="chunk must not be empty"):
        selector.partial_fit(X[:0])
    with pytest.raises(ValueError, match="chunk must be 2-D"):
        selector.partial_fit(X[0])
    assert selector.n_rows == 0
    first = StreamSelector(3, 10)
    with pytest.raises(ValueError, match="points spread over"):
        first.partial_fit(X * 1e200)
    assert len(first.partial_fit(X[:, :2]).result()) > 0  # of other columns
