"""What each optimizer does beside what `test_members` and `test_guarantees` try."""

import importlib

import numpy as np
import pytest

import subsel
from subsel.constraints import Groups, Knapsack, MinDistance

S = np.random.default_rng(0).random((60, 40)) ** 3
X = np.random.default_rng(1).standard_normal((300, 5)).astype(np.float32)


def randomly(f, budget, **options):
    return subsel.random_greedy(f, budget, random_state=3, **options)


def stochastically(f, budget, **options):
    return subsel.stochastic_greedy(f, budget, random_state=3, **options)


OPTIMIZERS = [
    subsel.greedy, subsel.lazy_greedy, stochastically, subsel.threshold_greedy, randomly,
    subsel.sieve_streaming,
]  # fmt: skip
ANY_CONSTRAINT = [subsel.greedy, subsel.lazy_greedy, stochastically, subsel.threshold_greedy]


class Plain(subsel.Objective):
    """Facility location without any kernel, which keeps no gains."""

    def __init__(self, S):
        self.S, self.n = S, S.shape[1]
        self.reset()

    def reset(self):
        self.best, self.asked = np.zeros(len(self.S)), 0

    def gains(self, candidates):
        self.asked += len(candidates)
        return np.maximum(self.S[:, candidates] - self.best[:, None], 0).sum(axis=0)

    def add(self, element):
        self.best = np.maximum(self.best, self.S[:, element])

    def value(self, indices):
        return float(self.S[:, indices].max(axis=1).sum()) if len(indices) else 0.0


@pytest.fixture(params=[subsel.FacilityLocation, subsel.SaturatedCoverage, Plain])
def f(request):
    return request.param(S)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_given_excluded_and_stops(optimizer, f):
    free = optimizer(f, 8)
    given, exclude = free.indices[:2].tolist(), free.indices[2:4].tolist()
    chosen = optimizer(f, 6, given=given, exclude=exclude)
    assert not {*given, *exclude} & {*chosen.indices.tolist()}
    assert len({*chosen.indices.tolist()}) == len(chosen) <= 6
    np.testing.assert_allclose(chosen.value, f.value([*given, *chosen.indices]))
    np.testing.assert_allclose(chosen.values[-1:], chosen.value)
    np.testing.assert_allclose(np.diff(chosen.values), chosen.gains[1:])

    target = f.value(given) + chosen.gains[:2].sum() * (1 - 1e-9)
    early = optimizer(f, 6, given=given, exclude=exclude, target=target)
    assert early.stopped == "target"
    assert early.value >= target > early.value - early.gains[-1]
    # The objective holds the selection.
    after = f.value([*given, *early.indices, 0]) - early.value
    np.testing.assert_allclose(f.gains(np.array([0]))[0], after, atol=1e-9)

    least = float(np.median(free.gains))
    assert (optimizer(f, 8, min_gain=least).gains > least).all()
    assert optimizer(f, 8, coverage=0.4).value >= 0.4 * f.value(np.arange(40))
    assert optimizer(f, 8, target=-1.0).stopped == "target"


@pytest.mark.parametrize("optimizer", ANY_CONSTRAINT)
def test_constraints(optimizer, f):
    costs = np.arange(1, 41) / 10
    for rule in ("ratio", "plain"):
        chosen = optimizer(f, Knapsack(costs, 3.3, rule=rule))
        assert chosen.cost <= 3.3
        assert costs[np.setdiff1d(np.arange(40), chosen.indices)].min() > 3.3 - chosen.cost - 1e-9
    chosen = optimizer(f, Groups(np.arange(40) % 4, at_least={0: 5}, at_most=6, count=9))
    assert np.count_nonzero(chosen.indices % 4 == 0) >= 5
    assert (len(chosen), chosen.stopped) == (9, "budget")
    if optimizer is not stochastically:
        places = np.arange(40.0)[:, None]
        chosen = optimizer(f, MinDistance(places, 9.0))
        assert np.diff(np.sort(chosen.indices)).min() >= 9


def test_thresholds_near_greedy_and_from_few_evaluations():
    f = Plain(np.random.default_rng(0).random((100, 400)) ** 4)
    wanted = subsel.greedy(f, 40)
    for epsilon in (0.5, 0.1, 0.01):
        chosen = subsel.threshold_greedy(f, 40, epsilon)
        assert chosen.value >= (1 - epsilon) * wanted.value
        assert chosen.n_evaluations < wanted.n_evaluations / 2


