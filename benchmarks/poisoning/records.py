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


def read_records(out: Path, name: str = "results.jsonl") -> list[dict]:
    """The records of what has been done so far."""
    path = out / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_records(path: Path, records: Iterable[dict]) -> None:
    write_whole(path, "".join(json.dumps(line) + "\n" for line in records))
