"""File formats: a function for each format makes a `Table`, which yields its rows in parts.

`_parquet`, `_ipc` and `_csv` yield Arrow batches; `_npy`, `_npz` and `_zarr` yield arrays.
"""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 2**14
"""Rows of a part, at most."""

BLOCK = 2**22
"""Bytes of a text that are taken at a time."""

_OF_ZARR = ("zarr.json", ".zgroup", ".zarray")

_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")

_INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""Names that pandas gives to a column of row names, which is not a feature unless it is named."""

NUMBER, VECTOR, OTHER = "a number", "a vector", "no number"


class InputError(ValueError):
    """An error in a file or option, worded for the user of the command."""


@dataclass
class Table:
    """A file of rows: its columns by name, and how to read some of them.

    `columns` maps each name to NUMBER, VECTOR or OTHER, and `types` maps it to its type in the
    file. `parts` yields consecutive rows of the wanted columns, as dicts of Arrow or NumPy arrays.
    `n` is the number of rows, or None if it is unknown before reading. `whole` holds arrays that
    need no copy. In a text file, a type is a guess from the first lines.
    """

    path: Path
    columns: dict[str, str]
    types: dict[str, Any]
    parts: Callable[[list[str], list[str]], Iterator[dict[str, Any]]]
    n: int | None = None
    whole: dict[str, np.ndarray] | None = None
    text: bool = False

    def named(self, name: str) -> str:
        """Check that a column exists; the error lists the columns that do."""
        if name in self.columns:
            return name
        raise InputError(f"{self.path} has no column {name!r}; it has {listed(self.columns)}")

    def features(self, wanted: str | None, taken: Iterable[str]) -> list[str]:
        """Names of the feature columns, from one name, names with commas, a range ``a:z``, or None.

        None means the only column of vectors or, if there is none, all numeric columns not in
        `taken`.
        """
        if wanted is None:
            return self._usual(set(taken))
        names = list(self.columns)
        if wanted in names:
            chosen = [wanted]
        elif ":" in wanted:
            first, last = (self.named(end) for end in wanted.split(":", 1))
            chosen = names[names.index(first) : names.index(last) + 1]
            if not chosen:
                raise InputError(
                    f"--features {wanted}: in {self.path}, column {last!r} comes before {first!r}; "
                    "name them in the order of the file"
                )
        else:
            chosen = [self.named(name.strip()) for name in wanted.split(",")]
        if len(set(chosen)) < len(chosen):
            raise InputError(f"--features {wanted} names {_twice(chosen)[0]!r} more than once")
        for name in chosen:
            if self.columns[name] == OTHER and not self.text:
                raise InputError(
                    f"{self.path}: column {name!r} has {self.types[name]}; features must be "
                    "numbers, or vectors of numbers"
                )
        return chosen

    def _usual(self, taken: set[str]) -> list[str]:
        taken = {*taken, *_INDEX}
        vectors = [c for c, kind in self.columns.items() if kind == VECTOR and c not in taken]
        if len(vectors) > 1:
            raise InputError(
                f"{self.path} has several columns of vectors, {listed(vectors)}: name one with "
                "--features"
            )
        some = [c for c, kind in self.columns.items() if kind == NUMBER and c not in taken]
        if not vectors and not some:
            known = ", ".join(f"{c!r} ({self.types[c]})" for c in list(self.columns)[:8])
            cure = "; a number in a text file must be written as 1.5" if self.text else ""
            raise InputError(
                f"{self.path} has no column of numbers or vectors; it has {known or 'no columns'}"
                f"{cure}"
            )
        return vectors or some


def listed(names: Iterable[str], most: int = 12) -> str:
    """The names in quotes, at most a few of them."""
    names = list(names)
    some = ", ".join(map(repr, names[:most]))
    return some + (f" and {len(names) - most} more" if len(names) > most else "")


def _twice(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def open_table(path: Path) -> Table:
    """Open a table; the ending of its name, or the files of a folder, decide the format."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    ending = path.suffix.lower()
    if ending in _COMPRESSED and Path(path.stem).suffix.lower() in _TEXTS:
        ending = Path(path.stem).suffix.lower()
    if ending not in READERS and not path.is_dir():
        raise InputError(
            f"{path} has an unknown ending; known are {', '.join(READERS)}, compressed text such "
            "as .csv.gz, and folders of parts"
        )
    with _naming(path):
        table = _folder(path) if path.is_dir() else READERS[ending]([path])
    return replace(table, parts=_named_parts(table))


