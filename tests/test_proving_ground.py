"""The proving ground at toy scale: every scenario, attack and defense, tables and figures."""

import json
from copy import copy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from benchmarks.poisoning import __main__ as cli  # noqa: E402
from benchmarks.poisoning import (  # noqa: E402
    backbone,
    experiment,
    measure,
    tables,
    training,
    victim,
)
from benchmarks.poisoning.attacks import (  # noqa: E402
    ATTACKS,
    adaptive,
    backdoor,
    features,
    gradients,
)
from benchmarks.poisoning.defenses import (  # noqa: E402
    activation_clustering,
    adversarial,
    distinct,
    find,
    friendly_noise,
    jpeg,
    mixing,
    noisy_sgd,
    possible,
    registry,
    spectral_signatures,
)
from benchmarks.poisoning.paper import Quoted  # noqa: E402
from benchmarks.poisoning.victim import Outcome  # noqa: E402
from subsel.defense import PRESETS, datasets  # noqa: E402

TOY = experiment.Settings(
    "digits",
    pretrain=300,
    pretrain_epochs=3,
    victim=300,
    poisons=8,
    epsilon=51,
    steps=8,
    epochs=4,
    subset_sizes=(0.2,),
)


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def labs(data, cache):
    """A lab for each scenario."""
    presets = {"transfer": "paper-transfer", "finetune": "paper-finetune", "scratch": "paper-40"}
    attacks = {
        "scratch": {"attack": "gradient-matching", "lr": 0.1},
        "finetune": {"victim_lr": 0.01},
    }
    return {
        scenario: experiment.Lab(
            replace(TOY, preset=preset, **attacks.get(scenario, {})), data, cache
        )
        for scenario, preset in presets.items()
    }


def replace_settings(lab, **changes):
    """The lab with other settings of the attack."""
    other = copy(lab)
    other.settings = replace(lab.settings, **changes)
    return other


@pytest.fixture(scope="module")
def trials(labs):
    return {scenario: lab.trial(lab.target(0)) for scenario, lab in labs.items()}


# Scenarios


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


def test_poisons_for_transfer_serve_fine_tuning_too(labs):
    assert labs["transfer"].poison_folder == labs["finetune"].poison_folder
    assert labs["scratch"].poison_folder != labs["transfer"].poison_folder


def test_later_settings_are_told_only_where_they_differ():
    old = experiment.Settings()
    assert not set(experiment.LATER) & old.told().keys()
    assert replace(old, model="resnet18").told()["model"] == "resnet18"


@pytest.mark.parametrize(
    ("preset", "size", "epochs", "schedule"),
    [
        ("paper-transfer", 0.2, 40, (1, 1, 10)),
        ("paper-40", 0.2, 40, (20, 2, 36)),
        ("paper-40", 0.1, 4, (1, 1, 4)),
        ("paper-200", 0.1, 100, (5, 5, 76)),
    ],
)
def test_epics_schedule_is_the_published_one_stretched(preset, size, epochs, schedule):
    factor = epochs / PRESETS[preset].training["epochs"]
    got = victim.stretched(PRESETS[preset].epic(size), factor)
    assert tuple(got.values()) == schedule


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


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
@pytest.mark.parametrize("side", [28, 32])
def test_larger_nets_can_be_victims_and_extractors(name, side):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, side, side), np.uint8)
    labels, half = np.arange(4) % 3, np.full(3, 0.5, np.float32)
    colour = datasets.ImageData("noise", images, labels, images, labels, tuple("abc"), half, half)
    torch.manual_seed(0)
    net = backbone.build(name, colour).eval()
    with torch.no_grad():
        features = net[:-1](torch.from_numpy(images))
        assert net[-1](features).shape == (4, 3)
    found = backbone.extract(backbone.frozen(net[:-1]), images)
    torch.testing.assert_close(found, features, rtol=1e-3, atol=1e-4)


