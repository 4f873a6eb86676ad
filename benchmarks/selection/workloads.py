"""The workloads: what is selected from what, how the answer is checked, and what is asked of it.

`WORKLOADS` lists them. Each makes a problem at a scale: 1 is the size that its name says, 0.01 a
hundredth of the rows. A problem can be run and checked, and knows what it needs at least.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

import subsel
from benchmarks.selection import ceilings
from benchmarks.selection.inputs import CLASSES, PER_CLASS, gradient_like, load, made

PEERS_PYTHON = os.environ.get("PEERS_PYTHON", sys.executable)
"""Interpreter that has the peers."""


@dataclass(frozen=True)
class Features:
    """Rows to select from by similarities of features."""

    X: np.ndarray
    budget: float
    labels: np.ndarray | None = None
    metric: str = "euclidean"

    def run(self):
        return subsel.select(self.X, self.budget, labels=self.labels, metric=self.metric)

    def parts(self):
        """Rows of each ground set."""
        if self.labels is None:
            return [np.arange(len(self.X))]
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.labels))[:-1])

    def pairs(self):
        """Similarities that there are."""
        return sum(len(rows) ** 2 for rows in self.parts())

    def seen(self, chosen):
        """Similarities that were looked at."""
        return chosen.n_evaluations * len(self.X)

    def needs(self):
        """Bytes: the input, once. Operations: each unordered pair's inner product, once."""
        return self.X.nbytes, self.pairs() * self.X.shape[1]

    def check(self, chosen):
        assert chosen.sizes.sum() == len(self.X)
        position = np.full(len(self.X), -1)
        position[chosen.indices] = np.arange(len(chosen))
        for rows in self.parts()[:3]:
            X = np.asarray(self.X[rows], np.float64)
            steps = np.sort(position[rows][position[rows] >= 0])
            local = np.searchsorted(rows, chosen.indices[steps])
            check_greedy(
                lambda some, X=X: -cdist(X, X[some], self.metric), len(X), local,
                chosen.gains[steps],
            )  # fmt: skip

    def products(self):
        """The matrix products alone: sgemm of each ground set with itself, in blocks of rows."""
        for rows in self.parts():
            X = self.X[rows[0] : rows[-1] + 1]  # a view: classes come one after the other
            out = np.empty((min(len(X), 1024), len(X)), np.float32)
            for i in range(0, len(X), 1024):
                block = X[i : i + 1024]
                np.matmul(block, X.T, out=out[: len(block)])


@dataclass(frozen=True)
class Matrix:
    """A given matrix of similarities, dense or sparse."""

    S: Any
    k: int

    def run(self):
        return subsel.lazy_greedy(self.S, self.k)

    def pairs(self):
        return self.S.size

    def seen(self, chosen):
        return chosen.n_evaluations * self.S.shape[0]

    def needs(self):
        """Bytes: the entries (of a sparse matrix also their columns). Operations: one each."""
        stored = self.S.nbytes if isinstance(self.S, np.ndarray) else 8 * self.S.size
        return stored, self.S.size

    def check(self, chosen):
        def columns(some):
            part = self.S[:, some]
            return (part if isinstance(part, np.ndarray) else part.toarray()).astype(float)

        check_greedy(columns, self.S.shape[1], chosen.indices, chosen.gains)

    def half(self):
        """The same with half the rows."""
        n = self.S.shape[0] // 2
        return Matrix(self.S[:n, :n].tocsr(), self.k)


@dataclass(frozen=True)
class Large:
    """More rows than can be searched exactly in reasonable time: the documented recipe."""

    X: np.ndarray
    k: int

    def run(self):
        return select_large(self.X, self.k, random_state=0)

    def pairs(self):
        return len(self.X) ** 2

    def seen(self, chosen):
        return (chosen.n_evaluations + self.k) * len(self.X)

    def needs(self):
        """Bytes: the input, once. Operations: inner products of all rows with those selected."""
        return self.X.nbytes, 2 * len(self.X) * self.k * self.X.shape[1]

    def check(self, chosen):
        assert len(np.unique(chosen.indices)) == self.k
        assert chosen.sizes.sum() == len(self.X)

    def quality(self):
        """F, and what it gains after its first element, as parts of an exact selection's.

        The worst of three seeds at n = 60 000, once with as many rows for each selected one as
        here, and once with a tenth of that.
        """
        X = np.array(load("embeddings_64"))
        f = subsel.FacilityLocation.from_features(X)
        worst = {"quality": 1.0, "coverage": 1.0}
        for k in (60, 600):
            exact = subsel.lazy_greedy(f, k)
            first, best = exact.gains[0], exact.value
            for seed in range(3):
                value = f.value(select_large(X, k, random_state=seed).indices)
                worst["quality"] = min(worst["quality"], value / best)
                worst["coverage"] = min(worst["coverage"], (value - first) / (best - first))
        return worst


