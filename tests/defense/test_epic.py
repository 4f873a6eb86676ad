"""EPIC's rounds against a plain restatement of algorithm 1, its guarantees, and bad input."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subsel.defense import EPIC


def restated_round(gradients, labels, kept, f, ground_set):
    """Algorithm 1 in float64, example by example: which of `kept` one round drops.

    Gradients in general position are assumed: no two at the same distance from a third.
    """
    dropped = []
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        if ground_set == "active":
            members = np.intersect1d(members, kept)
        g = gradients[members].astype(float)
        distance = np.linalg.norm(g[:, None] - g[None], axis=2)
        medoids: list[int] = []
        for _ in range(min(math.ceil(f * len(members) - 1e-9), len(members) - 1)):
            cost = [
                np.inf if j in medoids else distance[:, [*medoids, j]].min(axis=1).sum()
                for j in range(len(members))
            ]
            medoids.append(int(np.argmin(cost)))
        if not medoids:
            continue
        owner = np.array(medoids)[distance[:, medoids].argmin(axis=1)]
        alone = [members[j] for j in medoids if np.sum(owner == j) == 1]
        if len(np.setdiff1d(np.intersect1d(members, kept), alone)):
            dropped += [i for i in alone if i in kept]
    return np.sort(np.array(dropped, dtype=np.int64))


def unbalanced(seed, sizes=(60, 25, 9), d=3):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    gradients = rng.standard_t(2, size=(len(labels), d)).astype(np.float32)
    order = rng.permutation(len(labels))
    return gradients[order], labels[order]


@pytest.mark.parametrize("ground_set", ["active", "full"])
@pytest.mark.parametrize("f", [0.1, 0.3, 0.7])
def test_equals_algorithm_1_on_unbalanced_classes(ground_set, f):
    labels = unbalanced(0)[1]
    epic = EPIC(len(labels), subset_size=f, warmup=2, interval=2, ground_set=ground_set)
    kept = np.arange(len(labels))
    for epoch in (2, 4, 6):
        gradients = unbalanced(0)[0] + unbalanced(epoch)[0]
        expected = restated_round(gradients, labels, kept, f, ground_set)
        record = epic.prune(gradients, labels, epoch)
        np.testing.assert_array_equal(record.dropped, expected)
        kept = np.setdiff1d(kept, expected)
        np.testing.assert_array_equal(epic.kept, kept)
        assert record.n_kept == len(kept)
    assert len(kept) < len(labels)


def test_drops_the_isolated_and_keeps_the_rest():
    rng = np.random.default_rng(0)
    gradients = np.concatenate([rng.normal(0, 0.01, (40, 2)), [[9, 9], [-9, 9]]])
    epic = EPIC(42, subset_size=0.1, warmup=0, interval=1)
    record = epic.prune(gradients, np.zeros(42, int), 0)
    np.testing.assert_array_equal(record.dropped, [40, 41])
    np.testing.assert_array_equal(epic.kept, np.arange(40))
    assert record.kept_per_class == {0: 40}


def test_the_record_adds_up():
    gradients, labels = unbalanced(3)
    epic = EPIC(len(labels), subset_size=0.3, warmup=0, interval=1)
    record = epic.prune(gradients, labels, 0)
    counts = np.bincount(labels)
    assert len(record.medoids) == len(record.sizes) == sum(math.ceil(0.3 * n) for n in counts)
    assert record.sizes.sum() == len(labels)
    np.testing.assert_array_equal(np.sort(record.medoids[record.sizes == 1]), record.dropped)
    left = np.bincount(labels[epic.kept])
    assert record.kept_per_class == dict(enumerate(left.tolist()))
    assert epic.history == [record]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from(["active", "full"]),
    st.sampled_from([2, 3]),
)
def test_never_empties_a_class_and_only_ever_drops(seed, f, ground_set, least):
    """Coarse integer gradients, so duplicates and ties abound, over many rounds."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=30, p=[0.6, 0.3, 0.07, 0.03])
    epic = EPIC(
        30, subset_size=f, warmup=0, interval=1, ground_set=ground_set, min_cluster_size=least
    )
    before = epic.kept
    for epoch in range(5):
        gradients = rng.integers(0, 4, (30, 2)).astype(float)
        record = epic.prune(gradients, labels, epoch)
        assert set(labels[epic.kept]) == set(labels)
        np.testing.assert_array_equal(np.union1d(epic.kept, record.dropped), before)
        assert not np.intersect1d(epic.kept, record.dropped).size
        before = epic.kept


