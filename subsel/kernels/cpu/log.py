"""A growing selection, and the log of points whose representative changed."""

from typing import NamedTuple

import numpy as np

from subsel.kernels.compiling import inlined, kernel
from subsel.kernels.cpu.lanes import quantize

LOGGED, RUNS, ADDED, SEEN, TODO = range(5)
"""In `Search.counts`: entries and runs in the log, elements added, similarities seen, `todo`."""


class Search(NamedTuple):
    """A growing selection.

    By point: `best` similarity to a selected element (inf for padding), position of that element in
    order of adding (`assigned`), `last` entry in the log or -1. What limits the terms of F: `start`
    is the best before anything is selected (empty: the same for all points), and similarity above
    `most` does not count (`capped`: whether that is so for any point). A term is `weights` times
    the similarity, rounded to the grid of `up` and `down` (no weights: the similarity itself). By
    group of LANES points: `reach`, the squared distance beyond which no candidate can improve any.

    The log: points that `changed`, their similarity `before`, the point's `previous` entry; and the
    runs of entries that are of one group: `run_start`, `run_group`, and its reach before.

    By candidate: `gains`, whether `taken`, the `order` that breaks ties, and `costs` by which gains
    are divided before they are compared (empty: by none). By block of `width` candidates: the
    largest of what is compared, of those not taken (`top`), and whose it is (`lead`), both as of
    the number of runs that there were when the block was `settled` (-1: never). `todo`: blocks to
    settle. `counts`: see LOGGED.
    """

    best: np.ndarray
    start: np.ndarray
    most: np.ndarray
    capped: bool
    weights: np.ndarray
    up: float
    down: float
    assigned: np.ndarray
    last: np.ndarray
    reach: np.ndarray
    changed: np.ndarray
    before: np.ndarray
    previous: np.ndarray
    run_start: np.ndarray
    run_group: np.ndarray
    run_reach: np.ndarray
    gains: np.ndarray
    taken: np.ndarray
    order: np.ndarray
    costs: np.ndarray
    top: np.ndarray
    lead: np.ndarray
    settled: np.ndarray
    todo: np.ndarray
    counts: np.ndarray
    width: int


@kernel
def improve(search, i, s):
    """A point gets a representative that is more similar, unless it had the most that counts."""
    if search.capped:
        s = min(s, search.most[i])
        if not s > search.best[i]:
            return
    at = search.counts[LOGGED]
    search.changed[at] = i
    search.before[at] = search.best[i]
    search.previous[at] = search.last[i]
    search.last[i] = at
    search.assigned[i] = search.counts[ADDED]
    search.best[i] = s
    search.counts[LOGGED] = at + 1


@inlined
def weighed(search, i, s):
    """What a similarity of point `i` counts."""
    if search.weights.size:
        return quantize(search.weights[i] * s, search.up, search.down)
    return s


@kernel
def end_run(search, group, reach):
    """What was logged since the last run is one of this group, of what reach before."""
    run = search.counts[RUNS]
    if search.counts[LOGGED] > search.run_start[run]:
        search.run_group[run] = group
        search.run_reach[run] = reach
        search.run_start[run + 1] = search.counts[LOGGED]
        search.counts[RUNS] = run + 1


@kernel
def clear_log(search):
    search.counts[LOGGED] = 0
    search.counts[RUNS] = 0
