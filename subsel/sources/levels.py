"""Searches of coverage objectives with any rule, over any source on the CPU.

Facility location keeps its gains up to date from a log (`subsel.sources.base`). With other rules,
every pick may change the levels of all points, so stored gains would not stay valid. This module
therefore evaluates the gains that are asked for, and those that might be the largest.
"""

from typing import Any

import numpy as np

from subsel import pacing
from subsel.kernels.compiling import threads, uncached
from subsel.kernels.cpu import capped, lazy
from subsel.kernels.cpu import coverage as kernels
from subsel.kernels.cpu.lazy import CappedLevels, Levels
from subsel.kernels.cpu.stores import Columns, Sparse
from subsel.kernels.rules import left, start
from subsel.sources.scale import grid
from subsel.validation import read_only

_PARALLEL_WORK = 2**19
"""Terms from which on starting threads costs less than it saves."""

_FOLLOWED = 1 / 4
"""Part of the points that may change while gains follow: from here on, lazy evaluation is less."""


def frozen(arrays: Any) -> Any:
    """The same named tuple with read-only arrays, for which the kernels are compiled.

    Arrays lose this flag when they are pickled.
    """
    fields = arrays._asdict().items()
    own = {name: read_only(value) for name, value in fields if isinstance(value, np.ndarray)}
    return arrays._replace(**own)


