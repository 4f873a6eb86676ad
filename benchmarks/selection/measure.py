"""Time, memory and the records of the benchmarks."""

import ast
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RUNS = Path("runs/selection")
THREADS = ["OMP", "OPENBLAS", "MKL", "NUMBA"]


def timed(run):
    """Result, seconds, and bytes of memory beyond what the process had before.

    Pages of mapped files are not counted: they are the input, and given back when needed. Memory is
    None where there is no /proc to tell it.
    """
    proc = Path("/proc/self")
    if proc.exists():
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before belongs to nobody
        (proc / "clear_refs").write_text("5")  # lets the peak start anew
        before = _resident()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    if not proc.exists():
        return result, seconds, None
    after = _resident()
    return result, seconds, max(0, after["VmHWM"] - after["RssFile"] - before["RssAnon"])


def _resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {f[0][:-1]: int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def in_process(module, arguments, threads, python=sys.executable):
    """Run a module in a process of its own; the record that it prints last, or an error's words."""
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in THREADS}
    run = subprocess.run(
        [python, "-m", module, *map(str, arguments)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        return None, "\n".join(run.stderr.strip().splitlines()[-5:]) or f"status {run.returncode}"
    return json.loads(run.stdout.splitlines()[-1]), ""


def read(path):
    """Records of a file of JSON lines; a last line cut short by an interruption is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append(path, record):
    """Add one record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def source():
    """A digest of what is measured: records of another state are not mixed with these.

    Of the selection's code and the benchmarks', without comments and docstrings.
    """
    files = [
        file
        for folder in (Path("subsel"), Path(__file__).parent)
        for file in sorted(folder.rglob("*.py"))
        if "defense" not in file.parts
    ]
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(getattr(node, "body", None), list):
                node.body = [part for part in node.body if not _is_text(part)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def conditions(threads, *packages):
    """Date, machine and versions, in words."""
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    used = f"{threads} thread{'' if threads == 1 else 's'}"
    return f"{date.today()}; {processor()}, {used}, {memory:.0f} GiB; {', '.join(versions)}"


def processor():
    """Its name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().split("model name") if info.exists() else []
    return names[1].split("\n")[0].strip("\t :") if len(names) > 1 else platform.machine()
