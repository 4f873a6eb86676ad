"""Tables beside those of the paper, and the report."""

import pytest
from toys import TOY

from benchmarks.poisoning import __main__ as cli
from benchmarks.poisoning import report, tables
from benchmarks.poisoning.attacks import ATTACKS
from benchmarks.poisoning.defenses import (
    registry,
)
from benchmarks.poisoning.paper import Quoted
from benchmarks.poisoning.records import write_records


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
    write_records(
        tmp_path / "results.jsonl",
        [line | {"defense": "none", "success": True}, line | {"defense": "EPIC", "success": False}],
    )
    seconds = {"none": 2.0, "EPIC": 3.0}
    write_records(
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


def test_attacks_are_all_in_some_table():
    crafted = {e.settings.attack for t in tables.TABLES for e in tables.experiments(t, "small")}
    assert crafted <= ATTACKS.keys()
