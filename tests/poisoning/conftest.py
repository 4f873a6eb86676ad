"""The proving ground at toy scale. What takes long to make is shared by all files."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from toys import TOY, TRANSFER, run_all  # noqa: E402

from benchmarks.poisoning.lab import Lab  # noqa: E402
from subsel.defense import datasets  # noqa: E402


@pytest.fixture(scope="session")
def data():
    return datasets.load("digits")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def lab(data, cache):
    """The lab of `TRANSFER`."""
    return Lab(TRANSFER, data, cache)


@pytest.fixture(scope="session")
def finished(lab, tmp_path_factory):
    """A run of two targets: its folder and its records."""
    out = tmp_path_factory.mktemp("run")
    return out, run_all(lab, out, 2)


@pytest.fixture(scope="session")
def labs(data, cache):
    """A lab of `TOY` for each scenario."""
    presets = {
        "transfer": "paper-transfer",
        "finetune": "paper-finetune",
        "scratch": "paper-40",
        "block": "paper-40",
    }
    attacks = {
        "scratch": {"attack": "gradient-matching", "lr": 0.1},
        "finetune": {"victim_lr": 0.01},
        "block": {"model": "block", "attack": "gradient-matching-late", "lr": 0.1},
    }
    return {
        scenario: Lab(replace(TOY, preset=preset, **attacks.get(scenario, {})), data, cache)
        for scenario, preset in presets.items()
    }


@pytest.fixture(scope="session")
def trials(labs):
    return {scenario: lab.trial(lab.target(0)) for scenario, lab in labs.items()}


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder, and the arguments that make the command's toy scale tiny."""
    out = tmp_path_factory.mktemp("toy")
    tiny = ["--scale", "toy", "--cache", f"{out}/c", "--out", str(out), "--targets", "1"]
    return out, [*tiny, "--steps", "4", "--epochs", "3", "--victim", "300", "--poisons", "12"]
