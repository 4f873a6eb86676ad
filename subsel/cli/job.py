"""The work of `subsel select`: read features, select rows, write files."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from subsel.cli import formats, reading, writing
from subsel.cli.formats import InputError
from subsel.files import written_whole
from subsel.memory import available_memory
from subsel.selection import proven
from subsel.sources.scale import COMPUTED, centred, directions
from subsel.sources.scale import METRICS as SEARCHED
from subsel.tables import numbers

METRICS = (*SEARCHED, *COMPUTED)

PLOTS = (".png", ".svg", ".pdf")

_SMALL = 2**27
"""Bytes of features up to which matrices of similarities may take what they like."""

_NUMBERS = 2**22
"""Numbers that are looked at together when similarities are written."""


class Percentage(Fraction):
    """A budget that is a percentage of the rows."""

    def argument(self, n: int) -> Any:
        """The budget in the form that `select` takes, for n rows."""
        return n if self == 1 else float(self)


class Job:
    """One run of the command.

    Parameters
    ----------
    args : argparse.Namespace
        Options that `subsel.cli.select.check` accepted.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.show = not args.quiet
        self.bar = self.show and sys.stderr is not None and sys.stderr.isatty()

    def run(self) -> None:
        """Read, select and write. If reading or selecting fails, nothing is written."""
        args = self.args
        self._check_places()
        scratch = args.out.with_name(f".{args.out.name}.{os.getpid()}.features")
        try:
            X, columns = self._read(scratch)
            chosen = self._select(X, columns)
            self._write(X, chosen, columns.get("id"))
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)

    def tell(self, text: str) -> None:
        """Write a line to standard error; if that fails, the line is lost and the work goes on."""
        if self.show and sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    def _check_places(self) -> None:
        """Refuse, before any work is done, output paths that could not be written."""
        args = self.args
        written = [p.resolve() for p in (args.out, args.assignments, args.plot) if p is not None]
        if len(set(written)) < len(written):
            raise InputError("--out, --assignments and --plot must be different files")
        columns = [Path(name) for name in (args.by, args.costs, args.id) if name is not None]
        others = [path for path in (args.given, args.exclude, *columns) if path and path.is_file()]
        for source in (args.file, *others):
            whole = source.resolve()
            if inside := [path for path in written if whole in (path, *path.parents)]:
                raise InputError(
                    f"{inside[0]} cannot be written: it is the input {source}, or lies in it"
                )
        writing.check_place(args.out)
        if args.assignments is not None:
            writing.check_place(args.assignments)
        if args.plot is not None:
            writing.check_place(args.plot, PLOTS)
            _curve()

    # Reading

    def _read(self, scratch: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """The features, and for each option the column that it names."""
        args = self.args
        table = formats.open_table(args.file)
        named = {"by": args.by, "costs": args.costs, "id": args.id}
        inside: dict[str, str] = {}
        outside: dict[str, str] = {}
        for option, name in named.items():
            if name is not None:
                elsewhere = name not in table.columns and Path(name).is_file()
                (outside if elsewhere else inside)[option] = name
        taken = [table.named(name) for name in inside.values()]
        features = table.features(args.features, taken)
        some = formats.listed(features, 3)
        if len(features) > 3:
            some = f"{len(features)} columns, {features[0]!r} to {features[-1]!r}"
        unused = [name for name in table.columns if name not in (*features, *taken)]
        left = f"; not used: {formats.listed(unused, 5)}" if unused else ""
        self.tell(f"{args.file}: features are {some}{left}")
        X, read = reading.read(
            table, features, list(dict.fromkeys(taken)), show=self.show,
            scratch=scratch if _too_large(args.file) else None,
        )  # fmt: skip
        columns = {option: read[name] for option, name in inside.items()}
        for option, name in outside.items():
            columns[option] = reading.read_column(Path(name))
            if len(columns[option]) != len(X):
                raise InputError(
                    f"{name} has {len(columns[option])} rows, but {args.file} has {len(X)}"
                )
        return X, columns

    # Selecting

    def _select(self, X: np.ndarray, columns: dict[str, Any]) -> Any:
        args = self.args
        n, d = X.shape
        options: dict[str, Any] = {"objective": args.objective, "metric": args.metric}
        if "by" in columns:
            options["labels"] = classes_of(columns["by"], args.by)
        if "costs" in columns:
            options["costs"] = _numbers_of(columns["costs"], args.costs)
        for name in ("given", "exclude"):
            if (path := getattr(args, name)) is not None:
                options[name] = rows_of(path)
        budget = args.budget.argument(n) if isinstance(args.budget, Percentage) else args.budget
        if "costs" not in columns and budget is not None and not 0 < budget <= n:
            raise InputError(f"--budget must be in 1..{n}, the number of rows, not {budget}")
        began = time.perf_counter()
        self.tell(f"selecting from {n} rows of {d} number{'' if d == 1 else 's'}")
        if args.scheduler is not None or (args.partitions or 1) > 1:
            chosen = self._in_partitions(X, budget, options)
        else:
            chosen = self._here(X, budget, options)
        self._summary(chosen, n, time.perf_counter() - began)
        return chosen

    def _here(self, X: np.ndarray, budget: Any, options: dict[str, Any]) -> Any:
        """Select by `subsel.select`, which searches a part of very many rows unless it may not."""
        import subsel

        args = self.args
        method: Any = "auto" if args.partitions is None else "lazy"
        # A matrix of similarities could take more memory than large features do.
        memory = None if X.nbytes <= _SMALL else X.nbytes // 4
        chosen = subsel.select(
            X, budget, coverage=args.coverage, min_distance=args.min_distance, method=method,
            random_state=args.seed, memory=memory, progress=self.bar, **options,
        )  # fmt: skip
        if ":" in chosen.path:
            self.tell(f"searched {chosen.path} (--partitions 1 searches all in one piece)")
        return chosen

    def _in_partitions(self, X: np.ndarray, budget: Any, options: dict[str, Any]) -> Any:
        import subsel

        with ExitStack() as stack:
            if self.args.scheduler is not None:
                distributed = formats.needed("distributed", self.args.scheduler)
                stack.enter_context(distributed.Client(self.args.scheduler))
            return subsel.greedi(
                X, budget, partitions=self.args.partitions, random_state=self.args.seed,
                progress=self.bar, **options,
            )  # fmt: skip

    def _summary(self, chosen: Any, n: int, seconds: float) -> None:
        part = ""
        if (share := proven(chosen)) is not None:
            part = f"; F is at least {100 * share:.1f}% of the best possible"
        self.tell(f"selected {len(chosen)} of {n} rows in {seconds:.1f} s{part}")

    # Writing

    def _write(self, X: np.ndarray, chosen: Any, ids: Any) -> None:
        args = self.args
        columns = chosen.columns()
        if ids is not None:
            name = args.id if args.id not in columns else f"{args.id} (id)"
            columns[name] = _taken(ids, chosen.indices)
        written = [args.out]
        writing.write(args.out, columns, "row")
        if args.assignments is not None:
            metric = args.metric or "euclidean"
            writing.write(args.assignments, assignments(X, chosen, metric), "representative")
            written.append(args.assignments)
        if args.plot is not None:
            figure = _curve()(chosen).figure
            with written_whole(args.plot) as part:
                figure.savefig(part, format=args.plot.suffix[1:].lower())
            written.append(args.plot)
        self.tell(f"wrote {', '.join(map(str, written))}")


def _too_large(path: Path) -> bool:
    """Whether the features of a file may take more than half of the free memory."""
    if path.suffix == ".npy":  # is mapped in any case
        return False
    files = path.rglob("*") if path.is_dir() else [path]
    return 2 * sum(file.stat().st_size for file in files if file.is_file()) > available_memory()


def classes_of(column: Any, name: str) -> np.ndarray:
    """A column of classes in the form that `select` takes. Names become numbers in sorted order."""
    if isinstance(column, np.ndarray):
        return column
    import pyarrow as pa

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError(f"column {name!r} has no class in row {row}")
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.to_numpy()
    if not pa.types.is_dictionary(column.type):
        if not is_text(column.type):
            raise InputError(
                f"column {name!r} has {column.type}; classes must be whole numbers, truth values "
                "or texts"
            )
        column = column.cast(pa.large_string()).dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    names = column.dictionary.to_pylist()
    if "" in names:
        row = int(np.argmax(column.indices.to_numpy() == names.index("")))
        raise InputError(f"column {name!r} has no class in row {row}")
    with suppress(ValueError):  # of a file of text
        names = [int(name) for name in names]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names))
    return place[column.indices.to_numpy()]


