"""Poison a victim, defend it, count: one record for each target and defense."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.poisoning.attacks import BACKDOORS
from benchmarks.poisoning.defenses import find
from benchmarks.poisoning.lab import Lab, Target
from benchmarks.poisoning.records import claim, present_name, read_records, write_records
from benchmarks.poisoning.traces import trace
from benchmarks.poisoning.training import outputs
from benchmarks.poisoning.victim import Outcome, Round
from subsel.files import written_whole


def run(
    lab: Lab, out: Path, targets: Iterable[int], defenses: Sequence[str], *, traces: bool = False
) -> list[dict]:
    """Attack and defend these targets; what is in `out` already is not done again.

    Writes settings.json and, after each defense, results.jsonl, and times.jsonl with the seconds
    that training with each defense took, those of its reference included; with `traces` also
    traces/target-*.npz.
    """
    defenses = [present_name(name) for name in defenses]
    for name in defenses:
        find(name, lab.settings.scenario)  # raises before any long work
    claim(lab, out)
    records, times = read_records(out), read_records(out, "times.jsonl")
    done = {(line["target"], line["defense"]) for line in records}
    bar = tqdm(targets, desc="targets")
    for number in bar:
        path = out / "traces" / f"target-{number:03d}.npz"
        wanted = [name for name in dict.fromkeys(defenses) if (number, name) not in done]
        if not wanted and (path.exists() or not traces):
            continue
        target = lab.target(number)
        names = f"{lab.data.classes[target.label]} -> {lab.data.classes[target.base]}"
        bar.set_postfix_str(f"{names}: crafting")
        trial = lab.trial(target)
        for name in wanted:
            bar.set_postfix_str(f"{names}: {name}")
            line = record(lab, target, trial.poisoned, name, trial.outcome(name))
            if trial.watch is not None:
                line |= {"flipped": trial.watch.epochs, "settled": trial.watch.settled}
            records.append(line)
            spent = {"seconds": trial.seconds[name], "cpu_seconds": trial.cpu_seconds[name]}
            times.append({"target": number, "defense": name, **spent})
            write_records(out / "times.jsonl", times)
            write_records(out / "results.jsonl", records)
        if traces and not path.exists():
            path.parent.mkdir(exist_ok=True)
            with written_whole(path) as part:
                np.savez_compressed(part, **trace(lab, target, trial))
    return records


def record(
    lab: Lab, target: Target, poisoned: np.ndarray, defense: str, outcome: Outcome
) -> dict[str, object]:
    """One line of results.jsonl; of a backdoor `success` is the share of patched images."""
    classes = lab.data.classes
    logits = outputs(outcome.model, lab.test_inputs)
    predicted = logits.argmax(1)
    backdoor = lab.settings.attack in BACKDOORS
    if backdoor or target.index < 0:
        aimed = outputs(outcome.model, lab.scenario.inputs(lab.aims(target)))
    else:
        aimed = logits[target.index][None]
    hits = aimed.argmax(1)
    successes = (hits == target.base).tolist()
    confidence = torch.stack([row.softmax(0)[target.base] for row in aimed]).mean()
    return {
        "target": target.number,
        "test_index": target.index,
        "label": classes[target.label],
        "base": classes[target.base],
        "defense": defense,
        "predicted": classes[int(hits.mode().values)],
        "success": float(np.mean(successes)) if backdoor else successes[0],
        "confidence_in_base": float(confidence),
        "accuracy": float((predicted == lab.test_labels).float().mean()),
        "kept": len(outcome.kept),
        "poisons_left": int(poisoned[outcome.kept].sum()),
        "rounds": [told(entry, poisoned) for entry in outcome.rounds],
    }


def told(entry: Round, poisoned: np.ndarray) -> dict[str, object]:
    """A round in a few numbers; of EPIC's also what it did to the mean gradient."""
    numbers: dict[str, object] = {
        "epoch": entry.epoch,
        "dropped": len(entry.dropped),
        "poisons_dropped": int(poisoned[entry.dropped].sum()),
    }
    back = getattr(entry, "readmitted", ())
    if len(back):
        numbers |= {"readmitted": len(back), "poisons_readmitted": int(poisoned[back].sum())}
        return numbers
    for name in ("rho", "error", "random_error"):
        if hasattr(entry, name):
            numbers[name] = float(f"{getattr(entry, name):.4g}")
    return numbers
