"""Stochastic greedy: at each step the best of a random sample."""

import math
from typing import Any

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.bounds import Bounds
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_number, check_random_state


def stochastic_greedy(
    f: Objective | ArrayLike,
    budget: Any,
    epsilon: float = 0.01,
    random_state: int | np.random.Generator | None = None,
    *,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    target: float | None = None,
    coverage: float | None = None,
    min_gain: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select `budget` elements, each the best of a new sample of those not selected yet.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first.
    budget : int, or a constraint of `subsel.constraints`
        Number of elements k, 1..n, or which sets may be selected.
    epsilon : float, default 0.01
        In (0, 1). The sample has ceil(n / k * ln(1 / epsilon)) elements, drawn uniformly without
        replacement; all that are left where those are fewer.
    random_state : int, numpy.random.Generator or None, default None
        Seed: the same seed gives the same selection on every backend. None draws a fresh one.
    given, exclude, target, coverage, min_gain, progress
        As for `greedy`. Gains may rise from one sample to the next, so that `min_gain` may end the
        search early.

    Returns
    -------
    Selection
        Distinct elements, as many as the budget says unless a stop came first. Among equal gains
        of a sample the lowest index wins.

    Raises
    ------
    TypeError, ValueError
        If budget, epsilon or random_state is not one of the above, or the matrix does not fit
        `FacilityLocation`.

    Notes
    -----
    In expectation F is at least 1 - 1/e - epsilon of the largest possible. It evaluates
    n ln(1/epsilon) gains in all, whatever k. `FacilityLocation` keeps all gains exact anyway, so
    that it saves little over `greedy` there; it is meant for objectives whose gains are expensive.

    References
    ----------
    Mirzasoleiman, Badanidiyuru, Karbasi, Vondrak, Krause (2015), "Lazier than lazy greedy",
    Algorithm 1.

    Examples
    --------
    >>> import subsel
    >>> subsel.stochastic_greedy([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], 2, random_state=0).indices
    array([1, 0])
    """
    epsilon = check_number(epsilon, "epsilon", 0, 1)
    random = check_random_state(random_state)
    search = Run(
        "stochastic_greedy", f, budget, given=given, exclude=exclude, target=target,
        coverage=coverage, min_gain=min_gain, progress=progress,
    )  # fmt: skip
    with search as run:
        if run.most is None:
            raise ValueError(
                "budget must be a count, or a constraint that bounds the count: the size of "
                "stochastic_greedy's samples depends on it"
            )
        size = math.ceil(run.f.n / run.most * -math.log(epsilon))
        left, bounds = run.candidates(), Bounds(run)
        while run.room():
            count = min(size, len(left))
            drawn = random.choice(len(left), count, replace=False, shuffle=False)
            drawn = drawn[np.argsort(left[drawn])]
            sample = left[drawn]
            element, gain = bounds.best(sample)
            run.pick(element, gain)
            bounds.grown()
            left[drawn[np.searchsorted(sample, element)]] = left[-1]
            left = left[:-1]
            if run.closed[left].any():
                left = left[~run.closed[left]]
        return run.selection(bounds.upper)
