"""Set cover: every element covers some concepts, and the selection should cover them all."""

import copy
import math
from typing import Any

import numpy as np

from subsel import sources
from subsel.kernels.cpu import sets
from subsel.objectives.base import Objective
from subsel.sources.levels import frozen
from subsel.sources.scale import grid
from subsel.sources.sparse import compressed
from subsel.validation import (
    ArrayLike,
    as_host_array,
    check_candidates,
    check_count,
    check_indices,
    check_values,
)


class SetCover(Objective):
    """Set cover: F(S) = sum over concepts u of weights_u min(elements of S that have u, times).

    With `query`, only concepts of the query count (mutual information); with `private`, concepts
    that are covered already do not count (conditional gain); with both, the conditional mutual
    information. Monotone and submodular.

    Parameters
    ----------
    membership : array_like or scipy sparse matrix of bool or 0 and 1, shape (n, n_concepts)
        Which concepts each candidate has. Any dtype, layout and sparse format.
    weights : array_like, shape (n_concepts,), optional
        Non-negative weights of the concepts, default 1.
    times : int, default 1
        Number of selected elements beyond which a concept gains nothing more.
    query, private : array_like of bool, shape (n_concepts,), optional
        Concepts that are asked for, and concepts that are covered already.
    backend : {"auto", "cpu"}, default "auto"
        Where to compute: on the CPU.

    Attributes
    ----------
    n, n_concepts : int
        Numbers of candidates and of concepts.

    Raises
    ------
    ValueError
        If `membership` is not 2-D, is empty, is malformed, or has an entry that is neither 0 nor 1
        (said where); if `weights`, `query` or `private` has another length than there are concepts,
        or an entry that is not allowed; if `times` is not at least 1.
    TypeError
        If one of them is not numeric.

    Notes
    -----
    The gains of all candidates are stored and always exact. Once a concept is covered, its weight
    is subtracted from the gains of all candidates that have it, which an inverted index lists. This
    happens once for each concept, so all steps together cost O(non-zeros of `membership`). Each
    step also searches about sqrt(n) gains for the largest. Memory: 8 bytes for each non-zero, 16
    bytes for each candidate and 32 bytes for each concept.

    Weights are rounded to a grid of at most 2**-52 * n_concepts times the largest weight, which
    makes every sum exact. Weights below one step of the grid count as 0.

    References
    ----------
    Nemhauser, Wolsey, Fisher (1978) for greedy; Iyer, Khargoankar, Bilmes, Asnani (2021),
    "Submodular combinatorial information measures with applications in machine learning", for the
    forms with `query` and `private`.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.SetCover([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]])
    >>> chosen = subsel.greedy(f, 2)
    >>> chosen.indices, chosen.gains
    (array([1, 0]), array([3., 1.]))
    """

    keeps_gains = True
    rounding = 0.0
    n_concepts: int

    def __init__(
        self, membership: ArrayLike, *, weights: ArrayLike | None = None, times: int = 1,
        query: ArrayLike | None = None, private: ArrayLike | None = None, backend: str = "auto",
    ) -> None:  # fmt: skip
        rows = sources.memberships(membership, backend, "membership", "(n, n_concepts)")
        self.times = check_count(times, "times", 1)
        self.n_concepts = rows.shape[1]
        weights = concept_weights(weights, query, private, self.n_concepts)
        for mask, name in ((query, "query"), (private, "private")):
            if mask is not None and not np.isin(as_host_array(mask, name), (0, 1)).all():
                raise ValueError(f"{name} must be true or false for each concept")
        up, down = grid(self.n_concepts, float(weights.max()))
        self._weights = np.rint(weights * up) * down
        self._start(rows)

    def _start(self, rows: Any) -> None:
        self.n = rows.shape[0]
        pattern = copy.copy(rows)
        pattern.data = np.ones(rows.nnz, np.int8)
        lists = *compressed(pattern)[:2], *compressed(pattern.tocsc())[:2]
        self._sets = sets.Sets(*lists)
        self._first_gains = sets.first_gains(self._sets, self._weights)
        self.reset()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sets = frozen(self._sets)

    def __repr__(self) -> str:
        return f"SetCover(n={self.n}, n_concepts={self.n_concepts}, times={self.times})"

    def restrict(self, candidates: ArrayLike) -> "SetCover":
        """The same concepts, which only some of the candidates can cover. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        from scipy.sparse import csr_array

        starts, concepts = self._sets.item_starts, self._sets.item_concepts
        ones = np.ones(len(concepts), np.int8)
        rows = csr_array((ones, concepts, starts), (self.n, self.n_concepts))
        part = copy.copy(self)
        part._start(rows[check_candidates(candidates, self.n)])
        return part

    def reset(self) -> None:
        """Make the selection empty."""
        self._gains, self._added = self._first_gains.copy(), np.zeros(self.n, bool)
        # Concepts without weight are left out.
        self._missing = np.where(self._weights > 0, self.times, 0)

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,): O(m).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            The gain of one that was added already is 0.
        """
        candidates = check_indices(candidates, self.n, "candidates")
        gains = self._gains[candidates]
        gains[self._added[candidates]] = 0.0
        return gains

    def add(self, element: int) -> None:
        """Select an element."""
        element = check_count(element, "element", 0, self.n - 1)
        sets.add(*self._state(), element)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        elements, won = np.empty(count, np.int64), np.empty(count)
        costs = np.empty(0) if costs is None else costs
        sets.extend(*self._state(), costs, taken, elements, won)
        return elements, won

    def _state(self) -> tuple:
        return self._sets, self._weights, self._missing, self._gains, self._added

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(their non-zeros).
        """
        counts = np.zeros(self.n_concepts, np.int64)
        sets.count(self._sets, np.unique(check_indices(indices, self.n)), counts)
        return float((self._weights * np.minimum(counts, self.times)).sum())


def concept_weights(
    weights: ArrayLike | None, query: ArrayLike | None, private: ArrayLike | None, count: int
) -> np.ndarray:
    """The weight with which each concept counts, given the query and what is covered already.

    `query` is the probability that the query covers a concept, and `private` the probability that
    the concept is covered already.
    """

    def checked(values: ArrayLike, name: str, high: float) -> np.ndarray:
        return check_values(values, name, count, 0, "[", high=high, of="concept")

    result = np.ones(count) if weights is None else checked(weights, "weights", math.inf)
    if query is not None:
        result = result * checked(query, "query", 1)
    if private is not None:
        result = result * (1 - checked(private, "private", 1))
    return result
