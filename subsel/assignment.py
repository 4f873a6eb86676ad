"""Assign new points to their nearest representatives."""

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import LANES
from subsel.objectives.disjoint import side_by_side
from subsel.sources.features import Conditioned, conditioned, farthest
from subsel.sources.measures import Measured
from subsel.sources.scale import Scale, centred, check_metric, choose_scale, is_tiled, spread
from subsel.sources.sparse_features import nearest
from subsel.validation import (
    BACKENDS,
    ArrayLike,
    Metric,
    as_float_array,
    check_choice,
    check_entries,
    check_matrix_shape,
    check_memory,
    read_only,
)

_FEWEST = 1024
"""Fewest rows of a block, if memory allows: each block has to prepare the representatives anew."""

_WORK = 2**30
"""Most differences of features in a block, about half a second of work between checks for
Ctrl-C."""

_PER_ROW = 256
"""Most bytes that a row of a block takes beside its features."""


def assign(
    X_new: ArrayLike,
    representatives: ArrayLike,
    metric: Metric = "euclidean",
    *,
    backend: str = "auto",
    memory: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Assign each new point to its nearest representative.

    Parameters
    ----------
    X_new : array_like or sparse matrix, shape (n, d)
        Features of the points: finite, any real dtype.
    representatives : array_like or sparse matrix, shape (k, d)
        Features of the representatives, such as ``X[chosen.indices]``: finite, any real dtype.
        Sparse features need the metric ``"cosine"`` or ``"dot"``, and are never made dense.
    metric : str or callable, default "euclidean"
        How distance is measured, as in `select`. ``"rbf"`` has gamma = 1 / d.
    backend : {"auto", "cpu"}, default "auto"
        Both mean the CPU. Arrays in GPU memory are copied from there.
    memory : float, optional
        Bytes that all blocks of points may use together. Default: a quarter of the memory that is
        available to this process, as in `select`. The result does not depend on it. A small value
        may be exceeded, because a block has at least 64 points and the representatives are copied.

    Returns
    -------
    assignment : ndarray of int64, shape (n,)
        For each point the position of its representative; the first among equally near ones.
    nearness : ndarray of float64, shape (n,)
        For ``"euclidean"``, ``"manhattan"`` and ``"hamming"`` the distance to it; for the others
        the similarity: the cosine of the angle, the correlation, the inner product,
        exp(-gamma ||x - y||^2), Jaccard's, or what a callable returns.

    Raises
    ------
    ValueError, TypeError
        If an array is not 2-D, is empty or not numeric, or has NaN or inf (the message says
        where); if `representatives` and `X_new` have different numbers of columns; if another
        argument is not one of the above.

    Notes
    -----
    Time is at most O(n k d), on all threads. A group of points is skipped if a representative is
    provably too far away to be the nearest of any of them. For metrics that make `select` compute a
    matrix, all features are copied, and representatives are compared one after the other. Distances
    are computed from differences, never from inner products, in float64 if one of the two arrays is
    float64, else in float32. Similarities are rounded to the grid that `select` uses for n rows, of
    at most 2**-52 n times the largest similarity (see `FacilityLocation`). Similarities that are
    equal on the grid count as equal. So ``assign(X, X[chosen.indices])`` is ``chosen.assignment``.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> chosen = subsel.select(X, 2)
    >>> subsel.assign([[4.0], [0.5], [2.5]], X[chosen.indices])
    (array([1, 0, 0]), array([1. , 0.3, 2.3]))
    """
    check_metric(metric)
    if check_choice(backend, BACKENDS, "backend") == "cuda":
        raise ValueError(
            "backend must be 'auto' or 'cpu', not 'cuda': assign works on the CPU only"
        )
    allowed = check_memory(memory)
    if hasattr(X_new, "tocsr") or hasattr(representatives, "tocsr"):
        return nearest(X_new, representatives, metric)
    points = _checked(X_new, "X_new")
    others = _checked(representatives, "representatives")
    (n, d), k = points.shape, len(others)
    if others.shape[1] != d:
        raise ValueError(
            f"representatives must have the {d} columns that X_new has, not {others.shape[1]}"
        )
    dtype = np.result_type(points, others)
    others = others.astype(dtype, copy=False)
    if not is_tiled(metric):
        return _one_by_one(points.astype(dtype, copy=False), others, metric)
    if metric == "correlation":
        points, others, metric = centred(points), centred(others), "cosine"
    scale = _scale([points, others], metric, dtype)

    assignment, nearness = np.empty(n, np.int64), np.empty(n)

    def settle(start: int, stop: int) -> None:
        rows = np.concatenate([points[start:stop], others], dtype=dtype)
        ready = conditioned(read_only(rows), metric, scale)
        source = Conditioned(ready, metric, scale, n).facing(stop - start)
        search, _ = source.represent(np.arange(k))
        assignment[start:stop] = source.assignment(search)
        nearness[start:stop] = source.of_points(search.best)[: stop - start]

    workers = max(1, min(cpu.threads(), n // _FEWEST))
    per_row = 5 * (d + 1) * dtype.itemsize  # stacked, made ready, in an order, in tiles
    fitting = (allowed // workers - k * per_row) // (per_row + _PER_ROW)
    wanted = min(-(-n // workers), max(_FEWEST, _WORK // (k * d)))
    step = max(LANES, min(wanted, fitting))
    blocks = [(start, min(start + step, n)) for start in range(0, n, step)]
    side_by_side(settle, blocks, workers, progress=False)
    if metric == "euclidean":
        return assignment, np.abs(nearness) * scale.unit
    if metric == "dot":
        return assignment, nearness * scale.unit
    return assignment, nearness + 1  # similarities are stored less 1, the similarity of equal rows


def _one_by_one(
    points: np.ndarray, others: np.ndarray, metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    """`assign` by a metric that the search has no kernels for."""
    n, k = len(points), len(others)
    measured = Measured(np.concatenate([points, others]), metric)
    best, assignment, line = np.full(n, -np.inf), np.zeros(n, np.int64), np.empty(n + k)
    for j in range(k):
        stored = measured.stored(measured.pairs.row(n + j), line)[:n]
        stored = stored if measured.called else measured.on_grid(stored, n)
        assignment[stored > best] = j
        np.maximum(best, stored, out=best)
    if metric in ("manhattan", "hamming"):
        return assignment, np.abs(best) * measured.unit
    return assignment, best + measured.span


def _checked(X: ArrayLike, name: str) -> np.ndarray:
    array = as_float_array(X, name)
    check_matrix_shape(array.shape, name, "(rows, d)")
    check_entries(array, name)
    return array


def _scale(arrays: list[np.ndarray], metric: str, dtype: np.dtype) -> Scale:
    """The unit in which the similarities of all rows are stored."""
    low = np.min([array.min(axis=0) for array in arrays], axis=0).astype(dtype)
    high = np.max([array.max(axis=0) for array in arrays], axis=0).astype(dtype)
    middle, extent = spread(metric, low, high)
    radius = 0.0
    if metric != "cosine":
        radius = max(farthest(read_only(array), middle, extent) for array in arrays)
    return choose_scale(metric, None, low, high, radius)
