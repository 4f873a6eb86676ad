"""Lazy greedy for every coverage objective: earlier gains are upper bounds of current gains.

Candidates whose current gain is unknown wait in a heap, ordered by their bounds. Candidates that
might be the best are taken from the heap and evaluated, until no bound in it could win, or tie with
a lower index. So a pick costs only its evaluations, without any Python.
"""

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from subsel.kernels.compiling import by_type, inlined, inner, kernel
from subsel.kernels.cpu.capped import changes, follow_all
from subsel.kernels.cpu.coverage import CHUNK, evaluate, raise_levels
from subsel.kernels.rules import left

LINED_UP, WAITING, FRESH, TODO, CHANGED, EVALUATED = range(6)
"""In `Levels.counts`: whether the queue is as the gains are; how many candidates wait in the heap,
are fresh, are to be evaluated before the search goes on; how many points gains have to follow
before it does; and how many gains were evaluated in all."""

_FEW = 4
"""Candidates that are evaluated at once at first: stores look at so many in one pass."""


class Levels(NamedTuple):
    """A growing selection.

    By point: its `level`, and its `value`, which is the worth of that. By candidate, in slots: the
    gain when it was evaluated last (`upper`, inf for never), whether that was since the last
    element was added (`fresh`), and the `order` that breaks ties. `counts`: see WAITING. A gain may
    exceed an earlier one by `slack`, by rounding.

    In a search: whether a candidate is `taken`, `costs` by which gains are divided before they are
    compared (empty: by none), and what is compared, of a gain or a bound (`worth`). `queue`: a heap
    of the candidates that wait at its front, and those that are fresh at its back, latest first.
    """

    level: np.ndarray
    value: np.ndarray
    upper: np.ndarray
    fresh: np.ndarray
    order: np.ndarray
    counts: np.ndarray
    slack: float
    taken: np.ndarray
    costs: np.ndarray
    worth: np.ndarray
    queue: np.ndarray


_named: Any = namedtuple
CappedLevels = _named(
    "CappedLevels", [*Levels._fields, "largest", "before", "points", "low", "high"]
)
"""A growing selection of a rule that says what is `left`. `largest`: no similarity is larger. For
each point, what it could take `before` the last element; and what `subsel.kernels.cpu.capped` has
to know of those that changed. Gains can follow no more of them than there is room for."""


@by_type
def grow(search, store, rule, scale, slot):
    """Add a candidate. Return how many points need gains to follow them, or -1 if gains cannot."""


@by_type
def follow(search, store, rule, scale):
    """Bring gains up to date."""


@grow.of(Levels)
def _grow(search, store, rule, scale, slot):
    raise_levels(store, rule, search.level, search.value, scale, slot)
    return -1


@follow.of(Levels)
def _follow_nothing(search, store, rule, scale):
    pass


@grow.of(CappedLevels)
def _grow_capped(search, store, rule, scale, slot):
    level, before = search.level, search.before
    for i in range(level.size):
        before[i] = left(rule, i, level[i])
    raise_levels(store, rule, level, search.value, scale, slot)
    return changes(rule, level, before, search.largest, search.points, search.low, search.high)


@follow.of(CappedLevels)
def _follow(search, store, rule, scale):
    count = search.counts[CHANGED]
    points, low, high = search.points[:count], search.low[:count], search.high[:count]
    follow_all(store, rule, scale, points, low, high, search.upper)


@inlined
def _ahead(worth_a, order_a, worth_b, order_b):
    """Whether candidate `a` comes before `b`. Passing numbers is faster than passing arrays."""
    return worth_a > worth_b or (worth_a == worth_b and order_a < order_b)


@inner
def _sift_down(queue, count, worth, order, at):
    """Move the candidate at a place of the heap down to where it belongs."""
    slot = queue[at]
    worth_here, order_here = worth[slot], order[slot]
    while 2 * at + 1 < count:
        child = 2 * at + 1
        below = queue[child]
        if child + 1 < count:
            other = queue[child + 1]
            if _ahead(worth[other], order[other], worth[below], order[below]):
                child, below = child + 1, other
        if not _ahead(worth[below], order[below], worth_here, order_here):
            break
        queue[at] = below
        at = child
    queue[at] = slot


