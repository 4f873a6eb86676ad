"""Lazy greedy: the same selection as greedy, from fewer evaluations."""

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.greedy import as_objective, greedy, result, steps
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_budget


def lazy_greedy(f: Objective | ArrayLike, budget: int, *, progress: bool = False) -> Selection:
    """Select what `greedy` selects, evaluating only candidates that might be the best.

    Gains of a submodular function never rise, so a gain from an earlier step bounds today's from
    above. Candidates are evaluated anew in the order of their bounds, in batches that double, until
    no bound that is left could win, or tie with a lower index.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first. It
        must be submodular; of one that is not, the selection may differ from greedy's.
    budget : int
        Number of elements, 1..n.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        The same indices and gains as from `greedy`.

    Raises
    ------
    TypeError, ValueError
        If the budget is not a count in 1..n, or the matrix does not fit `FacilityLocation`.

    Notes
    -----
    An objective that keeps all gains up to date (`FacilityLocation`) leaves nothing to be lazy
    about: updating them looks at fewer similarities than evaluating candidates anew, so it is
    handed to `greedy`.

    References
    ----------
    Minoux (1978), "Accelerated greedy algorithms for maximizing submodular set functions".
    """
    f = as_objective(f)
    if f.keeps_gains:
        return greedy(f, budget, progress=progress)
    budget = check_budget(budget, f.n)
    f.reset()
    bounds = f.checked_gains(np.arange(f.n)).copy()
    evaluations = f.n
    indices, gains = np.empty(budget, np.int64), np.empty(budget)
    fresh = np.ones(f.n, bool)
    for step in steps(budget, progress):
        batch = 1
        while True:
            best = int(np.argmax(bounds))
            if fresh[best]:
                break
            stale = np.flatnonzero(~fresh)
            if len(stale) > batch:
                stale = np.sort(stale[np.argsort(-bounds[stale], kind="stable")[:batch]])
            bounds[stale] = f.checked_gains(stale)
            fresh[stale] = True
            evaluations += len(stale)
            batch *= 2
        indices[step], gains[step] = best, bounds[best]
        f.add(best)
        bounds[best] = -np.inf
        fresh[:] = bounds == -np.inf
    return result(f, indices, gains, evaluations)
