"""Selection beside apricot, submodlib and kmedoids: time and peak memory, one process for each.

    pip install ".[bench]"
    python -m benchmarks.selection.peers

Each library goes from features to indices, with the same threads: one class of real gradients (n
rows of 10, k = n / 10, euclidean) at several n, and EPIC's step (10 classes of 5000, a tenth and
three tenths of each), class after class where a library knows of no classes. It warms up on a small
problem first; time is the median of `--repeats` runs, of fewer (at least one) where `--patience`
seconds are over. A library is not tried on a larger n after a run of more than a minute, nor on
EPIC's step if that would take more than five.

Records are added to runs/selection/peers.jsonl, and what was measured in this state of the source
is not measured again (but with --again). Writes docs/speed/peers.md and peers.png. PEERS_PYTHON
names the interpreter that has the peers, if it is another one.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.poisoning.report import markdown
from benchmarks.selection.inputs import load, made
from benchmarks.selection.measure import (
    RUNS,
    append,
    conditions,
    in_process,
    read,
    source,
    timed,
)
from subsel.files import written_whole

PACKAGES = {
    "subsel": "subsel",
    "submodlib": "submodlib-py",
    "apricot": "apricot-select",
    "kmedoids": "kmedoids",
}
SIZES = [500, 1000, 2500, 5000, 10000]
EPIC = {"a-0.1": 0.1, "a-0.3": 0.3}
TOO_LONG = 60
PAGE = Path("docs/speed/peers.md")
PLOT = PAGE.with_suffix(".png")


def subsel(X, budget, labels=None):
    """`select`, all of it."""
    from subsel import select

    return select(X, budget, labels=labels).indices


def submodlib(X, k):
    """As EPIC's code uses it, but for the similarity, here exp(-distance / d): LazyGreedy."""
    from submodlib import FacilityLocationFunction

    f = FacilityLocationFunction(n=len(X), mode="dense", data=X, metric="euclidean")
    found = f.maximize(
        budget=k, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False,
        show_progress=False,
    )  # fmt: skip
    return [index for index, _ in found]


def apricot(X, k):
    """Lazy, on similarities computed by scikit-learn."""
    from apricot import FacilityLocationSelection
    from sklearn.metrics import pairwise_distances

    D = pairwise_distances(X)
    return FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(
        D.max() - D
    ).ranking  # fmt: skip


def kmedoids(X, k):
    """BUILD, which is greedy on distances."""
    import kmedoids as library
    from sklearn.metrics import pairwise_distances

    return library.pam_build(pairwise_distances(X), k).medoids


def measure(name, problem, repeats, patience):
    """In the subprocess: the record of one library on one problem."""
    select = globals()[name]
    labels, gradients = load("labels"), load("gradients")
    epic = problem in EPIC
    # One class alone has 6000 rows in the training set: the next class fills up the largest size.
    n = 5000 if epic else int(problem)
    classes = (
        [np.array(gradients[np.flatnonzero(labels == c)[:n]]) for c in range(10)]
        if epic
        else [np.array(gradients[np.argsort(labels, kind="stable")[:n]])]
    )
    k = int(EPIC[problem] * n) if epic else n // 10
    X, of_class = np.concatenate(classes), np.repeat(np.arange(len(classes)), n)

    def run():
        if epic and name == "subsel":
            return subsel(X, EPIC[problem], of_class)
        return np.concatenate([np.asarray(select(Y, k)) + i * n for i, Y in enumerate(classes)])

    select(X[:200], 20)
    if name == "subsel":
        run()  # some kernels are for large problems only
    times, memory = [], 0
    while len(times) < repeats and (not times or sum(times) < patience):
        chosen, seconds, peak = timed(run)
        times.append(seconds)
        memory = max(memory, peak or 0)
    loss = 0.0
    for c, Y in enumerate(classes):
        medoids = X[chosen[of_class[chosen] == c]]
        for block in np.array_split(Y.astype(float), 20):
            loss += np.sqrt(((block[:, None] - medoids) ** 2).sum(-1)).min(1).sum()
    return {
        "seconds": float(np.median(times)), "runs": len(times), "memory": memory, "loss": loss,
        "version": version(PACKAGES[name]),
    }  # fmt: skip


