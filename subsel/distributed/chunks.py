"""The rows of X in chunks: where a chunk stands in X, and how it is loaded, here or on a worker."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from subsel.distributed.plan import Plan
from subsel.validation import as_float_array


class Chunk(NamedTuple):
    """Neighbouring rows start..stop of X. `load` returns them, here or on a worker.

    `number` is None if the user did not divide X into chunks.
    """

    number: int | None
    start: int
    stop: int
    d: int
    dtype: np.dtype  # float32 or float64
    load: Any

    def place(self, row: int) -> str:
        """Where a row stands, for messages; empty if the user did not divide X into chunks."""
        return "" if self.number is None else f" (row {row} of chunk {self.number})"

    def rows(self, given: dict) -> np.ndarray:
        """The rows. Raises an error if they do not have the shape and dtype that X declares."""
        name = "X" if self.number is None else f"chunk {self.number} of X"
        rows = as_float_array(self.load(given), name)
        wanted = self.stop - self.start, self.d
        if rows.shape != wanted:
            raise ValueError(f"{name} has shape {rows.shape}, but X says that it has {wanted}")
        if not np.can_cast(rows.dtype, self.dtype):
            raise ValueError(
                f"{name} is computed in {rows.dtype}, but X says that it is in {self.dtype}; "
                f"pass X.astype({str(rows.dtype)!r})"
            )
        return rows.astype(self.dtype, copy=False)


class Piece(NamedTuple):
    """Chunks for one task, and the futures in the cluster's memory that are needed to load them."""

    start: int
    stop: int
    chunks: list[Chunk]
    given: dict


@dataclass
class Source:
    """The rows of X, chunk by chunk."""

    n: int
    d: int
    dtype: np.dtype
    chunks: list[Chunk]
    largest: int  # rows of a chunk that cannot be cut further
    sent: np.ndarray | None = None  # whose rows are sent to the workers
    lazy: Any = None  # the dask array

    def pieces(self, max_rows: int) -> list[Piece]:
        """Groups of neighbouring chunks, each for one task."""
        enough = min(max_rows, max(self.n // 64 + 1, 4096))
        runs, start = [], 0
        for at, chunk in enumerate(self.chunks):
            if at > start and chunk.stop - self.chunks[start].start > enough:
                runs.append(self.chunks[start:at])
                start = at
        runs.append(self.chunks[start:])
        return [Piece(run[0].start, run[-1].stop, run, _needed_by(run)) for run in runs]

    def of_partition(self, plan: Plan, number: int) -> tuple[list[Chunk] | np.ndarray, dict]:
        """What the task of a partition reads: the chunks in which its rows may lie, or the rows."""
        if self.sent is not None:
            return self.sent[plan.rows(number)], {}
        starts = np.array([chunk.start for chunk in self.chunks])
        stops = np.array([chunk.stop for chunk in self.chunks])
        touched = np.zeros(len(self.chunks), bool)
        for start, stop in plan.blocks(number):
            touched[np.searchsorted(stops, start, "right") : np.searchsorted(starts, stop)] = True
        chunks = [self.chunks[at] for at in np.flatnonzero(touched)]
        return chunks, _needed_by(chunks)


def _needed_by(chunks: list[Chunk]) -> dict:
    """The futures on which chunks of a persisted dask array depend."""
    needs = (chunk.load.needs for chunk in chunks if isinstance(chunk.load, Graph))
    return {key: future for need in needs for key, future in need.items()}


def read(
    chunks: list[Chunk], given: dict, classes: np.ndarray | None
) -> Iterator[tuple[Chunk, np.ndarray, np.ndarray | None]]:
    """Each chunk in turn, with its rows and their classes."""
    for chunk in chunks:
        own = slice(chunk.start - chunks[0].start, chunk.stop - chunks[0].start)
        yield chunk, chunk.rows(given), None if classes is None else classes[own]


def gathered(chunks: list[Chunk] | np.ndarray, given: dict, index: np.ndarray) -> np.ndarray:
    """The features of some rows (ascending), read one chunk at a time."""
    if isinstance(chunks, np.ndarray):
        return as_float_array(chunks, "X")
    out = np.empty((len(index), chunks[0].d), chunks[0].dtype)
    for chunk, rows, _ in read(chunks, given, None):
        first, last = np.searchsorted(index, (chunk.start, chunk.stop))
        out[first:last] = rows[index[first:last] - chunk.start]
    return out


@dataclass
class Graph:
    """A chunk of a dask array: the part of the graph that makes the chunk, and the futures in it.

    It is not a tuple, because Dask would search a tuple for tasks of its own.
    """

    graph: dict
    key: tuple
    needs: dict

    def __call__(self, given: dict) -> Any:
        """The chunk, computed in this thread."""
        import dask

        return dask.get({**self.graph, **{key: given[key] for key in self.needs}}, self.key)

    def __reduce__(self) -> tuple:
        return Graph, (self.graph, self.key, dict.fromkeys(self.needs))


class Held(NamedTuple):
    """Rows in the memory of this process."""

    rows: np.ndarray

    def __call__(self, given: dict) -> np.ndarray:
        """The rows."""
        return self.rows


class Mapped(NamedTuple):
    """An array in a file that every worker can map."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> "Mapped | None":
        """None if the array is not memory-mapped. Refuses a file that was cut short since then."""
        whole: Any = array
        while isinstance(whole, np.ndarray) and not isinstance(whole.base, mmap.mmap):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.filename is None:
            return None
        file: Any = whole.base
        offset = whole.offset + array.ctypes.data - whole.ctypes.data
        mapped = cls(str(whole.filename), array.shape, array.dtype, offset, array.strides)
        mapped._check(file.size())
        return mapped

    def open(self) -> np.ndarray:
        """The array, mapped."""
        try:
            raw = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise OSError(f"a worker cannot map X's file {self.path}: {error}") from error
        self._check(len(raw))
        return np.ndarray(self.shape, self.dtype, raw, self.offset, self.strides)

    def _check(self, size: int) -> None:
        # Reading beyond the end of the file would kill the process (SIGBUS).
        steps = zip(self.shape, self.strides, strict=True)
        last = sum((count - 1) * stride for count, stride in steps if stride > 0)
        end = self.offset + last + self.dtype.itemsize
        if size < end:
            raise ValueError(
                f"X's file {self.path} has {size} bytes, but X reaches to byte {end} of it: "
                "the file was cut short, or is another one"
            )


class Cut(NamedTuple):
    """Rows of a mapped array."""

    array: Mapped
    rows: slice

    def __call__(self, given: dict) -> np.ndarray:
        """The rows, read when they are looked at."""
        return self.array.open()[self.rows]
