"""Training with a fresh start: its phases, what comes back, and how it goes on after a stop."""

import numpy as np
import pytest
import torch
from torch import nn

from subsel.defense import EPIC, last_layer_gradients, readmitted, train, train_afresh
from subsel.defense.scores import deep_knn

N, WRONG = 200, np.arange(0, 200, 20)  # ten examples bear the label of another class


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % 2
    x = torch.randn(N, 8, generator=generator) + 2.5 * y[:, None]
    y[WRONG] = 1 - y[WRONG]
    return x, y


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def make_epic(**changes):
    return EPIC(**{"subset_size": 0.3, "warmup": 1, "interval": 1, "stop": 4, **changes})


SETTINGS = {"epochs": 6, "lr": 0.05, "drops": (3,), "batch_size": 16, "progress": False}


def test_phases_are_those_that_one_would_write_out():
    x, y = make_data()
    result = train_afresh(make_net(), (x, y), defense=make_epic(), judge_epochs=8, **SETTINGS)

    epic = make_epic()
    core = train(make_net(), (x, y), defense=epic, **{**SETTINGS, "epochs": 4}).kept
    judging = {"epochs": 8, "drops": (4,)}  # the schedule of 6 epochs, drawn out to 8
    judge = train(make_net(), (x[core], y[core]), **{**SETTINGS, **judging}).model
    logits = judge(x).detach()
    possible = logits.softmax(1)[torch.arange(N), y].numpy() >= 0.05
    kept = np.union1d(core, np.flatnonzero(possible))
    final = train(make_net(), (x[kept], y[kept]), **SETTINGS)

    np.testing.assert_array_equal(result.core, core)
    np.testing.assert_array_equal(result.kept, kept)
    assert len(core) < len(kept) < N
    for ours, wanted in zip(result.model.parameters(), final.model.parameters(), strict=True):
        assert torch.equal(ours, wanted)
    phases = [entry["phase"] for entry in result.history]
    assert phases == ["core"] * 4 + ["judge"] * 8 + ["final"] * 6
    assert [entry["loss"] for entry in result.history[12:]] == [e["loss"] for e in final.history]


@pytest.mark.parametrize("scenario", ["scratch", "transfer"])
def test_in_a_quick_one_the_judge_trains_on(scenario):
    x, y = make_data()
    settings = {**SETTINGS, "scenario": scenario, "drops": (4,), "epochs": 8}
    result = train_afresh(make_net(), (x, y), defense=make_epic(), quick=True, **settings)

    core = train(make_net(), (x, y), defense=make_epic(), **{**settings, "epochs": 4}).kept
    half = {"epochs": 4, "drops": (2,)}
    judge = train(make_net(), (x[core], y[core]), **{**settings, **half}).model
    kept = readmitted(*last_layer_gradients(judge, (x, y)), core)
    rest = {"epochs": 6, "drops": (3,), "fresh_head": False}
    final = train(judge, (x[kept], y[kept]), **{**settings, **rest})

    np.testing.assert_array_equal(result.kept, kept)
    assert len(core) < len(kept) < N
    for ours, wanted in zip(result.model.parameters(), final.model.parameters(), strict=True):
        assert torch.equal(ours, wanted)
    phases = [entry["phase"] for entry in result.history]
    assert phases == ["core"] * 4 + ["judge"] * 4 + ["final"] * 6


def test_on_mixtures_the_core_is_still_that_of_the_examples_themselves():
    x, y = make_data()
    x = x.view(N, 1, 2, 4)

    def net():
        return nn.Sequential(nn.Flatten(), *make_net())

    settings = {**SETTINGS, "epochs": 8, "drops": (4,)}
    ends = {"judge_epochs": 2, "final_epochs": 5}
    result = train_afresh(
        net(), (x, y), defense=make_epic(), quick=True, cutmix=True, **ends, **settings
    )
    core = train(net(), (x, y), defense=make_epic(), **{**settings, "epochs": 4}).kept
    mixed = {**settings, "cutmix": True, "epochs": 2, "drops": (1,)}
    judge = train(net(), (x[core], y[core]), **mixed).model
    kept = readmitted(*last_layer_gradients(judge, (x, y)), core)
    mixed |= {"epochs": 5, "drops": (2,)}
    final = train(judge, (x[kept], y[kept]), **mixed)
    np.testing.assert_array_equal(result.core, core)
    np.testing.assert_array_equal(result.kept, kept)
    for ours, wanted in zip(result.model.parameters(), final.model.parameters(), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutmix": True}, r"cutmix needs images .* got \(n, 8\)"),
        ({"cutmix": "yes"}, "cutmix must be True or False"),
        ({"judge_epochs": 0}, "judge_epochs must be at least 1, not 0"),
        ({"final_epochs": 2.5}, "final_epochs must be a count at least 1, not 2.5"),
        ({"final_epochs": True}, "final_epochs must be a count at least 1, not True"),
    ],
)
def test_objects_before_the_first_training(change, message):
    epic = make_epic()
    with pytest.raises((TypeError, ValueError), match=message):
        train_afresh(make_net(), make_data(), defense=epic, **SETTINGS, **change)
    assert not epic.history


def test_right_labels_come_back_and_wrong_ones_do_not():
    result = train_afresh(make_net(), make_data(), defense=make_epic(), **SETTINGS)
    right = np.setdiff1d(np.arange(N), WRONG)
    assert not np.isin(WRONG, result.core).any()
    assert not np.isin(right, result.core).all()
    assert np.isin(right, result.kept).all()
    assert np.isin(WRONG, result.kept).mean() < 0.5


