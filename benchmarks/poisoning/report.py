"""The records of an experiment as Markdown tables."""

from collections import defaultdict
from math import sqrt

import numpy as np
from scipy.stats import binomtest


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Score interval of a proportion at 95% (Wilson 1927)."""
    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def by_defense(records: list[dict]) -> dict[str, list[dict]]:
    """The records of each defense, in the order in which the defenses were run."""
    groups = defaultdict(list)
    for record in records:
        groups[record["defense"]].append(record)
    return groups


def success(records: list[dict]) -> tuple[str, str]:
    """Hits of trials, and their share with its 95% interval.

    Of a backdoor, where each record holds a share, their mean with a normal interval.
    """
    values, n = [float(record["success"]) for record in records], len(records)
    if any(not isinstance(record["success"], bool) for record in records):
        mean = np.mean(values)
        spread = 1.96 * np.std(values, ddof=1) / sqrt(n) if n > 1 else 1.0
        low, high = max(0.0, mean - spread), min(1.0, mean + spread)
        return f"of {n} sets", f"{mean:.2f} ({low:.2f}-{high:.2f})"
    low, high = wilson(round(sum(values)), n)
    return f"{sum(values):.0f}/{n}", f"{sum(values) / n:.2f} ({low:.2f}-{high:.2f})"


def results_table(records: list[dict]) -> str:
    """Attack success with its 95% interval, and means over the targets."""
    rows = []
    for defense, group in by_defense(records).items():
        hits, rate = success(group)
        means = {
            key: np.mean([record[key] for record in group])
            for key in ("accuracy", "kept", "poisons_left")
        }
        rows.append(
            [
                defense,
                hits,
                rate,
                f"{means['accuracy']:.3f}",
                f"{means['kept']:.0f}",
                f"{means['poisons_left']:.1f}",
            ]
        )
    head = ["defense", "hits", "attack success (95%)", "accuracy", "kept", "poisons left"]
    return markdown(head, rows)


def targets_table(records: list[dict], defenses: list[str]) -> str:
    """Every target: the pair of classes, and for some defenses the outcome and poisons left."""
    lines = defaultdict(dict)
    for record in records:
        lines[record["target"]][record["defense"]] = record
    rows = []
    for number, outcomes in sorted(lines.items()):
        first = next(iter(outcomes.values()))
        cells = [
            f"{'**hit**' if (o := outcomes[name])['success'] else 'miss'}, {o['poisons_left']}"
            for name in defenses
        ]
        rows.append([str(number), f"{first['label']} -> {first['base']}", *cells])
    return markdown(["target", "taken for", *defenses], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that is also readable as plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )
