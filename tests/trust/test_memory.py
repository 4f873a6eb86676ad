"""How much memory may be taken: control groups, limits of the process, and what is free."""

import os
import subprocess
import sys

import numpy as np
import pytest

import subsel
from subsel.memory import UNKNOWN, available_memory
from subsel.sources.sparse import SparseSimilarity

MIB = 2**20
UNLIMITED = 9223372036854771712
"""What version 1 of control groups says where there is no limit."""


@pytest.fixture
def machine(tmp_path):
    """Writes the files of an imagined machine with 8000 MiB free; their folder."""

    def make(files):
        free = "MemTotal: 16000000 kB\nMemAvailable: 8192000 kB\n"
        for name, text in {"proc/meminfo": free, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(text))
        return tmp_path

    return make


V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


def test_without_control_groups_what_is_free(machine):
    assert available_memory(machine({})) == 8000 * MIB


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sysconf")
    assert available_memory(tmp_path) == UNKNOWN


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        ({"a/b": {"memory.max": 500 * MIB, "memory.current": 200 * MIB}}, 300),
        ({"a": {"memory.max": 500 * MIB, "memory.current": 200 * MIB}}, 300),  # an outer group's
        (
            {
                "a": {"memory.max": 700 * MIB, "memory.current": 600 * MIB},
                "a/b": {"memory.max": 500 * MIB, "memory.current": 200 * MIB},
            },
            100,
        ),
        ({"a/b": {"memory.max": "max\n", "memory.current": 200 * MIB}}, 8000),
        (
            {
                "a/b": {
                    "memory.max": 500 * MIB,
                    "memory.current": 450 * MIB,
                    "memory.stat": f"anon 5\ninactive_file {250 * MIB}\n",
                }
            },
            300,
        ),
        ({"a/b": {"memory.max": "max", "memory.high": MIB, "memory.current": 0}}, 1),
        ({"a/b": {"memory.max": MIB, "memory.current": 2 * MIB}}, 0),
        ({"c": {"memory.max": MIB, "memory.current": 0}}, 8000),  # not around this process
    ],
)
def test_control_groups_of_version_2(machine, groups, left):
    files = {"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": V2}
    for group, numbers in groups.items():
        files |= {f"sys/fs/cgroup/{group}/{name}": text for name, text in numbers.items()}
    assert available_memory(machine(files)) == left * MIB


@pytest.mark.parametrize(
    ("outermost", "own", "limits", "left"),
    [
        ("/", "/a/b", {"a/b": 500 * MIB}, 300),
        ("/", "/a/b", {"a": 500 * MIB, "a/b": UNLIMITED}, 300),
        ("/", "/a/b", {"": UNLIMITED, "a": UNLIMITED, "a/b": UNLIMITED}, 8000),
        # A container whose group is mounted as the outermost, under its name outside.
        ("/docker/0123", "/docker/0123", {"": 500 * MIB}, 300),
        ("/", "/docker/0123", {"": 500 * MIB}, 300),
    ],
)
def test_control_groups_of_version_1(machine, outermost, own, limits, left):
    files = {
        "proc/self/cgroup": f"12:cpu,cpuacct:/other\n4:memory:{own}\n0::/\n",
        "proc/self/mountinfo": V1.format(outermost),
    }
    for group, limit in limits.items():
        folder = f"sys/fs/cgroup/memory/{group}"
        files[f"{folder}/memory.limit_in_bytes"] = limit
        files[f"{folder}/memory.usage_in_bytes"] = 300 * MIB
        files[f"{folder}/memory.stat"] = f"inactive_file 0\ntotal_inactive_file {100 * MIB}\n"
    assert available_memory(machine(files)) == left * MIB


def in_a_process(code):
    """What some code prints in a process of its own, whose limits it may change."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is read, limits are set")


@only_on_linux
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process_itself(limit):
    code = f"""
import resource
from subsel.memory import available_memory
free = available_memory()
resource.setrlimit(resource.{limit}, (2**30, resource.RLIM_INFINITY))
left = available_memory()
assert 0 < left < min(free, 2**30), (free, left)
bytearray(left // 2)
try:
    bytearray(left + 2**26)
except MemoryError:
    print("as it said")
"""
    assert in_a_process(code) == "as it said\n"


@only_on_linux
@pytest.mark.parametrize("memory", ["1e9", "None"])
def test_without_room_for_a_matrix_the_selection_goes_on_from_features(memory):
    """However much `memory` allows, and also where it is left to the library."""
    code = f"""
import resource
from pathlib import Path
import numpy as np
import subsel
X = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
wanted = subsel.select(X, 20, memory=0)
assert subsel.select(X[:200], 5, memory=1e9).path == "dense"  # both ways are compiled and loaded
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 24 * 2**20, resource.RLIM_INFINITY))
chosen = subsel.select(X, 20, memory={memory})
np.testing.assert_array_equal(chosen.indices, wanted.indices)
np.testing.assert_array_equal(chosen.gains, wanted.gains)
print(chosen.path)
"""
    assert in_a_process(code) == "features\n"


def test_without_room_for_a_thinner_matrix_the_search_goes_on_in_the_whole_one(monkeypatch):
    def none_left(*_):
        raise MemoryError

    S = np.random.default_rng(0).random((200, 150))
    wanted = subsel.greedy(S, 60)
    for name, value in {"_THIN_AT": 4, "_THIN_FROM": 0, "_THIN_TO": 1}.items():
        monkeypatch.setattr(f"subsel.sources.dense.{name}", value)
    thinner = []
    for last in (lambda *a: thinner.append(a) or SparseSimilarity(*a), none_left):
        monkeypatch.setattr("subsel.sources.dense.SparseSimilarity", last)
        found = subsel.greedy(S, 60)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.gains, wanted.gains)
    assert thinner
