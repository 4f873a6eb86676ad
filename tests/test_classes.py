"""Small classes are searched many at a time, and select what each would select alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import subsel
from subsel.allowed import apportion
from subsel.kernels import cpu
from subsel.sources import classes

METRICS = ("euclidean", "cosine", "dot", "rbf", "correlation")
SIZES = [1, 2, 3, 5, 63, 64, 65, 130, classes.SMALL, classes.SMALL + 1, 40, 7]


def drawn(seed, sizes, d, dtype):
    """Rows in clusters, with copies and rows of zeros, and labels in no order."""
    random = np.random.default_rng(seed)
    n = sum(sizes)
    X = random.normal(size=(9, d))[random.integers(9, size=n)] + random.normal(size=(n, d)) / 4
    X[random.integers(n, size=n // 6)] = X[random.integers(n, size=n // 6)]
    X[random.integers(n, size=n // 20)] = 0
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (X * 10.0 ** random.integers(-3, 3, size=len(sizes))[labels, None]).astype(dtype), labels


def one_by_one(monkeypatch, *arguments, **options):
    """The same selection with a search for each class."""
    with monkeypatch.context() as patch:
        patch.setattr(classes, "SMALL", 0)
        return subsel.select(*arguments, **options)


def same(chosen, wanted):
    for name, value in vars(wanted).items():
        if name != "n_evaluations":
            np.testing.assert_array_equal(getattr(chosen, name), value, err_msg=name)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 4, 40])
def test_it_is_the_search_of_each_class(monkeypatch, metric, dtype, d):
    X, labels = drawn(d, SIZES, d, dtype)
    everything = dict(enumerate(SIZES))
    for budget in (0.1, 40, 500, everything | {8: 100, 11: 1}):
        options = {"labels": labels, "metric": metric}
        same(subsel.select(X, budget, **options),
             one_by_one(monkeypatch, X, budget, **options))  # fmt: skip


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("memory", [0, 100_000])
def test_path_is_that_of_a_class_alone(monkeypatch, d, memory):
    X, labels = drawn(0, [50] * 4, d, np.float32)
    chosen = subsel.select(X, 0.1, labels=labels, memory=memory)
    same(chosen, one_by_one(monkeypatch, X, 0.1, labels=labels, memory=memory))
    assert chosen.path == ("dense" if d == 40 and memory else "features")


@given(st.integers(0, 2**32), st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_ties_go_to_the_lowest_index(seed, sizes):
    random = np.random.default_rng(seed)
    X = random.integers(3, size=(sum(sizes), 2)).astype(np.float32)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = subsel.select(X, 0.4, labels=labels)
    for c in range(len(sizes)):
        rows = np.flatnonzero(labels == c)
        alone = subsel.select(X[rows], 0.4)
        own = labels[chosen.indices] == c
        np.testing.assert_array_equal(chosen.indices[own], rows[alone.indices])
        np.testing.assert_array_equal(chosen.gains[own], alone.gains)
        np.testing.assert_array_equal(
            chosen.indices[chosen.assignment[rows]], rows[alone.indices[alone.assignment]]
        )


def test_batches_do_not_change_the_selection(monkeypatch):
    X, labels = drawn(1, [9] * 300, 3, np.float32)
    wanted = subsel.select(X, 0.2, labels=labels)
    monkeypatch.setattr(classes, "_PAIRS", 200)
    for threads in (1, 2):
        monkeypatch.setattr(cpu, "threads", lambda threads=threads: threads)
        chosen = subsel.select(X, 0.2, labels=labels)
        same(chosen, wanted)
        assert chosen.n_evaluations == wanted.n_evaluations == 9


def test_batches_are_of_all_small_classes_once():
    for workers in (1, 3):
        features = subsel.sources.features(np.zeros((4, 2)))
        sizes = np.arange(1, classes.SMALL + 50)
        found = classes.small_classes(features, sizes, "euclidean", workers)
        np.testing.assert_array_equal(np.concatenate(found), np.arange(classes.SMALL))
        assert all(map(len, found))


def test_a_class_that_spreads_too_far_is_refused():
    X = np.random.default_rng(0).random((40, 2))
    X[3] *= 1e301
    with pytest.raises(ValueError, match=r"X spreads over .*, too far for euclidean; rescale it"):
        subsel.select(X, 0.1, labels=np.arange(40) % 8)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_a_count_is_shared_out_by_largest_remainder(sizes, data):
    sizes = np.array(sizes)
    budget = data.draw(st.integers(len(sizes), int(sizes.sum())))
    exact, total = budget * sizes, sizes.sum()
    counts = np.maximum(exact // total, 1)
    while counts.sum() != budget:  # one at a time
        claim = exact - counts * total
        if counts.sum() < budget:
            counts[np.argmax(np.where(counts < sizes, claim, -(10**9)))] += 1
        else:
            counts[np.argmin(np.where(counts > 1, claim, 10**9))] -= 1
    np.testing.assert_array_equal(apportion(budget, sizes), counts)
