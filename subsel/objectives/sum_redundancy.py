"""Sum redundancy: as little in common as possible."""

from subsel.objectives.pairwise import Pairwise
from subsel.sources import columns, warn_of_distances
from subsel.sources.measures import columns_of
from subsel.validation import ArrayLike, Metric


class SumRedundancy(Pairwise):
    """Sum redundancy: F(S) = -sum_{a in S} sum_{b in S} s_ab, ordered pairs and each with itself.

    It selects elements that are unlike one another, whether or not they are like anything else. If
    no similarity is negative, no gain is positive: greedy still selects as many elements as it is
    asked for, each with the smallest loss.

    Parameters
    ----------
    similarity : array_like or scipy sparse matrix, shape (n, n)
        Finite similarities between candidates. If the matrix is not symmetric, each pair counts
        s_ab + s_ba.
    backend : {"auto", "cpu"}, default "auto"
        Sum redundancy is computed on the CPU.

    Attributes
    ----------
    submodular : bool
        Whether no similarity is negative. From features with ``"dot"`` or ``"cosine"``, this is
        True if no feature is negative, and False otherwise.
    monotone : bool
        False, unless all similarities are 0.

    Raises
    ------
    ValueError
        If the matrix is not square, is empty, has NaN or infinite entries; if a GPU is asked for.
    TypeError
        If it is not numeric.

    Notes
    -----
    Time O(n) for each element selected, and 24 bytes for each candidate; for features see
    `GraphCut.from_features`. If all candidates have the same similarity to themselves, the first
    element is the one of the lowest index.

    References
    ----------
    Schreiber, Bilmes, Noble (2020), "apricot: Submodular selection for data summarization in
    Python", the function of that name.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.SumRedundancy([[1.0, 0.9, 0], [0.9, 1, 0.5], [0, 0.5, 1]])
    >>> subsel.greedy(f, 2).indices
    array([0, 2])
    """

    def __init__(self, similarity: ArrayLike, *, backend: str = "auto") -> None:
        columns.on_cpu("SumRedundancy", backend, similarity)
        pairs = columns.matrix(similarity, "similarity")
        warn_of_distances(pairs, "similarity")
        self._of(pairs)

    @classmethod
    def from_features(
        cls, X: ArrayLike, metric: Metric = "cosine", *, gamma: float | None = None,
        backend: str = "auto",
    ) -> "SumRedundancy":  # fmt: skip
        """Sum redundancy of the rows of X (n, d). No matrix is made; each element costs O(n d).

        X, `metric` and `gamma` are those of `GraphCut.from_features`. Memory: a copy of X and 40
        bytes for each row. For a callable, all pairs are searched for a negative similarity, O(n^2)
        at the start.
        """
        columns.on_cpu("SumRedundancy", backend, X)
        objective = cls.__new__(cls)
        objective._of(columns_of(X, metric, gamma))
        return objective

    def _of(self, pairs: columns.Columns) -> None:
        super().__init__(pairs, 0 * pairs.diagonal(), 1.0)
