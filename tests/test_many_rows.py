"""`select` with ``method="auto"``: a part of many rows is searched, and all are counted."""

import numpy as np
import pytest

import subsel
from subsel import FacilityLocation, coreset

N, K = 900, 6


@pytest.fixture(autouse=True)
def large_from_300_rows_on(monkeypatch):
    monkeypatch.setattr(coreset, "LARGE", 300)


@pytest.fixture
def X():
    random = np.random.default_rng(0)
    return (random.normal(size=(9, 5))[random.integers(9, size=N)] * 5).astype(
        np.float32
    ) + random.normal(size=(N, 5)).astype(np.float32)


def same(a, b):
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.gains, b.gains)
    np.testing.assert_array_equal(a.assignment, b.assignment)
    assert a.value == b.value


def test_few_rows_are_searched_whole(X):
    chosen = subsel.select(X[:300], K, method="auto")
    same(chosen, subsel.select(X[:300], K))
    assert chosen.path == "features"


def test_of_many_rows_a_sample_is_searched_and_all_are_counted(X):
    chosen = subsel.select(X, K, method="auto")
    assert chosen.path == f"features: 300 of {N} rows"
    same(chosen, subsel.greedi(X, K, sample=300, partitions=1, random_state=0))
    f = FacilityLocation.from_features(X)
    assert chosen.value == f.value(chosen.indices)
    assert chosen.sizes.sum() == N
    np.testing.assert_array_equal(chosen.sizes, np.bincount(chosen.assignment, minlength=K))
    assert chosen.value >= 0.98 * subsel.select(X, K).value


def test_a_sample_has_so_many_rows_for_each_selected(X):
    assert subsel.select(X, 20, method="auto").path == f"features: {20 * 32} of {N} rows"
    assert subsel.select(X, 0.5, method="auto").path == f"features: {N} of {N} rows"


def test_what_is_drawn_depends_on_the_seed_alone(X):
    first = subsel.select(X, K, method="auto")
    same(first, subsel.select(X, K, method="auto", random_state=0))
    same(first, subsel.select(X, K, method="auto"))
    other = subsel.select(X, K, method="auto", random_state=1)
    assert other.indices.tolist() != first.indices.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"labels": np.arange(N) < 400},
        {"given": [3, 4]},
        {"exclude": np.arange(100)},
        {"candidates": np.arange(0, N, 2)},
        {"groups": np.arange(N) % 3, "at_most": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_limits_are_met_in_partitions_of_all_rows(X, options):
    chosen = subsel.select(X, K, method="auto", **options)
    assert chosen.path == f"features: partitions of {N} rows"
    same(chosen, subsel.greedi(X, K, random_state=0, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"labels": np.arange(N) % 3},  # no class is large
        {"metric": "manhattan"},
        {"weights": np.ones(N)},
        {"coverage": 0.5},
        {"min_distance": 0.1},
        {"refine": True},
        {"objective": "graph_cut"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_part_is_not_for_is_searched_whole(X, options):
    chosen = subsel.select(X, K, method="auto", **options)
    whole = subsel.select(X, K, **options)
    np.testing.assert_array_equal(chosen.indices, whole.indices)
    assert "rows" not in chosen.path


def test_bad_input_is_refused(X):
    X[700, 2] = np.nan
    with pytest.raises(ValueError, match=r"X\[700, 2\] is nan"):
        subsel.select(X, K, method="auto")
    with pytest.raises(ValueError, match="budget"):
        subsel.select(X, N + 1, method="auto")