class CpuLevels:
    """A source of similarities, searched by a rule.

    Parameters
    ----------
    source : Similarity
        The source of similarities.
    rule : NamedTuple
        Its arrays have one entry for each point.

    Attributes
    ----------
    first : ndarray of float64, shape (n,), or None
        The first gain of each candidate, if it is known already.
    """

    first: np.ndarray | None = None

    def __init__(self, source: Any, rule: Any) -> None:
        self.source, self.rule = source, rule
        self.n, self.n_points, self.path = source.n, source.n_points, source.path
        by_slot = {
            name: read_only(source.points_in_slots(value))
            for name, value in rule._asdict().items()
            if isinstance(value, np.ndarray)
        }
        self._rule = rule._replace(**by_slot)
        self._scale: tuple[float, ...] = (source.unit, source.offset, 1.0, 1.0)
        largest = source.unit * source.span
        most = self._kernel(kernels.largest_term)(self._rule, self._empty(), largest)
        self._exact = type(rule) in left.bodies
        self.rounding = 0.0 if self._exact else grid(self.n_points, most)[1] * self.n_points
        self._scale = (source.unit, source.offset, *grid(self.n_points, most))

    def _kernel(self, kernel: Any) -> Any:
        """The kernel for this rule. It is cached on disk only for rules of this package."""
        return kernel if type(self.rule).__module__.startswith("subsel.") else uncached(kernel)

    def _empty(self) -> np.ndarray:
        return np.full(self.source.point_slots, start(self.rule), np.float64)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rule = frozen(self._rule)

    def search(self) -> Any:
        """A search with nothing selected."""
        level = self._empty()
        value = np.empty_like(level)
        self._kernel(kernels.worths)(self._rule, level, value)
        search = Levels(
            level=level, value=value, upper=np.full(self.n, np.inf),
            fresh=np.zeros(self.n, bool), order=self.source.order, counts=np.zeros(6, np.int64),
            slack=self.rounding, taken=np.empty(0, bool), costs=np.empty(0), worth=np.empty(0),
            queue=np.empty(0, np.int64),
        )  # fmt: skip
        if self.first is not None:
            search.upper[:], search.fresh[:] = self.first[self.source.order], True
            search.counts[lazy.EVALUATED] = self.n
        if not self._exact or isinstance(self.source.store, (Sparse, Columns)):
            return search
        largest = self.source.unit * self.source.span
        return CappedLevels(*search, largest, *np.empty((4, 0)))

    def gains(self, search: Levels, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates."""
        slots = np.asarray(self.source.slots(candidates), np.int64)
        # Only what is not known, and candidates that lie together are evaluated together.
        self._evaluate(search, np.sort(slots[~search.fresh[slots]]))
        return search.upper[slots]

    def _evaluate(self, search: Levels, slots: np.ndarray) -> None:
        """Evaluate the gains of candidates, on all threads if that is faster."""
        search.counts[lazy.EVALUATED] += len(slots)
        work = int(len(slots) * self.source.terms)
        alone = threads() == 1 or work < _PARALLEL_WORK
        run = self._kernel(kernels.gains_serial if alone else kernels.gains_parallel)
        fixed = self.source.store, self._rule, search.level, search.value, self._scale
        width = kernels.CHUNK * threads()
        count = -(-len(slots) // width)
        for part in pacing.portions(count, pacing.portion(work, count)):
            some = slots[part.start * width : part.stop * width]
            search.upper[some] = run(*fixed, some)
            search.fresh[some] = True

    def extend(
        self, search: Levels, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times, lazily."""
        elements, gains = np.empty(count, np.int64), np.empty(count)
        search = search._replace(
            taken=taken[self.source.order],
            costs=np.empty(0) if costs is None else costs[self.source.order],
            worth=np.empty(self.n), queue=np.empty(self.n, np.int64),
        )  # fmt: skip
        search.fresh[search.taken] = False  # what is not searched is not brought up to date
        if isinstance(search, CappedLevels):
            room = 4 * -(-int(self.n_points * _FOLLOWED) // 4)
            search = search._replace(
                before=np.empty(len(search.level)), points=np.empty(room, np.int64),
                low=np.empty(room), high=np.empty(room),
            )  # fmt: skip
        self._evaluate(search, np.flatnonzero(np.isinf(search.upper) & ~search.taken))
        search.counts[lazy.LINED_UP] = search.counts[lazy.CHANGED] = 0
        too_much = _PARALLEL_WORK if threads() > 1 else pacing.PORTION
        limits = int(too_much / max(self.source.terms, 1)), too_much // self.n
        advance, at = self._kernel(lazy.advance), 0
        fixed = self.source.store, self._rule, search, self._scale, elements, gains
        while True:
            at = advance(*fixed, at, *limits)
            if search.counts[lazy.CHANGED]:
                self._follow(search)
            if at == count:
                return elements, gains
            first = self.n - search.counts[lazy.FRESH]
            todo = search.queue[first : first + search.counts[lazy.TODO]]
            self._evaluate(search, np.sort(todo))

    def _follow(self, search: CappedLevels) -> None:
        """Bring gains up to date after points changed, on all threads if that is faster."""
        count = int(search.counts[lazy.CHANGED])
        work = count * self.n
        alone = threads() == 1 or work < _PARALLEL_WORK
        run = self._kernel(capped.follow_serial if alone else capped.follow_parallel)
        arrays = search.points, search.low, search.high
        quads = count // 4
        for part in pacing.portions(quads, pacing.portion(work, quads)):
            some = (array[4 * part.start : 4 * part.stop] for array in arrays)
            run(self.source.store, self._rule, self._scale, *some, search.upper)
        search.counts[lazy.CHANGED] = search.counts[lazy.LINED_UP] = 0

    @staticmethod
    def evaluations(search: Levels) -> int:
        """The number of gains evaluated."""
        return int(search.counts[lazy.EVALUATED])

    def bounds(self, search: Levels) -> np.ndarray:
        """Upper bounds of all current gains: the values when they were last evaluated."""
        upper = np.empty(self.n)
        upper[self.source.order] = search.upper + np.where(search.fresh, 0.0, search.slack)
        return upper

    def add(self, search: Levels, element: int) -> float:
        """Add a candidate; returns what it gained."""
        search.fresh[:] = False
        arrays = search.level, search.value
        slot = int(self.source.slots(element))
        run = self._kernel(kernels.cover)
        return run(self.source.store, self._rule, *arrays, self._scale, slot)

    def restrict(self, candidates: np.ndarray) -> "CpuLevels":
        """The same points with fewer candidates."""
        part = CpuLevels(self.source.restrict(candidates), self.rule)
        part.first = None if self.first is None else self.first[candidates]
        return part
