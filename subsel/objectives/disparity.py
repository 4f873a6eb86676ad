"""Dispersion: elements that are far apart, by the sum or the minimum of their distances."""

import copy

import numpy as np

from subsel.objectives.base import Objective
from subsel.objectives.pairwise import Pairwise
from subsel.sources import columns
from subsel.sources.measures import columns_of
from subsel.validation import ArrayLike, Metric, check_candidates, check_count, check_indices


class DisparitySum(Pairwise):
    """Disparity sum: F(S) = the sum of distances over all pairs of elements of S.

    Parameters
    ----------
    distances : array_like, shape (n, n)
        Symmetric distances, finite and not negative, 0 between each element and itself.
    backend : {"auto", "cpu"}, default "auto"
        Dispersion is computed on the CPU.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, has negative, NaN or infinite entries, is not
        symmetric, or has large numbers on its diagonal, as similarities do; if a GPU is asked for.
    TypeError
        If it is not numeric, or is sparse.

    Notes
    -----
    The disparity sum is monotone but not submodular: gains rise as elements are added.
    `lazy_greedy` therefore refuses it. For distances that satisfy the triangle inequality, greedy
    reaches at least half of the largest possible sum if its first element belongs to an optimal
    selection. At the start all gains are 0, so the first element is the one of index 0. Use `given`
    to start from another element.

    O(n) for each element selected, and 24 bytes for each candidate. The sum prefers the rim of the
    data and may select duplicates there. `DisparityMin` selects a duplicate only when nothing else
    is left.

    References
    ----------
    Ravi, Rosenkrantz, Tayi (1994), "Heuristic and special case algorithms for dispersion problems".

    Examples
    --------
    >>> import subsel
    >>> f = subsel.DisparitySum.from_features([[0.0], [1.0], [5.0], [9.0]])
    >>> subsel.greedy(f, 3).indices
    array([0, 3, 1])
    """

    def __init__(self, distances: ArrayLike, *, backend: str = "auto") -> None:
        columns.on_cpu("DisparitySum", backend, distances)
        self._of(_distances(distances))

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: Metric = "euclidean", *, backend: str = "auto"
    ) -> "DisparitySum":
        """Disparity sum of the rows of X (n, d). No matrix is made; each element costs O(n d).

        Parameters
        ----------
        X : array_like or scipy sparse matrix, shape (n, d)
            Finite features, any real dtype. Sparse features, such as TF-IDF, need ``"cosine"`` and
            are not made dense.
        metric : str or callable, default "euclidean"
            Distance of rows x and y:

            - ``"euclidean"``: ||x - y||. ``"manhattan"``: the sum of absolute
              differences.
            - ``"cosine"``: 1 - cos(x, y). ``"correlation"``: the same of rows less their means.
            - ``"hamming"``: the share of features that differ.
            - ``"jaccard"``, or ``"tanimoto"``, for rows of 0 and 1: among the features that at
              least one of the two rows has, the share that only one of them has; 0 for two rows of
              zeros.
            - a callable: ``metric(A, B)`` gets two blocks of rows, (a, d) and (b, d), and returns
              the distances (a, b). The conditions are those of `GraphCut.from_features`, and no
              distance may be negative.

            Distances are computed in float64 from exact differences, so equal rows have distance 0.
            For cosine this also holds for multiples by powers of two. For sparse rows, a cosine
            distance below 2**-48 counts as 0.
        backend : {"auto", "cpu"}, default "auto"
            Where to compute.

        Notes
        -----
        Memory: a copy of X and 40 bytes for each row.
        """
        columns.on_cpu("DisparitySum", backend, X)
        objective = cls.__new__(cls)
        objective._of(columns_of(X, metric, distances=True))
        return objective

    def _of(self, pairs: columns.Columns) -> None:
        # The sum over ordered pairs counts each pair twice.
        super().__init__(pairs, np.zeros(pairs.n), -0.5)


