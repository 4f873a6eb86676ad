"""The estimator: scikit-learn's own checks, pipelines, cross-validation, imbalanced-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import subsel
from subsel.estimators import SubsetSampler, SubsetSelector

BLOBS, KINDS = make_blobs(90, 3, centers=3, random_state=0)


@parametrize_with_checks([SubsetSelector()])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


def test_it_selects_what_select_selects():
    selector = SubsetSelector(7).fit(BLOBS)
    chosen = subsel.select(BLOBS, 7)
    np.testing.assert_array_equal(selector.sample_indices_, chosen.indices)
    np.testing.assert_array_equal(selector.labels_, chosen.assignment)
    np.testing.assert_array_equal(selector.cluster_centers_, BLOBS[chosen.indices])
    np.testing.assert_array_equal(selector.predict(BLOBS), chosen.assignment)
    np.testing.assert_array_equal(SubsetSelector(7).fit_predict(BLOBS), chosen.assignment)
    assert selector.selection_.value == chosen.value


@pytest.mark.parametrize(
    "metric",
    ["euclidean", "manhattan", "cosine", "correlation", "dot", "rbf", "hamming", "jaccard"],
)
def test_transform_is_what_assign_calls_nearness(metric):
    X = np.random.default_rng(0).integers(0, 2, (30, 5)).astype(float)
    if metric not in ("hamming", "jaccard"):
        X += np.random.default_rng(1).random(X.shape)
    selector = SubsetSelector(4, metric=metric).fit(X)
    distances = selector.transform(X)
    for at, center in enumerate(selector.cluster_centers_):
        nearness = subsel.assign(X, [center], metric)[1]
        np.testing.assert_allclose(distances[:, at], nearness, atol=1e-12)
    assert selector.get_feature_names_out().tolist() == [f"subsetselector{j}" for j in range(4)]


def test_a_function_as_metric():
    def near(A, B):
        return 1 / (1 + np.abs(A[:, None] - B[None]).sum(axis=2))

    selector = SubsetSelector(3, metric=near).fit(BLOBS)
    np.testing.assert_array_equal(selector.transform(BLOBS), near(BLOBS, selector.cluster_centers_))


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_rows_without_a_direction_are_alike(metric):
    X = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [3, 2, 5]])
    selector = SubsetSelector(3, metric=metric).fit(X)
    np.testing.assert_array_equal(selector.predict(X), selector.labels_)
    for at, center in enumerate(selector.cluster_centers_):
        nearness = subsel.assign(X, [center], metric)[1]
        np.testing.assert_allclose(selector.transform(X)[:, at], nearness, atol=1e-12)
    if metric == "cosine":
        thin = SubsetSelector(3, metric=metric).fit(sparse.csr_array(X))
        np.testing.assert_array_equal(thin.labels_, selector.labels_)
        np.testing.assert_array_equal(thin.predict(sparse.csr_array(X)), thin.labels_)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_sparse_features(metric):
    X = sparse.csr_array(sparse.random(40, 12, density=0.3, random_state=0))
    selector = SubsetSelector(5, metric=metric).fit(X)
    dense = SubsetSelector(5, metric=metric).fit(X.toarray())
    np.testing.assert_array_equal(selector.sample_indices_, dense.sample_indices_)
    np.testing.assert_allclose(selector.transform(X), dense.transform(X.toarray()), atol=1e-12)
    np.testing.assert_array_equal(selector.predict(X.toarray()), dense.predict(X.toarray()))
    best = dense.transform(X.toarray())
    own = best[np.arange(40), selector.predict(X)]
    np.testing.assert_allclose(own, best.max(axis=1), atol=1e-12)


def test_other_objectives_have_labels_by_nearness():
    selector = SubsetSelector(5, objective="log_determinant", metric="rbf").fit(BLOBS)
    expected = subsel.select(BLOBS, 5, objective="log_determinant", metric="rbf")
    np.testing.assert_array_equal(selector.sample_indices_, expected.indices)
    nearest = subsel.assign(BLOBS, BLOBS[expected.indices], "rbf")[0]
    np.testing.assert_array_equal(selector.labels_, nearest)
    coverage = SubsetSelector(5, objective="feature_based").fit(np.abs(BLOBS))
    assert sorted(set(coverage.labels_)) == [0, 1, 2, 3, 4]


def test_weights_are_copies_and_rows_of_weight_zero_are_not_selected():
    weights = np.tile([0, 1, 2], 30)
    selector = SubsetSelector(6).fit(BLOBS, sample_weight=weights)
    assert weights[selector.sample_indices_].all()
    copied = SubsetSelector(6).fit(np.repeat(BLOBS, weights, axis=0))
    np.testing.assert_allclose(selector.cluster_centers_, copied.cluster_centers_)


def test_classes_with_counts_fractions_and_balanced():
    y = np.array(["a"] * 60 + ["b"] * 20 + ["c"] * 10)
    for budget, counts in (
        (0.1, [6, 2, 1]), ({"a": 3, "b": 4, "c": 5}, [3, 4, 5]), ("balanced", [10, 10, 10]),
    ):  # fmt: skip
        selector = SubsetSelector(budget, by_class=True).fit(BLOBS, y)
        kept = y[selector.sample_indices_]
        assert [int((kept == name).sum()) for name in "abc"] == counts
        assert (kept[selector.labels_] == y).all()
    floats = SubsetSelector(0.1, by_class=True).fit(BLOBS, np.repeat([1.0, 2.5], 45))
    assert len(floats.sample_indices_) == 10


def test_refine_and_a_seed():
    greedy = SubsetSelector(6).fit(BLOBS).selection_.value
    assert SubsetSelector(6, refine=True).fit(BLOBS).selection_.value >= greedy
    drawn = [SubsetSelector(6, method="stochastic", random_state=3).fit(BLOBS) for _ in range(2)]
    np.testing.assert_array_equal(drawn[0].sample_indices_, drawn[1].sample_indices_)
    state = SubsetSelector(6, method="stochastic", random_state=np.random.RandomState(3))
    np.testing.assert_array_equal(state.fit(BLOBS).sample_indices_, drawn[0].sample_indices_)


def test_in_a_pipeline_and_in_cross_validation():
    pipeline = make_pipeline(StandardScaler(), SubsetSelector(12), LogisticRegression())
    assert cross_val_score(pipeline, BLOBS, KINDS, cv=3).mean() > 0.9
    search = GridSearchCV(pipeline, {"subsetselector__budget": [2, 12]}, cv=3).fit(BLOBS, KINDS)
    assert search.best_params_["subsetselector__budget"] in (2, 12)
    named = SubsetSelector(3).set_output(transform="default").fit(BLOBS).transform(BLOBS)
    assert named.shape == (90, 3)
    copy = clone(search.best_estimator_)
    with pytest.raises(NotFittedError):
        copy.predict(BLOBS)


def test_resampling_keeps_kinds():
    lists = SubsetSelector(4).fit_resample(BLOBS.tolist(), KINDS.tolist())
    assert [type(part) for part in lists] == [list, list]
    X = sparse.csr_array(np.abs(BLOBS))
    kept, y = SubsetSelector(4, metric="cosine").fit_resample(X, KINDS)
    assert kept.shape == (4, 3)
    assert y.shape == (4,)


def test_in_a_pipeline_of_imbalanced_learn():
    imblearn = pytest.importorskip("imblearn.pipeline", reason="needs imbalanced-learn")
    X, y = load_digits(n_class=4, return_X_y=True)
    rare = np.concatenate([np.flatnonzero(y == c)[: 20 * (c + 1)] for c in range(4)])
    sampler = SubsetSampler("balanced", by_class=True)
    pipeline = imblearn.make_pipeline(
        StandardScaler(), sampler, LogisticRegression(max_iter=1000)
    ).fit(X[rare], y[rare])
    assert np.bincount(y[rare][pipeline[1].sample_indices_]).tolist() == [20] * 4
    assert pipeline.score(X, y) > 0.9
    assert cross_val_score(pipeline, X[rare], y[rare], cv=3).mean() > 0.8
    transformer = imblearn.make_pipeline(SubsetSelector(5), LogisticRegression())
    with pytest.raises(TypeError, match="implements both"):
        transformer.fit(BLOBS, KINDS)


@pytest.mark.parametrize(
    ("options", "y", "match"),
    [
        ({"budget": 91}, None, "n_samples=90 must be at least the budget, which is 91"),
        ({"budget": 1.5}, None, "budget must be"),
        ({"budget": "balanced"}, None, "needs by_class=True"),
        ({"by_class": True}, None, "y is None"),
        ({"by_class": True, "budget": {0: 1, 7: 1}}, KINDS, "a count for each class of y"),
        ({"metric": "near"}, None, "metric must be one of"),
        ({"objective": "near"}, None, "objective must be one of"),
    ],
)
def test_what_is_refused(options, y, match):
    with pytest.raises(ValueError, match=match):
        SubsetSelector(**options).fit(BLOBS, y)


def test_weights_must_not_be_negative():
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        SubsetSelector(3).fit(BLOBS, sample_weight=-np.ones(90))
