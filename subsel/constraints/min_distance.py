"""A minimum distance between selected elements, which excludes near-duplicates."""

import math

import numpy as np

from subsel.constraints.base import Constraint, State
from subsel.kernels import cpu
from subsel.sources.columns import RowColumns
from subsel.sources.measures import columns_of
from subsel.validation import (
    ArrayLike,
    Metric,
    as_float_array,
    check_entries,
    check_matrix_shape,
    check_number,
    read_only,
)

_SAFE = 400
"""Binary exponents of features whose squares neither overflow nor vanish."""


class MinDistance(Constraint):
    """Keep selected elements at least `least` apart from one another and from `given` elements.

    Parameters
    ----------
    X : array_like or scipy sparse matrix, shape (n, d)
        Features of the candidates: finite, any real dtype. Sparse features need ``"cosine"``.
    least : float
        The smallest distance that two selected elements may have; positive. A distance of exactly
        `least` is allowed.
    metric : str or callable, default "euclidean"
        Distance of two rows: ``"euclidean"``, ``"cosine"``, or another of
        `DisparitySum.from_features`.

    Raises
    ------
    ValueError, TypeError
        If X is not 2-D, is empty, or has NaN or inf (the message says where); if it does not have
        one row for each candidate; if `least` or `metric` is not one of the above.

    Notes
    -----
    Distances come from exact differences in float64, so copies are at distance 0. A pick costs at
    most O(n d), often less, because the first features of a row can show that it is far away. No
    matrix of distances is made. The constraint alone allows as many elements as fit;
    ``MinDistance(X, least) & Count(k)`` allows at most k. For F in general, no guarantee is known
    for greedy under this constraint.

    Examples
    --------
    >>> import subsel
    >>> X = [[0.0], [0.1], [5.0]]
    >>> apart = subsel.constraints.MinDistance(X, 1.0)
    >>> subsel.greedy(subsel.FacilityLocation.from_features(X), apart).indices
    array([1, 2])
    """

    def __init__(self, X: ArrayLike, least: float, *, metric: Metric = "euclidean") -> None:
        self.least, self.metric = float(check_number(least, "least", 0)), metric
        self._near: _Near | _NearByColumns
        if hasattr(X, "tocsr") or callable(metric) or metric not in ("euclidean", "cosine"):
            self._near = _NearByColumns(columns_of(X, metric, distances=True), self.least)
        else:
            array = as_float_array(X, "X")
            check_matrix_shape(array.shape, "X", "(n, d)")
            check_entries(array, "X")
            self._near = _Near(*_prepared(read_only(array), self.least, metric))

    def __repr__(self) -> str:
        return f"MinDistance({self._near.n} rows, {self.least}, metric={self.metric!r})"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        if self._near.n != len(closed):
            raise ValueError(
                f"X must have one row for each of {len(closed)} candidates, not {self._near.n}"
            )
        return _Apart(self._near, given)


class _Near:
    """Closes near elements by distances that are lengths of differences."""

    def __init__(self, features: np.ndarray, squared: float) -> None:
        self.features, self.squared, self.n = features, squared, len(features)

    def close(self, element: int, closed: np.ndarray) -> None:
        cpu.close_near(self.features, element, self.squared, closed)


class _NearByColumns:
    """Closes near elements by any distance."""

    def __init__(self, pairs: RowColumns, least: float) -> None:
        self.pairs, self.least, self.n = pairs, least, pairs.n

    def close(self, element: int, closed: np.ndarray) -> None:
        closed |= self.pairs.column(element, np.empty(self.n)) < self.least


class _Apart(State):
    def __init__(self, near: _Near | _NearByColumns, given: np.ndarray) -> None:
        self._near, self._new = near, given.tolist()

    def safe(self) -> int:
        return 1

    def close(self, closed: np.ndarray) -> None:
        for element in self._new:
            self._near.close(element, closed)
        self._new = []

    def add(self, elements: np.ndarray) -> None:
        self._new += elements.tolist()


def _prepared(features: np.ndarray, least: float, metric: str) -> tuple[np.ndarray, float]:
    """The rows to compare, and the squared distance between them that corresponds to `least`."""
    if metric == "cosine":  # 1 - cos(x, y) = ||x - y||^2 / 2 for rows of length 1
        rows = np.empty((len(features), features.shape[1] + 1))
        cpu.unit_rows(features, rows)
        return read_only(rows), 2 * least
    largest = max(float(features.max()), -float(features.min()))
    exponent = max(math.frexp(largest)[1], math.frexp(least)[1])
    if abs(exponent) > _SAFE:
        features = read_only(np.ldexp(features.astype(np.float64), -exponent))
        least = math.ldexp(least, -exponent)
    return features, least * least
