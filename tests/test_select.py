"""`select` with every argument: it is the optimizers and constraints under one name."""

import numpy as np
import pytest
import scipy.sparse

import subsel
from subsel.constraints import Count, Groups, Knapsack, MinDistance

random = np.random.default_rng(0)
X = np.concatenate([random.standard_normal((60, 4)), random.standard_normal((60, 4)) + 3])
X = X.astype(np.float32)
N = len(X)
LABELS = np.arange(N) % 3
COSTS = random.integers(1, 20, N) / 10
F = subsel.FacilityLocation.from_features(X)


def same(chosen, wanted):
    np.testing.assert_array_equal(chosen.indices, wanted.indices)
    np.testing.assert_array_equal(chosen.gains, wanted.gains)
    assert (chosen.value, chosen.stopped) == (wanted.value, wanted.stopped)
    assert chosen.cost == wanted.cost
    assert chosen.bound == pytest.approx(wanted.bound)


@pytest.mark.parametrize(
    ("options", "constraint"),
    [
        ({"budget": 7}, Count(7)),
        ({"budget": 0.1}, Count(12)),
        ({"budget": 3.3, "costs": COSTS}, Knapsack(COSTS, 3.3)),
        ({"budget": 3.3, "costs": COSTS.tolist(), "min_distance": 1.5},
         Knapsack(COSTS, 3.3) & MinDistance(X, 1.5)),
        ({"budget": 9, "groups": LABELS, "at_most": 4, "at_least": {0: 4}},
         Groups(LABELS, at_most=4, at_least={0: 4}, count=9)),
        ({"groups": LABELS.astype(str), "at_most": 2}, Groups(LABELS, at_most=2)),
        ({"budget": 5, "min_distance": 2.0}, MinDistance(X, 2.0) & Count(5)),
        ({"min_distance": 3.0}, MinDistance(X, 3.0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [{}, {"given": [3, 70], "exclude": np.arange(N) % 5 == 0}])
def test_it_is_greedy_under_a_constraint(options, constraint, where):
    if "given" in where:
        where = {"given": [3, 71], "exclude": where["exclude"]}
    same(subsel.select(X, **options, **where), subsel.greedy(F, constraint, **where))


def test_stops():
    same(subsel.select(X, coverage=0.9), subsel.greedy(F, coverage=0.9))
    same(subsel.select(X, 5, target=1e9), subsel.greedy(F, 5, target=1e9))
    unreachable = subsel.select(X[:9], target=1e9)
    assert (len(unreachable), unreachable.stopped) == (9, "exhausted")
    part = subsel.select(X, coverage=0.9, candidates=np.arange(0, N, 4))
    wanted = subsel.greedy(F, coverage=0.9, exclude=np.arange(N) % 4 != 0)
    np.testing.assert_array_equal(part.indices, wanted.indices)


@pytest.mark.parametrize("step", [2, 4, 30])  # few of them are searched alone
def test_candidates_represent_all_rows(step):
    some = np.arange(0, N, step)
    chosen = subsel.select(X, 3, candidates=some, given=[1], exclude=[0])
    excluded = np.setdiff1d(np.arange(N), some)
    wanted = subsel.greedy(F, 3, given=[1], exclude=[0, *excluded[excluded != 1]])
    np.testing.assert_array_equal(chosen.indices, wanted.indices)
    np.testing.assert_allclose(chosen.value, wanted.value)
    assert len(chosen.assignment) == N
    cheap = subsel.select(X, 2.5, costs=COSTS, candidates=some, groups=LABELS, at_most=2)
    assert {*cheap.indices.tolist()} <= {*some.tolist()}
    assert cheap.cost == pytest.approx(COSTS[cheap.indices].sum())


def test_what_a_given_row_represents_is_assigned_to_none():
    chosen = subsel.select(X, 4, given=[5, 90])
    held = [5, 90, *chosen.indices]
    nearest = np.argmin(np.linalg.norm(X[:, None] - X[held], axis=2), axis=1) - 2
    np.testing.assert_array_equal(chosen.assignment, np.maximum(nearest, -1))
    assert chosen.sizes.sum() + chosen.uncovered == N
    assert chosen.uncovered > 1


def test_weights_are_of_rows():
    weights = np.where(np.arange(N) < 60, 1.0, 0.0)
    assert (subsel.select(X, 3, weights=weights).indices < 60).all()
    f = subsel.FacilityLocation.from_features(X, weights=weights)
    same(subsel.select(X, 3, weights=weights), subsel.greedy(f, 3))


def test_refined_selections_are_no_worse():
    for options in ({"budget": 6}, {"budget": 3.3, "costs": COSTS}, {"budget": 6, "given": [3]}):
        chosen, better = (subsel.select(X, refine=refine, **options) for refine in (False, True))
        assert better.value >= chosen.value
        assert len(better) == len(chosen)
        assert better.sizes.sum() + better.uncovered == N
    begun = subsel.select(X, 8, method="stochastic", random_state=0)
    swapped = subsel.select(X, 8, method="stochastic", random_state=0, refine=True)
    assert swapped.value > begun.value


def test_classes_with_given_and_excluded_rows():
    weights = random.random(N)
    given, exclude = [0, 1, 30], np.arange(40, 60)
    options = {"given": given, "exclude": exclude, "weights": weights, "refine": True}
    chosen = subsel.select(X, 9, labels=LABELS, **options)
    value = 0.0
    for c in range(3):
        rows = np.flatnonzero(c == LABELS)
        part = subsel.select(
            X[rows], 3, given=np.isin(rows, given), exclude=np.isin(rows, exclude),
            weights=weights[rows], refine=True,
        )  # fmt: skip
        value += part.value
        assert {*rows[part.indices].tolist()} <= {*chosen.indices.tolist()}
    assert chosen.value == pytest.approx(value)
    assert chosen.values[-1] == pytest.approx(value)
    assert chosen.bound >= chosen.value
    own = chosen.assignment >= 0
    represented = chosen.indices[chosen.assignment[own]]
    np.testing.assert_array_equal(LABELS[represented], LABELS[own])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("saturated_coverage", subsel.SaturatedCoverage.from_features),
        ("graph_cut", subsel.GraphCut.from_features),
        ("sum_redundancy", subsel.SumRedundancy.from_features),
        ("log_determinant", subsel.LogDeterminant.from_features),
        ("disparity_sum", subsel.DisparitySum.from_features),
        ("disparity_min", subsel.DisparityMin.from_features),
        ("feature_based", subsel.FeatureBased),
        ("probabilistic_set_cover", subsel.ProbabilisticSetCover),
        ("set_cover", subsel.SetCover),
    ],
)
def test_other_objectives(name, make):
    data = {"set_cover": X > 1, "probabilistic_set_cover": np.abs(X) / 10}.get(name, X)
    data = np.abs(data) if name == "feature_based" else data
    chosen = subsel.select(data, 5, objective=name, exclude=[0], refine=True)
    assert chosen.value >= subsel.greedy(make(data), 5, exclude=[0]).value - 1e-9
    assert chosen.assignment is None
    few = subsel.select(data, 3, objective=name, candidates=np.arange(0, N, 6))
    assert (few.indices % 6 == 0).all()
    assert subsel.select(data, 1.5, objective=name, costs=COSTS, min_distance=0.1).cost <= 1.5


def test_features_that_are_the_data_may_be_sparse():
    sparse = scipy.sparse.csr_array(np.maximum(X, 0))
    for options in ({}, {"weights": [1, 2, 3, 4]}):
        chosen = subsel.select(sparse, 4, objective="feature_based", **options)
        dense = subsel.select(np.maximum(X, 0), 4, objective="feature_based", **options)
        np.testing.assert_array_equal(chosen.indices, dense.indices)
    chosen = subsel.select(np.abs(X), 3, objective="graph_cut", metric="dot")
    f = subsel.GraphCut.from_features(np.abs(X), "dot")
    np.testing.assert_array_equal(chosen.indices, subsel.greedy(f, 3).indices)


def test_distances_as_they_are():
    D = np.linalg.norm(X[:, None] - X, axis=2)
    f = subsel.FacilityLocation.from_distances(D)
    where = {"given": [4], "exclude": [5, 6]}
    chosen = subsel.select(D, 5, metric="precomputed", **where)
    same(chosen, subsel.greedy(f, 5, **where))
    with pytest.raises(ValueError, match="min_distance needs features"):
        subsel.select(D, 5, metric="precomputed", min_distance=1.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "budget must be a count"),
        ({"budget": 3, "objective": "best"}, ValueError, "objective must be one of 'facility_loc"),
        ({"budget": 3, "given": [1], "exclude": [1, 2]}, ValueError, "row 1 must not be both in"),
        ({"budget": 3, "given": [1, 1]}, ValueError, "given contains 1 more than once"),
        ({"budget": 3, "given": [True]}, TypeError, r"a mask must have shape \(\d+,\)"),
        ({"budget": 0.0}, ValueError, r"not 0\.0$"),
        ({"budget": 3, "exclude": np.arange(N)}, ValueError, "none of 120 rows is left"),
        ({"budget": 3, "candidates": []}, ValueError, "candidates must not be empty"),
        ({"budget": 9, "candidates": [1, 2]}, ValueError, "budget is 9, but only 2 of 120 rows"),
        ({"costs": COSTS}, ValueError, "costs need a budget"),
        ({"budget": 3, "costs": COSTS[:5]}, ValueError, r"costs must have one entry per row"),
        ({"budget": 3, "costs": -COSTS}, ValueError, r"costs\[0\] is -"),
        ({"budget": 0.01, "costs": COSTS}, ValueError, "less than the smallest cost"),
        ({"budget": 3, "at_most": 2}, ValueError, "give groups, too"),
        ({"budget": 3, "groups": LABELS}, ValueError, "groups need at_most or at_least"),
        ({"groups": LABELS, "at_least": 2}, ValueError, "at_least needs a budget"),
        ({"budget": 2.0, "costs": COSTS, "groups": LABELS, "at_least": 2}, ValueError,
         "at_least needs a budget that is a count"),
        ({"budget": 3, "groups": LABELS[:4], "at_most": 1}, ValueError, "groups must have shape"),
        ({"budget": 6, "groups": LABELS, "at_least": 1, "min_distance": 1.0}, ValueError,
         "has at_least, which another constraint"),
        ({"budget": 3, "min_distance": 0}, ValueError, "min_distance must be a number"),
        ({"budget": 3, "weights": [1, 2]}, ValueError, "weights must have"),
        ({"budget": 3, "weights": np.ones(N), "objective": "graph_cut"}, ValueError,
         "weights need one of the objectives 'facility_location', 'feature_based'"),
        ({"budget": 3, "metric": "dot", "objective": "feature_based"}, ValueError, "leave metric"),
        ({"budget": 3, "labels": LABELS, "objective": "graph_cut"}, ValueError,
         "labels need the objective 'facility_location'"),
        ({"budget": 3, "labels": LABELS, "costs": COSTS}, ValueError,
         "labels and costs cannot be combined"),
        ({"budget": 3, "labels": LABELS, "coverage": 0.5}, ValueError,
         "labels and coverage cannot be combined"),
        ({"budget": 30, "labels": LABELS, "exclude": np.arange(90)}, ValueError, None),
        ({"budget": 60, "labels": LABELS, "exclude": np.arange(90)}, ValueError,
         "budget asks for 20 rows of the class of row 0, but only 10 of its 40 rows"),
        ({"coverage": 0.5, "objective": "sum_redundancy"}, ValueError, "is not monotone"),
        ({"budget": 3, "coverage": 0.5, "target": 2.0}, ValueError, "give one of them"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(options, error, message):
    if message is None:
        subsel.select(X, **options)
        return
    with pytest.raises(error, match=message):
        subsel.select(X, **options)


HELD = random.standard_normal((9, 4)).astype(np.float32) + 1
BELOW = np.arange(N, N + len(HELD))
WIDE = random.standard_normal((N + len(HELD), 40))


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 7},
        {"budget": 0.1, "method": "greedy"},
        {"budget": 5, "metric": "cosine"},
        {"budget": 5, "metric": "rbf", "given": [3, 70], "exclude": [4]},
        {"budget": 5, "metric": "dot", "weights": np.arange(N)},
        {"budget": 5, "candidates": np.arange(0, N, 7)},
        {"budget": 2.0, "costs": COSTS},
        {"budget": 9, "groups": LABELS, "at_most": 4, "at_least": {0: 4}},
        {"min_distance": 1.5},
        {"budget": 6, "min_distance": 0.05, "metric": "cosine"},
        {"coverage": 0.9},
        {"budget": 50, "target": 1300.0},
        {"budget": 6, "refine": True},
        {"budget": 6, "method": "stochastic", "random_state": 0},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("wide", [False, True])
def test_rows_that_are_held_elsewhere_are_as_given_ones_that_need_no_representative(options, wide):
    rows, held = (WIDE[:N], WIDE[N:]) if wide else (X, HELD)
    if wide and "target" in options:
        options = options | {"target": 1500.0}
    chosen = subsel.select(rows, **options, given_features=held)
    # The same rows below those of X, with no weight as points.
    stacked = dict(options, weights=np.append(options.get("weights", np.ones(N)), np.zeros(9)))
    stacked["given"] = [*options.get("given", []), *BELOW]
    if "costs" in options:
        stacked["costs"] = np.append(COSTS, np.ones(9))
    if "groups" in options:
        stacked["groups"] = np.append(LABELS, np.zeros(9, int))
    if options.get("budget") == 0.1:
        stacked["budget"] = 12
    if "candidates" in options:
        stacked["candidates"] = np.append(options["candidates"], BELOW)
    wanted = subsel.select(np.concatenate([rows, held]), **stacked)
    assert len(chosen) > 0
    np.testing.assert_array_equal(chosen.indices, wanted.indices)
    np.testing.assert_allclose(chosen.gains, wanted.gains, rtol=1e-6)
    np.testing.assert_allclose(chosen.values, wanted.values, rtol=1e-6)
    assert chosen.value == pytest.approx(wanted.value, rel=1e-6)
    assert chosen.bound == pytest.approx(wanted.bound, rel=1e-6)
    assert (chosen.stopped, chosen.cost) == (wanted.stopped, wanted.cost)
    if "weights" not in options:  # else a point of weight 0 has none
        np.testing.assert_array_equal(chosen.assignment, wanted.assignment[:N])
    assert len(chosen.assignment) == N
    assert chosen.sizes.sum() + chosen.uncovered == N


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "rbf"])
def test_rows_held_elsewhere_select_as_given_rows_below(metric):
    chosen = subsel.select(X, 6, metric=metric, given_features=HELD)
    wanted = subsel.select(np.concatenate([X, HELD]), 6, metric=metric, given=BELOW)
    np.testing.assert_array_equal(chosen.indices, wanted.indices)
    np.testing.assert_allclose(chosen.gains, wanted.gains, rtol=1e-6)
    np.testing.assert_array_equal(chosen.assignment, wanted.assignment[:N])


