"""benchmarks/training at toy scale: its short cut is exact, and it goes on where it stopped."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks.poisoning.settings import Settings  # noqa: E402
from benchmarks.training import __main__ as benchmark  # noqa: E402
from benchmarks.training import ranks  # noqa: E402
from subsel.defense import PRESETS, datasets, train  # noqa: E402
from subsel.defense.models import small_cnn  # noqa: E402
from subsel.defense.training import seeded  # noqa: E402


@pytest.fixture(autouse=True)
def digits(monkeypatch, tmp_path):
    data = datasets.load("digits")
    monkeypatch.setattr(datasets, "load", lambda name: data)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield data
    torch.set_num_threads(threads)


def test_a_run_that_starts_as_a_copy_is_the_whole_run(digits, tmp_path, monkeypatch, capsys):
    command = ["--out", str(tmp_path / "out"), "time", "--images", "200", "--epochs", "13"]
    command += ["--sizes", "0.1"]
    folder = tmp_path / "out" / "time-200x13"
    calls = []

    def interrupted(*args, **settings):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return train(*args, **settings)

    monkeypatch.setattr(benchmark, "train", interrupted)
    assert benchmark.main(command) == 130
    assert len((folder / "results.jsonl").read_text().splitlines()) == 14
    assert benchmark.main(command) == 0
    with seeded(0, None, torch.device("cpu")):
        net = small_cnn(10, (1, 8, 8), digits.mean.tolist(), digits.std.tolist())
    whole = train(
        net.to(memory_format=torch.channels_last),
        (digits.train_images[:200], digits.train_labels[:200]),
        preset="paper-40",
        epochs=13,
        defense=PRESETS["paper-40"].epic(0.1),
        gradients="training",
        progress=False,
    )
    state = torch.load(folder / "EPIC-0.1-training-13.pt", weights_only=True)
    assert state["defense"]["kept"].tolist() == whole.kept.tolist()
    assert len(whole.kept) < 200
    for name, value in whole.model.state_dict().items():
        assert torch.equal(state["model"][name], value)

    records = (folder / "results.jsonl").read_text()
    assert [json.loads(line)["run"] for line in records.splitlines()].count("undefended") == 13
    assert capsys.readouterr().out.count("EPIC 0.1") == 3
    calls.clear()
    assert benchmark.main(command) == 0  # all is done
    assert not calls
    assert (folder / "results.jsonl").read_text() == records


def test_attack_and_report(monkeypatch, tmp_path, capsys):
    toy = Settings(
        "digits", pretrain=400, pretrain_epochs=2, victim=500, poisons=12, epsilon=102, steps=20
    )
    monkeypatch.setattr(benchmark, "ATTACKS", {"bullseye-polytope": toy})
    out = str(tmp_path / "out")
    assert benchmark.main(["--out", out, "attack", "--targets", "1"]) == 0
    first = (tmp_path / "out" / "bullseye-polytope" / "results.jsonl").read_text()
    assert benchmark.main(["--out", out, "attack", "--targets", "2"]) == 0
    both = (tmp_path / "out" / "bullseye-polytope" / "results.jsonl").read_text()
    assert both.startswith(first)
    assert len(both.splitlines()) == 2 * len(first.splitlines()) == 14
    capsys.readouterr()
    assert benchmark.main(["--out", out, "report"]) == 0
    printed = capsys.readouterr().out
    assert "| EPIC 0.3, training |" in printed
    assert "EPIC 0.1: " in printed


def test_two_ranks_are_compared_with_one(capsys):
    command = ["--dataset", "digits", "--images", "300", "--networks", "linear head"]
    assert ranks.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[2:-1] for line in lines if "linear" in line]
    assert [row[0].strip() for row in rows] == ["one process", "on two threads", "two ranks"]
    assert rows[0][1:] == rows[2][1:]
    assert all(cell.strip().endswith(", 0") for cell in rows[2][1:])
