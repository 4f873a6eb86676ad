"""Similarities in a dense matrix."""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import Dense, Search
from subsel.sources.base import Similarity, limited
from subsel.sources.scale import grid
from subsel.sources.sparse import SparseSimilarity
from subsel.validation import check_entries, read_only

_THIN_AT, _THIN_FROM, _THIN_TO = 64, 2**22, 32
"""A matrix of so many entries is thinned out once there are so many elements (a power of two, and
at each doubling again), if what is left is at most one entry in so many."""

_WIDEST = 2**14
"""Candidates in a block: so many that rows are read in long stretches, and their gains are in the
second-level cache."""

_PIECE = 2**20
"""Entries that are thinned out together."""


class DenseSimilarity(Similarity):
    """Similarities in an array of shape (n_points, n_candidates)."""

    path = "dense"
    known: tuple[np.ndarray, float] | None = None
    """The sum of each candidate's entries and the least entry, where they are known already."""
    given = False
    """Whether a user gave the matrix, and not features, of which each pair is computed once."""

    def __init__(
        self, matrix: np.ndarray, *, span: float, symmetric: bool, offset: float = 0.0,
        unit: float = 1.0,
    ) -> None:  # fmt: skip
        self.matrix = matrix
        self.n_points, self.n = matrix.shape
        self.width = -(-self.n // -(-self.n // _WIDEST))
        self.offset, self.unit, self.span = offset, unit, span
        self.store = Dense(matrix, symmetric, *grid(self.n_points, span))

    @property
    def dtype(self) -> Any:
        """The type of the similarities."""
        return self.matrix.dtype

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, name: str) -> "DenseSimilarity":
        """Check a user's matrix. In F order it is transposed if symmetric, else copied."""
        rows, symmetric = matrix, False
        if not matrix.flags.c_contiguous and matrix.flags.f_contiguous:
            transpose = read_only(matrix.T)
            symmetric = matrix.shape[0] == matrix.shape[1] and cpu.is_symmetric(transpose)
            rows = transpose if symmetric else matrix
        rows = read_only(rows)
        least, largest, sums = _scanned(rows)
        if not (least >= 0 and np.isfinite(sums).all()):
            check_entries(matrix, name, non_negative=True)  # says what is wrong, and where
        similarity = cls(rows, span=largest, symmetric=symmetric)
        similarity.unassigned, similarity.given = -1, True
        similarity.known = sums, least
        return similarity

    @property
    def mirrored(self) -> bool:  # type: ignore[override]
        """Whether the matrix is known to be symmetric."""
        return self.store.by_candidate

    def _settle_on_threads(self, search: Search, blocks: np.ndarray) -> None:
        parts = 4 * cpu.threads()
        for block in blocks:
            changes = np.zeros((cpu.threads(), min(self.width, self.n - block * self.width)))

            def sweep(part: int, own: np.ndarray, block: int = block) -> int:
                return cpu.sweep_rows(self.store, search, block, part, parts, own)

            cpu.settle_with(search, block, changes, sum(_on_threads(sweep, parts, changes)))

    @property
    def _summed(self) -> int:
        return self.matrix.size if self.given else super()._summed

    def sums(self, low: float) -> np.ndarray | None:
        """The sum of each column, where it is known and no entry is below `low`."""
        return self.known[0] if self.known and low <= self.known[1] else None

    def grow(self, search: Search, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily until `thinned` is due; return how many."""
        added = int(search.counts[cpu.ADDED])
        room = max(_THIN_AT, 1 << added.bit_length()) - added
        return super().grow(search, elements[:room], gains[:room])

    def thinned(self, search: Search) -> Similarity:
        """A sparse matrix of the entries above their point's best, since no others can count.

        After k elements, about one entry in k is left. The dense matrix is kept if more than one
        entry in `_THIN_TO` is left, if the sparse matrix cannot be allocated, or if the dense one
        is small.
        """
        added = int(search.counts[cpu.ADDED])
        if added < _THIN_AT or added & (added - 1) or self.matrix.size < _THIN_FROM:
            return self
        try:
            return self._above(search)
        except MemoryError:
            return self  # the whole matrix gives the same answer

    def _above(self, search: Search) -> Similarity:
        """The result of `thinned` for a matrix that is large enough."""
        from scipy.sparse import csr_array  # takes longer to import than subsel

        search.counts[cpu.SEEN] += self.matrix.size
        best = search.best
        if limited(search):  # a point that has the most that counts needs no entries any more
            best = np.where(best < self.limits_of(search).most, best, np.inf)
        starts = np.zeros(self.n_points + 1, np.int64)
        step, most = max(1, _PIECE // self.n), self.matrix.size // _THIN_TO
        left: list[Any] = [None] * -(-self.n_points // step)

        def write(piece: int, _: Any) -> None:
            first = piece * step
            stop = min(first + step, self.n_points)
            if starts[1:].sum() <= most:
                columns = np.empty((stop - first) * self.n, np.int32)
                data = np.empty(len(columns), self.matrix.dtype)
                fixed = self.matrix, best, first, stop
                count = cpu.write_above(*fixed, starts[1:], columns, data)
                left[piece] = columns[:count].copy(), data[:count].copy()

        _on_threads(write, len(left), range(cpu.threads()))
        np.cumsum(starts, out=starts)
        if starts[-1] > most:
            return self
        # Settle all blocks: a sparse matrix needs all gains, or none.
        self.settle(search, np.arange(len(search.settled)))
        self._empty_log(search)
        columns, data = (np.concatenate(parts) for parts in zip(*left, strict=True))
        left.clear()
        if len(columns) < 2**31:  # else scipy would copy the columns to the type of `starts`
            starts = starts.astype(np.int32)
        rows = csr_array((data, columns, starts), self.matrix.shape)
        return SparseSimilarity(rows, rows.tocsc(), self.span)

    def largest(self) -> np.ndarray:
        """Each point's largest similarity."""
        return self.matrix.max(axis=1).astype(np.float64)

    def restrict(self, candidates: np.ndarray) -> "DenseSimilarity":
        """The same points with fewer candidates (a copy of their columns)."""
        columns = read_only(self.matrix[:, candidates])
        part = DenseSimilarity(
            columns, span=self.span, symmetric=False, offset=self.offset, unit=self.unit
        )
        part.unassigned, part.given = self.unassigned, self.given
        if self.known:
            part.known = self.known[0][candidates], self.known[1]
        return part


def _scanned(matrix: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The least and the largest entry, and the sum of each column. O(n), and one pass mostly.

    A sum is not finite if an entry of the column is not. Sums are on the grid that the largest
    entry gives. If that grid is another one than the diagonal and the first rows suggest, a second
    pass is needed.
    """
    n_points, n = matrix.shape
    guess = float(max(matrix.diagonal().max(), matrix[: -(-_PIECE // (4 * n))].max()))
    # With 1 in place of a number that has no grid, the second pass finds out about it.
    scale = grid(n_points, guess if 1e-250 < guess < 1e250 else 1.0)
    while True:
        least, largest, sums = _scan(matrix, scale[1])
        if not (least >= 0 and np.isfinite(sums).all()) or grid(n_points, largest) == scale:
            return least, largest, sums
        scale = grid(n_points, largest)


def _scan(matrix: np.ndarray, down: float) -> tuple[float, float, np.ndarray]:
    """The same with sums on a given grid, on all threads."""
    step = max(1, _PIECE // matrix.shape[1] // cpu.ROWS) * cpu.ROWS
    starts = range(0, len(matrix), step)
    sums = np.zeros((min(cpu.threads(), len(starts)), matrix.shape[1]))

    def scan(part: int, own: np.ndarray) -> tuple[float, float]:
        stop = min(starts[part] + step, len(matrix))
        return cpu.scan(matrix, starts[part], stop, down, own)

    least, largest = zip(*_on_threads(scan, len(starts), sums), strict=True)
    return float(min(least)), float(max(largest)), sums.sum(axis=0)


def _on_threads(function: Callable, count: int, rooms: Sequence | np.ndarray) -> list:
    """The results of ``function(i, room)`` for i in ``range(count)``, on a thread for each room.

    A thread takes the next i whenever it has time. So one that the system gives no time to takes
    none and is not waited for, unlike those of Numba's parallel loops: these would take many times
    as long beside other work.
    """
    left, results = deque(range(count)), []

    def work(room: Any) -> None:
        while True:
            try:
                i = left.popleft()
            except IndexError:
                return
            results.append(function(i, room))

    others = [_pool(len(rooms) - 1).submit(work, room) for room in rooms[1:count]]
    try:
        work(rooms[0])
    finally:  # after Ctrl-C nothing else is begun
        left.clear()
        for other in others:
            if not other.cancel():
                other.result()
    return results


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
