"""The command line."""

import json

import pytest
import torch

from benchmarks.poisoning import __main__ as cli
from subsel.defense import datasets


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


def test_the_list_of_defenses(capsys):
    assert cli.main(["defenses"]) == 0
    listed = capsys.readouterr().out
    assert "Adversarial Poisoning {share}, given epsilon" in listed
    assert all(json.dumps(name)[1:-1] in listed for name in ("none", "Friendly Noise"))
