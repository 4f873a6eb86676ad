"""Probabilistic set cover: every element covers some concepts, each with a probability."""

from typing import NamedTuple

import numpy as np

from subsel import sources
from subsel.kernels.rules import join, worth
from subsel.objectives.coverage import Coverage
from subsel.objectives.set_cover import concept_weights
from subsel.validation import ArrayLike


class Uncovered(NamedTuple):
    """The level of a concept is the probability that no selected element covers it."""

    weights: np.ndarray
    start: float = 1.0


@join.of(Uncovered)
def _miss(rule: Uncovered, level: float, s: float) -> float:
    return level * (1 - s)


@worth.of(Uncovered)
def _covered(rule: Uncovered, i: int, level: float) -> float:
    return rule.weights[i] * (1 - level)


class ProbabilisticSetCover(Coverage):
    """Probabilistic cover: F(S) = sum over concepts u of weights_u (1 - prod_{j in S} (1 - p_ju)).

    F is the expected weight of the covered concepts if elements cover them independently. With
    `query`, a concept counts by the probability that the query covers it too (mutual information).
    With `private`, it counts by the probability that it is not covered already (conditional gain).
    With both, F is the conditional mutual information. All of these are monotone and submodular.

    Parameters
    ----------
    probabilities : array_like or scipy sparse matrix, shape (n, n_concepts)
        Probability, in [0, 1], that a candidate covers a concept. Dense: any real dtype and layout;
        a C-contiguous float32 or float64 array is used without a copy and must not be changed
        meanwhile. Sparse: any scipy format; absent entries are 0.
    weights : array_like, shape (n_concepts,), optional
        Non-negative weights of the concepts, default 1.
    query, private : array_like, shape (n_concepts,), optional
        Probability that the query covers a concept, and that it is covered already.
    backend : {"auto", "cpu"}, default "auto"
        Where to compute: on the CPU.

    Attributes
    ----------
    n : int
        Number of candidates.
    n_points : int
        Number of concepts.
    path : {"dense", "sparse"}

    Raises
    ------
    ValueError
        If `probabilities` is not 2-D, is empty, is malformed, or has an entry outside [0, 1] (said
        where); if `weights`, `query` or `private` has another length than there are concepts, or an
        entry that is not allowed.
    TypeError
        If one of them is not numeric.

    Notes
    -----
    A gain costs O(n_concepts), or O(non-zeros of its row) for a sparse matrix. Greedy costs k
    passes over the matrix and `lazy_greedy` fewer. Memory beside the matrix: 24 bytes for each
    concept.

    References
    ----------
    El-Arini, Veda, Shahaf, Guestrin (2009), "Turning down the noise in the blogosphere", eq. (2);
    Iyer, Khargoankar, Bilmes, Asnani (2021), "Submodular combinatorial information measures with
    applications in machine learning", for the forms with `query` and `private`.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.ProbabilisticSetCover([[0.5, 0.5], [0.75, 0.0], [0.0, 0.5]])
    >>> chosen = subsel.greedy(f, 2)
    >>> chosen.indices, chosen.gains
    (array([0, 1]), array([1.   , 0.375]))
    """

    def __init__(
        self, probabilities: ArrayLike, *, weights: ArrayLike | None = None,
        query: ArrayLike | None = None, private: ArrayLike | None = None, backend: str = "auto",
    ) -> None:  # fmt: skip
        axes = "(n, n_concepts)"
        source = sources.amounts(
            probabilities, backend, "probabilities", axes, "probabilities", 1.0
        )
        weights = concept_weights(weights, query, private, source.n_points)
        super().__init__(source, Uncovered(weights))

    def __repr__(self) -> str:
        return f"ProbabilisticSetCover(n={self.n}, n_concepts={self.n_points})"