def _named_parts(table: Table) -> Callable[[list[str], list[str]], Iterator[dict[str, Any]]]:
    """The parts of a table, with errors that name the table."""

    def parts(features: list[str], others: list[str]) -> Iterator[dict[str, Any]]:
        with _naming(table.path):
            yield from table.parts(features, others)

    return parts


def _folder(path: Path) -> Table:
    if path.suffix == ".zarr" or any(
        (path / f).exists() for f in ("zarr.json", ".zgroup", ".zarray")
    ):
        return _zarr([path])
    for ending in (".parquet", ".pq", ".arrow", ".feather"):
        parts = sorted(p for p in path.rglob(f"*{ending}") if not p.name.startswith((".", "_")))
        if parts:
            return READERS[ending](parts)
    raise InputError(f"{path} is a folder without Parquet, Arrow or Zarr files")


def needed(package: str, path: Path) -> Any:
    """Import a module of an optional package; the error says how to install it."""
    try:
        return import_module(package)
    except ImportError:
        extra = "distributed" if package == "zarr" else "tables"
        raise InputError(
            f'{path} needs the package {package.split(".")[0]}: pip install "subsel[{extra}]"'
        ) from None


# Arrow


def _of_arrow(paths: list[Path], schema: Any, n: int | None, batches: Callable) -> Table:
    """A table from an Arrow schema and a function that yields batches of some columns."""
    from pyarrow import types

    def kind(dtype: Any) -> str:
        if types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype):
            return NUMBER
        if types.is_decimal(dtype):
            return NUMBER
        lists = (
            types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype)
        )
        return VECTOR if lists and kind(dtype.value_type) == NUMBER else OTHER

    def parts(features: list[str], others: list[str]) -> Iterator[dict[str, Any]]:
        names = list(dict.fromkeys([*features, *others]))
        if several := set(_twice(schema.names)) & set(names):
            raise InputError(f"{where} has several columns named {min(several)!r}: rename them")
        for path in paths:
            for batch in batches(path, features, names):
                if missing := set(names) - set(batch.schema.names):
                    raise InputError(f"{path} has no column {min(missing)!r}, as {paths[0]} has")
                for start in range(0, len(batch), ROWS):
                    rows = batch.slice(start, ROWS)
                    yield {name: rows.column(name) for name in names}

    where = paths[0] if len(paths) == 1 else paths[0].parent
    kinds = {field.name: kind(field.type) for field in schema}
    return Table(where, kinds, {field.name: field.type for field in schema}, parts, n)


def _parquet(paths: list[Path]) -> Table:
    parquet = needed("pyarrow.parquet", paths[0])

    def batches(path: Path, features: list[str], names: list[str]) -> Iterator[Any]:
        # Streamed, as a group of rows may be the whole file.
        with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            own = set(file.schema_arrow.names)
            some = [name for name in names if name in own]
            yield from file.iter_batches(ROWS, columns=some, use_threads=False)

    n = sum(parquet.read_metadata(path).num_rows for path in paths)
    return _of_arrow(paths, parquet.read_schema(paths[0]), n, batches)


def _ipc(paths: list[Path]) -> Table:
    pa = needed("pyarrow", paths[0])

    def opened(path: Path, **options: Any) -> Any:
        options = pa.ipc.IpcReadOptions(use_threads=False, **options)
        try:
            return pa.ipc.open_file(pa.memory_map(str(path)), options=options)
        except pa.ArrowInvalid:  # a stream, as Hugging Face writes them
            return pa.ipc.open_stream(pa.memory_map(str(path)), options=options)

    def batches(path: Path, features: list[str], names: list[str]) -> Iterator[Any]:
        schema = opened(path).schema
        fields = sorted(i for i, name in enumerate(schema.names) if name in names)
        file = opened(path, included_fields=fields)
        if hasattr(file, "num_record_batches"):
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            yield from file

    return _of_arrow(paths, opened(paths[0]).schema, None, batches)


