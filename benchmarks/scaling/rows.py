"""Rows to select from, more than fit the memory of the workers: Zarr arrays in data/scaling/.

    python -m benchmarks.scaling.rows 2000000 64      # 512 MB, half a minute
    python -m benchmarks.scaling.rows 1000000 768     # 3 GB

Embeddings of training images (`python -m benchmarks.selection.inputs`), drawn at random, each with
a tenth of the columns' deviation added as noise. The same rows at every call.
"""

import argparse
import json
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from tqdm import tqdm

from benchmarks.selection.inputs import load

FOLDER = Path("data/scaling")
CHUNK = 2**20  # bytes


def open_rows(n, d):
    """The dask array, made unless it is there."""
    path = FOLDER / f"{n}x{d}.zarr"
    if not (path / "done.json").exists():
        make(path, n, d)
    return da.from_zarr(str(path))


def make(path, n, d):
    source = load({64: "embeddings_64", 768: "embeddings"}[d])
    noise = 0.1 * source[:10_000].std(axis=0)
    random = np.random.default_rng(0)
    step = CHUNK // (4 * d)
    path.parent.mkdir(parents=True, exist_ok=True)
    array = zarr.create_array(str(path), shape=(n, d), chunks=(step, d), dtype="f4", overwrite=True)
    for start in tqdm(range(0, n, step), desc=str(path), unit="chunk"):
        rows = np.sort(random.integers(len(source), size=min(step, n - start)))
        block = source[rows] + noise * random.standard_normal((len(rows), d), np.float32)
        array[start : start + len(rows)] = random.permutation(block)
    (path / "done.json").write_text(json.dumps({"rows": n, "columns": d}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=int)
    parser.add_argument("columns", type=int, choices=[64, 768])
    args = parser.parse_args()
    print(open_rows(args.rows, args.columns))


if __name__ == "__main__":
    main()
