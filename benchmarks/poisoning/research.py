"""The pages in docs/research: tables and figures from the records beside them, without a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.poisoning import paper
from benchmarks.poisoning.plots import save
from benchmarks.poisoning.records import read_records
from benchmarks.poisoning.report import by_defense, markdown, success, wilson
from benchmarks.poisoning.tables import time_ratios
from subsel.files import write_whole

FOLDER = Path(__file__).parents[2] / "docs" / "research"
README = FOLDER.parents[1] / "README.md"
QUESTIONS = {
    "transfer-same": "transfer.md",
    "transfer-other": "transfer.md",
    "collision-same": "transfer.md",
    "fine-tuning": "fine-tuning.md",
    "scratch-paper": "from-scratch.md",
    "scratch-code": "from-scratch.md",
    "scratch-augmented": "from-scratch.md",
    "late-acting": "late-acting.md",
    "late-acting-chosen-on": "late-acting.md",
    "late-acting-neighbours": "late-acting.md",
    "late-acting-100": "late-acting.md",
    "adaptive-bases": "adaptive.md",
    "adaptive-alike": "adaptive.md",
    "adaptive-alike-neighbours": "adaptive.md",
}
# What README says of transfer, and how it calls the defenses there.
IN_SHORT = {
    "none": "undefended",
    "EPIC 0.1 active": "EPIC 0.1",
    "EPIC 0.2 active": "EPIC 0.2",
    "random drop, as EPIC 0.2 active": "a random drop, as many as EPIC 0.2",
    "highest-loss drop, as EPIC 0.2 active": "the highest losses, as many",
    "Deep k-NN": "Deep k-NN",
    "fresh start 0.4 0.05": "`train_afresh` (not in the paper)",
}

# What stands beside which published row: a title, the question, its EPIC, and the paper's.
BESIDE = (
    ("transfer, Bullseye Polytope", "transfer-same", "EPIC 0.2 active", paper.BULLSEYE_TRANSFER),
    ("transfer, Feature Collision", "collision-same", "EPIC 0.2 active", paper.COLLISION_TRANSFER),
    ("fine-tuning, Bullseye Polytope", "fine-tuning", "EPIC 0.6 active", paper.BULLSEYE_FINETUNE),
    *(
        (
            f"from scratch, Gradient Matching, EPIC {size}",
            "scratch-paper",
            f"EPIC {size} active",
            {"none": paper.TABLE_2_40["none"], "EPIC": paper.TABLE_2_40[f"EPIC {size} active"]},
        )
        for size in (0.1, 0.2)
    ),
)


def write_pages(folder: Path, readme: Path | None = None) -> list[Path]:
    """Bring tables and figures of all pages up to date; the files that were written.

    Parameters
    ----------
    folder : path
        docs/research: in ``records`` a folder for each question, in it one for each seed, as
        ``run --out`` writes it; pages in which ``<!-- table: QUESTION -->`` and ``<!-- end -->``
        enclose a table.
    readme : path, optional
        A page with a place for the table ``in short``.
    """
    written = []
    for question, page in QUESTIONS.items():
        records, times = pooled(folder / "records" / question)
        if not records:
            continue
        path = folder / page
        text = filled(path.read_text(), question, table(records, times))
        write_whole(path, text)
        written.append(path)
        figure = folder / "figures" / f"{question}.png"
        if f"figures/{figure.name}" in text:
            figure.parent.mkdir(exist_ok=True)
            save(drawn(records), figure)
            written.append(figure)
    short = [
        (folder / "cost.md", "cost", cost(folder)),
        (folder / "index.md", "beside the paper", beside_the_paper(folder)),
    ]
    if readme is not None:
        short.append((readme, "in short", in_short(folder)))
    for path, name, found in short:
        write_whole(path, filled(path.read_text(), name, found))
        written.append(path)
    return written


def in_short(folder: Path) -> str:
    """Hits and what is lost in accuracy in transfer, with either backbone."""
    head, columns = [""], []
    for question, title in (("transfer-same", "same images"), ("transfer-other", "other images")):
        records, _ = pooled(folder / "records" / question)
        bare, groups = undefended(records), by_defense(records)
        head += [title, "95 %", "points"]
        columns.append({name: cells_of(lines, bare) for name, lines in groups.items()})
    rows = [
        [title, *(cell for column in columns for cell in column.get(name, ["–"] * 3))]
        for name, title in IN_SHORT.items()
    ]
    return markdown(head, rows)


def beside_the_paper(folder: Path) -> str:
    """Success and accuracy undefended and with EPIC, in the paper's tables 1 and 2, and here."""
    rows = []
    for title, question, epic, quoted in BESIDE:
        groups = by_defense(pooled(folder / "records" / question)[0])
        published = [(quoted[name].success, quoted[name].accuracy) for name in ("none", "EPIC")]
        measured = [
            [
                100 * float(np.mean([line[key] for line in groups[name]]))
                for key in ("success", "accuracy")
            ]
            for name in ("none", epic)
            if name in groups
        ]
        row = [title]
        for at in range(2):
            row += [f"{pair[at]:.1f}".removesuffix(".0") for pair in published]
            row += [f"{pair[at]:.1f}".removesuffix(".0") for pair in measured] or ["–", "–"]
        rows.append(row)
    head = [
        name
        for what in ("success", "accuracy")
        for where in ("paper", "here")
        for name in (f"{what}, {where}", "with EPIC")
    ]
    return markdown(["in percent", *head], rows)


def cells_of(lines: list[dict], bare: dict[str, float]) -> list[str]:
    """A defense's hits, their interval in percent, and the change in accuracy in points."""
    hits = sum(line["success"] for line in lines)
    low, high = wilson(hits, len(lines))
    return [f"{hits}/{len(lines)}", f"{100 * low:.0f}–{100 * high:.0f}", points(lines, bare)]


def points(lines: list[dict], bare: dict[str, float]) -> str:
    """The mean change in accuracy from undefended training on the same targets, in points."""
    return f"{np.mean([100 * (line['accuracy'] - bare[line['target']]) for line in lines]):+.1f}"


def cost(folder: Path) -> str:
    """What each defense takes and loses, in all questions."""
    rows = []
    for question in QUESTIONS:
        records, times = pooled(folder / "records" / question)
        ratios, bare = time_ratios(times, "cpu_seconds"), undefended(records)
        for defense, lines in by_defense(records).items():
            rounds = [entry for line in lines for entry in line["rounds"] if "error" in entry]
            errors = [
                f"{np.mean([entry[key] for entry in rounds]):.2f}" if rounds else ""
                for key in ("error", "random_error")
            ]
            time = f"{ratios[defense]:.2f}" if defense in ratios else ""
            rows.append([question, defense, time, points(lines, bare), *errors])
    head = ["experiment", "defense", "time", "points", "gradient's error", "random subset's"]
    return markdown(head, rows)


def undefended(records: list[dict]) -> dict[str, float]:
    """Accuracy without a defense, for each target."""
    return {line["target"]: line["accuracy"] for line in records if line["defense"] == "none"}


def pooled(folder: Path) -> tuple[list[dict], list[dict]]:
    """The records and times of all seeds, of those targets on which every defense has been run."""
    records: list[dict] = []
    times: list[dict] = []
    for seed in sorted(folder.glob("seed-*")):
        for lines, name in ((records, "results.jsonl"), (times, "times.jsonl")):
            lines += [
                {**line, "seed": seed.name, "target": f"{seed.name} {line['target']}"}
                for line in read_records(seed, name)
            ]
    ran: dict[str, set[str]] = {}
    for line in records:
        ran.setdefault(line["target"], set()).add(line["defense"])
    done = {target for target, names in ran.items() if names == set().union(*ran.values())}
    return (
        sorted((line for line in records if line["target"] in done), key=place),
        [line for line in times if line["target"] in done],
    )


