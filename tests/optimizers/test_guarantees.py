"""What each algorithm promises, and certificates, against optima by enumeration.

Every submodular objective of `members`, with all but a few candidates excluded, so that all sets
can be enumerated by the formula.
"""

import itertools
import math

import numpy as np
import pytest
from members import MEMBERS, N

import subsel
from subsel.constraints import Count, Groups, Knapsack, MinDistance

E = 1 - 1 / math.e
OPEN = np.random.default_rng(8).permutation(N)[:8]
"""Candidates that may be selected; those of equal columns are among them."""
EXCLUDED = np.setdiff1d(np.arange(N), OPEN)
COSTS = np.random.default_rng(9).integers(1, 30, N) / 10
GROUPS = np.arange(N) % 3
PLACES = np.random.default_rng(10).integers(0, 6, (N, 2)).astype(float)


def far_apart(chosen):
    pairs = itertools.combinations(chosen, 2)
    return all(np.linalg.norm(PLACES[a] - PLACES[b]) >= 2.5 for a, b in pairs)


# A constraint, which sets it allows, and what greedy under it guarantees.
CONSTRAINTS = {
    "count": (Count(3), lambda chosen: len(chosen) <= 3, E),
    "knapsack, best": (Knapsack(COSTS, 3), lambda chosen: COSTS[chosen].sum() <= 3 + 1e-9, 1 / 2),
    "knapsack, ratio": (
        Knapsack(COSTS, 3, rule="ratio"), lambda chosen: COSTS[chosen].sum() <= 3 + 1e-9, 0,
    ),
    "groups": (
        Groups(GROUPS, at_most=1), lambda chosen: len({*GROUPS[chosen]}) == len(chosen), 1 / 2,
    ),
    "floors": (
        Groups(GROUPS, at_least={2: 2}, count=3),
        lambda chosen: sum(GROUPS[j] == 2 for j in chosen) + 3 - len(chosen) >= 2, 1 / 2,
    ),
    "distance": (MinDistance(PLACES, 2.5), far_apart, 0),
    "both": (
        Knapsack(COSTS, 3, rule="plain") & Groups(GROUPS, at_most=1),
        lambda chosen: COSTS[chosen].sum() <= 3 + 1e-9 and len({*GROUPS[chosen]}) == len(chosen), 0,
    ),
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        *{
            (member.name.split(",")[0], member.monotone): member
            for member in reversed(MEMBERS)
            if member.submodular
        }.values()
    ],  # one of each objective: what data lie in makes no difference to a guarantee
    ids=lambda member: member.name,
)
def member(request):
    return request.param


@pytest.fixture(scope="module")
def f(member):
    return member.make()


@pytest.fixture(scope="module")
def values(member):
    """F of all sets, by the formula."""
    return {
        chosen: member.value([*chosen])
        for size in range(len(OPEN) + 1)
        for chosen in itertools.combinations(OPEN.tolist(), size)
    }


def best(values, allowed):
    return max(value for chosen, value in values.items() if allowed([*chosen]))


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_greedy(member, f, values, name):
    constraint, allowed, part = CONSTRAINTS[name]
    chosen = subsel.greedy(f, constraint, exclude=EXCLUDED)
    assert allowed(chosen.indices.tolist())
    optimum = best(values, allowed)
    if not member.monotone:
        assert chosen.bound is None
        return
    assert chosen.value >= part * optimum - 1e-9
    assert chosen.bound >= optimum - 1e-9 * abs(optimum)
    assert chosen.bound >= chosen.value
    lazily = subsel.lazy_greedy(f, constraint, exclude=EXCLUDED)
    assert lazily.bound >= optimum - 1e-9 * abs(optimum)


def stochastic(f, constraint, **options):
    return subsel.stochastic_greedy(f, constraint, 0.5, random_state=0, **options)


def refined(f, constraint, **options):
    begun = subsel.greedy(f, constraint, **options)
    options = {name: options[name] for name in ("given", "exclude")}
    return subsel.refine(f, begun, budget=constraint, **options) if len(begun) else begun


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_certificates_of_every_search(member, f, values, name):
    """Beside what is given, wherever the search stops, for every optimizer that takes it."""
    if not member.monotone:
        pytest.skip("not monotone")
    constraint, allowed, _ = CONSTRAINTS[name]
    first = int(OPEN[0])  # the first of each set in `values` that has it
    for given in ([], [first]):
        held = [*given] if name == "distance" else []  # which alone counts what is given

        def open_to(chosen, given=given, held=held):
            own = [j for j in chosen if j not in given]
            return {*given} <= {*chosen} and allowed([*held, *own])

        optimum = best(values, open_to)
        searches = [subsel.greedy, subsel.lazy_greedy, refined]
        if name != "knapsack, best":
            searches.append(subsel.threshold_greedy)
            searches += [stochastic] if name != "distance" else []
        if name == "count":
            searches.append(subsel.sieve_streaming)
        enough = values[tuple(given)] + 0.6 * (optimum - values[tuple(given)])
        for search in searches:
            for stop in ({}, {"target": enough}, {"min_gain": optimum / 4}, {"target": -1e9}):
                chosen = search(f, constraint, given=given, exclude=EXCLUDED, **stop)
                assert chosen.bound >= optimum - 1e-9 * abs(optimum)
                assert chosen.bound >= chosen.value


def test_certificates_are_tight_where_nothing_overlaps():
    values = np.array([5.0, 4, 3, 2, 1])
    for f in (subsel.Modular(values), subsel.FacilityLocation(np.diag(values))):
        chosen = subsel.greedy(f, 2)
        assert chosen.bound == pytest.approx(9)
        chosen = subsel.lazy_greedy(f, Knapsack([5, 4, 3, 2, 1.0], 7.5))
        assert chosen.bound == pytest.approx(7.5)  # a part of one element fills it up


