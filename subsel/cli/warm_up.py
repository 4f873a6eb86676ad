"""`subsel warm-up`: compile every kernel for the usual kinds of input, and keep the result on disk.

The first selection of each kind compiles its kernels, which takes up to half a minute. This command
compiles them ahead, for instance when a container is built. Run it as the user who will later
select, or as a user who can write to the folder of the package; then the kernels serve all users.
``NUMBA_CACHE_DIR`` names another folder for them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from subsel.progress import Progress, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--quick", action="store_true", help="only what selecting rows of features needs"
    )


def run(args: argparse.Namespace) -> int:
    """Compile all kernels, and print where they are kept."""
    from subsel.kernels.disk_cache import cache_folder

    began = time.perf_counter()
    jobs = list(_features() if args.quick else _everything())
    for _, job in Progress(jobs, desc="compile", unit="kind", disable=None):
        job()
    place = cache_folder() or "memory only, as no folder can be written to"
    say(f"compiled in {time.perf_counter() - began:.0f} s; kept in {place}\n")
    return 0


def _everything() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Pairs of a kind of input and a job that compiles the kernels for it."""
    yield from _features()
    for dtype in (np.float32, np.float64):
        yield f"other objectives of features, {dtype.__name__}", partial(_others, dtype)
    yield from _matrices()


def _features() -> Iterator[tuple[str, Callable[[], Any]]]:
    for dtype in (np.float32, np.float64):
        for memory in (0, None):
            yield f"features, {dtype.__name__}", partial(_select, dtype, memory)


def _matrices() -> Iterator[tuple[str, Callable[[], Any]]]:
    import scipy.sparse

    for dtype in (np.float32, np.float64):
        S = np.random.default_rng(0).random((80, 80)).astype(dtype)
        kinds = {
            "matrix": S,
            "symmetric matrix": np.asfortranarray(np.maximum(S, S.T)),
            "sparse matrix": scipy.sparse.csr_array(S),
        }
        for name, matrix in kinds.items():
            yield f"{name}, {dtype.__name__}", partial(_search, matrix)


def _select(dtype: Any, memory: float | None) -> None:
    import subsel
    from subsel.sources import base

    X = np.random.default_rng(0).random((150, 40)).astype(dtype)
    usual = base.PARALLEL_WORK
    try:
        for base.PARALLEL_WORK in (usual, 0):  # for one thread, and for all
            subsel.select(X, 70, memory=memory)
            subsel.select(X, 0.1, labels=np.arange(len(X)) % 3)
    finally:
        base.PARALLEL_WORK = usual
    _use(subsel.FacilityLocation.from_features(X, memory=memory))
    _use(subsel.SaturatedCoverage.from_features(X, memory=memory))


def _others(dtype: Any) -> None:
    """Objectives of features that need no matrix."""
    import subsel

    X = np.random.default_rng(0).random((150, 40)).astype(dtype)
    for metric in ("dot", "rbf"):
        _use(subsel.GraphCut.from_features(X, metric))
        _use(subsel.LogDeterminant.from_features(X, metric=metric))
    for kind in (subsel.DisparitySum, subsel.DisparityMin):
        _use(kind.from_features(X))
    _use(subsel.FeatureBased(X))


def _search(matrix: Any) -> None:
    import subsel

    _use(subsel.FacilityLocation(matrix))
    _use(subsel.SaturatedCoverage(matrix))
    _use(subsel.FeatureBased(matrix))
    _use(subsel.SetCover(matrix > 0.5))
    _use(subsel.ProbabilisticSetCover(matrix / 2))
    if matrix.shape[0] == matrix.shape[1]:
        _use(subsel.GraphCut(matrix))


def _use(f: Any) -> None:
    import subsel

    (subsel.lazy_greedy if f.submodular else subsel.greedy)(f, 5)
    f.value([0, 1])
    f.restrict([2, 1, 0]).gains([0])
    f.reset()
    f.add(1)
