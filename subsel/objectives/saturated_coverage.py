"""Saturated coverage: every point wants a share of all the similarity that it could have."""

from typing import Any, NamedTuple

import numpy as np

from subsel import sources
from subsel.kernels.rules import join, worth
from subsel.objectives.coverage import Coverage
from subsel.validation import ArrayLike, check_number


class Saturated(NamedTuple):
    """Similarities add up, to at most a cap for each point."""

    cap: np.ndarray


@join.of(Saturated)
def _add(rule: Saturated, level: float, s: float) -> float:
    return level + s


@worth.of(Saturated)
def _capped(rule: Saturated, i: int, level: float) -> float:
    return min(level, rule.cap[i])


class SaturatedCoverage(Coverage):
    """Saturated coverage: F(S) = sum_i min(sum_{j in S} s_ij, fraction * sum_j s_ij).

    A point that has the given fraction of all its similarity is satisfied, and the next element
    helps others. Monotone and submodular.

    Parameters
    ----------
    similarity : array_like or scipy sparse matrix, shape (n_points, n_candidates)
        Non-negative, finite similarities, as for `FacilityLocation`.
    fraction : float, default 0.1
        In (0, 1]: the share of its similarity to all candidates that satisfies a point.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute.

    References
    ----------
    Lin, Bilmes (2011), "A class of submodular functions for document summarization", eq. (4).

    Examples
    --------
    >>> import subsel
    >>> f = subsel.SaturatedCoverage([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], fraction=0.5)
    >>> subsel.greedy(f, 2).indices
    array([0, 2])
    """

    def __init__(
        self, similarity: ArrayLike, *, fraction: float = 0.1, backend: str = "auto"
    ) -> None:
        fraction = check_number(fraction, "fraction", 0, 1, "(]")
        self._of(sources.matrix(similarity, backend), fraction)

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: str = "euclidean", *, fraction: float = 0.1,
        gamma: float | None = None, memory: float | None = None, backend: str = "auto",
    ) -> "SaturatedCoverage":  # fmt: skip
        """Saturated coverage of the rows of X (n, d); `FacilityLocation.from_features` says how."""
        fraction = check_number(fraction, "fraction", 0, 1, "(]")
        objective = cls.__new__(cls)
        objective._of(sources.features(X, backend).similarity(metric, gamma, memory), fraction)
        return objective

    def _of(self, source: Any, fraction: float) -> None:
        self.fraction = fraction
        super().__init__(source, Saturated(fraction * source.row_sums()))
