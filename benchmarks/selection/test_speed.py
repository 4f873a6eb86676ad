"""How long selection takes. Compare with an earlier state by pytest-benchmark's own means:

    pytest benchmarks/selection --benchmark-enable --benchmark-autosave
    pytest benchmarks/selection --benchmark-enable --benchmark-compare

The workloads of workloads.py, at full size, and a class of gradients by every metric; `-k` picks
some. Without --benchmark-enable a hundredth of the rows is selected from, once, to see that it
works. Kernels are compiled and the answer is checked outside of the timing.
"""

import numpy as np
import pytest

import subsel
from benchmarks.selection.inputs import load, made
from benchmarks.selection.workloads import WORKLOADS
from subsel.kernels import reference

SELECTIONS = [w for w in WORKLOADS if not w.name.startswith("g-")]


@pytest.mark.parametrize("workload", SELECTIONS, ids=lambda w: w.name)
def test_workload(benchmark, workload):
    if benchmark.enabled and workload.file and not made(workload.file):
        pytest.skip("its input was not made: python -m benchmarks.selection.inputs --help")
    problem = workload.make(1 if benchmark.enabled else 0.01)
    chosen = benchmark.pedantic(problem.run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["similarities of all"] = problem.seen(chosen) / problem.pairs()
    problem.check(chosen)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
def test_one_class(benchmark, metric):
    X = np.array(load("gradients")[load("labels") == 0][: None if benchmark.enabled else 300])
    k = len(X) // 10
    chosen = benchmark.pedantic(
        subsel.select, (X, k), {"metric": metric}, rounds=5, warmup_rounds=1
    )
    f = subsel.FacilityLocation.from_features(X, metric)
    first = reference.gains(reference.similarity(X, metric, c0=f.offset), [])
    assert chosen.gains[0] == pytest.approx(first.max(), rel=1e-5)
