"""Set cover and probabilistic set cover, beyond what `test_members` tests of every objective."""

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.kernels import reference


def memberships(seed, n=400, concepts=300, share=0.02):
    return (np.random.default_rng(seed).random((n, concepts)) < share).astype(float)


@pytest.mark.parametrize("times", [1, 3])
def test_a_long_run_has_the_gains_of_the_formula(times):
    M = memberships(0)
    weights = np.random.default_rng(1).random(300)
    f = subsel.SetCover(sp.csr_array(M), weights=weights, times=times)
    chosen = subsel.greedy(f, 400)
    np.testing.assert_array_equal(np.sort(chosen.indices), np.arange(400))
    values = [reference.set_cover(M, chosen.indices[:k], weights, times) for k in range(401)]
    np.testing.assert_allclose(chosen.gains, np.diff(values), rtol=1e-9, atol=1e-12)
    assert (np.diff(chosen.gains) <= 0).all()
    # What is covered leaves exactly nothing, so that later ties go to the lowest index.
    np.testing.assert_array_equal(f.gains(np.arange(400)), 0.0)
    zero = chosen.indices[chosen.gains == 0]
    assert len(zero) > 50
    np.testing.assert_array_equal(zero, np.sort(zero))


def test_a_concept_is_looked_up_once():
    """The inverted lists of a concept are gone through when it is covered, and never again."""
    f = subsel.SetCover(memberships(2))
    first = f.gains(np.arange(400))
    f.add(5)
    after = f.gains(np.arange(400))
    f.add(5)
    np.testing.assert_array_equal(f.gains(np.arange(400)), after)
    f.reset()
    np.testing.assert_array_equal(f.gains(np.arange(400)), first)


def test_costs_divide_gains():
    f = subsel.SetCover([[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1]])
    taken = np.zeros(3, bool)
    elements, gains = f.extend(taken, 3, np.array([8.0, 1.0, 1.0]))
    np.testing.assert_array_equal(elements, [2, 1, 0])
    np.testing.assert_array_equal(gains, [2, 1, 2])
    assert taken.all()


@pytest.mark.parametrize(
    "layout",
    [
        lambda M: M.astype(bool),
        lambda M: M.astype(np.int64),
        lambda M: M.astype(int).tolist(),
        np.asfortranarray,
        lambda M: sp.coo_matrix(M.astype(bool)),
        lambda M: sp.csc_array(M.astype(np.int8)),
        lambda M: sp.csr_array(M) + 0 * sp.csr_array(np.ones(M.shape)),  # with stored zeros
    ],
)
def test_every_layout_selects_the_same(layout):
    M = memberships(3)
    wanted = subsel.greedy(subsel.SetCover(M), 30)
    found = subsel.greedy(subsel.SetCover(layout(M)), 30)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


@pytest.mark.parametrize("cls", [subsel.SetCover, subsel.ProbabilisticSetCover])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (130, 3)])
def test_small_shapes_and_zeros(cls, shape):
    for X in (np.ones(shape), np.zeros(shape), sp.csr_array(shape), sp.csr_array(np.ones(shape))):
        for options in ({}, {"query": np.zeros(shape[1])}, {"private": np.ones(shape[1])}):
            chosen = subsel.lazy_greedy(cls(X, **options), shape[0])
            np.testing.assert_array_equal(chosen.indices, np.arange(shape[0]))
            assert chosen.value == (0 if options else X.max() * shape[1])


def test_certain_probabilities_are_sets():
    M = memberships(4)
    options = {"query": M[7], "private": M[9], "weights": np.arange(300.0)}
    one, other = (
        subsel.greedy(cls(M, **options), 20)
        for cls in (subsel.SetCover, subsel.ProbabilisticSetCover)
    )
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-12)


