"""Larger than memory: rows that lie in a file, searched in partitions.

Each partition reads its own rows. On a cluster of Dask the same call uses many machines.
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import subsel

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "features.npy"
    np.save(file, np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32))
    X = np.load(file, mmap_mode="r")

    chosen = subsel.greedi(X, 100, partitions=4, random_state=0)
    together = subsel.select(X, 100)

    print(f"in 4 partitions: {chosen.value / together.value:.4f} of F of one search")
    ax = plt.figure(figsize=(5.2, 3.4), layout="constrained").add_subplot()
    ax.plot(np.sort(together.sizes)[::-1], label="one search")
    ax.plot(np.sort(chosen.sizes)[::-1], label="4 partitions")
    ax.set(xlabel="selected, by size", ylabel="rows that it stands for")
    ax.legend()
    del X  # lets go of the file
