"""As in a container: a user without a home or a name, a package that is read-only, little memory.

Runs where the tests run as root on Linux, with `setpriv` and `prlimit` of util-linux. The user has
the right to read everything, for Python may be installed where only root can look, and no other
right. Compiled kernels that are in the package already are used from there. They have to be there
before the limit is set: LLVM ends the process where it runs out of memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import subsel

ROOT = Path(__file__).parent.parent.parent
USER = 54321
"""A number that no user has, as some container platforms give one."""

AS_A_STRANGER = [
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs",
    "--bounding-set=-all,+dac_read_search",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
]  # fmt: skip


def can_be_tried():
    if sys.platform != "linux" or os.getuid() != 0:
        return False
    if not (shutil.which("setpriv") and shutil.which("prlimit")):
        return False
    python = [*AS_A_STRANGER, sys.executable, "-c", "import numpy, torch"]
    return subprocess.run(python, capture_output=True, cwd="/").returncode == 0


pytestmark = pytest.mark.skipif(not can_be_tried(), reason="needs root, setpriv and prlimit")


@pytest.fixture(scope="module")
def container():
    """A folder with the package, which is read-only, and two folders that can be written."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        shutil.copytree(ROOT / "subsel", place / "subsel")
        subprocess.run(["chmod", "-R", "a-w", place / "subsel"], check=True)
        for name in ("work", "tmp"):
            (place / name).mkdir()
            os.chown(place / name, USER, USER)
        yield place


def run(container, *command, home=None, address_space=None):
    """What a command of Python's writes in the container, which is not root's."""
    limit = [] if address_space is None else ["prlimit", f"--as={address_space}"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(container),
        "TMPDIR": str(container / "tmp"),
        "OPENBLAS_NUM_THREADS": "1",
        **({} if home is None else {"HOME": home}),
    }
    done = subprocess.run(
        [*AS_A_STRANGER, *limit, sys.executable, *command],
        cwd=container / "work", env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SELECTS = """
import json, os, resource
from pathlib import Path
import numpy as np
import subsel
assert os.getuid() != 0
package = Path(subsel.__file__).parent
assert not os.access(package, os.W_OK) and not os.access(package / "kernels", os.W_OK)
X = np.random.default_rng(0).normal(size=(6000, 40)).astype(np.float32)
subsel.select(X[:200], 5, memory=1e9), subsel.select(X, 10, memory=0)  # kernels are there
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, resource.RLIM_INFINITY))
chosen = [subsel.select(X, 10, memory=memory) for memory in (None, 1e9)]
print(json.dumps([[c.path, c.indices.tolist(), [g.hex() for g in c.gains]] for c in chosen]))
"""


@pytest.mark.parametrize("home", [None, "/root"])
def test_it_selects(container, home):
    """A matrix of 144 MB does not fit into what is left, and is not needed."""
    X = np.random.default_rng(0).normal(size=(6000, 40)).astype(np.float32)
    wanted = subsel.select(X, 10, memory=0)
    for path, indices, gains in json.loads(run(container, "-c", SELECTS, home=home)):
        assert path == "features"
        assert indices == wanted.indices.tolist()
        assert gains == [float(gain).hex() for gain in wanted.gains]
    assert not any((container / "work").iterdir())  # nothing is left where the user stands


def test_it_trains(container):
    pytest.importorskip("sklearn")
    said = run(
        container, "-m", "subsel.defense.train", "--dataset", "digits", "--no-augment",
        "--device", "cpu", "--model", "tiny-cnn", "--batch-size", "128", "--epochs", "2",
        "--warmup", "0", "--interval", "1", "--out", "trained", address_space=4 * 2**30,
    )  # fmt: skip
    assert "written to trained" in said
    lines = (container / "work" / "trained" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert sorted(path.name for path in (container / "work").iterdir()) == ["trained"]
    assert (container / "work" / "trained" / "checkpoint.pt").stat().st_uid == USER
