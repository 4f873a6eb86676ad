"""The research pages are made from records, without a run."""

import json

import pytest

from benchmarks.poisoning.__main__ import main
from benchmarks.poisoning.research import filled


def record(target, defense, success, accuracy, settled=None):
    return {
        "target": target,
        "label": "Coat",
        "base": "Shirt",
        "defense": defense,
        "success": success,
        "accuracy": accuracy,
        "kept": 90,
        "poisons_left": 3,
        "settled": settled,
        "rounds": [{"epoch": 1, "dropped": 2, "error": 0.5, "random_error": 0.25}],
    }


def test_pages_pool_the_seeds(tmp_path, capsys):
    for page, questions in (
        ("transfer.md", ["transfer-same", "transfer-other"]),
        ("late-acting.md", ["late-acting"]),
        ("cost.md", ["cost"]),
    ):
        places = "".join(f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in questions)
        (tmp_path / page).write_text(f"# Title\n{places}the rest\n")
    for seed, hit in ((1, True), (2, False)):
        folder = tmp_path / "records" / "late-acting" / f"seed-{seed}"
        folder.mkdir(parents=True)
        lines = [
            record(1, "none", True, 0.5),
            record(0, "none", True, 0.9, 25),
            record(0, "EPIC", hit, 0.88, 31 if hit else None),
        ]
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        times = [{"target": 0, "defense": "none", "seconds": 9, "cpu_seconds": 2}]
        times.append({"target": 0, "defense": "EPIC", "seconds": 9, "cpu_seconds": 3})
        (folder / "times.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
    assert main(["pages", str(tmp_path)]) == 0
    page = (tmp_path / "late-acting.md").read_text()
    assert page.startswith("# Title\n")
    assert page.endswith("the rest\n")
    assert "old" not in page
    assert "Targets: 2. Seeds, each with its own split and backbone: 2." in page
    row = next(line for line in page.splitlines() if line.startswith("| EPIC"))
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells == ["EPIC", "1/2", "0.50 (0.09-0.91)", "0.880", "-2.0", "90", "3", "1.50", "31"]
    assert "| seed-1 0 | Coat -> Shirt | none; EPIC |" in page
    assert "| seed-2 0 | Coat -> Shirt | none       |" in page
    row = next(x for x in (tmp_path / "cost.md").read_text().splitlines() if "| EPIC" in x)
    assert [cell.strip() for cell in row.strip("| ").split("|")][2:] == [
        "1.50",
        "-2.0",
        "0.50",
        "0.25",
    ]
    assert "old" in (tmp_path / "transfer.md").read_text()  # of which there are no records
    assert (tmp_path / "figures" / "late-acting.png").exists()


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="no place for a table"):
        filled("# Title\n", "late-acting", "| a |")
