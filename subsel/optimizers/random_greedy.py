"""Random greedy: for objectives that more elements can make worse."""

from typing import Any

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_random_state


def random_greedy(
    f: Objective | ArrayLike,
    budget: Any,
    random_state: int | np.random.Generator | None = None,
    *,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    target: float | None = None,
    coverage: float | None = None,
    min_gain: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select at most `budget` elements, each drawn from those of largest gain.

    Each of k steps draws one of the k candidates with the largest gains, uniformly. If fewer than k
    have a positive gain, dummies of gain 0 take the other places; a step that draws a dummy selects
    nothing.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. It must be submodular, and need
        not be monotone. An objective is reset first.
    budget : int, or a constraint of `subsel.constraints` that bounds the count
        Number of steps k. Not a `Knapsack`.
    random_state : int, numpy.random.Generator or None, default None
        Seed: the same seed gives the same selection on every backend. None draws a fresh one.
    given, exclude, target, coverage, min_gain, progress
        As for `greedy`.

    Returns
    -------
    Selection
        Distinct elements of positive gain, in the order in which they were drawn: at most k, and
        fewer where dummies were drawn.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `greedy` does, and if the objective says that it is not submodular, or the budget has
        costs or does not bound the count.

    Notes
    -----
    With a count as budget, and F never negative, the expected F is at least 1/e of the largest
    possible; for monotone F at least 1 - 1/e. Evaluates up to n gains at each of k steps.

    References
    ----------
    Buchbinder, Feldman, Naor, Schwartz (2014), "Submodular maximization with cardinality
    constraints", Algorithm 1; the dummies are those of its reduction 1.

    Examples
    --------
    >>> import subsel
    >>> S = [[2.0, 1.9, 0.0], [1.9, 2.0, 0.0], [0.0, 0.0, 1.0]]
    >>> chosen = subsel.random_greedy(subsel.GraphCut(S, lam=1.0), 2, random_state=0)
    >>> bool(chosen.value > 0)
    True
    """
    random = check_random_state(random_state)
    search = Run(
        "random_greedy", f, budget, given=given, exclude=exclude, target=target,
        coverage=coverage, min_gain=min_gain, progress=progress, submodular=True, fills=False,
    )  # fmt: skip
    with search as run:
        if run.most is None or run.costs is not None:
            raise ValueError(
                "budget must be a count, or a constraint that bounds the count and has no costs: "
                "random_greedy draws from as many candidates as may be selected; with costs, use "
                "subsel.greedy"
            )
        for _ in range(run.most):
            if not run.room():
                break
            candidates = run.candidates()
            gains = run.evaluated(candidates)
            top = np.argsort(-gains, kind="stable")[: run.most]
            drawn = int(random.integers(run.most))
            if drawn < np.count_nonzero(gains[top] > 0):
                at = top[drawn]
                run.pick(int(candidates[at]), float(gains[at]))
        run.end("budget")
        return run.selection()
