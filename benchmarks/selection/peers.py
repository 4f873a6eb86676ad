"""Selection beside apricot, submodlib and kmedoids: time and peak memory, one process for each.

    pip install ".[bench]"
    python -m benchmarks.selection.peers

One class of CIFAR-10's shape (n rows of 10 real gradients, k = n / 10, euclidean). Each library
gets the features and a process of its own, in which it warms up on 200 rows first; time is the
median of `--repeats` runs, memory the process's peak less its peak before the runs. Prints a
Markdown table; a library that is not installed is left out and named.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version

import numpy as np

from benchmarks.selection.inputs import FILE, load

PEERS = {
    "subsel": "subsel",
    "submodlib": "submodlib-py",
    "apricot": "apricot-select",
    "kmedoids": "kmedoids",
}


def subsel(X, k):
    """`select`, all of it."""
    from subsel import select

    return select(X, k).indices


def submodlib(X, k):
    """As EPIC's code uses it, but for the similarity: dense, LazyGreedy."""
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


def measure(name, n, repeats):
    """In the subprocess: run and print the record."""
    select = globals()[name]
    data = load()
    X = np.ascontiguousarray(data["gradients"][data["labels"] == 0][:n])
    select(X[:200], 20)
    before = peak_memory()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        chosen = select(X, n // 10)
        times.append(time.perf_counter() - start)
    memory = peak_memory() - before
    distance = np.sqrt(((X[:, None].astype(float) - X[np.array(chosen)]) ** 2).sum(-1)).min(1)
    record = {
        "name": name, "n": n, "seconds": statistics.median(times),
        "memory": memory, "loss": distance.sum(),
    }  # fmt: skip
    print(json.dumps(record))


def peak_memory():
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 2500, 5000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--libraries", nargs="+", choices=PEERS, default=[*PEERS])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure, args.n[0], args.repeats)
    records = []
    for n in args.n:
        for name in args.libraries:
            run = subprocess.run(
                [sys.executable, "-m", "benchmarks.selection.peers", "--measure", name,
                 "--n", str(n), "--repeats", str(args.repeats)],
                capture_output=True, text=True,
            )  # fmt: skip
            if run.returncode:
                print(f"{name} left out: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                records.append(json.loads(run.stdout.splitlines()[-1]))
    inputs = "real gradients" if FILE.exists() else "synthetic gradients"
    versions = ", ".join(f"{name} {version(PEERS[name])}" for name in {r["name"] for r in records})
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {inputs}; {versions}\n")
    print("| n | library | seconds | times subsel's | MB | sum of distances |")
    print("|---|---|---|---|---|---|")
    for r in records:
        ours = next(o["seconds"] for o in records if o["n"] == r["n"] and o["name"] == "subsel")
        print(
            f"| {r['n']} | {r['name']} | {r['seconds']:.3f} | {r['seconds'] / ours:.0f} "
            f"| {r['memory'] / 1e6:.0f} | {r['loss']:.4f} |"
        )


if __name__ == "__main__":
    main()
