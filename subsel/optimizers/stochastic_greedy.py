"""Stochastic greedy: at each step the best of a random sample."""

import math

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.greedy import as_objective, result, steps
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_budget, check_number, check_random_state


def stochastic_greedy(
    f: Objective | ArrayLike,
    budget: int,
    epsilon: float = 0.01,
    random_state: int | np.random.Generator | None = None,
    *,
    progress: bool = False,
) -> Selection:
    """Select `budget` elements, each the best of a fresh sample of those not selected yet.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first.
    budget : int
        Number of elements k, 1..n.
    epsilon : float, default 0.01
        In (0, 1). The sample has ceil(n / k * ln(1 / epsilon)) elements, drawn uniformly without
        replacement; all that are left where those are fewer.
    random_state : int, numpy.random.Generator or None, default None
        Seed: the same seed gives the same selection on every backend. None draws a fresh one.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        Exactly `budget` distinct elements. Among equal gains of a sample the lowest index wins.

    Raises
    ------
    TypeError, ValueError
        If budget, epsilon or random_state is not one of the above, or the matrix does not fit
        `FacilityLocation`.

    Notes
    -----
    In expectation F is at least 1 - 1/e - epsilon of the largest possible. It evaluates
    n ln(1/epsilon) gains in all, whatever k. `FacilityLocation` keeps all gains exact anyway, so
    that it saves little over `greedy` there; it is meant for objectives whose gains are dear.

    References
    ----------
    Mirzasoleiman, Badanidiyuru, Karbasi, Vondrak, Krause (2015), "Lazier than lazy greedy",
    Algorithm 1.
    """
    f = as_objective(f)
    budget = check_budget(budget, f.n)
    epsilon = check_number(epsilon, "epsilon", 0, 1)
    random = check_random_state(random_state)
    f.reset()
    size = math.ceil(f.n / budget * -math.log(epsilon))
    left = np.arange(f.n)
    indices, gains = np.empty(budget, np.int64), np.empty(budget)
    evaluations = 0
    for step in steps(budget, progress):
        count = min(size, len(left))
        drawn = random.choice(len(left), count, replace=False, shuffle=False)
        drawn = drawn[np.argsort(left[drawn])]
        sample_gains = f.checked_gains(left[drawn])
        evaluations += count
        best = int(np.argmax(sample_gains))
        indices[step], gains[step] = left[drawn[best]], sample_gains[best]
        left[drawn[best]] = left[-1]
        left = left[:-1]
        f.add(int(indices[step]))
    return result(f, indices, gains, evaluations)
