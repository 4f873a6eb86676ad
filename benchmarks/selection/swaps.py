"""Swaps beside kmedoids' FasterPAM, from the same starts: time, and the loss that is reached.

    pip install ".[bench]"
    python -m benchmarks.selection.swaps

Rows of gradients (10 columns) and embeddings (64), the first so many of the training set; starts
are greedy's and random ones. subsel gets features, or the matrix of distances that FasterPAM gets;
each library has a process of its own. With one thread FasterPAM tries candidates in the order of
their indices, as subsel does; with more, in a random order. subsel compiles on a small problem
first. A time is the smallest of three runs. Writes docs/speed/swaps.md. PEERS_PYTHON names the
interpreter that has kmedoids, if it is another one.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.poisoning.report import markdown
from benchmarks.selection.inputs import load, made
from benchmarks.selection.measure import conditions, in_process
from subsel.files import written_whole

PAGE = Path("docs/speed/swaps.md")
PROBLEMS = [
    (name, n, k) for name in ("gradients", "embeddings_64") for n in (5000,) for k in (50, 500)
]
STARTS = ("greedy", "random")
REPEATS = 3


def problem(name, n):
    """Rows, and their distances in float32."""
    X = np.array(load(name)[:n])
    squares = np.maximum((X**2).sum(1)[:, None] + (X**2).sum(1) - 2 * X.astype(float) @ X.T, 0)
    D = np.sqrt(squares).astype(np.float32)
    np.fill_diagonal(D, 0)
    return X, D


def fastest(run):
    """What it returns, and the seconds of the fastest run."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return result, min(times)


def subsel(name, n, k, starts):
    """Of each start, the times from features and from a matrix, and the indices."""
    import subsel as library

    X, D = problem(name, n)
    records = []
    makers = {
        "features": lambda X, D: library.FacilityLocation.from_features(X),
        "matrix": lambda X, D: library.FacilityLocation.from_distances(D),
    }
    for way, make in makers.items():
        library.refine(make(X[:300], D[:300, :300]), np.arange(20))
        f = make(X, D)
        library.refine(f, np.arange(5), max_swaps=1)
        for start in starts:
            found, seconds = fastest(lambda f=f, start=start: library.refine(f, start))
            records.append([way, seconds, found.indices.tolist()])
    return records


def kmedoids(name, n, k, starts):
    """The same of FasterPAM."""
    import kmedoids as library

    _, D = problem(name, n)
    threads = int(os.environ["OMP_NUM_THREADS"])
    records = []
    for start in starts:
        found, seconds = fastest(
            lambda start=start: library.fasterpam(D, np.array(start, np.uint64), n_cpu=threads)
        )
        records.append(["matrix", seconds, [int(i) for i in found.medoids]])
    return records


def child(library, name, n, k, file):
    starts = np.load(file)
    print(json.dumps(globals()[library](name, int(n), int(k), starts)))


def measure(name, n, k, threads, file):
    """Lines of the table for one problem."""
    import subsel as library

    X, D = problem(name, n)
    begun = {
        "greedy": library.select(X, k).indices,
        "random": np.random.default_rng(0).permutation(n)[:k],
    }
    np.save(file, np.array([*begun.values()]))
    python, lines = os.environ.get("PEERS_PYTHON", sys.executable), []
    records = {}
    for peer, where in (("subsel", sys.executable), ("kmedoids", python)):
        for count in threads:
            found, error = in_process(
                "benchmarks.selection.swaps", ["--child", peer, name, n, k, file], count, where
            )
            if found is None:
                sys.exit(f"{peer}: {error}")
            for at, (way, seconds, chosen) in enumerate(found):
                loss = float(D[:, chosen].min(axis=1).sum(dtype=float))
                records[peer, way, STARTS[at % 2], count] = seconds, loss
    for start in STARTS:
        for count in threads:
            own, other = (records[peer, "matrix", start, count] for peer in ("subsel", "kmedoids"))
            features = records["subsel", "features", start, count]
            before = float(D[:, begun[start]].min(axis=1).sum(dtype=float))
            lines.append([
                f"{name}, k = {k}", start, str(count), f"{features[0]:.3f}", f"{own[0]:.3f}",
                f"{other[0]:.3f}", f"{other[0] / own[0]:.1f}", f"{before:.2f}", f"{own[1]:.2f}",
                f"{other[1]:.2f}",
            ])  # fmt: skip
            print(" | ".join(lines[-1]), flush=True)
    return lines


HEAD = ["problem", "start", "threads", "features, s", "matrix, s", "FasterPAM, s", "ratio",
        "loss before", "loss", "FasterPAM's"]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    file = args.out.with_suffix(".npy")
    try:
        lines = [line for p in PROBLEMS for line in measure(*p, args.threads, file)]
    finally:
        file.unlink(missing_ok=True)
    real = "real" if made("gradients") else "synthetic"
    with written_whole(args.out) as part:
        part.write_text(f"""# Swaps beside FasterPAM

{conditions(max(args.threads), "numpy", "numba")}; kmedoids 0.5.5; {real} inputs

    python -m benchmarks.selection.swaps

The table compares `refine` for facility location on distances with `kmedoids.fasterpam`, from the
same start, with n = 5000. Seconds are the fastest of {REPEATS} runs, and those of subsel include
the time for the bound. *Ratio* is FasterPAM's time as a multiple of subsel's, both from the matrix.
The loss is the sum of distances. With one thread, FasterPAM tries candidates in the same order as
subsel and makes the same swaps. With several threads it uses a random order, and ends in another
local optimum.

{markdown(HEAD, lines)}""")


if __name__ == "__main__":
    main()
