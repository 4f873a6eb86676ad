"""A defense that does nothing, or too much, says so; one that works says nothing."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from subsel.defense import EPIC, PRESETS, DefenseWarning, last_layer_gradients, train, train_afresh
from subsel.defense.notices import (
    notice_core,
    notice_late_rounds,
    notice_outputs,
    schedule_line,
)
from subsel.defense.train import main

N = 120
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 2


def quick(outputs=2, **changes):
    torch.manual_seed(0)
    settings = {"epochs": 3, "lr": 0.01, "progress": False}
    return train(nn.Linear(4, outputs), (X, Y), **{**settings, **changes})


@pytest.fixture
def strict():
    """A word of the defense's is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DefenseWarning)
        yield


def gradients(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("warmup", "interval", "stop"), [(0, 1, None), (3, 2, None), (1, 3, 7), (5, 1, 6)]
)
def test_the_schedule_is_when_rounds_are_due(warmup, interval, stop):
    epic = EPIC(warmup=warmup, interval=interval, stop=stop)
    for epochs in (0, 1, 6, 20):
        assert epic.schedule(epochs) == [e for e in range(epochs) if epic.due(e)]


@pytest.mark.parametrize(
    ("rounds", "line"),
    [
        ([], "EPIC: no round in 40 epochs"),
        ([7], "EPIC: 1 round, before epoch 7 of 40"),
        ([1, 2], "EPIC: 2 rounds, before epochs 1, 2 of 40"),
        (range(10, 36, 2), "EPIC: 13 rounds, before epochs 10, 12, 14, ..., 34 of 40"),
    ],
)
def test_one_line_says_when_rounds_take_place(rounds, line):
    assert schedule_line(rounds, 40).removesuffix(" (epochs count from 0)") == line


def test_the_line_says_when_examples_come_back():
    line = schedule_line([4, 6], 40, 30)
    assert line.startswith("EPIC: 2 rounds, before epochs 4, 6 of 40, re-admission before epoch 30")


def test_a_readmission_after_the_end():
    with pytest.warns(DefenseWarning, match=r"comes back: readmit=9 is after the last of 4 epochs"):
        quick(defense=EPIC(warmup=1, interval=1, readmit=9), epochs=4)


def test_train_prints_the_schedule(capsys):
    quick(defense=EPIC(warmup=1, interval=1), progress=True)
    assert "EPIC: 2 rounds, before epochs 1, 2 of 3" in capsys.readouterr().err


def test_no_round_in_the_epochs():
    with pytest.warns(DefenseWarning, match=r"not defended: no round .* 3 epochs.*epoch 3 ") as got:
        result = quick(defense=EPIC(warmup=3, interval=1))
    assert len(got) == 1
    assert got[0].filename == __file__
    assert len(result.kept) == N


def test_one_round_only():
    with pytest.warns(DefenseWarning, match="only one round of EPIC is due in 3 epochs, before ep"):
        quick(defense=EPIC(subset_size=0.2, warmup=2, interval=1))


def test_a_preset_without_its_defense():
    with pytest.warns(DefenseWarning, match=r"not defended: preset='paper-40' .*PRESETS") as got:
        quick(preset="paper-40")
    assert got[0].filename == __file__


def test_what_works_says_nothing(strict):
    quick(defense=EPIC(subset_size=0.2, warmup=1, interval=1))
    quick()
    quick(**PRESETS["paper-40"].training | {"epochs": 1})


def test_small_classes_are_named_once():
    epic = EPIC(90, subset_size=0.2, warmup=0, interval=1)
    labels = np.repeat([0, 1, 2], [60, 20, 10])
    with pytest.warns(DefenseWarning, match=r"2 of 3 classes .* 50 .*class 1: 20, class 2: 10\)"):
        epic.prune(gradients(90), labels, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DefenseWarning)
        assert len(epic.prune(gradients(90, seed=1), labels, 1).dropped)


def test_a_round_that_drops_nothing():
    epic = EPIC(N, subset_size=0.1, warmup=0, interval=1)
    doubled = np.tile(gradients(N // 2), (2, 1))  # each has its like
    with pytest.warns(DefenseWarning, match="round before epoch 4 dropped nothing"):
        epic.prune(doubled, np.tile([0, 1], N // 2), 4)
    assert len(epic.kept) == N


def test_a_round_that_drops_most_of_a_class():
    epic = EPIC(N, subset_size=0.99, warmup=0, interval=1)
    with pytest.warns(DefenseWarning, match=r"epoch 0 dropped more than half of 2 of 2 classes"):
        epic.prune(gradients(N), Y, 0)


@pytest.mark.parametrize(("outputs", "said"), [(2, False), (10, False), (12, True), (1000, True)])
def test_a_head_for_other_classes(outputs, said):
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always", DefenseWarning)
        last_layer_gradients(nn.Linear(4, outputs), (X, Y))
        notice_outputs(outputs, Y.numpy())
    text = f"the model has {outputs} outputs and the data 2 classes"
    assert [str(one.message).startswith(text) for one in got] == [True] * 2 * said


def test_a_core_that_is_everything():
    with pytest.warns(DefenseWarning, match="core is all 9 examples"):
        notice_core(9, 9)
    doubled = X[: N // 2].repeat(2, 1), Y[: N // 2].repeat(2)
    with pytest.warns(DefenseWarning, match="core is all 120 examples"):
        train_afresh(
            nn.Linear(4, 2),
            doubled,
            epochs=3,
            defense=EPIC(subset_size=0.01, warmup=1, interval=1, stop=3),
            progress=False,
        )


def test_a_fresh_start_is_no_preset_without_a_defense():
    with pytest.warns(DefenseWarning) as got:
        train_afresh(
            nn.Linear(4, 2),
            (X, Y),
            preset="paper-transfer",
            epochs=2,
            defense=EPIC(subset_size=0.2, warmup=1, interval=1, stop=2),
            progress=False,
        )
    assert not [one for one in got if "preset" in str(one.message)]


def test_the_command_says_it_in_a_line(tmp_path, capsys):
    pytest.importorskip("sklearn")
    arguments = ["--dataset", "digits", "--epochs", "1", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "defended")]) == 0
    err = capsys.readouterr().err
    assert "EPIC: no round in 1 epoch\n" in err
    (line,) = [line for line in err.splitlines() if ": warning: " in line]
    assert line.startswith("subsel train: warning: this training is not defended")
    assert main([*arguments, "--no-defense", "--out", str(tmp_path / "undefended")]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "drops", "epochs", "text"),
    [
        (10, (25, 35), 40, None),
        (20, (25, 35), 40, None),  # EPIC 0.2 of the paper
        (21, (25, 35), 40, "4 epochs before"),
        (30, (25, 35), 40, "after the learning rate's first drop"),  # EPIC 0.3 of the paper
        (20, (15, 25, 35), 40, "after the learning rate's first drop"),
        (5, (8,), 8, None),  # a drop that never comes
        (5, (), 8, None),
    ],
)
def test_rounds_that_come_too_late_are_told(first, drops, epochs, text):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notice_late_rounds([first], drops, epochs)
    assert len(caught) == (text is not None)
    if text:
        assert text in str(caught[0].message)
        assert caught[0].category is DefenseWarning


def test_train_warns_of_late_rounds():
    with pytest.warns(DefenseWarning, match="before epoch 2, after the learning rate's first drop"):
        quick(defense=EPIC(warmup=2, interval=1), epochs=4, drops=[1])
