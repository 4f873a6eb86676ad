"""Read rows of a file part by part into one array, so that they are never in memory twice."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from subsel import tables
from subsel.cli.formats import VECTOR, InputError, Table, listed, open_table
from subsel.progress import Progress
from subsel.validation import float_type


def read(
    table: Table, features: list[str], others: list[str], *, show: bool, scratch: Path | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """The features in one array (n, d), and other columns in the type that the file has.

    Parameters
    ----------
    table : Table
    features, others : list of str
    show : bool
        Whether to show a progress bar on a terminal.
    scratch : Path, optional
        A file to fill and map in place of memory.
    """
    kept: dict[str, list] = {name: [] for name in others}
    rows: Any = None
    start = 0
    with Progress(
        total=table.n, desc="read", unit=" rows", unit_scale=True, disable=None if show else True
    ) as bar:
        for part in table.parts(features, others):
            block = _block(table, features, part, start, None if rows is None else rows.widths)
            if table.whole and len(features) == 1 and features[0] in table.whole:
                rows = _Whole(table.whole[features[0]])
            elif rows is None:
                rows = _Filled(table.n, *block, scratch)
            rows.append(block[0])
            for name in others:
                kept[name].append(part[name])
            start += len(block[0])
            bar.update(len(block[0]))
    if rows is None:
        raise InputError(f"{table.path} has no rows")
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()
    array = rows.array()
    if not array.shape[1]:
        raise InputError(f"{table.path}: the vectors of {listed(features)} have no numbers")
    return array, {name: _joined(parts, table.path, name) for name, parts in kept.items()}


def _block(
    table: Table, features: list[str], part: dict[str, Any], start: int, widths: Any
) -> tuple[np.ndarray, list[int]]:
    """Features of some rows in the type used for computing, and the width of each column."""
    columns, found = [], []
    for at, name in enumerate(features):
        where = f"{table.path}: column {name!r}"
        column = part[name]
        if not isinstance(column, np.ndarray):
            if table.columns[name] == VECTOR:
                column = tables.vectors(column, where, widths and widths[at], start)
            else:
                column = tables.numbers(column, where, start)
        number = float_type(column.dtype, where)
        column = column if column.dtype == number else column.astype(number)
        rows = column if column.ndim == 2 else column[:, None]
        if not np.isfinite(rows).all():
            i, j = np.argwhere(~np.isfinite(rows))[0]
            place = f", entry {j}" if column.ndim == 2 else ""
            raise InputError(
                f"{where} is {rows[i, j]} in row {start + i}{place}; it must be finite"
            )
        columns.append(rows)
        found.append(rows.shape[1])
    return columns[0] if len(columns) == 1 else np.hstack(columns), found


class _Whole:
    """Features that are one array in the file already."""

    widths = None

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def append(self, block: np.ndarray) -> None: ...

    def array(self) -> np.ndarray:
        return self._array if self._array.ndim == 2 else self._array[:, None]


class _Filled:
    """Features that are gathered in one array, in memory or in a file."""

    def __init__(
        self, n: int | None, block: np.ndarray, widths: list[int], scratch: Path | None
    ) -> None:
        self.widths, self._count, self._scratch = widths, 0, scratch
        self._shape, self._dtype = (n or len(block), block.shape[1]), block.dtype
        self._array = np.empty(self._shape if scratch is None else 0, block.dtype)
        self._file = None if scratch is None else scratch.open("wb")

    def append(self, block: np.ndarray) -> None:
        count = self._count + len(block)
        if self._file is not None:
            self._file.write(np.ascontiguousarray(block, self._dtype).data)
        else:
            if count > len(self._array):  # where the system can, memory grows where it is
                self._array.resize((count + count // 4, block.shape[1]), refcheck=False)
            self._array[self._count : count] = block
        self._count = count

    def array(self) -> np.ndarray:
        if self._file is not None:
            assert self._scratch is not None
            self._file.close()
            shape = self._count, self._shape[1]
            return np.memmap(self._scratch, self._dtype, "r", shape=shape)
        if self._count < len(self._array):
            self._array.resize((self._count, self._shape[1]), refcheck=False)
        return self._array


def _joined(parts: list, path: Path, name: str) -> Any:
    """Parts of a column as one array, of NumPy or of Arrow."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import pyarrow as pa

    if others := [part.type for part in parts if part.type != parts[0].type]:
        raise InputError(
            f"{path}: column {name!r} must have one type in all parts, not {parts[0].type} and "
            f"{others[0]}"
        )
    return pa.chunked_array(parts)


def read_column(path: Path, preferred: str | None = None) -> Any:
    """The only column of a file, or the named one, in the type that the file has."""
    table = open_table(path)
    name = preferred if preferred in table.columns else None
    if name is None:
        if len(table.columns) != 1:
            one = f", or one named {preferred!r}" if preferred else ""
            raise InputError(f"{path} must have one column{one}; it has {listed(table.columns)}")
        [name] = table.columns
    parts = [part[name] for part in table.parts([], [name])]
    if not parts:
        raise InputError(f"{path} has no rows")
    return _joined(parts, path, name)
