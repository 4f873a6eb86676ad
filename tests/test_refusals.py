"""The same bad input to every function that selects: refused before work, with the cure."""

import numpy as np
import pytest

import subsel
from subsel.constraints import Count, Groups, Knapsack, MinDistance

N = 20
X = np.abs(np.random.default_rng(0).normal(size=(N, 3)))
HALVES = np.arange(N) % 2
COSTS = 1.0 + np.arange(N)


class Untouched(subsel.Objective):
    """An objective of which nothing is asked."""

    n = N

    def reset(self):
        raise AssertionError("it was searched")

    add = gains = value = reset


OPTIMIZERS = {
    "greedy": subsel.greedy,
    "lazy_greedy": subsel.lazy_greedy,
    "stochastic_greedy": subsel.stochastic_greedy,
    "threshold_greedy": subsel.threshold_greedy,
    "random_greedy": subsel.random_greedy,
    "sieve_streaming": subsel.sieve_streaming,
}
OF_ROWS = {"select": subsel.select, "greedi": subsel.greedi}
SEARCHES = {
    **{name: lambda *a, s=s, **k: s(Untouched(), *a, **k) for name, s in OPTIMIZERS.items()},
    **{name: lambda *a, s=s, **k: s(X, *a, **k) for name, s in OF_ROWS.items()},
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": [3, 4], "exclude": [4, 5]}, "4 must not be both in given and in exclude"),
        ({"given": [3, 4, 3]}, "given contains 3 more than once"),
        ({"exclude": [3, 4, 3]}, "exclude contains 3 more than once"),
        ({"exclude": range(N)}, f"of {N} (candidates|rows)"),
        ({"given": np.ones(N, bool)}, f"of {N} (candidates|rows)"),
        ({"exclude": range(N - 1)}, f"budget is 2, but only 1 of {N} (candidates|rows)"),
        ({"given": [N]}, rf"given\[0\] is {N}; it must be in 0..{N - 1}"),
    ],
    ids=str,
)
def test_given_and_excluded(search, options, words):
    with pytest.raises(ValueError, match=words):
        search(2, **{name: np.asarray(list(some)) for name, some in options.items()})


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("name", ["given", "exclude"])
def test_indices_that_are_floats(search, name):
    with pytest.raises(TypeError, match=rf"{name} must be integers.*pass {name}.astype\(int\)"):
        search(2, **{name: [3.0]})


@pytest.mark.parametrize("search", OF_ROWS.values(), ids=OF_ROWS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"costs": COSTS - 1}, r"costs\[0\] is 0.0; costs must be positive"),
        ({"costs": -COSTS}, r"costs\[0\] is -1.0; costs must be positive"),
        ({"costs": COSTS + 9}, "budget is 4, less than the smallest cost, 10.0"),
        ({"costs": COSTS, "given": [0, 1, 2, 3]}, "less than the smallest cost, 5.0"),
        ({"groups": HALVES, "at_least": 3}, "count is 4, but at_least asks for 6"),
        ({"groups": HALVES, "at_least": {1: 3}, "at_most": 2}, "at_least is 3 for 1, of which at"),
        ({"groups": HALVES, "at_least": 2, "exclude": np.arange(3, N, 2)}, "1, of which only 1"),
        ({"groups": HALVES, "at_most": 1}, "at_most leaves only 2 in all"),
    ],
    ids=str,
)  # fmt: skip
def test_costs_and_groups_that_cannot_be_met(search, options, words):
    with pytest.raises(ValueError, match=words):
        search(X, 4, **options)


@pytest.mark.parametrize("optimizer", ["greedy", "lazy_greedy", "stochastic_greedy"])
def test_stops(optimizer):
    search = OPTIMIZERS[optimizer]
    falling = subsel.FacilityLocation.from_features(X) + subsel.Modular(-COSTS)
    with pytest.raises(ValueError, match="Mixture is not monotone: give target, a value of F"):
        search(falling, 4, coverage=0.5)
    most = Groups(HALVES, at_most=N)  # all, as an optimizer needs a size for its samples
    chosen = search(subsel.FacilityLocation.from_features(X), most, target=1e9)
    assert (len(chosen), chosen.stopped) == (N, "budget")
    if optimizer != "stochastic_greedy":
        chosen = search(subsel.FacilityLocation.from_features(X), target=1e9)
        assert (len(chosen), chosen.stopped) == (N, "exhausted")


