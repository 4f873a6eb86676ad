"""The training loop: its scenarios, its exactness, and every input it must refuse."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from subsel.defense import EPIC, PRESETS, EpochLogits, distinct, last_layer_gradients, train
from subsel.defense.augment import cutmix, flip_and_crop
from subsel.defense.data import batch_sizes
from subsel.defense.models import Normalize, resnet18, small_cnn, tiny_cnn
from subsel.defense.training import _optimizer, seeded
from subsel.files import written_whole

N, C = 129, 3  # one more than a batch of 128, or than two of 64


def make_data(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (n,), generator=generator)
    x = torch.randn(n, 1, 8, 8, generator=generator) + y[:, None, None, None]
    return x, y


def make_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(36, 12),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(12, C),
        )


def make_epic(**changes):
    return EPIC(**{"subset_size": 0.3, "warmup": 1, "interval": 1, "stop": 5, **changes})


def quick(model, data, **changes):
    settings = {"epochs": 6, "lr": 0.05, "drops": (4,), "batch_size": 64, "progress": False}
    return train(model, data, **{**settings, **changes})


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def without_times(history):
    return [{k: v for k, v in r.items() if not k.endswith("seconds")} for r in history]


class Plain(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def test_learns_drops_and_reports():
    epic = make_epic()
    result = quick(make_net(), make_data(), defense=epic, test=make_data(1))
    assert result.accuracy > 0.6
    assert [r["epoch"] for r in result.history] == list(range(6))
    assert [r["lr"] for r in result.history] == pytest.approx([0.05] * 4 + [0.005] * 2)
    assert [r["dropped"] > 0 for r in result.history] == [False, True, True, True, True, False]
    assert [r["kept"] for r in result.history] == [
        N - sum(len(p.dropped) for p in epic.history if p.epoch <= e) for e in range(6)
    ]
    np.testing.assert_array_equal(result.kept, epic.kept)
    assert not result.model.training


@pytest.mark.parametrize(
    ("ground_set", "gradients"), [("active", "fresh"), ("full", "fresh"), ("active", "training")]
)
def test_readmission(tmp_path, ground_set, gradients):
    """Whatever gradients the rounds take: those before it comes back are of all examples."""

    def run(**changes):
        epic = make_epic(ground_set=ground_set, subset_size=0.6, stop=4, readmit=5, threshold=0.2)
        return quick(make_net(), make_data(), defense=epic, gradients=gradients, **changes)

    path = tmp_path / "run.pt"
    whole = run(checkpoint=path, callback=lambda result: len(result.history) == 5)
    assert whole.history[-1]["readmitted"] == 0
    resumed, again = run(resume=path), run()
    entry = resumed.defense.history[-1]
    assert 0 < len(entry.readmitted) < N - whole.history[-1]["kept"]
    last = resumed.history[-1]
    assert (entry.epoch, last["epoch"], last["dropped"]) == (5, 5, 0)
    assert last["readmitted"] == len(entry.readmitted)
    assert last["kept"] == whole.history[-1]["kept"] + len(entry.readmitted)
    found, labels = last_layer_gradients(whole.model, make_data())
    gone = np.setdiff1d(np.arange(N), whole.kept)
    likely = 1 + found[gone, labels[gone]] >= 0.2
    np.testing.assert_array_equal(entry.readmitted, gone[likely])
    assert same_state(resumed.model, again.model)
    np.testing.assert_array_equal(resumed.kept, again.kept)


def test_readmission_wants_gradients_of_logits():
    with pytest.raises(ValueError, match=r"readmit needs wrt=.logits., not 'input'"):
        quick(make_net(), make_data(), defense=make_epic(readmit=5), wrt="input")


@pytest.mark.parametrize(
    ("ground_set", "gradients"), [("active", "fresh"), ("full", "fresh"), ("active", "training")]
)
def test_own_loop_gives_the_same(ground_set, gradients):
    """What docs/epic.md shows, with train's order of examples."""
    data, net, epic = Plain(*make_data()), make_net(), make_epic(n=N, ground_set=ground_set)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    seen = EpochLogits(N)
    for epoch in range(6):
        if epic.due(epoch):
            if gradients == "fresh" or epoch < 2:
                epic.prune(*last_layer_gradients(net, data), epoch)
            else:
                epic.prune(*seen.gradients(epic.kept), epoch)
        seen = EpochLogits(N)
        net.train()
        with seeded(7, epoch, torch.device("cpu")) as generator:
            order = torch.from_numpy(epic.kept)[torch.randperm(len(epic.kept), generator=generator)]
            for rows in order.split(batch_sizes(len(order), 64)):
                logits = net(data.x[rows])
                seen.record(rows, logits, data.y[rows])
                optimizer.zero_grad()
                F.cross_entropy(logits, data.y[rows]).backward()
                optimizer.step()
    result = quick(
        make_net(),
        make_data(),
        defense=make_epic(ground_set=ground_set),
        gradients=gradients,
        weight_decay=0.0,
        drops=(),
        seed=7,
    )
    np.testing.assert_array_equal(result.kept, epic.kept)
    assert same_state(result.model, net.eval())
    assert len(epic.kept) < N


