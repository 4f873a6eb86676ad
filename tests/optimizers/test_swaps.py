"""Swaps of facility location are those of FasterPAM, by its definition, on every store."""

from itertools import combinations

import numba
import numpy as np
import pytest
import scipy.sparse

import subsel
from subsel.kernels import reference
from subsel.sources import base, swaps

N, POINTS = 30, 24
SEEDS = range(3)


def by_definition(value, elements, open_):
    """Candidates in turn, each at once into the place where F becomes largest, if it grows."""
    held, best, quiet, at = [*elements], value(elements), 0, 0
    while quiet < len(open_):
        candidate = open_[at % len(open_)]
        at, quiet = at + 1, quiet + 1
        if candidate not in held:
            tried = [value([*held[:p], candidate, *held[p + 1 :]]) for p in range(len(held))]
            place = int(np.argmax(tried))
            if tried[place] > best + 1e-9:
                held[place], best, quiet = candidate, tried[place], 0
    return held, best


def similarities(random, rows=POINTS, columns=N):
    """Numbers whose sums are exact, with ties, and a copy of a column."""
    S = random.integers(0, 33, (rows, columns)) / 32
    S[:, 7] = S[:, 3]
    return S


def make(kind, random):
    """An objective, and F of some of its elements by the formula."""
    S = similarities(random)
    if kind == "symmetric":
        S = similarities(random, N)
        S = np.maximum(S, S.T)
    elif kind == "sparse":
        S = np.where(S > 0.6, S, 0)
    elif kind in ("tiles", "cosine"):
        X = random.integers(-8, 9, (N, 3)) / 8
        metric = "cosine" if kind == "cosine" else "euclidean"
        f = subsel.FacilityLocation.from_features(X, metric, memory=0)
        return f, f.value  # as ties of roots are those of their rounding
    if kind != "guided":
        given = scipy.sparse.csr_array(S) if kind == "sparse" else S
        return subsel.FacilityLocation(given), lambda chosen: S[:, chosen].max(axis=1).sum()
    weights = random.integers(0, 5, POINTS) / 4
    query, private = similarities(random, POINTS, 9)[:, :2], similarities(random, POINTS, 9)[:, 4:6]
    f = subsel.FacilityLocation(S, weights=weights, query=query, private=private, nu=0.5)
    least, most = private.max(axis=1) / 2, query.max(axis=1)

    def value(chosen):
        return (weights * np.maximum(np.minimum(S[:, chosen].max(axis=1), most) - least, 0)).sum()

    return f, value


