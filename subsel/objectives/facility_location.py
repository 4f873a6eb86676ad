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

    With `weights`, point i counts w_i times. A query (items that the selection should be like) and
    private items (items that it should be unlike) guide the selection. Let q_i be the largest
    similarity of point i to the query, and p_i that to the private items:

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
        At least 0: factors of the similarities to the query and to the private items.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute: on the CPU, on an NVIDIA GPU, or where the matrix is. Sparse matrices, and
        `weights`, `query` and `private`, work on the CPU only.

    Attributes
    ----------
    n : int
        Number of candidates.
    n_points : int
        Number of points.
    offset : float
        c0, the constant that `from_features` adds so that no similarity is negative; 0 for a
        matrix.
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
    Gains are stored. A stored gain is updated only when it is asked for or might be the largest,
    and the update looks only at points whose representative has changed since. Over k picks a point
    changes its representative about ln k times. So greedy computes at most about n_points *
    n_candidates * ln k similarities; evaluating all gains for every pick would take k * n_points *
    n_candidates. From features, groups of rows that are too far away to matter are skipped. On real
    gradients this leaves about 2 n^2 similarities.

    Memory beside the similarities: about 130 bytes for each point. A dense matrix of 2^22 entries
    or more takes at most another eighth of its size, for the entries that still count after 64
    picks.

    Similarities are rounded to a grid of at most 2**-52 times the largest of them times n_points
    (times 16 where there are fewer points), which makes every sum exact. Similarities below one
    step of the grid count as 0. So gains and selections have the same bits for any number of
    threads, memory layout or path, and equal gains are exactly equal: the lowest index wins. The
    bounds that follow from `query` and `private` are rounded to the number type of the
    similarities, such as float32.

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
            Finite features, any real dtype. float64, and integers of more than 16 bits, are
            computed in float64; all other types in float32. Sparse features, such as TF-IDF, need
            ``"cosine"`` or ``"dot"``. They are not made dense, but their similarities form a dense
            n x n matrix, which must fit into `memory`.
        metric : str or callable, default "euclidean"
            Similarity of rows x and y, with c0 in the attribute `offset`:

            - ``"euclidean"``: c0 - ||x - y||, where c0 is twice the largest distance to the middle
              of the features' ranges (rounded up), so no similarity is negative.
            - ``"cosine"``: c0 - (1 - cos(x, y)), c0 = 2. A row of zeros is orthogonal to all rows
              but the other rows of zeros.
            - ``"correlation"``: the cosine of rows after their mean is subtracted; a constant row
              counts as a row of zeros.
            - ``"dot"``: c0 + <x, y>, where c0 is 0 if no feature is negative, else the largest
              squared length (rounded up).
            - ``"rbf"``: exp(-gamma ||x - y||^2), c0 = 0.

            The following need an n x n matrix that fits into `memory`, and work on the CPU only:

            - ``"manhattan"``: c0 - the sum of absolute differences, with c0 as for
              ``"euclidean"``.
            - ``"hamming"``: c0 less the share of features that differ, c0 = 1.
            - ``"jaccard"``, or ``"tanimoto"``, for rows of 0 and 1: c0 less the Jaccard distance,
              c0 = 1. That distance is the share of features that only one row has, among the
              features that at least one of them has. Two rows of zeros are at distance 0.
            - a callable: ``metric(A, B)`` gets two blocks of rows, (a, d) and (b, d), and returns
              their similarities (a, b), finite and not negative; c0 = 0. A is of points, B of
              candidates. What it returns must not depend on what else is in a block.

            Without a query and private items, only the first gain depends on c0, and the selection
            does not. With them the selection does depend on it. c0 is then chosen for their
            features too, and is part of all similarities.
        weights : array_like, shape (n,), optional
            Non-negative weights of the rows as points, default 1.
        query, private : array_like, shape (n_query, d) and (n_private, d), optional
            Features of the items of a query, and of private items; see above.
        eta, nu : float, default 1
            At least 0: factors of the similarities to the query and to the private items.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        memory : float, optional
            Bytes that an n x n matrix may take. The matrix is made only if it fits and is faster;
            the result is the same. Default: a quarter of the memory that is available to this
            process, as in `subsel.select`. 0: never make a matrix.
        backend : {"auto", "cpu", "cuda"}, default "auto"
            Where to compute: on the CPU, on an NVIDIA GPU, or where X is. `weights`, `query` and
            `private` work on the CPU only.

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
        Distances are computed from differences with fused multiply-adds, never from inner products:
        in float32 their cancellation error exceeds most distances between gradients. Time: O(n^2 d)
        for the first element and less for each later one, O(n^2 d ln k) in all; memory that of X
        in the type that is computed in (twice that up to 2^22 numbers) and some 130 bytes for each
        row, or O(n^2) with a matrix. A query and private items take O(n (n_query + n_private) d)
        once.
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

        F(S) is then n_points times the largest distance, less the sum of the distances of all
        points to their nearest selected element. So maximizing F minimizes the k-medoids loss.

        Parameters
        ----------
        D : array_like or scipy sparse matrix, shape (n_points, n_candidates)
            Non-negative, finite distances of points to candidates. A sparse matrix is a graph of
            nearest neighbours: an absent entry stands for a distance of at least the largest one,
            so its similarity is 0. In a square graph every item is at distance 0 from itself, even
            if that entry is absent.
        backend : {"auto", "cpu"}, default "auto"
            Where to compute: on the CPU.

        Returns
        -------
        FacilityLocation
            Its `offset` is the largest distance, or 0 for a graph, in which an item represents only
            its neighbours.

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
        """Facility location on a graph of nearest neighbours, as a neighbour index returns it.

        The similarity of a point to all other candidates counts as 0. So memory is O(n k), which
        allows 10^7 rows.

        Parameters
        ----------
        indices : array_like of int, shape (n_points, k), or scipy sparse graph of distances
            The neighbours of each point, at most once each; a negative index stands for none, as
            in faiss. A graph, such as scikit-learn's ``kneighbors_graph`` with ``mode="distance"``,
            is given alone and is treated as in `from_distances`.
        similarities : array_like, shape (n_points, k), optional
            Similarities to these neighbours, not negative. A point represents itself only if it
            is among its own neighbours.
        distances : array_like, shape (n_points, k), optional
            Distances to these neighbours, in place of similarities. They are converted as in
            `from_distances`.
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
            If the shapes of indices, similarities and distances differ, a row names a neighbour
            twice, or a similarity or distance is negative, NaN or infinite.
        TypeError
            If `indices` are not integers, or similarities or distances are not numeric.

        Warns
        -----
        UserWarning
            If similarities rise along each of eight rows or more, as distances do.

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
                "graphs of neighbours work on the CPU only: use backend='cpu' (arrays on a GPU are "
                "then copied)"
            )
        if hasattr(indices, "tocsr"):
            if similarities is not None or distances is not None:
                raise ValueError(
                    "a graph has its distances in it: give no similarities and no distances"
                )
            return cls.from_distances(indices, backend=backend)
        if (similarities is None) == (distances is None):
            raise ValueError("give either similarities or distances of the neighbours")
        if n_candidates is not None:
            n_candidates = check_count(n_candidates, "n_candidates", 1, 2**48)
        if distances is None:
            graph = sources.graph_of(indices, similarities, n_candidates, "similarities")
            sources.warn_of_rising(similarities)
            return cls.of(sources.matrix(graph, backend, "similarities"))
        graph = sources.graph_of(indices, distances, n_candidates, "distances")
        source = sources.distances(graph, backend, "distances")
        return cls.of(source.similarity("precomputed", None, None))

    @classmethod
    def of(cls, similarity: Any, weights: np.ndarray | None = None) -> "FacilityLocation":
        """Facility location on a source of similarities that has been checked."""
        objective = cls.__new__(cls)
        objective._start(similarity, weights)
        return objective

    def _start(
        self, similarity: Any, weights: ArrayLike | None = None, query: np.ndarray | None = None,
        private: np.ndarray | None = None, eta: float = 1.0, nu: float = 1.0,
    ) -> None:  # fmt: skip
        """Set up, given each point's largest similarity to the query and to the private items."""
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
        """The same points, which only some of the candidates can represent. Nothing is selected.

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
        """The growing selection, which is created when it is first needed."""
        return self._similarity.search(*self._limits)

    @property
    def n_evaluations(self) -> int:  # type: ignore[override]
        """Similarities computed since `reset`, divided by the number of points and rounded up."""
        return -(-self._similarity.seen(self._search) // self.n_points)

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)

        Returns
        -------
        ndarray of float64, shape (m,)
            F(S + e) - F(S) for each candidate; 0 for an element of S. The first evaluation of a
            candidate takes up to n_points similarities. Later ones take only those to points whose
            representative has changed since.
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
        """Select an element. This computes O(n_points) similarities.

        The next call of `gains` also computes a row of similarities for each point that it wins.
        """
        self._source.add(self._search, check_count(element, "element", 0, self.n - 1))

    def take(self, elements: np.ndarray) -> np.ndarray:
        """Add elements one after the other, and return the gain of each. O(n_points) for each."""
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
        """For each point the element that represents it, by its position in order of adding.

        Shape (n_points,). Among equally similar elements, the earliest one represents the point. An
        entry is -1 if the point has similarity 0 to all of them in the given matrix. From features,
        every point has a nearest element, and entries are 0 while nothing is selected. With
        weights, a query or private items, the entry is the element that last raised the term of the
        point, or -1 if none did.
        """
        return self._similarity.assignment(self._search)

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. Time O(n_points k) similarities.
        """
        indices = check_indices(indices, self.n)
        search, _ = self._similarity.represent(indices, *self._limits)
        return self._similarity.value(search)

    def assign(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Assign every point to its most similar element. Weights and bounds have no effect.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            At least one.

        Returns
        -------
        assignment : ndarray of int64, shape (n_points,)
            Position in `indices`; the first among equally similar elements. -1 for a point that has
            similarity 0 to all of them in a given matrix.
        sizes : ndarray of int64, shape (k,)
            Number of points assigned to each element; 0 is possible, for instance for a repeated
            element. The sizes sum to the number of points that are not -1.
        """
        indices = check_indices(indices, self.n)
        if not len(indices):
            raise ValueError("indices must not be empty: there is nothing to assign points to")
        search, _ = self._similarity.represent(indices)
        assignment = self._similarity.assignment(search)
        return assignment, sizes_of(assignment, len(indices))


def _check_place(backend: str, data: ArrayLike, *parts: ArrayLike | None) -> None:
    """Refuse options that only the CPU supports."""
    guided = any(part is not None for part in parts)
    if check_backend(backend, data) == "cuda" and guided:
        raise ValueError("weights, query and private work on the CPU only: use backend='cpu'")
