"""Selection from features: metrics, exactness, and the same answer on every path."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits

import subsel
from subsel import sources
from subsel.allowed import apportion
from subsel.kernels import cpu, reference
from subsel.sources import METRICS
from subsel.sources.features import Conditioned
from subsel.validation import portion


@pytest.fixture(params=METRICS)
def metric(request):
    return request.param


@pytest.fixture(scope="session")
def gradients():
    """Last-layer gradients of a softmax regression on digits: most of them nearly zero."""
    images, labels = load_digits(return_X_y=True)
    X = np.column_stack([images / 16, np.ones(len(images))])
    onehot = np.eye(10)[labels]
    weights = np.zeros((65, 10))
    for _ in range(300):
        scores = X @ weights
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        weights -= 5.0 * X.T @ (p - onehot) / len(X)
    return (p - onehot).astype(np.float32), labels


@pytest.fixture(scope="session")
def images():
    return load_digits().data[:700].astype(np.float32)


def assert_greedy(S, selection, slack):
    """Each element had the largest gain up to `slack`, by the specification."""
    for step in range(0, len(selection), max(1, len(selection) // 25)):
        chosen = list(selection.indices[:step])
        gains = reference.gains(S, chosen)
        gains[chosen] = -np.inf
        assert gains[selection.indices[step]] >= gains.max() - slack
        assert selection.gains[step] == pytest.approx(gains[selection.indices[step]], abs=slack)


def test_every_metric_against_the_specification(metric, gradients, images):
    for X in (gradients[0][:600], images, images.astype(np.float64)):
        for memory in (0, 1e9):
            f = subsel.FacilityLocation.from_features(X, metric, memory=memory)
            S = reference.similarity(X, metric, c0=f.offset)
            selection = subsel.lazy_greedy(f, 80)
            assert S.min() >= -1e-12 * abs(S).max()
            assert_greedy(S, selection, slack=2e-6 * S.sum() / len(S))
            assert selection.value == pytest.approx(reference.value(S, selection.indices), rel=1e-6)
            wanted = reference.value(S, reference.greedy(S, 80)[0])
            assert selection.value == pytest.approx(wanted, rel=1e-6)
            assignment, sizes = f.assign(selection.indices)
            mine = S[np.arange(len(X)), selection.indices[assignment]]
            assert mine == pytest.approx(S[:, selection.indices].max(axis=1), abs=1e-5 * S.max())
            assert sizes.sum() == len(X)


def test_dot_products_of_integers_are_exact():
    X = np.random.default_rng(0).integers(-3, 4, (150, 7))
    for memory in (0, 1e9):
        f = subsel.FacilityLocation.from_features(X, "dot", memory=memory)
        S = reference.similarity(X, "dot", c0=f.offset)
        selection = subsel.greedy(f, 150)
        np.testing.assert_array_equal(selection.indices, reference.greedy(S, 150)[0])


def test_distances_on_a_line_of_integers_are_exact():
    X = np.random.default_rng(0).integers(0, 40, (200, 1))
    f = subsel.FacilityLocation.from_features(X)
    S = reference.similarity(X, c0=f.offset)
    selection = subsel.greedy(f, 200)
    np.testing.assert_array_equal(selection.indices, reference.greedy(S, 200)[0])
    np.testing.assert_array_equal(selection.gains, reference.greedy(S, 200)[1])
    for ours, wanted in zip(
        f.assign(selection.indices), reference.assign(S, selection.indices), strict=True
    ):
        np.testing.assert_array_equal(ours, wanted)


def same(a, b):
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.gains, b.gains)
    assert a.value == b.value


def test_memory_does_not_change_the_selection(metric, gradients):
    X = np.repeat(gradients[0][:500], 4, axis=1)  # wide enough that a matrix pays
    recomputed = subsel.select(X, 100, metric=metric, memory=0)
    in_memory = subsel.select(X, 100, metric=metric, memory=1e9)
    assert (recomputed.path, in_memory.path) == ("features", "dense")
    same(recomputed, in_memory)
    f = subsel.FacilityLocation.from_features(X, metric, memory=0)
    assert f.value(recomputed.indices) == recomputed.value
    np.testing.assert_array_equal(recomputed.assignment, in_memory.assignment)


@pytest.mark.parametrize("n", [1, 63, 64, 200])
def test_a_matrix_knows_its_sums_and_its_least_entry(metric, n):
    X = np.random.default_rng(n).normal(size=(n, 40)).astype(np.float32)
    similarity = Conditioned.of(X, metric, None).matrix()
    entries = similarity.matrix.astype(np.float64)
    np.testing.assert_array_equal(similarity.known[0], entries.sum(axis=0))
    assert similarity.known[1] == entries.min()


def test_rows_that_are_opposite_have_no_similarity_below_zero():
    """Half of their squared distance may be rounded to more than 2."""
    X = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    X = np.concatenate([X, -X])
    similarity = sources.features(X).similarity("cosine", None, 1e9)
    assert similarity.known[1] < -similarity.offset
    selections = [subsel.select(X, 30, metric="cosine", memory=memory) for memory in (0, 1e9)]
    same(*selections)
    assert selections[0].gains[0] == selections[1].gains[0]


@pytest.mark.parametrize("fraction", [1e-3, 0.1])
@pytest.mark.parametrize("memory", [0, 1e9])
def test_saturated_coverage_has_the_first_gains_of_its_formula(metric, fraction, memory):
    """They are the sums of rows where no point has more than its share from one element."""
    X = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    f = subsel.SaturatedCoverage.from_features(X, metric, fraction=fraction, memory=memory)
    g = subsel.SaturatedCoverage.from_features(X, metric, fraction=fraction, memory=memory)
    chosen = subsel.greedy(f, 9)
    some = np.arange(0, 300, 7)
    first = [g.value([j]) for j in some]
    np.testing.assert_array_equal(g.gains(some), first)
    assert chosen.gains[0] == max(g.value([j]) for j in range(300))
    part = subsel.greedy(f.restrict(some), 3)
    assert part.gains[0] == max(first)


@pytest.mark.parametrize("d", [1, 2, 9, 10, 17, 32])
def test_memory_does_not_change_the_selection_of_narrow_features(metric, d, monkeypatch):
    X = np.random.default_rng(d).standard_cauchy((333, d)).astype(np.float32)
    recomputed = subsel.select(X, 60, metric=metric, memory=0)
    monkeypatch.setattr("subsel.sources.scale.DENSE_FROM_DIMENSION", 1)
    in_memory = subsel.select(X, 60, metric=metric, memory=1e9)
    assert in_memory.path == "dense"
    same(recomputed, in_memory)


def test_a_matrix_is_made_of_few_rows_of_any_width(metric, monkeypatch):
    X = np.random.default_rng(0).standard_cauchy((91, 3)).astype(np.float32)
    recomputed = [subsel.select(X[:n], 30, metric=metric, memory=0) for n in (90, 91)]
    monkeypatch.setattr("subsel.sources.scale.FEW_ROWS", 90)
    chosen = [subsel.select(X[:n], 30, metric=metric) for n in (90, 91)]
    assert [part.path for part in chosen] == ["dense", "dense" if metric == "dot" else "features"]
    for part, other in zip(chosen, recomputed, strict=True):
        same(part, other)


def test_the_first_of_many_equal_rows_of_wide_features():
    """Rounding of a wide distance is larger than it looks; bounds on it have to allow for that."""
    X = np.zeros((700, 2048), np.float32)
    X[400:] = 0.8248119950294495
    for seed in range(6):
        Y = X[np.random.default_rng(seed).permutation(700)]
        first = int(np.flatnonzero(Y[:, 0] == 0)[0])
        assert subsel.select(Y, 1, memory=0).indices == subsel.select(Y, 1, memory=1e9).indices
        assert subsel.select(Y, 1, memory=0).indices == first


@pytest.mark.parametrize(
    ("metric", "dtype", "exponent"),
    [
        *itertools.product(["euclidean", "cosine"], [np.float32], [-100, 100, 126]),
        *itertools.product(["euclidean", "cosine"], [np.float64], [-600, 600, 970]),
        *itertools.product(["dot", "rbf"], [np.float32], [-100, 100, 126]),
        *itertools.product(["dot", "rbf"], [np.float64], [-480, 480]),
    ],
)
def test_scale_does_not_change_the_selection(metric, dtype, exponent):
    X = np.random.default_rng(0).random((200, 4)).astype(dtype)
    gammas = (0.5, 0.5 * 4.0**-exponent) if metric == "rbf" else (None, None)
    plain = subsel.FacilityLocation.from_features(X, metric, gamma=gammas[0])
    scaled = subsel.FacilityLocation.from_features(np.ldexp(X, exponent), metric, gamma=gammas[1])
    np.testing.assert_array_equal(
        subsel.greedy(scaled, 20).indices, subsel.greedy(plain, 20).indices
    )


def test_features_far_apart_in_magnitude():
    X = np.column_stack([np.full(200, 1e30), np.random.default_rng(0).random(200) * 1e-10])
    for dtype in (np.float32, np.float64):
        wide = subsel.select(X.astype(dtype), 5)
        narrow = subsel.select(X[:, 1:].astype(dtype), 5)
        np.testing.assert_array_equal(wide.indices, narrow.indices)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rbf_with_extreme_gamma(dtype):
    X = np.random.default_rng(0).random((50, 3)).astype(dtype)
    for gamma, gain in ((1e50, 1.0), (1e300, 1.0), (1e-50, 50.0), (1e-300, 50.0)):
        f = subsel.FacilityLocation.from_features(X, "rbf", gamma=gamma)
        assert f.gains([0]) == pytest.approx(gain)


def test_threads_do_not_change_the_selection(metric, gradients, monkeypatch):
    X, labels = gradients
    alone = subsel.select(X, 0.2, metric=metric), subsel.select(X, 0.2, labels=labels)
    monkeypatch.setattr("subsel.sources.base.PARALLEL_WORK", 0)
    monkeypatch.setattr(cpu, "threads", lambda: 2)
    same(subsel.select(X, 0.2, metric=metric), alone[0])
    monkeypatch.setattr(cpu, "threads", lambda: 1)
    same(subsel.select(X, 0.2, metric=metric), alone[0])
    same(subsel.select(X, 0.2, labels=labels), alone[1])


def test_order_of_rows_does_not_change_the_selection(gradients):
    X = np.unique(gradients[0], axis=0)
    shuffled = np.random.default_rng(0).permutation(len(X))
    a, b = subsel.select(X, 60), subsel.select(X[shuffled], 60)
    np.testing.assert_array_equal(a.gains, b.gains)


def test_pruning_looks_at_few_pairs():
    """Without bounds it is three looks at each pair: half of one before the first element, one
    after it, one and a half for what the others change."""
    X = np.random.default_rng(0).normal(size=(6000, 2)).astype(np.float32)
    assert subsel.select(X, 10).n_evaluations < 1.9 * len(X)


def test_blocks_that_cannot_lead_wait():
    """Far rows cannot be the best for long, so their gains are computed late: 1.52 otherwise."""
    random = np.random.default_rng(0)
    X = random.normal(size=(6000, 2)) * np.exp(2 * random.normal(size=(6000, 1)))
    chosen = subsel.select(X.astype(np.float32), 600)
    assert chosen.n_evaluations < 1.25 * len(X)
    same(chosen, subsel.select(X.astype(np.float32), 600, weights=np.ones(6000)))


@pytest.mark.parametrize("shift", [0, 1e3])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 1e30])
def test_near_duplicates_far_from_the_origin(shift, scale):
    """The Gram trick in float32 sees noise here."""
    random = np.random.default_rng(0)
    X = np.float64(np.float32((random.random((300, 4)) * 1e-3 + shift) * scale))
    f = subsel.FacilityLocation.from_features(X.astype(np.float32))
    S = reference.similarity(X / scale, c0=f.offset / scale)
    selection = subsel.greedy(f, 60)
    coverage = reference.value(S - S.min(), selection.indices)
    assert coverage == pytest.approx(
        reference.value(S - S.min(), reference.greedy(S, 60)[0]), rel=1e-5
    )


def test_identical_rows(metric):
    selection = subsel.select(np.ones((100, 3)), 10, metric=metric)
    np.testing.assert_array_equal(selection.indices, np.arange(10))
    np.testing.assert_array_equal(selection.sizes, [100] + [0] * 9)
    assert (selection.gains[1:] == 0).all()


def test_repeated_rows_are_covered_before_any_is_repeated(metric):
    X = np.repeat(np.random.default_rng(0).normal(size=(30, 4)), 3, axis=0)
    selection = subsel.select(X, 40, metric=metric)
    if metric != "dot":  # where a longer row may cover another better than its own copy
        assert len(set(selection.indices[:30] // 3)) == 30
    assert len(set(selection.indices)) == 40
    assert (selection.gains[30:] == 0).all()


def test_rows_of_zeros_in_cosine():
    X = np.array([[0, 0], [0, 0], [1, 0], [2, 0], [0, 3.0]])
    f = subsel.FacilityLocation.from_features(X, "cosine")
    S = np.stack([f.gains(np.arange(5))])
    np.testing.assert_array_equal(S, [[2 * 2 + 3, 2 * 2 + 3, 2 * 2 + 3, 2 * 2 + 3, 2 + 4]])


def test_points_without_positive_similarity_are_assigned_all_the_same():
    """EPIC's reference code drops them."""
    X = np.array([[1.0, 0], [1, 0.1], [-1, -0.2]])
    f = subsel.FacilityLocation.from_features(X, "cosine")
    np.testing.assert_array_equal(f.assign([1, 0])[0], [1, 0, 1])


