"""Gains of objectives of pairs: what candidates have in common with the selected ones.

`ColumnSums` keeps them up to date, and adds a column for each element. `LinearSums` is for inner
products, and computes those that might be the largest. So do residuals of inner products
(`subsel.sources.residuals`), by the same class `Lagging`.
"""

import copy
from typing import Any

import numpy as np

from subsel.kernels.compiling import threads
from subsel.kernels.cpu import columns as kernels
from subsel.kernels.cpu import linear
from subsel.kernels.cpu.vectors import LANES
from subsel.pacing import PORTION, portion, portions
from subsel.sources.columns import PARALLEL_WORK, Columns, FeatureColumns


class ColumnSums:
    """Gains ``base - factor * (the sum of a candidate's numbers with all selected ones)``.

    Parameters
    ----------
    pairs : Columns
        The numbers.
    base : ndarray of float64, shape (n,)
    factor : float

    Notes
    -----
    Adding an element takes one column. After that every gain takes O(1).
    """

    evaluations = None

    def __init__(self, pairs: Columns, base: np.ndarray, factor: float) -> None:
        self._pairs, self.base, self._factor = pairs, base, factor
        self._sums, self._column = np.zeros(pairs.n), np.empty(pairs.n)

    def afresh(self) -> "ColumnSums":
        """The same with nothing selected."""
        return ColumnSums(self._pairs, self.base, self._factor)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """The gains of candidates."""
        return self.base[candidates] - self._factor * self._sums[candidates]

    def add(self, element: int) -> None:
        """Select a candidate."""
        self._pairs.add_column(element, self._sums, self._column)

    def extend(self, taken: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        elements, gains = np.empty(count, np.int64), np.empty(count)
        for step in range(count):
            element, gain = kernels.best(self.base, self._sums, self._factor, taken)
            elements[step], gains[step] = element, gain
            taken[element] = True
            self.add(element)
        return elements, gains


class Lagging:
    """Values of candidates, computed when they are needed: see `subsel.kernels.cpu.linear`.

    Parameters
    ----------
    features : FeatureColumns
        Whose numbers are inner products.
    """

    def __init__(self, features: FeatureColumns) -> None:
        self.features, self.n, self.tiles = features, features.n, len(features.rows.tiles)
        self._search: Any = None

    def _begin(self, search: Any, first: np.ndarray, **fields: Any) -> None:
        """Nothing is selected, and the values are known."""
        nothing = np.empty(0)
        self._search = search(
            values=self._in_tiles(first, -np.inf), seen=np.zeros(self.tiles, np.int64),
            counts=np.zeros(2, np.int64), taken=nothing.astype(bool), top=nothing,
            todo=nothing.astype(np.int64), **fields,
        )  # fmt: skip

    def _in_tiles(self, values: np.ndarray, padding: Any) -> np.ndarray:
        """Values of candidates, and padding up to whole tiles."""
        padded = np.full(self.tiles * LANES, padding)
        padded[: self.n] = values
        return padded

    def values(self, candidates: Any = slice(None)) -> np.ndarray:
        """The values of candidates, by default of all."""
        missed = self._search.counts[linear.ADDED] - self._search.seen
        if not isinstance(candidates, slice):
            wanted = np.zeros(self.tiles, bool)
            wanted[candidates // LANES] = True
            missed *= wanted
        self._settle(np.flatnonzero(missed), missed)
        return self._search.values[: self.n][candidates]

    def _settle(self, tiles: np.ndarray, missed: np.ndarray) -> None:
        """Compute the values of some tiles, which missed so many elements."""
        work = self._work(missed)
        many = work > self._worth_threads() and threads() > 1
        run = linear.settle_parallel if many else linear.settle_serial
        if work * LANES <= PORTION:
            run(self._search, self.features.rows, tiles)
            return
        for part in portions(len(tiles), portion(work * LANES, len(tiles))):
            run(self._search, self.features.rows, tiles[part])

    def _work(self, missed: np.ndarray) -> int:
        """How many products by tile settling takes."""
        return int(missed.sum())

    def _worth_threads(self) -> int:
        """So many products by tile take as long as starting threads."""
        return PARALLEL_WORK // (LANES * self.features.d)

    def add(self, element: int) -> None:
        """Select a candidate."""
        linear.include(self._search, self.features.rows, element)

    def advance(self, taken: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the candidate of largest value that is not taken, `count` times; also its value."""
        elements, values = np.empty(count, np.int64), np.empty(count)
        closed, top = self._in_tiles(taken, np.True_), np.empty(self.tiles)
        todo = np.empty(self.tiles, np.int64)
        search = self._search._replace(taken=closed, top=top, todo=todo)
        too_much = self._worth_threads() if threads() > 1 else PORTION // LANES
        at = 0
        while at < count:
            at = linear.advance(search, self.features.rows, elements, values, at, too_much)
            if search.counts[linear.TODO]:
                tiles = todo[: search.counts[linear.TODO]]
                self._settle(tiles, search.counts[linear.ADDED] - search.seen[tiles])
            elif at < count:
                equal = np.flatnonzero((search.values >= values[at]) & ~closed)
                elements[at] = best = self._best_of(equal)
                values[at] = search.values[best]
                closed[best] = True
                self.add(best)
                at += 1
        taken[elements] = True
        return elements, values

    def _best_of(self, candidates: np.ndarray) -> int:
        """The best of candidates whose values count as equal."""
        return int(candidates[0])


class LinearSums(Lagging):
    """The same gains as of `ColumnSums` where numbers are inner products of rows.

    Parameters
    ----------
    features : FeatureColumns
        Whose numbers are inner products.
    base : ndarray of float64, shape (n,)
    factor : float
        At least 0.

    Notes
    -----
    Adding an element takes O(d), and a gain O(d) again once an element was added. Greedy computes
    those that might be the largest. Memory: 17 bytes for each candidate.
    """

    def __init__(self, features: FeatureColumns, base: np.ndarray, factor: float) -> None:
        super().__init__(features)
        rise, spare = np.zeros(self.tiles), 0.0
        if factor and not features.non_negative:
            squares = kernels.squares(features.rows.tiles) * features.rows.factor**2
            lengths = np.sqrt(squares.reshape(self.tiles, LANES).max(axis=1)) * (1 + 2.0**-20)
            rise, spare = factor * lengths.max() * lengths, 2.0**-50 * float(np.abs(base).max())
        padded = self._in_tiles(base, -np.inf)
        self.base, self._fixed = padded[: self.n], (padded, factor, rise, spare)
        self._start()

    def _start(self) -> None:
        base, factor, rise, spare = self._fixed
        self._begin(
            linear.Sums, self.base, base=base, factor=factor, rise=rise, spare=spare, tolerance=0.0,
            total=np.zeros(self.features.d), times=np.ones(self.tiles, np.int64),
        )  # fmt: skip

    def afresh(self) -> "LinearSums":
        """The same with nothing selected."""
        other = copy.copy(self)
        other._start()
        return other

    @property
    def evaluations(self) -> int:
        """The number of gains computed; the first ones are `base`."""
        times = self._search.times
        return int(times.sum()) * LANES - int(times[-1]) * (self.tiles * LANES - self.n)

    def _work(self, missed: np.ndarray) -> int:
        return int(np.count_nonzero(missed))

    gains, extend = Lagging.values, Lagging.advance
