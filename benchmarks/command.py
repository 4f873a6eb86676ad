"""What `subsel select` takes beside reading the file alone: seconds, and memory at its peak.

    python -m benchmarks.command                # 1 000 000 x 64, 100 classes, 1 %
    python -m benchmarks.command --rows 100000

Each step is a process of its own. Memory is the most that a process had at once, the interpreter
and its libraries included. Kernels are compiled before.
"""

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
path, n, d, classes = sys.argv[1], *map(int, sys.argv[2:])
random = np.random.default_rng(0)
label = random.integers(0, classes, n)
centres = random.normal(size=(classes, d)).astype(np.float32)
X = random.standard_normal((n, d), dtype=np.float32) + centres[label]
vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), d)
pq.write_table(pa.table({"label": label, "embedding": vectors}), path)
"""
READ = "import sys, pyarrow.parquet as pq; pq.read_table(sys.argv[1])"
LIBRARIES = "import numba, scipy.sparse, pyarrow.parquet, subsel; subsel.select, subsel.greedi"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        sizes = map(str, (args.rows, args.columns, args.classes))
        measured([sys.executable, "-c", MAKE, str(file), *sizes])
        command = [
            sys.executable, "-m", "subsel", "select", str(file), "--by", "label", "--budget", "1%",
            "--out", f"{folder}/chosen.parquet",
        ]  # fmt: skip
        measured([sys.executable, "-m", "subsel", "warm-up", "--quick"])
        features = args.rows * args.columns * 4
        print(f"{args.rows} x {args.columns} float32: {features / 2**20:.0f} MiB")
        steps = {
            "the libraries": [sys.executable, "-c", LIBRARIES],
            "reading the file": [sys.executable, "-c", READ, str(file)],
            "subsel select": command,
        }
        for name, step in steps.items():
            seconds, first, memory = measured(step)
            sign = "" if first is None else f", first sign of life after {first:.1f} s"
            print(
                f"{name:18}{seconds:7.1f} s, {memory / 2**20:6.0f} MiB, {memory / features:.2f} "
                f"times the features{sign}"
            )


def measured(command: list[str]) -> tuple[float, float | None, int]:
    """Seconds, seconds until something was written to the terminal, and bytes at most."""
    master, terminal = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal)
    os.close(terminal)
    first, said = None, b""
    while True:
        try:
            text = os.read(master, 4096)
        except OSError:  # nobody writes any more
            break
        first = first or time.perf_counter() - began
        said += text
    _, status, usage = os.wait4(process.pid, 0)
    os.close(master)
    if status:
        sys.exit(f"failed: {' '.join(command)}\n{said.decode(errors='replace')}")
    return time.perf_counter() - began, first, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
