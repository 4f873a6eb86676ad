"""What constraints cost greedy: its time under each, beside that under a count alone.

    python -m benchmarks.selection.constrained

Facility location at EPIC's step: gradients of each of ten classes of 5000 rows, a tenth of them.
Every case selects about as many rows. For each class all cases are run in turn, with the count
alone before and after; a ratio is of medians over classes and rounds. Writes
docs/speed/constrained.md.
"""

import argparse
import os
import time
from pathlib import Path

import numba
import numpy as np
from tqdm import tqdm

import subsel
from benchmarks.poisoning.report import markdown
from benchmarks.selection.inputs import load, made
from benchmarks.selection.measure import conditions
from subsel.constraints import Groups, Knapsack, MinDistance
from subsel.files import written_whole

PAGE = Path("docs/speed/constrained.md")
N, K = 5000, 500
WANTED = {
    "ten groups, at most 60 of each": 1.2,
    "ten groups, at least 40 of each": 1.2,
    "50 rows given": 1.2,
    "500 rows excluded": 1.2,
    "costs, ratio": 2.0,
}


def cases(X):
    """By name: budget, and what else greedy is told."""
    random = np.random.default_rng(0)
    groups = random.integers(10, size=N)
    costs = random.integers(1, 10, N)  # of the rows selected, the mean is near 4
    some = random.permutation(N)
    return {
        "a count": (K, {}),
        "ten groups, at most 60 of each": (Groups(groups, at_most=60, count=K), {}),
        "ten groups, at least 40 of each": (Groups(groups, at_least=40, count=K), {}),
        "50 rows given": (K, {"given": some[:50]}),
        "500 rows excluded": (K, {"exclude": some[:500]}),
        "costs, ratio": (Knapsack(costs, 1200, rule="ratio"), {}),
        "costs, plain": (Knapsack(costs, 2400, rule="plain"), {}),
        "costs, best": (Knapsack(costs, 1200), {}),
        "least distance": (MinDistance(X, 1e-4) & subsel.constraints.Count(K), {}),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    numba.set_num_threads(args.threads)
    labels, gradients = load("labels"), load("gradients")
    times, plain, picked = {}, {}, {}
    for c in tqdm(range(args.classes)):
        X = np.array(gradients[np.flatnonzero(labels == c)[:N]])
        f = subsel.FacilityLocation.from_features(X)
        own = cases(X)
        for each in range(args.rounds + (c == 0)):
            for name, (budget, options) in own.items():
                taken = []
                for some, more in ((K, {}), (budget, options), (K, {})):
                    start = time.perf_counter()
                    chosen = subsel.greedy(f, some, **more)
                    taken.append(time.perf_counter() - start)
                    if some is budget:
                        picked.setdefault(name, []).append(len(chosen))
                if c or each:  # the first compiles
                    times.setdefault(name, []).append(taken[1])
                    plain.setdefault(name, []).append((taken[0] + taken[2]) / 2)
    lines = []
    for name, own in times.items():
        ratio = np.median(own) / np.median(plain[name])
        wanted = WANTED.get(name)
        lines.append([
            name, f"{np.median(picked[name]):.0f}", f"{1e3 * np.median(own):.1f}",
            f"{ratio:.2f}", "" if wanted is None else f"{wanted:g}",
        ])  # fmt: skip
    real = "real" if made("gradients") else "synthetic"
    with written_whole(args.out) as part:
        part.write_text(f"""# What constraints cost

{conditions(args.threads, "numpy", "numba")}; {real} gradients

    python -m benchmarks.selection.constrained

The search is greedy facility location for EPIC's step, class by class: {N} rows of 10 features,
k = {K}. *Ratio* is the time relative to that under a count alone, which is run before and after;
medians over {args.classes} classes and {args.rounds} rounds. *At most* is the target.

{markdown(["constraint", "rows selected", "ms", "ratio", "at most"], lines)}""")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
