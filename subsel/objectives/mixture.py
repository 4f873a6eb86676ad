"""Mixtures: several objectives at once, each with a weight."""

import math
from collections.abc import Iterable

import numpy as np

from subsel.objectives.base import Objective
from subsel.objectives.modular import Modular
from subsel.validation import (
    ArrayLike,
    check_candidates,
    check_count,
    check_indices,
    check_values,
)


class Mixture(Objective):
    """A mixture: F(S) = the sum of weights_c F_c(S) over several objectives F_c.

    ``2.0 * f + g`` is the same as ``Mixture([f, g], [2.0, 1.0])``.

    Parameters
    ----------
    objectives : sequence of Objective
        Objectives over the same candidates. A mixture among them is replaced by its parts. An
        objective that occurs more than once counts once, with the sum of its weights. The mixture
        uses the objectives themselves, not copies, and resets them: elements that were added to
        them are forgotten.
    weights : array_like of float, shape (number of objectives,), optional
        Finite weights of either sign; default 1 for each. Objectives are not scaled to match. To
        choose weights, compare ``f.value(range(f.n))`` of the objectives, or the values of what
        each selects alone.

    Attributes
    ----------
    objectives : list of Objective
    weights : list of float
    submodular : bool
        Whether every objective is submodular and no weight is negative. The weight of a `Modular`
        may have either sign.
    monotone : bool
        Whether every objective is monotone and no weight is negative. A `Modular` counts as
        monotone if none of its values times its weight is negative.

    Raises
    ------
    ValueError
        If there is no objective, the objectives differ in their number of candidates, or a weight
        is missing, NaN or infinite.
    TypeError
        If `objectives` holds anything other than objectives.

    Notes
    -----
    Time and memory are the sums over the objectives. A gain is the weighted sum of their gains, in
    the order given.

    References
    ----------
    Lin, Bilmes (2011), "A class of submodular functions for document summarization", eq. (3).

    Examples
    --------
    >>> import subsel
    >>> covering = subsel.FacilityLocation([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    >>> f = 2.0 * covering + subsel.Modular([0.0, 0.5, 0.1])
    >>> f.weights
    [2.0, 1.0]
    >>> subsel.greedy(f, 2).indices
    array([1, 2])
    """

    def __init__(self, objectives: Iterable[Objective], weights: ArrayLike | None = None) -> None:
        if isinstance(objectives, Objective):
            raise TypeError("objectives must be a sequence of objectives, not a single one")
        if not isinstance(objectives, Iterable):
            came = type(objectives).__name__
            raise TypeError(f"objectives must be a sequence of objectives, not {came}")
        given = [*objectives]
        if not given:
            raise ValueError("objectives must not be empty")
        for at, f in enumerate(given):
            if not isinstance(f, Objective):
                raise TypeError(f"objectives[{at}] must be an Objective, not {type(f).__name__}")
            if f.n != given[0].n:
                raise ValueError(
                    f"objectives[{at}] has {f.n} candidates, but objectives[0] has {given[0].n}"
                )
        count = len(given)
        shares = (
            np.ones(count) if weights is None
            else check_values(weights, "weights", count, of="objective")
        )  # fmt: skip
        total: dict[int, float] = {}
        parts: dict[int, Objective] = {}
        for f, share in zip(given, shares.tolist(), strict=True):
            for part, weight in _terms(f):
                parts[id(part)] = part
                total[id(part)] = total.get(id(part), 0.0) + share * weight
        self.objectives: list[Objective] = [*parts.values()]
        self.weights: list[float] = [*total.values()]
        self.n = given[0].n
        self.path = " + ".join(dict.fromkeys(f.path for f in self.objectives if f.path))
        self.submodular = all(map(_is_submodular, self.weights, self.objectives))
        self.monotone = all(map(_is_monotone, self.weights, self.objectives))
        self.keeps_gains = all(f.keeps_gains for f in self.objectives)
        self.reset()

    def __repr__(self) -> str:
        return f"Mixture({' + '.join(f'{w:g} * {f!r}' for f, w in _terms(self))})"

    def searched(self) -> list[Objective]:
        """The mixture and its objectives, which it searches in place."""
        return [self, *(part for f in self.objectives for part in f.searched())]

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """The objectives' own tolerances, plus the rounding of the sum of the gains seen so far."""
        own = math.fsum(abs(w) * (f.rounding or 0.0) for f, w in _terms(self))
        return own + 2.0**-44 * self._largest

    @property
    def caution(self) -> str:  # type: ignore[override]
        """The objectives' warnings about the elements that were added."""
        return "; ".join(f.caution for f in self.objectives if f.caution)

    def reset(self) -> None:
        """Make the selection of every objective empty."""
        self._largest = 0.0
        for f in self.objectives:
            f.reset()

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
        """
        candidates = check_indices(candidates, self.n, "candidates")
        gains, size = np.zeros(len(candidates)), np.zeros(len(candidates))
        for f, weight in _terms(self):
            term = weight * f.checked_gains(candidates)
            gains += term
            size += np.abs(term)
        self._largest = max(self._largest, float(size.max(initial=0.0)))
        return gains

    def add(self, element: int) -> None:
        """Select an element, in every objective."""
        element = check_count(element, "element", 0, self.n - 1)
        for f in self.objectives:
            f.add(element)

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat.
        """
        indices = check_indices(indices, self.n)
        return math.fsum(weight * f.value(indices) for f, weight in _terms(self))

    def restrict(self, candidates: ArrayLike) -> "Mixture":
        """The mixture of the objectives, restricted to some candidates. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        return Mixture([f.restrict(candidates) for f in self.objectives], self.weights)


def _terms(f: Objective) -> list[tuple[Objective, float]]:
    """The objectives and weights of a mixture; any other objective has the weight 1."""
    if isinstance(f, Mixture):
        return list(zip(f.objectives, f.weights, strict=True))
    return [(f, 1.0)]


def _is_submodular(weight: float, f: Objective) -> bool:
    return weight == 0 or isinstance(f, Modular) or (weight > 0 and f.submodular)


def _is_monotone(weight: float, f: Objective) -> bool:
    if isinstance(f, Modular):
        return bool((weight * f.values >= 0).all())
    return weight == 0 or (weight > 0 and f.monotone)


Objective._mixture = Mixture
