"""Objectives at scale, beside the least that must be done; and how much memory each takes.

    python -m benchmarks.selection.objectives_large
    python -m benchmarks.selection.objectives_large --memory

Each in a process of its own, which warms up with a few elements first. At scale, a yardstick
alternates with the search, so that other work disturbs both alike: a product X v of the features
with each element, or a pass that counts the non-zeros by concept with each whole search. Of lazy
searches the passes are counted. With `--memory`, 60 000 rows of 10 features through every objective
that is made of features, and the peak beyond the input; run it twice, as what the first run
compiles takes memory as well. Records go where those of `benchmarks.selection.objectives` go, whose
page shows them.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import scipy.sparse

import subsel
from benchmarks.selection.measure import append, conditions, in_process, timed
from benchmarks.selection.objectives import RECORDS, write_page
from subsel.kernels.cpu import sets

N, D, K = 1_000_000, 64, 1000


def features(n):
    """Rows of normal numbers."""
    return np.random.default_rng(0).standard_normal((n, D)).astype(np.float32)


def product(X):
    """The product of all rows and a vector."""
    v = np.random.default_rng(1).standard_normal(D).astype(np.float32)
    return lambda: X @ v


def memberships(n):
    """Ten concepts of 100 000 for each item."""
    concepts = np.random.default_rng(0).integers(0, 100_000, (n, 10)).astype(np.int32)
    starts = np.arange(0, concepts.size + 1, 10, dtype=np.int32)
    M = scipy.sparse.csr_array((np.ones(concepts.size, bool), concepts.ravel(), starts))
    M.sum_duplicates()
    return M


def counting(M):
    """One pass over the items that counts those of each concept, compiled."""
    lists = sets.Sets(M.indptr.astype(np.int64), M.indices, np.zeros(1, np.int64), M.indices[:0])
    items, counts = np.arange(M.shape[0]), np.zeros(M.shape[1], np.int64)
    return lambda: sets.count(lists, items, counts)


def amounts(n):
    """Non-negative features, one in a hundred of 1000."""
    random = np.random.default_rng(0)
    at = random.integers(0, 1000, (n, 10)).astype(np.int32)
    starts = np.arange(0, at.size + 1, 10, dtype=np.int32)
    return scipy.sparse.csr_array((random.random(at.size), at.ravel(), starts), shape=(n, 1000))


def graph_cut(X):
    """Graph cut, cosine."""
    return subsel.GraphCut.from_features(X, "cosine")


def log_determinant(X):
    """Log-determinant, dot."""
    return subsel.LogDeterminant.from_features(X, metric="dot")


# By name: data of n rows, its objective, what alternates with it, the target, and k. Elements
# alternate with a product, whole searches with a count; of the lazy one, passes are counted.
LARGE = {
    "graph cut, cosine, 10⁶ × 64": (features, graph_cut, product, 1.5, K),
    "log-determinant, dot, 10⁶ × 64": (features, log_determinant, product, 1.5, K),
    "set cover, 10⁶ items, 10⁷ non-zeros": (memberships, subsel.SetCover, counting, 3, 10 * K),
    "feature based, 10⁶ × 1000, 1 %": (amounts, subsel.FeatureBased, None, 20, K),
}


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def by_elements(f, once, k, most=100):
    """Times of greedy's elements, at most some of the k, and of what alternates with them.

    An element puts work off, so each counts as one part of all, with the gains of all others at
    the end.
    """
    taken, every = np.zeros(f.n, bool), []
    f.reset()
    for _ in range(min(k, most)):
        every.append((seconds(lambda: f.extend(taken, 1)), seconds(once)))
    own, other = np.transpose(every)
    own[:] = (own.sum() + seconds(lambda: f.gains(np.flatnonzero(~taken)))) / len(own)
    return np.stack([own, other], axis=1)


def large(name):
    """One workload, in the child."""
    data, make, yardstick, target, k = LARGE[name]
    X = data(N)
    f = make(X)
    search = subsel.lazy_greedy if f.submodular and not f.keeps_gains else subsel.greedy
    search(f, 3)
    cells = {"workload": name, "k": str(k), "one": "a search", "beside": "–"}
    if yardstick is None:
        chosen, taken, peak = timed(lambda: search(make(X), k))
        passes = chosen.n_evaluations / N
        return cells | {
            "s": f"{taken:.3g}", "MB": f"{peak / 1e6:.0f}", "beside, s": "–", "ratio": "–",
            "ratio of the fastest": "–", "passes": f"{passes:.3g}", "target": f"≤ {target} passes",
        }  # fmt: skip
    once = yardstick(X)
    once()
    if yardstick is product:
        every = by_elements(f, once, k)
        cells |= {"one": "an element", "beside": "a product X v"}
    else:
        every = np.array([(seconds(lambda: search(make(X), k)), seconds(once)) for _ in range(9)])
        cells |= {"one": "making and searching", "beside": "one count"}
    _, _, peak = timed(lambda: search(make(X), 9))
    own, other = np.median(every, axis=0)
    fastest = every.min(axis=0)
    return cells | {
        "s": f"{own:.3g}", "MB": f"{peak / 1e6:.0f}", "beside, s": f"{other:.3g}",
        "ratio": f"{own / other:.3g}", "ratio of the fastest": f"{fastest[0] / fastest[1]:.3g}",
        "passes": "–", "target": f"≤ {target}",
    }  # fmt: skip


def items(X):
    return X[:20] + 0.5


# By name: the objective of rows X, and what it may take beside them, in bytes a row of d features
# of 4 bytes, for k elements.
MEMORY = {
    "FacilityLocation, euclidean": (
        subsel.FacilityLocation.from_features, lambda d, k: 8 * d + 180
    ),
    "FacilityLocation, query and private": (
        lambda X: subsel.FacilityLocation.from_features(X, query=items(X), private=-items(X)),
        lambda d, k: 16 * d + 240,
    ),
    "SaturatedCoverage, euclidean": (
        subsel.SaturatedCoverage.from_features, lambda d, k: 8 * d + 180
    ),
    "GraphCut, cosine": (subsel.GraphCut.from_features, lambda d, k: 8 * d + 70),
    "GraphCut, rbf": (
        lambda X: subsel.GraphCut.from_features(X, "rbf"), lambda d, k: 8 * d + 70
    ),
    "SumRedundancy, cosine": (subsel.SumRedundancy.from_features, lambda d, k: 8 * d + 70),
    "DisparitySum, euclidean": (subsel.DisparitySum.from_features, lambda d, k: 8 * d + 70),
    "DisparityMin, euclidean": (subsel.DisparityMin.from_features, lambda d, k: 8 * d + 70),
    "LogDeterminant, dot": (subsel.LogDeterminant.from_features, lambda d, k: 8 * d + 70),
    "LogDeterminant, rbf": (
        lambda X: subsel.LogDeterminant.from_features(X, metric="rbf"),
        lambda d, k: 8 * d + 70 + 8 * (k + 63),
    ),
    "LogDeterminant, query and private": (
        lambda X: subsel.LogDeterminant.from_features(X, query=items(X), private=-items(X)),
        lambda d, k: 8 * d + 100,
    ),
}  # fmt: skip


def memory(name, n=60_000, d=10, k=50):
    """One measurement of memory, in the child."""
    make, bound = MEMORY[name]
    X = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)

    def run(X, k):
        f = make(X)
        return (subsel.lazy_greedy if f.submodular and not f.keeps_gains else subsel.greedy)(f, k)

    run(X[:6000], 5)
    _, _, peak = timed(lambda: run(X, k))
    return {
        "objective": name, "MB beyond X": f"{peak / 1e6:.1f}",
        "bound, bytes a row": str(bound(d, k)), "bound, MB": f"{n * bound(d, k) / 1e6:.1f}",
    }  # fmt: skip


INTRO = {
    "large": "*One* says what is timed, and *beside* what alternates with it in the same process; "
    "medians, and the\nratio of the fastest of each. An element is the hundredth part of a hundred "
    "elements and of all\nother gains after them, as work is put off. Two threads for both.",
    "memory": "60 000 × 10 features of 4 bytes, k = 50: the peak beyond the input, and the bound "
    "that holds for\nd features and k elements. An n × n matrix would take 14 400 MB.",
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*LARGE, *MEMORY])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    table, cases, child = "large", LARGE, large
    if args.memory:
        table, cases, child = "memory", MEMORY, memory
    if args.child:
        print(json.dumps(child(args.child)))
        return
    how = (
        f"`python -m benchmarks.selection.objectives_large{' --memory' * args.memory}`; "
        f"{conditions(args.threads, 'numpy', 'scipy', 'numba')}"
    )
    for name in args.only or cases:
        module = "benchmarks.selection.objectives_large"
        given = ["--child", name, *(["--memory"] if args.memory else [])]
        cells, error = in_process(module, given, args.threads)
        if cells is None:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        record = {"table": table, "name": name, "cells": cells, "how": how, "intro": INTRO[table]}
        append(RECORDS, record)
        print(" | ".join(cells.values()), flush=True)
    write_page()


if __name__ == "__main__":
    main()
