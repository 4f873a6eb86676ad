"""Attacks on features."""

from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.poisoning import backbone
from benchmarks.poisoning.attacks import ATTACKS, adaptive, features
from benchmarks.poisoning.attacks import features as attacks


@pytest.fixture(scope="module")
def bases(lab):
    return lab.images[lab.labels.numpy() == 3][:8]


def test_losses_are_those_of_the_papers():
    rng = np.random.default_rng(0)
    features, target = rng.random((6, 4)), rng.random(4)
    tensors = torch.tensor(features), torch.tensor(target)
    bullseye = np.linalg.norm(features.mean(0) - target) / np.linalg.norm(target)
    collision = np.mean([np.sum((f - target) ** 2) for f in features]) / np.sum(target**2)
    assert attacks.bullseye_polytope(*tensors).item() == pytest.approx(bullseye)
    assert attacks.feature_collision(*tensors).item() == pytest.approx(collision)


@pytest.mark.parametrize(
    "loss_of", [attacks.bullseye_polytope, attacks.convex_polytope, attacks.feature_collision]
)
@pytest.mark.parametrize("watermark", [0.0, 0.3])
def test_poisons_stay_in_the_ball_and_reach_for_the_target(lab, bases, loss_of, watermark):
    target = lab.data.test_images[0]
    poisons, losses = attacks.craft(
        lab.extractor,
        bases,
        target,
        loss_of=loss_of,
        epsilon=40,
        steps=60,
        watermark=watermark,
        progress=False,
    )
    assert poisons.dtype == np.uint8
    assert poisons.shape == bases.shape
    change = np.abs(poisons.astype(int) - bases.astype(int)).max()
    assert 30 < change <= 40
    assert losses.shape == (61,)
    assert losses[-1] < 0.8 * losses[0]

    features = backbone.extract(lab.extractor, poisons)
    goal = backbone.extract(lab.extractor, target[None])[0]
    assert loss_of(features, goal).item() == pytest.approx(losses[-1], rel=1e-5)


def test_poisons_are_made_for_their_target(lab, bases):
    targets = [
        lab.data.test_images[np.flatnonzero(lab.data.test_labels == label)[0]] for label in (0, 7)
    ]
    poisons = [
        attacks.craft(lab.extractor, bases, target, epsilon=80, steps=60, progress=False)[0]
        for target in targets
    ]
    goals = backbone.extract(lab.extractor, np.stack(targets))
    losses = np.array(
        [
            [attacks.bullseye_polytope(backbone.extract(lab.extractor, p), goal) for goal in goals]
            for p in poisons
        ]
    )
    assert losses[0, 0] < losses[0, 1]
    assert losses[1, 1] < losses[1, 0]


def test_crafting_is_deterministic_and_moves_only_the_poisons(lab, bases):
    before = bases.copy()
    first, second = (
        attacks.craft(lab.extractor, bases, lab.data.test_images[1], steps=10, progress=False)[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(bases, before)


def test_no_room_means_no_change(lab, bases):
    poisons, _ = attacks.craft(
        lab.extractor, bases, lab.data.test_images[0], epsilon=0, steps=5, progress=False
    )
    np.testing.assert_array_equal(poisons, bases)


@pytest.mark.parametrize("wrong", [{"epsilon": -1}, {"epsilon": 256}, {"steps": 0}])
def test_craft_refuses(lab, bases, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attacks.craft(lab.extractor, bases, bases[0], **wrong)


def test_the_nearest_point_in_the_hull():
    corners = torch.eye(3, dtype=torch.float64)
    weights = features.nearest_in_hull(corners, torch.tensor([0.5, 0.5, -2.0], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    inside = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(features.nearest_in_hull(corners, inside), inside)
    assert features.convex_polytope(corners, inside).item() == pytest.approx(0, abs=1e-12)
    far = features.convex_polytope(corners, torch.tensor([0.0, 0, 3], dtype=torch.float64))
    assert far.item() == pytest.approx(0.5 * 4 / 9)


def test_soft_collision_trades_features_against_pixels(labs):
    lab = labs["transfer"]
    bases, target = lab.images[lab.labels.numpy() == 3][:6], lab.data.test_images[0]
    collide = partial(features.collide, lab.extractor, bases, target, steps=40, lr=0.01)
    free, losses = collide(beta=0.0, watermark=0.0, progress=False)
    held, strict = collide(beta=100.0, watermark=0.0, progress=False)
    assert losses[-2] < 0.7 * losses[0]
    assert (np.diff(strict[:-1]) <= 1e-3).all()
    move = [np.abs(p.astype(int) - bases.astype(int)).sum() for p in (free, held)]
    assert move[0] > 2 * move[1]


def replace_settings(lab, **changes):
    """The lab with other settings of the attack."""
    other = copy(lab)
    other.settings = replace(lab.settings, **changes)
    return other


def test_copies_of_a_few_poisons_differ_by_noise_only(labs):
    lab = labs["transfer"]
    target = lab.target(0)
    poisons = ATTACKS["bullseye-copies"](lab, target)[0].astype(int)
    few = ATTACKS["bullseye-polytope"](lab, replace(target, bases=target.bases[::4]))[0].astype(int)
    assert poisons.shape == lab.images[target.bases].shape
    for i, poison in enumerate(poisons):
        assert np.abs(poison - few[i // 4]).max() <= adaptive.NOISE
    assert (poisons[0] != poisons[1]).any()


def test_agreeing_poisons_have_a_label_that_the_clean_model_holds_for_possible(labs, monkeypatch):
    monkeypatch.setattr(adaptive, "POSSIBLE", 0.3)  # the toy's poisons all reach 0.1
    lab = replace_settings(labs["transfer"], steps=60)
    target = lab.target(0)

    def probabilities(attack):
        poisons = ATTACKS[attack](lab, target)[0]
        logits = lab.clean(lab.scenario.inputs(poisons)).detach()
        return logits.softmax(1)[:, target.base]

    free, agreeing = map(probabilities, ("bullseye-polytope", "bullseye-agreeing"))
    assert (agreeing > 0.25).all()
    assert (free < 0.25).any()
