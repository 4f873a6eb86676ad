"""`subsel info`: versions and settings of this installation, for bug reports."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from subsel.progress import say

PACKAGES = (
    "subsel", "numpy", "scipy", "numba", "numba-cuda", "torch", "dask", "scikit-learn",
    "matplotlib", "pyarrow", "narwhals", "pandas", "polars", "zarr",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(args: argparse.Namespace) -> int:
    """Print them."""
    for name, value in facts():
        say(f"{name:14}{value}\n")
    return 0


def facts() -> list[tuple[str, str]]:
    """The names and values that `run` prints."""
    from subsel.kernels.compiling import threads
    from subsel.kernels.disk_cache import cache_folder

    found = [("python", f"{platform.python_version()} on {platform.platform()}")]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    folder = cache_folder()
    return [
        *found,
        ("processors", str(os.cpu_count())),
        ("threads", str(threads())),
        ("kernels in", str(folder) if folder else "memory only: no folder can be written to"),
        ("gpu", _gpu()),
    ]


def _gpu() -> str:
    from subsel.sources import require_gpu

    try:
        require_gpu()
    except (ImportError, RuntimeError) as error:
        return f"none: {error}"
    from numba import cuda

    return cuda.get_current_device().name.decode()
