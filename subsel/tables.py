"""Reads columns of pandas, polars, pyarrow and Hugging Face datasets as arrays.

`narwhals` gives access to the columns of all these libraries in one way, and vectors are read
through Arrow. No other file knows about tables, and only `subsel.validation.as_host_array` calls
this one.
"""

from typing import Any

import numpy as np

_LIBRARIES = ("pandas", "polars", "datasets")


def is_table(thing: Any) -> bool:
    """Whether an object is a table or a column: it exports Arrow data, or its library is known."""
    kind = type(thing)
    if hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__"):
        return True
    return kind.__module__.partition(".")[0] in _LIBRARIES


def as_array(table: Any, name: str) -> np.ndarray:
    """A column (n,), a column of vectors (n, d), or the columns of a table side by side (n, d).

    Missing values are refused; the error names the column and the row. Without the package
    narwhals, NumPy reads what it can.
    """
    try:
        import narwhals as nw
    except ImportError:
        return np.asarray(table)
    if hasattr(table, "collect") and hasattr(table, "lazy"):
        raise TypeError(f"{name} is a lazy table; pass its .collect()")
    try:
        native = nw.from_native(_arrow_of(table), allow_series=True, pass_through=True)
        if isinstance(native, nw.Series):
            return _of_column(native, name, f" in column {native.name!r}" if native.name else "")
        return _of_columns(native, name) if isinstance(native, nw.DataFrame) else np.asarray(table)
    except nw.exceptions.DuplicateError:
        raise ValueError(f"{name} has several columns of the same name: rename them") from None


def _arrow_of(table: Any) -> Any:
    """The object in a form that narwhals knows. One that only exports Arrow becomes pyarrow's."""
    if hasattr(table, "with_format"):  # a dataset of Hugging Face
        return table.with_format("arrow")[:]
    if hasattr(table, "source") and hasattr(table, "column_name"):  # a column of one
        return table.source.with_format("arrow")[table.column_name][:]
    if type(table).__module__.partition(".")[0] in ("pandas", "polars"):
        return table
    import pyarrow as pa

    if isinstance(table, pa.Table | pa.ChunkedArray):
        return table
    column = pa.chunked_array(table)
    return pa.table(table) if pa.types.is_struct(column.type) else column


def _of_columns(frame: Any, name: str) -> np.ndarray:
    """The columns side by side. A column of vectors takes several columns of the result."""
    columns = [_of_column(c, name, f" in column {c.name!r}") for c in frame.iter_columns()]
    if len(columns) > 1:
        for column, array in zip(frame.iter_columns(), columns, strict=True):
            if array.dtype.kind not in "biufO" or (array.dtype.kind == "O" and _has_text(array)):
                raise TypeError(
                    f"{name} has a column {column.name!r} of {column.dtype}; its columns must be "
                    "numbers or vectors: leave this one out"
                )
    if all(column.ndim == 1 for column in columns) and len({c.dtype for c in columns}) == 1:
        whole = frame.to_numpy()  # which pandas stores unchanged
        if whole.dtype == columns[0].dtype:
            return whole
    return np.column_stack(columns) if columns else np.empty((len(frame), 0))


def _has_text(array: np.ndarray) -> bool:
    return any(isinstance(entry, str | bytes) for entry in array)


def _of_column(column: Any, name: str, where: str) -> np.ndarray:
    if missing := column.null_count():
        row = int(column.is_null().arg_true()[0])
        values = "a missing value" if missing == 1 else f"{missing} missing values"
        raise ValueError(
            f"{name} has {values}{where}, the first in row {row}; fill or drop them first"
        )
    kind = str(column.dtype)
    if kind.startswith("Struct"):
        raise TypeError(f"{name} has {kind}{where}; columns must be numbers or vectors")
    if kind.startswith(("List", "Array")):
        return vectors(column.to_arrow(), f"{name}{where}")
    array = column.to_numpy()
    if array.dtype.kind == "O" and len(array) and isinstance(array[0], np.ndarray | list | tuple):
        return _stacked(array, f"{name}{where}")
    return array


def _stacked(rows: np.ndarray, name: str) -> np.ndarray:
    """A column of Python objects, each a vector, as an array (n, d)."""
    d = len(rows[0])
    for i, row in enumerate(rows):
        if not isinstance(row, np.ndarray | list | tuple) or len(row) != d:
            size = f"has {len(row)} numbers" if hasattr(row, "__len__") else "is none"
            raise ValueError(f"{name}: the vector of row {i} {size}, and that of row 0 has {d}")
    return np.stack([np.asarray(row) for row in rows])


def vectors(column: Any, name: str, width: int | None = None, first: int = 0) -> np.ndarray:
    """A column of pyarrow whose entries are lists of the same length, as an array (n, d).

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray
    name : str
        The name of the column in errors.
    width : int, optional
        The required d. Default: that of the first row.
    first : int
        The number of the column's first row, for errors.
    """
    import pyarrow as pa

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts, row = [], first
    for chunk in chunks:
        if not len(chunk):
            continue
        if chunk.null_count:
            missing = row + int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"{name} has a missing vector in row {missing}")
        width = len(chunk[0]) if width is None else width
        sizes = _sizes(chunk)
        for at in np.flatnonzero(sizes != width)[:1]:
            raise ValueError(
                f"{name}: the vector of row {row + at} has {sizes[at]} numbers, not {width} as "
                "those before it"
            )
        parts.append(numbers(chunk.flatten(), name, row, width).reshape(len(chunk), width))
        row += len(chunk)
    if not parts:
        return np.empty((0, width or 0))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _sizes(chunk: Any) -> np.ndarray:
    """The length of each list; a single length if it is a part of the column's type."""
    if hasattr(chunk.type, "list_size"):
        return np.array([chunk.type.list_size])
    return np.diff(chunk.offsets.to_numpy())


def numbers(column: Any, name: str, first: int = 0, per_row: int = 1) -> np.ndarray:
    """Numbers of pyarrow, none missing, as an array; `per_row` numbers belong to each row."""
    import pyarrow as pa

    if column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"{name} has a missing value in row {first + at // per_row}")
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        raise TypeError(f"{name} must hold numbers, not {column.type}")
    return column.to_numpy(zero_copy_only=False)
