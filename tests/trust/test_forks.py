"""Processes that are forked after large selections: they select on one thread, and never hang.

Threads do not survive a fork, so a child that waited for those of its parent would wait forever.
Each case runs in a process of its own, which is killed if it does not end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 240
"""Seconds; kernels may have to be compiled."""

SELECTS = """
import multiprocessing, warnings
import numpy as np
import subsel
from subsel.sources import base, columns, levels, residuals
# As if everything were large: all threads of the parent take part.
base.PARALLEL_WORK = 0
levels._PARALLEL_WORK = columns.PARALLEL_WORK = residuals.PARALLEL_WORK = 0
warnings.simplefilter("ignore", DeprecationWarning)
X = np.random.default_rng(0).normal(size=(600, 5)).astype(np.float32)
S = np.abs(X @ X.T)

def everything(_=0):
    found = [
        subsel.select(X, 5, memory=0),
        subsel.select(X, 5, memory=1e9),
        subsel.select(X, 6, labels=np.arange(len(X)) % 3),
        subsel.greedi(X, 4, partitions=2, random_state=0),
        subsel.greedy(subsel.SaturatedCoverage(S), 4),
        subsel.greedy(subsel.GraphCut.from_features(X, "rbf"), 4),
        subsel.greedy(subsel.LogDeterminant(S + 99 * np.eye(len(S), dtype=S.dtype)), 4),
        subsel.StreamSelector(3, 100).partial_fit(X).result(),
    ]
    nearest, _ = subsel.assign(X, X[found[0].indices])
    return [part.tolist() for f in found for part in (f.indices, f.gains)] + [nearest.tolist()]

wanted = everything()
"""

CHILDREN = {
    "Pool": """
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(everything, range(2))
""",
    "joblib": """
import joblib
multiprocessing.set_start_method("fork", force=True)
with joblib.parallel_config("multiprocessing", n_jobs=2):
    found = joblib.Parallel()(joblib.delayed(everything)(i) for i in range(2))
""",
    "DataLoader": """
import torch

class Selections(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return everything()

multiprocessing.set_start_method("fork", force=True)
torch.ones(600, 600) @ torch.ones(600, 600)  # torch's threads run in the parent, too
assert torch.utils.data.get_worker_info() is None
found = [*torch.utils.data.DataLoader(Selections(), batch_size=None, num_workers=2)]
""",
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_forked_children_select_as_their_parent_did(kind):
    pytest.importorskip({"Pool": "numpy", "joblib": "joblib", "DataLoader": "torch"}[kind])
    code = SELECTS + CHILDREN[kind] + "assert found == [wanted] * 2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