def _numbers_of(column: Any, name: str) -> np.ndarray:
    if isinstance(column, np.ndarray):
        return column
    import pyarrow as pa

    if is_text(column.type):
        column = _cast(column, pa.float64(), f"column {name!r} must have numbers only")
    return numbers(column, f"column {name!r}")


def rows_of(path: Path) -> np.ndarray:
    """Row numbers, or one truth value for each row, from a file."""
    column = reading.read_column(path, "row")
    if isinstance(column, np.ndarray):
        return column
    import pyarrow as pa

    if is_text(column.type):
        column = _cast(column, pa.int64(), f"{path} must have whole numbers only")
    return numbers(column, str(path))


def _taken(column: Any, rows: np.ndarray) -> Any:
    """Some rows of a column."""
    if isinstance(column, np.ndarray):
        return column[rows]
    import pyarrow as pa

    # Arrow has no function that takes rows from this type.
    return (column.cast(pa.string()) if pa.types.is_string_view(column.type) else column).take(rows)


def _cast(column: Any, dtype: Any, what: str) -> Any:
    import pyarrow as pa

    try:
        return column.cast(pa.large_string()).cast(dtype)
    except ValueError as error:
        raise InputError(f"{what}: {error}") from None


def is_text(dtype: Any) -> bool:
    """Whether a type of Arrow is one of texts."""
    from pyarrow import types

    return types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype)