@inner
def _sift_up(queue, worth, order, at, slot):
    """Put a candidate at a place of the heap, and move it up to where it belongs."""
    worth_here, order_here = worth[slot], order[slot]
    while at > 0:
        parent = (at - 1) // 2
        above = queue[parent]
        if not _ahead(worth_here, order_here, worth[above], order[above]):
            break
        queue[at] = above
        at = parent
    queue[at] = slot


@inner
def _line_up(search):
    """Split the candidates that are not taken into fresh and waiting ones."""
    queue, worth, counts = search.queue, search.worth, search.counts
    waiting, fresh = 0, 0
    for slot in range(worth.size):
        if search.taken[slot]:
            continue
        worth[slot] = search.upper[slot]
        if search.fresh[slot]:
            fresh += 1
            queue[queue.size - fresh] = slot
        else:
            worth[slot] += search.slack
            queue[waiting] = slot
            waiting += 1
        if search.costs.size:
            worth[slot] /= search.costs[slot]
    for at in range(waiting // 2 - 1, -1, -1):
        _sift_down(queue, waiting, worth, search.order, at)
    counts[WAITING], counts[FRESH], counts[TODO], counts[LINED_UP] = waiting, fresh, 0, 1


@kernel
def advance(store, rule, search, scale, elements, gains, at, too_many, too_long):
    """Greedy: fill `elements` and `gains` from position `at` on; returns the next position.

    Stops early if more than `too_many` candidates must be evaluated at once. These are the first
    TODO at the back of the queue, and must be fresh at the next call. Also stops early if gains
    must follow more than `too_long` points (CHANGED of them); LINED_UP must be 0 at the next call.
    """
    level, value, upper, fresh = search.level, search.value, search.upper, search.fresh
    order, costs, slack = search.order, search.costs, search.slack
    queue, worth, counts = search.queue, search.worth, search.counts
    end = queue.size
    found = np.empty(CHUNK)
    while at < elements.size:
        if not counts[LINED_UP]:
            _line_up(search)
        best = end - 1
        looked = 0
        while True:
            first = end - counts[FRESH]
            for a in range(first, first + counts[TODO]):
                slot = queue[a]
                worth[slot] = upper[slot] / costs[slot] if costs.size else upper[slot]
            counts[TODO] = 0
            top = queue[best]
            for a in range(first, end - looked):
                slot = queue[a]
                if _ahead(worth[slot], order[slot], worth[top], order[top]):
                    best, top = a, slot
            looked = counts[FRESH]
            # As many as are fresh already, so that all threads have work.
            while counts[TODO] < max(_FEW, looked) and counts[WAITING]:
                slot = queue[0]
                if looked and not _ahead(worth[slot], order[slot], worth[top], order[top]):
                    break
                counts[WAITING] -= 1
                queue[0] = queue[counts[WAITING]]
                _sift_down(queue, counts[WAITING], worth, order, 0)
                counts[FRESH] += 1
                counts[TODO] += 1
                queue[end - counts[FRESH]] = slot
            if counts[TODO] == 0:
                break
            if counts[TODO] > too_many:
                return at
            first = end - counts[FRESH]
            for a in range(first, first + counts[TODO], CHUNK):
                part = queue[a : min(a + CHUNK, first + counts[TODO])]
                found[:] = 0.0
                evaluate(store, rule, level, value, scale, part, found)
                for q in range(part.size):
                    upper[part[q]], fresh[part[q]] = found[q], True
            counts[EVALUATED] += counts[TODO]
        slot = queue[best]
        elements[at], gains[at] = order[slot], upper[slot]
        at += 1
        fresh[slot], search.taken[slot] = False, True
        first = end - counts[FRESH]
        queue[best] = queue[first]
        counts[FRESH] -= 1
        changed = grow(search, store, rule, scale, slot)
        if changed > 0:
            counts[CHANGED], counts[LINED_UP] = changed, 0
            if changed > too_long:
                return at
            follow(search, store, rule, scale)
            counts[CHANGED] = 0
        if changed >= 0:
            continue
        counts[FRESH] = 0
        for a in range(first + 1, end):
            slot = queue[a]
            fresh[slot] = False
            bound = upper[slot] + slack
            worth[slot] = bound / costs[slot] if costs.size else bound
            _sift_up(queue, worth, order, counts[WAITING], slot)
            counts[WAITING] += 1
    return at