def _csv(paths: list[Path]) -> Table:
    path = paths[0]
    pa, reader = needed("pyarrow", path), needed("pyarrow.csv", path)
    line = _first_line(path, pa)
    delimiter = max(",\t;", key=line.count)
    first = next(csv.reader([line], delimiter=delimiter), [])
    # As numpy.savetxt writes it, or with names among the numbers. Whole numbers may be names.
    headless = bool(first) and (all(map(_is_number, first)) or any(map(_is_fraction, first)))
    options = {
        "read_options": reader.ReadOptions(
            use_threads=False, block_size=BLOCK, autogenerate_column_names=headless
        ),
        "parse_options": reader.ParseOptions(delimiter=delimiter),
    }

    def batches(path: Path, features: list[str], names: list[str]) -> Iterator[Any]:
        # Types that the first lines show may be too narrow for the others.
        types = {name: pa.float64() if name in features else pa.string() for name in names}
        types |= {name: pa.bool_() for name in features if schema.field(name).type == pa.bool_()}
        convert = reader.ConvertOptions(include_columns=names, column_types=types)
        yield from reader.open_csv(path, convert_options=convert, **options)

    schema = reader.open_csv(path, **options).schema
    if set(schema.types) <= {pa.null()}:
        raise InputError(f"{path} has no rows, or only empty ones")
    table = _of_arrow([path], schema, None, batches)
    table.text = True
    return table


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path of the file to errors of a library that does not name it."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise any error
        said = str(error) or type(error).__name__
        raise InputError(said if str(path) in said else f"{path} cannot be read: {said}") from error


def _first_line(path: Path, pa: Any) -> str:
    """The first line of a text file, which may be compressed."""
    line, more = b"", b" "
    with pa.input_stream(str(path)) as file:
        while b"\n" not in line and len(line) < BLOCK and more:
            more = file.read(2**12)
            line += more
    whole = b"\n" in line or not more
    try:
        return line.partition(b"\n")[0].decode("utf-8-sig", "strict" if whole else "replace")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: convert it first") from None


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _is_fraction(text: str) -> bool:
    """Whether a text is a number that nobody would take for a name."""
    return _is_number(text) and "." in text and any(map(str.isdigit, text))


# Arrays


def _of_arrays(path: Path, arrays: dict[str, Any], load: Callable[[str], Any]) -> Table:
    """A table from objects with `shape` and `dtype`, and a function that returns their arrays."""

    def kind(array: Any) -> str:
        if np.dtype(array.dtype).kind not in "biuf" or len(array.shape) not in (1, 2):
            return OTHER
        return (NUMBER, VECTOR)[len(array.shape) - 1]

    def parts(features: list[str], others: list[str]) -> Iterator[dict[str, Any]]:
        names = list(dict.fromkeys([*features, *others]))
        used = {name: load(name) for name in names}
        n = used[names[0]].shape[0]
        for name, array in used.items():
            if array.shape[0] != n:
                raise InputError(
                    f"{path}: {name!r} has {array.shape[0]} rows, and {names[0]!r} has {n}"
                )
        step = max(
            [ROWS, *(array.chunks[0] for array in used.values() if hasattr(array, "chunks"))]
        )
        for start in range(0, n, step):
            yield {name: array[start : start + step] for name, array in used.items()}

    kinds = {name: kind(array) for name, array in arrays.items()}
    types = {name: f"{a.dtype} of shape {tuple(a.shape)}" for name, a in arrays.items()}
    return Table(path, kinds, types, parts)


def _npy(paths: list[Path]) -> Table:
    with paths[0].open("rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise InputError(f"{paths[0]} is not a file of numpy.save")
    array = np.load(paths[0], mmap_mode="r")
    table = _of_arrays(paths[0], {"array": array}, lambda name: array)
    table.whole, table.n = {"array": array}, len(array) if array.ndim else 0
    return table


def _npz(paths: list[Path]) -> Table:
    arrays = {}
    with zipfile.ZipFile(paths[0]) as archive:
        for member in (name for name in archive.namelist() if name.endswith(".npy")):
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(file)
            arrays[member.removesuffix(".npy")] = _Header(shape, dtype)
    loaded: dict[str, np.ndarray] = {}

    def load(name: str) -> np.ndarray:
        if name not in loaded:
            with np.load(paths[0]) as archive:
                loaded[name] = archive[name]
        return loaded[name]

    table = _of_arrays(paths[0], arrays, load)
    table.whole = loaded
    return table


@dataclass
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype


def _zarr(paths: list[Path]) -> Table:
    zarr = needed("zarr", paths[0])
    store = zarr.open(str(paths[0]), mode="r")
    arrays = dict(store.arrays()) if hasattr(store, "arrays") else {"array": store}
    return _of_arrays(paths[0], arrays, arrays.__getitem__)


_TEXTS = (".csv", ".tsv", ".txt")

READERS: dict[str, Callable[[list[Path]], Table]] = {
    ".npy": _npy, ".npz": _npz, ".csv": _csv, ".tsv": _csv, ".txt": _csv, ".parquet": _parquet,
    ".pq": _parquet, ".feather": _ipc, ".arrow": _ipc, ".zarr": _zarr,
}  # fmt: skip
