"""No two selected elements nearer to one another than so much: near-duplicates."""

import math

import numpy as np

from subsel.constraints.base import Constraint, State
from subsel.kernels import cpu
from subsel.validation import (
    ArrayLike,
    as_float_array,
    check_choice,
    check_entries,
    check_matrix_shape,
    check_number,
    read_only,
)

_SAFE = 400
"""Binary exponents of features whose squares neither overflow nor vanish."""


class MinDistance(Constraint):
    """Elements at a distance of at least `least` from one another, and from what is given.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Features of the candidates: finite, any real dtype.
    least : float
        The smallest distance that two selected elements may have; positive. A pick closes what lies
        nearer; what lies exactly so far stays open.
    metric : {"euclidean", "cosine"}, default "euclidean"
        Distance of two rows: ||x - y||, or 1 - cos(x, y), where a row of zeros is orthogonal to
        all rows but the other rows of zeros.

    Raises
    ------
    ValueError, TypeError
        If X is not 2-D, is empty, or has NaN or inf (said where); if it has not one row for each
        candidate; if `least` or `metric` is not one of the above.

    Notes
    -----
    Distances come from exact differences in float64, so copies are at distance 0. A pick costs at
    most O(n d), and no matrix of distances is made: many rows are seen to be far from their first
    features. Alone, it allows as many elements as fit; ``MinDistance(X, least) & Count(k)`` at
    most k. No guarantee is known for greedy under it, for F in general.

    Examples
    --------
    >>> import subsel
    >>> X = [[0.0], [0.1], [5.0]]
    >>> apart = subsel.constraints.MinDistance(X, 1.0)
    >>> subsel.greedy(subsel.FacilityLocation.from_features(X), apart).indices
    array([1, 2])
    """

    def __init__(self, X: ArrayLike, least: float, *, metric: str = "euclidean") -> None:
        array = as_float_array(X, "X")
        check_matrix_shape(array.shape, "X", "(n, d)")
        check_entries(array, "X")
        self.least = float(check_number(least, "least", 0))
        self.metric = check_choice(metric, ("euclidean", "cosine"), "metric")
        self._features, self._squared = _prepared(read_only(array), self.least, metric)

    def __repr__(self) -> str:
        return f"MinDistance({len(self._features)} rows, {self.least}, metric={self.metric!r})"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        if len(self._features) != len(closed):
            raise ValueError(
                f"X must have one row for each of {len(closed)} candidates, not "
                f"{len(self._features)}"
            )
        return _Apart(self._features, self._squared, given)


class _Apart(State):
    def __init__(self, features: np.ndarray, squared: float, given: np.ndarray) -> None:
        self._features, self._squared, self._new = features, squared, given.tolist()

    def safe(self) -> int:
        return 1

    def close(self, closed: np.ndarray) -> None:
        for element in self._new:
            cpu.close_near(self._features, element, self._squared, closed)
        self._new = []

    def add(self, elements: np.ndarray) -> None:
        self._new += elements.tolist()


def _prepared(features: np.ndarray, least: float, metric: str) -> tuple[np.ndarray, float]:
    """Rows, and the squared distance of them that stands for `least`."""
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
