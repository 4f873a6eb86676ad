"""Rows to select from, more than fit the memory of the workers: Zarr arrays in data/scaling/.

    python -m benchmarks.scaling.rows 2000000 64      # 512 MB, half a minute
    python -m benchmarks.scaling.rows 1000000 768     # 3 GB

They are embeddings with noise, the same at every call (`python -m benchmarks.selection.inputs`
makes the embeddings).
"""

import argparse
import json
from pathlib import Path

import dask.array as da
import zarr
from tqdm import tqdm

from benchmarks.selection.inputs import noisy_embeddings

FOLDER = Path("data/scaling")
CHUNK = 2**20  # bytes


def open_rows(n, d):
    """The dask array, made unless it is there."""
    path = FOLDER / f"{n}x{d}.zarr"
    if not (path / "done.json").exists():
        make(path, n, d)
    return da.from_zarr(str(path))


def make(path, n, d):
    step = CHUNK // (4 * d)
    path.parent.mkdir(parents=True, exist_ok=True)
    array = zarr.create_array(str(path), shape=(n, d), chunks=(step, d), dtype="f4", overwrite=True)
    starts = tqdm(range(0, n, step), desc=str(path), unit="chunk")
    for start, block in zip(starts, noisy_embeddings(n, d, step), strict=True):
        array[start : start + step] = block
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