class DisparityMin(Objective):
    """Disparity min: F(S) = the smallest distance between two elements of S; 0 for fewer than two.

    Greedy is farthest-first traversal (Gonzalez): it adds the element whose distance to its nearest
    selected element is largest. The first element is the one of index 0.

    Parameters
    ----------
    distances : array_like, shape (n, n)
        Symmetric distances, finite and not negative, 0 between each element and itself.
    backend : {"auto", "cpu"}, default "auto"
        Dispersion is computed on the CPU.

    Raises
    ------
    ValueError, TypeError
        As for `DisparitySum`.

    Notes
    -----
    The disparity min is neither submodular nor monotone: from the third element on, no gain is
    positive. A gain is min(F(S), distance to S) - F(S). It is 0 for every element whose distance to
    S is at least F(S). Among equal gains `greedy` takes the element that is farthest from S, and
    among those the lowest index. So the selection is spread out even if the `given` elements are
    close together.

    For distances that satisfy the triangle inequality, F of the k selected elements is at least
    half of the largest possible value. Every point then lies within twice the smallest possible
    radius of k centers.

    O(n) for each element selected, and 24 bytes for each candidate.

    References
    ----------
    Gonzalez (1985), "Clustering to minimize the maximum intercluster distance". Ravi, Rosenkrantz,
    Tayi (1994), "Heuristic and special case algorithms for dispersion problems".

    Examples
    --------
    >>> import subsel
    >>> f = subsel.DisparityMin.from_features([[0.0], [1.0], [5.0], [9.0]])
    >>> chosen = subsel.greedy(f, 3)
    >>> chosen.indices, chosen.value
    (array([0, 3, 2]), 4.0)
    """

    submodular = False
    monotone = False
    keeps_gains = True

    def __init__(self, distances: ArrayLike, *, backend: str = "auto") -> None:
        columns.on_cpu("DisparityMin", backend, distances)
        self._of(_distances(distances))

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: Metric = "euclidean", *, backend: str = "auto"
    ) -> "DisparityMin":
        """Disparity min of the rows of X (n, d). No matrix is made; each element costs O(n d).

        X, `metric` and the memory needed are as in `DisparitySum.from_features`.
        """
        columns.on_cpu("DisparityMin", backend, X)
        objective = cls.__new__(cls)
        objective._of(columns_of(X, metric, distances=True))
        return objective

    def _of(self, pairs: columns.Columns) -> None:
        self._pairs, self.n, self.path = pairs, pairs.n, pairs.path
        self.reset()

    def reset(self) -> None:
        """Make the selection empty."""
        self._near, self._column = np.full(self.n, np.inf), np.empty(self.n)
        self._added = np.zeros(self.n, bool)
        self._value, self._count = np.inf, 0

    def _gains(self, near: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Gains of elements, given their distances from S."""
        if not self._count:
            return np.zeros(len(near))
        before = self._value if self._count > 1 else 0.0
        gains = np.minimum(near, self._value) - before
        gains[added] = 0.0
        return gains

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,): O(m).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            The gain of one that was added already is 0.
        """
        candidates = check_indices(candidates, self.n, "candidates")
        return self._gains(self._near[candidates], self._added[candidates])

    def add(self, element: int) -> None:
        """Select an element: one column of distances."""
        element = check_count(element, "element", 0, self.n - 1)
        if self._added[element]:
            return
        self._value = min(self._value, float(self._near[element]))
        self._added[element] = True
        self._count += 1
        np.minimum(self._near, self._pairs.column(element, self._column), out=self._near)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the candidate that is farthest from S, `count` times. It has the largest gain."""
        elements, gains = np.empty(count, np.int64), np.empty(count)
        for step in range(count):
            # Before the first pick all distances are infinite. Elements that were added gain 0.
            near = np.where(self._added, self._value if self._count > 1 else 0.0, self._near)
            near[taken] = -np.inf
            if costs is not None:
                worth = self._gains(self._near, self._added) / costs
                near[worth < worth.max(where=~taken, initial=-np.inf)] = -np.inf
            element = elements[step] = int(np.argmax(near))
            gains[step] = self.gains([element])[0]
            taken[element] = True
            self.add(element)
        return elements, gains

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty and may repeat. Time O(k^2) distances.
        """
        indices = np.unique(check_indices(indices, self.n))
        if len(indices) < 2:
            return 0.0
        pairs, least, column = self._pairs.restrict(indices), np.inf, np.empty(len(indices))
        for element in range(len(indices)):
            pairs.column(element, column)[element] = np.inf
            least = min(least, float(column.min()))
        return least

    def restrict(self, candidates: ArrayLike) -> "DisparityMin":
        """The same objective with fewer candidates. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        part = copy.copy(self)
        part._of(self._pairs.restrict(candidates))
        return part


def _distances(distances: ArrayLike) -> columns.DenseColumns:
    """A checked matrix of distances between n elements."""
    if hasattr(distances, "tocsr"):
        raise TypeError(
            "distances is sparse, but absent distances are not 0: pass a dense matrix, or use "
            "from_features"
        )
    pairs = columns.matrix(distances, "distances")
    assert isinstance(pairs, columns.DenseColumns)
    matrix, largest = pairs.matrix, pairs.largest()
    if not pairs.non_negative:
        i, j = divmod(int(np.argmin(matrix)), pairs.n)
        raise ValueError(f"distances[{i}, {j}] is {matrix[i, j]}; distances must not be negative")
    columns.check_symmetric(pairs, "distances")
    own = matrix.diagonal()
    if own.max() > 0.01 * largest:
        i = int(np.argmax(own))
        raise ValueError(
            f"distances[{i}, {i}] is {own[i]}, but the distance of an element to itself is 0; are "
            "these similarities?"
        )
    if own.any():  # remove rounding errors from the diagonal
        matrix = matrix.copy()
        np.fill_diagonal(matrix, 0)
        pairs.matrix = columns.read_only(matrix)
    return pairs
