"""Compiled kernels: where they are kept, when they are made anew, and how many threads they use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from subsel.kernels import compiling, disk_cache

ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "import numpy as np\n"
    "from subsel.kernels import cpu\n"
    "assert cpu.is_symmetric(np.eye(3)) and not cpu.is_symmetric(np.tri(3))\n"
)


def start(code, **environment):
    """A fresh process that runs some code with warnings as errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    """What it wrote to standard error, once it has ended well."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def kept(folder):
    return sorted(path.name for path in Path(folder).rglob("*.nbc"))


@pytest.fixture
def files(tmp_path):
    return disk_cache._Files(tmp_path, "kernel")


def test_what_was_kept_is_found_again_by_the_same_key_only(files):
    files.save(("float32",), "machine code")
    assert files.load(("float32",)) == "machine code"
    assert files.load(("float64",)) is None


def test_other_sources_make_what_was_kept_useless_and_it_is_removed(files, monkeypatch, tmp_path):
    files.save("key", "old")
    monkeypatch.setattr(disk_cache, "_stamp", lambda: "another state of the sources")
    assert files.load("key") is None
    files.save("key", "new")
    assert files.load("key") == "new"
    assert len(kept(tmp_path)) == 1


def test_every_source_that_kernels_are_compiled_from_is_in_the_stamp(monkeypatch, tmp_path):
    for folder in ("kernels", "objectives"):
        (tmp_path / folder / "deep").mkdir(parents=True)
    monkeypatch.setattr(disk_cache, "_PACKAGE", tmp_path)
    seen = set()
    for path in ("kernels/a.py", "kernels/deep/b.py", "objectives/c.py"):
        for text in ("x = 1", "x = 2"):
            (tmp_path / path).write_text(text)
            seen.add(disk_cache._stamp.__wrapped__())
    assert len(seen) == 6


@pytest.mark.parametrize("damage", [b"", b"\x80", b"no pickle at all"])
def test_a_damaged_file_is_as_good_as_none(files, damage, tmp_path):
    files.save("key", "machine code")
    (tmp_path / kept(tmp_path)[0]).write_bytes(damage)
    assert files.load("key") is None


def test_a_full_disk_costs_the_cache_and_nothing_else(files, monkeypatch, caplog):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    files.save("key", "machine code")
    assert "No space left" in caplog.text
    assert files.load("key") is None


def test_what_a_killed_process_left_half_written_is_removed(files, tmp_path):
    files.save("key", "machine code")
    (whole,) = kept(tmp_path)
    old, new = tmp_path / f"{whole}.0123.part", tmp_path / f"{whole}.4567.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    files.save("other key", "machine code")
    assert not old.exists()
    assert new.exists()  # another process may be writing it


PRESSED = {
    "as it begins": """
from numba.core import event
class Pressed(event.Listener):
    def on_start(self, _):
        event.unregister('numba:compile', self)
        press()
    def on_end(self, _): pass
event.register('numba:compile', Pressed())
""",
    # What is raised in a function that LLVM calls is printed and forgotten.
    "while LLVM calls Python": """
from numba.core.codegen import JITCodeLibrary
own = JITCodeLibrary._object_compiled_hook
def _raw_object_cache_notify(cls, *arguments):
    JITCodeLibrary._object_compiled_hook = own
    press()
    return own(*arguments)
JITCodeLibrary._object_compiled_hook = classmethod(_raw_object_cache_notify)
""",
    "while Python tidies up": """
from numba.core import event
class Tidied:
    def __del__(self):
        press()
        time.sleep(0.01)
class Pressed(event.Listener):
    def on_start(self, _):
        event.unregister('numba:compile', self)
        Tidied()
    def on_end(self, _): pass
