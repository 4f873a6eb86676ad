"""What every source of similarities on the CPU can do.

A source makes a store for the kernels (see `subsel.kernels.cpu`), with points and candidates in an
order of its own ("slots").
"""

from functools import cached_property
from typing import Any

import numpy as np

from subsel import pacing
from subsel.kernels import cpu
from subsel.kernels.cpu import LANES, GeneralSearch, Limits, Search, coverage, threads
from subsel.sources.levels import CpuLevels, frozen
from subsel.sources.scale import grid

_LOG = 3
"""Changes logged for each point before all blocks are settled and the log starts anew."""

_NO_ELEMENTS, _NO_GAINS = np.empty(0, np.int64), np.empty(0)
"""Passed to `advance` if it should settle blocks and add nothing."""

PARALLEL_WORK = 2**22
"""Similarities to look at from which on starting threads costs less than it saves."""


def limited(search: Any) -> bool:
    """Whether the terms of some points are limited."""
    return isinstance(search, GeneralSearch) and search.start.size > 0


class Similarity:
    """The common part of the three kinds of sources. By default, slots are the rows and columns.

    Attributes
    ----------
    store : Dense, Sparse or Tiled
    n_points, n : int
        Points represented, and candidates.
    width : int
        Candidates in a block.
    offset, unit, span : float
        Similarity = unit * (stored + offset), stored within `span` above -offset.
    unassigned : int
        The entry of `assignment` for a point that is similar to no added element: -1 for a matrix,
        where a similarity of 0 means that. From features it is 0, because the first element is as
        near as any.
    mirrored : bool
        Whether candidates are the points, in the same slots, and similarities are symmetric.
    path : str
    """

    path = ""
    mirrored = False
    store: Any
    n_points: int
    n: int
    width: int
    offset = 0.0
    unit = 1.0
    span: float
    unassigned = 0
    _number: Any = np.float64

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = frozen(self.store)

    def limits(
        self, least: np.ndarray | None, most: np.ndarray | None, weights: np.ndarray | None
    ) -> Limits:
        """Bounds of what counts of the points' similarities, and weights of the points.

        Each has the shape (n_points,), or is None if it was not given. Bounds are rounded to values
        that similarities can have.
        """
        largest = self.span - self.offset
        heaviest = 1.0 if weights is None else float(weights.max())

        def stored(values: np.ndarray) -> np.ndarray:
            near = np.clip(values / self.unit - self.offset, -self.offset, largest)
            near = near.astype(self.dtype).astype(np.float64)
            return self.points_in_slots(np.rint(near * self.store.up) * self.store.down)

        nothing = np.zeros(self.n_points)
        return Limits(
            stored(nothing if least is None else least),
            np.full(self.point_slots, np.inf) if most is None else stored(most),
            np.empty(0) if weights is None else self.points_in_slots(weights),
            *grid(self.n_points, self.span * heaviest),
        )

    def search(self, limits: Limits | None = None, *, log: bool = True) -> Search:
        """A search with nothing selected. Without a `log`, gains cannot be kept up to date."""
        blocks = -(-self.n // self.width)
        n_points = self.point_slots
        entries = (_LOG if log else 1) * n_points
        best = limits.start.copy() if limits else np.full(n_points, -self.offset)
        best[self.n_points :] = np.inf
        search = Search(
            best=best,
            assigned=np.full(n_points, -1 if limits else self.unassigned),
            last=np.full(n_points, -1),
            reach=np.full(-(-n_points // LANES), np.inf, self._number),
            changed=np.empty(entries, np.int64),
            before=np.empty(entries),
            previous=np.empty(entries, np.int64),
            run_start=np.zeros(entries + 1, np.int64),
            run_group=np.empty(entries, np.int64),
            run_reach=np.empty(entries, self._number),
            gains=np.zeros(blocks * self.width),
            taken=np.zeros(self.n, bool),
            order=self.order,
            top=np.full(blocks, np.inf),
            lead=np.arange(blocks) * self.width,
            settled=np.full(blocks, -1),
            todo=np.empty(blocks, np.int64),
            counts=np.zeros(5, np.int64),
            width=self.width,
        )
        return GeneralSearch(*search, *limits, np.empty(0)) if limits else search

    def limits_of(self, search: Any) -> Limits:
        """The limits of the terms in a search; infinite bounds if there are none."""
        if isinstance(search, Search):
            most = np.full(self.point_slots, np.inf)
            return Limits(np.empty(0), most, np.empty(0), 1.0, 1.0)
        return Limits(*(getattr(search, name) for name in Limits._fields))

    def sums(self, low: float) -> np.ndarray | None:
        """The sum of each candidate's stored similarities, at least `low`, to all points, by slot.

        None where this is not less work than to settle all blocks.
        """
        return None

    @property
    def _summed(self) -> int:
        """How many similarities `sums` looks at: one of each pair."""
        return self.n * (self.n_points + 1) // 2

    def _sum_all(self, search: Search) -> None:
        """Take all first gains from sums, where these are less work and all points are alike."""
        if search.counts[cpu.ADDED] or (search.settled >= 0).any() or limited(search):
            return
        low = search.best[0]
        sums = self.sums(low)
        if sums is None:
            return
        np.subtract(sums, self.n_points * low, out=search.gains[: self.n])
        search.settled[:] = search.counts[cpu.RUNS]
        search.counts[cpu.SEEN] += self._summed

    def settle(self, search: Search, blocks: np.ndarray) -> None:
        """Bring the gains of blocks of candidates up to date, on all threads if it pays."""
        if len(blocks) == len(search.settled):
            self._sum_all(search)
        blocks = blocks[search.settled[blocks] != search.counts[cpu.RUNS]]
        search.counts[cpu.TODO] = 0
        if not len(blocks):
            return
        since = search.run_start[np.maximum(search.settled[blocks], 0)]
        logged = search.counts[cpu.LOGGED] - since
        entries = np.where(search.settled[blocks] < 0, len(search.best), logged)
        work = int(entries.sum()) * search.width
        alone = threads() == 1 or work < self._too_much
        for part in pacing.portions(len(blocks), pacing.portion(work, len(blocks))):
            if alone:
                count = search.counts[cpu.TODO] = len(blocks[part])
                search.todo[:count] = blocks[part]
                cpu.advance(self.store, search, _NO_ELEMENTS, _NO_GAINS, 0, 0)
            else:
                self._settle_on_threads(search, blocks[part])

    def _settle_on_threads(self, search: Search, blocks: np.ndarray) -> None:
        """Bring the gains of some blocks up to date."""
        cpu.settle_parallel(self.store, search, blocks)

    @property
    def _too_much(self) -> int:
        """Number of similarities above which work is split among threads or kernel calls."""
        return PARALLEL_WORK if threads() > 1 else pacing.PORTION

    def make_room(self, search: Search) -> None:
        """Make room in the log for the changes of another element."""
        if search.counts[cpu.LOGGED] + len(search.best) > len(search.changed):
            self._empty_log(search)

    def _empty_log(self, search: Search) -> None:
        self.settle(search, np.flatnonzero(search.settled >= 0))
        search.counts[cpu.LOGGED] = search.counts[cpu.RUNS] = 0
        search.last[:] = -1
        np.minimum(search.settled, 0, out=search.settled)

    def thinned(self, search: Search) -> "Similarity":
        """The source to continue with: this one without entries that no longer matter."""
        return self

    def grow(self, search: Search, elements: np.ndarray, gains: np.ndarray) -> int:
        """Fill `elements` and `gains` greedily until `thinned` is due; return how many."""
        self._sum_all(search)
        search.counts[cpu.TODO] = at = 0
        while True:
            self.make_room(search)
            at = cpu.advance(self.store, search, elements, gains, at, self._too_much)
            if at == len(elements):
                return at
            self.settle(search, search.todo[: search.counts[cpu.TODO]])

    def mark_taken(self, search: Search, taken: np.ndarray) -> None:
        """Mark the candidates that must not be added."""
        np.copyto(search.taken, taken[self.order])

    def priced(self, search: Any, costs: np.ndarray | None) -> Any:
        """The same search, comparing gains divided by costs from now on; None means no costs."""
        plain = isinstance(search, Search)
        if costs is None and plain:
            return search
        search.settled[search.settled < 0] = -1  # bounds are of gains that no costs divide
        if costs is None:
            return search._replace(costs=np.empty(0))
        by_slot = np.asarray(costs, np.float64)[self.order]
        if plain:
            return GeneralSearch(*search, *self.limits_of(search), by_slot)
        return search._replace(costs=by_slot)

    def gains(self, search: Search, candidates: np.ndarray) -> np.ndarray:
        """Gains of some candidates, brought up to date, in units of `unit`."""
        slots = self.slots(candidates)
        self.settle(search, np.flatnonzero(np.bincount(slots // search.width)))
        return search.gains[slots]

    def add(self, search: Search, element: int) -> None:
        """Add a candidate."""
        self.make_room(search)
        cpu.add(self.store, self.slots(element), search)

    def assignment(self, search: Search) -> np.ndarray:
        """For each point, in the order of adding, the candidate that represents it."""
        return self.of_points(search.assigned)[: self.n_points].copy()

    def value(self, search: Any) -> float:
        """F: the sum of the terms of all points, given their representatives."""
        if limited(search):
            terms = self._weighed(search, search.best) - self._weighed(search, search.start)
        else:
            terms = search.best + self.offset
        return float(self.of_points(terms)[: self.n_points].sum()) * self.unit

    @staticmethod
    def _weighed(search: Any, similarities: np.ndarray) -> np.ndarray:
        if not search.weights.size:
            return similarities
        with np.errstate(invalid="ignore"):  # NaN of padding slots: infinity times a weight of 0
            return np.rint(search.weights * similarities * search.up) * search.down

    def best(self, search: Search) -> np.ndarray:
        """Each point's similarity to its representative."""
        return (self.of_points(search.best)[: self.n_points] + self.offset) * self.unit

    def represent(
        self, candidates: np.ndarray, limits: Limits | None = None
    ) -> tuple[Search, np.ndarray]:
        """Add candidates one by one to a new search; return it and the gain of each."""
        search = self.search(limits, log=False)
        slots, gains = self.slots(candidates), np.empty(len(candidates))
        work = self.n_points * len(slots)
        for part in pacing.portions(len(slots), pacing.portion(work, len(slots))):
            gains[part] = cpu.represent(self.store, slots[part], search)
        return search, gains * self.unit

    def take(self, search: Search, elements: np.ndarray) -> np.ndarray:
        """Add candidates one by one; return the gain of each, in units of `unit`.

        If gains are kept up to date, those of the other candidates are then unknown.
        """
        self._empty_log(search)
        gains = cpu.represent(self.store, self.slots(elements), search)
        search.last[:] = search.settled[:] = -1
        return gains

    @staticmethod
    def seen(search: Search) -> int:
        """The number of similarities computed."""
        return int(search.counts[cpu.SEEN])

    @property
    def dtype(self) -> Any:
        """The type of the similarities."""
        return self._number

    @property
    def terms(self) -> float:
        """The number of similarities that one gain takes from scratch."""
        return self.n_points

    @property
    def point_slots(self) -> int:
        """Slots of points, padding included."""
        return self.n_points

    @cached_property
    def order(self) -> np.ndarray:
        """Candidates by slot."""
        return np.arange(self.n)

    def slots(self, candidates: Any) -> Any:
        """Slots of candidates."""
        return candidates

    def points_in_slots(self, values: np.ndarray) -> np.ndarray:
        """Values in the order of the points, by slot."""
        return values

    def of_points(self, by_slot: np.ndarray) -> np.ndarray:
        """Values by slot, in the order of the points."""
        return by_slot

    def levels(self, rule: Any) -> CpuLevels:
        """A search of these similarities by a rule of a coverage objective."""
        return CpuLevels(self, rule)

    def row_sums(self) -> np.ndarray:
        """The sum of each point's similarities to all candidates, float64 (n_points,)."""
        sums = self.sums(-np.inf) if self.mirrored else None
        if sums is None:
            sums = self._row_sums()
        return self.unit * (self.of_points(sums)[: self.n_points] + self.n * self.offset)

    def _row_sums(self) -> np.ndarray:
        """The sums of what is stored, by slot, from every similarity."""
        work, tiles = self.n_points * self.n, -(-self.point_slots // LANES)
        alone = threads() == 1 or work < PARALLEL_WORK
        run = coverage.row_sums_serial if alone else coverage.row_sums_parallel
        by_slot = np.zeros(self.point_slots)
        for part in pacing.portions(tiles, pacing.portion(work, tiles)):
            run(self.store, part.start, part.stop, by_slot)
        return by_slot
