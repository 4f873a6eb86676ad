"""The units in which similarities are stored, and the grid that makes their sums exact.

A similarity is stored without its offset and in a unit of its own: similarity = unit * (stored +
offset). So distances keep their full precision near zero. Nothing in this module depends on the
kind of source or on the backend.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from subsel.kernels import cpu
from subsel.validation import check_choice, check_number, read_only

METRICS = {
    "euclidean": cpu.EUCLIDEAN,
    "cosine": cpu.COSINE,
    "dot": cpu.DOT,
    "rbf": cpu.RBF,
}

COMPUTED = ("correlation", "manhattan", "hamming", "jaccard", "tanimoto")
"""Metrics that the fastest kernels are not for: see `subsel.sources.measures`. The first is the
cosine of centred rows, and the last another name of the one before."""

DENSE_FROM_DIMENSION = 33
"""Width of features from which on a matrix in memory is faster than computing again; below it the
bounds on distance skip more than the matrix saves (docs/performance.md)."""

FEW_ROWS = 1024
"""Up to so many rows a matrix is as fast in any dimension, and its kernels compile sooner."""

_PORTION = 2**18
"""Numbers that are centred at a time."""


def grid(n_points: int, span: float) -> tuple[float, float]:
    """The grid on which sums of `n_points` similarities in 0..span are exact in float64."""
    if span <= 0:
        return 1.0, 1.0
    (a, points), (b, size) = math.frexp(n_points), math.frexp(span)
    exponent = points + size + math.frexp(a * b)[1]  # of n_points * span, which may overflow
    if not -960 < exponent < 1000:
        raise ValueError(
            f"similarities of magnitude {span:g} cannot be summed in float64; rescale them"
        )
    exponent = max(exponent, math.frexp(span)[1] + 4)  # room for rounding by addition
    return 2.0 ** (53 - exponent), 2.0 ** (exponent - 53)


@dataclass(frozen=True)
class Scale:
    """Similarity = unit * (stored + offset), stored within `span` above -offset.

    Features are divided by 2**exponent first; `gamma` is that of the divided ones.
    """

    unit: float
    offset: float
    span: float
    exponent: int = 0
    gamma: float = 1.0


UNIT_LENGTH = Scale(1.0, 2.0, 2.0)
"""The scale of cosines."""


def choose_scale(
    metric: str, gamma: float | None, low: np.ndarray, high: np.ndarray, radius: float
) -> Scale:
    """Choose the scale from the ranges of features and the radius, as `spread` defines it."""
    ends = float(low.min()), float(high.max())
    return scale_of(metric, gamma, *ends, radius, len(low), low.dtype)


def scale_of(
    metric: str, gamma: float | None, least: float, most: float, radius: float, d: int, dtype: Any
) -> Scale:
    """Choose the scale of d features, none below `least` or above `most`."""
    if metric == "cosine":
        return UNIT_LENGTH
    limits = np.finfo(dtype)
    if radius and not (1e-150 < radius < 1e150 if metric == "dot" else radius < 1e300):
        raise ValueError(f"X spreads over {radius:g}, too far for {metric}; rescale it")
    # Near the spread, but not so small that the largest feature overflows.
    largest = max(abs(least), abs(most))
    exponent = max(math.frexp(radius)[1], math.frexp(largest)[1] - int(limits.maxexp) + 8)
    unit = math.ldexp(1.0, exponent)
    bound = round_up(radius / unit * (1 + (d + 64) * float(limits.eps)))
    if metric == "euclidean":
        return Scale(unit, 2 * bound, 2 * bound, exponent)
    if metric == "dot":
        offset = 0.0 if least >= 0 else round_up(bound**2)
        return Scale(unit**2, offset, offset + round_up(bound**2), exponent)
    rate = (1 / d if gamma is None else gamma) * unit * unit
    highest = float(limits.max) / 2**10
    if gamma is None and rate > highest:  # rows that are near one another would count as equal
        raise ValueError(f"X spreads over {radius:g}, too far for rbf with gamma = 1/d; rescale it")
    return Scale(1.0, 1.0, 1.0, exponent, min(max(rate, float(limits.tiny)), highest))


def spread(metric: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, Any]:
    """The middle of the ranges (for inner products 0), and how far features are from it at most.

    Ranges have the shape (d,), or (classes, d) for as many extents.
    """
    middle = np.zeros(low.shape) if metric == "dot" else low.astype(np.float64) / 2 + high / 2.0
    return middle, np.maximum(high - middle, middle - low).max(axis=-1)


def choose_rule(metric: str, scale: Scale, n_points: int, d: int, dtype: Any) -> tuple:
    """The parameters of kernels: metric, gamma, the grid, and a factor that keeps bounds safe."""
    up, down = grid(n_points, scale.span)
    # A computed distance is off by at most (d + 4) / 2 units in the last place; the last
    # factor makes every bound on distances err on the side of looking.
    shrink = 1 - (d + 64) * 4 * float(np.finfo(dtype).eps)
    number = np.dtype(dtype).type
    return METRICS[metric], number(scale.gamma), number(up), number(down), number(shrink)


def matrix_pays(metric: str, d: int) -> bool:
    """Whether selecting from d features is faster with all similarities in memory."""
    return d >= DENSE_FROM_DIMENSION or metric == "dot"


def matrix_fits(metric: str, n: int, d: int, itemsize: int, memory: int) -> bool:
    """Whether a matrix pays and takes no more than so many bytes."""
    size = n * n * (itemsize + 1)  # 1: see `DenseSimilarity.thinned`
    return (n <= FEW_ROWS or matrix_pays(metric, d)) and size <= memory


def round_up(x: float) -> float:
    """The next number with at most eight significant bits, which is exact on every grid in use."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)


def is_tiled(metric: Any) -> TypeGuard[str]:
    """Whether the search computes similarities itself, without a matrix."""
    return not callable(metric) and (metric in METRICS or metric == "correlation")


def centred(features: np.ndarray, dtype: Any = None) -> np.ndarray:
    """Rows less their means, whose cosines are correlations. Constant rows become rows of zeros.

    Rows are brought near 1 by powers of two, which changes no correlation, and centred in float64.
    """
    features = read_only(features)  # in one order, as means are sums
    out = np.empty(features.shape, features.dtype if dtype is None else dtype)
    step = max(1, _PORTION // features.shape[1])
    for start in range(0, len(features), step):
        rows = features[start : start + step].astype(np.float64)
        least, largest = rows.min(axis=1), rows.max(axis=1)
        exponent = np.frexp(np.maximum(largest, -least))[1].astype(np.int32)
        rows = np.ldexp(rows, -exponent[:, None])
        rows -= rows.mean(axis=1)[:, None]
        rows[least == largest] = 0
        out[start : start + step] = rows
    return out


def directions(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, whose products are cosines, with one more column for rows of zeros."""
    lengths = np.linalg.norm(rows, axis=1)
    zero = lengths == 0
    return np.column_stack([rows / (lengths + zero)[:, None], zero])


def check_metric(metric: Any, gamma: float | None = None) -> float | None:
    """Check a metric (a name or a function) and gamma (positive, only for "rbf")."""
    if not callable(metric):
        check_choice(metric, (*METRICS, *COMPUTED), "metric")
    if gamma is None:
        return None
    gamma = check_number(gamma, "gamma", 0)
    if metric != "rbf":
        raise ValueError(f"gamma needs metric='rbf', not {metric!r}")
    return gamma