def test_threshold_greedy_fills_the_budget_with_what_gains_nothing():
    chosen = subsel.threshold_greedy(np.eye(5)[:, [0, 0, 1, 1, 2]], 5)
    assert chosen.indices.tolist() == [0, 2, 4, 1, 3]
    assert subsel.threshold_greedy(np.zeros((3, 3)), 2).indices.tolist() == [0, 1]


def test_samples_are_evaluated_in_part():
    f = Plain(np.random.default_rng(0).random((100, 400)) ** 4)
    chosen = subsel.stochastic_greedy(f, 40, 0.01, random_state=0)
    f.submodular = False
    whole = subsel.stochastic_greedy(f, 40, 0.01, random_state=0)
    np.testing.assert_array_equal(chosen.indices, whole.indices)
    np.testing.assert_array_equal(chosen.gains, whole.gains)
    assert chosen.n_evaluations < 0.8 * whole.n_evaluations


def test_random_greedy_draws_from_the_best():
    S = np.diag([9.0, 8, 1, 1, 1])
    drawn = {tuple(subsel.random_greedy(S, 2, random_state=seed).indices) for seed in range(40)}
    assert drawn == {(0, 1), (1, 0), (0, 2), (1, 2)} | {(1, 0)}
    # Where nothing gains, dummies are drawn, and nothing is selected.
    f = subsel.SumRedundancy(np.ones((4, 4)))
    chosen = subsel.random_greedy(f, 3, random_state=0)
    assert (len(chosen), chosen.value, chosen.stopped) == (0, 0.0, "budget")


def test_random_greedy_never_selects_what_makes_it_worse():
    A = np.random.default_rng(2).random((30, 30))
    f = subsel.GraphCut(A + A.T, lam=3.0)
    for seed in range(5):
        chosen = subsel.random_greedy(f, 20, random_state=seed)
        assert (chosen.gains > 0).all()
        assert len(chosen) < 20


def test_a_sieve_sees_the_candidates_that_come():
    f = Plain(S)
    order = np.random.default_rng(5).permutation(40)
    part = subsel.sieve_streaming(f, 5, order=order[:20])
    assert {*part.indices.tolist()} <= {*order[:20].tolist()}
    with pytest.raises(ValueError, match="order contains 3 more than once"):
        subsel.sieve_streaming(f, 5, order=[3, 3])


def by_the_paper(f, k, epsilon, order):
    """SieveStreaming++, Algorithm 1, one element at a time."""
    sieves, largest, reached = {}, 0.0, 0.0
    for e in order:
        largest = max(largest, f.value([e]))
        least = max(reached, largest) / (2 * k)
        for i in range(-200, 400):
            threshold = (1 + epsilon) ** i
            if not least / (1 + epsilon) <= threshold <= largest:
                sieves.pop(i, None)
                continue
            held = sieves.setdefault(i, [])
            if len(held) < k and f.value([*held, e]) - f.value(held) >= threshold:
                held.append(e)
                reached = max(reached, f.value(held))
    return max(map(f.value, sieves.values()))


@pytest.mark.parametrize("seed", range(3))
def test_a_sieve_is_the_paper_s(seed):
    random = np.random.default_rng(seed)
    f = Plain(random.random((12, 60)) ** 5)
    order = random.permutation(60).tolist()
    chosen = subsel.sieve_streaming(f, 6, 0.2, order=order)
    # Chunks may keep a sieve longer, which can only be better.
    assert chosen.value >= by_the_paper(f, 6, 0.2, order) - 1e-9


@pytest.mark.parametrize("metric", ["euclidean", "rbf"])
def test_a_sieve_in_random_order_is_near_greedy(metric, monkeypatch):
    module = importlib.import_module("subsel.optimizers.sieve_streaming")
    monkeypatch.setattr(module, "_CHUNK", 80)
    digits = pytest.importorskip("sklearn.datasets").load_digits().data[:800].astype(np.float32)
    f = subsel.FacilityLocation.from_features(digits, metric)
    best = subsel.greedy(f, 10).value
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(800)
        chosen = subsel.sieve_streaming(f, 10, order=order)
        assert (len(chosen), chosen.stopped) == (10, "budget")
        assert chosen.value >= 0.95 * best


def test_a_sieve_over_several_chunks():
    f = Plain(np.random.default_rng(0).random((30, 3000)) ** 8)
    chosen = subsel.sieve_streaming(f, 10)
    assert len(chosen) <= 10
    assert chosen.value >= 0.6 * subsel.greedy(f, 10).value


