"""The training command under faults, and with every input that a user can get wrong.

An error is one line, and after it the same command with --resume comes to the same files.
"""

import os
import random
import re
import subprocess
import sys

import pytest
import tiny
import torch
from faults import Faults
from tiny import COMMAND, ROUNDS
from torch import nn

pytest.importorskip("sklearn")

import subsel.defense.train as command
from subsel.defense.checkpoint import packed
from subsel.defense.train import main

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")
WRITTEN = ["checkpoint.pt", "dropped.png", "kept.npy", "metrics.jsonl", "result.json"]


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """64 images, one thread, and a plot that costs nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    few = tiny.few_digits()
    monkeypatch.setattr(command, "load", lambda *args, **settings: few)
    monkeypatch.setattr(command, "plot_dropped", lambda *args: b"a plot")
    yield few
    torch.set_num_threads(threads)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def status_and_line(arguments, capsys):
    """Exit status and the last line of the error, which is all but usage, notices and progress."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    lines = capsys.readouterr().err.splitlines()
    beside = re.compile(r"%\||\w training: |EPIC: |train: warning: |^epoch \d+, loss ")
    told = [line for line in lines if line and not beside.search(line)]
    assert all(line.startswith(("usage:", " ")) for line in told[:-1]), lines
    assert lines[-1].startswith("subsel train: error: ")
    assert "weights_only" not in lines[-1]
    return status, lines[-1]


@needs_proc
@pytest.mark.parametrize("more", [[], ["--afresh", "--stop", "2"]])
def test_a_fault_at_any_file_operation_loses_no_epoch(tmp_path, capsys, more):
    run = [*COMMAND, *ROUNDS, *more]
    whole = tmp_path / "whole"
    assert main([*run, "--out", str(whole)]) == 0
    with Faults(tmp_path / "count").injected() as counted:
        assert main([*run, "--out", str(tmp_path / "count")]) == 0
    places = range(1, counted.count + 1)
    if more:
        places = random.Random(0).sample(places, 20)
    for n in places:
        out = tmp_path / f"run{n}"
        with Faults(out, n).injected():
            status, line = status_and_line([*run, "--out", str(out)], capsys)
        assert status == 1
        assert f"{out}" in line
        assert "could not be written: disk full" in line
        first = out / ("checkpoint-core.pt" if more else "checkpoint.pt")
        again = "the same command with --resume" in line
        assert again == first.exists()
        left = {"checkpoint-core.pt", "checkpoint-judge.pt", *WRITTEN}
        assert not set(files_in(out)) - left
        assert main([*run, "--out", str(out), *(["--resume"] if again else [])]) == 0
        assert tiny.command_files(out) == tiny.command_files(whole)
        assert not set(files_in(out)) - left


