"""Modular objectives and mixtures: how they are written, what they are, what they refuse."""

import numpy as np
import pytest

import subsel
from subsel import FacilityLocation, Mixture, Modular

S = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25]])


def test_sums_and_multiples_make_a_flat_mixture():
    f, g, h = FacilityLocation(S), Modular([1.0, 2, 3]), Modular([0.0, 0, 1])
    for made, weights in (
        (2.0 * f + g, [2, 1]),
        (f * 2 + g, [2, 1]),
        (np.float64(2) * f + g, [2, 1]),
        (np.int64(2) * (f + 3 * g), [2, 6]),
        (f - g, [1, -1]),
        (2 * (f + g) - 0.5 * h, [2, 2, -0.5]),
        (f + g + f, [2, 1]),
        (Mixture([f + g, h], [3, 0.5]), [3, 3, 0.5]),
    ):
        assert isinstance(made, Mixture)
        assert made.weights == weights
        assert made.objectives == [f, g, h][: len(weights)]


def test_what_is_neither_a_number_nor_an_objective_is_refused():
    f = FacilityLocation(S)
    for wrong in (lambda: f + 1, lambda: f * f, lambda: f * "2", lambda: np.ones(3) * f,
                  lambda: f * True, lambda: f - None):  # fmt: skip
        with pytest.raises(TypeError):
            wrong()
    for weight in (np.nan, np.inf):
        with pytest.raises(ValueError, match="weight must be"):
            weight * f


def test_what_is_lost_by_a_negative_weight():
    f, g = FacilityLocation(S), Modular([1.0, 2, 3])
    spread = subsel.DisparitySum.from_features(np.eye(3))
    for made, submodular, monotone in (
        (f + g, True, True),
        (f - g, True, False),
        (f - Modular([0.0, -1, 0]), True, True),
        (-1.0 * f, False, False),
        (f + spread, False, True),
        (f - 0 * spread, True, True),
        (f + subsel.SumRedundancy(np.eye(3)), True, False),
    ):
        assert (made.submodular, made.monotone) == (submodular, monotone)


def test_the_most_relevant_at_no_cost_of_relevance():
    assert subsel.greedy(Modular([3.0, 5, 5, 1]), 3).indices.tolist() == [1, 2, 0]
    costs = np.array([1.0, 5, 1, 1])
    taken = np.zeros(4, bool)
    chosen, gains = Modular([3.0, 5, 5, 1]).extend(taken, 2, costs)
    assert (chosen.tolist(), gains.tolist()) == ([2, 0], [5, 3])
    assert taken.tolist() == [True, False, True, False]


def test_lazily_and_eagerly_the_same_beside_rounding():
    X = np.random.default_rng(0).standard_normal((300, 3))
    f = 0.3 * subsel.SaturatedCoverage.from_features(X) + 1e3 * Modular(np.abs(X[:, 0]))
    eager, lazy = subsel.greedy(f, 40), subsel.lazy_greedy(f, 40)
    np.testing.assert_array_equal(eager.indices, lazy.indices)
    np.testing.assert_array_equal(eager.gains, lazy.gains)
    assert lazy.n_evaluations < eager.n_evaluations


def test_what_a_repr_says():
    made = 2 * Modular([1.0]) - FacilityLocation([[1.0]])
    assert repr(made) == "Mixture(2 * Modular(n=1) + -1 * FacilityLocation(n=1, path='dense'))"


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Modular([1.0, np.nan]), ValueError, r"values\[1\] is nan"),
        (lambda: Modular([]), ValueError, "must be 1-D and not empty"),
        (lambda: Modular(3.0), ValueError, "must be 1-D and not empty"),
        (lambda: Modular(np.eye(2)), ValueError, "must be 1-D"),
        (lambda: Modular(["a"]), TypeError, "values must be numeric"),
        (lambda: Modular([1.0]).restrict([]), ValueError, "candidates must not be empty"),
        (lambda: Mixture([]), ValueError, "objectives must not be empty"),
        (lambda: Mixture(Modular([1.0])), TypeError, "sequence of objectives"),
        (lambda: Mixture([Modular([1.0]), S]), TypeError, r"objectives\[1\] must be an Objective"),
        (lambda: Modular([1.0]) + Modular([1.0, 2]), ValueError, "has 2 candidates, but"),
        (lambda: Mixture([Modular([1.0])], [1, 2]), ValueError, "one number for each objective"),
        (lambda: Mixture([Modular([1.0])], [np.inf]), ValueError, r"weights\[0\] is inf"),
    ],
)
def test_bad_input_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("eta", [0.0, 0.5, 2.0])
def test_recipes_of_mutual_information_of_queries(eta):
    """FLQMI and COM of docs/objectives.md, by the formulas of PRISM's table 1."""
    SQ = np.random.default_rng(0).integers(0, 9, (12, 3)) / 8  # n x queries
    flqmi = FacilityLocation(SQ.T) + eta * Modular(SQ.max(axis=1))
    com = subsel.FeatureBased(SQ) + eta * Modular(np.sqrt(SQ.sum(axis=1)))
    for chosen in ([], [4], [0, 4, 7], [*range(12)]):
        part = SQ[chosen]
        wanted = part.max(axis=0, initial=0).sum() + eta * part.max(axis=1).sum()
        assert flqmi.value(chosen) == pytest.approx(wanted, rel=1e-12)
        wanted = np.sqrt(part.sum(axis=0)).sum() + eta * np.sqrt(part.sum(axis=1)).sum()
        assert com.value(chosen) == pytest.approx(wanted, rel=1e-12)
    for f in (flqmi, com):
        assert (f.submodular, f.monotone) == (True, True)
        subsel.testing.check_objective(f)