def test_readmission_goes_by_the_probability_of_the_label():
    probabilities = np.array([[0.9, 0.1], [0.96, 0.04], [0.94, 0.06], [0.99, 0.01]], np.float32)
    labels = np.array([0, 1, 1, 1])
    gradients = probabilities - np.eye(2, dtype=np.float32)[labels]
    np.testing.assert_array_equal(readmitted(gradients, labels, np.array([3])), [0, 2, 3])
    np.testing.assert_array_equal(readmitted(gradients, labels, np.array([3]), 0.5), [0, 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": [[0.1, np.nan], [0.0, 0.0]]}, "gradients are not finite in 1 row"),
        ({"gradients": [0.5, 0.5]}, r"gradients must be \(n, d\)"),
        ({"gradients": [[0.1, -0.1], [0.1, 0.3]]}, "with respect to the logits"),
        ({"labels": [0, 2]}, r"labels must lie in 0..1, but"),
        ({"labels": [0.0, 1.0]}, "labels must be integers"),
        ({"labels": [0]}, r"labels must be \(2,\)"),
        ({"core": [2]}, r"core\[0\] is 2; it must be in 0..1"),
        ({"core": [True, False]}, "core must be integers"),
        ({"threshold": 1.5}, "threshold must be a fraction"),
    ],
)
def test_readmission_refuses(change, message):
    arguments = {"gradients": [[0.1, -0.1], [0.0, 0.0]], "labels": [0, 1], "core": [1], **change}
    with pytest.raises((TypeError, ValueError), match=message):
        readmitted(**arguments)


class Stop(Exception):
    """Where a person would press Ctrl-C."""


@pytest.mark.parametrize(
    ("at", "quick"), [(2, False), (7, False), (13, False), (6, True), (9, True)]
)
def test_goes_on_after_a_stop(tmp_path, at, quick):
    data = make_data()
    settings = {**SETTINGS, "quick": quick, "scenario": "transfer" if quick else "scratch"}
    wanted = train_afresh(make_net(), data, defense=make_epic(), **settings)
    seen = []

    def stop(result):
        seen.append(result)
        if len(result.history) == at:
            raise Stop

    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        train_afresh(
            make_net(), data, defense=make_epic(), checkpoint=path, callback=stop, **settings
        )
    assert [len(result.history) for result in seen] == list(range(1, at + 1))
    result = train_afresh(
        make_net(), data, defense=make_epic(), checkpoint=path, resume=True, **settings
    )
    np.testing.assert_array_equal(result.kept, wanted.kept)
    np.testing.assert_array_equal(result.core, wanted.core)
    assert [entry["loss"] for entry in result.history] == [e["loss"] for e in wanted.history]
    for ours, theirs in zip(result.model.parameters(), wanted.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert {p.name for p in tmp_path.iterdir()} == {"run.pt", "run-core.pt", "run-judge.pt"}


def test_a_dataset_and_a_head_on_fixed_features():
    x, y = make_data()

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return x[i], int(y[i])

    settings = {**SETTINGS, "scenario": "transfer"}
    ours = train_afresh(make_net(), Pairs(), defense=make_epic(), **settings)
    wanted = train_afresh(make_net(), (x, y), defense=make_epic(), **settings)
    np.testing.assert_array_equal(ours.kept, wanted.kept)
    assert torch.equal(ours.model[0].weight, make_net()[0].weight)
    assert not torch.equal(ours.model[2].weight, make_net()[2].weight)
    found = last_layer_gradients(ours.model, (x, y))[0]
    np.testing.assert_array_equal(found, last_layer_gradients(wanted.model, (x, y))[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": 0.4}, "defense must be an EPIC"),
        ({"defense": make_epic(stop=None)}, "defense must have a stop"),
        ({"defense": make_epic(readmit=9)}, "defense must not let examples back in"),
        ({"threshold": 0.0}, "threshold must be a fraction"),
        ({"threshold": 1}, "threshold must be a fraction"),
        ({"resume": True}, "resume=True needs checkpoint"),
        ({"epochs": None}, "epochs must be given"),
        ({"epochs": "6"}, "epochs must be a count at least 1, not '6'"),
        ({"epochs": None, "preset": "paper"}, "preset must be one of"),
    ],
)
def test_refuses(changes, message):
    arguments = {"defense": make_epic(), **SETTINGS, **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        train_afresh(make_net(), make_data(), **arguments)


def test_with_two_witnesses_both_have_to_agree():
    x, y = make_data()
    settings = {**SETTINGS, "scenario": "scratch"}
    one, two = (
        train_afresh(make_net(), (x, y), defense=make_epic(), witnesses=count, **settings)
        for count in (1, 2)
    )
    np.testing.assert_array_equal(one.core, two.core)
    judge = train(make_net(), (x[one.core], y[one.core]), **settings).model
    like = deep_knn(judge[:-1](x).detach(), y) <= 0.5
    expected = np.union1d(one.core, one.kept[like[one.kept]])
    np.testing.assert_array_equal(two.kept, expected)
    assert len(two.kept) < len(one.kept)
    with pytest.raises(ValueError, match="witnesses must be 1 or 2, got 3"):
        train_afresh(make_net(), (x, y), defense=make_epic(), witnesses=3, **settings)


@pytest.mark.parametrize(("scenario", "size"), [("scratch", 0.2), ("transfer", 0.4)])
def test_without_a_defense_it_is_that_of_the_experiments(scenario, size):
    settings = {**SETTINGS, "epochs": 12, "scenario": scenario}
    wanted = EPIC(subset_size=size, warmup=1, interval=1, stop=3)
    ours, named = (
        train_afresh(make_net(), make_data(), defense=defense, **settings)
        for defense in (None, wanted)
    )
    assert repr(ours.defense) == repr(named.defense)
    np.testing.assert_array_equal(ours.kept, named.kept)
