"""Pairwise numbers between candidates, one column at a time and in float64.

Objectives of pairs (graph cut, dispersion) and determinants look at one column for each element
that they select. Columns come from a dense matrix, from a sparse matrix, or from features. From
features, a column is computed when it is needed (`subsel.sources.measures` has the classes for bits
and for a user's function). The numbers are raw: they may be negative, and no offset is added.
"""

from typing import Any

import numpy as np

from subsel.kernels.compiling import threads
from subsel.kernels.cpu import columns as kernels
from subsel.kernels.cpu import is_symmetric
from subsel.kernels.cpu.columns import (
    EQUAL,
    EUCLIDEAN,
    HALF_SQUARE,
    MANHATTAN,
    PRODUCT,
    RBF,
    UNEQUAL,
    Rows,
)
from subsel.kernels.cpu.vectors import LANES
from subsel.pacing import portion, portions
from subsel.sources.levels import frozen
from subsel.sources.scale import centred
from subsel.validation import (
    ArrayLike,
    Metric,
    as_csr,
    as_float_array,
    check_backend,
    check_entries,
    check_matrix_shape,
    read_only,
)

PARALLEL_WORK = 2**19
"""Numbers to read from which on starting threads costs less than it saves."""

_LARGEST = 1e70
"""Above it, sums of squares times a weight might overflow."""

_OF_DIFFERENCES = ("manhattan", "hamming")
_UNIT = ("cosine", "correlation")

SIMILARITIES = ("dot", *_UNIT, "rbf", "hamming", "jaccard", "tanimoto")
DISTANCES = ("euclidean", *_UNIT, *_OF_DIFFERENCES, "jaccard", "tanimoto")


class Columns:
    """Numbers r between n candidates. If r is not symmetric, its symmetric part (r + r') / 2 is
    used.

    Attributes
    ----------
    n : int
    path : {"dense", "sparse", "features"}
    non_negative : bool
        Whether no number is known to be, or can be, negative.
    """

    n: int
    path: str
    non_negative: bool

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them, into `out` (n,); returns it."""
        raise NotImplementedError

    def add_column(self, element: int, sums: np.ndarray, spare: np.ndarray) -> None:
        """Add such a column to `sums` (n,). `spare` (n,) is scratch space."""
        sums += self.column(element, spare)

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself (n,)."""
        raise NotImplementedError

    def sums(self) -> np.ndarray:
        """The sum of each column (n,)."""
        raise NotImplementedError

    def restrict(self, candidates: np.ndarray) -> "Columns":
        """The numbers between some of the candidates (a copy)."""
        raise NotImplementedError


class DenseColumns(Columns):
    """A matrix (n, n) in C order."""

    path = "dense"

    def __init__(self, matrix: np.ndarray, symmetric: bool, non_negative: bool) -> None:
        self.matrix, self.n = matrix, len(matrix)
        self.symmetric, self.non_negative = symmetric, non_negative

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them."""
        out[:] = self.matrix[element]
        if not self.symmetric:
            out += self.matrix[:, element]
            out *= 0.5
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        return self.matrix.diagonal().astype(np.float64)

    def sums(self) -> np.ndarray:
        """The sum of each column."""
        sums = column_sums(self.matrix)
        return sums if self.symmetric else (sums + row_sums(self.matrix)) / 2

    def asymmetry(self) -> tuple[float, int, int]:
        """The largest difference between r_ij and r_ji, and its i and j."""
        worst = (0.0, 0, 0)
        for i in range(0 if self.symmetric else self.n):
            gaps = np.abs(self.matrix[i].astype(np.float64) - self.matrix[:, i])
            j = int(np.argmax(gaps))
            worst = max(worst, (float(gaps[j]), i, j), key=lambda found: found[0])
        return worst

    def largest(self) -> float:
        """The largest magnitude of a number."""
        return max(float(self.matrix.max()), -float(self.matrix.min()))

    def restrict(self, candidates: np.ndarray) -> "DenseColumns":
        """The numbers between some of the candidates."""
        part = read_only(self.matrix[np.ix_(candidates, candidates)])
        return DenseColumns(part, self.symmetric, self.non_negative)


class SparseColumns(Columns):
    """A symmetric matrix in compressed rows; absent entries are 0."""

    path = "sparse"

    def __init__(self, matrix: Any, lopsided: tuple[float, int, int] = (0.0, 0, 0)) -> None:
        self.matrix, self.n = matrix, matrix.shape[0]
        self.non_negative = not (matrix.data < 0).any()
        self._lopsided = lopsided

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them."""
        out[:] = 0
        start, stop = self.matrix.indptr[element : element + 2]
        out[self.matrix.indices[start:stop]] = self.matrix.data[start:stop]
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        return self.matrix.diagonal().astype(np.float64)

    def sums(self) -> np.ndarray:
        """The sum of each column."""
        return column_sums(self.matrix)

    def asymmetry(self) -> tuple[float, int, int]:
        """The largest difference between r_ij and r_ji as they were given, and its i and j."""
        return self._lopsided

    def largest(self) -> float:
        """The largest magnitude of a number."""
        return float(np.abs(self.matrix.data).max(initial=0.0))

    def restrict(self, candidates: np.ndarray) -> "SparseColumns":
        """The numbers between some of the candidates."""
        part = self.matrix[candidates][:, candidates].tocsr()
        return SparseColumns(part)