def test_tables_train_like_arrays():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    x, y = (part.numpy() for part in make_data())
    tables = pandas.DataFrame(x.reshape(N, -1)), pandas.Series(y)
    nets = [nn.Sequential(nn.Unflatten(1, (1, 8, 8)), make_net()) for _ in range(2)]
    first = quick(nets[0], (x.reshape(N, -1), y), defense=make_epic(), test=tables)
    other = quick(nets[1], tables, defense=make_epic())
    assert same_state(first.model, other.model)
    np.testing.assert_array_equal(first.kept, other.kept)
    np.testing.assert_array_equal(distinct(*tables), distinct(x, y))


@pytest.mark.parametrize("scenario", ["scratch", "transfer", "finetune"])
@pytest.mark.parametrize("gradients", ["fresh", "training"])
def test_tensors_arrays_and_datasets_train_the_same(scenario, gradients):
    settings = {"scenario": scenario, "gradients": gradients, "augment": True}
    results = [
        quick(make_net(), data, defense=make_epic(), **settings)
        for data in (make_data(), Plain(*make_data()), tuple(a.numpy() for a in make_data()))
    ]
    for other in results[1:]:
        assert same_state(results[0].model, other.model)
        np.testing.assert_array_equal(results[0].kept, other.kept)


@pytest.mark.parametrize("scenario", ["scratch", "transfer", "finetune"])
def test_cutmix_is_a_step_on_the_mixture_with_both_labels(scenario):
    x, y = make_data(n=40)

    def one_step(**changes):
        changes |= {"scenario": scenario, "lr": 0.1, "drops": (), "momentum": 0, "nesterov": False}
        return quick(
            plain_net(), (x, y), epochs=1, batch_size=40, weight_decay=0.0, **changes
        ).model

    def plain_net():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, C))

    seen = []
    moved = one_step(cutmix=True, augment=lambda batch, _: seen.append(batch) or batch)
    with seeded(0, 0, torch.device("cpu")) as generator:
        order = torch.randperm(40, generator=generator)
        draw = int(torch.randint(2**62, (), generator=generator))
    assert torch.equal(seen[0], x[order])
    mixed, other, share = cutmix(x[order], np.random.default_rng(draw))
    assert 0.05 < share < 0.95
    net = plain_net()
    with seeded(0, None, torch.device("cpu")):
        if scenario != "scratch":
            net[-1].reset_parameters()
    if scenario == "transfer":
        net[1].requires_grad_(False)
    target = share * F.one_hot(y[order], C) + (1 - share) * F.one_hot(y[order][other], C)
    F.cross_entropy(net(mixed), target).backward()
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    for a, b in zip(moved.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    without = one_step(cutmix=True)
    if scenario == "transfer":  # the mixtures' features, not mixtures of features
        assert same_state(moved, without)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    quick(make_net(), Plain(*make_data()), defense=make_epic(), augment=True, test=make_data(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_seeds_differ():
    nets = [quick(make_net(), make_data(), epochs=1, seed=seed).model for seed in (0, 0, 1)]
    assert same_state(nets[0], nets[1])
    assert not same_state(nets[0], nets[2])


def test_every_epoch_has_its_own_randomness():
    draws = set()
    for epoch in (None, 0, 1, 2):
        with seeded(0, epoch, torch.device("cpu")) as generator:
            draws |= {torch.rand(()).item(), torch.rand((), generator=generator).item()}
    assert len(draws) == 8


class Interrupt:
    """An augmentation that presses Ctrl-C at its k-th batch."""

    def __init__(self, k):
        self.left = k

    def __call__(self, x, generator):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return flip_and_crop(x, generator)


@pytest.mark.parametrize("scenario", ["scratch", "transfer", "finetune"])
@pytest.mark.parametrize("gradients", ["fresh", "training"])
@pytest.mark.parametrize("k", [0, 1, 7])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path, scenario, gradients, k):
    common = {"scenario": scenario, "gradients": gradients, "test": make_data(1)}
    whole = quick(
        make_net(),
        make_data(),
        defense=make_epic(),
        augment=True,
        checkpoint=tmp_path / "whole.pt",
        **common,
    )
    path = tmp_path / "part.pt"
    with pytest.raises(
        KeyboardInterrupt, match=r"to continue after the last whole epoch, use resume=.*part\.pt"
    ):
        quick(
            make_net(),
            make_data(),
            defense=make_epic(),
            augment=Interrupt(k),
            checkpoint=path,
            **common,
        )
    torch.manual_seed(k)  # what comes next may not depend on it, dropout included
    resumed = quick(
        make_net(9),
        make_data(),
        defense=make_epic(),
        augment=True,
        checkpoint=path,
        resume=path,
        **common,
    )
    assert len(resumed.history) == 6
    assert same_state(resumed.model, whole.model)
    np.testing.assert_array_equal(resumed.kept, whole.kept)
    assert without_times(resumed.history) == without_times(whole.history)
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "part"))
    for x, y in zip(tensors_in(a), tensors_in(b), strict=True):
        assert torch.equal(x, y)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return list(itertools.chain(*map(tensors_in, value))) if isinstance(value, list) else []


