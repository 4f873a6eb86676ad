"""How long selection takes. Compare with an earlier state by pytest-benchmark's own means:

    pytest benchmarks/selection --benchmark-enable --benchmark-autosave
    pytest benchmarks/selection --benchmark-enable --benchmark-compare

Inputs are real where `python -m benchmarks.selection.inputs` was run. Kernels are compiled and the
answer is checked outside of the timing.
"""

import numpy as np
import pytest

import subsel
from benchmarks.selection.inputs import load
from subsel.kernels import reference


@pytest.fixture(scope="module")
def inputs():
    return load()


def cifar_shaped(inputs):
    """Ten classes of 5000."""
    rows = np.concatenate([np.flatnonzero(inputs["labels"] == c)[:5000] for c in range(10)])
    return inputs["gradients"][rows], inputs["labels"][rows]


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_epic_step(benchmark, inputs, fraction):
    X, labels = cifar_shaped(inputs)
    subsel.select(X, fraction, labels=labels)
    chosen = benchmark(subsel.select, X, fraction, labels=labels)
    benchmark.extra_info["similarities / n^2"] = chosen.n_evaluations / 5000
    assert chosen.sizes.sum() == len(X)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
def test_one_class(benchmark, inputs, metric):
    X = inputs["gradients"][inputs["labels"] == 0]
    subsel.select(X, 600, metric=metric)
    chosen = benchmark(subsel.select, X, 600, metric=metric)
    benchmark.extra_info["similarities / n^2"] = chosen.n_evaluations / len(X)
    f = subsel.FacilityLocation.from_features(X, metric)
    first = reference.gains(reference.similarity(X, metric, c0=f.offset), [])
    assert chosen.gains[0] == pytest.approx(first.max(), rel=1e-5)


@pytest.mark.parametrize("memory", [0, 4e9], ids=["recomputed", "in memory"])
def test_embeddings(benchmark, inputs, memory):
    X = inputs["embeddings"][inputs["labels"] == 0]
    subsel.select(X, 10, memory=memory)
    chosen = benchmark(subsel.select, X, 600, memory=memory)
    assert chosen.sizes.sum() == len(X)


@pytest.mark.parametrize("n", [1000, 4000])
def test_matrix(benchmark, n):
    S = np.random.default_rng(0).random((n, n), dtype=np.float32)
    subsel.lazy_greedy(S, 5)
    chosen = benchmark(subsel.lazy_greedy, S, n // 10)
    assert chosen.value == pytest.approx(reference.value(S.astype(float), chosen.indices))
