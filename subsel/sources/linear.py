"""What candidates have in common with the selected ones, for objectives of pairs.

The gain of a candidate is its worth alone, less a factor times the sum of its numbers with the
selected ones. `ColumnSums` keeps that sum for any numbers, and adds a column for each element.
`LinearSums` is for inner products, adds a row, and computes gains that might be the largest.
"""

import numpy as np

from subsel.kernels.compiling import threads
from subsel.kernels.cpu import columns as kernels
from subsel.kernels.cpu import linear
from subsel.kernels.cpu.vectors import LANES
from subsel.sources.columns import Columns, FeatureColumns

_PARALLEL_WORK = 2**19
"""Numbers to read from which on starting threads costs less than it saves."""


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
        self._pairs, self._base, self._factor = pairs, base, factor
        self._sums, self._column = np.zeros(pairs.n), np.empty(pairs.n)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """The gains of candidates."""
        return self._base[candidates] - self._factor * self._sums[candidates]

    def add(self, element: int) -> None:
        """Select a candidate."""
        self._pairs.add_column(element, self._sums, self._column)

    def extend(self, taken: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        elements, gains = np.empty(count, np.int64), np.empty(count)
        for step in range(count):
            element, gain = kernels.best(self._base, self._sums, self._factor, taken)
            elements[step], gains[step] = element, gain
            taken[element] = True
            self.add(element)
        return elements, gains


class LinearSums:
    """The same gains where numbers are inner products of rows.

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
        self._features, self._n = features, features.n
        tiles, d, _ = features.rows.tiles.shape
        padded = np.full(tiles * LANES, -np.inf)
        padded[: self._n] = base
        rise, spare = np.zeros(tiles), 0.0
        if factor and not features.non_negative:
            squares = kernels.squares(features.rows.tiles) * features.rows.factor**2
            lengths = np.sqrt(squares.reshape(tiles, LANES).max(axis=1)) * (1 + 2.0**-20)
            rise, spare = factor * lengths.max() * lengths, 2.0**-50 * float(np.abs(base).max())
        nothing = np.empty(0)
        self._search = linear.Sums(
            base=padded, factor=factor, total=np.zeros(d), gains=padded.copy(),
            seen=np.zeros(tiles, np.int64), times=np.ones(tiles, np.int64), rise=rise, spare=spare,
            counts=np.zeros(2, np.int64), taken=nothing.astype(bool), top=nothing,
            todo=nothing.astype(np.int64),
        )  # fmt: skip

    @property
    def evaluations(self) -> int:
        """The number of gains computed; the first ones are `base`."""
        times = self._search.times
        return int(times.sum()) * LANES - int(times[-1]) * (len(times) * LANES - self._n)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """The gains of candidates, and of all others in their tiles."""
        wanted = np.zeros(len(self._search.seen), bool)
        wanted[candidates // LANES] = True
        wanted &= self._search.seen < self._search.counts[linear.ADDED]
        self._settle(np.flatnonzero(wanted))
        return self._search.gains[candidates]

    def _settle(self, tiles: np.ndarray) -> None:
        alone = threads() == 1 or len(tiles) < self._worth_threads()
        run = linear.settle_serial if alone else linear.settle_parallel
        run(self._features.rows, self._search, tiles)

    def _worth_threads(self) -> int:
        """So many tiles are worth starting threads for."""
        return _PARALLEL_WORK // (LANES * self._features.d) + 1

    def add(self, element: int) -> None:
        """Select a candidate."""
        linear.include(self._features.rows, self._search, element)

    def extend(self, taken: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        elements, gains = np.empty(count, np.int64), np.empty(count)
        tiles = len(self._search.seen)
        closed = np.ones(tiles * LANES, bool)
        closed[: self._n] = taken
        search = self._search._replace(
            taken=closed, top=np.empty(tiles), todo=np.empty(tiles, np.int64)
        )
        too_many = tiles if threads() == 1 else self._worth_threads()
        rows, at = self._features.rows, 0
        while (at := linear.advance(rows, search, elements, gains, at, too_many)) < count:
            self._settle(search.todo[: search.counts[linear.TODO]])
        taken[elements] = True
        return elements, gains
