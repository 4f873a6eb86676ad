"""Where there is no GPU: what is said, and the tests of the backend on Numba's simulator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import subsel

pytest.importorskip("numba_cuda")
from numba import cuda

pytestmark = pytest.mark.skipif(cuda.is_available(), reason="there is one")


def simulated(*arguments):
    """What a module says on the simulator, which must be chosen before Numba is imported."""
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_backend_on_the_simulator():
    assert " passed" in simulated("pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda.py")


def test_the_benchmark_on_the_simulator(tmp_path):
    said = simulated("benchmarks.gpu", "--small", "--out", str(tmp_path / "gpu.json"))
    assert "60 000 × 10, k = 6000 | " in said
    assert len(json.loads((tmp_path / "gpu.json").read_text())["workloads"]) == 3


def test_every_kernel_compiles_for_an_h100():
    pytest.importorskip("nvidia.cu13.nvvm", reason="needs CUDA's compiler: nvidia-nvvm")
    from benchmarks.gpu import compile_all

    assert all(line["spills"] == 0 for line in compile_all())


def test_no_gpu():
    with pytest.raises(RuntimeError, match=r"no NVIDIA GPU.*nvidia-smi.*numba -s"):
        subsel.select(np.eye(5), 2, backend="cuda")
    with pytest.raises(RuntimeError, match="no NVIDIA GPU"):
        subsel.FacilityLocation(np.eye(5), backend="cuda")


def test_an_old_gpu(monkeypatch):
    class Old:
        compute_capability = (5, 2)

    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "get_current_device", Old)
    with pytest.raises(RuntimeError, match=r"capability 6\.0 or later; this one has 5\.2"):
        subsel.select(np.eye(5), 2, backend="cuda")


def test_no_numba_cuda(monkeypatch):
    monkeypatch.delitem(sys.modules, "subsel.sources.cuda", raising=False)
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    with pytest.raises(ImportError, match=r'pip install "subsel\[cuda\]"'):
        subsel.select(np.eye(5), 2, backend="cuda")
    assert len(subsel.select(np.eye(5), 2)) == 2
