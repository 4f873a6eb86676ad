"""Two states of this repository, timed in turn: is one slower than the other?

    python -m benchmarks.compare v0.1.0                    that commit against the working tree
    python -m benchmarks.compare HEAD~20 --only a c        some workloads
    python -m benchmarks.compare HEAD --other HEAD~20 --pairs 21

Each state runs in a process of its own that stays for all of a workload's runs, compiled and warm.
The two take turns, run by run, so that what else the machine does meets both. Printed are the
median of the ratios of neighbouring runs, other / base, and a 95 % interval of that median by the
ranks of the sorted ratios, which assumes nothing about their distribution. Answers are compared as
well: where the two select something else, the line says so.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from scipy.stats import binom

ROOT = Path(__file__).parent.parent


def gradients(n):
    """Rows like gradients of a class: most near 0, some far, in ten dimensions that sum to 0."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 10)) + 6 * np.eye(10)[np.arange(n) % 10]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (p - np.eye(10)[np.arange(n) % 10]).astype(np.float32)


def embeddings(n, d):
    """Unit rows around a hundred centres."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, d))[rng.integers(100, size=n)] + rng.normal(size=(n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def workloads():
    """Name, what it is, and a function that makes a call to time."""
    import scipy.sparse

    import subsel

    def classes():
        X, labels = gradients(50_000), np.arange(50_000) % 10
        return lambda: subsel.select(X, 0.1, labels=labels)

    def whole():
        X = gradients(60_000)
        return lambda: subsel.select(X, 600)

    def wide():
        X = embeddings(8000, 256)
        return lambda: subsel.select(X, 400)

    def dense():
        S = np.random.default_rng(0).random((5000, 5000), np.float32)
        return lambda: subsel.lazy_greedy(S, 500)

    def sparse():
        X = embeddings(100_000, 2)
        near = np.sort(np.random.default_rng(1).integers(0, len(X), (len(X), 30)), axis=1)
        data = np.exp(-np.linalg.norm(X[near] - X[:, None], axis=2)).ravel()
        starts = np.arange(0, near.size + 1, near.shape[1])
        S = scipy.sparse.csr_array((data, near.ravel(), starts), shape=(len(X), len(X)))
        return lambda: subsel.lazy_greedy(S, 500)

    def small():
        X = embeddings(200, 8)

        def run():
            for _ in range(100):
                chosen = subsel.select(X, 20)
            return chosen

        return run

    return {
        "a": ("10 classes of 5000 × 10, a tenth of each", classes),
        "c": ("60 000 × 10, k = 600", whole),
        "d": ("8000 × 256, k = 400", wide),
        "e-dense": ("a matrix of 5000 × 5000, k = 500", dense),
        "e-sparse": ("100 000 rows of 30 neighbours, k = 500", sparse),
        "h": ("200 × 8, k = 20, a hundred times", small),
    }


COLD = "import numpy, subsel; subsel.select(numpy.random.default_rng(0).random((1000, 10)), 100)"


def serve(name):
    """A process that waits for a line, runs, and prints seconds and a digest of the answer."""
    run = workloads()[name][1]()
    run()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        began = time.perf_counter()
        chosen = run()
        seconds = time.perf_counter() - began
        bits = np.asarray(chosen.indices).tobytes() + np.asarray(chosen.gains).tobytes()
        sys.stdout.write(json.dumps([seconds, hashlib.sha256(bits).hexdigest()]) + "\n")
        sys.stdout.flush()


class State:
    """A checkout, and a process that runs a workload in it."""

    def __init__(self, tree, cache):
        self.environment = os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)}

    def start(self, name):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--serve", name],
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.process.stdout.readline()

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.wait()

    def cold(self):
        """CPU seconds of a first selection with an empty cache, and of one with a full one."""
        with tempfile.TemporaryDirectory() as empty:
            environment = self.environment | {"NUMBA_CACHE_DIR": empty}
            spent = []
            for _ in range(2):
                before = os.times()
                subprocess.run([sys.executable, "-c", COLD], env=environment, check=True)
                after = os.times()
                spent.append(
                    after.children_user + after.children_system
                    - before.children_user - before.children_system
                )  # fmt: skip
        return spent


def interval(ratios):
    """A 95 % interval of the median, from the ranks of the sorted ratios."""
    ratios, n = sorted(ratios), len(ratios)
    low = int(binom.ppf(0.025, n, 0.5))
    return ratios[max(0, low - 1)], ratios[min(n - 1, n - low)]


def line(what, base, other, same=True):
    ratios = [b / a for a, b in zip(base, other, strict=True)]
    low, high = interval(ratios)
    print(
        f"| {what} | {median(base):.3g} | {median(other):.3g} | {median(ratios):.3f} "
        f"| {low:.3f} to {high:.3f} | {'' if same else 'ANOTHER SELECTION'} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", help="a commit")
    parser.add_argument("--other", help="a commit; default the working tree")
    parser.add_argument("--pairs", type=int, default=11, help="runs of each")
    parser.add_argument("--only", nargs="+", help="workloads; 'cold' is the first selection")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    if not args.base:
        parser.error("say which commit is the base")
    print(f"| workload | base, s | other, s | other / base | 95 % interval, {args.pairs} pairs | |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trees, states = [], []
        try:
            for number, commit in enumerate([args.base, args.other]):
                tree = ROOT if commit is None else Path(folder) / f"tree-{number}"
                if commit is not None:
                    git = ["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach"]
                    subprocess.run([*git, str(tree), commit], check=True)
                    trees.append(tree)
                states.append(State(tree, Path(folder) / f"cache-{number}"))
            compare(*states, args.pairs, args.only)
        finally:
            for tree in trees:
                git = ["git", "-C", str(ROOT), "worktree", "remove", "--force"]
                subprocess.run([*git, str(tree)], check=True)
    return None


def compare(base, other, pairs, only):
    for name, (what, _) in workloads().items():
        if only and name not in only:
            continue
        base.start(name)
        other.start(name)
        runs = [(base.run(), other.run()) for _ in range(pairs)]
        base.stop()
        other.stop()
        same = all(a[1] == b[1] for a, b in runs)
        line(f"{name}: {what}", [a[0] for a, _ in runs], [b[0] for _, b in runs], same)
    if not only or "cold" in only:
        spent = [(base.cold(), other.cold()) for _ in range(max(3, pairs // 4))]
        for at, what in enumerate(("empty", "full")):
            line(
                f"cold: CPU seconds of a first selection, {what} cache",
                [a[at] for a, _ in spent], [b[at] for _, b in spent],
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
