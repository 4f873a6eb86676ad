"""The research pages are made from records, without a run."""

import json

import pytest

from benchmarks.poisoning.__main__ import main
from benchmarks.poisoning.research import beside_the_paper, filled, in_short


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
        ("index.md", ["beside the paper"]),
    ):
        places = "".join(f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in questions)
        shown = "![](figures/late-acting.png)\n"
        (tmp_path / page).write_text(f"# Title\n{places}{shown}the rest\n")
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
    row = next(line for line in page.splitlines() if "| EPIC " in line)
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells == [
        "2",
        "EPIC",
        "1/2",
        "0.50 (0.09-0.91)",
        "0.880",
        "-2.0",
        "90",
        "3",
        "1.50",
        "31",
    ]
    assert "| target   | taken for     | 1 | 2 |" in page
    assert "| seed-1 0 | Coat -> Shirt | x | x |" in page
    assert "| seed-2 0 | Coat -> Shirt | x |   |" in page
    row = next(x for x in (tmp_path / "cost.md").read_text().splitlines() if "| EPIC" in x)
    assert [cell.strip() for cell in row.strip("| ").split("|")][2:] == [
        "1.50",
        "-2.0",
        "0.50",
        "0.25",
    ]
    assert "| transfer, Bullseye Polytope " in (tmp_path / "index.md").read_text()
    assert "old" in (tmp_path / "transfer.md").read_text()  # of which there are no records
    assert (tmp_path / "figures" / "late-acting.png").exists()


def test_what_the_paper_found_stands_beside(tmp_path):
    folder = tmp_path / "records" / "transfer-same" / "seed-1"
    folder.mkdir(parents=True)
    lines = [
        record(target, defense, hit, accuracy)
        for target, hit in ((0, True), (1, False))
        for defense, accuracy in (("none", 0.9), ("EPIC 0.2 active", 0.885))
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [line.strip("| ").split("|") for line in beside_the_paper(tmp_path).splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    # Undefended and with EPIC: the paper's success, ours, its accuracy, ours.
    assert cells["transfer, Bullseye Polytope"] == [
        "86",
        "1",
        "50",
        "50",
        "94.7",
        "94.8",
        "90",
        "88.5",
    ]
    assert cells["transfer, Feature Collision"][2:4] == ["–", "–"]


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="no place for a table"):
        filled("# Title\n", "late-acting", "| a |")


def test_readme_has_transfer_in_short(tmp_path):
    for question, hits in (("transfer-same", 1), ("transfer-other", 2)):
        folder = tmp_path / "records" / question / "seed-1"
        folder.mkdir(parents=True)
        lines = [
            record(target, defense, success, accuracy)
            for target in range(2)
            for defense, success, accuracy in (
                ("none", True, 0.9),
                ("EPIC 0.2 active", target < hits, 0.89 - 0.004 * target),
            )
        ]
        (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        times = [{"target": 0, "defense": "none", "seconds": 9, "cpu_seconds": 2}]
        (folder / "times.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
    rows = [line.strip("| ").split("|") for line in in_short(tmp_path).splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["undefended"] == ["2/2", "34–100", "+0.0", "2/2", "34–100", "+0.0"]
    assert cells["EPIC 0.2"] == ["1/2", "9–91", "-1.2", "2/2", "34–100", "-1.2"]
    assert cells["Deep k-NN"] == ["–"] * 6
