"""Lazy greedy: the same selection as greedy, from fewer evaluations."""

from typing import Any

from subsel.objectives import Objective
from subsel.optimizers.bounds import Bounds
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike


def lazy_greedy(
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
    """Select what `greedy` selects, evaluating only candidates that might be the best.

    Gains of a submodular function never rise, so a gain from an earlier step bounds today's from
    above. Candidates are evaluated again in the order of their bounds, in batches that double,
    until none of the others can win, or tie with a lower index.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. An objective is reset first. It
        must be submodular.
    budget : int, or a constraint of `subsel.constraints`, optional
        As for `greedy`.
    given, exclude, target, coverage, min_gain, progress
        As for `greedy`.

    Returns
    -------
    Selection
        The same indices and gains as from `greedy`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `greedy` does, and if the objective says that it is not submodular.

    Notes
    -----
    An objective that keeps all gains up to date (`FacilityLocation`) is searched as by `greedy`: to
    update the gains takes fewer similarities than to evaluate candidates again. The other
    coverage objectives are lazy themselves, also under `greedy`.

    A computed gain may be larger than an earlier one by rounding. Bounds are raised by as much
    (`Objective.rounding`), so that rounding does not change the selection.

    References
    ----------
    Minoux (1978), "Accelerated greedy algorithms for maximizing submodular set functions".

    Examples
    --------
    >>> import subsel
    >>> subsel.lazy_greedy([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], 2).indices
    array([1, 0])
    """
    search = Run(
        "lazy_greedy", f, budget, given=given, exclude=exclude, target=target, coverage=coverage,
        min_gain=min_gain, progress=progress, submodular=True, greedy=True,
    )  # fmt: skip
    with search as run:
        if run.f.keeps_gains or run.f.lazy:
            while count := run.room():
                run.extend(count)
            return run.selection(run.f.bounds())

        bounds = Bounds(run)
        while run.room():
            run.pick(*bounds.best(run.candidates()))
            bounds.grown()
        return run.selection(bounds.upper)
