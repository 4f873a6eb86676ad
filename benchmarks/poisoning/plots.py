"""The three plots of an experiment."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.poisoning.report import by_defense
from subsel.files import written_whole

POISON, CLEAN, TEXT = "#c1272d", "#3b6ea5", "#555555"
CONTROL = {"random drop": "#999999", "highest-loss drop": "#d9a441"}
BINS = [1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 10**9]


def draw_all(records: list[dict], traces: list[dict], folder: Path) -> list[Path]:
    """Write the plots as PNG and return their paths."""
    poisons = records[0]["poisons_left"]  # the first is undefended: all of them are left
    plots = {
        "cluster-sizes.png": cluster_sizes(traces),
        "dropped.png": dropped(records, poisons),
        "gradient-distance.png": gradient_distance(traces),
    }
    for name, figure in plots.items():
        save(figure, folder / name)
    return [folder / name for name in plots]


def save(figure: Figure, path: Path) -> None:
    """Write the figure whole or not at all, and let go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def cluster_sizes(traces: list[dict]) -> Figure:
    """How large are the gradient clusters that poisons and clean examples are in, by round."""
    last = len(traces[0]["cluster_sizes"])
    rounds = sorted({1, min(2, last), last})
    figure, axes = plt.subplots(
        1, len(rounds), figsize=(10, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    axes = axes[0]
    labels = ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128", "129-256", "more"]
    for axis, number in zip(axes, rounds, strict=True):
        sizes = np.concatenate([trace["cluster_sizes"][number - 1] for trace in traces])
        poisoned = np.concatenate([trace["poisoned"] for trace in traces])
        for offset, mask, colour, name in (
            (-0.2, poisoned, POISON, "poisons"),
            (0.2, ~poisoned, CLEAN, "clean"),
        ):
            present = sizes[mask & (sizes > 0)]
            shares = np.histogram(present, BINS)[0] / max(len(present), 1)
            legend = f"{name} ({len(present) / mask.sum():.0%} still in)"
            axis.bar(np.arange(len(shares)) + offset, shares, 0.4, color=colour, label=legend)
        axis.set_title(f"round {number}", fontsize=10)
        axis.set_xticks(range(len(labels)), labels, rotation=60, fontsize=8)
        axis.set_xlabel("size of its cluster (1: dropped)")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of those still in")
    return figure


def dropped(records: list[dict], poisons: int) -> Figure:
    """Share of the poisons dropped against the share of all dropped, round by round."""
    groups = by_defense(records)
    n = groups["none"][0]["kept"]
    epics = [name for name in groups if name.startswith("EPIC") and "," not in name]
    rows = len({name.split()[-1] for name in epics})  # a row for each ground set
    columns = len(epics) // rows
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3 * columns + 0.6, 2.6 * rows + 0.2),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes.flat, epics, strict=True):
        curves = {"EPIC": (groups[name], POISON)}
        for title, colour in CONTROL.items():
            curves[title] = (groups[f"{title}, as {name}"], colour)
        for title, (group, colour) in curves.items():
            paths = [dropped_path(record, n, poisons) for record in group]
            for path in paths:
                axis.plot(*path, color=colour, alpha=0.12, lw=0.7)
            axis.plot(*np.mean(paths, axis=0), "o-", color=colour, ms=3, label=title)
        axis.plot([0, 1], [0, 1], ":", color=TEXT, lw=0.8)
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("share of all dropped")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of poisons dropped")
    axes[-1, -1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def dropped_path(record: dict, n: int, poisons: int) -> np.ndarray:
    """Cumulated shares (2, rounds + 1): of all examples and of the poisons."""
    counts = [[0, 0]] + [[r["dropped"], r["poisons_dropped"]] for r in record["rounds"]]
    return (np.cumsum(counts, axis=0) / [n, poisons]).T


def gradient_distance(traces: list[dict]) -> Figure:
    """Distance of logit gradients to the target's, of poisons and of clean base-class images."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    bins = np.linspace(0, 2, 41)
    moments = {
        "after the warmup": "after_warmup",
        "after undefended training": "after_undefended",
        "after EPIC 0.2 active": "after_epic",
    }
    for axis, (title, key) in zip(axes, moments.items(), strict=True):
        groups = {"poisons": [], "poisons, dropped": [], "clean, same class": []}
        for trace in traces:
            left = trace["kept"] | (key != "after_epic")
            groups["poisons"].append(trace[key][trace["poisoned"] & left])
            groups["poisons, dropped"].append(trace[key][trace["poisoned"] & ~left])
            groups["clean, same class"].append(
                trace[key][trace["base"] & ~trace["poisoned"] & left]
            )
        for (name, parts), colour in zip(groups.items(), (POISON, "#e8a0a2", CLEAN), strict=True):
            values = np.concatenate(parts)
            if len(values):
                weights = np.full(len(values), 1 / len(values))
                legend = f"{name} ({len(values) / len(traces):.0f} a target)"
                axis.hist(values, bins, weights=weights, color=colour, alpha=0.65, label=legend)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("distance to the target's gradient")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share")
    return figure
