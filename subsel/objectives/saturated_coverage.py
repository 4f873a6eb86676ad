"""Saturated coverage: a point is satisfied once it has a given share of its total similarity."""

from typing import Any, NamedTuple

import numpy as np

from subsel import sources
from subsel.kernels.rules import join, left, worth
from subsel.objectives.coverage import Coverage
from subsel.sources.scale import grid
from subsel.validation import ArrayLike, check_number


class Saturated(NamedTuple):
    """Similarities add up to at most a cap for each point. All numbers lie on a grid.

    Adding `shift` and subtracting it rounds to the grid, as float64 numbers of its size are on it.
    """

    cap: np.ndarray
    shift: float

    @classmethod
    def of(cls, cap: np.ndarray, source: Any) -> "Saturated":
        """The rule for caps of the points, on a grid for sums over points and candidates."""
        up, down = grid(max(source.n, source.n_points), source.unit * source.span)
        # No level can exceed this many steps of the grid, so a higher cap never applies.
        steps = np.minimum(np.rint(cap * up), 2.0**53)
        return cls(steps * down, 1.5 * 2.0**52 * down)

    def takes_all(self, source: Any) -> bool:
        """Whether the first element counts in full, without rounding, wherever it is similar."""
        on_grid = self.shift == 1.5 * 2.0**52 * source.unit * float(source.store.down)
        return bool(on_grid and self.cap.min() >= source.unit * source.span)


@join.of(Saturated)
def _add(rule: Saturated, level: float, s: float) -> float:
    return level + ((s + rule.shift) - rule.shift)


@worth.of(Saturated)
def _capped(rule: Saturated, i: int, level: float) -> float:
    return min(level, rule.cap[i])


@left.of(Saturated)
def _below_cap(rule: Saturated, i: int, level: float) -> float:
    return rule.cap[i] - min(level, rule.cap[i])


class SaturatedCoverage(Coverage):
    """Saturated coverage: F(S) = sum_i min(sum_{j in S} s_ij, fraction * sum_j s_ij).

    A point is satisfied once the selection has the given fraction of its total similarity; further
    elements then gain nothing from it. Monotone and submodular. The first gain of each candidate
    takes O(n_points) similarities. When an element is added, gains are corrected for the points
    that are near their share if these are few; otherwise gains are evaluated lazily. Memory beside
    the similarities: 38 bytes for each point and 18 bytes for each candidate.

    Similarities, shares and their sums are rounded to a grid of at most 2**-52 times n times the
    largest similarity, so that all gains are exact.

    Parameters
    ----------
    similarity, backend
        As for `FacilityLocation`, whose errors are raised.
    fraction : float, default 0.1
        In (0, 1]: the share of its similarity to all candidates that satisfies a point.

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

    def __init__(self, similarity: ArrayLike, *, fraction: float = 0.1, backend: str = "auto"):
        source = sources.matrix(similarity, backend)
        sources.warn_of_distances(source, "similarity")
        self._of(source, fraction=fraction)

    def _of(self, source: Any, fraction: float = 0.1) -> None:
        self.fraction = check_number(fraction, "fraction", 0, 1, "(]")
        sums = source.row_sums()
        rule = Saturated.of(self.fraction * sums, source)
        levels = source.levels(rule)
        if source.mirrored and rule.takes_all(source):
            levels.first = sums
        self._start(levels)
