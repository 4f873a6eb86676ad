"""Threshold greedy: few passes over the candidates, each with a lower threshold."""

from typing import Any

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.bounds import Bounds
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_number


def threshold_greedy(
    f: Objective | ArrayLike,
    budget: Any = None,
    epsilon: float = 0.1,
    *,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    target: float | None = None,
    coverage: float | None = None,
    min_gain: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select elements whose gain reaches a threshold, which falls from pass to pass.

    The first threshold is the largest gain of a single element; each later one is smaller by the
    factor 1 - epsilon. A pass goes over the candidates in the order of their indices and selects
    each whose gain is at least the threshold.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. It must be submodular and
        monotone. An objective is reset first.
    budget : int, or a constraint of `subsel.constraints`, optional
        As for `greedy`; not a `Knapsack` of rule ``"best"``.
    epsilon : float, default 0.1
        In (0, 1): the smaller, the more passes, and the nearer to greedy.
    given, exclude, target, coverage, min_gain, progress
        As for `greedy`.

    Returns
    -------
    Selection
        As from `greedy`. Elements of almost no gain that are needed to fill the budget, below
        epsilon / n of the largest, are selected greedily.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `greedy` does, and if the objective says that it is not submodular, or not monotone.

    Notes
    -----
    With a count as budget, F is at least 1 - 1/e - epsilon of the largest possible. Evaluates at
    most O(n / epsilon * log(n / epsilon)) gains, whatever the count is; candidates whose gain at an
    earlier step was below the threshold are passed over without an evaluation.

    References
    ----------
    Badanidiyuru, Vondrak (2014), "Fast algorithms for maximizing submodular functions",
    Algorithm 1.

    Examples
    --------
    >>> import subsel
    >>> subsel.threshold_greedy([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], 2).indices
    array([1, 0])
    """
    epsilon = check_number(epsilon, "epsilon", 0, 1)
    search = Run(
        "threshold_greedy", f, budget, given=given, exclude=exclude, target=target,
        coverage=coverage, min_gain=min_gain, progress=progress, submodular=True, monotone=True,
    )  # fmt: skip
    with search as run:
        bounds = Bounds(run)
        if run.room():
            bounds.evaluate(run.candidates())
            worth = run.worth(bounds.upper, slice(None))
            threshold = float(worth[run.candidates()].max())
            least = epsilon / run.f.n * threshold
            while threshold >= least > 0 and run.room():
                _pass(run, bounds, threshold)
                threshold *= 1 - epsilon
        while run.room():
            run.pick(*bounds.best(run.candidates()))
            bounds.grown()
        return run.selection(bounds.upper)


def _pass(run: Run, bounds: Bounds, threshold: float) -> None:
    """Select what reaches the threshold, in the order of the indices."""
    worth = run.worth(bounds.upper, slice(None))
    hopeful = np.flatnonzero((worth >= threshold) & ~run.closed)
    at, batch = 0, 1
    while at < len(hopeful) and run.room():
        # Those after the one that is selected are evaluated in vain, so batches begin small.
        part = hopeful[at : at + batch]
        part = part[~run.closed[part]]
        bounds.evaluate(bounds.stale(part))
        reach = np.flatnonzero(run.worth(bounds.upper[part], part) >= threshold)
        if not len(reach):
            at, batch = at + batch, 2 * batch
            continue
        element = int(part[reach[0]])
        run.pick(element, float(bounds.upper[element]))
        bounds.grown()
        at, batch = int(np.searchsorted(hopeful, element)) + 1, 1
