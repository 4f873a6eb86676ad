"""Each defense by itself."""

from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.poisoning.attacks import gradients
from benchmarks.poisoning.defenses import (
    activation_clustering,
    adversarial,
    baselines,
    deep_knn,
    distinct,
    friendly_noise,
    jpeg,
    mixing,
    noisy_sgd,
    registry,
)
from subsel.defense import EPIC, scores, train_afresh


def test_the_loss_control_drops_the_highest_losses():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    shares = rng.dirichlet(np.ones(4), 50)
    gradients = shares - np.eye(4)[labels]
    control = baselines.MatchedDrop(50, {2: 5, 3: 7}, rule="loss", seed=0)
    assert [control.due(epoch) for epoch in range(5)] == [False, False, True, True, False]
    control.prune(gradients, labels, 2)
    control.prune(gradients, labels, 3)
    losses = -np.log(shares[np.arange(50), labels])
    np.testing.assert_array_equal(control.kept, np.sort(np.argsort(losses)[:38]))
    assert [len(entry.dropped) for entry in control.history] == [5, 7]


def test_the_lowest_confidence_control_drops_who_is_least_sure():
    from benchmarks.poisoning.defenses.baselines import MatchedDrop

    rng = np.random.default_rng(0)
    labels, shares = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    control = MatchedDrop(50, {2: 12}, rule="confidence", seed=0)
    control.prune(shares - np.eye(4)[labels], labels, 2)
    np.testing.assert_array_equal(control.kept, np.sort(np.argsort(shares.max(1))[12:]))


def test_deep_knn_drops_who_is_alone_among_another_class():
    rng = np.random.default_rng(0)
    features = torch.tensor(np.concatenate([rng.normal(0, 1, (40, 3)), rng.normal(9, 1, (40, 3))]))
    labels = torch.tensor([0] * 40 + [1] * 40)
    labels[[3, 50]] = 1 - labels[[3, 50]]
    kept = deep_knn.agreeing_with_neighbours(features, labels, neighbours=10)
    np.testing.assert_array_equal(kept, np.delete(np.arange(80), [3, 50]))


def test_spectral_signatures_score_who_lies_along_the_first_direction():
    rng = np.random.default_rng(0)
    points = torch.tensor(rng.normal(0, 1, (60, 5)), dtype=torch.float32)
    labels = torch.arange(60) % 2
    points[[7, 20], 3] += 30
    outlying = torch.from_numpy(scores.spectral_signatures(points, labels))
    assert outlying[labels == 1].argmax() == 3  # example 7 is the fourth with label 1
    assert outlying[labels == 0].argmax() == 10


def test_activation_clustering_drops_the_smaller_cluster_of_each_class():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.1, (60, 4))
    labels = np.arange(60) % 2
    points[[1, 3, 5, 10]] += 5
    dropped = activation_clustering.smaller_clusters(points, labels, 0)
    assert {1, 3, 5, 10} <= set(dropped.tolist())
    assert set(dropped[labels[dropped] == 1]) == {1, 3, 5}


def test_of_near_duplicates_the_first_stays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
    labels = np.arange(40) % 2
    images[6] = images[9] = images[2] ^ 1  # 9 is of the other class
    images[20] = images[0]
    kept = distinct.distinct(images, labels)
    np.testing.assert_array_equal(np.setdiff1d(np.arange(40), kept), [6, 20])


def test_a_defense_of_distinct_images_counts_in_all_of_them(trials, monkeypatch):
    trial = trials["transfer"]
    rows = np.arange(0, 300, 2)
    monkeypatch.setattr(distinct, "distinct", lambda images, labels: rows)
    for name in ("EPIC 0.2 active on distinct images", "fresh start 0.4 0.05 on distinct images"):
        outcome = registry.Trial(
            trial.victim, "transfer", budget=8, epsilon=51, poisoned=trial.poisoned
        ).outcome(name)
        assert np.isin(outcome.kept, rows).all()
        assert 0 < len(outcome.kept) <= 150


def test_noisy_steps_are_clipped():
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = noisy_sgd.noisy_steps(model, optimizer, torch.Generator().manual_seed(0), noise=0.0)
    step(1000 * torch.ones(4, 3), torch.tensor([0, 0, 0, 1]))
    assert (model.weight.detach() - before).norm() <= 1


def test_dp_sgd_clips_every_example(trials):
    pytest.importorskip("opacus")
    assert trials["transfer"].outcome("DP-SGD 0.1").kept.size == 300
    model = trials["scratch"].victim.shortened(1)
    assert not any(
        isinstance(m, torch.nn.BatchNorm2d)
        for m in registry.Trial(
            model, "scratch", budget=8, epsilon=51, poisoned=trials["scratch"].poisoned
        )
        .outcome("DP-SGD 0.1")
        .model.modules()
    )


def test_adversarial_images_have_a_higher_loss_within_the_ball(labs):
    lab = labs["scratch"]
    images, labels = torch.from_numpy(lab.images[:50]), lab.labels[:50]
    moved = adversarial.hardest(lab.clean, images, labels, 8 / 255, torch.Generator())
    assert (moved - images / 255).abs().max() <= 8 / 255 + 1e-6
    cross_entropy = torch.nn.functional.cross_entropy
    assert cross_entropy(lab.clean(moved), labels) > 1.05 * cross_entropy(lab.clean(images), labels)


