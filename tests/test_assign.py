"""`assign` against the nearest representative by the formula, in float64."""

import numpy as np
import pytest
import scipy.sparse

import subsel
from subsel import assignment

random = np.random.default_rng(0)
NEW = random.standard_normal((3000, 5))
KEPT = random.standard_normal((40, 5))


def nearness(metric):
    """Of all new points and representatives (n, k), the larger the nearer."""
    squares = ((NEW[:, None] - KEPT) ** 2).sum(axis=2)
    products = NEW @ KEPT.T
    lengths = np.linalg.norm(NEW, axis=1)[:, None] * np.linalg.norm(KEPT, axis=1)
    return {
        "euclidean": -np.sqrt(squares),
        "cosine": products / lengths,
        "dot": products,
        "rbf": np.exp(-squares / 5),
    }[metric]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
def test_it_is_the_nearest(metric, dtype):
    wanted = nearness(metric)
    at, near = subsel.assign(NEW.astype(dtype), KEPT.astype(dtype), metric)
    assert at.dtype == np.int64
    assert near.dtype == np.float64
    if dtype == np.float64:
        np.testing.assert_array_equal(at, wanted.argmax(axis=1))
    tolerance = 1e-11 if dtype == np.float64 else 1e-5
    best = -wanted.max(axis=1) if metric == "euclidean" else wanted.max(axis=1)
    np.testing.assert_allclose(near, best, rtol=tolerance, atol=tolerance)
    found = wanted[np.arange(len(NEW)), at]
    np.testing.assert_allclose(found, wanted.max(axis=1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_is_the_assignment_of_a_selection(metric, dtype):
    X = NEW[:1000].astype(dtype)
    X[::7] = X[3]  # equals
    X[5] = 0
    chosen = subsel.select(X, 20, metric=metric)
    at, near = subsel.assign(X, X[chosen.indices], metric)
    np.testing.assert_array_equal(at, chosen.assignment)
    if metric == "euclidean":
        assert (near[chosen.indices] == 0).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neither_memory_nor_threads_nor_layout_change_it(metric, monkeypatch):
    new = NEW.copy()
    new[1700] = 0  # its block alone has a row of zeros
    wanted = subsel.assign(new, KEPT, metric)
    monkeypatch.setattr(assignment.cpu, "threads", lambda: 1)
    sizes = []
    facing = assignment.Conditioned.facing

    def noted(self, count):
        sizes.append(count)
        return facing(self, count)

    monkeypatch.setattr(assignment.Conditioned, "facing", noted)
    for memory in (0, 200_000, None):
        found = subsel.assign(np.asfortranarray(new), KEPT.tolist(), metric, memory=memory)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])
    assert {64, 3000} < set(sizes)
    assert sum(sizes) == 3 * 3000


def test_the_first_of_equals():
    at, near = subsel.assign([[1.0], [0.0]], [[2.0], [0.0], [2.0], [0.0]])
    np.testing.assert_array_equal(at, [0, 1])
    np.testing.assert_array_equal(near, [1.0, 0.0])
    assert not np.signbit(near).any()


def test_float64_counts_if_either_is():
    kept = np.array([[1.0 + 1e-12], [1.0]])
    assert subsel.assign(np.ones((1, 1), np.float32), kept)[0] == [1]
    assert subsel.assign(kept[:1], np.array([[1.0], [2.0]], np.float32))[1] == pytest.approx(
        1e-12, rel=1e-3
    )


def test_large_and_small_features():
    for size in (1e-30, 1e30):
        at, near = subsel.assign(size * NEW[:50].astype(np.float32), size * KEPT.astype("f4"))
        np.testing.assert_array_equal(at, nearness("euclidean")[:50].argmax(axis=1))
        np.testing.assert_allclose(near / size, -nearness("euclidean")[:50].max(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((NEW, KEPT[:, :4]), {}, "representatives must have the 5 columns that X_new has, not 4"),
        ((NEW[:0], KEPT), {}, "X_new must not be empty"),
        ((NEW, KEPT[:0]), {}, "representatives must not be empty"),
        ((NEW[0], KEPT), {}, "X_new must be 2-D"),
        ((NEW, KEPT[0]), {}, "representatives must be 2-D"),
        ((np.where(NEW[7, 2] == NEW, np.nan, NEW), KEPT), {}, r"X_new\[7, 2\] is nan"),
        ((NEW, np.where(KEPT[3, 1] == KEPT, np.inf, KEPT)), {}, r"representatives\[3, 1\] is inf"),
        ((NEW, KEPT, "chebyshev"), {}, "metric must be"),
        ((NEW, KEPT, "precomputed"), {}, "metric must be"),
        ((NEW, KEPT), {"backend": "cuda"}, "assign works on the CPU only"),
        ((NEW, KEPT), {"memory": -1}, "memory must be"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        subsel.assign(*arguments, **options)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_sparse_features(metric, dtype):
    X = scipy.sparse.random_array((900, 40), density=0.2, random_state=0, dtype=dtype)
    X.data -= 0.3
    X = X.tolil()
    X[5] = 0  # a text without a word
    X[::7] = X[[3]]  # equals
    X = X.tocsr()
    chosen = subsel.select(X, 20, metric=metric)
    kept = X[chosen.indices]
    at, near = subsel.assign(X, kept, metric)
    assert at.dtype == np.int64
    np.testing.assert_array_equal(at, chosen.assignment)
    dense = subsel.assign(X.toarray(), kept.toarray(), metric)
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(near, dense[1], rtol=tolerance, atol=tolerance)
    later = X[:100].tocoo()
    for new, others in [(later, kept), (later, kept.toarray()), (later.toarray(), kept.tocsc())]:
        again = subsel.assign(new, others, metric)
        np.testing.assert_array_equal(again[0], at[:100])
        np.testing.assert_allclose(again[1], near[:100], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("new", "kept", "metric", "message"),
    [
        (NEW, KEPT, "euclidean", "metric of sparse X_new must be one of 'cosine', 'dot'"),
        (NEW, KEPT, lambda A, B: A @ B.T, "metric of sparse X_new must be one of"),
        (NEW, KEPT[:, :4], "dot", "representatives must have the 5 columns that X_new has, not 4"),
        (NEW * np.nan, KEPT, "dot", r"X_new\[0, 0\] is nan"),
        (NEW[:0], KEPT, "dot", "X_new must not be empty"),
    ],
)
def test_sparse_features_that_are_refused(new, kept, metric, message):
    with pytest.raises(ValueError, match=message):
        subsel.assign(scipy.sparse.csr_array(new), kept, metric)


def test_text_is_refused():
    with pytest.raises(TypeError, match="representatives"):
        subsel.assign(NEW, [["a"] * 5])