def test_rows_held_elsewhere_with_and_without_a_matrix():
    rows, held = WIDE[:N], WIDE[N:]
    matrix, tiled = (
        subsel.select(rows, 9, given_features=held, memory=memory) for memory in (None, 0)
    )
    assert (matrix.path, tiled.path) == ("dense", "features")
    same(matrix, tiled)
    np.testing.assert_array_equal(matrix.assignment, tiled.assignment)
    near = np.linalg.norm(rows[:, None] - np.concatenate([held, rows[matrix.indices]]), axis=2)
    np.testing.assert_array_equal(matrix.assignment, np.maximum(near.argmin(axis=1) - 9, -1))


def test_a_row_that_is_held_elsewhere_gains_nothing():
    chosen = subsel.select(X, N, given_features=X[:100])
    assert set(chosen.indices[:20].tolist()) == set(range(100, N))
    assert (chosen.gains[20:] == 0).all()
    assert (chosen.assignment[:100] == -1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given_features": HELD[:, :3]}, "given_features must have the 4 columns"),
        ({"given_features": HELD[0]}, "given_features must be 2-D"),
        ({"given_features": HELD[:0]}, "given_features must not be empty"),
        ({"given_features": HELD.astype(float) * 1e200}, r"given_features\[0, 0\] is -?inf"),
        ({"given_features": HELD * np.nan}, r"given_features\[0, 0\] is nan"),
        ({"labels": LABELS}, "given_features cannot be combined with labels: put these rows"),
        ({"objective": "graph_cut"}, "cannot be combined with the objective 'graph_cut'"),
        ({"metric": "precomputed"}, "cannot be combined with metric='precomputed'"),
        ({"backend": "cuda"}, "cannot be combined with a GPU"),
        ({"costs": np.ones(N + 9)}, r"costs must have one entry per row of X: \(120,\)"),
        ({"budget": N + 1}, "budget must be"),
        ({"groups": np.zeros(N + 9), "at_most": 1}, "groups"),
        ({"exclude": range(N)}, "none of 120 rows is left"),
    ],
)
def test_what_does_not_go_with_given_features(options, message):
    with pytest.raises(ValueError, match=message):
        subsel.select(X, **({"budget": 3, "given_features": HELD} | options))


def test_given_features_are_for_dense_X():
    sparse = scipy.sparse.csr_array(X)
    with pytest.raises(ValueError, match="sparse X"):
        subsel.select(sparse, 3, metric="dot", given_features=HELD)


@pytest.mark.parametrize("search", [subsel.select, subsel.greedi])
def test_a_constraint_in_place_of_a_budget_is_told_where_to_go(search):
    with pytest.raises(TypeError, match=r"budget must be a number.*costs.*subsel.greedy"):
        search(X, Knapsack(COSTS, 3.3))
