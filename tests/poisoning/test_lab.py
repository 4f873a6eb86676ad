"""Targets, and the poisons that are kept for them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import TOY, TRANSFER

from benchmarks.poisoning import training
from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.lab import Lab


def test_targets_follow_the_rule(lab):
    targets = [lab.target(number) for number in range(30)]
    for target in targets:
        assert lab.correct[target.index]
        assert target.label == lab.data.test_labels[target.index] != target.base
        assert (lab.labels[target.bases] == target.base).all()
        assert len(np.unique(target.bases)) == TRANSFER.poisons
    assert len({target.index for target in targets}) > 25
    assert len({target.base for target in targets}) > 5


def test_the_backbone_has_not_seen_the_victims_images(lab, data):
    order = np.random.default_rng(TRANSFER.seed).permutation(len(data.train_images))
    assert not np.intersect1d(order[: TRANSFER.pretrain], lab.victim).size
    assert len(lab.victim) == TRANSFER.victim


def test_poisons_are_crafted_once(lab, finished, monkeypatch):
    target = lab.target(1)
    monkeypatch.setattr("benchmarks.poisoning.lab.ATTACKS", {})
    poisons = lab.poisons(target)
    change = np.abs(poisons.astype(int) - lab.images[target.bases].astype(int))
    assert 0 < change.max() <= TRANSFER.epsilon


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"victim": 1000}, "at most 1397.*400 \\+ 1000"), ({"poisons": 100}, "smallest class")],
)
def test_settings_that_do_not_fit(data, cache, wrong, message):
    with pytest.raises(ValueError, match=message):
        Lab(replace(TRANSFER, **wrong), data, cache)


def test_poisons_for_transfer_serve_fine_tuning_too(labs):
    assert labs["transfer"].poison_folder == labs["finetune"].poison_folder
    assert labs["scratch"].poison_folder != labs["transfer"].poison_folder


def test_a_target_can_be_aimed_at_the_class_that_comes_second(data, cache):
    lab = Lab(replace(TOY, preset="paper-40", base_class="runner-up"), data, cache)
    usual = Lab(replace(TOY, preset="paper-40"), data, cache)
    for number in range(4):
        target = lab.target(number)
        row = training.outputs(lab.clean, lab.test_inputs[target.index][None])[0]
        assert row.argsort(descending=True).tolist()[:2] == [target.label, target.base]
        assert (lab.labels[target.bases] == target.base).all()
        assert target.index == usual.target(number).index
    with pytest.raises(ValueError, match="base_class must be one of random, runner-up; got 'any'"):
        replace(TOY, base_class="any")


def test_bases_can_be_those_most_like_the_target(data, cache):
    lab, usual = (Lab(replace(TOY, bases=bases), data, cache) for bases in ("nearest", "random"))
    assert lab.poison_folder != usual.poison_folder
    features = training.outputs(lab.extractor, torch.from_numpy(lab.images).float() / 255)
    for number in range(3):
        target, plain = lab.target(number), usual.target(number)
        assert (target.index, target.base) == (plain.index, plain.base)
        aim = torch.from_numpy(data.test_images[target.index][None]).float() / 255
        away = (features - lab.extractor(aim)).norm(dim=1)
        others = np.setdiff1d(np.flatnonzero(lab.labels == target.base), target.bases)
        assert len(target.bases) == TOY.poisons == len(np.unique(target.bases))
        assert (lab.labels[target.bases] == target.base).all()
        assert away[target.bases].max() <= away[others].min() + 1e-5
    with pytest.raises(ValueError, match="bases must be one of random, nearest; got 'few'"):
        replace(TOY, bases="few")


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
    records = run(lab, tmp_path / "out", [0], ["none"])
    assert records[0]["kept"] == len(data.train_images)
    assert records[0]["base"] == "4"
    with pytest.raises(ValueError, match="there are 1 published sets"):
        lab.target(1)


def test_the_backbone_sees_the_victims_images_or_others(data, cache):
    same = Lab(TOY, data, cache)
    other = Lab(replace(TOY, backbone="other"), data, cache)
    np.testing.assert_array_equal(same.victim, other.victim)
    assert same.digest != other.digest
    for lab, own in ((same, True), (other, False)):
        seen, victims = lab._split(len(data.train_images))
        assert np.isin(seen, victims).all() == own
        assert np.isin(seen, victims).any() == own


def test_a_block_is_attacked_where_its_nets_are_sure(data, cache):
    settings = replace(TOY, model="block", preset="paper-40", attack="gradient-matching-late")
    lab = Lab(replace(settings, base_class="runner-up", lr=0.1), data, cache)
    features = lab.clean_victim.inputs
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    assert features.std() == pytest.approx(1, abs=1e-3)
    nets = lab._of_seeds((0.5, 1.0))
    target = lab.target(0)
    chances = [net(lab.test_inputs[target.index][None]).softmax(1)[0] for net in nets]
    assert all(int(chance.argmax()) == target.label for chance in chances)
    mean = torch.stack(chances).mean(0)
    assert mean[target.label] - mean[target.base] >= 0.9 - 1e-6
    assert int(mean.topk(2).indices[1]) == target.base
    trial = lab.trial(target)
    outcome = trial.outcome("EPIC 0.1 active, to the first drop")
    assert [entry.epoch for entry in outcome.rounds] == [1]  # of 4, where the rate drops at 2