@pytest.mark.parametrize("k", [2, 4])
def test_cutmix_resumes_bit_for_bit(tmp_path, k):
    def run(net, **changes):
        return quick(net, make_data(), defense=make_epic(stop=3), cutmix=True, **changes)

    whole = run(make_net())
    run(make_net(), epochs=k, checkpoint=tmp_path / "c.pt")
    resumed = run(make_net(9), resume=tmp_path / "c.pt")
    assert same_state(whole.model, resumed.model)
    np.testing.assert_array_equal(whole.kept, resumed.kept)
    assert without_times(whole.history) == without_times(resumed.history)
    with pytest.raises(ValueError, match="cutmix=True, now False"):
        quick(make_net(), make_data(), defense=make_epic(), resume=tmp_path / "c.pt")


@pytest.mark.parametrize("gradients", ["fresh", "training"])
def test_cached_features_resume_too(tmp_path, gradients):
    common = {"scenario": "transfer", "gradients": gradients, "checkpoint": tmp_path / "c.pt"}
    whole = quick(make_net(), make_data(), defense=make_epic(), **common)
    quick(make_net(), make_data(), defense=make_epic(), epochs=3, **common)
    resumed = quick(
        make_net(), make_data(), defense=make_epic(), resume=tmp_path / "c.pt", **common
    )
    assert same_state(resumed.model, whole.model)
    np.testing.assert_array_equal(resumed.kept, whole.kept)


def test_without_a_checkpoint_the_message_says_so():
    with pytest.raises(KeyboardInterrupt, match="there is no checkpoint to resume from"):
        quick(make_net(), make_data(), augment=Interrupt(1))