SAMPLE, PARTS = 200, 20


def select_large(X, k, random_state):
    """As documented for large inputs: 200 rows for each one selected, in 20 partitions."""
    sample = min(SAMPLE * k, len(X))
    return subsel.greedi(X, k, partitions=PARTS, sample=sample, random_state=random_state)


@dataclass(frozen=True)
class Startup:
    """A new Python process, from its start to its end."""

    code: str
    cold: bool = False
    python: str = sys.executable

    def run(self):
        with tempfile.TemporaryDirectory() as empty:
            cache = {"NUMBA_CACHE_DIR": empty} if self.cold else {}
            subprocess.run([self.python, "-c", self.code], check=True, env=os.environ | cache)

    def check(self, _):
        """That the process went well is checked by `run`."""


def check_greedy(similarity, n, indices, gains):
    """Half way and at the end, no other candidate of some would have gained more (float64).

    `similarity(candidates)` gives that of all points to some candidates, up to a constant.
    """
    k = len(indices)
    assert len(np.unique(indices)) == k
    others = np.random.default_rng(0).integers(n, size=50)
    best, start = -np.inf, 0
    for stop in sorted({k // 2, k - 1} - {0}):
        for i in range(start, stop, 50):
            best = np.maximum(best, similarity(indices[i : min(i + 50, stop)]).max(axis=1))
        start = stop
        gain, *rest = np.maximum(
            similarity(np.append(indices[stop], others)) - best[:, None], 0
        ).sum(axis=0)
        tolerance = 1e-3 * gain + 1e-6 * np.abs(best).sum()
        assert abs(gains[stop] - gain) <= tolerance
        assert max(rest) <= gains[stop] + tolerance


def epic_step(scale, fraction):
    labels = load("labels")
    rows = np.concatenate([np.flatnonzero(labels == c)[: int(5000 * scale)] for c in range(10)])
    return Features(np.array(load("gradients")[rows]), fraction, labels[rows])


def imagenet(scale, name):
    classes = int(CLASSES * scale)
    labels = np.repeat(np.arange(classes), PER_CLASS)
    if made(name):
        return Features(load(name)[: len(labels)], 0.1, labels)
    X = gradient_like(labels, CLASSES, np.random.default_rng(0))
    return Features(X if name == "imagenet" else np.ascontiguousarray(X[:, :64]), 0.1, labels)


def whole(name, rows, k, scale, metric="euclidean"):
    X = np.array(load(name)[: int(rows * scale)])
    return Features(X, int(k * scale), metric=metric)


def dense(scale, real):
    n = int(10_000 * scale)
    if real:
        X = load("embeddings_64")[:n]
        S = cdist(X, X).astype(np.float32)
        S = S.max() - S
    else:
        S = np.random.default_rng(0).random((n, n), np.float32)
    return Matrix(S, n // 10)


def sparse(scale):
    """Similarities to 50 neighbours, itself among them, that lie near in some order."""
    n, neighbours = int(200_000 * scale), 50
    steps = np.random.default_rng(0).integers(1, 9, (n, neighbours)).cumsum(axis=1)
    steps -= steps[:, [neighbours // 2]]
    columns = (np.arange(n)[:, None] + steps) % n
    weights = np.exp(-np.abs(steps) / 50, dtype=np.float32)
    indptr = np.arange(0, n * neighbours + 1, neighbours)
    return csr_array((weights.ravel(), columns.ravel(), indptr), shape=(n, n))


def million(scale):
    n = int(1_000_000 * scale)
    if made("augmented"):
        X = np.array(load("augmented")[:n])
    else:
        X = np.random.default_rng(0).random((n, 64), np.float32)
    return Large(X, int(1000 * scale))


@dataclass(frozen=True)
class Target:
    """What is asked: a figure of the record, and the bound that it has to keep."""

    words: str
    value: Callable[[dict], float | None]
    bound: float
    at_least: bool = False

    def met(self, value):
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Workload:
    """A line of the table.

    `rival` is what it is compared with: its name, and what makes of the problem a call to time.
    """

    name: str
    what: str
    make: Callable[[float], Any]
    targets: tuple[Target, ...]
    rival: tuple[str, Callable[[Any], Callable]] | None = None
    file: str = ""  # the input without which only small scales are run


def seconds(record):
    return record["seconds"]


def ratio(record):
    return record["seconds"] / record["rival_seconds"]


def beside(peer):
    def value(record):
        theirs = record.get("peers", {}).get(peer)
        return theirs and theirs / record["seconds"]

    return value


def pair_rate(record):
    """Pairs a second, as a part of what the kernel that sees n² of them reaches."""
    return record["pairs_of_all"] / ratio(record)


def memory(megabytes):
    return Target("MB over the input", lambda r: r["memory"] and r["memory"] / 1e6, megabytes)


PEERS = (
    Target("times submodlib's speed", beside("submodlib"), 150, at_least=True),
    Target("times apricot's speed", beside("apricot"), 50, at_least=True),
    memory(150),
)
PRODUCTS = (Target("times sgemm", ratio, 2),)
EVERY_PAIR = (memory(300), Target("of the plain kernel's rate", pair_rate, 0.4, at_least=True))
PASSES = (Target("passes", ratio, 6),)
TWICE = (Target("times the time for half the rows", ratio, 2.5),)
LARGE = (
    Target("of an exact F, at n = 60 000", lambda r: r.get("quality"), 0.99, at_least=True),
    Target("minutes", lambda r: r["seconds"] / 60, 10),
    Target("times the input's memory", lambda r: r["memory"] and r["memory"] / r["bytes"], 2),
)

SGEMM = ("sgemm of each ground set with itself", lambda problem: problem.products)
PLAIN = ("plain tiled kernel, all n² pairs", lambda problem: ceilings.every_pair_of(problem.X))
READ = ("reading the matrix once", lambda problem: lambda: ceilings.read_once(problem.S))
HALF = ("the same with half the rows", lambda problem: problem.half().run)

FIRST_USE = """
import numpy, subsel
subsel.select(numpy.random.default_rng(0).random((1000, 10)), 100)
"""
APRICOT = """
import apricot, numpy
X = numpy.random.default_rng(0).random((1000, 10))
apricot.FacilityLocationSelection(100, metric="euclidean", optimizer="lazy").fit(X)
"""
PEER = ("apricot, on every use", lambda _: Startup(APRICOT, python=PEERS_PYTHON).run)

WORKLOADS = [
    Workload("a-0.1", "EPIC's step: 10 classes × 5000 × 10, f = 0.1",
             lambda s: epic_step(s, 0.1), PEERS),
    Workload("a-0.3", "EPIC's step: 10 classes × 5000 × 10, f = 0.3",
             lambda s: epic_step(s, 0.3), PEERS),
    Workload("b-1000", "ImageNet's shape: 1000 classes × 1300 × 1000, f = 0.1, memory-mapped",
             lambda s: imagenet(s, "imagenet"), PRODUCTS, SGEMM, "imagenet"),
    Workload("b-64", "ImageNet's shape: 1000 classes × 1300 × 64, f = 0.1, memory-mapped",
             lambda s: imagenet(s, "imagenet_64"), PRODUCTS, SGEMM, "imagenet_64"),
    Workload("c-600", "one ground set: 60 000 × 10, k = 600",
             lambda s: whole("gradients", 60_000, 600, s),
             (Target("n² pairs", lambda r: r["pairs_of_all"], 4), *EVERY_PAIR), PLAIN),
    Workload("c-6000", "one ground set: 60 000 × 10, k = 6000",
             lambda s: whole("gradients", 60_000, 6000, s), EVERY_PAIR, PLAIN),
    Workload("d-euclidean", "embeddings: 20 000 × 768, euclidean, k = 1000",
             lambda s: whole("embeddings", 20_000, 1000, s), PRODUCTS, SGEMM),
    Workload("d-cosine", "embeddings: 20 000 × 768, cosine, k = 1000",
             lambda s: whole("embeddings", 20_000, 1000, s, "cosine"), PRODUCTS, SGEMM),
    Workload("e-dense", "a given matrix: 10 000 × 10 000 float32 of real similarities, k = 1000",
             lambda s: dense(s, real=True), PASSES, READ),
    Workload("e-random", "a given matrix: 10 000 × 10 000 float32, uniformly random, k = 1000",
             lambda s: dense(s, real=False), PASSES, READ),
    Workload("e-sparse", "a given sparse matrix: 200 000 rows of 50 neighbours, k = 1000",
             lambda s: Matrix(sparse(s), int(1000 * s)), ()),
    Workload("e-sparse-2", "… 400 000 rows", lambda s: Matrix(sparse(2 * s), int(1000 * s)),
             TWICE, HALF),
    Workload("e-sparse-4", "… 800 000 rows", lambda s: Matrix(sparse(4 * s), int(1000 * s)),
             TWICE, HALF),
    Workload("f", "1 000 000 × 64, k = 1000, from parts of a sample (GreeDi)", million, LARGE,
             file="augmented"),
    Workload("g-import", "`from subsel import select`, from the start of Python",
             lambda _: Startup("from subsel import select"), (Target("seconds", seconds, 0.5),),
             ("`import numpy`", lambda _: Startup("import numpy").run)),
    Workload("g-warm", "first selection (1000 × 10, k = 100), from the start of Python",
             lambda _: Startup(FIRST_USE), (Target("seconds", seconds, 1.5),), PEER),
    Workload("g-cold", "… with an empty compile cache",
             lambda _: Startup(FIRST_USE, cold=True), (Target("seconds", seconds, 15),), PEER),
]  # fmt: skip