def test_swaps_until_none_gains():
    f = subsel.FacilityLocation(S)
    begun = subsel.greedy(f, 5)
    refined = subsel.refine(f, begun)
    assert refined.value >= begun.value
    chosen = refined.indices.tolist()
    for a in range(5):
        for b in range(40):
            if b not in chosen:
                assert f.value([*chosen[:a], b, *chosen[a + 1 :]]) <= refined.value * (1 + 1e-9)
    np.testing.assert_allclose(refined.value, f.value(chosen))
    np.testing.assert_allclose(refined.gains.sum(), refined.value)
    assert refined.bound <= begun.bound


def test_swaps_from_anywhere_and_only_so_many():
    f = subsel.FacilityLocation(S)
    bad = np.argsort(f.gains(np.arange(40)))[:4]
    begun = f.value(bad)
    once = subsel.refine(f, bad, max_swaps=1)
    assert len({*once.indices.tolist()} - {*bad.tolist()}) == 1
    assert subsel.refine(f, bad).value > once.value > begun
    assert subsel.refine(f, bad, max_swaps=0).value == pytest.approx(begun)


def test_swaps_keep_to_what_is_allowed():
    f = subsel.FacilityLocation(S)
    costs = np.arange(1, 41) / 10
    for budget in (
        Knapsack(costs, 3.0), Groups(np.arange(40) % 4, at_least={3: 2}, at_most=2, count=5),
        MinDistance(np.arange(40.0)[:, None], 6.0),
    ):  # fmt: skip
        begun = subsel.greedy(f, budget, given=[1], exclude=[2])
        refined = subsel.refine(f, begun, budget=budget, given=[1], exclude=[2])
        assert refined.value >= begun.value
        assert len(refined) == len(begun)
        again = subsel.refine(f, refined, budget=budget, given=[1], exclude=[2])
        np.testing.assert_array_equal(again.indices, refined.indices)
    assert not {1, 2} & {*refined.indices.tolist()}
    assert np.diff(np.sort(refined.indices)).min() >= 6


def test_swaps_of_copies_end():
    f = subsel.FacilityLocation(np.repeat(S, 2, axis=1))
    begun = subsel.greedy(f, 6)
    assert subsel.refine(f, begun).value >= begun.value
    assert subsel.refine(subsel.DisparitySum(1 - np.eye(6)), [0, 1]).value == 1


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (lambda: subsel.refine(S, []), "selection is empty"),
        (lambda: subsel.refine(S, [1, 1]), "selection contains 1 more than once"),
        (lambda: subsel.refine(S, [1, 99]), r"selection\[1\] is 99"),
        (lambda: subsel.refine(S, [1], given=[1]), "selection has 1, which is given or excluded"),
        (lambda: subsel.refine(S, [1], max_swaps=-1), "max_swaps must be at least 0"),
        (lambda: subsel.threshold_greedy(S, 3, 0), r"epsilon must be a number in \(0, 1\)"),
        (lambda: subsel.sieve_streaming(S, 3, 1.0), r"epsilon must be a number in \(0, 1\)"),
        (
            lambda: subsel.sieve_streaming(S, Groups(np.arange(40), at_most=1)),
            r"sieve_streaming works with a count as budget only, not with Groups",
        ),
        (lambda: subsel.sieve_streaming(S, None, target=3), "with a count as budget only"),
        (
            lambda: subsel.random_greedy(S, Knapsack(np.ones(40), 3, rule="ratio")),
            "bounds the count and has no costs",
        ),
        (lambda: subsel.random_greedy(S, MinDistance(np.eye(40), 1)), "bounds the count"),
        (
            lambda: subsel.threshold_greedy(subsel.SumRedundancy(np.eye(3)), 2),
            "for monotone objectives, and SumRedundancy is not monotone",
        ),
        (
            lambda: subsel.sieve_streaming(subsel.SumRedundancy(np.eye(3)), 2),
            "for monotone objectives",
        ),
        (
            lambda: subsel.random_greedy(subsel.DisparitySum(1 - np.eye(3)), 2),
            "for submodular objectives",
        ),
        (
            lambda: subsel.random_greedy(subsel.SumRedundancy(np.eye(3)), 2, coverage=0.5),
            "is not monotone: give target",
        ),
    ],
)
def test_refused(search, message):
    with pytest.raises(ValueError, match=message):
        search()


@pytest.mark.parametrize("options", [{}, {"min_gain": 2.0}])
def test_stochastic_greedy_proves_something_of_candidates_that_it_never_drew(options):
    f = Plain(np.random.default_rng(0).random((30, 3000)))
    chosen = subsel.stochastic_greedy(f, 2, epsilon=0.5, random_state=0, **options)
    assert f.asked > 3000 > f.asked - 2 * 3000 * np.log(2)
    assert chosen.value <= subsel.greedy(f, 2).value <= chosen.bound < np.inf