@pytest.mark.parametrize("ground_set", ["active", "full"])
def test_duplicates_that_are_both_medoids_stay(ground_set):
    """Four distinct points, each there twice, six medoids: a point that has its like stays."""
    gradients = np.repeat([[0.0, 0.0], [5.0, 0.0], [0.0, 7.0], [30.0, 30.0]], 2, axis=0)
    epic = EPIC(8, subset_size=0.75, warmup=0, interval=1, ground_set=ground_set)
    record = epic.prune(gradients, np.zeros(8, int), 0)
    assert sorted(record.sizes.tolist()) == [0, 0, 2, 2, 2, 2]
    assert not len(record.dropped)


def test_all_equal_gradients_drop_nothing():
    record = EPIC(12, subset_size=0.5, warmup=0, interval=1).prune(
        np.zeros((12, 3)), np.repeat([0, 1], 6), 0
    )
    assert not len(record.dropped)


def test_a_class_with_one_example_is_skipped_and_an_absent_one_is_no_class():
    gradients, labels = unbalanced(1, sizes=(20, 1, 20))
    labels[labels == 2] = 5
    record = EPIC(41, subset_size=0.2, warmup=0, interval=1).prune(gradients, labels, 0)
    assert record.skipped == {1: "one example left"}
    assert set(record.kept_per_class) == {0, 1, 5}
    assert record.kept_per_class[1] == 1


def test_nothing_but_classes_of_one():
    record = EPIC(3, warmup=0, interval=1).prune(np.eye(3), np.arange(3), 0)
    assert record.n_kept == len(record.skipped) == 3
    assert not len(record.medoids)


def test_a_class_that_a_round_would_empty_is_skipped():
    epic = EPIC(4, subset_size=0.5, warmup=0, interval=1, min_cluster_size=5)
    record = epic.prune(np.arange(8.0).reshape(4, 2), np.zeros(4, int), 0)
    assert record.skipped == {0: "all that is left of it is isolated"}
    assert record.n_kept == 4


def test_the_full_ground_set_does_not_empty_a_class_of_what_was_kept():
    """Kept: two examples that the next round isolates, among others dropped long ago."""
    labels = np.zeros(12, int)
    epic = EPIC(12, subset_size=0.25, warmup=0, interval=1, ground_set="full")
    epic._kept = np.array([0, 1])
    gradients = np.concatenate([[[50.0, 0.0], [0.0, 50.0]], np.full((10, 2), 0.1)])
    record = epic.prune(gradients, labels, 0)
    assert sorted(record.sizes.tolist()) == [1, 1, 10]
    np.testing.assert_array_equal(epic.kept, [0, 1])
    assert record.skipped == {0: "all that is left of it is isolated"}


def test_a_larger_cluster_size_drops_small_clusters_whole():
    gradients = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])
    epic = EPIC(5, subset_size=0.4, warmup=0, interval=1, min_cluster_size=3)
    np.testing.assert_array_equal(epic.prune(gradients, np.zeros(5, int), 0).dropped, [3, 4])


def test_gradients_of_the_kept_alone_give_the_same():
    gradients, labels = unbalanced(5)
    everything, alone = (EPIC(94, subset_size=0.3, warmup=0, interval=1) for _ in range(2))
    for epoch in range(3):
        kept = alone.kept
        a = everything.prune(gradients, labels, epoch)
        b = alone.prune(gradients[kept], labels[kept], epoch)
        np.testing.assert_array_equal(a.dropped, b.dropped)
        np.testing.assert_array_equal(a.medoids, b.medoids)
    np.testing.assert_array_equal(everything.kept, alone.kept)


def test_tensors_and_lists_are_arrays():
    gradients, labels = unbalanced(6)
    records = [
        EPIC(subset_size=0.3, warmup=0, interval=1).prune(g, y, 0)
        for g, y in (
            (gradients, labels),
            (torch.tensor(gradients, requires_grad=True), torch.tensor(labels)),
            (gradients.astype(float).tolist(), labels.tolist()),
        )
    ]
    for record in records[1:]:
        np.testing.assert_array_equal(record.dropped, records[0].dropped)