def test_resuming_a_finished_run_trains_no_more(tmp_path):
    path = tmp_path / "c.pt"
    whole = quick(make_net(), make_data(), defense=make_epic(), checkpoint=path)
    again = quick(make_net(3), make_data(), defense=make_epic(), resume=path)
    assert same_state(whole.model, again.model)
    np.testing.assert_array_equal(whole.kept, again.kept)
    quick(make_net(), make_data(), checkpoint=path)
    assert len(quick(make_net(), make_data(), resume=path, epochs=8).history) == 8


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with written_whole(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    with written_whole(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


class TestTrainingGradients:
    def test_no_pass_is_made_for_them(self, monkeypatch):
        monkeypatch.delattr("subsel.defense.training.fresh_gradients")
        epic = make_epic(warmup=2)
        quick(make_net(), make_data(), defense=epic, gradients="training")
        assert [r.epoch for r in epic.history] == [2, 3, 4]

    def test_are_not_those_of_an_untrained_network(self, monkeypatch):
        import subsel.defense.training as training

        def fresh(*args, **settings):
            passes.append(1)
            return usual(*args, **settings)

        usual = training.fresh_gradients
        monkeypatch.setattr(training, "fresh_gradients", fresh)
        for warmup, expected in ((0, 2), (1, 1), (2, 0)):
            passes = []
            epic = make_epic(warmup=warmup)
            quick(make_net(), make_data(), defense=epic, gradients="training")
            assert len(passes) == expected
            assert [r.epoch for r in epic.history] == list(range(warmup, 5))

    @pytest.mark.parametrize("wrt", ["logits", "input"])
    def test_are_the_fresh_ones_where_nothing_changes(self, wrt):
        """No step to speak of, nothing random, and BatchNorm fixed in the transfer scenario."""
        kept = [
            quick(
                make_net(),
                make_data(),
                scenario="transfer",
                defense=make_epic(),
                gradients=gradients,
                wrt=wrt,
                lr=1e-30,
            ).kept
            for gradients in ("fresh", "training")
        ]
        assert len(kept[0]) < N
        np.testing.assert_array_equal(*kept)

    def test_are_recorded_only_before_a_round(self, monkeypatch):
        record, recorded = EpochLogits.record, []

        def counted(self, rows, *rest):
            recorded.append(len(rows))
            record(self, rows, *rest)

        monkeypatch.setattr(EpochLogits, "record", counted)
        epic = make_epic(warmup=2, interval=3, stop=None)
        result = quick(make_net(), make_data(), defense=epic, gradients="training", epochs=5)
        assert [r.epoch for r in epic.history] == [2]
        # Before epoch 2, and before epoch 5 should the run go on.
        assert sum(recorded) == N + len(result.kept) < 2 * N

    def test_fresh_ones_record_nothing(self, monkeypatch):
        monkeypatch.delattr(EpochLogits, "record")
        quick(make_net(), make_data(), defense=make_epic())
        quick(make_net(), make_data(), gradients="training")  # no defense, no use for them

    def test_survive_an_interruption_before_the_round(self, tmp_path):
        path = tmp_path / "c.pt"
        settings = {"gradients": "training", "checkpoint": path}
        whole = quick(make_net(), make_data(), defense=make_epic(warmup=2), **settings)
        quick(make_net(), make_data(), defense=make_epic(warmup=2), epochs=2, **settings)
        logits, labels = torch.load(path, weights_only=True)["logits"]
        assert logits.shape == (N, C)
        assert torch.equal(labels, make_data()[1])
        resumed = quick(
            make_net(), make_data(), defense=make_epic(warmup=2), resume=path, **settings
        )
        assert same_state(whole.model, resumed.model)
        np.testing.assert_array_equal(whole.kept, resumed.kept)
        assert torch.load(path, weights_only=True)["logits"] is None  # no round is to come

    def test_want_the_active_ground_set(self):
        epic = make_epic(ground_set="full")
        with pytest.raises(ValueError, match=r'needs ground_set="active", not .full.*take fresh'):
            quick(make_net(), make_data(), defense=epic, gradients="training")

    @pytest.mark.parametrize("fill", [-torch.inf, torch.inf])
    def test_a_logit_that_is_not_finite(self, fill):
        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.fill = make_net(), fill

            def forward(self, x):
                marked = (x.amax(dim=(1, 2, 3)) > 100)[:, None] & (torch.arange(C) == 1)
                return self.net(x).masked_fill(marked, self.fill)

        x, y = make_data()
        x[100], y[100] = 1000.0, 0
        settings = {"defense": make_epic(warmup=2), "gradients": "training", "layer": "net.7"}
        if fill == -torch.inf:  # only masks a wrong class: the loss is finite
            assert len(quick(Masked(), (x, y), **settings).kept) < N
            return
        with pytest.raises((ValueError, FloatingPointError), match="not finite"):
            quick(Masked(), (x, y), **settings)


class TestTransfer:
    def test_trains_a_fresh_head_and_nothing_else(self):
        net, before = make_net(), make_net()
        net[0].weight.requires_grad_(False)
        quick(net, make_data(), scenario="transfer", augment=True)
        assert same_state(net[:-1], before[:-1])
        assert not torch.equal(net[-1].weight, before[-1].weight)
        assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 9

    def test_cached_features_change_nothing(self):
        cached, each_time = (
            quick(make_net(), make_data(), scenario="transfer", defense=make_epic(), **more)
            for more in ({}, {"augment": lambda x, generator: x})
        )
        for a, b in zip(cached.model.parameters(), each_time.model.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        np.testing.assert_array_equal(cached.kept, each_time.kept)

    def test_a_named_head(self):
        result = quick(
            make_net(),
            make_data(),
            scenario="transfer",
            layer="7",
            defense=make_epic(),
            wrt="input",
        )
        assert len(result.kept) < N


def test_fine_tuning_trains_everything_from_a_fresh_head_slowly():
    net, before = make_net(), make_net()
    result = quick(net, make_data(), scenario="finetune", lr=None, epochs=1)
    assert result.history[0]["lr"] == 1e-4
    assert not torch.equal(net[0].weight, before[0].weight)
    torch.testing.assert_close(net[0].weight, before[0].weight, rtol=0.1, atol=0.01)
    assert (net[-1].weight - before[-1].weight).abs().max() > 0.1


def test_weight_decay_spares_biases_and_batchnorm():
    net = make_net()
    optimizer = _optimizer(
        net, {"weight_decay": 5e-4, "lr": 0.1, "momentum": 0.9, "nesterov": True}
    )
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(net[i].weight) for i in (0, 3, 7)}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(net.parameters()))


def test_presets():
    assert PRESETS["paper-40"].epic(0.2).warmup == 20
    assert PRESETS["code-200"].epic(0.2).warmup == 30
    assert [PRESETS["paper-40"].epic(size).warmup for size in (0.1, 0.2, 0.3)] == [10, 20, 30]
    assert [PRESETS["code-40"].epic(size).warmup for size in (0.1, 0.2, 0.3)] == [10, 10, 10]
    assert PRESETS["paper-40"].training["drops"] == (25, 35)
    assert PRESETS["code-40"].training["drops"] == (15, 25, 35)
    assert PRESETS["paper-transfer"].epic().subset_size == 0.2
    assert PRESETS["paper-40"].epic(0.15, warmup=12, ground_set="full").warmup == 12
    with pytest.raises(ValueError, match=r"warmup for subset sizes 0\.1, 0\.2, 0\.3 only"):
        PRESETS["paper-40"].epic(0.15)
    epic = PRESETS["paper-200"].epic(0.3)
    assert [e for e in range(200) if epic.due(e)] == list(range(30, 151, 10))
    result = train(make_net(), make_data(), preset="paper-40", epochs=1, progress=False)
    assert result.history[0]["lr"] == 0.1


def test_progress_shows_loss_accuracy_and_drops(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    quick(make_net(), make_data(), defense=make_epic(), test=make_data(1), progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "epoch 6/6 100%" in last
    for word in ("loss", "test", "kept", "dropped"):
        assert word in last


def test_without_a_terminal_each_epoch_has_a_line_and_there_is_no_bar(capsys):
    result = quick(make_net(), make_data(), defense=make_epic(), test=make_data(1), progress=True)
    written = capsys.readouterr().err
    assert "\r" not in written
    assert "%" not in written
    first, *epochs = written.splitlines()
    assert first.startswith("EPIC: ")
    assert len(epochs) == len(result.history) == 6
    for record, line in zip(result.history, epochs, strict=True):
        assert line.startswith(f"epoch {record['epoch']}, loss {record['loss']:.3f}, test ")
        assert line.endswith(f"kept {record['kept']}, dropped {record['dropped']}")


def test_without_progress_nothing_is_written(capsys):
    quick(make_net(), make_data(), defense=make_epic(), progress=False)
    assert capsys.readouterr().err == ""


def test_the_callback_sees_every_epoch():
    seen = []
    quick(make_net(), make_data(), callback=lambda result: seen.append(len(result.history)))
    assert seen == [1, 2, 3, 4, 5, 6]


class TestRefuses:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epochs": None}, "epochs must be given"),
            ({"epochs": 0}, "epochs must be"),
            ({"scenario": "scratchy"}, "scenario must be one of"),
            ({"preset": "paper"}, "preset must be one of paper-40"),
            ({"lr": -1.0}, "lr must be positive"),
            ({"lr": float("nan")}, "lr must be positive"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"seed": -1}, "seed must be"),
            ({"wrt": "loss"}, "wrt must be one of 'logits', 'input', 'output', not"),
            ({"gradients": "stale"}, "gradients must be one of 'fresh', 'training'"),
        ],
    )
    def test_settings(self, changes, message):
        with pytest.raises(ValueError, match=message):
            quick(make_net(), make_data(), defense=make_epic(warmup=0), **changes)

    def test_cutmix_of_what_is_no_image(self):
        x, y = make_data()
        flat = nn.Linear(64, C)
        with pytest.raises(ValueError, match=r"cutmix needs images .* got \(n, 64\)"):
            quick(flat, (x.flatten(1), y), cutmix=True)
        with pytest.raises(TypeError, match="cutmix must be True or False"):
            quick(make_net(), (x, y), cutmix=0.5)
        with pytest.raises(ValueError, match='cutmix needs gradients="fresh"'):
            quick(make_net(), (x, y), defense=make_epic(), cutmix=True, gradients="training")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"defense": True}, "defense must be an EPIC, such as"),
            ({"defense": EPIC}, "defense must be an EPIC, such as"),
            ({"model": make_net}, "model must be a torch.nn.Module, got <function"),
            ({"model": nn.Flatten}, r"model must be .*: make one, Flatten\(\.\.\.\)"),
            ({"loss": nn.CrossEntropyLoss}, r"make one, CrossEntropyLoss\(\)"),
            ({"data": ([[1.0], [2.0]], [0, 1])}, r"data must be a pair of arrays, not of lists"),
            ({"test": ([[1.0], [2.0]], [0, 1])}, r"test must be a pair of arrays, not of lists"),
            ({"data": (scipy.sparse.eye_array(4), np.arange(4))}, r"inputs\.toarray\(\)"),
        ],
    )
    def test_what_is_something_else(self, change, message):
        given = {"model": make_net(), "data": make_data(), "defense": make_epic(), **change}
        with pytest.raises(TypeError, match=message):
            quick(**given)

    def test_an_empty_test_set_by_its_name(self):
        x, y = make_data()
        with pytest.raises(ValueError, match="test is empty"):
            quick(make_net(), (x, y), test=(x[:0], y[:0]))

    def test_inputs_that_are_not_finite(self):
        x, y = make_data()
        with pytest.raises(FloatingPointError, match=r"in epoch 0, .*inputs have NaN or inf"):
            quick(make_net(), (x * torch.nan, y))

    def test_a_loader(self):
        with pytest.raises(TypeError, match="give the dataset, not a DataLoader"):
            quick(make_net(), DataLoader(Plain(*make_data())))

    def test_a_last_layer_without_a_weight(self):
        with pytest.raises(ValueError, match=r"needs an nn\.Linear as last layer, got Dropout"):
            quick(make_net(), make_data(), defense=make_epic(), wrt="input", layer="6", epochs=1)

    def test_labels_outside_the_models(self):
        x, y = make_data()
        y[100] = C
        with pytest.raises(
            ValueError, match=r"labels must lie in 0\.\.2, but .* \(100\); the first is 3"
        ):
            quick(make_net(), (x, y))

    def test_a_used_defense(self):
        epic = make_epic()
        quick(make_net(), make_data(), defense=epic)
        with pytest.raises(ValueError, match="defense has already pruned"):
            quick(make_net(), make_data(), defense=epic)

    def test_a_defense_of_another_size(self):
        with pytest.raises(ValueError, match=f"keeps track of 7 examples, got n={N}"):
            quick(make_net(), make_data(), defense=make_epic(n=7))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="folder that does not exist"):
            quick(make_net(), make_data(), checkpoint=tmp_path / "no" / "c.pt")

    def test_checkpoints_that_do_not_fit(self, tmp_path):
        path = tmp_path / "c.pt"
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            quick(make_net(), make_data(), resume=path)
        torch.save({"a": 1}, path)
        with pytest.raises(ValueError, match="is not a checkpoint"):
            quick(make_net(), make_data(), resume=path)
        quick(make_net(), make_data(), checkpoint=path, epochs=1)
        with pytest.raises(ValueError, match=r"made with seed=0, now 3; lr=0\.05, now 0\.1"):
            quick(make_net(), make_data(), resume=path, lr=0.1, seed=3)
        with pytest.raises(ValueError, match="made with no defense"):
            quick(make_net(), make_data(), resume=path, defense=make_epic())

    def test_a_loss_that_is_not_finite(self, tmp_path):
        path = tmp_path / "c.pt"
        with pytest.raises(FloatingPointError, match="not finite in epoch 0"):
            quick(make_net(), make_data(), lr=1e30, checkpoint=path)
        assert all(t.isfinite().all() for t in tensors_in(torch.load(path, weights_only=True)))


