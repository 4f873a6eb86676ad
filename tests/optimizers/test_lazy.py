"""Lazy greedy in the kernels of coverage objectives, beside greedy that evaluates every gain."""

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel import pacing
from subsel.objectives import Objective
from subsel.sources import levels


def amounts(n=300, d=70):
    """Rows with ties and with copies."""
    X = np.random.default_rng(0).integers(0, 6, (n, d)) / 4
    X[n // 2 :] = X[: n - n // 2]
    return X


def saturated(**options):
    """Points that are far from their cap, near it, and above it in turn."""
    return lambda: subsel.SaturatedCoverage.from_features(amounts(), fraction=0.05, **options)


CASES = {
    "features": lambda: subsel.FeatureBased(amounts()),
    "few features": lambda: subsel.FeatureBased(amounts(d=3), concave="log1p"),
    "sparse features": lambda: subsel.FeatureBased(sp.csr_array(amounts() * (amounts() > 1))),
    "capped features": lambda: subsel.FeatureBased(amounts(), concave="min", cap=9.0),
    "probabilities": lambda: subsel.ProbabilisticSetCover(amounts() / 2),
    "matrix": saturated(metric="cosine"),
    "tiles": saturated(metric="cosine", memory=0),
    "euclidean": saturated(memory=0),
    "rbf": saturated(metric="rbf", memory=0),
    "tall": lambda: subsel.SaturatedCoverage(amounts(), fraction=0.1),
    "wide": lambda: subsel.SaturatedCoverage(amounts().T, fraction=0.1),
    "wide, single": lambda: subsel.SaturatedCoverage(
        np.random.default_rng(1).random((70, 300), np.float32), fraction=0.3
    ),
    "sparse": lambda: subsel.SaturatedCoverage(sp.csr_array(amounts() * (amounts() > 1))),
}


@pytest.fixture(params=CASES)
def f(request):
    return CASES[request.param]()


def steps(f, taken, counts, costs=None, lazily=True):
    """What some calls of `extend` find, one after the other."""
    extend = f.extend if lazily else lambda *a: Objective._extend(f, *a)
    f.reset()
    found = [extend(taken, count, costs) for count in counts]
    return [np.concatenate(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("costs", [None, np.random.default_rng(2).integers(1, 9, 300) / 2])
def test_the_same_bits_as_from_every_gain(f, costs):
    costs = None if costs is None else costs[: f.n]
    taken = np.arange(f.n) % 7 == 3
    counts = (1, 4, 20, f.n // 3)
    wanted = steps(f, taken.copy(), counts, costs, lazily=False)
    found = steps(f, taken.copy(), counts, costs)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(f.gains(np.arange(f.n)), _afresh(f, found[0]))


def _afresh(f, chosen):
    f.reset()
    for element in chosen.astype(int):
        f.add(element)
    return f.gains(np.arange(f.n))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_in_the_smallest_portions(f, threads, monkeypatch):
    wanted = subsel.lazy_greedy(f, f.n // 2)
    monkeypatch.setattr(levels, "threads", lambda: threads)
    monkeypatch.setattr(levels, "_PARALLEL_WORK", 0)
    monkeypatch.setattr(pacing, "PORTION", 64)
    found = subsel.lazy_greedy(f, f.n // 2)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


def test_bounds_are_gains_or_larger(f):
    f.extend(np.zeros(f.n, bool), f.n // 4)
    bounds, gains = f.bounds(), f.gains(np.arange(f.n))
    assert (bounds >= gains)[~f._added].all()


def test_few_are_evaluated():
    random = np.random.default_rng(3)
    X = random.gamma(1.0, size=(2000, 20)) * random.gamma(1.0, size=(2000, 1))
    for data in (X, sp.csr_array(X)):
        assert subsel.greedy(subsel.FeatureBased(data), 50).n_evaluations < 2000 * 50 / 5


def test_what_was_added_already_gains_nothing_more(f):
    f.add(5)
    elements, gains = f.extend(np.zeros(f.n, bool), f.n)
    assert sorted(elements) == list(range(f.n))
    assert gains[list(elements).index(5)] == 0


def test_as_long_as_points_are_far_from_their_cap_no_gain_is_evaluated_again():
    f = subsel.SaturatedCoverage.from_features(amounts(), "cosine", fraction=0.5)
    assert subsel.lazy_greedy(f, 100).n_evaluations == 300  # first gains are sums, known already
    assert subsel.lazy_greedy(f, 200).n_evaluations < 900  # the last ones fill every point
    f = subsel.SaturatedCoverage(amounts() @ amounts().T, fraction=0.5)
    assert subsel.lazy_greedy(f, 100).n_evaluations == 300


def test_an_objective_that_is_not_submodular_is_searched_without_bounds():
    f = subsel.FeatureBased(amounts())
    f.submodular = False
    assert not f.lazy
    chosen = subsel.greedy(f, 5)
    assert chosen.n_evaluations >= 5 * 296
    np.testing.assert_array_equal(
        chosen.indices, subsel.greedy(subsel.FeatureBased(amounts()), 5).indices
    )