def test_fractions_are_not_rounded_up_by_floating_point_noise():
    """0.07 * 100 is 7.000000000000001."""
    gradients = np.random.default_rng(0).normal(size=(100, 2))
    record = EPIC(subset_size=0.07, warmup=0, interval=1).prune(gradients, np.zeros(100, int), 0)
    assert len(record.medoids) == 7


def test_torch_keeps_its_threads():
    """Numba sets OpenMP's number of threads, which torch reads, with its first parallel kernel."""
    code = """
import numpy as np, torch
from subsel.defense import EPIC
torch.set_num_threads(1)
spread = np.random.default_rng(0).normal(size=(2000, 10))  # enough to be worth threads
EPIC(subset_size=0.1, warmup=0, interval=1).prune(spread, np.zeros(2000, int), 0)
assert torch.get_num_threads() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_due():
    epic = EPIC(warmup=3, interval=4, stop=11)
    assert [epoch for epoch in range(20) if epic.due(epoch)] == [3, 7]
    endless = EPIC(warmup=0, interval=6)
    assert [epoch for epoch in range(20) if endless.due(epoch)] == [0, 6, 12, 18]


def residuals(seed, n=94, classes=3):
    """Gradients p - y of random probabilities, the labels, and the probabilities of these."""
    _, labels = unbalanced(0)
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), n)
    return (p - np.eye(classes)[labels]).astype(np.float32), labels, p[np.arange(n), labels]


def with_return(**changes):
    settings = {"subset_size": 0.3, "warmup": 0, "interval": 1, "readmit": 4, "threshold": 0.25}
    return EPIC(94, **settings | changes)


@pytest.mark.parametrize("ground_set", ["active", "full"])
def test_dropped_examples_come_back_if_their_label_is_possible(ground_set):
    epic = with_return(ground_set=ground_set)
    assert [epoch for epoch in range(9) if epic.due(epoch)] == [0, 1, 2, 3, 4]
    assert epic.schedule(9) == [0, 1, 2, 3]
    for epoch in range(4):
        epic.prune(*residuals(epoch)[:2], epoch)
    before = epic.kept
    gradients, labels, p = residuals(4)
    assert epic.looks_at(4) is None
    entry = epic.prune(gradients, labels, 4)
    gone = np.setdiff1d(np.arange(94), before)
    back = np.array([i for i in gone if p[i] >= 0.25])
    assert 0 < len(back) < len(gone)
    np.testing.assert_array_equal(entry.readmitted, back)
    np.testing.assert_array_equal(epic.kept, np.union1d(before, back))
    assert entry.n_kept == len(epic.kept) == sum(entry.kept_per_class.values())
    assert len(entry.dropped) == len(entry.medoids) == len(entry.sizes) == 0
    assert np.isnan([entry.rho, entry.error, entry.random_error]).all()
    assert f"readmitted={len(back)}" in repr(entry)
    assert json.loads(json.dumps(entry.to_dict()))["readmitted"] == back.tolist()
    assert not any(epic.due(epoch) for epoch in range(5, 50))


def test_what_a_round_looks_at():
    epic = with_return()
    for epoch in range(2):
        epic.prune(*residuals(epoch)[:2], epoch)
    assert len(epic.looks_at(2)) < 94
    np.testing.assert_array_equal(epic.looks_at(2), epic.kept)
    assert with_return(ground_set="full").looks_at(1) is None


def test_readmission_needs_gradients_of_all_and_of_logits():
    epic = with_return()
    for epoch in range(4):
        epic.prune(*residuals(epoch)[:2], epoch)
    assert len(epic.kept) < 94
    gradients, labels, _ = residuals(4)
    with pytest.raises(ValueError, match="gradients must be of all 94 examples before epoch 4"):
        epic.prune(gradients[epic.kept], labels[epic.kept], 4)
    with pytest.raises(ValueError, match="with respect to the logits"):
        epic.prune(gradients * 3, labels, 4)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, the columns of gradients"):
        epic.prune(gradients[:, :2], labels, 4)
    with pytest.raises(ValueError, match="the dataset's order has changed"):
        epic.prune(gradients, labels[::-1], 4)
    assert len(epic.history) == 4


def test_a_state_with_readmission_goes_on():
    whole, first, second = (with_return() for _ in range(3))
    for epic in (whole, first):
        for epoch in range(4):
            epic.prune(*residuals(epoch)[:2], epoch)
    second.load_state_dict(first.state_dict())
    for epic in (whole, second):
        epic.prune(*residuals(4)[:2], 4)
    np.testing.assert_array_equal(second.kept, whole.kept)
    third = with_return()
    third.load_state_dict(whole.state_dict())
    np.testing.assert_array_equal(third.history[-1].readmitted, whole.history[-1].readmitted)
    plain = EPIC(94, subset_size=0.3, warmup=0, interval=1, stop=4)
    for own, other in ((plain, whole), (with_return(), plain)):
        with pytest.raises(ValueError, match="readmit="):
            own.load_state_dict(other.state_dict())


def test_settings_of_readmission():
    epic = EPIC.with_readmission(40, (25, 35))
    assert (epic.warmup, epic.interval, epic.stop, epic.readmit) == (4, 2, 25, 30)
    assert (epic.subset_size, epic.threshold, epic.n) == (0.1, 0.05, None)
    epic = EPIC.with_readmission(20, [12], n=7, threshold=0.2, interval=3)
    assert (epic.warmup, epic.interval, epic.stop, epic.readmit) == (2, 3, 12, 16)
    assert (epic.threshold, epic.n) == (0.2, 7)
    assert EPIC(warmup=1, interval=1, readmit=6).stop == 6
    assert repr(EPIC.with_readmission(40, (35, 25))) == repr(EPIC.with_readmission(40, (25, 35)))
    for drops in (25, None, "25"):
        with pytest.raises(TypeError, match=f"drops must be a sequence of epochs, not {drops!r}"):
            EPIC.with_readmission(40, drops)
    for wrong, message in (
        (lambda: EPIC.with_readmission(3, (1,)), "epochs must be at least 4"),
        (lambda: EPIC.with_readmission(40, ()), "drops must begin between the first round"),
        (lambda: EPIC.with_readmission(40, (4, 30)), r"before epoch 4.*got \[4, 30\]"),
        (lambda: EPIC.with_readmission(40, (40,)), "and the end, 40"),
        (lambda: EPIC(warmup=3, interval=1, readmit=3), "readmit must be at least 4"),
        (lambda: EPIC(warmup=3, interval=1, stop=9, readmit=8), "stop must be at most readmit, 8"),
        (lambda: with_return(threshold=1.0), r"threshold must be a fraction in \(0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_state_goes_through_a_file_and_goes_on_exactly():
    whole, first = (EPIC(94, subset_size=0.3, warmup=0, interval=1) for _ in range(2))
    rounds = [(*unbalanced(0), 0), (unbalanced(1)[0], unbalanced(0)[1], 1)]
    for arguments in rounds:
        whole.prune(*arguments)
    first.prune(*rounds[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = EPIC(subset_size=0.3, warmup=0, interval=1)
    second.load_state_dict(torch.load(file, weights_only=True))
    second.prune(*rounds[1])
    np.testing.assert_array_equal(second.kept, whole.kept)
    for a, b in zip(second.history, whole.history, strict=True):
        assert vars(a).keys() == vars(b).keys()
        for name, value in vars(a).items():
            np.testing.assert_equal(value, getattr(b, name))


def test_a_saved_state_is_not_changed_by_what_comes_after():
    epic = EPIC(94, subset_size=0.3, warmup=0, interval=1)
    state = epic.state_dict()
    epic.prune(*unbalanced(0), 0)
    assert len(state["kept"]) == 94
    assert (state["labels"] == -1).all()
    epic.load_state_dict(state)
    epic.prune(*unbalanced(0), 0)
    assert (state["labels"] == -1).all()


def test_a_state_saved_before_n_is_known():
    epic = EPIC(warmup=0, interval=1)
    epic.load_state_dict(EPIC(warmup=0, interval=1).state_dict())
    assert epic.n is None


class TestRefuses:
    @pytest.mark.parametrize(
        ("setting", "value", "error"),
        [
            ("subset_size", 0.0, ValueError),
            ("subset_size", 1.0, ValueError),
            ("subset_size", float("nan"), ValueError),
            ("subset_size", "0.1", ValueError),
            ("warmup", -1, ValueError),
            ("warmup", 1.5, TypeError),
            ("interval", 0, ValueError),
            ("interval", True, TypeError),
            ("stop", 5, ValueError),
            ("ground_set", "kept", ValueError),
            ("metric", "manhattan", ValueError),
            ("min_cluster_size", 1, ValueError),
            ("n", 0, ValueError),
        ],
    )
    def test_settings(self, setting, value, error):
        with pytest.raises(error, match=setting):
            EPIC(**{"warmup": 5, "interval": 1, setting: value})

    def test_kept_before_n_is_known(self):
        epic = EPIC(warmup=0, interval=1)
        with pytest.raises(ValueError, match="n is not known"):
            _ = epic.kept

    def test_another_n(self):
        with pytest.raises(ValueError, match="keeps track of 5 examples, got n=6"):
            EPIC(5, warmup=0, interval=1).start(6)

    def test_gradients_of_another_length(self):
        with pytest.raises(
            ValueError, match="each of the 5 examples, or for each of the 5 kept; got 4"
        ):
            EPIC(5, warmup=0, interval=1).prune(np.ones((4, 2)), np.zeros(4, int), 0)

    def test_the_kept_alone_do_not_do_for_the_full_ground_set(self):
        gradients, labels = unbalanced(0)
        epic = EPIC(94, subset_size=0.3, warmup=0, interval=1, ground_set="full")
        epic.prune(gradients, labels, 0)
        with pytest.raises(ValueError, match="each of the 94 examples; got"):
            epic.prune(gradients[epic.kept], labels[epic.kept], 1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_gradients_that_are_not_finite(self, bad):
        gradients, labels = unbalanced(0)
        gradients[17, 1] = bad
        with pytest.raises(ValueError, match=r"not finite in 1 row \(17\)"):
            EPIC(warmup=0, interval=1).prune(gradients, labels, 0)

    def test_shapes_and_types(self):
        epic = EPIC(warmup=0, interval=1)
        with pytest.raises(ValueError, match=r"gradients must be \(n, d\)"):
            epic.prune(np.ones(4), np.zeros(4, int), 0)
        with pytest.raises(TypeError, match="gradients must be float32 or float64"):
            epic.prune(np.ones((4, 2), int), np.zeros(4, int), 0)
        with pytest.raises(TypeError, match="labels must be integers"):
            epic.prune(np.ones((4, 2)), np.zeros(4), 0)
        with pytest.raises(ValueError, match=r"labels must be \(4,\)"):
            epic.prune(np.ones((4, 2)), np.zeros(3, int), 0)
        with pytest.raises(ValueError, match="labels must be 0 or greater"):
            epic.prune(np.ones((4, 2)), np.array([0, 0, -1, 0]), 0)
        with pytest.raises(TypeError, match="epoch must be a count"):
            epic.prune(np.ones((4, 2)), np.zeros(4, int), 0.5)

    def test_labels_in_another_order_than_before(self):
        gradients, labels = unbalanced(0)
        epic = EPIC(subset_size=0.3, warmup=0, interval=1)
        epic.prune(gradients, labels, 0)
        with pytest.raises(ValueError, match="the dataset's order has changed"):
            epic.prune(gradients, np.roll(labels, 1), 1)

    def test_the_same_epoch_again(self):
        epic = EPIC(subset_size=0.3, warmup=0, interval=1)
        epic.prune(*unbalanced(0), 3)
        with pytest.raises(ValueError, match="after the last round's, 3; got 3"):
            epic.prune(*unbalanced(0), 3)

    @pytest.mark.parametrize("state", [{}, None, {"settings": {}}, "epic.pt"])
    def test_a_state_of_something_else(self, state):
        with pytest.raises(TypeError, match="state must be what state_dict returned, not"):
            EPIC(9, warmup=0, interval=1).load_state_dict(state)

    def test_a_state_with_other_settings_or_of_another_size(self):
        state = EPIC(9, subset_size=0.3, warmup=0, interval=1).state_dict()
        with pytest.raises(ValueError, match=r"saved with subset_size=0\.3, now 0\.2"):
            EPIC(9, subset_size=0.2, warmup=0, interval=1).load_state_dict(state)
        with pytest.raises(ValueError, match="of 9 examples, this EPIC is of 8"):
            EPIC(8, subset_size=0.3, warmup=0, interval=1).load_state_dict(state)
