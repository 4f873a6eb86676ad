"""Greedy: add the element of largest marginal gain, again and again."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from subsel.objectives import FacilityLocation, Objective
from subsel.pacing import portions
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_budget, check_count


def greedy(f: Objective | ArrayLike, budget: int, *, progress: bool = False) -> Selection:
    """Select `budget` elements, each of largest marginal gain given those before it.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first.
    budget : int
        Number of elements, 1..n.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        Exactly `budget` distinct elements. Among equal gains, zero included, the lowest index wins.

    Raises
    ------
    TypeError, ValueError
        If the budget is not a count in 1..n, or the matrix does not fit `FacilityLocation`.

    Notes
    -----
    For a monotone submodular F with F(empty) = 0, F of the selection is at least 1 - 1/e of the
    largest possible with as many elements (Nemhauser, Wolsey, Fisher 1978). Evaluates n - t gains
    at step t; see `FacilityLocation` for what that costs there.
    """
    f = as_objective(f)
    budget = check_budget(budget, f.n)
    f.reset()
    taken = np.zeros(f.n, bool)
    indices, gains = np.empty(budget, np.int64), np.empty(budget)
    with tqdm(total=budget, desc="select", unit="element", disable=not progress) as bar:
        for part in portions(budget):
            indices[part], gains[part] = f.extend(taken, part.stop - part.start)
            bar.update(part.stop - part.start)
    evaluations = budget * f.n - budget * (budget - 1) // 2
    return result(f, indices, gains, evaluations)


def as_objective(f: Objective | ArrayLike) -> Objective:
    """An objective as it is; a matrix as facility location."""
    if not isinstance(f, Objective):
        return FacilityLocation(f)
    check_count(f.n, f"{type(f).__name__}.n", 1)
    return f


def steps(budget: int, progress: bool) -> Iterable[int]:
    """Step numbers, with a progress bar if wanted."""
    return tqdm(range(budget), desc="select", unit="element", disable=not progress)


def result(f: Objective, indices: np.ndarray, gains: np.ndarray, evaluations: int) -> Selection:
    """The selection; its value is the sum of the gains, as F(empty) = 0."""
    counted: Any = f.n_evaluations
    return Selection(
        indices=indices,
        gains=gains,
        value=math.fsum(gains),
        n_evaluations=evaluations if counted is None else counted,
        path=f.path,
    )