class TestAugment:
    def test_is_flip_then_reflect_padding_then_crop(self):
        images = torch.arange(2 * 3 * 6 * 9, dtype=torch.float32).reshape(2, 3, 6, 9)
        padded = [F.pad(i, (4, 4, 4, 4), mode="reflect") for i in (images, images.flip(-1))]
        seen = set()
        for seed in range(600):
            out = flip_and_crop(images, torch.Generator().manual_seed(seed))
            for i in range(2):
                found = [
                    (flip, row, column)
                    for flip in (0, 1)
                    for row in range(9)
                    for column in range(9)
                    if torch.equal(padded[flip][i, :, row : row + 6, column : column + 9], out[i])
                ]
                assert found
                seen |= set(found)
        assert len(seen) == 2 * 9 * 9

    def test_works_on_stored_pixels(self):
        images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
        out = [flip_and_crop(x, torch.Generator().manual_seed(0)) for x in (images, images.float())]
        assert torch.equal(out[0].float(), out[1])

    def test_refuses_what_is_too_small_or_no_image(self):
        for shape in ((4, 1, 4, 8), (4, 8)):
            with pytest.raises(ValueError, match="larger than the padding of 4"):
                flip_and_crop(torch.zeros(shape), torch.Generator())

    def test_cutmix_puts_one_rectangle_at_the_same_place_of_all(self):
        images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 12, 18).clone()
        for seed in range(50):
            mixed, other, share = cutmix(images, np.random.default_rng(seed))
            cut = mixed != images
            moving = other != torch.arange(5)
            assert not cut[~moving].any()
            where = cut[moving][0, 0] if moving.any() else torch.zeros(12, 18, dtype=torch.bool)
            assert (cut[moving] == where).all()
            assert torch.equal(mixed[moving][:, 0, where], images[other][moving][:, 0, where])
            if moving.any():
                assert int(where.any(0).sum()) * int(where.any(1).sum()) == int(where.sum())
                assert share == pytest.approx(1 - where.float().mean().item())
        with pytest.raises(ValueError, match=r"images must be \(n, channels, height, width\)"):
            cutmix(torch.zeros(5, 12), np.random.default_rng(0))