def test_certificates_of_classes_add_up():
    X = np.random.default_rng(0).random((60, 3))
    labels = np.arange(60) % 3
    chosen = subsel.select(X, 12, labels=labels)
    parts = [subsel.select(X[labels == c], 4) for c in range(3)]
    assert chosen.bound == pytest.approx(sum(part.bound for part in parts))
    assert 0.9 < chosen.value / chosen.bound <= 1


def test_what_is_neither_monotone_nor_submodular_has_no_certificate():
    S = np.random.default_rng(0).random((6, 6))
    assert subsel.greedy(subsel.SumRedundancy(S + S.T), 2).bound is None
    assert subsel.greedy(subsel.DisparitySum(1 - np.eye(6)), 2).bound is None


def test_threshold_greedy_and_sieve_streaming(member, f, values):
    if not member.monotone:
        pytest.skip("not monotone")
    optimum = best(values, CONSTRAINTS["count"][1])
    for epsilon in (0.1, 0.4):
        chosen = subsel.threshold_greedy(f, 3, epsilon, exclude=EXCLUDED)
        assert chosen.value >= (E - epsilon) * optimum - 1e-9
        assert chosen.bound >= optimum - 1e-9 * abs(optimum)
        chosen = subsel.sieve_streaming(f, 3, epsilon, exclude=EXCLUDED)
        assert chosen.value >= (1 / 2 - epsilon) * optimum - 1e-9
        assert chosen.bound >= optimum - 1e-9 * abs(optimum)


def test_stochastic_and_random_greedy_in_the_mean(member, f, values):
    optimum = best(values, CONSTRAINTS["count"][1])
    if min(value for chosen, value in values.items() if len(chosen) < 5) < 0:
        pytest.skip("F is negative for some sets")
    if member.monotone:
        drawn = [
            subsel.stochastic_greedy(f, 3, 0.2, random_state=seed, exclude=EXCLUDED).value
            for seed in range(8)
        ]
        assert np.mean(drawn) >= (E - 0.2) * optimum
    drawn = [
        subsel.random_greedy(f, 3, random_state=seed, exclude=EXCLUDED).value for seed in range(8)
    ]
    assert np.mean(drawn) >= (E if member.monotone else 1 / math.e) * optimum


@pytest.mark.parametrize("name", ["count", "knapsack, ratio", "groups", "floors"])
def test_refine(member, f, values, name):
    constraint, allowed, _ = CONSTRAINTS[name]
    begun = subsel.greedy(f, constraint, exclude=EXCLUDED)
    if not len(begun):
        return
    refined = subsel.refine(f, begun, budget=constraint, exclude=EXCLUDED)
    assert refined.value >= begun.value - 1e-9 * abs(begun.value)
    assert allowed(refined.indices.tolist())
    if member.monotone and name == "count":
        worst = subsel.refine(f, OPEN[:3], exclude=EXCLUDED)
        assert worst.value >= best(values, allowed) / 2


def cover(random):
    """Few sets that overlap much, of unequal weight."""
    A = random.random((7, 12)) < 0.35
    weights = random.integers(1, 9, 12).astype(float)
    return subsel.SetCover(A, weights=weights), lambda chosen: weights @ A[chosen].any(axis=0)


def location(random):
    """Similarities that are mostly 0."""
    S = random.random((9, 7)) ** 6
    return subsel.FacilityLocation(S), lambda chosen: S[:, chosen].max(axis=1, initial=0).sum()


def cut(random):
    """The weight of a graph's edges to what is not selected: not monotone, never negative."""
    S = np.triu(random.random((7, 7)) ** 3, 1)
    S += S.T
    f = subsel.GraphCut(S, lam=1.0)
    return f, lambda chosen: np.delete(S[chosen], chosen, axis=1).sum()


@pytest.mark.parametrize("make", [cover, location, cut])
@pytest.mark.parametrize("seed", range(6))
def test_on_random_instances(make, seed):
    f, formula = make(np.random.default_rng(seed))
    k, costs = 3, np.random.default_rng(100 + seed).integers(1, 9, 7)
    sets = [[*c] for size in range(8) for c in itertools.combinations(range(7), size)]
    values = [formula(chosen) for chosen in sets]
    fits = [sum(costs[chosen]) <= 10 for chosen in sets]
    optimum = max(v for v, chosen in zip(values, sets, strict=True) if len(chosen) <= k)
    slack = 1e-9 * optimum
    drawn = [subsel.random_greedy(f, k, random_state=s).value for s in range(20)]
    assert np.mean(drawn) >= (E if f.monotone else 1 / math.e) * optimum
    if make is cut:
        assert (f.submodular, f.monotone) == (True, False)
        return
    for search in (subsel.greedy, subsel.lazy_greedy):
        assert search(f, k).value >= E * optimum - slack
        within = max(v for v, fit in zip(values, fits, strict=True) if fit)
        chosen = search(f, Knapsack(costs, 10))
        assert chosen.value >= within / 2 - slack
        assert chosen.bound >= within - slack
    drawn = [subsel.stochastic_greedy(f, k, 0.3, random_state=s).value for s in range(20)]
    assert np.mean(drawn) >= (E - 0.3) * optimum
    assert subsel.threshold_greedy(f, k, 0.2).value >= (E - 0.2) * optimum - slack
    alone = np.argsort([formula([j]) for j in range(7)])
    for order in (alone, alone[::-1], np.random.default_rng(seed).permutation(7)):
        found = subsel.sieve_streaming(f, k, 0.2, order=order)
        assert found.value >= 0.3 * optimum - slack
    for begun in itertools.combinations(range(7), k):
        assert subsel.refine(f, begun).value >= optimum / 2 - slack