def test_colour_images_go_through_everything(cache, tmp_path):
    """Of three channels and not square: attack by patch, defenses by pixels."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = np.clip(
        rng.normal(100, 40, (240, 3, 12, 16)) + 40 * labels[:, None, None, None], 0, 255
    )
    images = images.astype(np.uint8)
    colour = datasets.ImageData(
        "colour",
        images[:180],
        labels[:180],
        images[180:],
        labels[180:],
        ("a", "b", "c"),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.25, np.float32),
    )
    settings = replace(
        TOY,
        dataset="colour",
        preset="paper-40",
        attack="sleeper-agent",
        lr=0.1,
        pretrain=0,
        victim=180,
        augment=True,
    )
    lab = experiment.Lab(settings, colour, cache)
    names = ["none", "JPEG 75", "Friendly Noise", "Adversarial Poisoning 0.5, told epsilon"]
    for line in experiment.run(lab, tmp_path, [0], names):
        assert line["accuracy"] > 0.5


def test_images_are_augmented_where_it_is_wanted(trials, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training, "flip_and_crop", lambda x, generator, padding: calls.append(padding) or x
    )
    plain = trials["scratch"].victim.shortened(1)
    plain.train(np.arange(130))
    assert not calls
    recipe = replace(plain.scenario.recipe, augment=True)
    replace(plain, scenario=replace(plain.scenario, recipe=recipe)).train(np.arange(130))
    assert calls == [1, 1]
    assert not replace(TOY, augment=True).recipe().augment
    assert replace(TOY, augment=True, preset="paper-40").recipe().augment


@pytest.mark.parametrize(("scenario", "sizes"), [("scratch", [128]), ("transfer", [128, 1])])
def test_batchnorm_is_spared_a_single_example(trials, scenario, sizes):
    seen = []

    def steps(model, optimizer, generator):
        step = training.plain(model, optimizer, generator)
        return lambda x, y: (seen.append(len(x)), step(x, y))

    trials[scenario].victim.shortened(1).train(np.arange(129), steps=steps)
    assert seen == sizes


# Attacks


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
    lab = experiment.Lab(settings, data, cache)
    nets = lab.mixed_nets_of_ages if mixed else lab.nets_of_ages
    target = lab.target(0)
    accuracies = [
        (training.outputs(net, lab.test_inputs).argmax(1) == lab.test_labels).float().mean()
        for net in nets
    ]
    assert len(set(accuracies)) > 4
    assert accuracies[-1] > accuracies[0]
    lab = experiment.Lab(settings, data, cache)
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


def test_a_target_can_be_aimed_at_the_class_that_comes_second(data, cache):
    lab = experiment.Lab(replace(TOY, preset="paper-40", base_class="runner-up"), data, cache)
    usual = experiment.Lab(replace(TOY, preset="paper-40"), data, cache)
    for number in range(4):
        target = lab.target(number)
        row = training.outputs(lab.clean, lab.test_inputs[target.index][None])[0]
        assert row.argsort(descending=True).tolist()[:2] == [target.label, target.base]
        assert (lab.labels[target.bases] == target.base).all()
        assert target.index == usual.target(number).index
    with pytest.raises(ValueError, match="base_class must be one of random, runner-up; got 'any'"):
        replace(TOY, base_class="any")


def test_mismatch_is_one_minus_the_cosine():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    own = torch.autograd.grad(loss, list(net.parameters()))
    assert gradients.mismatch(net, images, labels, own).item() == pytest.approx(0, abs=1e-6)
    against = gradients.mismatch(net, images, labels, [-2 * g for g in own])
    assert against.item() == pytest.approx(2, abs=1e-6)


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
    lab = experiment.Lab(
        replace(TOY, preset="paper-40", attack=attack, lr=0.1, epochs=2), data, cache
    )
    target = lab.target(0)
    members = np.flatnonzero(lab.labels.numpy() == target.base)
    norms = backdoor.gradient_norms(lab.clean, lab.images[members], target.base)
    assert (
        norms[np.isin(members, target.bases)].min() >= norms[~np.isin(members, target.bases)].max()
    )
    aims = lab.aims(target)
    assert len(aims) == (data.test_labels == target.label).sum()
    (line,) = experiment.run(lab, tmp_path, [0], ["none"])
    assert isinstance(line["success"], float)
    assert 0 <= line["success"] <= 1


# Defenses


def test_names_say_what_a_defense_is_told_and_find_it():
    for entry in registry.known():
        assert (not entry.told) or "told" in entry.template or "oracle" in entry.template
    assert find("EPIC 0.25 full", "scratch")[1] == {"subset_size": 0.25, "ground_set": "full"}
    control = "random drop, as EPIC 0.2 active, fresh head"
    assert find(control, "transfer")[1] == {"reference": "random drop, as EPIC 0.2 active"}
    core = "EPIC 0.2 active, re-admission, fresh head"
    assert find(core, "transfer")[1] == {"reference": "EPIC 0.2 active"}


def test_a_defense_of_ones_own(trials, monkeypatch):
    monkeypatch.setattr(registry, "_DEFENSES", list(registry._DEFENSES))

    @registry.defense("first {share} of all, told the budget", told=("budget",))
    def first(victim, share: float, budget):
        kept = victim.everyone[: int(share * len(victim.labels)) - budget]
        return Outcome(victim.train(kept), kept)

    outcome = trials["transfer"].outcome("first 0.5 of all, told the budget")
    np.testing.assert_array_equal(outcome.kept, np.arange(150 - TOY.poisons))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prayer", "no defense is called 'prayer'"),
        ("EPIC much active", "no defense is called"),
        ("Adversarial Poisoning 0.5, told epsilon", "it needs images"),
        ("random drop, as prayer", "no defense is called 'prayer'"),
    ],
)
def test_a_defense_that_cannot_be_is_refused_before_any_work(labs, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        experiment.run(labs["transfer"], tmp_path / "out", [0], ["none", name])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install opacus"):
        find("DP-SGD 1", "transfer")
    assert possible(["DP-SGD 1", "none"], "transfer") == ["none"]


NAMES = [
    "Deep k-NN, told the budget",
    "Spectral Signatures, told the budget",
    "Activation Clustering",
    "batch-level noisy SGD",
    "Adversarial Poisoning 0.5, told epsilon",
    "adversarial training 8",
    "JPEG 75",
    "Friendly Noise",
    "CutMix",
    "Mixup",
    "EPIC 0.2 active with CutMix",
    "quick fresh start 0.2 0.05 with CutMix",
    "EPIC 0.2 active",
    "lowest-confidence drop, as EPIC 0.2 active",
    "EPIC 0.2 active, re-admission, fresh head",
    "fresh start 0.4 0.05 on distinct images",
    "quick fresh start 0.4 0.05",
    "all poisons removed, oracle",
]


@pytest.mark.parametrize("scenario", registry.SCENARIOS)
def test_every_defense_works_wherever_it_says(labs, trials, scenario, tmp_path):
    lab, names = labs[scenario], possible(NAMES, scenario)
    assert len(names) == len(NAMES) - 6 * (scenario == "transfer")
    records = experiment.run(lab, tmp_path, [0], ["none", *names])
    outcome = {line["defense"]: line for line in records}
    assert outcome["none"]["accuracy"] > 0.3
    for name in names:
        assert outcome[name]["accuracy"] > 0.15, name
        assert 0 < outcome[name]["kept"] <= 300
    assert outcome["all poisons removed, oracle"]["poisons_left"] == 0
    assert outcome["EPIC 0.2 active"]["kept"] < 300
    assert (
        outcome["lowest-confidence drop, as EPIC 0.2 active"]["kept"]
        == outcome["EPIC 0.2 active"]["kept"]
    )
    times = {t["defense"]: t["seconds"] for t in experiment.read_records(tmp_path, "times.jsonl")}
    assert times["EPIC 0.2 active, re-admission, fresh head"] > times["EPIC 0.2 active"]


def test_spectral_signatures_score_who_lies_along_the_first_direction():
    rng = np.random.default_rng(0)
    points = torch.tensor(rng.normal(0, 1, (60, 5)), dtype=torch.float32)
    labels = torch.arange(60) % 2
    points[[7, 20], 3] += 30
    scores = spectral_signatures.outlyingness(points, labels)
    assert scores[labels == 1].argmax() == 3  # example 7 is the fourth with label 1
    assert scores[labels == 0].argmax() == 10


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


def test_the_lowest_confidence_control_drops_who_is_least_sure():
    from benchmarks.poisoning.defenses.baselines import MatchedDrop

    rng = np.random.default_rng(0)
    labels, shares = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    control = MatchedDrop(50, {2: 12}, rule="confidence", seed=0)
    control.prune(shares - np.eye(4)[labels], labels, 2)
    np.testing.assert_array_equal(control.kept, np.sort(np.argsort(shares.max(1))[12:]))


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


# Tables


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder, and what makes the toy scale tiny."""
    out = tmp_path_factory.mktemp("toy")
    tiny = ["--scale", "toy", "--cache", f"{out}/c", "--out", str(out), "--targets", "1"]
    return out, [*tiny, "--steps", "4", "--epochs", "3", "--victim", "300", "--poisons", "12"]


