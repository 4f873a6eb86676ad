"""How defenses are named, found and refused."""

import numpy as np
import pytest
from toys import TOY

from benchmarks.poisoning.defenses import (
    find,
    possible,
    registry,
)
from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.records import present_name, read_records
from benchmarks.poisoning.victim import Outcome


def test_names_say_what_a_defense_is_given_and_find_it():
    for entry in registry.known():
        assert (not entry.told) or "given" in entry.template or "oracle" in entry.template
    assert find("EPIC 0.25 full", "scratch")[1] == {"subset_size": 0.25, "ground_set": "full"}
    control = "random drop, as EPIC 0.2 active, fresh head"
    assert find(control, "transfer")[1] == {"reference": "random drop, as EPIC 0.2 active"}
    core = "EPIC 0.2 active, re-admission, fresh head"
    assert find(core, "transfer")[1] == {"reference": "EPIC 0.2 active"}


def test_a_defense_of_ones_own(trials, monkeypatch):
    monkeypatch.setattr(registry, "_DEFENSES", list(registry._DEFENSES))

    @registry.defense("first {share} of all, given the number of poisons", told=("budget",))
    def first(victim, share: float, budget):
        kept = victim.everyone[: int(share * len(victim.labels)) - budget]
        return Outcome(victim.train(kept), kept)

    outcome = trials["transfer"].outcome("first 0.5 of all, given the number of poisons")
    np.testing.assert_array_equal(outcome.kept, np.arange(150 - TOY.poisons))


def test_records_with_former_names_are_read_and_continued(labs, tmp_path):
    names = ["none", "Deep k-NN, told the budget"]
    records = run(labs["transfer"], tmp_path, [0], names)
    present = "Deep k-NN, given the number of poisons"
    assert [line["defense"] for line in records] == ["none", present]
    path = tmp_path / "results.jsonl"
    former = path.read_text().replace(present, names[1])
    assert names[1] in former
    path.write_text(former)
    assert read_records(tmp_path) == records
    assert run(labs["transfer"], tmp_path, [0], [present]) == records
    assert path.read_text() == former  # nothing was done again
    assert present_name("EPIC 0.2 active") == "EPIC 0.2 active"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prayer", "no defense is called 'prayer'"),
        ("EPIC much active", "no defense is called"),
        ("Adversarial Poisoning 0.5, given epsilon", "it needs images"),
        ("random drop, as prayer", "no defense is called 'prayer'"),
    ],
)
def test_a_defense_that_cannot_be_is_refused_before_any_work(labs, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        run(labs["transfer"], tmp_path / "out", [0], ["none", name])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install opacus"):
        find("DP-SGD 1", "transfer")
    assert possible(["DP-SGD 1", "none"], "transfer") == ["none"]


NAMES = [
    "Deep k-NN, given the number of poisons",
    "Deep k-NN at 0.85, EPIC with re-admission",
    "Spectral Signatures, given the number of poisons",
    "Activation Clustering",
    "batch-level noisy SGD",
    "Adversarial Poisoning 0.5, given epsilon",
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
    assert len(names) == len(NAMES) - 6 * (scenario in ("transfer", "block"))
    records = run(lab, tmp_path, [0], ["none", *names])
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
    times = {t["defense"]: t["seconds"] for t in read_records(tmp_path, "times.jsonl")}
    assert times["EPIC 0.2 active, re-admission, fresh head"] > times["EPIC 0.2 active"]