class TestModels:
    @pytest.mark.parametrize("make", [small_cnn, tiny_cnn, resnet18])
    def test_stored_pixels_or_floats_in_logits_out(self, make):
        images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        net = make(5, (3, 16, 16), [0.5] * 3, [0.2] * 3).eval()
        assert net(images).shape == (2, 5)
        torch.testing.assert_close(net(images), net(images / 255))

    def test_resnet18_has_its_published_size(self):
        net = resnet18(10, (3, 32, 32), [0.5] * 3, [0.2] * 3)
        assert sum(p.numel() for p in net.parameters()) == 11_173_962

    def test_normalize(self):
        x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
        out = Normalize([0.5, 0.2], [0.5, 0.1])(x)
        torch.testing.assert_close(out, torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]]))

    def test_small_cnn_refuses_what_pooling_leaves_nothing_of(self):
        with pytest.raises(ValueError, match="8 x 8 pixels or more, got 7 x 9"):
            small_cnn(2, (1, 7, 9), [0.5], [0.5])


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_train_is_the_function_in_every_import_order():
    orders = [
        "import subsel.defense; subsel.defense.train",
        "import subsel.defense.train; subsel.defense.train",
        "import subsel.defense.train as t; t",
        "from subsel.defense import train; train",
        "from subsel.defense.train import main; import subsel.defense; subsel.defense.train",
        "from subsel.defense import train as t; import subsel.defense.train; t",
        "from subsel.defense import train; import subsel.defense.train; subsel.defense.train",
    ]
    code = f"""
import sys
for order in {orders!r}:
    for name in [name for name in sys.modules if name.startswith("subsel.defense")]:
        del sys.modules[name]
    sys.modules["subsel"].__dict__.pop("defense", None) if "subsel" in sys.modules else None
    *statements, expression = order.split("; ")
    names = {{}}
    exec("; ".join(statements), names)
    train = eval(expression, names)
    try:
        train(None, None)
    except ValueError as error:
        assert "epochs must be given" in str(error), order
"""
    finished = run(code)
    assert finished.returncode == 0, finished.stderr


def test_without_torch_one_line_says_how_to_get_it():
    finished = run("import sys; sys.modules['torch'] = None; import subsel.defense")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == (
        "ImportError: subsel.defense needs PyTorch, which is not installed: "
        'pip install "subsel[defense]"'
    )
