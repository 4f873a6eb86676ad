"""Loops that are not ours keep what `train` keeps, and resume exactly."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from subsel.defense import EPIC, DefenseWarning, KeptSampler, Rounds, train

N, C, EPOCHS, SEED = 180, 2, 6, 5


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    return torch.randn(N, 4, generator=generator) + y[:, None], y


X, Y = make_data()


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, C))


def make_epic(n=N):
    return EPIC(n, subset_size=0.3, warmup=1, interval=2)


@pytest.fixture(scope="module")
def usual():
    """What all loops are held to: SGD at one learning rate, batches of 32."""
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
        with pytest.raises(TypeError, match="epic must be an EPIC, got None"):
            KeptSampler(None)
        with pytest.raises(ValueError, match=r"weights must be numbers \(180,\), got \(3,\)"):
            KeptSampler(make_epic(), weights=[1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="weights must be finite"):
            KeptSampler(make_epic(), weights=np.full(N, -1.0))
        with pytest.raises(ValueError, match="rank"):
            KeptSampler(make_epic(), num_replicas=2, rank=2)


def plain(net, epic, first=0, stop=EPOCHS, prepare=None):
    """The loop of docs/training.md."""
    sampler = KeptSampler(epic, seed=SEED)
    loader = DataLoader(TensorDataset(X, Y), batch_size=32, sampler=sampler)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = torch.Tensor.backward
    if prepare is not None:
        net, optimizer, loader, step = prepare(net, optimizer, loader)
    rounds = Rounds(epic, (X, Y), epochs=EPOCHS)
    for epoch in range(first, stop):
        rounds.before(net, epoch)
        (sampler if prepare is None else loader).set_epoch(epoch)  # Accelerate's loader counts too
        for inputs, labels in loader:
            optimizer.zero_grad()
            step(F.cross_entropy(net(inputs), labels))
            optimizer.step()


def test_a_plain_loop(usual):
    epic, net = make_epic(), make_net()
    plain(net, epic, stop=3)
    state, resumed = epic.state_dict(), make_epic()
    resumed.load_state_dict(state)
    plain(net, resumed, first=3)
    same(usual, resumed, net)


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


def test_accelerate(usual, tmp_path):
    accelerate = pytest.importorskip("accelerate")

    def fit(first, stop, resume=False):
        accelerator = accelerate.Accelerator(cpu=True)
        epic, net = make_epic(), make_net()
        accelerator.register_for_checkpointing(Rounds(epic, (X, Y)))

        def prepare(*parts):
            prepared = accelerator.prepare(*parts)
            if resume:
                accelerator.load_state(tmp_path)
            return *prepared, accelerator.backward

        plain(net, epic, first, stop, prepare)
        if not resume:
            accelerator.save_state(tmp_path)
        return epic, net

    same(usual, *fit(0, EPOCHS))
    fit(0, 3)
    same(usual, *fit(3, EPOCHS, resume=True))


class TestLightning:
    @pytest.fixture(autouse=True)
    def _quiet(self):
        self.L = pytest.importorskip("lightning.pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    def fit(self, tmp_path, epochs=EPOCHS, epic=None, resume=None, workers=0, **options):
        from subsel.defense.lightning import EPICCallback

        L, epic, validated = self.L, epic or make_epic(), []

        class Module(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = make_net()

            def forward(self, x):
                return self.net(x)

            def training_step(self, batch, _):
                return F.cross_entropy(self(batch[0]), batch[1])

            def validation_step(self, batch, _):
                validated.append(self.current_epoch)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data = TensorDataset(X, Y)
        sampler = KeptSampler(epic, seed=SEED)
        module = Module()
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[EPICCallback(epic, (X, Y)), L.callbacks.ModelCheckpoint(tmp_path)],
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(
            module,
            DataLoader(data, 32, sampler=sampler, num_workers=workers),
            DataLoader(data, N),
            ckpt_path=resume,
        )
        assert validated == list(range(validated[0], epochs))
        return epic, module.net, trainer

    def test_keeps_what_train_keeps(self, usual, tmp_path):
        same(usual, *self.fit(tmp_path)[:2])

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_resumes_exactly(self, usual, tmp_path, stop):
        trainer = self.fit(tmp_path, epochs=stop)[2]
        path = trainer.checkpoint_callback.best_model_path
        epic, net, _ = self.fit(tmp_path, resume=path, workers=int(stop == 1))
        same(usual, epic, net)

    def test_a_round_before_the_first_epoch(self, tmp_path):
        epic = EPIC(N, subset_size=0.3, warmup=0, interval=1)
        assert len(self.fit(tmp_path, epochs=2, epic=epic)[0].history) == 2

    def test_no_round_is_warned_of(self, tmp_path):
        with pytest.warns(DefenseWarning, match="not defended"):
            self.fit(tmp_path, epochs=1)


class Rows(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": X[i], "labels": Y[i]}


class TestTransformers:
    @pytest.fixture(autouse=True)
    def _quiet(self):
        self.hf = pytest.importorskip("transformers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    def fit(self, tmp_path, epochs=EPOCHS, resume=None, stop=None, **options):
        from transformers.modeling_outputs import SequenceClassifierOutput

        from subsel.defense.transformers import EPICTrainer

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = make_net()

            def forward(self, x, labels=None):
                logits = self.net(x)
                loss = None if labels is None else F.cross_entropy(logits, labels)
                return SequenceClassifierOutput(loss=loss, logits=logits)

        class Stop(self.hf.TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                control.should_training_stop = state.global_step == stop
                control.should_save = control.should_save or control.should_training_stop

        model, epic = Model(), make_epic()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        arguments = self.hf.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            max_grad_norm=0.0,
            seed=SEED,
            use_cpu=True,
            report_to="none",
            save_strategy="epoch",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            **options,
        )
        trainer = EPICTrainer(
            model,
            arguments,
            train_dataset=Rows(),
            optimizers=(optimizer, schedule),
            callbacks=[Stop()],
            epic=epic,
        )
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
        return epic, model.net, trainer

    def test_keeps_what_train_keeps(self, usual, tmp_path):
        epic, net, trainer = self.fit(tmp_path)
        same(usual, epic, net)
        assert trainer.state.epoch == EPOCHS
        assert trainer.lr_scheduler.last_epoch == trainer.state.global_step == 6 * EPOCHS

    @pytest.mark.parametrize("stop", [12, 18, 20])
    def test_resumes_exactly(self, usual, tmp_path, stop):
        """After epochs, before a round and not, and in the middle of one."""
        self.fit(tmp_path, stop=stop if stop == 20 else None, epochs=EPOCHS)
        same(usual, *self.fit(tmp_path, resume=f"checkpoint-{stop}")[:2])

    def test_a_checkpoint_without_what_was_kept(self, tmp_path):
        self.fit(tmp_path, epochs=2)
        (tmp_path / "checkpoint-6" / "epic.pt").unlink()
        with pytest.raises(FileNotFoundError, match=r"epic\.pt, which says what EPIC kept"):
            self.fit(tmp_path, epochs=2, resume="checkpoint-6")

    def test_batches_that_fill_no_step_are_left_out(self, tmp_path):
        epic, _, trainer = self.fit(tmp_path, gradient_accumulation_steps=4)
        assert trainer.state.epoch == EPOCHS
        assert len(epic.history) == 3
