"""The paper's figures, from our measurements."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.poisoning.measure import CURVES, Arrays
from benchmarks.poisoning.plots import CLEAN, POISON, TEXT, cluster_sizes
from benchmarks.poisoning.report import by_defense, wilson
from benchmarks.poisoning.tables import Experiment, experiments, time_ratios

INEFFECTIVE, TARGET = "#7b5ea7", "#3a8f5c"
RULES = {"EPIC": POISON, "highest-loss": "#d9a441", "lowest-confidence": "#3b6ea5"}
Study = dict[str, list[Arrays]]


@dataclass(frozen=True)
class Drawing:
    """What a figure needs to be measured, and how that is drawn."""

    experiments: Callable[[str], list[Experiment]]
    parts: tuple[str, ...]
    draw: Callable[[dict[str, Study]], Figure]


def effective_poisons(studies: dict[str, Study]) -> Figure:
    """Figure 1: how many poisons carry the attack, how far from the target, and where they lie."""
    figure, axes = panels(len(studies), 2, height=3.2)
    for (left, right), (title, study) in zip(axes, studies.items(), strict=True):
        carried = [a for a in study["effective"] if a["effective"].any()]
        distance = joined(carried, "distance")
        mask = joined(carried, "effective").astype(bool)
        bins = np.linspace(0, max(2.0, distance.max(initial=0)), 41)
        groups = (("effective", mask, POISON), ("ineffective", ~mask, INEFFECTIVE))
        for name, some, colour in groups:
            share = some.mean() if len(some) else 0
            left.hist(distance[some], bins, color=colour, alpha=0.65, label=f"{name} ({share:.0%})")
        left.set_title(f"{title}; {len(carried)} of {len(study['effective'])} succeed", fontsize=9)
        left.set(xlabel="distance to the target's gradient, clean model", ylabel="poisons")
        legend(left)
        for first in carried[:1]:
            own = first["effective"].astype(bool)
            for name, points, colour in (
                ("clean, target's class", first["target"], CLEAN),
                ("clean, base class", first["base"], TARGET),
                ("ineffective poisons", first["poisons"][~own], INEFFECTIVE),
                ("effective poisons", first["poisons"][own], POISON),
            ):
                right.scatter(*points.T, s=8, color=colour, alpha=0.6, label=name)
            legend(right)
        right.set_title("features of the clean model, first such target", fontsize=9)
        right.set(xlabel="first principal component", ylabel="second")
    return figure


def dropped(studies: dict[str, Study]) -> Figure:
    """Figure 2: effective poisons dropped against all dropped, at three sizes (faint) and mean."""
    figure, axes = panels(1, len(studies), height=3.2)
    for axis, (title, study) in zip(axes[0], studies.items(), strict=True):
        for rule, colour in RULES.items():
            paths = []
            for number, name in enumerate(CURVES):
                if not name.startswith(rule) or not study["dropped"]:
                    continue
                path = np.mean([a[f"curve-{number}"] for a in study["dropped"]], axis=0)
                axis.plot(*path, color=colour, alpha=0.3, lw=1)
                paths.append(path)
            if paths:
                # The sizes have rounds of their own, so they are read off at the same shares.
                shares = np.linspace(0, min(path[0, -1] for path in paths), 50)
                middle = np.mean([np.interp(shares, *path) for path in paths], axis=0)
                axis.plot(shares, middle, color=colour, lw=2, label=rule)
        axis.plot([0, 1], [0, 1], ":", color=TEXT, lw=0.8)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of all dropped")
        axis.set_title(f"{title} ({len(study['dropped'])} targets)", fontsize=9)
        legend(axis)
    axes[0, 0].set_ylabel("share of effective poisons dropped")
    return figure


def over_epochs(studies: dict[str, Study]) -> Figure:
    """Figure 3: isolation of effective poisons, who is left, and what that does to the gradient."""
    figure, axes = panels(len(studies), 3, height=3.2)
    for (isolation, left, error), (title, study) in zip(axes, studies.items(), strict=True):
        draw_mean(isolation, study["rounds"], "mutual", "to each other", POISON)
        draw_mean(isolation, study["rounds"], "to_target", "to the target", INEFFECTIVE)
        isolation.set_ylabel("mean cosine, effective poisons")
        shares = [{"left": a["left"][:, i]} for i in range(3) for a in study["rounds"]]
        n = len(study["rounds"])
        for i, (name, colour) in enumerate(
            (("effective poisons", POISON), ("all poisons", INEFFECTIVE), ("clean", CLEAN))
        ):
            draw_mean(left, shares[i * n : (i + 1) * n], "left", name, colour)
        left.set(ylabel="share still in", ylim=(0, 1.02))
        draw_mean(error, study["rounds"], "kept_error", "kept by EPIC", POISON)
        draw_mean(error, study["rounds"], "random_error", "random subset as large", TEXT)
        error.set_ylabel("relative error of the mean gradient")
        left.set_title(f"{title}, EPIC 0.2 active", fontsize=9)
        for axis in (isolation, left, error):
            axis.set_xlabel("epoch")
            legend(axis)
    return figure


def draw_mean(axis: plt.Axes, arrays: Sequence[Arrays], key: str, name: str, colour: str) -> None:
    values = np.array([a[key] for a in arrays if not np.isnan(a[key]).all()])
    if len(values):
        axis.plot(values.mean(0), color=colour, label=f"{name} ({len(values)} targets)")


def clusters(studies: dict[str, Study]) -> Figure:
    """Figures 4 and 5: sizes of the clusters that poisons and clean examples are in, by round."""
    ((title, study),) = studies.items()
    figure = cluster_sizes(study["rounds"])
    figure.suptitle(f"{title}, EPIC 0.2 active", fontsize=9)
    return figure


def success_and_time(records: list[dict], times: list[dict]) -> Figure:
    """Figure 6: attack success, with its interval, against the time of training."""
    figure, axes = panels(1, 1, height=4.5, width=9)
    axis, ratios = axes[0, 0], time_ratios(times)
    near: dict[tuple[int, int], list[int]] = defaultdict(list)  # which share a label
    places = []
    for number, (name, group) in enumerate(by_defense(records).items(), 1):
        hits = sum(float(record["success"]) for record in group)
        rate, (low, high) = hits / len(group), wilson(round(hits), len(group))
        colour = POISON if name.startswith("EPIC") else TEXT if name == "none" else CLEAN
        bars = [[max(0.0, rate - low)], [max(0.0, high - rate)]]
        label = f"{number}  {name}"
        axis.errorbar(ratios[name], rate, bars, fmt="o", color=colour, ms=4, lw=0.8, label=label)
        near[round(4 * np.log2(ratios[name])), round(25 * rate)].append(number)
        places.append((ratios[name], rate))
    for own in near.values():
        text, place = ", ".join(map(str, own)), max(places[number - 1] for number in own)
        axis.annotate(text, place, fontsize=8, xytext=(4, 3), textcoords="offset points")
    axis.set(xlabel="time, of undefended training", ylabel="attack success", ylim=(-0.05, 1.1))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    entries, names = axis.get_legend_handles_labels()
    figure.legend(
        [entry.lines[0] for entry in entries], names, loc="outside right center", frameon=False,
        fontsize=8,
    )  # fmt: skip
    return figure


def panels(
    rows: int, columns: int, *, height: float, width: float = 4.2
) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axis: plt.Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def joined(arrays: Sequence[Arrays], key: str) -> np.ndarray:
    return np.concatenate([a[key] for a in arrays]) if arrays else np.empty(0)


def scratch(scale: str) -> list[Experiment]:
    return experiments(2, scale)[:1]


def transfer(scale: str) -> list[Experiment]:
    return [e for e in experiments(1, scale) if e.name == "bullseye-polytope-paper-transfer"]


def both(scale: str) -> list[Experiment]:
    return [*scratch(scale), *transfer(scale)]


# Figure 6 is drawn from the records of table 2.
FIGURES = {
    1: Drawing(both, ("effective",), effective_poisons),
    2: Drawing(both, ("effective", "dropped"), dropped),
    3: Drawing(scratch, ("effective", "rounds"), over_epochs),
    4: Drawing(lambda scale: experiments(1, scale)[:1], ("rounds",), clusters),
    5: Drawing(transfer, ("rounds",), clusters),
}
