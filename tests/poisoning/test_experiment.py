"""Runs: records, controls, traces, and going on where a run stopped."""

from dataclasses import replace

import numpy as np
import pytest
from toys import TOY, TRANSFER, run_all

from benchmarks.poisoning import report
from benchmarks.poisoning.defenses import (
    registry,
)
from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.lab import Lab
from benchmarks.poisoning.records import read_records
from subsel.defense import datasets


def test_records(lab, finished):
    out, records = finished
    assert records == read_records(out)
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
    run_all(lab, tmp_path, 1)
    outcome, done = registry.Trial.outcome, []

    def interrupted(trial, name):
        done.append(name)
        if len(done) == 4:
            raise KeyboardInterrupt
        return outcome(trial, name)

    with monkeypatch.context() as patch:
        patch.setattr(registry.Trial, "outcome", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_all(lab, tmp_path, 2)
    assert len(records) // 2 < len(read_records(tmp_path)) < len(records)
    assert run_all(lab, tmp_path, 2) == records
    assert (tmp_path / "results.jsonl").read_bytes() == (out / "results.jsonl").read_bytes()
    times = read_records(tmp_path, "times.jsonl")
    assert [(t["target"], t["defense"]) for t in times] == [
        (r["target"], r["defense"]) for r in records
    ]


def test_results_of_other_settings_are_not_mixed(data, cache, finished):
    other = Lab(replace(TRANSFER, epsilon=80), data, cache)
    with pytest.raises(ValueError, match="another epsilon"):
        run_all(other, finished[0], 2)


def test_traces_tell_what_the_run_did(lab, finished):
    out, records = finished
    epic = next(r for r in records if r["defense"] == "EPIC 0.2 active")
    with np.load(out / "traces" / "target-000.npz") as trace:
        sizes, kept = trace["cluster_sizes"], trace["kept"]
        assert kept.sum() == epic["kept"]
        assert [int((row == 1).sum()) for row in sizes] == [r["dropped"] for r in epic["rounds"]]
        assert trace["poisoned"].sum() == TRANSFER.poisons
        for moment in ("after_warmup", "after_undefended", "after_epic"):
            assert trace[moment].shape == (500,)
            assert trace[moment].min() >= 0
            assert trace[moment].max() <= 2 * 2**0.5


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
    lab = Lab(settings, colour, cache)
    names = ["none", "JPEG 75", "Friendly Noise", "Adversarial Poisoning 0.5, given epsilon"]
    for line in run(lab, tmp_path, [0], names):
        assert line["accuracy"] > 0.5
