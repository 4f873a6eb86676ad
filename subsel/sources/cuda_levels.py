"""Searches of coverage objectives with any rule, over any source on a GPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from subsel.kernels.cuda import LANES, THREADS
from subsel.kernels.cuda import coverage as kernels
from subsel.kernels.rules import join, start, worth
from subsel.sources.scale import grid


@dataclass
class Levels:
    """A growing selection: level and worth of each point, on the GPU."""

    level: Any
    value: Any
    evaluations: int = 0


class CudaLevels:
    """The counterpart of `subsel.sources.levels.CpuLevels`; gains have the same bits."""

    def __init__(self, source: Any, rule: Any, from_features: bool) -> None:
        self.source, self.rule, self.device = source, rule, source.device
        self.n, self.n_points, self.path = source.n, source.n_points, source.path
        self._from_features = from_features
        self._evaluate, self._cover = kernels.kernels(rule.__class__, from_features)
        # The initial worth of each point, computed on the host, where the rule is plain Python.
        local = source.points.local[: self.n_points]
        by_slot = {
            name: np.ascontiguousarray(value[local])
            for name, value in rule._asdict().items()
            if isinstance(value, np.ndarray)
        }
        on_host = rule._replace(**by_slot)
        self._level = np.full(self.n_points, start(rule), np.float64)
        self._value = np.array([worth(on_host, i, x) for i, x in enumerate(self._level)])
        scale = source.scales[0]
        largest = scale.unit * scale.span
        reached = [worth(on_host, i, join(on_host, x, largest)) for i, x in enumerate(self._level)]
        most = float(np.max(np.array(reached) - self._value, initial=0.0))
        up, down = grid(self.n_points, most)
        self.rounding = down * self.n_points
        self._scale = scale.unit, scale.offset, up, down
        uploaded = {name: self.device.upload(value) for name, value in by_slot.items()}
        self._rule = rule._replace(**uploaded)

    def search(self) -> Levels:
        """A search with nothing selected."""
        return Levels(self.device.upload(self._level), self.device.upload(self._value))

    def gains(self, search: Levels, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates."""
        search.evaluations += len(candidates)
        if not len(candidates):
            return np.empty(0)
        gains = self.device.upload(np.zeros(len(candidates)))
        slots = self.device.upload(self.source.slots[candidates])
        self.device.run(
            self._evaluate, len(candidates), THREADS, self.source.store, self._rule,
            search.level, search.value, self._scale, slots, gains,
        )  # fmt: skip
        return self.device.download(gains)

    @staticmethod
    def evaluations(search: Levels) -> int:
        """The number of gains evaluated."""
        return search.evaluations

    def add(self, search: Levels, element: int) -> float:
        """Add a candidate; returns what it gained."""
        won = self.device.upload(np.zeros(1))
        self.device.run(
            self._cover, -(-self.n_points // LANES), LANES, self.source.store, self._rule,
            search.level, search.value, self._scale, int(self.source.slots[element]), won,
        )  # fmt: skip
        return float(self.device.download(won)[0])

    def restrict(self, candidates: np.ndarray) -> "CudaLevels":
        """The same points with fewer candidates."""
        return CudaLevels(self.source.restrict(candidates), self.rule, self._from_features)


def row_sums(source: Any, from_features: bool) -> np.ndarray:
    """The sum of each point's similarities to all candidates, float64 (n_points,)."""
    scale = source.scales[0]
    sums = source.device.empty(len(source.points.local), np.float64)
    source.device.run(
        kernels.row_summing(from_features), source.points.tiles, LANES, source.store,
        *grid(source.n_points, scale.span), sums,
    )  # fmt: skip
    stored = source.points.members(source.device.download(sums))
    return scale.unit * (stored + source.n * scale.offset)
