"""A growing selection, and the log of points whose representative changed."""

from typing import NamedTuple

import numpy as np

from subsel.kernels.compiling import by_type, kernel
from subsel.kernels.cpu.lanes import quantize

LOGGED, RUNS, ADDED, SEEN, TODO = range(5)
"""In `Search.counts`: entries and runs in the log, elements added, similarities seen, `todo`."""


class Unlimited(NamedTuple):
    """All that a point is similar to its representative counts, once."""


class Limits(NamedTuple):
    """What limits the terms of F, by point and as similarities are stored.

    Similarity counts from `start` to `most`. A term is `weights` times it, rounded to the grid of
    `up` and `down`; empty weights mean that all are 1, and no grid is needed.
    """

    start: np.ndarray
    most: np.ndarray
    weights: np.ndarray
    up: float
    down: float


class Equal(NamedTuple):
    """All candidates cost the same, so gains are compared as they are."""


class Costs(NamedTuple):
    """What candidates cost, by slot; gains are divided by it before they are compared."""

    each: np.ndarray


class Search(NamedTuple):
    """A growing selection.

    By point: `best` similarity to a selected element (inf for padding), position of that element in
    order of adding (`assigned`), `last` entry in the log or -1. By group of LANES points: `reach`,
    the squared distance beyond which no candidate can improve any. `limits` say what counts. Of
    `limits` and of `costs` there are two types each, for which kernels are compiled separately, so
    the usual ones know nothing of the others.

    The log: points that `changed`, their similarity `before`, the point's `previous` entry; and the
    runs of entries that are of one group: `run_start`, `run_group`, and its reach before.

    By candidate: `gains`, whether `taken`, the `order` that breaks ties, and `costs`. By block of
    `width` candidates: the largest of what is compared, of those not taken (`top`), and whose it is
    (`lead`), both as of the number of runs that there were when the block was `settled` (-1:
    never). `todo`: blocks to settle. `counts`: see LOGGED.
    """

    best: np.ndarray
    limits: Unlimited | Limits
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
    costs: Equal | Costs
    top: np.ndarray
    lead: np.ndarray
    settled: np.ndarray
    todo: np.ndarray
    counts: np.ndarray
    width: int


@by_type(inline=True)
def most_of(limits, i):
    """The largest similarity that counts for point `i`."""


@by_type(inline=True)
def capped(limits, i, s):
    """A similarity of point `i`, or the most that counts."""


@by_type(inline=True)
def unmet(limits, i, s):
    """The similarity of point `i` to its representative; inf if no other could raise its term."""


@by_type(inline=True)
def weighed(limits, i, s):
    """What a similarity of point `i` counts."""


@by_type(inline=True)
def per_cost(costs, slot, gain):
    """What greedy compares."""


@most_of.of(Unlimited)
def _any_similarity(limits, i):
    return np.inf


@capped.of(Unlimited)
@unmet.of(Unlimited)
@weighed.of(Unlimited)
def _as_it_is(limits, i, s):
    return s


@most_of.of(Limits)
def _most(limits, i):
    return limits.most[i]


@capped.of(Limits)
def _at_most(limits, i, s):
    return min(s, limits.most[i])


@unmet.of(Limits)
def _if_below(limits, i, s):
    return s if s < limits.most[i] else np.inf


@weighed.of(Limits)
def _times_weight(limits, i, s):
    if limits.weights.size:
        return quantize(limits.weights[i] * s, limits.up, limits.down)
    return s


@per_cost.of(Equal)
def _gain(costs, slot, gain):
    return gain


@per_cost.of(Costs)
def _ratio(costs, slot, gain):
    return gain / costs.each[slot]


@kernel
def improve(search, i, s):
    """A point gets a representative that is more similar."""
    at = search.counts[LOGGED]
    search.changed[at] = i
    search.before[at] = search.best[i]
    search.previous[at] = search.last[i]
    search.last[i] = at
    search.assigned[i] = search.counts[ADDED]
    search.best[i] = s
    search.counts[LOGGED] = at + 1


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