def place(line: dict) -> tuple[int, str]:
    """Where the tables have a record's defense: by its kind, then by name."""
    name = line["defense"]
    kinds = ("none", "EPIC", "random", "highest", "fresh", "quick", "CutMix", "Deep", "all")
    return next(i for i, kind in enumerate((*kinds, "")) if name.startswith(kind)), name


def table(records: list[dict], times: list[dict]) -> str:
    """For each defense: hits with their interval, what it costs, when targets flipped; each target.

    The difference in accuracy, in points, is from undefended training on the same targets.
    """
    ratios, bare = time_ratios(times, "cpu_seconds"), undefended(records)
    rows = []
    for defense, lines in by_defense(records).items():
        hits, rate = success(lines)
        settled = [line["settled"] for line in lines if line.get("settled") is not None]
        means = [
            f"{np.mean([line[key] for line in lines]):.0f}" for key in ("kept", "poisons_left")
        ]
        rows.append(
            [
                str(len(rows) + 1),
                defense,
                hits,
                rate,
                f"{np.mean([line['accuracy'] for line in lines]):.3f}",
                points(lines, bare),
                *means,
                f"{ratios[defense]:.2f}" if defense in ratios else "",
                f"{np.median(settled):.0f}" if settled else "",
            ]
        )
    head = ["", "defense", "hits", "attack success (95%)", "accuracy", "points", "kept"]
    seeds = len({line["seed"] for line in records})
    targets = len({line["target"] for line in records})
    text = f"Targets: {targets}. Seeds, each with its own split and backbone: {seeds}.\n\n"
    pooled_table = markdown([*head, "poisons left", "time", "flipped from epoch"], rows)
    told = "Every target, with an x under the number of each defense that did not stop the attack:"
    return f"{text}{pooled_table}\n{told}\n\n{each(records)}"


def each(records: list[dict]) -> str:
    """A line for each target: its classes, and which defenses were in vain, by number."""
    names = list(by_defense(records))
    rows: dict[str, list[str]] = {}
    for line in records:
        classes = f"{line['label']} -> {line['base']}"
        row = rows.setdefault(line["target"], [line["target"], classes, *[""] * len(names)])
        row[2 + names.index(line["defense"])] = "x" * bool(line["success"])
    numbers = [str(number + 1) for number in range(len(names))]
    return markdown(["target", "taken for", *numbers], list(rows.values()))


def filled(page: str, question: str, table: str) -> str:
    """The page with the question's table put in the place of the one before."""
    start, end = f"<!-- table: {question} -->", "<!-- end -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for a table: {start} and {end}")
    return f"{before}{start}\n{table}{end}{after}"


def drawn(records: list[dict]) -> Any:
    """Attack success of each defense with its interval, against what it costs in accuracy."""
    from matplotlib.figure import Figure

    groups = by_defense(records)
    figure = Figure(figsize=(8, 0.4 * len(groups) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = list(groups)[::-1]
    shares = [float(np.mean([line["success"] for line in groups[name]])) for name in names]
    intervals = [
        wilson(sum(line["success"] for line in groups[name]), len(groups[name])) for name in names
    ]
    places = np.arange(len(names))
    left.barh(places, shares, color="tab:red", alpha=0.6)
    left.hlines(places, *_columns(intervals), color="black")
    left.set(xlim=(0, 1), xlabel="attacks that succeed, with 95% interval")
    left.set_yticks(places, names, fontsize="small")
    right.plot(
        [float(np.mean([line["accuracy"] for line in groups[name]])) for name in names],
        places,
        "o",
        color="tab:blue",
    )
    right.set(xlabel="test accuracy")
    right.grid(alpha=0.3)
    return figure


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [low for low, _ in pairs], [high for _, high in pairs]
