"""Attacks on gradients, and backdoors."""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from toys import TOY

from benchmarks.poisoning import training
from benchmarks.poisoning.attacks import ATTACKS, adaptive, backdoor, gradients
from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.lab import Lab


def test_mismatch_is_one_minus_the_cosine():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    own = torch.autograd.grad(loss, list(net.parameters()))
    assert gradients.mismatch(net, images, labels, own).item() == pytest.approx(0, abs=1e-6)
    against = gradients.mismatch(net, images, labels, [-2 * g for g in own])
    assert against.item() == pytest.approx(2, abs=1e-6)


def test_gradient_matching_lowers_its_loss_in_the_ball(labs):
    lab = labs["scratch"]
    target = lab.target(0)
    bases = lab.images[target.bases]
    wanted = gradients.gradient_of(lab.clean, lab.aims(target), target.base)
    match = partial(
        gradients.match_gradient,
        lab.clean,
        bases,
        target.base,
        wanted,
        std=lab.data.std,
        epsilon=51,
        steps=30,
        lr=0.1,
        augment=None,
        progress=False,
    )
    poisons, losses = match(restarts=1, seed=0)
    change = np.abs(poisons.astype(int) - bases.astype(int))
    assert 40 < change.max() <= 51
    assert losses[-1] < 0.8 * losses[0]
    labels = torch.full((len(poisons),), target.base)
    pixels = torch.from_numpy(poisons).float() / 255
    assert gradients.mismatch(lab.clean, pixels, labels, wanted).item() == pytest.approx(losses[-1])
    _, best = match(restarts=3, seed=0)
    assert best[-1] <= losses[-1]


@pytest.mark.parametrize("mixed", [False, True], ids=["", "mixtures"])
def test_an_ensemble_matches_nets_of_several_ages(data, cache, mixed):
    attack = "gradient-matching-mixtures" if mixed else "gradient-matching-ensemble"
    settings = replace(TOY, preset="paper-40", attack=attack, lr=0.1, steps=40, epochs=6)
    lab = Lab(settings, data, cache)
    nets = lab.mixed_nets_of_ages if mixed else lab.nets_of_ages
    target = lab.target(0)
    accuracies = [
        (training.outputs(net, lab.test_inputs).argmax(1) == lab.test_labels).float().mean()
        for net in nets
    ]
    assert len(set(accuracies)) > 4
    assert accuracies[-1] > accuracies[0]
    lab = Lab(settings, data, cache)
    again = lab.mixed_nets_of_ages if mixed else lab.nets_of_ages
    assert all(
        torch.equal(x, y)
        for net, other in zip(nets, again, strict=True)
        for x, y in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )

    def mismatches(images):
        pixels = torch.from_numpy(images).float() / 255
        labels = torch.full((len(images),), target.base)
        return np.array(
            [
                gradients.mismatch(
                    net,
                    pixels,
                    labels,
                    gradients.gradient_of(net, lab.aims(target), target.base),
                ).item()
                for net in nets
            ]
        )

    poisons, _ = ATTACKS[attack](lab, target)
    assert (mismatches(poisons) < mismatches(lab.images[target.bases])).all()


@pytest.mark.parametrize("attack", ["gradient-matching-art", "sleeper-agent-art"])
def test_the_toolboxs_attacks(labs, attack):
    lab = labs["scratch"]
    target = lab.target(0)
    if not find_spec("art"):
        with pytest.raises(ImportError, match="pip install adversarial-robustness-toolbox"):
            ATTACKS[attack](lab, target)
        pytest.skip("needs adversarial-robustness-toolbox")
    before = np.random.get_state()[1]  # noqa: NPY002
    poisons, losses = ATTACKS[attack](lab, target)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    again, _ = ATTACKS[attack](lab, target)
    np.testing.assert_array_equal(poisons, again)
    assert 0 < np.abs(poisons.astype(int) - lab.images[target.bases]).max() <= lab.settings.epsilon
    assert 0 < losses[-1] < 1


def test_a_watermark_is_the_target_as_far_as_epsilon_allows(labs):
    lab = labs["scratch"]
    target = lab.target(0)
    bases = lab.images[target.bases].astype(int)
    goal = lab.aims(target).astype(int)
    poisons, _ = ATTACKS["watermark"](lab, target)
    assert poisons.dtype == np.uint8
    change = poisons - bases
    assert np.abs(change).max() == lab.settings.epsilon
    full = np.abs(change) == lab.settings.epsilon
    assert (poisons == goal)[~full].all()
    assert (np.sign(change) == np.sign(goal - bases)).all()


def test_a_patch_is_laid_over_each_image_somewhere():
    images = np.zeros((50, 1, 8, 8), np.uint8)
    patch = np.full((1, 2, 2), 200, np.uint8)
    triggered = backdoor.patched(images, patch, np.random.default_rng(0))
    assert not images.any()
    assert ((triggered == 200).sum((1, 2, 3)) == 4).all()
    assert len(np.unique(triggered, axis=0)) > 20


@pytest.mark.parametrize("attack", ["sleeper-agent", "sleeper-agent-ensemble"])
def test_a_backdoor_takes_the_bases_of_largest_gradient_and_counts_shares(
    data, cache, tmp_path, attack
):
    lab = Lab(replace(TOY, preset="paper-40", attack=attack, lr=0.1, epochs=2), data, cache)
    target = lab.target(0)
    members = np.flatnonzero(lab.labels.numpy() == target.base)
    norms = backdoor.gradient_norms(lab.clean, lab.images[members], target.base)
    assert (
        norms[np.isin(members, target.bases)].min() >= norms[~np.isin(members, target.bases)].max()
    )
    aims = lab.aims(target)
    assert len(aims) == (data.test_labels == target.label).sum()
    (line,) = run(lab, tmp_path, [0], ["none"])
    assert isinstance(line["success"], float)
    assert 0 <= line["success"] <= 1


def test_the_spread_of_gradients():
    alike = torch.tensor([[1.0, -1.0]]).repeat(4, 1)
    assert adaptive.spread(alike).item() == 0
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert adaptive.spread(opposite).item() == 1
    assert adaptive.spread(opposite + 1).item() == pytest.approx(0.5)
    assert adaptive.spread(torch.zeros(3, 2)).item() == 0


def test_alike_poisons_have_like_gradients_on_late_nets(labs, monkeypatch):
    monkeypatch.setattr(adaptive, "LIKENESS", 5.0)
    lab = labs["block"]
    target = lab.target(0)
    nets = [lab.scenario.whole(net) for net in lab.late_nets]

    def spreads(attack):
        poisons = torch.from_numpy(ATTACKS[attack](lab, target)[0]).float() / 255
        wanted = torch.nn.functional.one_hot(torch.tensor([target.base]), lab.classes)
        with torch.no_grad():
            found = [adaptive.spread(net(poisons).softmax(1) - wanted) for net in nets]
        return float(torch.stack(found).mean())

    assert spreads("gradient-matching-late-alike") < spreads("gradient-matching-late")
