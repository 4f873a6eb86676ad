"""Facility location: every point is represented by the most similar selected element."""

from typing import Any

import numpy as np

from subsel import sources
from subsel.objectives.base import Objective
from subsel.selection import sizes_of
from subsel.sources.scale import check_gamma
from subsel.validation import (
    ArrayLike,
    check_candidates,
    check_count,
    check_indices,
)


class FacilityLocation(Objective):
    """Facility location: F(S) = sum over points i of max over j in S of s_ij, F(empty) = 0.

    Parameters
    ----------
    similarity : array_like or scipy sparse matrix, shape (n_points, n_candidates)
        Non-negative, finite similarities; rows are the points represented, columns the candidates.
        Dense: any real dtype and layout, read-only or not; a C-contiguous float32 or float64 array,
        or an F-ordered symmetric one, is used without a copy and must not be changed meanwhile.
        Sparse: any scipy format; absent entries are 0. May lie in a GPU's memory, as in
        `subsel.select`.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute: on the CPU, on an NVIDIA GPU, or where the matrix is. Sparse ones are for
        the CPU.

    Attributes
    ----------
    n : int
        Number of candidates.
    n_points : int
        Number of points.
    offset : float
        c0, what `from_features` added to make similarities non-negative; 0 for a given matrix.
    path : {"dense", "sparse", "features", "cuda dense", "cuda features"}
        Whether similarities lie in memory or are computed from features when needed.

    Raises
    ------
    ValueError
        If `similarity` is not 2-D, is empty, has a negative, NaN or infinite entry (said where), or
        is a malformed sparse matrix.
    TypeError
        If it is not numeric, or sparse and meant for a GPU.
    ImportError, RuntimeError
        If a GPU is asked for, and numba-cuda, a driver or a GPU is missing.

    Notes
    -----
    Gains are kept, and brought up to date where they are asked for or might be the largest: only
    points whose representative changed since are looked at again. Over k picks a point changes
    about ln k times, so greedy costs at most some n_points * n_candidates * ln k similarities (a
    full evaluation every time would cost k times n_points * n_candidates). From features, groups of
    rows too far to matter are skipped, which leaves about 2 n^2 of them on real gradients.

    Memory beside the similarities: some 120 bytes for each point, and for a dense matrix of 2^22
    entries or more at most an eighth of its own, for the entries that still count after 64 picks.

    Similarities are rounded to a grid of at most 2**-52 times the largest of them times n_points
    (times 16 where there are fewer points), which makes every sum exact; smaller ones count as 0.
    So gains and selections have the same bits for any number of threads, memory layout or path, and
    equal gains are exactly equal: the lowest index wins.

    References
    ----------
    Cornuejols, Fisher, Nemhauser (1977), "Location of bank accounts to optimize float", eq. (1).

    Examples
    --------
    >>> import subsel
    >>> f = subsel.FacilityLocation([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]])
    >>> f.value([0, 2])
    2.0
    >>> subsel.greedy(f, 2).indices
    array([1, 0])
    """

    keeps_gains = True
    rounding = 0.0

    def __init__(self, similarity: ArrayLike, *, backend: str = "auto") -> None:
        self._start(sources.matrix(similarity, backend))

    @classmethod
    def from_features(
        cls,
        X: ArrayLike,
        metric: str = "euclidean",
        *,
        gamma: float | None = None,
        memory: float | None = None,
        backend: str = "auto",
    ) -> "FacilityLocation":
        """Facility location of the rows of a feature matrix, represented by rows of the same.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Finite features, any real dtype. float64 is computed in float64, all else that fits in
            float32.
        metric : {"euclidean", "cosine", "dot", "rbf"}, default "euclidean"
            Similarity of rows x and y, with c0 in the attribute `offset`:

            - ``"euclidean"``: c0 - ||x - y||, where c0 is twice the largest distance to the middle
              of the features' ranges (rounded up), so no similarity is negative.
            - ``"cosine"``: c0 - (1 - cos(x, y)), c0 = 2. A row of zeros is orthogonal to all rows
              but the other rows of zeros.
            - ``"dot"``: c0 + <x, y>, where c0 is 0 if no feature is negative, else the largest
              squared length (rounded up).
            - ``"rbf"``: exp(-gamma ||x - y||^2), c0 = 0.

            Selections do not depend on c0, only the first gain does.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        memory : float, optional
            Bytes that an n x n matrix may take. It is made only if it fits and is the faster way;
            the answer is the same. Default: a quarter of what this process can have now, as in
            `subsel.select`. 0 for never.
        backend : {"auto", "cpu", "cuda"}, default "auto"
            Where to compute: on the CPU, on an NVIDIA GPU, or where X is.

        Returns
        -------
        FacilityLocation

        Raises
        ------
        ValueError
            If X is not 2-D, is empty, has NaN or inf (said where), or spreads over more than 1e300
            (for ``"dot"``, not between 1e-150 and 1e150; for ``"rbf"`` without a gamma, 1e17 in
            float32 or 1e150 in float64); if `metric`, `gamma` or `memory` is not
            one of the above.
        TypeError
            If X is not numeric, or is sparse.
        ImportError, RuntimeError
            If a GPU is asked for, and numba-cuda, a driver or a GPU is missing.

        Notes
        -----
        Distances come from exact differences with fused multiply-adds, never from inner products,
        whose cancellation in float32 is larger than most distances between gradients. Time:
        O(n^2 d) for the first element and less for each later one, O(n^2 d ln k) in all; memory
        twice that of X and some 120 bytes for each row, or O(n^2) with a matrix.
        """
        gamma = check_gamma(gamma, metric)
        source = sources.features(X, backend).similarity(metric, gamma, memory)
        objective = cls.of(source)
        if metric != "rbf":
            objective.offset = source.unit * source.offset
        return objective

    @classmethod
    def of(cls, similarity: Any) -> "FacilityLocation":
        """Facility location of similarities that have been checked."""
        objective = cls.__new__(cls)
        objective._start(similarity)
        return objective

    def _start(self, similarity: Any) -> None:
        self._similarity = similarity
        self.n, self.n_points = similarity.n, similarity.n_points
        self.path = similarity.path
        self.offset = 0.0
        self.reset()

    def restrict(self, candidates: ArrayLike) -> "FacilityLocation":
        """The same points, represented only by some candidates; nothing selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        objective = FacilityLocation.of(self._similarity.restrict(candidates))
        objective.offset = self.offset
        return objective

    def reset(self) -> None:
        """Make the selection empty."""
        self._search = self._similarity.search()
        self._source = self._similarity

    @property
    def n_evaluations(self) -> int:  # type: ignore[override]
        """Similarities looked at since `reset`, divided by the number of points, rounded up."""
        return -(-self._similarity.seen(self._search) // self.n_points)

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)

        Returns
        -------
        ndarray of float64, shape (m,)
            F(S + e) - F(S) for each; 0 for one already added. A candidate's first evaluation looks
            at up to n_points similarities, later ones at those of points that changed since.
        """
        candidates = check_indices(candidates, self.n, "candidates")
        return self._source.gains(self._search, candidates) * self._similarity.unit

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        search = self._similarity.priced(self._search, costs)
        if search is None:
            return super()._extend(taken, count, costs)
        self._search = search
        elements, gains = np.empty(count, np.int64), np.empty(count)
        self._similarity.mark_taken(self._search, taken)
        done = 0
        while done < count:
            self._source = self._source.thinned(self._search)
            done += self._source.grow(self._search, elements[done:], gains[done:])
        taken[elements] = True
        return elements, gains * self._similarity.unit

    def add(self, element: int) -> None:
        """Select an element: O(n_points) similarities, and a row of them for each point it wins.

        The rows are looked at when gains are asked for.
        """
        self._source.add(self._search, check_count(element, "element", 0, self.n - 1))

    @property
    def assignment(self) -> np.ndarray:
        """For each point which of the added elements represents it (n_points,), by order of adding.

        The earliest of equally similar ones. -1 for a point to which none is similar, its
        similarity to all of them being 0 in the matrix that was given; from features, every point
        has a nearest element, and 0 stands where none was added.
        """
        return self._similarity.assignment(self._search)

    def value(self, indices: ArrayLike) -> float:
        """F(indices), from scratch; does not touch what was added.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(n_points k) similarities.
        """
        search, _ = self._similarity.represent(check_indices(indices, self.n))
        return self._similarity.value(search)

    def assign(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Assign every point to the most similar of the given elements.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            At least one.

        Returns
        -------
        assignment : ndarray of int64, shape (n_points,)
            Position in `indices`; the first of equally similar ones. -1 for a point to which
            none of them is similar, in a matrix that was given.
        sizes : ndarray of int64, shape (k,)
            Points assigned to each; 0 is possible, for instance for a repeated element. They sum
            to the number of points that something represents.
        """
        indices = check_indices(indices, self.n)
        if not len(indices):
            raise ValueError("indices must not be empty: there is nothing to assign points to")
        search, _ = self._similarity.represent(indices)
        assignment = self._similarity.assignment(search)
        return assignment, sizes_of(assignment, len(indices))
