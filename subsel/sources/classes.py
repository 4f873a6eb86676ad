"""Greedy facility location of small classes of rows, many of them in one call of a kernel."""

from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import Classes, Picks
from subsel.sources.features import Features, conditioned
from subsel.sources.scale import (
    METRICS,
    UNIT_LENGTH,
    grid,
    is_tiled,
    matrix_fits,
    scale_of,
    spread,
)
from subsel.validation import read_only

SMALL = 512
"""Rows up to which a class is small: its similarities fit into the second-level cache."""

_NUMBERS = 2**20
"""Features that are copied and scaled at a time."""

_PAIRS = 2**24
"""Pairs of rows that are compared in one call, in about a tenth of a second."""


def small_classes(features: Any, sizes: np.ndarray, metric: Any, workers: int) -> list[np.ndarray]:
    """The small ones of classes of these sizes, in batches for `in_classes`."""
    small = np.flatnonzero(sizes <= SMALL)
    if not (isinstance(features, Features) and is_tiled(metric) and len(small)):
        return []
    d, own = features.array.shape[1], sizes[small]
    work = np.maximum(own * d / _NUMBERS, own**2 / _PAIRS)
    # Enough for all workers to end at about the same time, but not of less than a millisecond.
    parts = max(work.sum(), min(4 * workers, 64 * work.sum()))
    number = (np.cumsum(work) * (parts / work.sum())).astype(int)
    return np.split(small, np.flatnonzero(np.diff(number)) + 1)


def in_classes(
    features: Features, sizes: np.ndarray, counts: np.ndarray, metric: Any, memory: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Select so many rows of each class, of small classes that come one after the other.

    Returns
    -------
    elements : ndarray of int64
        Rows, in order of selection in the first class, then in the second one, and so on.
    gains : ndarray of float64
    assignment : ndarray of int64, shape (n,)
        For each row a position in `elements`.
    bounds : ndarray of float64, shape (classes,)
        Upper bounds of F of each class.
    path : str
        That of a class which is searched alone, with so much `memory`.
    """
    X, starts = read_only(features.array), _starts(sizes)
    d, number = X.shape[1], X.dtype.type
    if metric in ("cosine", "correlation"):
        scales = [UNIT_LENGTH] * len(sizes)
        rows, metric = conditioned(X, metric, UNIT_LENGTH), "cosine"
    else:
        low, high = np.empty((2, len(sizes), d), number)
        cpu.ranges(X, starts, low, high)
        middle, extent = spread(metric, low, high)
        radius = cpu.radii(X, starts, middle, extent)
        ends = (low.min(axis=1), high.max(axis=1), radius)
        scales = [
            scale_of(metric, None, least, most, reach, d, X.dtype)
            for least, most, reach in zip(*(end.tolist() for end in ends), strict=True)
        ]
        exponents = np.array([scale.exponent for scale in scales], np.int32)
        rows = read_only(np.ldexp(X, -exponents.repeat(sizes)[:, None]))
    grids = [grid(n, scale.span) for n, scale in zip(sizes.tolist(), scales, strict=True)]
    ups, downs = (np.array(side, number) for side in zip(*grids, strict=True))
    classes = Classes(
        rows, starts, METRICS[metric], np.array([scale.gamma for scale in scales], number), ups,
        downs, np.array([-scale.offset for scale in scales]),
        np.array([scale.unit for scale in scales]),
    )  # fmt: skip
    picks = Picks(
        _starts(counts), np.empty(counts.sum(), np.int64), np.empty(counts.sum()),
        np.empty(len(rows), np.int64), np.empty(len(sizes)),
    )  # fmt: skip
    cpu.select_in_classes(classes, picks)
    path = "dense" if matrix_fits(metric, int(sizes.max()), d, X.itemsize, memory) else "features"
    return picks.elements, picks.gains, picks.assigned, picks.bounds, path


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