def test_adversarial_poisons_match_better_within_the_ball(labs):
    lab = labs["scratch"]
    images, labels = torch.from_numpy(lab.images[:60]).float() / 255, lab.labels[:60]
    moved = adversarial.against(
        lab.clean, images[:30], labels[:30], images[30:], 51 / 255, torch.Generator().manual_seed(0)
    )
    assert (moved - images[:30]).abs().max() <= 51 / 255 + 1e-6
    assert not lab.clean.training
    wrong = labels[torch.randint(30, (30,), generator=torch.Generator().manual_seed(0))]
    loss = torch.nn.functional.cross_entropy(lab.clean(images[30:]), wrong)
    wanted = torch.autograd.grad(loss, list(lab.clean.parameters()))
    start = (
        images[:30]
        + 51 / 255 * adversarial.symmetric(images[:30], torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    before, after = (
        gradients.mismatch(lab.clean, x, labels[:30], wanted).item() for x in (start, moved)
    )
    assert after < before


@pytest.mark.parametrize("mix", [mixing.cutmix, mixing.mixup])
def test_a_mixture_says_of_whom_it_is_and_how_much(mix):
    rng = np.random.default_rng(0)
    own = torch.arange(4.0).view(4, 1, 1, 1)
    images = own.expand(4, 1, 20, 30).clone()
    before, shares = images.clone(), []
    for _ in range(200):
        mixed, other, share = mix(images, rng)
        assert sorted(other.tolist()) == [0, 1, 2, 3]
        wanted = share * own + (1 - share) * own[other]
        torch.testing.assert_close(mixed.mean((2, 3), keepdim=True), wanted)
        assert 0 <= share <= 1
        shares.append(share)
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.quantile(shares, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.08)


def test_mixtures_bear_both_labels():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    asked = []

    def half(x, rng):
        other = torch.tensor([1, 2, 3, 0])
        asked.append(x)
        return (x + x[other]) / 2, other, 0.25

    step = mixing.mixing(half)(model, optimizer, torch.Generator().manual_seed(0))
    x, y = torch.eye(4)[:, None, None], torch.tensor([0, 0, 1, 1])
    before = [p.clone() for p in model.parameters()]
    step(x, y)
    assert torch.equal(asked[0], x)
    labels = y[[1, 2, 3, 0]]
    mixed = ((x + x[[1, 2, 3, 0]]) / 2).flatten(1)
    shown = torch.nn.functional.one_hot(y, 2) * 0.25 + torch.nn.functional.one_hot(labels, 2) * 0.75
    error = (mixed @ before[0].T + before[1]).softmax(1) - shown
    torch.testing.assert_close(model[1].weight, before[0] - 0.5 * error.T @ mixed / 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_changes_little_and_keeps_the_shape(channels):
    ramp = np.linspace(0, 255, 256).astype(np.uint8).reshape(1, 1, 16, 16)
    smooth = ramp.repeat(channels, axis=1)
    noisy = np.random.default_rng(0).integers(0, 256, smooth.shape, dtype=np.uint8)
    images = np.concatenate([smooth, noisy])
    out = jpeg.through_jpeg(images, 75)
    error = np.abs(out.astype(int) - images).mean((1, 2, 3))
    assert out.shape == images.shape
    assert error[0] < 4 < error[1]


def test_friendly_noise_is_large_and_hardly_noticed(labs):
    lab = labs["scratch"]
    pixels = torch.from_numpy(lab.images[:40]).float() / 255
    generator = torch.Generator().manual_seed(0)
    noise = friendly_noise.unnoticed(lab.clean, pixels, generator)
    assert noise.abs().max() <= 16 / 255 + 1e-7
    drawn = (2 * torch.rand(noise.shape, generator=torch.Generator().manual_seed(0)) - 1) * 16 / 255
    assert noise.square().mean() > drawn.square().mean()
    divergence = partial(torch.nn.functional.kl_div, reduction="batchmean", log_target=True)
    clean, loud, random = (
        lab.clean(x).log_softmax(1).detach()
        for x in (pixels, pixels + noise, pixels + noise.abs() * drawn.sign())
    )
    assert divergence(loud, clean) < divergence(random, clean)


def test_what_epic_drops_among_some_is_told_by_its_place_among_all(trials, monkeypatch):
    # Few epochs, in which re-admission would come before anything is dropped.
    monkeypatch.setattr(deep_knn, "with_readmission", lambda victim: victim.epic(0.2, "active"))
    victim = trials["transfer"].victim
    some = deep_knn.deep_knn_at(victim, 0.3).kept
    outcome = deep_knn.deep_knn_and_readmission(victim, 0.3)
    dropped = np.concatenate([entry.dropped for entry in outcome.rounds])
    assert 0 < len(dropped) < len(some) < len(victim.labels)
    np.testing.assert_array_equal(np.union1d(outcome.kept, dropped), some)


@pytest.mark.parametrize("quick", [False, True])
def test_a_fresh_start_is_the_librarys(trials, quick):
    victim = trials["transfer"].victim
    outcome = trials["transfer"].outcome(f"{'quick ' * quick}fresh start 0.4 0.05")
    recipe = victim.scenario.recipe
    expected = train_afresh(
        victim.scenario.new_model(torch.Generator().manual_seed(victim.seed)),
        (victim.inputs, victim.labels),
        defense=EPIC(subset_size=0.4, warmup=1, interval=1, stop=2),
        epochs=recipe.epochs,
        drops=recipe.drops,
        seed=victim.seed,
        quick=quick,
        progress=False,
    )
    np.testing.assert_array_equal(outcome.kept, expected.kept)
    torch.testing.assert_close(outcome.model.weight, expected.model.weight, rtol=0, atol=0)