F = subsel.FacilityLocation.from_features(X)
COUNTS = {
    **{f"budget, {name}": search for name, search in SEARCHES.items()},
    "budget, Count": lambda k: subsel.greedy(F, Count(k)),
    "budget, Count beside another": lambda k: subsel.greedy(F, Count(k) & MinDistance(X, 0.1)),
    "budget, a stream": lambda k: subsel.StreamSelector(k),
    "budget, classes": lambda k: subsel.select(X, k, labels=HALVES),
    "budget, classes in partitions": lambda k: subsel.greedi(X, k, labels=HALVES),
    "budget, each class": lambda k: subsel.select(X, {0: k, 1: 2}, labels=HALVES),
    "budget, each class in partitions": lambda k: subsel.greedi(X, {0: k, 1: 2}, labels=HALVES),
    "budget, groups": lambda k: subsel.select(X, k, groups=HALVES, at_most=3),
    "count": lambda k: Groups(HALVES, count=k),
    "at_most": lambda k: Groups(HALVES, at_most=k),
    "at_least": lambda k: Groups(HALVES, at_least={0: k}, count=9),
    "at_most, select": lambda k: subsel.select(X, 4, groups=HALVES, at_most=k),
    "at_least, greedi": lambda k: subsel.greedi(X, 4, groups=HALVES, at_least=k),
    "max_swaps": lambda k: subsel.refine(F, [1, 2, 3], max_swaps=k),
    "times": lambda k: subsel.SetCover(X > 1, times=k),
    "partitions": lambda k: subsel.greedi(X, 1, partitions=k),
    "max_rows": lambda k: subsel.greedi(X, 1, max_rows=k),
    "spread": lambda k: subsel.greedi(X, 1, spread=k),
    "sample": lambda k: subsel.greedi(X, 1, sample=k),
}


@pytest.mark.parametrize("what", COUNTS)
def test_a_float_is_no_count_though_it_be_whole(what):
    """Nowhere: 1.0 might be meant as all or as one. The message says what to pass."""
    name = what.split(",")[0]
    for number in (3.0, np.float32(3), np.array(3.0)):
        with pytest.raises((TypeError, ValueError), match=rf"{name}.* count.*the integer 3\)"):
            COUNTS[what](number)
    with pytest.raises((TypeError, ValueError), match=rf"{name}.* count.*the integer 1\)"):
        COUNTS[what](1.0)
    with pytest.raises((TypeError, ValueError), match=rf"{name}.* count.*not 2.5$"):
        COUNTS[what](2.5)


@pytest.mark.parametrize("search", OF_ROWS.values(), ids=OF_ROWS)
def test_a_float_is_a_budget_of_costs(search):
    for budget in (3, 3.0, np.float32(3), np.array(3)):
        assert search(X, budget, costs=np.ones(N)).cost == 3
    assert len(subsel.greedy(F, Knapsack(np.ones(N), 3.0))) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subsel.select(X, 2, objective=F), "pass an objective to subsel.greedy"),
        (lambda: subsel.select(X, 2, objective=type(F)), "pass an objective to subsel.greedy"),
        (lambda: subsel.greedy(type(F), 2), r"make one, FacilityLocation\(\.\.\.\)"),
        (lambda: subsel.greedy(len, 2), "f must be an Objective or a matrix of similarities, not"),
        (lambda: subsel.testing.check_objective(Untouched), "the class Untouched: make one"),
        (lambda: subsel.select(X), "left out only where target, coverage"),
    ],
)
def test_an_objective_where_a_name_is_wanted_and_what_is_none(call, words):
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subsel.select(X, 9, costs=COSTS[:, None]), r"\(20, 1\) \(pass np.ravel\(costs"),
        (lambda: Knapsack(COSTS[None], 9), r"\(1, 20\) \(pass np.ravel\(costs\)"),
        (lambda: subsel.select(X, 2, weights=COSTS[:, None]), r"pass np.ravel\(weights\)"),
        (lambda: subsel.select(X, 2, labels=HALVES[:, None]), r"pass np.ravel\(labels\)"),
        (lambda: subsel.Modular(COSTS[:, None]), r"pass np.ravel\(values\)"),
        (lambda: Groups(HALVES[:, None], at_most=1), r"pass np.ravel\(labels\)"),
        (lambda: subsel.Modular([COSTS, COSTS]), r"not of shape \(2, 20\)$"),
        (lambda: subsel.greedy(-X, 2), "not be negative .*; for features, use from_features"),
    ],
)
def test_columns_and_features_that_are_out_of_place(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_metric_of_two_rows_is_told_of_blocks():
    def distance(a, b):
        return float(a @ b)  # of two rows

    rows = np.random.default_rng(0).random((50, 3))
    with pytest.raises(ValueError, match="matmul") as caught:
        subsel.greedy(subsel.DisparityMin.from_features(rows, distance), 2)
    assert any("blocks of rows, A (" in note for note in caught.value.__notes__)


def test_only_a_matrix_of_the_users_is_perhaps_features():
    with pytest.raises(ValueError, match=r"metric\(A, B\).* clip them\)$"):
        subsel.select(X, 2, metric=lambda A, B: -A @ B.T)
