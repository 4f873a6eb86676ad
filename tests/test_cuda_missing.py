"""Where there is no GPU: what is said, and the tests of the backend on Numba's simulator."""

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


def test_the_backend_on_the_simulator():
    """It must be chosen before Numba is imported, hence the process of its own."""
    tests = Path(__file__).with_name("test_cuda.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


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
    monkeypatch.delitem(sys.modules, "subsel.cuda", raising=False)
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    with pytest.raises(ImportError, match=r'pip install "subsel\[cuda\]"'):
        subsel.select(np.eye(5), 2, backend="cuda")
    assert len(subsel.select(np.eye(5), 2)) == 2
