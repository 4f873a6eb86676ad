"""Refine: improve a selection by swaps, until no swap gains anything."""

from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from subsel.objectives import FacilityLocation, Objective
from subsel.optimizers.run import Run, as_objective
from subsel.selection import Selection, sizes_of
from subsel.validation import ArrayLike, check_count, check_distinct

_GAIN = 2.0**-40
"""The least part of F that a swap must gain, so that rounding cannot cause endless swaps."""


def refine(
    f: Objective | ArrayLike,
    selection: Selection | ArrayLike,
    *,
    max_swaps: int | None = None,
    budget: Any = None,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    progress: bool = False,
) -> Selection:
    """Exchange selected elements for others as long as one such swap makes F larger.

    For facility location under a count, candidates are tried in the order of their indices, again
    and again. If a candidate increases F in place of a selected element, it replaces at once the
    element where the increase is largest (FasterPAM). In all other cases, each selected element in
    turn is exchanged for the candidate that gains most in its place, if that gains more.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. Any objective: it need be neither
        monotone nor submodular. It is reset first.
    selection : Selection, or array_like of int, shape (k,)
        Where to begin: what an optimizer selected, or distinct elements.
    max_swaps : int, optional
        Stop after this many swaps. Default: when no swap increases F.
    budget : a constraint of `subsel.constraints`, optional
        The constraint of the result. Default: the number of elements. The rule of a `Knapsack` does
        not matter here.
    given, exclude : array_like of int, optional
        As for `greedy`; pass what was passed to the optimizer.
    progress : bool, default False
        Show a progress bar of swaps on standard error.

    Returns
    -------
    Selection
        As many elements, in the places of those that they were exchanged for; F is no smaller.
        `gains` are those in this order. `stopped` is that of the selection, and `bound` that of
        `budget`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `greedy` does, and if the selection is none of the above or `budget` does not allow it.

    Notes
    -----
    For a monotone submodular F and a count, a selection that no swap improves has at least 1/2 of
    the largest possible F (Nemhauser, Wolsey, Fisher 1978). For facility location of distances this
    is the swap step of k-medoids; from the same start the result is FasterPAM's.

    For facility location under a count, on the CPU, a scan of all candidates looks at n_points
    similarities for each, and at fewer from features, where bounds on distance leave out most if k
    is large; a swap costs as much as a candidate. Otherwise a round of k tries costs k (k - 1)
    additions and k n gains. How many scans or rounds there are is not bounded by theory; after
    greedy there are mostly two to four.

    References
    ----------
    Nemhauser, Wolsey, Fisher (1978), "An analysis of approximations for maximizing submodular set
    functions I", section 5 (interchange).
    Schubert, Rousseeuw (2021), "Fast and eager k-medoids clustering: O(k) runtime improvement of
    the PAM, CLARA, and CLARANS algorithms", algorithm 3 (FasterPAM).

    Examples
    --------
    >>> import subsel
    >>> S = [[3.0, 2, 0], [0, 2, 0], [0, 2, 3]]
    >>> first = subsel.greedy(S, 2)
    >>> subsel.refine(S, first).value >= first.value
    True
    """
    f = as_objective(f)
    begun = selection.indices if isinstance(selection, Selection) else selection
    begun = check_distinct(begun, f.n, "selection")
    if max_swaps is not None:
        max_swaps = check_count(max_swaps, "max_swaps", 0)
    if not len(begun):
        raise ValueError("selection is empty: there is nothing to exchange")
    search = Run(
        "refine", f, len(begun) if budget is None else budget, given=given, exclude=exclude,
        progress=progress, ranks=False,
    )  # fmt: skip
    if len(bad := begun[search.closed[begun]]):
        raise ValueError(f"selection has {bad[0]}, which is given or excluded")
    if budget is not None:
        search.check_allowed(begun, "selection")
    with search as run:
        found = run.exchange(begun, max_swaps)
        if found is None:
            found = _by_gains(run, begun.tolist(), max_swaps), None
        refined = _in_order(run, *found)
    if not isinstance(selection, Selection):
        return refined
    refined = replace(
        refined,
        n_evaluations=refined.n_evaluations + selection.n_evaluations,
        stopped=selection.stopped,
    )
    if selection.assignment is None or not isinstance(f, FacilityLocation):
        return refined
    assignment = f.assignment
    return replace(refined, assignment=assignment, sizes=sizes_of(assignment, len(refined)))


def _by_gains(run: Run, elements: list[int], max_swaps: int | None) -> np.ndarray:
    """Swaps for any objective and constraint: in each place in turn, try the best candidate."""
    swaps, kept = 0, 0
    for place in cycle(range(len(elements))):
        if kept == len(elements) or swaps == max_swaps:
            break
        better = _better(run, elements, place)
        if better is None:
            kept += 1
        else:
            elements[place] = better
            swaps, kept = swaps + 1, 1
    return np.array(elements, np.int64)


def _better(run: Run, elements: list[int], place: int) -> int | None:
    """The candidate that gains most in a place; None if it gains no more than the element there."""
    others = elements[:place] + elements[place + 1 :]
    run.hold(others)
    closed = run.closed_beside(others)
    closed[elements[place]] = True
    candidates = np.flatnonzero(~closed)
    if not len(candidates):
        return None
    gains = run.evaluated(np.append(candidates, elements[place]))
    best = int(np.argmax(gains[:-1]))
    enough = gains[-1] + _GAIN * max(abs(gains[-1]), abs(gains[best]))
    return int(candidates[best]) if gains[best] > enough else None


def _in_order(run: Run, elements: np.ndarray, gains: np.ndarray | None) -> Selection:
    """Record the elements as if they had been picked one by one; `gains` are those beside them."""
    run.hold([])
    run.closed[elements] = True
    run.took(elements, run.taken(elements))
    if gains is not None:
        run.note(np.arange(run.f.n), gains)
    return run.selection()
