"""Write a selection to a file, completely or not at all, in the format of its ending."""

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from subsel.cli.formats import InputError, needed
from subsel.files import written_whole

ENDINGS = (".parquet", ".csv", ".npy")

_LINES = 2**16
"""Rows that are turned into text at a time."""


def check_place(path: Path, endings: tuple[str, ...] = ENDINGS) -> None:
    """Refuse, before any work is done, a file that could not be written."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{path} must end in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    if path.suffix.lower() == ".parquet":
        needed("pyarrow.parquet", path)


def write(path: Path, columns: dict[str, Any], alone: str) -> None:
    """Write columns of equal length; a .npy file gets the one named `alone`."""
    with written_whole(path) as part:
        _WRITERS[path.suffix.lower()](part, columns, alone)


def _npy(part: Path, columns: dict[str, Any], alone: str) -> None:
    with part.open("wb") as file:
        np.save(file, columns[alone])


def _csv(part: Path, columns: dict[str, Any], alone: str) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        for start in range(0, len(columns[alone]), _LINES):
            some = (c[start : start + _LINES] for c in columns.values())
            lines.writerows(zip(*(_entries(column) for column in some), strict=True))


def _entries(column: Any) -> list:
    return column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()


def _parquet(part: Path, columns: dict[str, Any], alone: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), part)


_WRITERS: dict[str, Callable[[Path, dict[str, Any], str], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".npy": _npy,
}