@pytest.mark.parametrize("table", tables.TABLES)
def test_a_table_at_toy_scale_and_again_for_nothing(toy, table, capsys, monkeypatch):
    out, tiny = toy
    arguments = ["table", str(table), *tiny]
    assert cli.main(arguments) == 0
    first = capsys.readouterr().out
    written = (out / f"table-{table}-toy" / "table.md").read_text()
    assert written in first
    assert "paper: success" in written
    monkeypatch.setattr(registry.Trial, "outcome", None)
    assert cli.main(arguments) == 0


def test_a_table_tells_its_figures_from_the_papers(tmp_path):
    line = {"target": 0, "accuracy": 0.9, "kept": 5, "poisons_left": 0}
    experiment.write_records(
        tmp_path / "results.jsonl",
        [line | {"defense": "none", "success": True}, line | {"defense": "EPIC", "success": False}],
    )
    seconds = {"none": 2.0, "EPIC": 3.0}
    experiment.write_records(
        tmp_path / "times.jsonl",
        [{"target": 0, "defense": d, "seconds": s} for d, s in seconds.items()],
    )
    quoted = {"none": Quoted(86, 94.69, 20), "EPIC": Quoted(1, 94.8, 30)}
    entry = tables.Experiment("x", TOY, ("none",), quoted)
    head, _, none, epic = (
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in tables.table_of(entry, tmp_path).splitlines()
    )
    assert head[-4:] == ["time", "paper: success", "paper: accuracy", "paper: time"]
    assert none[:3] == ["none", "1/1", "1.00 (0.21-1.00)"]
    assert none[-4:] == ["1.00", "0.86", "0.947", "1.00"]
    assert epic[-4:] == ["1.50", "0.01", "0.948", "1.50"]


