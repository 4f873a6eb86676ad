"""The poisoning experiment at toy scale: attacks, controls, runner, report."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from benchmarks.poisoning import __main__ as cli  # noqa: E402
from benchmarks.poisoning import backbone, experiment, report  # noqa: E402
from benchmarks.poisoning.attacks import features as attacks  # noqa: E402
from benchmarks.poisoning.defenses import baselines, deep_knn, registry  # noqa: E402
from subsel.defense import datasets  # noqa: E402

TOY = experiment.Settings(
    "digits",
    pretrain=400,
    pretrain_epochs=4,
    victim=500,
    poisons=12,
    epsilon=102,
    steps=60,
    subset_sizes=(0.2,),
)


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def lab(data, cache):
    return experiment.Lab(TOY, data, cache)


@pytest.fixture(scope="module")
def bases(lab):
    return lab.images[lab.labels.numpy() == 3][:8]


@pytest.fixture(scope="module")
def finished(lab, tmp_path_factory):
    """A run of two targets."""
    out = tmp_path_factory.mktemp("run")
    return out, run(lab, out, 2)


def run(lab, out, targets):
    return experiment.run(lab, out, range(targets), lab.settings.defenses(), traces=True)


# Backbone


def test_folding_batchnorm_changes_nothing(data):
    extractor = backbone.pretrain(data, np.arange(200), epochs=1, seed=0)
    images = data.test_images[:20]
    folded = backbone.extract(backbone.frozen(extractor), images)
    with torch.no_grad():
        plain = extractor.eval()(backbone.to_pixels(torch.from_numpy(images)))
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)


def test_pretraining_is_reproducible_and_leaves_the_global_state_alone(data):
    before = torch.random.get_rng_state()
    first, second = (backbone.pretrain(data, np.arange(150), epochs=1, seed=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_backbone_is_useful_and_kept(lab, data, cache):
    assert lab.clean_accuracy > 0.9
    before = torch.random.get_rng_state()
    again = experiment.Lab(TOY, data, cache)
    assert torch.equal(before, torch.random.get_rng_state())
    assert again.digest == lab.digest
    assert len(list(cache.glob("backbone-*"))) == 1
    assert not any(parameter.requires_grad for parameter in lab.extractor.parameters())


# Attacks


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


# The victim and its defenses


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


def test_deep_knn_drops_who_is_alone_among_another_class():
    rng = np.random.default_rng(0)
    features = torch.tensor(np.concatenate([rng.normal(0, 1, (40, 3)), rng.normal(9, 1, (40, 3))]))
    labels = torch.tensor([0] * 40 + [1] * 40)
    labels[[3, 50]] = 1 - labels[[3, 50]]
    kept = deep_knn.agreeing_with_neighbours(features, labels, neighbours=10)
    np.testing.assert_array_equal(kept, np.delete(np.arange(80), [3, 50]))


# The experiment


def test_targets_follow_the_rule(lab):
    targets = [lab.target(number) for number in range(30)]
    for target in targets:
        assert lab.correct[target.index]
        assert target.label == lab.data.test_labels[target.index] != target.base
        assert (lab.labels[target.bases] == target.base).all()
        assert len(np.unique(target.bases)) == TOY.poisons
    assert len({target.index for target in targets}) > 25
    assert len({target.base for target in targets}) > 5


def test_the_backbone_has_not_seen_the_victims_images(lab, data):
    order = np.random.default_rng(TOY.seed).permutation(len(data.train_images))
    assert not np.intersect1d(order[: TOY.pretrain], lab.victim).size
    assert len(lab.victim) == TOY.victim


def test_records(lab, finished):
    out, records = finished
    assert records == experiment.read_records(out)
    groups = report.by_defense(records)
    assert all([r["target"] for r in group] == [0, 1] for group in groups.values())
    assert all(r["kept"] == 500 and r["poisons_left"] == 12 for r in groups["none"])
    oracle = groups["all poisons removed, oracle"]
    assert all(r["kept"] == 488 and r["poisons_left"] == 0 for r in oracle)
    for record in records:
        if record["rounds"]:
            dropped = sum(entry["dropped"] for entry in record["rounds"])
            poisons = sum(entry["poisons_dropped"] for entry in record["rounds"])
            assert record["kept"] == 500 - dropped
            assert record["poisons_left"] == 12 - poisons


@pytest.mark.parametrize("ground_set", ["active", "full"])
def test_controls_drop_as_many_in_every_round(finished, ground_set):
    groups = report.by_defense(finished[1])
    name = f"EPIC 0.2 {ground_set}"
    for control in ("random drop", "highest-loss drop"):
        for epic, matched in zip(groups[name], groups[f"{control}, as {name}"], strict=True):
            epic, matched = (
                [(entry["epoch"], entry["dropped"]) for entry in record["rounds"]]
                for record in (epic, matched)
            )
            assert epic == matched
            assert [epoch for epoch, _ in epic] == list(range(1, 10))
            assert epic[0][1] > 0


def test_epic_finds_more_poisons_than_chance(finished):
    groups = report.by_defense(finished[1])
    for epic, chance in zip(
        groups["EPIC 0.2 active"], groups["random drop, as EPIC 0.2 active"], strict=True
    ):
        assert epic["poisons_left"] < chance["poisons_left"]


def test_readmission_keeps_what_epic_kept_and_more(finished):
    groups = report.by_defense(finished[1])
    name = "EPIC 0.2 active"
    for core, back in zip(groups[name], groups[f"{name}, re-admission, fresh head"], strict=True):
        assert core["kept"] < back["kept"] <= 500


def test_an_interrupted_run_goes_on_to_the_same_result(lab, finished, tmp_path, monkeypatch):
    out, records = finished
    run(lab, tmp_path, 1)
    outcome, done = registry.Trial.outcome, []

    def interrupted(trial, name):
        done.append(name)
        if len(done) == 4:
            raise KeyboardInterrupt
        return outcome(trial, name)

    with monkeypatch.context() as patch:
        patch.setattr(registry.Trial, "outcome", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(lab, tmp_path, 2)
    assert len(records) // 2 < len(experiment.read_records(tmp_path)) < len(records)
    assert run(lab, tmp_path, 2) == records
    assert (tmp_path / "results.jsonl").read_bytes() == (out / "results.jsonl").read_bytes()
    times = experiment.read_records(tmp_path, "times.jsonl")
    assert [(t["target"], t["defense"]) for t in times] == [
        (r["target"], r["defense"]) for r in records
    ]


def test_poisons_are_crafted_once(lab, finished, monkeypatch):
    target = lab.target(1)
    monkeypatch.setattr(experiment, "ATTACKS", {})
    poisons = lab.poisons(target)
    change = np.abs(poisons.astype(int) - lab.images[target.bases].astype(int))
    assert 0 < change.max() <= TOY.epsilon


def test_results_of_other_settings_are_not_mixed(data, cache, finished):
    other = experiment.Lab(replace(TOY, epsilon=80), data, cache)
    with pytest.raises(ValueError, match="another epsilon"):
        run(other, finished[0], 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"victim": 1000}, "at most 1397.*400 \\+ 1000"), ({"poisons": 100}, "smallest class")],
)
def test_settings_that_do_not_fit(data, cache, wrong, message):
    with pytest.raises(ValueError, match=message):
        experiment.Lab(replace(TOY, **wrong), data, cache)


@pytest.mark.parametrize(
    "wrong",
    [
        {"poisons": 0},
        {"steps": 0},
        {"epsilon": 256},
        {"subset_size": (1.5,)},
        {"ground_set": ("half",)},
    ],
)
def test_settings_out_of_range_are_refused_at_once(wrong):
    ((name, value),) = wrong.items()
    field = {"subset_size": "subset_sizes", "ground_set": "ground_sets"}.get(name, name)
    with pytest.raises(ValueError, match=name):
        replace(TOY, **{field: value})


def test_traces_tell_what_the_run_did(lab, finished):
    out, records = finished
    epic = next(r for r in records if r["defense"] == "EPIC 0.2 active")
    with np.load(out / "traces" / "target-000.npz") as trace:
        sizes, kept = trace["cluster_sizes"], trace["kept"]
        assert kept.sum() == epic["kept"]
        assert [int((row == 1).sum()) for row in sizes] == [r["dropped"] for r in epic["rounds"]]
        assert trace["poisoned"].sum() == TOY.poisons
        for moment in ("after_warmup", "after_undefended", "after_epic"):
            assert trace[moment].shape == (500,)
            assert trace[moment].min() >= 0
            assert trace[moment].max() <= 2 * 2**0.5


# The report and the command line


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [(0, 10, (0, 0.2775)), (8, 10, (0.4902, 0.9433)), (24, 24, (0.8620, 1))],
)
def test_wilson(successes, trials, interval):
    assert report.wilson(successes, trials) == pytest.approx(interval, abs=1e-4)


def test_tables():
    records = [
        {"target": t, "label": "cat", "base": "dog", "defense": d, "success": s}
        | {"accuracy": 0.9, "kept": 10 * (t + 1), "poisons_left": 1}
        for t in (0, 1)
        for d, s in (("none", True), ("EPIC", t == 1))
    ]
    lines = report.results_table(records).splitlines()
    assert lines[2].split("|")[1:4] == [" none    ", " 2/2  ", " 1.00 (0.34-1.00)     "]
    assert [cell.strip() for cell in lines[3].split("|")[2:6]] == [
        "1/2",
        "0.50 (0.09-0.91)",
        "0.900",
        "15",
    ]
    detail = report.targets_table(records, ["EPIC"]).splitlines()
    assert [cell.strip() for cell in detail[2].split("|")[1:4]] == ["0", "cat -> dog", "miss, 1"]


def test_demo_from_the_shell(tmp_path, capsys):
    arguments = ["demo", "--dataset", "digits", "--targets", "1", "--steps", "20"]
    arguments += ["--pretrain-epochs", "2", "--cache", f"{tmp_path}/c", "--out", f"{tmp_path}/o"]
    assert cli.main(arguments) == 0
    assert "attack success" in capsys.readouterr().out
    names = {"cluster-sizes.png", "dropped.png", "gradient-distance.png"}
    for name in names:
        assert (tmp_path / "o" / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "o" / "settings.json").read_text())["steps"] == 20
    assert cli.main(["report", f"{tmp_path}/o"]) == 0


@pytest.mark.parametrize("command", ["demo", "run", "craft"])
def test_missing_data_is_one_sentence_with_the_cure(tmp_path, capsys, command):
    assert cli.main([command, "--data-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "apt-get install dataset-fashion-mnist" in error
    assert "--dataset digits" in error


@pytest.mark.parametrize("root", [True, False])
def test_demo_installs_the_package_where_it_can(tmp_path, monkeypatch, capsys, root):
    """Nowhere to be found, and apt-get fails too: then the download is tried, and fails."""
    ran, asked = [], []

    def nothing(name, data_dir, *, download):
        asked.append(download)
        raise FileNotFoundError("nowhere: get it.")

    def run(command, check):
        ran.append(command[1])
        return cli.subprocess.CompletedProcess(command, returncode=100)

    monkeypatch.setattr(datasets, "load", nothing)
    monkeypatch.setattr(cli.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(cli.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(cli.subprocess, "run", run)
    assert cli.main(["demo", "--cache", str(tmp_path)]) == 1
    assert ran == (["install", "update", "install"] if root else [])
    assert asked == [False, True]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["--threads", "--targets"])
def test_counts_from_the_shell(capsys, option):
    with pytest.raises(SystemExit):
        cli.main(["demo", option, "0"])
    assert f"{option}: invalid count value: '0'" in capsys.readouterr().err


def test_report_without_results(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "holds no results" in capsys.readouterr().err