def test_left_over_parts_are_removed(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in WRITTEN:
        suffix = name[name.index(".") :]
        (out / f".{name}.77.part{suffix}").write_bytes(b"half")
    assert main([*COMMAND, "--out", str(out)]) == 0
    assert files_in(out) == WRITTEN


def test_a_damaged_checkpoint_is_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    run = [*COMMAND, *ROUNDS, "--out", str(out), "--resume"]
    assert main(run[:-1]) == 0
    file = out / "checkpoint.pt"
    content = file.read_bytes()
    for spoilt in (
        content[: len(content) // 2],
        content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        content[:3000] + bytes(500) + content[3500:],
        b"",
        b"text",
    ):
        file.write_bytes(spoilt)
        status, line = status_and_line(run, capsys)
        assert status == 2
        assert f"resume: {file} is " in line
        assert file.read_bytes() == spoilt


def test_fewer_epochs_than_are_done(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*COMMAND, "--out", str(out)]) == 0
    fewer = [*COMMAND, "--epochs", "1", "--out", str(out), "--resume"]
    status, line = status_and_line(fewer, capsys)
    assert status == 2
    assert line.endswith("has 2 epochs done already: epochs must be at least 2, not 1")


def test_other_poisons(tmp_path, capsys, few_digits, monkeypatch):
    """Only a pixel of one training image differs, as poisons make it."""
    out = tmp_path / "run"
    assert main([*COMMAND, "--out", str(out)]) == 0
    poisoned = few_digits.train_images.copy()
    poisoned[7, 0, 3, 3] ^= 1
    changed = type(few_digits)(**{**vars(few_digits), "train_images": poisoned})
    monkeypatch.setattr(command, "load", lambda *args, **settings: changed)
    status, line = status_and_line([*COMMAND, "--out", str(out), "--resume"], capsys)
    assert status == 2
    assert "was made with other training data: inputs, labels, poisons" in line


def test_an_interrupted_fresh_start_is_not_overwritten(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoint-core.pt").write_bytes(b"hours of work")
    status, line = status_and_line([*COMMAND, "--out", str(out)], capsys)
    assert status == 2
    assert "holds a run already" in line


def test_a_run_that_is_going_on_is_left_alone(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    script = (
        "import sys, pathlib; from subsel.files import locked\n"
        f"with locked(pathlib.Path({str(out / 'checkpoint.pt')!r})):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        status, line = status_and_line([*COMMAND, "--out", str(out)], capsys)
        holder.kill()
    assert status == 1
    assert "another run is writing" in line
    assert files_in(out) == [".checkpoint.pt.lock"]
    assert main([*COMMAND, "--out", str(out)]) == 0
    assert files_in(out) == WRITTEN


def test_a_folder_that_is_deleted_during_the_run(tmp_path, capsys, monkeypatch):
    import shutil

    out = tmp_path / "run"
    monkeypatch.setattr(command, "_write", lambda *args: shutil.rmtree(out))
    status, line = status_and_line([*COMMAND, "--out", str(out)], capsys)
    assert status == 1
    assert f"the folder {out} does not exist (any more)" in line
    assert "--resume" not in line


class Whole(nn.Module):
    """A model that is saved whole, as many are on the internet."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def saved(path, value):
    torch.save(value, path)
    return path


def test_weights_that_are_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert main([*COMMAND, "--out", str(out)]) == 0
    content = (out / "checkpoint.pt").read_bytes()
    model = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    renamed = {("x" + name if name.startswith("0") else name): v for name, v in model.items()}
    whole = saved(tmp_path / "model.pt", Whole())
    other = saved(tmp_path / "other.pt", renamed)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[:-200])
    flipped = tmp_path / "flipped.pt"
    flipped.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    numbers = saved(tmp_path / "numbers.pt", {"model": {"a": 1.0}})
    odd = tmp_path / "odd.pt"
    odd.write_bytes(packed({"model": None}))
    for path, said in {
        tmp_path / "nowhere.pt": "there is no file",
        tmp_path: "there is no file",
        whole: "whole models are not read",
        cut: "is damaged, or holds something else",
        flipped: "is damaged: its content does not match its checksum",
        text: "is damaged, or holds something else",
        numbers: "holds something else than a model's state_dict()",
        odd: "holds something else than a model's state_dict()",
        other: "does not fit tiny-cnn: it lacks 0.mean, 0.std; it has also x0.mean, x0.std",
    }.items():
        new = tmp_path / "new"
        status, line = status_and_line(
            [*COMMAND, "--weights", str(path), "--out", str(new)], capsys
        )
        assert status == 2
        assert str(path) in line
        assert said in line
        assert not new.exists()
    assert not (tmp_path / "harm").exists()
    for good in (out / "checkpoint.pt", saved(tmp_path / "good.pt", model)):
        new = tmp_path / f"from-{good.stem}"
        assert main([*COMMAND, "--weights", str(good), "--out", str(new)]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "-1"], "argument --seed: must be a whole number of at least 0, not -1"),
        (["--drops", "5", "-1"], "argument --drops: must be a whole number of at least 0, not -1"),
        (["--drops", "x"], "argument --drops: must be a whole number of at least 0, not x"),
        (["--device", "gpu"], '--device must be "cpu", "cuda", "cuda:1" or the like, not \'gpu\''),
        (["--device", "meta"], "--device 'meta' cannot be used here"),
        (["--device", "cuda:99"], "--device 'cuda:99' is not available: "),
        (["--threshold", "0.1"], "--threshold only works together with --afresh or --readmission"),
        (["--readmission", "--afresh"], "--readmission and --afresh are two ways to get images"),
        (["--readmission", "--no-defense"], "--readmission is EPIC's, so it does not go with"),
        (["--no-defense", "--stop", "2", "--wrt", "input"], "leave out --stop, --wrt"),
        (["--data-dir", "."], "--data-dir has no effect on digits"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path, capsys, arguments, said):
    out = tmp_path / "run"
    status, line = status_and_line([*COMMAND, *arguments, "--out", str(out)], capsys)
    assert status == 2
    assert said in line
    assert not out.exists()


def test_without_cuda(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [*COMMAND, "--device", "cuda", "--out", str(tmp_path / "run")]
    status, line = status_and_line(arguments, capsys)
    assert status == 2
    assert "--device 'cuda' is not available: " in line


def test_an_out_that_is_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    status, line = status_and_line([*COMMAND, "--out", str(tmp_path / "run")], capsys)
    assert status == 2
    assert "is a file, not a folder" in line


def test_out_of_memory_is_one_line(tmp_path, capsys, monkeypatch):
    def full(*args, **settings):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(command, "train", full)
    status, line = status_and_line([*COMMAND, "--out", str(tmp_path / "run")], capsys)
    assert status == 1
    assert "out of memory; a smaller --batch-size needs less" in line


def test_a_fault_of_ours_is_not_hidden(tmp_path, monkeypatch):
    def broken(*args, **settings):
        raise KeyError("a bug")

    monkeypatch.setattr(command, "train", broken)
    with pytest.raises(KeyError, match="a bug"):
        main([*COMMAND, "--out", str(tmp_path / "run")])
