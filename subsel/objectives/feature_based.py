"""Feature-based coverage: each feature counts by a concave function of how much was selected."""

import math
from typing import Any, NamedTuple

import numpy as np

from subsel import sources
from subsel.kernels.rules import join, worth
from subsel.objectives.coverage import Coverage
from subsel.validation import ArrayLike, as_host_array, check_choice, check_number, check_values


class Sqrt(NamedTuple):
    """A feature is worth the square root of its amount."""

    weights: np.ndarray


class Log(NamedTuple):
    """A feature is worth log(1 + amount)."""

    weights: np.ndarray


class Ratio(NamedTuple):
    """A feature is worth amount / (1 + amount)."""

    weights: np.ndarray


class Capped(NamedTuple):
    """A feature is worth its amount, up to a cap."""

    weights: np.ndarray
    cap: np.ndarray


@join.of(Sqrt)
@join.of(Log)
@join.of(Ratio)
@join.of(Capped)
def _add(rule: Any, level: float, s: float) -> float:
    return level + s


@worth.of(Sqrt)
def _sqrt(rule: Sqrt, i: int, level: float) -> float:
    return rule.weights[i] * math.sqrt(level)


@worth.of(Log)
def _log(rule: Log, i: int, level: float) -> float:
    return rule.weights[i] * math.log1p(level)


@worth.of(Ratio)
def _ratio(rule: Ratio, i: int, level: float) -> float:
    return rule.weights[i] * (level / (1 + level))


@worth.of(Capped)
def _capped(rule: Capped, i: int, level: float) -> float:
    return rule.weights[i] * min(level, rule.cap[i])


RULES = {"sqrt": Sqrt, "log1p": Log, "ratio": Ratio, "min": Capped}


class FeatureBased(Coverage):
    """Feature-based coverage: F(S) = sum_u weights_u concave(sum_{j in S} x_ju).

    An element adds its features to what was selected, and the concave function makes the first
    unit of a feature count more than the next. So the selection has much of every feature.
    Monotone and submodular.

    Parameters
    ----------
    X : array_like or scipy sparse matrix, shape (n, d)
        Non-negative, finite features, for instance counts of words or TF-IDF. Dense: any real dtype
        and layout; a C-contiguous float32 or float64 array is used without a copy and must not be
        changed meanwhile. Sparse: any scipy format.
    concave : {"sqrt", "log1p", "ratio", "min"}, default "sqrt"
        sqrt(x), log(1 + x), x / (1 + x), or min(x, cap).
    weights : array_like, shape (d,), optional
        Non-negative weights of the features, default 1.
    cap : float or array_like of shape (d,), optional
        Only for ``"min"``, which needs it: the amount of a feature beyond which more of it adds
        nothing.
    backend : {"auto", "cpu"}, default "auto"
        Where to compute: on the CPU.

    Attributes
    ----------
    n : int
        Number of candidates.
    n_points : int
        Number of features, d.
    path : {"dense", "sparse"}

    Raises
    ------
    ValueError
        If X is not 2-D, is empty, has a negative, NaN or infinite entry (said where), or is a
        malformed sparse matrix; if `weights` or `cap` has another length than X has features, or a
        negative, NaN or infinite entry; if `cap` is missing, or given without ``"min"``.
    TypeError
        If X, `weights` or `cap` is not numeric.

    Notes
    -----
    A gain costs O(d), or O(non-zeros of its row) for sparse X; greedy costs k passes over X and
    `lazy_greedy` fewer. Memory beside X: 24 bytes for each feature.

    The terms of a gain are rounded to a grid of at most 2**-52 * d times the largest term. Their
    sums are then exact, so equal gains are exactly equal for any number of threads and any layout.

    References
    ----------
    Kirchhoff, Bilmes (2014), "Submodularity for data selection in machine translation", eq. (4).

    Examples
    --------
    >>> import subsel
    >>> f = subsel.FeatureBased([[9.0, 0.0], [8.0, 0.0], [0.0, 4.0]])
    >>> subsel.greedy(f, 2).indices
    array([0, 2])
    """

    def __init__(
        self, X: ArrayLike, *, concave: str = "sqrt", weights: ArrayLike | None = None,
        cap: float | ArrayLike | None = None, backend: str = "auto",
    ) -> None:  # fmt: skip
        check_choice(concave, RULES, "concave")
        if (cap is None) == (concave == "min"):
            raise ValueError(
                "concave='min' needs cap, the amount of a feature from which on more adds nothing"
                if cap is None
                else f"cap needs concave='min', not {concave!r}"
            )
        source = sources.amounts(X, backend, "X", "(n, d)", "features")
        if not math.isfinite(source.span * source.n):
            raise ValueError(
                f"X has features up to {source.span:g}, whose sum may overflow; rescale X"
            )
        d = source.n_points
        parameters = [np.ones(d)]
        if weights is not None:
            parameters = [check_values(weights, "weights", d, 0, "[", of="feature")]
        if cap is not None:
            alone = not as_host_array(cap, "cap").ndim
            caps = np.full(d, check_number(cap, "cap", 0)) if alone else cap
            parameters.append(check_values(caps, "cap", d, 0, "[", of="feature"))
        self.concave = concave
        super().__init__(source, RULES[concave](*parameters))

    def __repr__(self) -> str:
        return f"FeatureBased(n={self.n}, d={self.n_points}, concave={self.concave!r})"
