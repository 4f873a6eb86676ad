"""Searches of coverage objectives by any rule, over any source on the CPU.

Facility location keeps its gains up to date from a log (`subsel.sources.base`). This evaluates the
gains that are asked for: rules whose levels all change with every pick leave nothing to keep.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from subsel.kernels.compiling import threads, uncached
from subsel.kernels.cpu import coverage as kernels
from subsel.kernels.rules import start
from subsel.pacing import portion, portions
from subsel.sources.scale import grid
from subsel.validation import read_only

_PARALLEL_WORK = 2**19
"""Terms from which on starting threads costs less than it saves."""


def frozen(arrays: Any) -> Any:
    """A named tuple with its arrays read-only, as kernels are compiled for them.

    Pickles do not say that an array was read-only.
    """
    fields = arrays._asdict().items()
    own = {name: read_only(value) for name, value in fields if isinstance(value, np.ndarray)}
    return arrays._replace(**own)


@dataclass
class Levels:
    """A growing selection: level and worth of each point, by slot, and gains evaluated."""

    level: np.ndarray
    value: np.ndarray
    evaluations: int = 0


class CpuLevels:
    """A source of similarities, searched by a rule.

    Parameters
    ----------
    source : Similarity
        Where similarities come from.
    rule : NamedTuple
        Its arrays have one entry for each point.
    """

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
        self.rounding = grid(self.n_points, most)[1] * self.n_points
        self._scale = (source.unit, source.offset, *grid(self.n_points, most))

    def _kernel(self, kernel: Any) -> Any:
        """A kernel for this rule, on disk for rules of this package, whose sources are known."""
        return kernel if type(self.rule).__module__.startswith("subsel.") else uncached(kernel)

    def _empty(self) -> np.ndarray:
        return np.full(self.source.point_slots, start(self.rule), np.float64)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rule = frozen(self._rule)

    def search(self) -> Levels:
        """Nothing selected."""
        level = self._empty()
        value = np.empty_like(level)
        self._kernel(kernels.worths)(self._rule, level, value)
        return Levels(level, value)

    def gains(self, search: Levels, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates."""
        search.evaluations += len(candidates)
        work = int(len(candidates) * self.source.terms)
        alone = threads() == 1 or work < _PARALLEL_WORK
        run = self._kernel(kernels.gains_serial if alone else kernels.gains_parallel)
        slots = np.asarray(self.source.slots(candidates), np.int64)
        # Candidates that lie together are evaluated together.
        order = np.argsort(slots, kind="stable")
        gains = np.empty(len(slots))
        fixed = self.source.store, self._rule, search.level, search.value, self._scale
        width = kernels.CHUNK * threads()
        count = -(-len(slots) // width)
        for part in portions(count, portion(work, count)):
            some = order[part.start * width : part.stop * width]
            gains[some] = run(*fixed, slots[some])
        return gains

    def add(self, search: Levels, element: int) -> float:
        """Add a candidate; returns what it gained."""
        arrays = search.level, search.value
        slot = int(self.source.slots(element))
        run = self._kernel(kernels.cover)
        return run(self.source.store, self._rule, *arrays, self._scale, slot)

    def restrict(self, candidates: np.ndarray) -> "CpuLevels":
        """The same points with fewer candidates."""
        return CpuLevels(self.source.restrict(candidates), self.rule)