def test_restricted_candidates(metric, gradients):
    X = gradients[0][:300]
    part = np.arange(5, 300, 7)
    f = subsel.FacilityLocation.from_features(X, metric)
    S = reference.similarity(X, metric, c0=f.offset)[:, part]
    selection = subsel.greedy(f.restrict(part), 20)
    assert_greedy(S, selection, slack=2e-6 * S.sum() / len(S))
    assert f.restrict(part).offset == f.offset
    again = subsel.greedy(f.restrict(part).restrict(np.arange(3, 20)), 5)
    assert_greedy(S[:, 3:20], again, slack=2e-6 * S.sum() / len(S))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 140), st.integers(1, 5)),
           elements=st.floats(-100, 100, width=16)),
    st.integers(1, 140),
)  # fmt: skip
def test_any_features(X, k):
    k = min(k, len(X))
    f = subsel.FacilityLocation.from_features(X)
    selection = subsel.lazy_greedy(f, k)
    S = reference.similarity(X, c0=f.offset)
    assert len(set(selection.indices)) == k
    assert (np.diff(selection.gains) <= 0).all()
    assert_greedy(S, selection, slack=1e-5 * (S.sum() / len(S) + 1e-6))
    np.testing.assert_array_equal(f.assignment, f.assign(selection.indices)[0])