def test_what_is_not_there_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, message in (
        (["--scale", "toy", "--device", "cuda"], "torch sees no such GPU"),
        (["--scale", "paper", "--data-dir", str(tmp_path)], "CIFAR-10 is not in"),
        (["--scale", "toy", "--published", str(tmp_path)], "holds no poisoned sets"),
    ):
        assert cli.main(["table", "4", *options]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_an_unknown_experiment_is_said(capsys):
    assert cli.main(["table", "4", "--scale", "toy", "--only", "magic"]) == 1
    assert "magic is none of gradient-matching-paper-40-strong" in capsys.readouterr().err


def test_a_published_set_is_attacked_as_it_is(data, cache, tmp_path):
    from pickle import dumps

    from PIL import Image

    from benchmarks.poisoning.published import PublishedLab

    folder = tmp_path / "sets" / "0"
    folder.mkdir(parents=True)
    bases = np.flatnonzero(data.train_labels == 4)[:5]
    poisons = [(Image.fromarray(255 - data.train_images[i][0]), 4) for i in bases]
    target = (Image.fromarray(data.test_images[0][0]), int(data.test_labels[0]))
    for name, value in (("poisons", poisons), ("base_indices", bases), ("target", target)):
        (folder / f"{name}.pickle").write_bytes(dumps(value))
    settings = replace(TOY, preset="paper-40", attack="gradient-matching", epochs=1)
    lab = PublishedLab(settings, data, cache, "cpu", tmp_path / "sets")
    trial = lab.trial(lab.target(0))
    np.testing.assert_array_equal(trial.victim.images[bases], 255 - data.train_images[bases])
    assert trial.budget == trial.poisoned.sum() == 5
    records = experiment.run(lab, tmp_path / "out", [0], ["none"])
    assert records[0]["kept"] == len(data.train_images)
    assert records[0]["base"] == "4"
    with pytest.raises(ValueError, match="there are 1 published sets"):
        lab.target(1)


# Figures


@pytest.mark.parametrize("figure", [1, 2, 3, 4, 5, 6])
def test_a_figure_at_toy_scale_and_again_for_nothing(toy, figure, monkeypatch):
    out, tiny = toy
    arguments = ["figure", str(figure), *tiny, "--trainings", "3"]
    assert cli.main(arguments) == 0
    path = out / "figures-toy" / f"figure-{figure}.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    monkeypatch.setattr(registry.Trial, "outcome", None)
    for part in ("effective", "dropped", "rounds"):
        monkeypatch.setattr(measure, part, None)
    assert cli.main(arguments) == 0
    assert path.exists()


def test_the_smallest_subset_that_carries():
    tried = []

    def carries(some):
        tried.append(set(some.tolist()))
        return {3, 11, 12} <= tried[-1]

    order = np.random.default_rng(0).permutation(40)
    assert set(measure.smallest_subset(order, carries, 200)) == {3, 11, 12}
    assert len(tried) < 40
    tried.clear()
    rough = measure.smallest_subset(order, carries, 8)
    assert len(tried) == 8
    assert {3, 11, 12} <= set(rough.tolist())
    assert len(measure.smallest_subset(order, lambda some: False, 9)) == 0


def test_effective_poisons_alone_carry_the_attack(data, cache):
    lab = experiment.Lab(tables.SCALES["toy"].settings, data, cache)
    target = lab.target(0)
    trial = lab.trial(target)
    found = measure.effective(lab, target, trial, 30)
    assert 0 < found["effective"].sum() < 30
    assert found["trainings"] <= 30
    images = lab.images.copy()
    some = target.bases[found["effective"]]
    images[some] = trial.victim.images[some]
    model = trial.victim.with_images(images).train()
    assert measure.hit_share(lab, target, model) == 1
    assert found["poisons"].shape == (30, 2)


def test_watching_changes_nothing_and_sees_every_epoch(labs, trials):
    lab, trial = labs["scratch"], trials["scratch"]
    target = lab.target(0)
    everyone = np.ones(len(target.bases), bool)
    seen = measure.rounds(lab, target, trial, everyone, 0.2)
    outcome = trial.outcome("EPIC 0.2 active")
    assert [(row == 1).sum() for row in seen["cluster_sizes"]] == [
        len(entry.dropped) for entry in outcome.rounds
    ]
    assert seen["left"].shape == (4, 3)
    first = outcome.rounds[0].epoch
    np.testing.assert_array_equal(seen["left"][: first + 1], 1)
    np.testing.assert_allclose(seen["kept_error"][: first + 1], 0, atol=1e-6)
    assert (seen["random_error"][first + 1 :] > 0).all()
    assert (np.abs(seen["mutual"]) <= 1 + 1e-6).all()


def test_cosines():
    vectors = np.array([[1.0, 0], [0, 2], [-3, 0]])
    assert measure.mutual_cosine(vectors) == pytest.approx(-1 / 3)
    assert measure.mean_cosine(vectors, np.array([2.0, 0])) == pytest.approx(0)
    assert np.isnan(measure.mutual_cosine(vectors[:1]))
    assert np.isnan(measure.mean_cosine(vectors[:0], vectors[0]))


def test_a_fresh_start_does_what_train_afresh_does(trials):
    outcome = trials["transfer"].outcome("fresh start 0.4 0.05")
    core = trials["transfer"].outcome("EPIC 0.4 active").kept
    assert set(core) <= set(outcome.kept)
    assert len(core) < len(outcome.kept) <= 300


def test_a_quick_fresh_start_goes_on_from_a_judge_of_the_core(trials, monkeypatch):
    calls = []
    train = victim.Victim.train

    def noted(self, kept=None, **options):
        model = train(self, kept, **options)
        calls.append((self.scenario.recipe, kept, model))
        return model

    monkeypatch.setattr(victim.Victim, "train", noted)
    trial = trials["transfer"]
    long = trial.victim.paced(2)  # 8 epochs
    assert (long.scenario.recipe.epochs, long.scenario.recipe.drops) == (8, (4, 4, 8))
    outcome = find("quick fresh start 0.4 0.05", "transfer")[0].run(long, 0.4, 0.05)
    core, judge, final = calls
    assert [recipe.epochs for recipe, _, _ in calls] == [2, 4, 6]
    assert len(judge[1]) < len(final[1]) <= 300
    np.testing.assert_array_equal(np.intersect1d(judge[1], final[1]), judge[1])
    assert outcome.model is final[2] is judge[2]
    assert outcome.model is not core[2]


# The command line


def test_the_list_of_defenses(capsys):
    assert cli.main(["defenses"]) == 0
    listed = capsys.readouterr().out
    assert "Adversarial Poisoning {share}, told epsilon" in listed
    assert all(json.dumps(name)[1:-1] in listed for name in ("none", "Friendly Noise"))


def test_attacks_are_all_in_some_table():
    crafted = {e.settings.attack for t in tables.TABLES for e in tables.experiments(t, "small")}
    assert crafted <= ATTACKS.keys()