import subsel.kernels.compiling
event.register('numba:compile', Pressed())
""",
}


@pytest.mark.parametrize("moment", PRESSED)
def test_ctrl_c_while_kernels_are_compiled(moment, tmp_path):
    code = (
        "import os, signal, time\n"
        "import numpy as np\n"
        "def press():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        f"{PRESSED[moment]}"
        "from subsel.kernels import cpu\n"
        "try:\n"
        "    cpu.is_symmetric(np.eye(3))\n"
        "    time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "    assert cpu.is_symmetric(np.eye(3)) and not cpu.is_symmetric(np.tri(3))\n"
        "else:\n"
        "    raise AssertionError('it was not heard')\n"
    )
    finished(start(code, NUMBA_CACHE_DIR=str(tmp_path)))
    assert len(kept(tmp_path)) == 1


def test_damaged_machine_code_is_compiled_anew(tmp_path):
    place = {"NUMBA_CACHE_DIR": str(tmp_path)}
    finished(start(SMALL, **place))
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*.nbc")}
    for path, content in whole.items():
        middle = len(content) // 2
        path.write_bytes(content[:middle] + b"\xff" * 64 + content[middle + 64 :])
    finished(start(SMALL, **place))
    assert whole.keys() == set(tmp_path.rglob("*.nbc"))
    assert all(b"\xff" * 64 not in path.read_bytes() for path in whole)


def test_two_processes_fill_one_cache_at_the_same_time(tmp_path):
    both = [start(SMALL, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    for process in both:
        finished(process)
    assert not list(tmp_path.rglob("*.part"))


def test_where_nothing_can_be_written_kernels_still_run(tmp_path):
    (tmp_path / "a file").write_text("")
    said = finished(start(SMALL, NUMBA_CACHE_DIR=str(tmp_path / "a file" / "folder")))
    assert said.count("no folder can be written to") == 1


def test_the_temporary_directory_serves_where_package_and_home_do_not(tmp_path, monkeypatch):
    def written(folder):
        return str(tmp_path) in str(folder) and not folder.mkdir(0o700, True, True)

    monkeypatch.setattr(disk_cache.config, "CACHE_DIR", "")
    monkeypatch.setattr(disk_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(disk_cache, "_can_be_written", written)
    folder = disk_cache.cache_folder.__wrapped__()
    assert folder.is_relative_to(tmp_path)
    folder.chmod(0o777)
    assert disk_cache.cache_folder.__wrapped__() is None


def shipped(tmp_path, writable):
    """A copy of the package without compiled kernels, and a process that uses it."""
    package = shutil.copytree(
        ROOT / "subsel", tmp_path / "subsel", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = (
        "from pathlib import Path\n"
        "from subsel.kernels import disk_cache\n"
        f"package = Path({str(package)!r})\n"
        "real = disk_cache._can_be_written\n"
        f"disk_cache._can_be_written = lambda folder: ({writable}) and real(folder)\n"
        "assert Path(disk_cache.__file__).is_relative_to(package)\n"
    )
    return package, lambda: start(
        code + SMALL, PYTHONPATH=str(tmp_path), HOME=str(tmp_path / "home"), NUMBA_CACHE_DIR="",
        XDG_CACHE_HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"), PYTHONSAFEPATH="1",
    )  # fmt: skip


@pytest.mark.parametrize("elsewhere", ["False", "package not in folder.parents"])
def test_kernels_that_came_with_the_package_serve_who_cannot_write_to_it(tmp_path, elsewhere):
    """As in a container that was warmed up when it was built."""
    (tmp_path / "tmp").mkdir()
    package, filled = shipped(tmp_path, "True")
    finished(filled())
    files = kept(tmp_path)
    assert files == kept(package)
    assert len(files) == 1
    _, used = shipped(tmp_path / "other", elsewhere)
    shutil.copytree(
        package / "kernels" / "__pycache__", tmp_path / "other/subsel/kernels/__pycache__"
    )
    (tmp_path / "other" / "tmp").mkdir()
    finished(used())
    assert kept(tmp_path / "other") == files  # nothing was compiled anew, or kept elsewhere
    (tmp_path / "other/subsel/kernels/__pycache__" / files[0]).unlink()
    said = finished(used())
    assert len(kept(tmp_path / "other")) == (elsewhere != "False")
    assert said.count("no folder can be written to") == (elsewhere == "False")


@pytest.mark.parametrize("home", ["", "~/.cache"])
def test_a_user_without_a_home_gets_no_folder_where_they_stand(home, monkeypatch, tmp_path):
    monkeypatch.setattr(disk_cache.config, "CACHE_DIR", "")
    monkeypatch.setattr(disk_cache, "_SHIPPED", tmp_path / "a file" / "folder")
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user that is not known
    monkeypatch.setattr(disk_cache.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    assert disk_cache.cache_folder.__wrapped__().is_relative_to(tmp_path / "tmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "tmp"]


def test_a_folder_that_is_removed_during_a_run_is_said_once(tmp_path):
    code = "import numpy as np\nfrom subsel.kernels import cpu, disk_cache\nimport shutil\n"
    code += "shutil.rmtree(disk_cache.cache_folder())\n"
    code += "assert cpu.is_symmetric(np.eye(3)) and cpu.is_symmetric(np.eye(3, dtype='f4'))\n"
    said = finished(start(code, NUMBA_CACHE_DIR=str(tmp_path)))
    assert said.count("could not be kept") == 1
    assert "No such file" in said


def test_without_compilation_selections_are_the_same(tmp_path):
    code = (
        "import json\n"
        "from tests.golden.cases import RECORD, cases, written\n"
        "record = json.loads(RECORD.read_text())\n"
        "some = [case for case in cases() if case[0].startswith('small')]\n"
        "for name, run in some:\n"
        "    assert written(run(), 'gains' in record[name]) == record[name], name\n"
        "assert len(some) == 11\n"
    )
    finished(start(code, NUMBA_DISABLE_JIT="1", NUMBA_CACHE_DIR=str(tmp_path)))
    assert not kept(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_multiply_add_in_python_rounds_once(dtype):
    x = 1 + np.finfo(dtype).eps
    assert compiling.fma(dtype(x), dtype(x), dtype(-x * x)) == dtype(np.finfo(dtype).eps) ** 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_selects_after_its_parent_did_so_on_all_threads():
    code = (
        "import multiprocessing, os, warnings\n"
        "import numpy as np, subsel\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "X = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)\n"
        "wanted = subsel.select(X, 5).indices.tolist()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(subsel.select(X, 5).indices.tolist() != wanted)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    found = pool.starmap(subsel.select, [(X, 5), (X, 5)])\n"
        "assert [f.indices.tolist() for f in found] == [wanted] * 2\n"
    )
    finished(start(code, NUMBA_NUM_THREADS="2"))