KINDS = ["dense", "symmetric", "sparse", "tiles", "cosine", "guided"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_they_are_those_of_the_definition(kind, seed, monkeypatch):
    monkeypatch.setattr(swaps, "_BLOCK", 11)
    random = np.random.default_rng(seed)
    f, value = make(kind, random)
    for k in (1, 2, 6):
        begun = random.permutation(N)[:k]
        refined = subsel.refine(f, begun)
        wanted, best = by_definition(value, begun.tolist(), range(N))
        assert refined.indices.tolist() == wanted
        assert refined.value == pytest.approx(best) == pytest.approx(refined.gains.sum())
        gains = [value([*wanted, j]) - best for j in range(N)]
        assert refined.bound == pytest.approx(best + np.sort(gains)[-k:].sum())
        np.testing.assert_allclose(f.gains(np.arange(N)), gains, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_what_is_given_without_what_is_excluded(kind):
    random = np.random.default_rng(5)
    f, value = make(kind, random)
    elements = random.permutation(N)
    given, begun, exclude = np.split(elements[:12], [2, 6])
    refined = subsel.refine(f, begun, given=given, exclude=exclude)
    open_ = np.setdiff1d(np.arange(N), [*given, *exclude])
    wanted, best = by_definition(lambda chosen: value([*given, *chosen]), begun.tolist(), open_)
    assert refined.indices.tolist() == wanted
    assert refined.value == pytest.approx(best)


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_they_depend_on_neither_threads_nor_path(features, seed, monkeypatch):
    monkeypatch.setattr(base, "PARALLEL_WORK", 1)
    monkeypatch.setattr(swaps, "_EAGER", 3)
    random = np.random.default_rng(seed)
    X = random.standard_normal((400, 4)).astype(np.float32)
    begun = random.permutation(400)[:70]
    f = subsel.FacilityLocation.from_features(X, "rbf", memory=0 if features else 2**30)
    many = subsel.refine(f, begun)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = subsel.refine(f, begun)
    finally:
        numba.set_num_threads(before)
    other = subsel.refine(subsel.FacilityLocation.from_features(X, "rbf"), begun)
    for found in (one, other):
        np.testing.assert_array_equal(found.indices, many.indices)
        np.testing.assert_array_equal(found.gains, many.gains)
    assert many.bound == one.bound


@pytest.mark.parametrize("seed", SEEDS)
def test_no_swap_is_left_that_gains(seed):
    random = np.random.default_rng(seed)
    X = random.standard_normal((150, 3))
    S = reference.similarity(X, "rbf")
    f = subsel.FacilityLocation.from_features(X, "rbf", memory=0)
    greedy = subsel.greedy(f, 8)
    for begun in (greedy, random.permutation(150)[:8]):
        chosen = subsel.refine(f, begun).indices.tolist()
        best = S[:, chosen].max(axis=1).sum()
        for place in range(8):
            held = S[:, chosen[:place] + chosen[place + 1 :]].max(axis=1)
            assert np.maximum(S, held[:, None]).sum(axis=0).max() <= best + 1e-9
    assert subsel.refine(f, greedy).value >= greedy.value


def test_a_matrix_and_its_transpose_as_rows():
    from subsel.kernels import cpu

    S = np.random.default_rng(0).random((40, 77))
    for start, stop in ((0, 77), (5, 37), (60, 77)):
        np.testing.assert_array_equal(cpu.turned(S, start, stop), S[:, start:stop].T)


def test_the_bound_is_that_of_the_budget():
    f = subsel.Modular([10.0, 9, 1, 1])
    tight = subsel.constraints.Knapsack([10, 10, 1, 1], 2, rule="ratio")
    begun = subsel.greedy(f, tight)
    assert (begun.value, begun.bound) == (2, 2)
    assert subsel.refine(f, begun, budget=tight).bound == 2
    assert subsel.refine(f, begun, max_swaps=1).bound >= 19  # any two


def test_the_bound_without_the_search_of_the_objective():
    """For an objective that finds swaps by gains, the bound is one, and no selection exceeds it."""
    S = similarities(np.random.default_rng(3))[:, :9]
    f = subsel.SaturatedCoverage(S)
    refined = subsel.refine(f, [0, 1, 2])
    best = max(f.value(some) for some in combinations(range(9), 3))
    assert refined.value <= best <= refined.bound < np.inf


def test_select_keeps_the_smaller_bound():
    X = np.random.default_rng(0).normal(size=(60, 4))
    for options in ({}, {"labels": np.arange(60) % 2}, {"objective": "saturated_coverage"}):
        first, refined = (
            subsel.select(X, 6, metric="rbf", refine=swaps, **options) for swaps in (False, True)
        )
        assert refined.value <= refined.bound <= first.bound


@pytest.mark.parametrize(
    ("budget", "at"),
    [
        (2, 2),
        (subsel.constraints.Knapsack(np.ones(30), 2), 2),
        (subsel.constraints.Groups(np.arange(30) % 3, at_most=2), 2),
        (subsel.constraints.Groups(np.arange(30) % 3, at_least=1, count=3), 1),
        (subsel.constraints.MinDistance(np.arange(30.0)[:, None], 4), 1),
    ],
)
def test_a_start_that_the_budget_does_not_allow(budget, at):
    S = np.random.default_rng(0).random((50, 30))
    bad = [0, 3, 6][at]
    with pytest.raises(ValueError, match=f"does not allow {bad} beside the {at} before it"):
        subsel.refine(S, [0, 3, 6], budget=budget)
    allowed = subsel.greedy(S, budget, min_gain=-1)
    assert subsel.refine(S, allowed, budget=budget).value >= allowed.value


def test_only_so_many():
    random = np.random.default_rng(0)
    f = subsel.FacilityLocation(similarities(random))
    begun = random.permutation(N)[:6]
    every = subsel.refine(f, begun)
    for most in range(3):
        some = subsel.refine(f, begun, max_swaps=most)
        assert np.count_nonzero(some.indices != begun) == most
        assert every.value > some.value
        assert some.bound >= every.value
