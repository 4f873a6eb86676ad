"""How a victim trains in each scenario."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import TOY

from benchmarks.poisoning import training
from benchmarks.poisoning.defenses import (
    baselines,
    registry,
)
from benchmarks.poisoning.victim import Watch


def test_a_head_is_reproducible_and_leaves_the_global_state_alone(lab):
    before = torch.random.get_rng_state()
    heads = [replace(lab.clean_victim, seed=seed).train() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


def test_what_a_defense_drops_is_not_trained_on(lab):
    """Spoiling the features of what was dropped before the first epoch changes nothing."""
    victim, heads = lab.clean_victim, []
    for spoil in (False, True):
        control = baselines.MatchedDrop(len(victim.labels), {0: 100}, rule="random", seed=0)
        gone = np.random.default_rng(0).random(len(victim.labels)).argsort(kind="stable")[:100]
        inputs = victim.inputs.clone()
        inputs[gone] *= 1 - spoil
        heads.append(replace(victim, inputs=inputs).train(dropping=control))
        assert not np.intersect1d(control.kept, gone).size
    assert torch.equal(heads[0].weight, heads[1].weight)


@pytest.mark.parametrize("scenario", registry.SCENARIOS)
def test_a_victim_trains_reproducibly_and_leaves_the_global_state_alone(trials, scenario):
    before = torch.random.get_rng_state()
    first, second = (
        trials[scenario].victim.shortened(1).train(np.arange(100)).state_dict() for _ in range(2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_is_trained_differs_between_the_scenarios(labs, trials):
    head, tuned, net = (
        trials[name].victim.shortened(1).train() for name in ("transfer", "finetune", "scratch")
    )
    assert isinstance(head, torch.nn.Linear)
    kernel = labs["finetune"].scenario.extractor[1].weight
    assert 0 < (tuned[1].weight - kernel).abs().max() < 0.5
    assert (net[1].weight - kernel).abs().max() > (tuned[1].weight - kernel).abs().max()


def test_a_fine_tuned_net_starts_from_the_backbone(labs):
    scenario = labs["finetune"].scenario
    model = scenario.new_model(torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(labs["finetune"].images[:5])
    expected = labs["finetune"].extractor(pixels.float() / 255)
    torch.testing.assert_close(model.eval()[:-1](pixels), expected, rtol=1e-4, atol=1e-5)


def test_images_get_active_gradients_of_the_kept_only(trials, monkeypatch):
    seen = []
    gradients_of = training.last_layer_gradients

    def spy(model, pair):
        seen.append(len(pair[1]))
        return gradients_of(model, pair)

    monkeypatch.setattr(training, "last_layer_gradients", spy)
    attacked = trials["scratch"].victim
    epic = attacked.epic(0.3, "active")
    attacked.train(dropping=epic)
    assert seen == [300] + [entry.n_kept for entry in epic.history[:-1]]


def test_images_are_augmented_where_it_is_wanted(trials, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training, "flip_and_crop", lambda x, generator, padding: calls.append(padding) or x
    )
    plain = trials["scratch"].victim.shortened(1)
    plain.train(np.arange(150))
    assert not calls
    recipe = replace(plain.scenario.recipe, augment=True)
    replace(plain, scenario=replace(plain.scenario, recipe=recipe)).train(np.arange(150))
    assert calls == [1, 1]
    assert not replace(TOY, augment=True).recipe().augment
    assert replace(TOY, augment=True, preset="paper-40").recipe().augment


@pytest.mark.parametrize(("scenario", "sizes"), [("scratch", [129]), ("transfer", [128, 1])])
def test_batchnorm_is_spared_a_small_last_batch(trials, scenario, sizes):
    seen = []

    def steps(model, optimizer, generator):
        step = training.plain(model, optimizer, generator)
        return lambda x, y: (seen.append(len(x)), step(x, y))

    trials[scenario].victim.shortened(1).train(np.arange(129), steps=steps)
    assert seen == sizes


def test_a_watch_takes_down_when_the_target_flips():
    aim = torch.eye(2)[:1]
    watch = Watch(aim, base=1)
    flips, stays = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for net, base in ((flips, 1), (stays, 0)):
        torch.nn.init.zeros_(net.weight)
        net.bias.data = torch.eye(2)[base]
    for nets, epochs, settled in (
        ([flips, stays, flips, flips], [0, 2, 3], 2),
        ([flips, flips, stays], [0, 1], None),
        ([stays], [], None),
    ):
        for epoch, net in enumerate(nets):
            watch(epoch, net)
        assert (watch.epochs, watch.settled) == (epochs, settled)
