"""Loops that are not ours keep what `train` keeps, and resume exactly; in two processes too."""

import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks_loops
from libraries import library
from loops import EPOCHS, LOOPS, SEED, N, X, Y, make_epic, make_net
from torch.utils.data import DistributedSampler, Subset, TensorDataset
from torchrun import TORCHRUN

from subsel.defense import EPIC, DefenseWarning, KeptSampler, Rounds, data, epochs, train

UNUSED = "EPIC keeps 16. examples, and the training loader gives 180"
NEEDS = {
    "accelerated": "accelerate",
    "lightning": "lightning.pytorch",
    "transformers": "transformers",
}


def loop_of(name):
    """A loop, with the library that it needs; without it the test is skipped."""
    if name in NEEDS:
        library(NEEDS[name])
    return LOOPS[name]


@pytest.fixture(autouse=True)
def _quiet():
    """Libraries warn of what is their own affair; what the defense says is seen by `warns`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unjoined(n, size):
    return [min(size, n - start) for start in range(0, n, size)]


@pytest.fixture(scope="module")
def usual():
    """What all loops are held to: SGD at one learning rate, batches of 32."""
    with pytest.MonkeyPatch.context() as patch:
        # A loader does not join a small last batch to the one before, as `train` does; whether
        # there is one depends on how many are kept, and that on the processor.
        for module in (data, epochs):
            patch.setattr(module, "batch_sizes", unjoined)
        result = train(
            make_net(),
            (X, Y),
            defense=make_epic(),
            epochs=EPOCHS,
            lr=0.1,
            momentum=0.0,
            nesterov=False,
            weight_decay=0.0,
            batch_size=32,
            seed=SEED,
            progress=False,
        )
    assert [len(r.dropped) > 0 for r in result.defense.history] == [True] * 3
    return result


def same(usual, epic, net):
    np.testing.assert_array_equal(usual.kept, epic.kept)
    for ours, other in zip(usual.defense.history, epic.history, strict=True):
        assert ours.epoch == other.epoch
        np.testing.assert_array_equal(ours.dropped, other.dropped)
    for p, q in zip(usual.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def passes(sampler, count):
    return [list(sampler) for _ in range(count)]


class TestKeptSampler:
    def test_reads_what_is_kept_at_each_pass(self):
        epic = make_epic()
        sampler = KeptSampler(epic)
        assert sorted(sampler) == list(range(N))
        rng = np.random.default_rng(0)
        epic.prune(rng.normal(size=(N, 2)).astype(np.float32), Y, 1)
        assert len(sampler) == len(epic.kept) < N
        assert sorted(sampler) == epic.kept.tolist()
        assert list(KeptSampler(epic, shuffle=False)) == epic.kept.tolist()

    def test_each_pass_has_an_order_of_its_own_for_a_seed(self):
        first = passes(KeptSampler(make_epic(), seed=1), 3)
        assert first == passes(KeptSampler(make_epic(), seed=1), 3)
        assert len({tuple(order) for order in first}) == 3
        assert first[0] != list(KeptSampler(make_epic(), seed=2))

    def test_set_epoch_says_which_pass_it_is(self):
        first = passes(KeptSampler(make_epic()), 3)
        sampler = KeptSampler(make_epic())
        sampler.set_epoch(2)
        assert passes(sampler, 2) == [first[2], first[2]]

    def test_weights_draw_with_replacement(self):
        weights = np.zeros(N)
        weights[[3, 7]] = 1.0, 3.0
        drawn = list(KeptSampler(make_epic(), weights=weights))
        assert len(drawn) == N
        assert set(drawn) == {3, 7}
        assert 0.6 < drawn.count(7) / N < 0.9

    @pytest.mark.parametrize("ranks", [1, 4, 7])
    def test_shares_are_those_of_a_distributed_sampler(self, ranks):
        epic = make_epic()
        epic._kept = np.delete(epic._kept, [3, 5])
        for rank in range(ranks):
            ours = KeptSampler(epic, shuffle=False, num_replicas=ranks, rank=rank)
            whole = Subset(TensorDataset(X), epic.kept)
            theirs = DistributedSampler(whole, ranks, rank, shuffle=False)
            assert list(ours) == epic.kept[list(theirs)].tolist()
            assert len(ours) == len(theirs)

    def test_refuses(self):
        with pytest.raises(ValueError, match="n is not known yet"):
            KeptSampler(EPIC(warmup=1, interval=1))
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got <function"):
            Rounds(EPIC(N, warmup=0, interval=1), (X, Y)).before(make_net, 0)
        with pytest.raises(TypeError, match="epic must be an EPIC, got None"):
            KeptSampler(None)
        with pytest.raises(ValueError, match=r"weights must be numbers \(180,\), got \(3,\)"):
            KeptSampler(make_epic(), weights=[1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="weights must be finite"):
            KeptSampler(make_epic(), weights=np.full(N, -1.0))
        with pytest.raises(ValueError, match="rank"):
            KeptSampler(make_epic(), num_replicas=2, rank=2)


@pytest.mark.parametrize("name", LOOPS)
def test_keeps_what_train_keeps(usual, tmp_path, name):
    epic, net, trained = loop_of(name)(tmp_path)
    same(usual, epic, net)
    assert len(trained) == EPOCHS
    assert sorted(trained[0]) == list(range(N))
    assert sorted(trained[-1]) == epic.kept.tolist()


@pytest.mark.parametrize("name", ["plain", "accelerated"])
def test_resumes_exactly(usual, tmp_path, name):
    loop = loop_of(name)
    loop(tmp_path, stop=3)
    same(usual, *loop(tmp_path, first=3)[:2])


def test_rounds_are_not_made_twice():
    epic = make_epic()
    rounds = Rounds(epic, (X, Y))
    assert rounds.before(make_net(), 0) is None
    assert rounds.before(make_net(), 1) is epic.history[0]
    assert rounds.before(make_net(), 1) is None
    with pytest.warns(DefenseWarning, match="no round of EPIC is due in its 1 epoch"):
        Rounds(make_epic(), (X, Y), epochs=1)
    with pytest.raises(TypeError, match="epic must be an EPIC"):
        Rounds((X, Y), make_epic())


def test_other_data_of_the_same_labels_are_refused():
    """Between rounds, and in a training that is resumed."""
    epic = make_epic()
    rounds = Rounds(epic, [X, Y])
    rounds.before(make_net(), 1)
    other = X.flip(0).contiguous(), Y
    again = Rounds(make_epic(), other)
    again.load_state_dict(rounds.state_dict())
    rounds.data, rounds._examples = other, None
    for changed in (rounds, again):
        with pytest.raises(ValueError, match="data are not those of the rounds before"):
            changed.before(make_net(), 3)
    same_again = Rounds(epic, (X, Y))
    same_again.load_state_dict(rounds.state_dict())
    assert same_again.before(make_net(), 3) is epic.history[-1]
    assert epic.history[-1].epoch == 3


class TestLightning:
    def fit(self, *given, **options):
        return loop_of("lightning")(*given, **options)

    @pytest.mark.parametrize(("stop", "workers"), [(1, 1), (2, 0), (2, 1), (3, 0)])
    def test_resumes_exactly(self, usual, tmp_path, stop, workers):
        """Before a round and not; workers fetch examples before the epoch begins."""
        self.fit(tmp_path, stop=stop)
        same(usual, *self.fit(tmp_path, first=stop, workers=workers)[:2])

    def test_validation_comes_after_each_epoch(self, tmp_path):
        self.fit(tmp_path, validate=True)

    def test_a_round_before_the_first_epoch(self, tmp_path):
        epic = EPIC(N, subset_size=0.3, warmup=0, interval=1)
        assert len(self.fit(tmp_path, stop=2, epic=epic)[0].history) == 2

    def test_no_round_is_warned_of(self, tmp_path):
        with pytest.warns(DefenseWarning, match="not defended"):
            self.fit(tmp_path, stop=1)

    def test_a_loader_that_leaves_nothing_out_is_warned_of(self, tmp_path):
        with pytest.warns(DefenseWarning, match=UNUSED):
            self.fit(tmp_path, stop=2, use_sampler=False)


class TestTransformers:
    def fit(self, *given, **options):
        return loop_of("transformers")(*given, **options)

    def test_counts_the_steps_of_what_was_dropped(self, tmp_path):
        trainer = self.fit(tmp_path)[0].trainer
        assert trainer.state.epoch == EPOCHS
        assert trainer.lr_scheduler.last_epoch == trainer.state.global_step == 6 * EPOCHS

    @pytest.mark.parametrize("step", [12, 18, 20])
    def test_resumes_exactly(self, usual, tmp_path, step):
        """After epochs, before a round and not, and in the middle of one."""
        self.fit(tmp_path, at_step=step)
        same(usual, *self.fit(tmp_path, first=str(step))[:2])

    def test_a_loader_that_leaves_nothing_out_is_warned_of(self, tmp_path):
        with pytest.warns(DefenseWarning, match=UNUSED):
            self.fit(tmp_path, stop=2, use_sampler=False)

    def test_a_checkpoint_without_what_was_kept(self, tmp_path):
        self.fit(tmp_path, stop=2)
        (tmp_path / "checkpoint-6" / "epic.pt").unlink()
        with pytest.raises(FileNotFoundError, match=r"epic\.pt, which says what EPIC kept"):
            self.fit(tmp_path, stop=2, first=1)

    def test_batches_that_fill_no_step_are_left_out(self, tmp_path):
        epic = self.fit(tmp_path, gradient_accumulation_steps=4)[0]
        assert epic.trainer.state.epoch == EPOCHS
        assert len(epic.history) == 3


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes came to in each loop: the whole training, and the same in parts."""
    out = tmp_path_factory.mktemp("loops")
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [*TORCHRUN, two_ranks_loops.__file__, str(out)]
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": path}
    ended = subprocess.run(
        command, env=os.environ | one, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="a torch without torch.distributed"
)
class TestTwoProcesses:
    @pytest.mark.parametrize("name", LOOPS)
    def test_keep_the_same_and_have_shares_of_it(self, usual, found, name):
        loop_of(name)
        a, b = (of_rank[name, "whole"] for of_rank in found)
        assert a["rounds"] == b["rounds"]
        assert [entry["epoch"] for entry in a["rounds"]] == [1, 3, 5]
        assert all(entry["dropped"] for entry in a["rounds"])
        for p, q in zip(a["state"].values(), b["state"].values(), strict=True):
            assert torch.equal(p, q)
        left = set(range(N))
        for epoch, shares in enumerate(zip(a["trained"], b["trained"], strict=True)):
            for entry in a["rounds"]:
                left -= set(entry["dropped"]) if entry["epoch"] == epoch else set()
            assert set(shares[0]) | set(shares[1]) == left
            assert len(shares[0]) == len(shares[1])
            # Batches, or shares, are filled up with examples that come twice.
            assert len(set(shares[0]) & set(shares[1])) <= 12

    def test_sampler_and_rounds_do_what_train_does(self, usual, found):
        """Until an odd number is left, of which one example comes twice."""
        first = found[0]["plain", "whole"]["rounds"][0]
        assert first["dropped"] == usual.defense.history[0].dropped.tolist()

    @pytest.mark.parametrize("name", LOOPS)
    def test_resume_exactly(self, found, name):
        loop_of(name)
        for of_rank in found:
            whole, parts = (of_rank[name, which] for which in ("whole", "parts"))
            assert whole["rounds"] == parts["rounds"]
            assert whole["trained"][-2:] == parts["trained"]
            for p, q in zip(whole["state"].values(), parts["state"].values(), strict=True):
                assert torch.equal(p, q)
