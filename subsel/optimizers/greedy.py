"""Greedy: add the element of largest marginal gain, again and again."""

from typing import Any

from subsel.objectives import Objective
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike


def greedy(
    f: Objective | ArrayLike,
    budget: Any = None,
    *,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    target: float | None = None,
    coverage: float | None = None,
    min_gain: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select elements, each of largest marginal gain given those before it.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first.
    budget : int, or a constraint of `subsel.constraints`, optional
        How many elements, 1..n, or which sets may be selected. May be left out if `target`,
        `coverage` or `min_gain` says when to stop.
    given : array_like of int, shape (g,), optional
        Elements that you have already. They are part of S from the start, are not selected, and do
        not count towards the budget. Also a mask of n booleans.
    exclude : array_like of int, shape (m,), optional
        Elements that are never selected, or a mask of n booleans.
    target : float, optional
        Stop when F of the given and selected elements is at least this.
    coverage : float, optional
        In (0, 1]. Stop when F is at least this fraction of F of all elements; for monotone F.
    min_gain : float, optional
        Stop before an element whose gain is not larger than this.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        Distinct elements, exactly as many as the budget says unless the search stopped earlier.
        Elements with gains of zero or less are selected too. Among equal gains the lowest index
        wins.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above, or the matrix does not fit `FacilityLocation`.
    RuntimeError
        If the objective is being searched already, by another thread or in its own callback.

    Notes
    -----
    For a monotone submodular F with F(empty) = 0, F of the selection is at least 1 - 1/e of the
    largest possible with as many elements (Nemhauser, Wolsey, Fisher 1978). Evaluates n - t gains
    at step t; coverage objectives evaluate only those that might be the largest. See
    `FacilityLocation` for what that costs there.

    Examples
    --------
    >>> import subsel
    >>> chosen = subsel.greedy([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], 2)
    >>> chosen.indices, chosen.gains
    (array([1, 0]), array([1.2, 0.4]))
    """
    search = Run(
        "greedy", f, budget, given=given, exclude=exclude, target=target, coverage=coverage,
        min_gain=min_gain, progress=progress, greedy=True,
    )  # fmt: skip
    with search as run:
        while count := run.room():
            run.extend(count)
        return run.selection()
