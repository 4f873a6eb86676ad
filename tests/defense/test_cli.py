"""The command line, on scikit-learn's digits: the same as train, and files that can be used."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from subsel.defense import PRESETS, train
from subsel.defense.datasets import load
from subsel.defense.models import small_cnn
from subsel.defense.train import main
from subsel.defense.training import seeded

pytest.importorskip("sklearn")

TRAINING = ["--dataset", "digits", "--no-augment", "--lr", "0.05", "--batch-size", "256"]
TRAINING += ["--device", "cpu", "--seed", "3"]
ROUNDS = ["--warmup", "1", "--interval", "1"]
QUICK = [*TRAINING, *ROUNDS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "three"
    assert main([*QUICK, "--epochs", "3", "--out", str(out)]) == 0
    return out


def metrics(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines
    ]


def trained(**kwargs):
    """What `train` gives with the settings of the command, three epochs."""
    data = load("digits")
    with seeded(3, None, torch.device("cpu")):
        model = small_cnn(10, (1, 8, 8), data.mean.tolist(), data.std.tolist())
    return train(
        model,
        (data.train_images, data.train_labels),
        test=(data.test_images, data.test_labels),
        defense=PRESETS["paper-40"].epic(warmup=1, interval=1),
        preset="paper-40",
        epochs=3,
        lr=0.05,
        batch_size=256,
        seed=3,
        progress=False,
        **kwargs,
    )


def test_gives_what_train_gives(run):
    result = trained()
    np.testing.assert_array_equal(np.load(run / "kept.npy"), result.kept)
    assert len(result.kept) < len(load("digits").train_labels)
    assert [r["test_accuracy"] for r in metrics(run)] == [
        r["test_accuracy"] for r in result.history
    ]
    state = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[k]) for k, value in result.model.state_dict().items())


def test_output_that_is_piped_has_a_line_for_each_epoch_and_no_bar(tmp_path, capsys):
    assert main([*QUICK, "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    written = capsys.readouterr().err
    assert "\r" not in written
    epochs = [line for line in written.splitlines() if line.startswith("epoch ")]
    assert [line.split(",")[0] for line in epochs] == ["epoch 0", "epoch 1"]


def test_gradients_of_the_training_passes(run, tmp_path, capsys):
    command = [*QUICK, "--epochs", "3", "--gradients", "training"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    result = trained(gradients="training")
    kept = np.load(tmp_path / "run" / "kept.npy")
    np.testing.assert_array_equal(kept, result.kept)
    assert not np.array_equal(kept, np.load(run / "kept.npy"))
    assert main([*command, "--ground-set", "full", "--out", str(tmp_path / "other")]) == 1
    assert "take fresh ones" in capsys.readouterr().err


def test_fresh_start(tmp_path, capsys):
    out = tmp_path / "afresh"
    arguments = [*QUICK, "--epochs", "3", "--afresh", "--out", str(out)]
    assert main(arguments) == 0
    assert "core: " in capsys.readouterr().out
    phases = [line["phase"] for line in metrics(out)]
    assert phases == ["core"] * 3 + ["judge"] * 3 + ["final"] * 3
    assert len(np.load(out / "kept.npy")) > metrics(out)[2]["kept"]
    before = (out / "metrics.jsonl").read_text()
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert (out / "metrics.jsonl").read_text() == before


def test_quick_fresh_start(tmp_path):
    out = tmp_path / "quick"
    assert main([*QUICK, "--epochs", "4", "--afresh", "--quick", "--out", str(out)]) == 0
    phases = [line["phase"] for line in metrics(out)]
    assert phases == ["core"] * 4 + ["judge"] * 2 + ["final"] * 3


def test_quick_fresh_start_on_mixtures(tmp_path):
    out = tmp_path / "mixed"
    arguments = ["--afresh", "--quick", "--cutmix", "--judge-epochs", "1", "--final-epochs", "2"]
    assert main([*QUICK, "--epochs", "4", "--stop", "2", *arguments, "--out", str(out)]) == 0
    phases = [line["phase"] for line in metrics(out)]
    assert phases == ["core"] * 2 + ["judge"] + ["final"] * 2


def test_cutmix(tmp_path):
    out = tmp_path / "mixed"
    assert main([*QUICK, "--epochs", "3", "--cutmix", "--out", str(out)]) == 0
    np.testing.assert_array_equal(np.load(out / "kept.npy"), trained(cutmix=True).kept)
    assert metrics(out)[0]["loss"] == trained(cutmix=True).history[0]["loss"]


def test_writes_what_it_promises(run, capsys):
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt",
        "dropped.png",
        "kept.npy",
        "metrics.jsonl",
        "result.json",
    ]
    records = metrics(run)
    assert [r["epoch"] for r in records] == [0, 1, 2]
    assert records[-1]["kept"] == len(np.load(run / "kept.npy"))
    result = json.loads((run / "result.json").read_text())
    assert result["test accuracy"] == records[-1]["test_accuracy"] > 0.8
    image = np.asarray(Image.open(run / "dropped.png").convert("RGB"))
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_resumes(run, tmp_path, monkeypatch):
    import subsel.defense.training as training

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return summary(*_)

    calls, summary = [], training._summary
    monkeypatch.setattr(training, "_summary", interrupt)
    command = [*QUICK, "--epochs", "3", "--out", str(tmp_path / "run")]
    assert main(command) == 130
    monkeypatch.undo()
    assert len(metrics(tmp_path / "run")) == 1
    assert main([*command, "--resume"]) == 0
    assert metrics(tmp_path / "run") == metrics(run)
    for name in ("kept.npy", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_says_how_to_go_on_after_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("subsel.defense.training._summary", interrupt)
    assert main([*QUICK, "--epochs", "3", "--out", str(tmp_path / "run")]) == 130
    assert "the same command with --resume" in capsys.readouterr().err


def test_transfer_from_an_earlier_runs_weights_undefended(run, tmp_path):
    command = ["--dataset", "digits", "--preset", "paper-transfer", "--epochs", "2"]
    command += ["--weights", str(run / "checkpoint.pt"), "--no-defense", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    before, after = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        for folder in (run, tmp_path / "run")
    )
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["16.weight", "16.bias"]
    assert [r["dropped"] for r in metrics(tmp_path / "run")] == [0, 0]


def test_readmission_has_early_rounds_and_lets_images_back_in(tmp_path):
    out = tmp_path / "run"
    command = [*TRAINING, "--epochs", "6", "--drops", "3", "--subset-size", "0.5"]
    command += ["--readmission", "--threshold", "0.3", "--report", str(tmp_path / "report.html")]
    assert main([*command, "--out", str(out)]) == 0
    assert [r["dropped"] > 0 for r in metrics(out)] == [False, True, True, False, False, False]
    assert [r["readmitted"] > 0 for r in metrics(out)] == [False] * 4 + [True, False]
    settings = torch.load(out / "checkpoint.pt", weights_only=True)["defense"]["settings"]
    assert (settings["readmit"], settings["threshold"]) == (4, 0.3)


def test_poisons_are_put_in_and_counted(tmp_path, capsys):
    data = load("digits")
    indices = np.flatnonzero(data.train_labels == 4)[:10]
    folder = tmp_path / "set"
    folder.mkdir()
    target = data.test_images[data.test_labels == 9][0, 0]
    for name, value in {
        "poisons": [(Image.fromarray(target), 4)] * 10,
        "base_indices": indices,
        "target": (Image.fromarray(target), 9),
    }.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value))
    command = [*TRAINING, "--epochs", "3", "--poisons", str(folder)]
    assert main([*command, "--no-defense", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "poisons left: 10 of 10" in out
    assert "targets taken for the attacker's class: 1 of 1" in out
    indices[0] = 5000
    (folder / "base_indices.pickle").write_bytes(pickle.dumps(indices))
    assert main([*command, *ROUNDS, "--out", str(tmp_path / "other")]) == 1
    assert "outside a training set of 1397" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "CIFAR-10 is not in nowhere"),
        (["--dataset", "digits", "--subset-size", "1.5", "--warmup", "1"], "subset_size must be"),
        (["--dataset", "digits", "--subset-size", "0.15"], "give your own for 0.15"),
        (["--dataset", "digits", "--poisons", "nowhere"], "nowhere does not exist"),
        (["--dataset", "digits", "--epochs", "0"], "epochs must be"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "paper-transfer"], "name it with --weights"),
        (["--resume"], "--resume: there is no"),
        (["--epochs", "many"], "invalid int"),
        (["--quick"], "--quick only works together with --afresh"),
        (["--final-epochs", "3"], "--final-epochs only work together with --afresh"),
        (["--afresh", "--no-defense"], "--afresh starts from what EPIC leaves"),
    ],
)
def test_wrong_usage(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--dataset", "digits", *arguments, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_is_not_overwritten(run, capsys):
    with pytest.raises(SystemExit):
        main([*QUICK, "--out", str(run)])
    assert "holds a run already" in capsys.readouterr().err


def test_help_from_the_shell_without_a_warning():
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "subsel.defense.train", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0
    assert finished.stderr == ""
    for word in ("--dataset", "--poisons", "paper-40", "--ground-set", "example:", "EPIC"):
        assert word in finished.stdout