def _curve() -> Callable[[Any], Any]:
    """The function that draws a selection; an error if matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from subsel.plots import curve
    except ImportError:
        raise InputError('--plot needs matplotlib: pip install "subsel[plots]"') from None
    return curve


def assignments(X: np.ndarray, chosen: Any, metric: str) -> dict[str, np.ndarray]:
    """For every row the row that represents it (-1: a given row does), and their similarity."""
    places = np.asarray(chosen.assignment)
    known = places >= 0
    rows = np.full(len(X), -1, np.int64)
    rows[known] = chosen.indices[places[known]]
    nearness = np.full(len(X), np.nan)
    for start, stop in _blocks(*X.shape):
        own = start + np.flatnonzero(known[start:stop])
        nearness[own] = similarities(X[own], X[rows[own]], metric)
    return {"row": np.arange(len(X)), "representative": rows, "similarity": nearness}


def _blocks(n: int, d: int) -> Iterator[tuple[int, int]]:
    step = max(1, _NUMBERS // d)
    return ((start, min(start + step, n)) for start in range(0, n, step))


def similarities(A: np.ndarray, B: np.ndarray, metric: str) -> np.ndarray:
    """Similarities of each row of A to the same row of B; distances count as negative."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    if metric in ("jaccard", "tanimoto"):
        both, either = ((A != 0) & (B != 0)).sum(1), ((A != 0) | (B != 0)).sum(1)
        return np.where(either, both / np.maximum(either, 1), 1.0)
    if metric == "correlation":
        A, B = centred(A), centred(B)
    if metric in ("cosine", "correlation"):
        A, B = directions(A), directions(B)
    if metric in ("cosine", "correlation", "dot"):
        return np.einsum("ij,ij->i", A, B)
    if metric == "hamming":
        return -np.mean(A != B, axis=1)
    if metric == "manhattan":
        return -np.abs(A - B).sum(1)
    squares = np.square(A - B).sum(1)
    return np.exp(-squares / A.shape[1]) if metric == "rbf" else -np.sqrt(squares)
