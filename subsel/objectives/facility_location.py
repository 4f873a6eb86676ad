"""Facility location: every point is represented by the most similar selected element."""

import copy
from functools import cached_property
from typing import Any

import numpy as np

from subsel import sources
from subsel.objectives.base import Objective
from subsel.selection import sizes_of
from subsel.sources.scale import check_metric
from subsel.validation import (
    BACKENDS,
    ArrayLike,
    Metric,
    check_backend,
    check_candidates,
    check_choice,
    check_count,
    check_indices,
    check_number,
    check_values,
)


class FacilityLocation(Objective):
    """Facility location: F(S) = sum over points i of max over j in S of s_ij, F(empty) = 0.

    With `weights`, a sum with weights. Items of a query and private items, to be unlike, guide it:
    with q_i the largest similarity of point i to the query, and p_i to the private items,

    - with `query`, F(S) = sum_i w_i min(max_j s_ij, eta q_i): only what is like the query counts
      (mutual information, FLVMI);
    - with `private`, F(S) = sum_i w_i max(max_j s_ij - nu p_i, 0): only what is not represented by
      the private items counts (conditional gain, FLCG);
    - with both, F(S) = sum_i w_i max(min(max_j s_ij, eta q_i) - nu p_i, 0) (FLCMI).

    All of them are monotone and submodular.

    Parameters
    ----------
    similarity : array_like or scipy sparse matrix, shape (n_points, n_candidates)
        Non-negative, finite similarities; rows are the points represented, columns the candidates.
        Dense: any real dtype and layout, read-only or not; a C-contiguous float32 or float64 array,
        or an F-ordered symmetric one, is used without a copy and must not be changed meanwhile.
        Sparse: any scipy format; absent entries are 0. May lie in a GPU's memory, as in
        `subsel.select`.
    weights : array_like, shape (n_points,), optional
        Non-negative weights of the points, default 1.
    query : array_like or scipy sparse matrix, shape (n_points, n_query), optional
        Similarities of the points to the items of a query, as in `similarity`.
    private : array_like or scipy sparse matrix, shape (n_points, n_private), optional
        Similarities of the points to items that selected ones should be unlike.
    eta, nu : float, default 1
        At least 0: how far similarity to the query, and to private items, counts.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute: on the CPU, on an NVIDIA GPU, or where the matrix is. Sparse ones, and
        weights, query and private, are for the CPU.

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

    Memory beside the similarities: some 130 bytes for each point, and for a dense matrix of 2^22
    entries or more at most an eighth of its own, for the entries that still count after 64 picks.

    Similarities are rounded to a grid of at most 2**-52 times the largest of them times n_points
    (times 16 where there are fewer points), which makes every sum exact; smaller ones count as 0.
    So gains and selections have the same bits for any number of threads, memory layout or path, and
    equal gains are exactly equal: the lowest index wins. What `query` and `private` bound
    similarities by is rounded to their number type: beside a float32 matrix, to float32.

    References
    ----------
    Cornuejols, Fisher, Nemhauser (1977), "Location of bank accounts to optimize float", eq. (1).
    Kaushal, Kothawade, Ramakrishnan, Bilmes, Iyer (2022), "PRISM: a unified framework of
    parameterized submodular information measures", table 1, for `query` and `private`.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.FacilityLocation([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]])
    >>> f.value([0, 2])
    2.0
    >>> subsel.greedy(f, 2).indices
    array([1, 0])

    Only the second point is like the query:

    >>> g = subsel.FacilityLocation([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], query=[[0.0], [1.0]])
    >>> subsel.greedy(g, 1).indices
    array([2])
    """

    keeps_gains = True
    rounding = 0.0

    def __init__(
        self, similarity: ArrayLike, *, weights: ArrayLike | None = None,
        query: ArrayLike | None = None, private: ArrayLike | None = None, eta: float = 1.0,
        nu: float = 1.0, backend: str = "auto",
    ) -> None:  # fmt: skip
        _check_place(backend, similarity, weights, query, private)
        source = sources.matrix(similarity, backend)
        sources.warn_of_distances(source, "similarity", "use FacilityLocation.from_distances")
        if query is not None:
            query = sources.largest(query, "query", source.n_points)
        if private is not None:
            private = sources.largest(private, "private", source.n_points)
        self._start(source, weights, query, private, eta, nu)

    @classmethod
    def from_features(
        cls,
        X: ArrayLike,
        metric: Metric = "euclidean",
        *,
        weights: ArrayLike | None = None,
        query: ArrayLike | None = None,
        private: ArrayLike | None = None,
        eta: float = 1.0,
        nu: float = 1.0,
        gamma: float | None = None,
        memory: float | None = None,
        backend: str = "auto",
    ) -> "FacilityLocation":
        """Facility location of the rows of a feature matrix, represented by rows of the same.

        Parameters
        ----------
        X : array_like or scipy sparse matrix, shape (n, d)
            Finite features, any real dtype. float64 is computed in float64, all else that fits in
            float32. Sparse ones, such as TF-IDF, are for ``"cosine"`` and ``"dot"``; they do not
            become dense, but their similarities do, in an n x n matrix that must fit into `memory`.
        metric : str or callable, default "euclidean"
            Similarity of rows x and y, with c0 in the attribute `offset`:

            - ``"euclidean"``: c0 - ||x - y||, where c0 is twice the largest distance to the middle
              of the features' ranges (rounded up), so no similarity is negative.
            - ``"cosine"``: c0 - (1 - cos(x, y)), c0 = 2. A row of zeros is orthogonal to all rows
              but the other rows of zeros.
            - ``"correlation"``: the same of rows less their means; a row of equals is as one of
              zeros.
            - ``"dot"``: c0 + <x, y>, where c0 is 0 if no feature is negative, else the largest
              squared length (rounded up).
            - ``"rbf"``: exp(-gamma ||x - y||^2), c0 = 0.

            The following need an n x n matrix that fits into `memory`, and are for the CPU:

            - ``"manhattan"``: c0 - the sum of absolute differences, with c0 as for
              ``"euclidean"``.
            - ``"hamming"``: c0 less the share of features that differ, c0 = 1.
            - ``"jaccard"``, or ``"tanimoto"``, of rows of 0 and 1: c0 less the share of the
              features which only one of them has, of those that one of them has, c0 = 1. Two rows
              of zeros are at distance 0.
            - a callable: ``metric(A, B)`` gets two blocks of rows, (a, d) and (b, d), and returns
              their similarities (a, b), finite and not negative; c0 = 0. A is of points, B of
              candidates. What it returns must not depend on what else is in a block.

            Selections do not depend on c0, only the first gain does; those with a query or private
            items do, so c0 is chosen for their features too, and is part of all similarities.
        weights : array_like, shape (n,), optional
            Non-negative weights of the rows as points, default 1.
        query, private : array_like, shape (n_query, d) and (n_private, d), optional
            Features of the items of a query, and of private items; see above.
        eta, nu : float, default 1
            At least 0: how far similarity to the query, and to private items, counts.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        memory : float, optional
            Bytes that an n x n matrix may take. It is made only if it fits and is the faster way;
            the answer is the same. Default: a quarter of what this process can have now, as in
            `subsel.select`. 0 for never.
        backend : {"auto", "cpu", "cuda"}, default "auto"
            Where to compute: on the CPU, on an NVIDIA GPU, or where X is. Weights, query and
            private are for the CPU.

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
            If X is not numeric.
        ImportError, RuntimeError
            If a GPU is asked for, and numba-cuda, a driver or a GPU is missing.

        Notes
        -----
        Distances come from exact differences with fused multiply-adds, never from inner products,
        whose cancellation in float32 is larger than most distances between gradients. Time:
        O(n^2 d) for the first element and less for each later one, O(n^2 d ln k) in all; memory
        twice that of X and some 130 bytes for each row, or O(n^2) with a matrix. A query and
        private items are looked at once, in O(n (n_query + n_private) d).
        """
        gamma = check_metric(metric, gamma)
        _check_place(backend, X, weights, query, private)
        features = sources.features(X, backend)
        objective = cls.__new__(cls)
        if query is None and private is None:
            source = features.similarity(metric, gamma, memory)
            objective._start(source, weights)
        else:
            named = {"query": query, "private": private}
            others = {
                name: features.others(items, name)
                for name, items in named.items()
                if items is not None
            }
            source, largest = features.guided(metric, gamma, memory, [*others.values()])
            to = dict(zip(others, largest, strict=True))
            objective._start(source, weights, to.get("query"), to.get("private"), eta, nu)
        if metric != "rbf":
            objective.offset = source.unit * source.offset
        return objective

    @classmethod
    def from_distances(cls, D: ArrayLike, *, backend: str = "auto") -> "FacilityLocation":
        """Facility location of similarities = largest distance - distance.

        So F(S) is n_points times the largest distance, less what the points have to go to the
        nearest element in all: selecting minimizes the loss of k-medoids.

        Parameters
        ----------
        D : array_like or scipy sparse matrix, shape (n_points, n_candidates)
            Non-negative, finite distances of points to candidates. In a sparse one, a graph of
            nearest neighbours, an absent entry is a distance of at least the largest there is,
            whose similarity is 0; and in a square one, every item is at distance 0 from itself,
            also where that entry is absent.
        backend : {"auto", "cpu"}, default "auto"
            Where to compute: on the CPU.

        Returns
        -------
        FacilityLocation
            Its `offset` is the largest distance; 0 for a graph, of which absent entries do not
            represent.

        Raises
        ------
        ValueError, TypeError
            As for a matrix of similarities.

        Notes
        -----
        Makes a copy of the size of D.

        Examples
        --------
        >>> import subsel
        >>> f = subsel.FacilityLocation.from_distances([[0.0, 1, 5], [1, 0, 4], [5, 4, 0]])
        >>> subsel.greedy(f, 2).indices
        array([1, 2])
        """
        source = sources.distances(D, backend).similarity("precomputed", None, None)
        objective = cls.of(source)
        objective.offset = source.offset
        return objective

    @classmethod
    def from_neighbors(
        cls,
        indices: ArrayLike,
        similarities: ArrayLike | None = None,
        *,
        distances: ArrayLike | None = None,
        n_candidates: int | None = None,
        backend: str = "auto",
    ) -> "FacilityLocation":
        """Facility location of each point's nearest neighbours alone, as an index returns them.

        Similarity to all others counts as 0. So memory is O(n k), and 10^7 rows are possible.

        Parameters
        ----------
        indices : array_like of int, shape (n_points, k), or scipy sparse graph of distances
            The neighbours of each point, at most once each; a negative index stands for none, as
            in faiss. A graph, alone, is taken as in `from_distances`: the ``kneighbors_graph`` of
            scikit-learn with ``mode="distance"``.
        similarities : array_like, shape (n_points, k), optional
            Similarities to these neighbours, not negative. A point represents itself only if it
            is among its own neighbours.
        distances : array_like, shape (n_points, k), optional
            Distances to them instead, of which similarities are made as in `from_distances`.
        n_candidates : int, optional
            Number of candidates, default n_points: the neighbours are points themselves.
        backend : {"auto", "cpu"}, default "auto"
            Where to compute: on the CPU.

        Returns
        -------
        FacilityLocation

        Raises
        ------
        ValueError
            If indices, similarities and distances do not fit together, a neighbour stands twice in
            a row, or a similarity or distance is negative, NaN or infinite.
        TypeError
            If indices are no integers, or another is not numeric.

        Examples
        --------
        >>> import subsel
        >>> f = subsel.FacilityLocation.from_neighbors(
        ...     [[0, 1], [1, 0], [2, 1]], distances=[[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]]
        ... )
        >>> subsel.greedy(f, 2).indices
        array([0, 2])
        """
        if check_choice(backend, BACKENDS, "backend") == "cuda":
            raise ValueError(
                "graphs of neighbours are for the CPU: use backend='cpu' (arrays on a GPU are then "
                "copied)"
            )
        if hasattr(indices, "tocsr"):
            if similarities is not None or distances is not None:
                raise ValueError(
                    "a graph has its distances in it: give no similarities and no distances"
                )
            return cls.from_distances(indices, backend=backend)
        if (similarities is None) == (distances is None):
            raise ValueError("give similarities or distances of the neighbours, one of the two")
        if n_candidates is not None:
            n_candidates = check_count(n_candidates, "n_candidates", 1, 2**48)
        if distances is None:
            graph = sources.graph_of(indices, similarities, n_candidates, "similarities")
            return cls.of(sources.matrix(graph, backend, "similarities"))
        graph = sources.graph_of(indices, distances, n_candidates, "distances")
        source = sources.distances(graph, backend, "distances")
        return cls.of(source.similarity("precomputed", None, None))

    @classmethod
    def of(cls, similarity: Any, weights: np.ndarray | None = None) -> "FacilityLocation":
        """Facility location of similarities that have been checked."""
        objective = cls.__new__(cls)
        objective._start(similarity, weights)
        return objective

    def _start(
        self, similarity: Any, weights: ArrayLike | None = None, query: np.ndarray | None = None,
        private: np.ndarray | None = None, eta: float = 1.0, nu: float = 1.0,
    ) -> None:  # fmt: skip
        """With the points' largest similarities to the query and to private items."""
        self._similarity = similarity
        self.n, self.n_points = similarity.n, similarity.n_points
        self.path = similarity.path
        self.offset = 0.0
        eta, nu = check_number(eta, "eta", 0, ends="[)"), check_number(nu, "nu", 0, ends="[)")
        least = None if private is None else nu * private
        most = None if query is None else eta * query
        if least is not None and most is not None:
            most = np.maximum(least, most)
        if weights is not None:
            weights = check_values(weights, "weights", self.n_points, 0, "[", "point")
        self._limits: Any = ()
        if not least is most is weights is None:
            self._limits = (similarity.limits(least, most, weights),)
        self.reset()

    def restrict(self, candidates: ArrayLike) -> "FacilityLocation":
        """The same points, represented only by some candidates; nothing selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        part = copy.copy(self)
        part._similarity = self._similarity.restrict(candidates)
        part.n = len(candidates)
        part.reset()
        return part

    def reset(self) -> None:
        """Make the selection empty."""
        self.__dict__.pop("_search", None)
        self._source = self._similarity

    @cached_property
    def _search(self) -> Any:
        """The selection as it grows; made when it is first needed."""
        return self._similarity.search(*self._limits)

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

    def take(self, elements: np.ndarray) -> np.ndarray:
        """Add elements one after the other; what each of them gained. O(n_points) for each."""
        return self._source.take(self._search, elements) * self._similarity.unit

    def exchange(
        self, elements: np.ndarray, closed: np.ndarray, max_swaps: int | None
    ) -> tuple[np.ndarray, np.ndarray | None, int] | None:
        """Swaps as FasterPAM makes them: O(n_points) similarities for each candidate tried."""
        found = sources.exchange(self._similarity, self._search, elements, closed, max_swaps)
        if found is None:
            return None
        elements, gains, seen = found
        evaluations = -(-seen // self.n_points)
        return elements, None if gains is None else gains * self._similarity.unit, evaluations

    @property
    def assignment(self) -> np.ndarray:
        """For each point which of the added elements represents it (n_points,), by order of adding.

        The earliest of equally similar ones. -1 for a point to which none is similar, its
        similarity to all of them being 0 in the matrix that was given; from features, every point
        has a nearest element, and 0 stands where none was added. With weights, a query or private
        items, the element that last raised what the point counts, and -1 where none did.
        """
        return self._similarity.assignment(self._search)

    def value(self, indices: ArrayLike) -> float:
        """F(indices), from scratch; does not touch what was added.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(n_points k) similarities.
        """
        indices = check_indices(indices, self.n)
        search, _ = self._similarity.represent(indices, *self._limits)
        return self._similarity.value(search)

    def assign(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Assign every point to the most similar of the given elements, whatever it counts.

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


def _check_place(backend: str, data: ArrayLike, *parts: ArrayLike | None) -> None:
    """Refuse what a GPU's kernels are not for."""
    guided = any(part is not None for part in parts)
    if check_backend(backend, data) == "cuda" and guided:
        raise ValueError("weights, query and private are for the CPU: use backend='cpu'")