class RowColumns(Columns):
    """Numbers between rows of features, computed when they are asked for.

    A subclass also has a classmethod ``of(X, metric, gamma, *, distances, name)``, which checks and
    prepares features.

    Attributes
    ----------
    width : int
        Columns of the features that were given.
    linear : bool
        Whether numbers are inner products of rows.
    """

    path = "features"
    width: int
    linear = False
    of: Any

    def row(self, element: int) -> Any:
        """One row, as `with_row` takes it."""
        raise NotImplementedError

    def with_row(self, row: Any, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and any row, float64, into `out`; returns it."""
        raise NotImplementedError

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them: O(n d)."""
        return self.with_row(self.row(element), out)

    def beside(
        self, features: ArrayLike | None, metric: Metric, gamma: float | None, name: str
    ) -> Any:
        """Features of other items (m, d), checked and prepared in the same way; None stays None."""
        if features is None:
            return None
        others = type(self).of(features, metric, gamma, name=name)
        if others.width != self.width:
            raise ValueError(
                f"{name} must have as many features as X, {self.width}, not {others.width}"
            )
        return others

    def sums(self, others: Any = None) -> np.ndarray:
        """The sum of each candidate's numbers with all `others`, or with all candidates.

        Time O(n^2 d) and memory O(n), unless a subclass has a faster way.
        """
        others = others or self
        sums, line = np.zeros(self.n), np.empty(self.n)
        for i in range(others.n):
            sums += self.with_row(others.row(i), line)
        return sums


class FeatureColumns(RowColumns):
    """Inner products, cosines, rbf similarities or distances of the rows of features.

    Memory: one copy of the features, in their own type, and 8 bytes for each row.
    """

    def __init__(self, rows: Rows, n: int, width: int, ones: bool, non_negative: bool) -> None:
        self.rows, self.n, self.width, self.non_negative = rows, n, width, non_negative
        self._ones = ones  # the number of a row with itself is exactly 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = frozen(self.rows)

    @classmethod
    def of(
        cls, X: ArrayLike, metric: str, gamma: float | None = None, *,
        distances: bool = False, name: str = "X",
    ) -> "FeatureColumns":  # fmt: skip
        """Check features (n, d) and make them ready.

        Parameters
        ----------
        X : array_like, shape (n, d)
        metric : str
            One of `SIMILARITIES`, or of `DISTANCES` if `distances` is true, except those of bits.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        distances : bool
            Whether numbers are distances.
        name : str
            What the features are called in errors.
        """
        features = as_float_array(X, name)
        check_matrix_shape(features.shape, name, "(n, d)")
        largest = max(check_entries(features, name), -float(features.min()))
        any_size = metric in _UNIT or metric == "hamming"
        if not any_size and largest and not 1 / _LARGEST < largest < _LARGEST:
            raise ValueError(
                f"{name} has entries up to {largest:g}, whose squares cannot be summed in float64; "
                "rescale it"
            )
        n, d = features.shape
        if metric in _UNIT:
            kind = HALF_SQUARE if distances else PRODUCT
            features = centred(features) if metric == "correlation" else features
            tiles = _scaled_tiles(features)
            lengths = np.sqrt(kernels.squares(tiles))
            factor = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        else:
            kinds = {
                "dot": PRODUCT, "rbf": RBF, "euclidean": EUCLIDEAN, "manhattan": MANHATTAN,
                "hamming": UNEQUAL if distances else EQUAL,
            }  # fmt: skip
            kind, tiles = kinds[metric], read_only(_tiles(features, d))
            factor = np.zeros(len(tiles) * LANES)
            factor[:n] = 1.0
        rows = Rows(tiles, read_only(factor), kind, 1 / d if gamma is None else gamma)
        ones = kind in (RBF, EQUAL) or (metric in _UNIT and not distances)
        return cls(rows, n, d, ones, kind != PRODUCT or bool(features.min() >= 0))

    @property
    def d(self) -> int:
        """The number of dimensions, including the one that cosine adds."""
        return self.rows.tiles.shape[1]

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether numbers are inner products of the rows."""
        return self.rows.kind == PRODUCT

    def row(self, element: int) -> np.ndarray:
        """One row (d,) in float64, as prepared for products and distances."""
        tile, lane = divmod(element, LANES)
        return self.rows.tiles[tile, :, lane].astype(np.float64) * self.rows.factor[element]

    def all_rows(self) -> np.ndarray:
        """All rows (n, d) in float64, as prepared for products and distances."""
        count, d, _ = self.rows.tiles.shape
        rows = self.rows.tiles.transpose(0, 2, 1).reshape(count * LANES, d)
        return (rows * self.rows.factor[:, None])[: self.n]

    def column(self, element: int, out: np.ndarray) -> np.ndarray:
        """The numbers between all candidates and one of them: O(n d)."""
        self.with_row(self.row(element), out)
        if self._ones:
            out[element] = 1.0
        return out

    def add_column(self, element: int, sums: np.ndarray, spare: np.ndarray) -> None:
        """Add a column to `sums` while it is computed."""
        before = sums[element]
        self.with_row(self.row(element), sums, add=True)
        if self._ones:
            sums[element] = before + 1.0

    def with_row(self, row: np.ndarray, out: np.ndarray, add: bool = False) -> np.ndarray:
        """The numbers between all candidates and any row (d,), into `out`, or added to it."""
        alone = threads() == 1 or self.rows.tiles.size < PARALLEL_WORK
        run = kernels.column_serial if alone else kernels.column_parallel
        run(self.rows, row, out, add)
        return out

    def diagonal(self) -> np.ndarray:
        """The number of each candidate with itself."""
        if self._ones or not self.linear:
            return np.full(self.n, float(self._ones))
        return kernels.squares(self.rows.tiles)[: self.n]

    def sums(self, others: Any = None) -> np.ndarray:
        """The sum of each candidate's numbers with all `others`, or with all candidates.

        Time O(n d) for inner products and cosines, O(n^2 d) for all others; memory O(n).
        """
        others = others or self
        out = np.empty(self.n)
        if self.linear:
            return self.with_row(kernels.total(others.rows), out)
        work = self.rows.tiles.size * others.n
        alone = threads() == 1 or work < PARALLEL_WORK
        run = kernels.sums_serial if alone else kernels.sums_parallel
        count = len(self.rows.tiles)
        for part in portions(count, portion(self.n * others.n, count)):
            slots = slice(part.start * LANES, part.stop * LANES)
            tiles, factor = self.rows.tiles[part], self.rows.factor[slots]
            some = self.rows._replace(tiles=tiles, factor=factor)
            run(some, others.rows, others.n, out[slots])
        return out

    def restrict(self, candidates: np.ndarray) -> "FeatureColumns":
        """The numbers between some of the candidates."""
        features = self.rows.tiles[candidates // LANES, :, candidates % LANES]
        tiles = read_only(_tiles(features, self.d))
        factor = np.zeros(len(tiles) * LANES)
        factor[: len(candidates)] = self.rows.factor[candidates]
        rows = self.rows._replace(tiles=tiles, factor=read_only(factor))
        return FeatureColumns(rows, len(candidates), self.width, self._ones, self.non_negative)


def matrix(numbers: ArrayLike, name: str) -> DenseColumns | SparseColumns:
    """Columns of a matrix (n, n) of finite numbers between candidates, dense or scipy sparse."""
    return between(finite_matrix(numbers, name, "(n, n)"), name)


def between(checked: Any, name: str, otherwise: str = "") -> DenseColumns | SparseColumns:
    """Columns of a matrix that `finite_matrix` returned."""
    if checked.shape[0] != checked.shape[1]:
        raise ValueError(f"{name} must be square, (n, n), not of shape {checked.shape}{otherwise}")
    if hasattr(checked, "tocsr"):
        transpose = checked.T.tocsr()
        if _equal(checked, transpose):
            return SparseColumns(checked)
        gaps = abs(checked.astype(np.float64) - transpose).tocoo()
        at = int(np.argmax(gaps.data))
        lopsided = float(gaps.data[at]), int(gaps.coords[0][at]), int(gaps.coords[1][at])
        return SparseColumns(((checked.astype(np.float64) + transpose) / 2).tocsr(), lopsided)
    return DenseColumns(checked, bool(is_symmetric(checked)), bool(checked.min() >= 0))


def finite_matrix(numbers: Any, name: str, axes: str) -> Any:
    """Check that a matrix is finite; return it dense in C order, or as compressed sparse rows."""
    if hasattr(numbers, "tocsr"):
        check_matrix_shape(numbers.shape, name, axes)
        array = as_csr(numbers, name)
        for at in np.flatnonzero(~np.isfinite(array.data))[:1]:
            i = int(np.searchsorted(array.indptr, at, side="right")) - 1
            where = f"{name}[{i}, {array.indices[at]}]"
            raise ValueError(f"{where} is {array.data[at]}; every entry must be finite")
        entries = array.data
    else:
        array = as_float_array(numbers, name)
        check_matrix_shape(array.shape, name, axes)
        check_entries(array, name)
        entries = array = read_only(array)
    largest = max(float(entries.max(initial=0)), -float(entries.min(initial=0)))
    if largest > _LARGEST**2:
        raise ValueError(
            f"{name} has numbers as large as {largest:g}, which cannot be summed in float64; "
            "rescale it"
        )
    return array


def check_symmetric(pairs: DenseColumns | SparseColumns, name: str) -> None:
    """Refuse a matrix whose asymmetry is larger than rounding errors."""
    gap, i, j = pairs.asymmetry()
    if gap > (2.0**-40 if pairs.matrix.dtype == np.float64 else 2.0**-18) * pairs.largest():
        raise ValueError(
            f"{name} must be symmetric, but {name}[{i}, {j}] and {name}[{j}, {i}] differ by "
            f"{gap:g}: pass ({name} + {name}.T) / 2 if that is meant"
        )


def on_cpu(kind: str, backend: str, array: ArrayLike) -> None:
    """Refuse a GPU for an objective that works on the CPU only."""
    if check_backend(backend, array) == "cuda":
        raise ValueError(
            f"{kind} is computed on the CPU only: pass backend='cpu' "
            "(an array on a GPU is then copied)"
        )


def column_sums(matrix: Any) -> np.ndarray:
    """The sum of each column of a checked matrix, float64, row after row."""
    if hasattr(matrix, "tocsr"):
        return np.bincount(matrix.indices, matrix.data, matrix.shape[1])
    return matrix.sum(axis=0, dtype=np.float64)


def row_sums(matrix: Any) -> np.ndarray:
    """The sum of each row of a checked matrix, float64."""
    if hasattr(matrix, "tocsr"):
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        return np.bincount(rows, matrix.data, matrix.shape[0])
    return matrix.sum(axis=1, dtype=np.float64)


def _equal(one: Any, other: Any) -> bool:
    """Whether two canonical matrices of compressed rows are equal, entry by entry."""
    return all(
        np.array_equal(getattr(one, part), getattr(other, part))
        for part in ("indptr", "indices", "data")
    )


def _scaled_tiles(features: np.ndarray) -> np.ndarray:
    """Rows scaled near 1 by powers of two, and one more column, which is 1 for rows of zeros.

    That column makes a row of zeros orthogonal to all rows except the other rows of zeros.
    """
    n, d = features.shape
    tiles = _tiles(features, d + 1)
    extent = np.maximum(tiles.max(axis=1), -tiles.min(axis=1))
    exponent = np.frexp(extent)[1].astype(np.int32)
    np.ldexp(tiles, -exponent[:, None], out=tiles)
    zero = extent.ravel() == 0
    zero[n:] = False
    tiles[:, d] = zero.reshape(extent.shape)
    return read_only(tiles)


def _tiles(features: np.ndarray, width: int) -> np.ndarray:
    """Features (n, d) in tiles (count, width, LANES), zeros behind the last row and column."""
    n, d = features.shape
    count, whole = -(-n // LANES), n // LANES
    tiles = np.zeros((count, width, LANES), features.dtype)
    tiles[:whole, :d] = features[: whole * LANES].reshape(whole, LANES, d).transpose(0, 2, 1)
    if whole < count:
        tiles[whole, :d, : n - whole * LANES] = features[whole * LANES :].T
    return tiles
