"""The coverage family: every point has a level that the selected elements raise.

F(S) = sum over points i of worth_i(level_i), where adding j turns level_i into join(level_i, s_ij).
A new member is a named tuple of parameters and two scalar functions (`subsel.kernels.rules`), and a
subclass of `Coverage` that says where similarities come from; docs/extending.md shows one whole.
"""

import copy
import math
from typing import Any

import numpy as np

from subsel import sources
from subsel.objectives.base import Objective
from subsel.sources.scale import check_metric
from subsel.validation import ArrayLike, Metric, check_candidates, check_count, check_indices


class Coverage(Objective):
    """A coverage objective of a source of similarities and a rule.

    Parameters
    ----------
    source : object
        What `subsel.sources.matrix` or ``subsel.sources.features(...).similarity(...)`` returns.
    rule : NamedTuple
        Parameters of the rule; its arrays have one entry for each point, (n_points,) float64.

    Notes
    -----
    A gain costs one pass over the points (over the non-zeros of a column of a sparse matrix):
    O(n_points) similarities, of O(d) each from features. Only gains that might be the largest are
    evaluated, by `greedy` too, if F is submodular. Memory beside the source: 16 bytes for each
    point, 10 bytes for each candidate, and 17 more bytes for each candidate during a search.
    """

    def __init__(self, source: Any, rule: Any) -> None:
        self._start(source.levels(rule))

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: Metric = "euclidean", *, gamma: float | None = None,
        memory: float | None = None, backend: str = "auto", **options: Any,
    ) -> "Coverage":  # fmt: skip
        """The objective for the rows of X, (n, d), where rows represent one another.

        `metric`, `gamma`, `memory` and `backend` are those of `FacilityLocation.from_features`; all
        other options belong to the objective. Memory: O(n d) beside the matrix that `memory`
        allows. Sparse X, and metrics that need a matrix, are refused if the matrix does not fit.
        """
        if not hasattr(cls, "_of"):
            raise TypeError(
                f"{cls.__name__} takes no similarities of features; give its data to "
                f"{cls.__name__} itself"
            )
        gamma = check_metric(metric, gamma)
        objective = cls.__new__(cls)
        source = sources.features(X, backend).similarity(metric, gamma, memory)
        objective._of(source, **options)
        return objective

    # A subclass that works on similarities defines `_of(source, **options)`, which creates it.
    _of: Any

    def _start(self, levels: Any) -> None:
        self._levels = levels
        self.n, self.n_points, self.path = levels.n, levels.n_points, levels.path
        self.rounding = levels.rounding
        self.reset()

    def restrict(self, candidates: ArrayLike) -> "Coverage":
        """The same points, which only some of the candidates can cover. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        part = copy.copy(self)
        part._start(self._levels.restrict(candidates))
        return part

    def reset(self) -> None:
        """Make the selection empty."""
        self._search = self._levels.search()
        self._added = np.zeros(self.n, bool)

    @property
    def n_evaluations(self) -> int:  # type: ignore[override]
        """Number of marginal gains evaluated since the last `reset`."""
        return self._levels.evaluations(self._search)

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            The gain of one that was added already is 0.
        """
        candidates = check_indices(candidates, self.n, "candidates")
        gains = self._levels.gains(self._search, candidates)
        gains[self._added[candidates]] = 0.0
        return gains

    @property
    def lazy(self) -> bool:  # type: ignore[override]
        """Whether `extend` is lazy: on the CPU, if F is submodular."""
        return bool(self.submodular) and hasattr(self._levels, "extend")

    def bounds(self) -> np.ndarray | None:
        """Upper bounds of all gains, where the search is lazy."""
        return self._levels.bounds(self._search) if self.lazy else None

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        if not self.lazy or (self._added & ~taken).any():
            return super()._extend(taken, count, costs)
        elements, gains = self._levels.extend(self._search, taken, count, costs)
        taken[elements] = self._added[elements] = True
        return elements, gains

    def add(self, element: int) -> None:
        """Select an element: one pass over the points."""
        element = check_count(element, "element", 0, self.n - 1)
        if not self._added[element]:
            self._added[element] = True
            self._levels.add(self._search, element)

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(n_points k) similarities.
        """
        search = self._levels.search()
        once = dict.fromkeys(check_indices(indices, self.n).tolist())
        return math.fsum(self._levels.add(search, element) for element in once)
