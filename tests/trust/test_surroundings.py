"""Other locales, other options of the interpreter, and homes on a network: the same selections."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.kernels import disk_cache

ROOT = Path(__file__).parent.parent.parent


def digest():
    """A hash of selections of several kinds."""
    X = np.random.default_rng(0).integers(-9, 9, (80, 5)).astype(np.float32)
    S = np.abs(X @ X.T)
    found = [
        subsel.select(X, 9),
        subsel.select(X, 0.2, labels=[["a", "ä", "ß"][i % 3] for i in range(80)]),
        subsel.lazy_greedy(S, 9, given=[3], exclude=[4]),
        subsel.greedy(sp.csr_array(S), subsel.constraints.Groups([0, 1] * 40, at_most=3)),
        subsel.greedy(subsel.SaturatedCoverage(S) + 2.0 * subsel.Modular(X[:, 0]), 9),
        subsel.greedi(X, 4, partitions=2, random_state=0),
    ]
    parts = [part.tobytes() for chosen in found for part in (chosen.indices, chosen.gains)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def python(*arguments, cwd=None, **environment):
    """What Python writes to standard output, and to standard error."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, said
    return done.stdout.decode(), said


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ([], ASCII),
        (["-O"], {}),
        (["-bb", "-W", "error"], {}),
        # Whatever is read or written in the encoding of the locale raises an error.
        (["-X", "warn_default_encoding", "-W", "error::EncodingWarning:subsel"], {}),
        (["-X", "dev", "-W", "error"], {}),
    ],
)
def test_selections_are_the_same(options, environment):
    code = "from tests.trust.test_surroundings import digest; print(digest())"
    out, _ = python(*options, "-c", code, **environment)
    assert out.strip() == digest()


@pytest.mark.parametrize("command", ["subsel", "subsel.defense.train"])
def test_commands_tell_their_options_without_docstrings(command):
    """Kernels are others without docstrings, so that a selection would compile them anew."""
    pytest.importorskip("torch")
    out, _ = python("-OO", "-m", command, "--help")
    assert "usage:" in out


def test_a_training_without_assertions_and_a_locale(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    command = [
        "-m", "subsel.defense.train", "--dataset", "digits", "--no-augment", "--device", "cpu",
        "--model", "tiny-cnn", "--batch-size", "256", "--warmup", "0", "--interval", "1",
    ]  # fmt: skip
    # Into a folder whose name no encoding of ASCII has, and on from there.
    python("-O", *command, "--epochs", "1", "--out", "Übung", cwd=tmp_path, **ASCII)
    files = {path.name for path in (tmp_path / "Übung").iterdir()}
    assert {"checkpoint.pt", "metrics.jsonl", "result.json"} <= files


NO_LOCKS = """
import errno, fcntl, os, time
def none(*_, **__):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = fcntl.lockf = os.link = none
slow_replace, slow_open = os.replace, os.open
os.replace = lambda *a, **k: time.sleep(0.02) or slow_replace(*a, **k)
os.open = lambda *a, **k: time.sleep(0.002) or slow_open(*a, **k)
import numpy as np
from subsel.kernels import cpu
assert cpu.is_symmetric(np.eye(3)) and not cpu.is_symmetric(np.tri(3))
"""


def test_a_home_that_knows_no_locks(tmp_path):
    for _ in range(2):
        _, said = python("-W", "error", "-c", NO_LOCKS, NUMBA_CACHE_DIR=str(tmp_path))
        assert said == ""
        assert len(list(tmp_path.rglob("*.nbc"))) == 1


def test_a_file_that_another_machine_has_replaced_is_as_good_as_none(tmp_path, monkeypatch):
    files = disk_cache._Files(tmp_path, "kernel")
    files.save("key", "machine code")

    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        assert files.load("key") is None
    assert files.load("key") == "machine code"


def test_limits_are_read_in_any_locale(tmp_path):
    """A name of a control group that ASCII has not."""
    group = tmp_path / "sys/fs/cgroup/gruppe-ä"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(str(3 * 2**20))
    (group / "memory.current").write_text(str(2**20))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes("0::/gruppe-ä\n".encode())
    (tmp_path / "proc/self/mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
    )
    code = f"from subsel.memory import available_memory; print(available_memory({str(tmp_path)!r}))"
    out, _ = python("-c", code.encode("unicode_escape").decode(), **ASCII)
    assert int(out) == 2 * 2**20