@pytest.mark.parametrize("budget", [10, 0.1])
def test_labels_select_within_each_class(gradients, budget, metric):
    X, labels = gradients[0][:400], gradients[1][:400]
    chosen = subsel.select(X, budget, labels=labels, metric=metric)
    assert 0 < chosen.n_evaluations < 400
    assert (np.diff(chosen.gains) <= 0).all()
    assert chosen.sizes.sum() == 400
    assert (labels[chosen.indices[chosen.assignment]] == labels).all()
    counts = {10: np.ones(10, int), 0.1: -(-np.bincount(labels) // 10)}[budget]
    np.testing.assert_array_equal(np.bincount(labels[chosen.indices]), counts)
    for c in range(10):
        rows = np.flatnonzero(labels == c)
        alone = subsel.select(X[rows], int(counts[c]), metric=metric)
        of_class = labels[chosen.indices] == c
        np.testing.assert_array_equal(chosen.indices[of_class], rows[alone.indices])
        np.testing.assert_array_equal(chosen.gains[of_class], alone.gains)
        np.testing.assert_array_equal(chosen.sizes[of_class], alone.sizes)


def test_labels_of_any_kind_and_any_size():
    X = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.array(["b"] * 18 + ["a", "c"])
    chosen = subsel.select(X, 0.1, labels=labels)
    np.testing.assert_array_equal(sorted(labels[chosen.indices]), ["a", "b", "b", "c"])
    same(chosen, subsel.select(X, 0.1, labels=list(labels)))
    same(chosen, subsel.select(X, 0.1, labels=labels.astype(object)))
    np.testing.assert_array_equal(
        subsel.select(X, 3, labels=[7] * 20).indices, subsel.select(X, 3).indices
    )


def test_a_count_for_each_label():
    X = np.random.default_rng(0).normal(size=(30, 3))
    labels = np.array(["a"] * 10 + ["b"] * 20)
    chosen = subsel.select(X, {"b": 2, "a": 7}, labels=labels)
    np.testing.assert_array_equal(np.unique(labels[chosen.indices], return_counts=True)[1], [7, 2])
    for budget, message in [
        ({"a": 1}, "count for each label"),
        ({"a": 1, 0: 1}, "count for each label"),
        ({"a": 1, "b": 1, "c": 1}, "count for each label"),
        ({"a": 11, "b": 1}, r"budget\['a'\] must be a count in 1\.\.10"),
        ({"a": 0, "b": 1}, r"budget\['a'\] must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            subsel.select(X, budget, labels=labels)
    with pytest.raises(TypeError, match="budget must be"):
        subsel.select(X, {"a": 1})


def test_a_fraction_means_what_it_says():
    X = np.random.default_rng(0).normal(size=(30, 2))
    assert len(subsel.select(X, 0.1)) == 3  # though 0.1 * 30 > 3 in floating point
    assert len(subsel.select(X, 0.01)) == 1
    assert len(subsel.select(X, 0.34)) == 11
    assert len(subsel.select(X, np.float32(0.1))) == 3
    assert len(subsel.select(X, np.array(0.1))) == 3
    assert portion(0.07, 2 * 10**8) == 14 * 10**6
    labels = np.arange(200) >= 195
    X = np.random.default_rng(0).normal(size=(200, 2))
    assert len(subsel.select(X, np.array(0.013), labels=labels)) == 3 + 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_apportion(sizes, data):
    sizes = np.array(sizes)
    budget = data.draw(st.integers(len(sizes), int(sizes.sum())))
    counts = apportion(budget, sizes)
    assert counts.sum() == budget
    assert (counts >= 1).all()
    assert (counts <= sizes).all()
    exact = budget * sizes / sizes.sum()
    if (exact >= 1).all():
        assert (np.abs(counts - exact) < 1).all()


def test_stochastic_selection_is_reproducible(gradients):
    X, labels = gradients
    for kwargs in ({}, {"labels": labels}):
        a, b = (
            subsel.select(X, 0.05, method="stochastic", random_state=3, **kwargs) for _ in range(2)
        )
        same(a, b)


@pytest.mark.parametrize(
    "form",
    [
        lambda X: X.tolist(),
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: X[::-1].copy()[::-1],
        lambda X: X.astype(">f8"),
    ],
)
def test_layouts(form):
    X = np.random.default_rng(0).normal(size=(90, 3))
    same(subsel.select(form(X), 9), subsel.select(X, 9))


def test_features_are_not_changed(metric):
    X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    before = X.copy()
    subsel.select(X, 9, metric=metric)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize(
    ("X", "kwargs", "error", "message"),
    [
        (np.ones(5), {}, ValueError, r"X must be 2-D \(n, d\), not of shape \(5,\)"),
        (np.ones((5, 0)), {}, ValueError, "empty"),
        (np.ones((0, 5)), {}, ValueError, "empty"),
        ([[0, np.nan]], {}, ValueError, r"X\[0, 1\] is nan"),
        ([[0, 1], [-np.inf, 0]], {}, ValueError, r"X\[1, 0\] is -inf"),
        ([["a"]], {}, TypeError, "numeric"),
        (np.eye(3) * 1e301, {}, ValueError, "rescale"),
        (np.eye(3) * 1e308, {}, ValueError, "rescale"),
        (np.eye(3) * 1e160, {"metric": "dot"}, ValueError, "rescale"),
        (np.eye(3) * 1e-160, {"metric": "dot"}, ValueError, "rescale"),
        (np.eye(3), {"metric": np.array(["dot"])}, ValueError, "metric must be one of"),
        (np.eye(3), {"budget": 4}, ValueError, r"budget must be a count in 1\.\.3 or a fraction"),
        (np.eye(3), {"budget": 0}, ValueError, "budget"),
        (np.eye(3), {"budget": 1.0}, ValueError, "budget"),
        (np.eye(3), {"budget": -0.1}, ValueError, "budget"),
        (np.eye(3), {"budget": np.nan}, ValueError, "budget"),
        (np.eye(3), {"budget": "1"}, TypeError, "budget"),
        (np.eye(3), {"budget": True}, TypeError, "budget"),
        (np.eye(3), {"metric": "l1"}, ValueError, "metric must be one of 'euclidean', "),
        (np.eye(3), {"method": "magic"}, ValueError, "method must be one of"),
        (np.eye(3), {"backend": "tpu"}, ValueError, "backend must be one of"),
        (np.eye(3), {"memory": -1}, ValueError, "memory must be a number of bytes"),
        (
            np.eye(3),
            {"labels": [0, 1]},
            ValueError,
            r"labels must have shape .* one entry per row of X",
        ),
        (np.eye(3), {"labels": np.zeros((3, 1))}, ValueError, "labels"),
        (np.eye(3), {"labels": [0.5, 1, 2]}, TypeError, "labels must be integers"),
        (np.eye(3), {"labels": 3}, ValueError, "labels"),
        (np.eye(3), {"labels": [1, "1", 2]}, TypeError, "not a mixture of int, str"),
        (np.eye(3), {"labels": np.ma.masked_array([1, 2, 3])}, TypeError, "masked"),
        (np.eye(3), {"labels": [0, 1, 2], "budget": 2}, ValueError, "each of the 3 classes"),
    ],
)
def test_refused_arguments(X, kwargs, error, message):
    with pytest.raises(error, match=message):
        subsel.select(X, **{"budget": 1, **kwargs})


def test_sparse_features_are_refused_where_they_would_become_dense():
    import scipy.sparse

    with pytest.raises(ValueError, match="sparse"):
        subsel.select(scipy.sparse.eye_array(3), 1)


def test_gamma_belongs_to_rbf():
    with pytest.raises(ValueError, match="gamma"):
        subsel.FacilityLocation.from_features(np.eye(3), "euclidean", gamma=1.0)
    for gamma in (-1.0, 0, np.nan, np.inf, "a", True):
        with pytest.raises((TypeError, ValueError), match="gamma must be"):
            subsel.FacilityLocation.from_features(np.eye(3), "rbf", gamma=gamma)
    X = np.random.default_rng(0).normal(size=(60, 3))
    f = subsel.FacilityLocation.from_features(X, "rbf", gamma=0.2)
    S = reference.similarity(X, "rbf", gamma=0.2)
    assert f.value([3, 4]) == pytest.approx(reference.value(S, [3, 4]), rel=1e-12)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    same(subsel.select(X, 5), subsel.select(X.detach().numpy(), 5))
    half = X.detach().bfloat16()
    same(subsel.select(half, 5), subsel.select(half.float().numpy(), 5))
    labels = torch.arange(50) % 3
    same(
        subsel.select(X, 6, labels=labels),
        subsel.select(X.detach().numpy(), 6, labels=labels.numpy()),
    )
    with pytest.raises(TypeError, match=r"X is a torch\.sparse_coo tensor"):
        subsel.select(X.to_sparse(), 5)
    with pytest.raises(TypeError, match="meta"):
        subsel.select(X.to("meta"), 5)
