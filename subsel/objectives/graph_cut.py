"""Graph cut: similar to everything, but not to one another."""

import numpy as np

from subsel.objectives.pairwise import Pairwise
from subsel.sources import columns, warn_of_distances
from subsel.sources.measures import columns_of
from subsel.validation import ArrayLike, Metric, check_number


class GraphCut(Pairwise):
    """Graph cut: F(S) = sum_i sum_{j in S} s_ij - lam * sum_{a in S} sum_{b in S} r_ab.

    The first term rewards elements that are similar to many points, the second takes away what the
    selected elements have in common. Its sum goes over ordered pairs and over each element with
    itself.

    Parameters
    ----------
    similarity : array_like or scipy sparse matrix, shape (n_points, n_candidates)
        Finite similarities s; rows are the points, columns the candidates. Negative ones are
        allowed. Square unless `redundancy` is given.
    lam : float, default 0.5
        At least 0. From 0 to 0.5, no gain is negative (for symmetric similarities that are not
        negative); larger values ask for more diversity. Other libraries divide by it: apricot's
        ``alpha`` is 1 / lam, and its values are 1 / lam times as large.
    redundancy : array_like or scipy sparse matrix, shape (n_candidates, n_candidates), optional
        Finite similarities r between candidates; default `similarity`. If the matrix is not
        symmetric, each pair counts r_ab + r_ba.
    private : array_like or scipy sparse matrix, shape (n_candidates, n_private), optional
        Similarities of the candidates to items that the selection should be unlike. They make the
        conditional gain: 2 lam nu sum_p private_jp is taken from what j is worth.
    nu : float, default 1.0
        At least 0: how much `private` counts.
    backend : {"auto", "cpu"}, default "auto"
        Graph cut is computed on the CPU.

    Attributes
    ----------
    submodular : bool
        Whether no r is negative (or lam is 0). From features with ``"dot"`` or ``"cosine"``, this
        is True if no feature is negative, and False otherwise.
    monotone : bool
        Whether F is submodular and no gain beside all other elements is negative.

    Raises
    ------
    ValueError
        If a matrix is not 2-D, is empty, has NaN or infinite entries, or the shapes do not fit; if
        `lam` or `nu` is negative; if a GPU is asked for.
    TypeError
        If a matrix is not numeric.

    Notes
    -----
    Time: one pass over `similarity` at the start, then O(n) for each element selected; a sparse
    matrix adds its non-zeros. Memory: 24 bytes for each candidate. `from_features` states its own
    cost. A mutual-information form needs no class of its own: it is ``Modular(2 * lam *
    similarity_to_queries.sum(axis=1))``.

    Gains become negative as `lam` grows; greedy still selects exactly as many elements as it is
    asked for, unless `min_gain` says when to stop.

    References
    ----------
    Lin, Bilmes (2009), "Graph-based submodular selection for extractive summarization", eq. (3).
    Conditional gain: Kothawade et al. (2021), "SIMILAR", table 1.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.GraphCut([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], lam=1.0)
    >>> subsel.greedy(f, 2).indices
    array([0, 2])
    """

    def __init__(
        self, similarity: ArrayLike, *, lam: float = 0.5, redundancy: ArrayLike | None = None,
        private: ArrayLike | None = None, nu: float = 1.0, backend: str = "auto",
    ) -> None:  # fmt: skip
        columns.on_cpu("GraphCut", backend, similarity)
        lam, nu = _weights(lam, nu)
        s = columns.finite_matrix(similarity, "similarity", "(n_points, n_candidates)")
        if redundancy is None:
            pairs = columns.between(s, "similarity", "; or give redundancy")
            if lam != 1:  # that is the cut of a graph, which mostly has no loops
                warn_of_distances(pairs, "similarity")
        else:
            pairs = columns.matrix(redundancy, "redundancy")
        if pairs.n != s.shape[1]:
            raise ValueError(
                f"redundancy is {pairs.n} x {pairs.n}, but similarity has {s.shape[1]} candidates "
                "(columns)"
            )
        covered = columns.column_sums(s)
        near = np.zeros(1)
        if private is not None:
            p = columns.finite_matrix(private, "private", "(n_candidates, n_private)")
            if p.shape[0] != pairs.n:
                raise ValueError(
                    f"private must have one row for each of {pairs.n} candidates, not "
                    f"{p.shape[0]} rows"
                )
            near = columns.row_sums(p)
        self.lam, self.nu = lam, nu
        super().__init__(pairs, covered - 2 * lam * nu * near, lam)

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: Metric = "cosine", *, lam: float = 0.5,
        gamma: float | None = None, private: ArrayLike | None = None, nu: float = 1.0,
        backend: str = "auto",
    ) -> "GraphCut":  # fmt: skip
        """Graph cut of the rows of X, without a matrix of similarities.

        Parameters
        ----------
        X : array_like or scipy sparse matrix, shape (n, d)
            Finite features, any real dtype. Sparse features, such as TF-IDF, need ``"cosine"`` or
            ``"dot"``, and are not made dense.
        metric : str or callable, default "cosine"
            Similarity of rows x and y:

            - ``"cosine"``: their cosine; a row of zeros is orthogonal to all rows but the other
              rows of zeros. ``"correlation"``: the cosine of x and y, each less its mean.
            - ``"dot"``: <x, y>. ``"rbf"``: exp(-gamma ||x - y||^2).
            - ``"hamming"``: the share of features that are equal.
            - ``"jaccard"``, or ``"tanimoto"``, for rows of 0 and 1: among the features that at
              least one of x and y has, the share that both have; 1 for two rows of zeros. X is
              stored in n d / 8 bytes.
            - a callable: ``metric(A, B)`` gets two blocks of rows, (a, d) and (b, d), and returns
              the similarities (a, b). They must be finite and symmetric; symmetry is checked within
              blocks of 32 neighbouring rows. The similarity of two rows must not depend on the
              other rows of a block.
        lam, nu, backend
            As for `GraphCut`.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        private : array_like, shape (n_private, d), optional
            Features of the items that the selection should be unlike.

        Notes
        -----
        Nothing is approximated. With ``"cosine"``, ``"correlation"`` and ``"dot"`` the similarity
        of x to all points is <x, sum of all rows>, and a gain takes one more product, with the sum
        of the selected rows. This takes O(n d) at the start and at most for each element selected,
        as only gains that might be the largest are computed; O(non-zeros) for sparse X. All other
        metrics take one pass over all pairs at the start, O(n^2 d). Memory: a copy of X and 40
        bytes for each row. Sums are in float64, also for float32 features.
        """
        columns.on_cpu("GraphCut", backend, X)
        lam, nu = _weights(lam, nu)
        pairs = columns_of(X, metric, gamma)
        others = pairs.beside(private, metric, gamma, "private")
        near = pairs.sums(others) if others else np.zeros(1)
        covered = pairs.sums()
        objective = cls.__new__(cls)
        objective.lam, objective.nu = lam, nu
        Pairwise.__init__(objective, pairs, covered - 2 * lam * nu * near, lam, covered)
        return objective

    def __repr__(self) -> str:
        return f"GraphCut(n={self.n}, lam={self.lam:g}, path={self.path!r})"


def _weights(lam: float, nu: float) -> tuple[float, float]:
    lam = check_number(lam, "lam", 0, 1e50, ends="[]")
    return float(lam), float(check_number(nu, "nu", 0, 1e50, ends="[]"))
