"""Files of an experiment: its settings, and one record for each line of work that was done."""

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.poisoning.lab import Lab
from subsel.files import write_whole


def claim(lab: Lab, out: Path) -> None:
    """Write the settings into `out`, or see that it holds results of the same."""
    settings = lab.settings.told()
    found = {"net": lab.digest, "clean_accuracy": lab.clean_accuracy}
    about = {**settings, "lr_drops": lab.scenario.recipe.drops, **found}
    about = json.loads(json.dumps(about))
    out.mkdir(parents=True, exist_ok=True)
    if (out / "settings.json").exists():
        before = json.loads((out / "settings.json").read_text())
        if before != about:
            changed = [k for k in {**before, **about} if before.get(k) != about.get(k)]
            raise ValueError(
                f"{out} holds results of another {', '.join(changed)}: choose another --out"
            )
    write_whole(out / "settings.json", json.dumps(about, indent=1) + "\n")


FORMER = {"told the budget": "given the number of poisons", "told epsilon": "given epsilon"}
"""Former parts of the names of defenses, which stand in older records, and the present ones."""


def present_name(defense: str) -> str:
    """The present name of a defense that may be called by a former one."""
    for former, present in FORMER.items():
        defense = defense.replace(former, present)
    return defense


def read_records(out: Path, name: str = "results.jsonl") -> list[dict]:
    """The records of what has been done so far, with the defenses' present names."""
    path = out / name
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        record | {"defense": present_name(record["defense"])} if "defense" in record else record
        for record in records
    ]


def write_records(path: Path, records: Iterable[dict]) -> None:
    write_whole(path, "".join(json.dumps(line) + "\n" for line in records))
