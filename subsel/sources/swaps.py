"""Swaps of facility location over any source on the CPU, as FasterPAM makes them."""

import sys
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from subsel.kernels import cpu
from subsel.kernels.cpu import LANES, Dense, Search, Swaps, Tiled
from subsel.pacing import portion
from subsel.sources import base
from subsel.validation import read_only

_EAGER = 64
"""Candidates in a row without a swap from which on the next are tried by all threads at once."""

_BLOCK = 256
"""Columns of a matrix that are turned into rows together."""


def exchange(
    source: Any, held: Search, elements: np.ndarray, closed: np.ndarray, max_swaps: int | None
) -> tuple[np.ndarray, np.ndarray | None, int] | None:
    """Exchange elements, beside those of a search, until no swap makes F larger.

    Candidates are tried in the order of their indices, over and over. If a candidate gains in some
    place, it is put at once where it gains most (the first place among equals).
    `Objective.exchange` describes the results; here gains are in units of the source, and the work
    is counted in similarities.
    """
    if not isinstance(source, base.Similarity):
        return None  # on a GPU
    swaps = _start(source, held, source.slots(elements))
    cpu.begin_swaps(source.store, swaps)
    slots = np.asarray(source.slots(np.flatnonzero(~closed)), np.int64)
    _scan(source, swaps, slots, sys.maxsize if max_swaps is None else max_swaps)
    ended = swaps.counts[cpu.QUIET] >= len(slots)
    gains = swaps.gains[source.slots(np.arange(source.n))] if ended else None
    return source.order[swaps.seats], gains, int(swaps.counts[cpu.LOOKED])


def _start(source: Any, held: Search, seats: np.ndarray) -> Swaps:
    """The state before any element was offered to a point."""
    slots, k = source.point_slots, len(seats)
    limits = source.limits_of(held)
    first = np.full(slots, np.inf)
    first[: source.n_points] = held.best[: source.n_points]
    width = source.store.tiles.shape[1] // LANES if isinstance(source.store, Tiled) else 0
    return Swaps(
        base=held.best,
        first=first,
        second=first.copy(),
        first_place=np.full(slots, k),
        second_place=np.full(slots, k),
        bar=first.astype(source.dtype),
        most=limits.most,
        capped=bool((limits.most < np.inf).any()),
        weights=limits.weights,
        up=limits.up,
        down=limits.down,
        reach=np.full_like(held.reach, np.inf),
        seats=np.array(seats, np.int64),
        loss=np.zeros(k + 1),
        tiles=np.zeros((-(-k // LANES) if width else 0, width * LANES), source.dtype),
        where=np.full(len(held.gains), -1),
        gains=np.zeros(len(held.gains)),
        counts=np.zeros(3, np.int64),
        n_points=source.n_points,
    )


def _scan(source: Any, swaps: Swaps, slots: np.ndarray, most: int) -> None:
    """Try candidates over and over, until all of them in a row gave no improvement."""
    counts, threads = swaps.counts, cpu.threads()
    together = threads > 1 and source.n_points * len(slots) >= base.PARALLEL_WORK
    size = _EAGER
    for part, begun, own in _parts(source, slots):
        while len(own) and counts[cpu.QUIET] < len(slots) and counts[cpu.SWAPPED] < most:
            if together and counts[cpu.QUIET] >= min(_EAGER, len(slots)):
                gained = np.empty(min(size, len(own)))
                cpu.judge_swaps(part, begun, swaps, own[:size], 4 * threads, gained)
                better = np.flatnonzero(gained > 0)
                if not len(better):
                    counts[cpu.QUIET] += len(gained)
                    own, size = own[size:], 2 * size
                    continue
                counts[cpu.QUIET] = 0
                own, size = own[better[0] :], _EAGER
            quiet = min(_EAGER, len(slots)) if together else len(slots)
            own = own[cpu.scan_swaps(source.store, part, begun, swaps, own, quiet, most) :]
        if counts[cpu.QUIET] >= len(slots) or counts[cpu.SWAPPED] >= most:
            return


def _parts(source: Any, slots: np.ndarray) -> Iterator[tuple[Any, int, np.ndarray]]:
    """Endlessly yield portions of the candidates, each with a store that has a row for each
    candidate.

    With the slot that comes first in this store.
    """
    store = source.store
    if isinstance(store, Dense):
        matrix = store.matrix
        square = matrix.shape[0] == matrix.shape[1]
        if not (store.by_candidate or (square and cpu.is_symmetric(matrix))):
            yield from _blocks(store, slots)
            return
        store = store._replace(by_candidate=True)
    step = portion(source.n_points * len(slots), len(slots))
    parts = [slots[i : i + step] for i in range(0, len(slots), step)]
    for own in cycle(parts):
        yield store, 0, own


def _blocks(store: Dense, slots: np.ndarray) -> Iterator[tuple[Any, int, np.ndarray]]:
    """The same for a matrix that is not symmetric: some of its columns are copied as rows."""
    stops = np.arange(_BLOCK, store.matrix.shape[1] + _BLOCK, _BLOCK)
    parts = np.split(slots, np.searchsorted(slots, stops[:-1]))
    for stop, own in cycle(zip(stops.tolist(), parts, strict=True)):
        rows = cpu.turned(store.matrix, stop - _BLOCK, min(stop, store.matrix.shape[1]))
        part = store._replace(matrix=read_only(rows), by_candidate=True)
        yield part, stop - _BLOCK, own
