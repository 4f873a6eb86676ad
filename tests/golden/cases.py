"""Selections whose every bit is on record, so that no change of the code can change them unseen.

    python -m tests.golden.cases           compares with the record, and says what differs
    python -m tests.golden.cases --write   writes the record anew, after a change that is meant

The inputs are small integers, or come from a generator whose bits are the same on every machine.
Cases with metric "rbf" are on record without their gains: their last bits are those of the C
library's ``expm1``. The same record holds for the CPU and for a GPU (`device_cases`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy.sparse

import subsel

RECORD = Path(__file__).with_name("record.json")
METRICS = ("euclidean", "cosine", "dot", "rbf")


def numbers(seed, *shape):
    """Numbers in [-1, 1] by a generator that is written down here: the same bits everywhere."""
    state = np.uint64(seed * 2654435761 + 88172645463325252)
    out = np.empty(int(np.prod(shape)))
    mask = (1 << 64) - 1
    x = int(state)
    for i in range(len(out)):
        x ^= (x << 13) & mask
        x ^= x >> 7
        x ^= (x << 17) & mask
        out[i] = (x >> 11) / 2.0**52 - 1
    return out.reshape(shape)


def written(selection, gains=True):
    """A selection as it is put on record."""
    said = {"indices": selection.indices.tolist()}
    if gains:
        said["gains"] = [float(g).hex() for g in selection.gains]
        said["value"] = float(selection.value).hex()
    if selection.assignment is not None:
        said["assignment"] = selection.assignment.tolist()
        said["sizes"] = selection.sizes.tolist()
    return said


def matrices():
    """Similarity matrices given by a user."""
    ties = np.round(3 * np.abs(numbers(1, 90, 70)))
    plain = np.abs(numbers(2, 150, 120))
    square = np.abs(numbers(3, 140, 140))
    sparse = np.where(np.abs(numbers(4, 200, 160)) > 0.9, np.abs(numbers(5, 200, 160)), 0.0)
    yield "ties", ties, 40
    yield "plain", plain, 60
    yield "plain float32", plain.astype(np.float32), 60
    yield "symmetric", (square + square.T) / 2, 50
    yield "duplicates", np.repeat(plain[:, :30], 3, axis=1), 45
    yield "wide", np.abs(numbers(6, 40, 2600)), 30
    yield "sparse", scipy.sparse.csr_array(sparse), 80
    yield "sparse float32", scipy.sparse.csc_array(sparse.astype(np.float32)), 80


def features(name):
    """Features by name."""
    return {
        "scattered": lambda: numbers(10, 230, 3),
        "high": lambda: numbers(11, 150, 40),
        "grid": lambda: np.round(2 * numbers(12, 200, 2)),
        "copies": lambda: np.repeat(numbers(13, 50, 4), 4, axis=0),
        "zeros": lambda: np.where(np.abs(numbers(14, 150, 3)) < 0.5, 0.0, numbers(14, 150, 3)),
    }[name]()


def cases(backend="cpu"):
    """Names, and functions that select."""
    small = numbers(15, 45, 3)
    ties = np.round(3 * np.abs(numbers(16, 40, 37)))
    for dtype in (np.float32, np.float64):
        X, matrix = small.astype(dtype), ties.astype(dtype)
        for metric in METRICS:
            yield (
                f"small, {metric}, {dtype.__name__}",
                lambda m=metric, X=X: subsel.select(X, 6, metric=m, memory=0, backend=backend),
            )
        yield (
            f"small, ties, {dtype.__name__}",
            lambda m=matrix: subsel.greedy(subsel.FacilityLocation(m, backend=backend), 12),
        )
    yield (
        "small, labels",
        lambda: subsel.select(small, 0.2, labels=np.arange(45) % 7 % 3, backend=backend),
    )
    for name, matrix, k in matrices():
        for search in (subsel.greedy, subsel.lazy_greedy):
            yield f"{search.__name__}, {name}", lambda m=matrix, k=k, s=search: s(m, k)
        yield (
            f"stochastic_greedy, {name}",
            lambda m=matrix, k=k: subsel.stochastic_greedy(m, k, 0.2, random_state=7),
        )
    thin = np.abs(numbers(20, 2100, 2100)).astype(np.float32)
    yield "greedy, thinned", lambda: subsel.greedy(thin, 200)
    for metric in METRICS:
        for name in ("scattered", "high", "grid", "copies", "zeros"):
            for dtype in (np.float32, np.float64):
                X = features(name).astype(dtype)
                for memory in (0, 2**30):
                    yield (
                        f"select, {metric}, {name}, {dtype.__name__}, memory={memory}",
                        lambda X=X, m=metric, b=memory: subsel.select(X, 25, metric=m, memory=b),
                    )
        X = features("scattered")
        labels = np.arange(len(X)) % 7 % 3
        yield (
            f"select, {metric}, labels",
            lambda X=X, m=metric, y=labels: subsel.select(X, 0.2, labels=y, metric=m),
        )
        yield (
            f"select, {metric}, labels, stochastic",
            lambda X=X, m=metric, y=labels: subsel.select(
                X, 30, labels=y, metric=m, method="stochastic", random_state=3
            ),
        )
        yield (
            f"restricted, {metric}",
            lambda X=X, m=metric: subsel.greedy(
                subsel.FacilityLocation.from_features(X, m, memory=0).restrict(
                    np.arange(0, len(X), 3)
                ),
                20,
            ),
        )
        yield (
            f"greedi, {metric}",
            lambda X=X, m=metric: subsel.greedi(X, 20, metric=m, partitions=4, random_state=5),
        )
    X = features("high").astype(np.float32)
    yield (
        "greedi, labels",
        lambda: subsel.greedi(X, 24, labels=np.arange(len(X)) % 4, partitions=4, random_state=1),
    )


def device_cases():
    """Small ones of the cases above, which a GPU, or its simulator, has to select likewise."""
    return ((name, run) for name, run in cases("cuda") if name.startswith("small"))


def main():
    """Compare with the record, or write it."""
    said = {name: written(run(), "rbf" not in name) for name, run in cases()}
    if "--write" in sys.argv:
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in said.items())
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    record = json.loads(RECORD.read_text())
    wrong = [name for name in record.keys() | said.keys() if record.get(name) != said.get(name)]
    sys.stdout.write("\n".join([*sorted(wrong), f"{len(wrong)} of {len(record)} differ\n"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