def test_information_is_what_its_definitions_say():
    """I(A; Q) = F(A) + F(Q) - F(A, Q); F(A | P) = F(A, P) - F(P)."""
    random = np.random.default_rng(5)
    P = random.random((30, 20)) * (random.random((30, 20)) < 0.3)
    f = subsel.ProbabilisticSetCover(P)
    A, Q, H = [3, 4, 5], [10, 11], [20, 21, 22]
    covered = {name: 1 - (1 - P[rows]).prod(axis=0) for name, rows in (("Q", Q), ("H", H))}
    mutual = subsel.ProbabilisticSetCover(P, query=covered["Q"])
    conditional = subsel.ProbabilisticSetCover(P, private=covered["H"])
    both = subsel.ProbabilisticSetCover(P, query=covered["Q"], private=covered["H"])
    F = f.value
    np.testing.assert_allclose(mutual.value(A), F(A) + F(Q) - F(A + Q))
    np.testing.assert_allclose(conditional.value(A), F(A + H) - F(H))
    np.testing.assert_allclose(both.value(A), F(A + H) + F(Q + H) - F(A + Q + H) - F(H))


COMMON = [
    (
        {"weights": [1.0]},
        r"weights must have one number for each concept, \(2,\); got the shape \(1,\)",
    ),
    ({"weights": [1.0, -1.0]}, r"weights\[1\] is -1.0; it must be a finite number of at least 0"),
    ({"weights": [1.0, np.inf]}, r"weights\[1\] is inf"),
    ({"query": [1]}, "query must have one number for each concept"),
    ({"private": [1, 0, 1]}, "private must have one number for each concept"),
    ({"backend": "cuda"}, "work on the CPU only"),
]


@pytest.mark.parametrize(
    ("M", "options", "message"),
    [
        ([[0, 2]], {}, r"membership\[0, 1\] is 2.0; memberships must be in \[0, 1\]"),
        ([[0, 0.5]], {}, r"membership\[0, 1\] is 0.5; memberships must be 0 or 1"),
        ([[1, 0], [0, -1]], {}, r"membership\[1, 1\] is -1.0; memberships must not be negative"),
        ([[0, np.nan]], {}, r"membership\[0, 1\] is nan"),
        (sp.csr_array([[0, 0.5]]), {}, r"membership\[0, 1\] is 0.5; memberships must be 0 or 1"),
        (sp.coo_array(([1, 1], ([0, 0], [1, 1])), (1, 2)), {}, r"membership\[0, 1\] is 2"),
        ([1, 0], {}, r"membership must be 2-D"),
        ([["a", "b"]], {}, "membership must be numeric"),
        ([[0, 1]], {"times": 0}, "times must be at least 1"),
        ([[0, 1]], {"times": 1.5}, "times must be a count"),
        ([[0, 1]], {"query": [0.5, 1]}, "query must be true or false for each concept"),
        ([[0, 1]], {"private": [np.nan, 1]}, r"private\[0\] is nan"),
        ([[0, 1]], {"query": {0, 1}}, "query must be an array or a list, not a set"),
        ([[0, 1]], {"private": np.ma.masked_array([1, 0])}, "private is a masked array"),
        *(([[0, 1]], options, message) for options, message in COMMON),
    ],
)  # fmt: skip
def test_refused_sets(M, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.SetCover(M, **options)


@pytest.mark.parametrize(
    ("P", "options", "message"),
    [
        ([[0, 1.5]], {}, r"probabilities\[0, 1\] is 1.5; probabilities must be in \[0, 1\]"),
        (sp.csr_array([[0, 1.5]]), {}, r"probabilities\[0, 1\] is 1.5"),
        ([[0, -0.5]], {}, r"probabilities\[0, 1\] is -0.5"),
        ([[0, np.nan]], {}, r"probabilities\[0, 1\] is nan"),
        ([[0, 1]], {"query": [0.5, 1.5]}, r"query\[1\] is 1.5; it must be .* at most 1"),
        ([[0, 1]], {"private": [-0.5, 1]}, r"private\[0\] is -0.5"),
        *(([[0, 1]], options, message) for options, message in COMMON),
    ],
)
def test_refused_probabilities(P, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.ProbabilisticSetCover(P, **options)
