"""What each constraint promises beside what `test_members` compares with the oracle."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import subsel
from subsel.constraints import Count, Groups, Knapsack, MinDistance

EYE = np.eye(6)
LABELS = ["a", "a", "a", "b", "b", "c"]


@pytest.mark.parametrize("rule", ["plain", "ratio", "best"])
@pytest.mark.parametrize(
    ("cost", "budget", "fit"),
    [
        (0.1, 0.3, 3),  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
        (np.float32(0.1), 0.3, 3),
        (0.1, np.float32(0.3), 3),
        (Decimal("0.1"), Decimal("0.3"), 3),
        (Fraction(1, 10), Fraction(3, 10), 3),
        (0.1, 0.3 - 2**-54, 2),
        (1 / 3, 1, 3),  # 0.3333333333333333 as written, three times less than 1
        (2**53, 2**55 + 1, 4),
        (1e-300, 3e-300, 3),
        (1e300, 1.7e308, 6),
        (1, 6, 6),
        (np.int8(1), 5, 5),
        (True, 2, 2),
    ],
)
def test_costs_that_sum_to_the_budget_fit(rule, cost, budget, fit):
    chosen = subsel.greedy(EYE, Knapsack([cost] * 6, budget, rule=rule))
    assert len(chosen) == fit
    assert chosen.stopped == ("exhausted" if fit == 6 else "budget")
    assert chosen.cost == pytest.approx(fit * float(cost), rel=1e-6)


def test_the_best_single_is_tried_at_every_prefix():
    # The ratio prefers two small ones, after which the large one does not fit any more.
    S = np.diag([2.0, 1.1, 50.0])
    costs = [1, 1, 100]
    assert subsel.greedy(S, Knapsack(costs, 100, rule="ratio")).value == pytest.approx(3.1)
    best = subsel.greedy(S, Knapsack(costs, 100))
    assert (best.indices.tolist(), best.value, best.cost) == ([2], 50, 100)
    second = subsel.greedy(S, Knapsack(costs, 101))
    assert (second.indices.tolist(), second.value) == ([0, 2], 52)


def test_after_a_single_the_objective_holds_the_selection():
    f = subsel.FacilityLocation(np.diag([2.0, 1.1, 50.0]))
    chosen = subsel.greedy(f, Knapsack([1, 1, 100], 101))
    np.testing.assert_allclose(f.gains(np.arange(3)), [0, 1.1, 0])
    assert chosen.values.tolist() == [2, 52]


@pytest.mark.parametrize("optimizer", [subsel.greedy, subsel.lazy_greedy])
def test_floors_are_met_whatever_the_gains(optimizer):
    S = np.diag([9.0, 8, 7, 2, 1, 0])
    chosen = optimizer(S, Groups(LABELS, at_least={"c": 1, "b": 1}, count=4))
    assert chosen.indices.tolist() == [0, 1, 3, 5]
    chosen = optimizer(S, Groups(LABELS, at_least=1, at_most=2, count=4), given=[3], exclude=[0])
    assert chosen.indices.tolist() == [1, 2, 4, 5]


def test_given_elements_close_what_is_near_and_count_for_nothing_else():
    X = np.array([[0.0], [0.5], [1.0], [2.0], [2.0], [9.0]])
    chosen = subsel.greedy(EYE, MinDistance(X, 1.0), given=[0])
    assert chosen.indices.tolist() == [2, 3, 5]  # exactly 1 apart is far enough
    assert chosen.stopped == "budget"
    chosen = subsel.greedy(EYE, Groups(LABELS, at_most=1), given=[0])
    assert chosen.indices.tolist() == [1, 3, 5]
    chosen = subsel.greedy(EYE, Knapsack([5, 1, 1, 1, 1, 1], 2), given=[0])
    assert (chosen.indices.tolist(), chosen.cost) == ([1, 2], 2)


def test_cosine_distances_are_of_directions():
    X = np.array([[1.0, 0], [7, 0], [0, 2], [1, 1], [0, 0], [-1, 0]])
    chosen = subsel.greedy(EYE, MinDistance(X, 0.5, metric="cosine"))
    assert chosen.indices.tolist() == [0, 2, 4, 5]
    chosen = subsel.greedy(EYE, MinDistance(X, 1.5, metric="cosine"))
    assert chosen.indices.tolist() == [0, 5]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_distances_neither_overflow_nor_vanish(scale):
    X = np.array([[0.0, 0], [3, 4], [0, 0], [30, 40], [3, 4], [-30, 0]]) * scale
    chosen = subsel.greedy(EYE, MinDistance(X, 4.9 * scale))
    assert chosen.indices.tolist() == [0, 1, 3, 5]


def test_many_features_far_from_the_first_on():
    X = np.zeros((6, 300))
    X[2:4, 299] = 1
    X[4:, 0] = 1
    chosen = subsel.greedy(EYE, MinDistance(X, 1))
    assert chosen.indices.tolist() == [0, 2, 4]


def test_both_allow_what_each_allows():
    both = Knapsack([1] * 6, 5) & Groups(LABELS, at_most=2) & Count(4)
    chosen = subsel.greedy(EYE, both)
    assert (chosen.indices.tolist(), chosen.cost) == ([0, 1, 3, 4], 4)
    assert "Knapsack(6 costs, 5, rule='best') & Groups(3 groups, count=None) & Count(4)" in repr(
        both
    )
    with pytest.raises(TypeError):
        Count(1) & 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knapsack([1, 0, 1], 2), r"costs\[1\] is 0.0; costs must be positive"),
        (lambda: Knapsack([1, 2, -1], 2), r"costs\[2\] is -1.0"),
        (lambda: Knapsack([1, np.nan], 2), r"costs\[1\] is nan"),
        (lambda: Knapsack([1, np.inf], 2), r"costs\[1\] is inf"),
        (lambda: Knapsack([[1, 2]], 2), r"costs must have one entry for each candidate"),
        (lambda: Knapsack([], 2), r"costs must have one entry for each candidate"),
        (lambda: Knapsack([1, 2], 0), r"budget must be a number in \(0, inf\)"),
        (lambda: Knapsack([1, 2], np.nan), r"budget must be a number"),
        (lambda: Knapsack([1, 2], np.inf), r"budget must be a number"),
        (lambda: Knapsack([1, 2], 2, rule="worst"), r"rule must be one of 'ratio'"),
        (lambda: Groups(LABELS), r"at_most, at_least or count"),
        (lambda: Groups(LABELS, at_least=1), r"at_least needs count"),
        (lambda: Groups(LABELS, at_least=2, at_most=1, count=6), r"at_least is 2 for 'a'"),
        (lambda: Groups(LABELS, at_least={"c": 2}, count=6), r"for 'c', of which at most 1"),
        (lambda: Groups(LABELS, at_least=1, count=2), r"count is 2, but at_least asks for 3"),
        (
            lambda: Groups(LABELS, at_most={"d": 1}),
            r"at_most names 'd', which is not the label of any candidate",
        ),
        (lambda: Groups([], at_most=1), r"labels must be 1-D"),
        (lambda: Groups(LABELS, at_most=-1), r"at_most must be at least 0, not -1"),
        (lambda: Groups(LABELS, count=0), r"count must be at least 1"),
        (lambda: MinDistance([[1.0], [np.nan]], 1), r"X\[1, 0\] is nan"),
        (lambda: MinDistance([1.0, 2], 1), r"X must be 2-D"),
        (lambda: MinDistance([[1.0]], 0), r"least must be a number in \(0, inf\)"),
        (lambda: MinDistance([[1.0]], 1, metric="dot"), r"metric must be one of 'euclidean'"),
        (
            lambda: Groups(LABELS, at_least=1, count=4) & Count(4),
            r"has at_least, which another constraint",
        ),
        (
            lambda: Count(2) & Groups(LABELS, at_least=1, count=4),
            r"has at_least, which another constraint",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knapsack(["a", "b"], 2), r"costs must be numeric"),
        (lambda: Knapsack([1, None], 2), r"costs\[1\] is None"),
        (lambda: Knapsack([1, 2], "2"), r"budget must be a number"),
        (lambda: Knapsack([1, 2], True), r"budget must be a number"),
        (lambda: Groups([0.5, 1.5], at_most=1), r"labels must be integers"),
        (lambda: Groups(LABELS, at_most=2.0), r"at_most must be a count.*pass the integer 2"),
        (lambda: Groups(LABELS, at_most={"a": 1.5}), r"at_most\['a'\] must be a count"),
        (lambda: Groups(LABELS, count=True), r"count must be a count"),
        (lambda: MinDistance([["a"]], 1), r"X must be numeric"),
        (lambda: MinDistance([[1.0]], "1"), r"least must be a number"),
    ],
)
def test_arguments_of_a_wrong_type(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Knapsack([1, 2], 3), r"costs must have one entry for each of 6 candidates, not 2"),
        (Knapsack([3, 4, 5, 6, 7, 8], 2.5), r"budget is 2.5, less than the smallest cost, 5.0"),
        (Knapsack([1, 1, 5, 5, 5, 5], 2), r"less than the smallest cost, 5.0"),  # the rest is held
        (Groups(["a", "b"], at_most=1), r"labels must have one entry for each of 6"),
        (Groups(LABELS, at_least={"a": 2}, count=2), r"of which only 1 are neither given nor"),
        (Groups(LABELS, count=5), r"count is 5, but only 4 of 6 candidates"),
        (Groups(LABELS, at_most=1, count=4), r"count is 4, but at_most leaves only 3"),
        (MinDistance([[0.0], [1]], 1), r"X must have one row for each of 6 candidates, not 2"),
        (Count(5), r"budget is 5, but only 4 of 6"),
        (
            Knapsack([1] * 6, 2) & Knapsack([2] * 6, 4, rule="ratio"),
            r"one kind of cost only: give one of the two Knapsacks rule='plain'",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_before_work(constraint, message):
    class Untouched(subsel.Objective):
        n = 6

        def reset(self):
            raise AssertionError("it was searched")

        add = gains = value = reset

    with pytest.raises(ValueError, match=message):
        subsel.greedy(Untouched(), constraint, given=[0], exclude=[1])


def test_optimizers_that_try_no_singles_say_so():
    for optimizer in (subsel.stochastic_greedy, subsel.threshold_greedy):
        with pytest.raises(ValueError, match="give it rule='ratio' or rule='plain', or use"):
            optimizer(EYE, Knapsack([1] * 6, 2))
        for rule in ("ratio", "plain"):
            assert len(optimizer(EYE, Knapsack([1] * 6, 2, rule=rule))) == 2
    for optimizer in (subsel.random_greedy, subsel.sieve_streaming):  # which take no costs at all
        for rule, cure in (
            ("best", "use subsel.greedy or subsel.lazy"),
            ("ratio", "subsel.greedy"),
        ):
            with pytest.raises(ValueError, match=cure) as refused:
                optimizer(EYE, Knapsack([1] * 6, 2, rule=rule))
            assert "rule='ratio'" not in str(refused.value).split(":")[-1]
    chosen = subsel.greedy(EYE, Knapsack([1] * 6, 2))
    assert len(subsel.refine(EYE, chosen, budget=Knapsack([1] * 6, 2))) == 2
    assert type(chosen.bound) is float


def test_everything_excluded_or_given_leaves_nothing():
    for where in ({"exclude": range(6)}, {"given": range(6)}):
        where = {name: list(value) for name, value in where.items()}
        for budget in (1, Knapsack([1] * 6, 2), Groups(LABELS, at_most=2), MinDistance(EYE, 1)):
            with pytest.raises(ValueError, match="all of 6 candidates are given or excluded"):
                subsel.greedy(EYE, budget, **where)
        assert subsel.greedy(EYE, target=100, **where).stopped == "exhausted"
