"""Metrics for which the search has no kernels of its own.

`columns_of` is the entry point for objectives of pairs: it returns the `Columns` of features and a
metric. `Measured` fills a matrix from such columns for coverage objectives, if the matrix fits into
memory.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from subsel.kernels.compiling import threads
from subsel.kernels.cpu import bits as kernels
from subsel.sources.columns import DISTANCES, SIMILARITIES, FeatureColumns, RowColumns
from subsel.sources.dense import DenseSimilarity
from subsel.sources.distances import warn_of_distances
from subsel.sources.scale import METRICS, check_metric, grid, round_up
from subsel.sources.sparse_columns import SparseRowColumns
from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_host_array,
    check_choice,
    check_entries,
    check_matrix_shape,
    check_memory,
    read_only,
)

_PARALLEL_WORK = 2**19
"""Words of bits to read from which on starting threads costs less than it saves."""

_BITS = 2**22
"""Entries that are looked at together before they become bits."""

_BLOCK = 2**22
"""Numbers that a function may need for a block, if it compares each feature of each pair."""

_SQUARE = 32
"""Rows of the blocks along the diagonal."""


def columns_of(
    X: ArrayLike, metric: Any, gamma: float | None = None, *, distances: bool = False,
    name: str = "X",
) -> Any:  # fmt: skip
    """The `Columns` of similarities or distances between the rows of X (n, d).

    Parameters
    ----------
    X : array_like or scipy sparse matrix, shape (n, d)
    metric : str or callable
        One of `SIMILARITIES`, or of `DISTANCES` if `distances` is true, or a function of two
        blocks.
    gamma : float, optional
        Of ``"rbf"``; default 1 / d.
    distances : bool
        Whether numbers are distances.
    name : str
        What the features are called in errors.
    """
    if not callable(metric):
        check_choice(metric, DISTANCES if distances else SIMILARITIES, "metric")
    gamma = check_metric(metric, gamma)
    gamma = None if gamma is None else float(gamma)
    kind: Any = FeatureColumns
    if hasattr(X, "tocsr"):
        kind = SparseRowColumns
    elif callable(metric):
        kind = CalledColumns
    elif metric in ("jaccard", "tanimoto"):
        kind = BitColumns
    return kind.of(X, metric, gamma, distances=distances, name=name)


class BitColumns(RowColumns):
    """Jaccard similarities or distances of rows of 0 and 1, packed into bits: n d / 8 bytes."""

    non_negative = True

    def __init__(self, words: np.ndarray, width: int, distances: bool) -> None:
        self.words, self.n, self.width, self._distances = words, len(words), width, distances
        self._sizes = read_only(kernels.counts(words))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.words, self._sizes = read_only(self.words), read_only(self._sizes)

    @classmethod
    def of(
        cls, X: ArrayLike, metric: str, gamma: float | None = None, *,
        distances: bool = False, name: str = "X",
    ) -> "BitColumns":  # fmt: skip
        """Check rows of 0 and 1 and pack them."""
        array = as_host_array(X, name)
        if array.dtype.kind not in "bu":
            array = as_float_array(array, name)
        check_matrix_shape(array.shape, name, "(n, d)")
        n, d = array.shape
        words = np.zeros((n, -(-d // 64)), np.uint64)
        octets = words.view(np.uint8)
        step = max(1, _BITS // d)
        for start in range(0, n, step):
            rows = array[start : start + step]
            ones = rows == 1
            for at in np.flatnonzero(~ones & (rows != 0))[:1]:
                i, k = divmod(int(at), d)
                raise ValueError(
                    f"{name}[{start + i}, {k}] is {rows[i, k]}; metric={metric!r} is for rows of 0 "
                    f"and 1, such as {name} > 0"
                )
            octets[start : start + step, : -(-d // 8)] = np.packbits(ones, axis=1)
        return cls(read_only(words), d, distances)

    def row(self, element: int) -> np.ndarray:
        """One row (1, words)."""
        return self.words[element : element + 1]

    def with_row(self, row: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and any row."""
        alone = threads() == 1 or self.words.size < _PARALLEL_WORK
        run = kernels.jaccard_serial if alone else kernels.jaccard_parallel
        run(self.words, self._sizes, row[0], kernels.counts(row)[0], self._distances, out)
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        return np.full(self.n, 0.0 if self._distances else 1.0)

    def restrict(self, candidates: np.ndarray) -> "BitColumns":
        """The numbers between some of the candidates."""
        return BitColumns(read_only(self.words[candidates]), self.width, self._distances)


