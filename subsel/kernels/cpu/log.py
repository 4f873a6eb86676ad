"""A growing selection, and the log of points whose representative changed."""

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from subsel.kernels.compiling import by_type, inner
from subsel.kernels.cpu.lanes import quantize

LOGGED, RUNS, ADDED, SEEN, TODO = range(5)
"""In `Search.counts`: entries and runs in the log, elements added, similarities seen, `todo`."""


class Limits(NamedTuple):
    """Limits of the terms of F, for each point, in the units of stored similarities.

    A similarity counts between `start` (empty: no lower limit) and `most`. A term is `weights`
    times that, rounded to the grid of `up` and `down`. Empty weights mean that all weights are 1,
    and no grid is needed.
    """

    start: np.ndarray
    most: np.ndarray
    weights: np.ndarray
    up: float
    down: float


class Search(NamedTuple):
    """A growing selection.

    By point: `best` similarity to a selected element (inf for padding), position of that element in
    order of adding (`assigned`), `last` entry in the log or -1. By group of LANES points: `reach`,
    the squared distance beyond which no candidate can improve any.

    The log: points that `changed`, their similarity `before`, the point's `previous` entry; and the
    runs of entries that are of one group: `run_start`, `run_group`, and its reach before.

    By candidate: `gains`, whether `taken`, and the `order` that breaks ties. By block of `width`
    candidates: the largest of what is compared, of those not taken (`top`), and whose it is
    (`lead`), both as of the number of runs that there were when the block was `settled` (-1:
    never; -1 - m: never, and `top` is an upper bound as of m elements). `todo`: blocks to settle.
    `counts`: see LOGGED.
    """

    best: np.ndarray
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
    top: np.ndarray
    lead: np.ndarray
    settled: np.ndarray
    todo: np.ndarray
    counts: np.ndarray
    width: int


_named: Any = namedtuple
GeneralSearch = _named("GeneralSearch", [*Search._fields, *Limits._fields, "costs"])
"""A growing selection with limits, and `costs` of the candidates, by which gains are divided before
they are compared (empty: by none). Kernels are compiled for it apart: those for a plain search know
of neither, and are as fast as if there were none."""


@by_type(inline=True)
def most_of(search, i):
    """The largest similarity that counts for point `i`."""


@by_type(inline=True)
def capped(search, i, s):
    """A similarity of point `i`, or the most that counts."""


@by_type(inline=True)
def unmet(search, i, s):
    """The similarity of point `i` to its representative; inf if no other could raise its term."""


@by_type(inline=True)
def weighed(search, i, s):
    """The term of point `i` for a similarity."""


@by_type(inline=True)
def per_cost(search, slot, gain):
    """The number that greedy compares, for a candidate and its gain."""


@most_of.of(Search)
def _any_similarity(search, i):
    return np.inf


@capped.of(Search)
@unmet.of(Search)
@weighed.of(Search)
def _as_it_is(search, i, s):
    return s


@most_of.of(GeneralSearch)
def _most(search, i):
    return search.most[i]


@capped.of(GeneralSearch)
def _at_most(search, i, s):
    return min(s, search.most[i])


@unmet.of(GeneralSearch)
def _if_below(search, i, s):
    return s if s < search.most[i] else np.inf


@weighed.of(GeneralSearch)
def _times_weight(search, i, s):
    if search.weights.size:
        return quantize(search.weights[i] * s, search.up, search.down)
    return s


@per_cost.of(Search)
def _gain(search, slot, gain):
    return gain


@per_cost.of(GeneralSearch)
def _ratio(search, slot, gain):
    return gain / search.costs[slot] if search.costs.size else gain


@inner
def improve(search, i, s):
    """Give a point a representative that is more similar."""
    at = search.counts[LOGGED]
    search.changed[at] = i
    search.before[at] = search.best[i]
    search.previous[at] = search.last[i]
    search.last[i] = at
    search.assigned[i] = search.counts[ADDED]
    search.best[i] = s
    search.counts[LOGGED] = at + 1


@inner
def end_run(search, group, reach):
    """Close a run of the log: its entries are of this group, whose reach was `reach` before."""
    run = search.counts[RUNS]
    if search.counts[LOGGED] > search.run_start[run]:
        search.run_group[run] = group
        search.run_reach[run] = reach
        search.run_start[run + 1] = search.counts[LOGGED]
        search.counts[RUNS] = run + 1


@inner
def clear_log(search):
    search.counts[LOGGED] = 0
    search.counts[RUNS] = 0
