"""Selection within classes that do not represent one another, on all threads or in one GPU launch.

The sum of the objectives of all classes is itself an objective. Greedy on this sum selects the same
elements as greedy on each class followed by a merge by gain (`subsel.selection.merged`).
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from subsel.kernels import cpu
from subsel.pacing import obey, portions
from subsel.progress import Progress
from subsel.selection import Selection, bound_of_greedy, sizes_of

Result = TypeVar("Result")


def side_by_side(
    search: Callable[..., Result], tasks: list[tuple], workers: int, progress: bool,
    classes: list[int] | None = None,
) -> list[Result]:  # fmt: skip
    """Run ``search(*task)`` for each task on several threads, and return what they return.

    A task is one class, or as many as `classes` says. Each uses one Numba thread, because Numba's
    thread pools do not nest. After an error or Ctrl-C, the other searches are told to stop.
    """
    stop = threading.Event()

    def begin() -> None:
        cpu.single_thread()
        obey(stop)

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        try:
            futures = [pool.submit(search, *task) for task in tasks]
            sizes = classes or [1] * len(tasks)
            results = []
            total = sum(sizes)
            with Progress(total=total, desc="select", unit="class", disable=not progress) as bar:
                for future, size in zip(futures, sizes, strict=True):
                    results.append(future.result())
                    bar.update(size)
            return results
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def together(source: Any, counts: list[int], progress: bool) -> list[Selection]:
    """Greedy selections of all classes, which the source searches in the same launches."""
    search, goals = source.search(), np.array(counts)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with Progress(total=sum(counts), desc="select", unit="element", disable=not progress) as bar:
        for part in portions(max(counts), 64):
            now = np.minimum(goals, part.stop)
            found.append(source.grow_all(search, now))
            bar.update(int((now - np.minimum(goals, part.start)).sum()))
    elements, gains = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    evaluations = -(-source.seen(search) // source.n_points)
    assigned = source.device.download(search.arrays.assigned)
    parts = []
    for c, k in enumerate(counts):
        assignment = source.points.members(assigned, c)
        won = gains[c, :k] * source.units[c]
        value = math.fsum(won)
        parts.append(Selection(
            indices=elements[c, :k], gains=won, value=value, n_evaluations=evaluations,
            assignment=assignment, sizes=sizes_of(assignment, k), path=source.path,
            bound=max(value, bound_of_greedy(won, k)),
        ))  # fmt: skip
    return parts