class CalledColumns(RowColumns):
    """Numbers that a user's function computes from two blocks of rows."""

    def __init__(self, rows: np.ndarray, function: Callable, distances: bool) -> None:
        self.rows, self.n, self.width = rows, *rows.shape
        self.function, self._distances = function, distances
        self._sums: np.ndarray | None = None
        self._least = 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = read_only(self.rows)

    @classmethod
    def of(
        cls, X: ArrayLike, metric: Callable, gamma: float | None = None, *,
        distances: bool = False, name: str = "X",
    ) -> "CalledColumns":  # fmt: skip
        """Check the features, and check near the diagonal that the function is symmetric."""
        pairs = cls(_checked(X, name), metric, distances)
        pairs.check()
        return pairs

    def block(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The checked result of the function for two blocks."""
        try:
            found = self.function(rows, others)
        except Exception as error:
            error.add_note(
                f"metric(A, B) got blocks of rows, A {rows.shape} and B {others.shape}; it must "
                "return a number for each row of A and each of B"
            )
            raise
        numbers = as_float_array(found, "what metric(A, B) returns")
        if numbers.shape != (len(rows), len(others)):
            raise ValueError(
                f"metric(A, B) must return a number for each row of A and each of B, shape "
                f"{(len(rows), len(others))}, not {numbers.shape}"
            )
        what = "distances" if self._distances else "similarities"
        check_entries(numbers, "metric(A, B)", non_negative=self._distances, what=what)
        return numbers

    def parts(self, across: int) -> Iterator[slice]:
        """Slices of the rows that keep a block with `across` other rows small enough."""
        step = max(1, _BLOCK // (across * self.width))
        for start in range(0, self.n, step):
            yield slice(start, min(start + step, self.n))

    def row(self, element: int) -> np.ndarray:
        """One row (1, d)."""
        return self.rows[element : element + 1]

    def with_row(self, row: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and any row."""
        for part in self.parts(1):
            out[part] = self.block(self.rows[part], row)[:, 0]
        return out

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them."""
        super().column(element, out)
        if self._distances:
            out[element] = 0.0
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        return np.zeros(self.n) if self._distances else self.check()

    def check(self) -> np.ndarray:
        """Compute the diagonal from blocks along it, which are checked for symmetry."""
        out = np.empty(self.n)
        for start in range(0, self.n, _SQUARE):
            rows = self.rows[start : start + _SQUARE]
            square = self.block(rows, rows).astype(np.float64)
            gaps = np.abs(square - square.T)
            rounding = 2.0**-40 if self.rows.dtype == np.float64 else 2.0**-18
            if gaps.max() > rounding * np.abs(square).max():
                i, j = divmod(int(np.argmax(gaps)), len(rows))
                raise ValueError(
                    f"metric must be symmetric, but for rows {start + i} and {start + j} of X it "
                    f"returns {square[i, j]:g} and, the other way round, {square[j, i]:g}"
                )
            out[start : start + _SQUARE] = own = square.diagonal()
            if self._distances and own.max() > 0.01 * square.max():
                i = int(np.argmax(own))
                raise ValueError(
                    f"metric returns {own[i]:g} for row {start + i} of X and itself, but the "
                    "distance of an element to itself is 0; are these similarities?"
                )
        if not self._distances and self.n > 2 and not out.any():
            warnings.warn(
                "metric returns 0 for each row and itself, as distances do; it must return "
                "similarities, such as the largest distance minus each distance",
                stacklevel=5,
            )
        return out

    def fill(self, matrix: np.ndarray) -> None:
        """A matrix of the numbers between the first rows, block by block."""
        n_points, n = matrix.shape
        for part in self.parts(_SQUARE):
            points = self.rows[part.start : min(part.stop, n_points)]
            for start in range(0, n if len(points) else 0, _SQUARE):
                across = slice(start, min(start + _SQUARE, n))
                into = slice(part.start, part.start + len(points))
                matrix[into, across] = self.block(points, self.rows[across])

    def sums(self, others: Any = None) -> np.ndarray:
        """The sum of each candidate's numbers with all `others`, or with all candidates."""
        if others is None and self._sums is not None:
            return self._sums
        rows, sums = (others or self).rows, np.zeros(self.n)
        for part in self.parts(_SQUARE):
            for start in range(0, len(rows), _SQUARE):
                numbers = self.block(self.rows[part], rows[start : start + _SQUARE])
                sums[part] += numbers.sum(axis=1, dtype=np.float64)
                if others is None:
                    self._least = min(self._least, float(numbers.min()))
        if others is None:
            self._sums = sums
        return sums

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """Whether no number is negative. The first access computes all pairs."""
        if not self._distances:
            self.sums()
        return self._least >= 0

    def restrict(self, candidates: np.ndarray) -> "CalledColumns":
        """The numbers between some of the candidates."""
        return CalledColumns(read_only(self.rows[candidates]), self.function, self._distances)


class Measured:
    """Features whose metric needs a matrix of similarities, because tiles do not support it.

    A distance d becomes the similarity c0 - d, where c0 is the largest possible distance. It is 1
    for hamming and jaccard. For manhattan it is twice the largest distance of a row to the middle
    of the features' ranges, rounded up. The results of a user's function are used unchanged.

    Parameters
    ----------
    features : ndarray, shape (n, d)
        Checked.
    metric : str or callable
        One of `COMPUTED` except the first, or a function.
    """

    def __init__(self, features: np.ndarray, metric: Any) -> None:
        self.dtype, self.called = features.dtype, callable(metric)
        if self.called:  # it need not be symmetric here
            self.pairs: Any = CalledColumns(read_only(features), metric, False)
        else:
            self.pairs = columns_of(features, metric, distances=True)
        self.n, self.span = len(features), 0.0 if self.called else 1.0
        self.unit, self._counts = 1.0, metric == "hamming"
        if self._counts:  # whole numbers, so that equal sums of them are exactly equal
            self.span, self.unit = float(self.pairs.width), 1 / self.pairs.width
        if metric == "manhattan":
            middle = features.min(axis=0).astype(np.float64) / 2 + features.max(axis=0) / 2.0
            radius = self.pairs.with_row(middle, np.empty(self.n)).max()
            self.span = 2 * round_up(float(radius) * (1 + 1e-6))

    def stored(self, row: Any, out: np.ndarray) -> np.ndarray:
        """Similarities of all rows to one row of `pairs`, less c0, in units of `unit`."""
        self.pairs.with_row(row, out)
        if self._counts:
            np.rint(out * self.span, out=out)
        return out if self.called else np.negative(out, out=out)

    def similarity(
        self, memory: float | None, n_points: int | None = None, n_candidates: int | None = None
    ) -> DenseSimilarity:
        """A source in a matrix, with the first rows (by default all) as points and as candidates.

        Raises
        ------
        ValueError
            If it does not fit into so many bytes.
        """
        n_points, n = n_points or self.n, n_candidates or self.n
        size, allowed = n_points * n * self.dtype.itemsize, check_memory(memory)
        if size > allowed:
            some = ", ".join(map(repr, METRICS))
            raise ValueError(
                f"similarities of {n} rows by this metric take {size / 1e9:.3g} GB in a matrix, "
                f"more than memory allows ({allowed / 1e9:.3g} GB): use a metric that needs none "
                f"({some} or 'correlation'), FacilityLocation.from_neighbors with a graph of "
                "nearest neighbours, or float32"
            )
        matrix = np.empty((n_points, n), self.dtype)
        if self.called:
            self.pairs.fill(matrix)
            similarity = DenseSimilarity.from_matrix(matrix, "metric(A, B)")
            cure = "it must return similarities, such as the largest distance minus each one"
            warn_of_distances(similarity, "what metric returns", cure, 5)
            return similarity
        line = np.empty(self.n)
        for i in range(n_points):
            matrix[i] = self.stored(self.pairs.row(i), line)[:n]
        return DenseSimilarity(
            read_only(matrix),
            span=self.span,
            symmetric=n_points == n,
            offset=self.span,
            unit=self.unit,
        )

    def largest(self, first: int, stop: int, n_points: int) -> np.ndarray:
        """The largest similarity of each of the first rows to rows from `first` to `stop`."""
        best, line = np.full(self.n, -np.inf), np.empty(self.n)
        for j in range(first, stop):
            np.maximum(best, self.stored(self.pairs.row(j), line), out=best)
        return self.unit * (best[:n_points] + self.span)

    def on_grid(self, stored: np.ndarray, n_points: int) -> np.ndarray:
        """Stored similarities rounded to the grid of the matrix, as the search sees them."""
        up, down = grid(n_points, self.span)
        return np.rint(stored.astype(self.dtype).astype(np.float64) * up) * down


def _checked(X: ArrayLike, name: str) -> np.ndarray:
    features = as_float_array(X, name)
    check_matrix_shape(features.shape, name, "(n, d)")
    check_entries(features, name)
    return read_only(features)