def table(records, problems):
    """One row for each library and problem."""
    rows = []
    for problem, words in problems.items():
        ours = records.get(("subsel", problem))
        for name in PACKAGES:
            if r := records.get((name, problem)):
                times = f"{r['seconds'] / ours['seconds']:.3g}" if ours else ""
                rows.append([
                    words, f"{name} {r['version']}", f"{r['seconds']:.3g}", times,
                    f"{r['memory'] / 1e6:.0f}", f"{r['loss']:.4f}", str(r["runs"]),
                ])  # fmt: skip
    head = ["problem", "library", "seconds", "times subsel's", "MB", "sum of distances", "runs"]
    return markdown(head, rows)


def plot(records):
    """Time against n, both logarithmic, with the slope that fits each library."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    colours = {"subsel": "#c1272d", "submodlib": "#3b6ea5", "apricot": "#d9a441",
               "kmedoids": "#777777"}  # fmt: skip
    for name, colour in colours.items():
        points = [(n, records[name, str(n)]) for n in SIZES if (name, str(n)) in records]
        if len(points) < 2:
            continue
        n, seconds = np.array([(n, r["seconds"]) for n, r in points]).T
        slope = np.polyfit(np.log(n), np.log(seconds), 1)[0]
        label = f"{name} {points[0][1]['version']}: $n^{{{slope:.1f}}}$"
        axes.loglog(n, seconds, "o-", color=colour, label=label, markersize=4)
    axes.set_xticks(SIZES, [f"{n}" for n in SIZES], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("n (k = n / 10)")
    axes.set_ylabel("seconds")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    with written_whole(PLOT) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def page(records, notes):
    problems = {str(n): f"n = {n}" for n in SIZES}
    problems |= {name: f"EPIC's step, 10 × 5000, f = {f}" for name, f in EPIC.items()}
    inputs = "real" if made("gradients") else "synthetic"
    return f"""# Beside the peers

{notes}; {inputs} gradients

    python -m benchmarks.selection.peers

Each library goes from features (n × 10, euclidean) to indices, in a separate process. It selects
k = n / 10 rows, or in EPIC's step a fraction f of each class. MB is the peak of memory beyond the
input. subsel, apricot and kmedoids minimize the sum of distances, and differ only in near-ties.
submodlib's similarity is exp(-distance / 10). apricot compiles at every fit, which takes a second
or more of its time.

{table(records, problems)}
![Seconds against n, for each library]({PLOT.name})

The legend gives the power of n that fits each library's times.
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", default=[*map(str, SIZES), *EPIC],
                        choices=[*map(str, SIZES), *EPIC])  # fmt: skip
    parser.add_argument("--libraries", nargs="+", choices=PACKAGES, default=[*PACKAGES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=120)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="measure also what was measured")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        record = measure(args.measure, args.problems[0], args.repeats, args.patience)
        return print(json.dumps(record))

    path, state = RUNS / "peers.jsonl", source()
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    done = {} if args.again else last(path)
    slow = set()
    tasks = [(name, problem) for problem in args.problems for name in args.libraries]
    for name, problem in (bar := tqdm(tasks)):
        bar.set_postfix_str(f"{name}, {problem}")
        record = done.get((name, problem), {})
        # A peer's time does not depend on the state of our source.
        if not record or (name == "subsel" and record["source"] != state):
            one_class = done.get((name, "5000"), {"seconds": 0})["seconds"]
            if name in slow or (problem in EPIC and 10 * one_class > 5 * TOO_LONG):
                continue
            record, error = in_process(
                "benchmarks.selection.peers",
                ["--measure", name, "--problems", problem, "--repeats", args.repeats,
                 "--patience", args.patience], args.threads, python,
            )  # fmt: skip
            if record is None:
                tqdm.write(f"{name} left out: {error}", file=sys.stderr)
                continue
            record |= {"name": name, "problem": problem, "source": state}
            record["conditions"] = conditions(args.threads, "numpy", "numba")
            append(path, record)
            done[name, problem] = record
        if record["seconds"] > TOO_LONG and problem not in EPIC:
            slow.add(name)
    records = last(path)
    plot(records)
    notes = "\n".join(sorted({r["conditions"] for r in records.values()}))
    with written_whole(PAGE) as part:
        part.write_text(page(records, notes))
    print(table(records, {p: p for p in args.problems}))


def last(path):
    """The last record of each library and problem."""
    return {(record["name"], record["problem"]): record for record in read(path)}


if __name__ == "__main__":
    main()
