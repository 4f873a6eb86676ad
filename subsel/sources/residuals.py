"""Residuals: how much of each candidate the selected ones leave unexplained.

Of a positive definite kernel L, the residual of j beside A is L_jj - L_jA L_AA^-1 L_Aj, and the
determinant of L_AA is the product of the residuals in the order of adding. `Cholesky` keeps them
for any kernel, from one column for each element; `Spanned` for I + scale X X', in d dimensions.

All sums have a fixed order. So no linear algebra library is used, because its sums would depend on
the number of threads.
"""

import math
from typing import Any

import numpy as np

from subsel.kernels.compiling import threads
from subsel.kernels.cpu import columns as kernels
from subsel.kernels.cpu import linear
from subsel.sources.columns import PARALLEL_WORK, Columns, DenseColumns, FeatureColumns
from subsel.sources.linear import Lagging

_BLOCK = 64
"""Elements whose rows of the factor lie in one array."""

_LEAST = 1e-290
"""Smallest entry of a diagonal, of which a part is still a number that float64 holds in full."""

_LARGEST_EXAMINED = 2000
"""Candidates up to which the whole kernel is looked at to say which ridge it needs."""


class Cholesky:
    """Residuals of L = scale * K + ridge * I - known' known, by incremental Cholesky.

    Parameters
    ----------
    columns : Columns
        The kernel K.
    scale, ridge : float
    known : ndarray of float64, shape (m, n)
        Rows whose squares are explained before anything is selected.

    Notes
    -----
    Adding the t-th element takes a column of K and O(n (t + m)) time, and 8 n bytes of memory.
    """

    def __init__(
        self, columns: Columns, scale: float, ridge: float, known: np.ndarray, name: str = "kernel"
    ) -> None:
        self.columns, self.scale, self.ridge, self.known = columns, scale, ridge, known
        self.n, self.path, self.name = columns.n, columns.path, name
        single = isinstance(columns, DenseColumns) and columns.matrix.dtype == np.float32
        least, self._negative = (2.0**-22, -(2.0**-12)) if single else (2.0**-40, -(2.0**-30))
        self.diagonal = scale * columns.diagonal() + ridge
        for j in np.flatnonzero(~(self.diagonal >= _LEAST))[:1]:
            wanted = "positive" if self.diagonal[j] <= 0 else f"at least {_LEAST:g}"
            raise ValueError(
                f"{name}[{j}, {j}] is {self.diagonal[j]:g} with its ridge; the diagonal must be "
                f"{wanted} (a larger ridge makes it so)"
            )
        self.floor = least * self.diagonal
        self.reset()

    def reset(self) -> None:
        """Nothing selected."""
        self.residual = self.diagonal - np.einsum("kj,kj->j", self.known, self.known)
        self._blocks: list[np.ndarray] = []
        self._elements: list[int] = []
        self._check()

    def dependent(self, element: int) -> bool:
        """Whether the residual of a candidate cannot be told from rounding."""
        return bool(self.residual[element] <= self.floor[element])

    def logs(self, candidates: Any = slice(None)) -> np.ndarray:
        """Logarithms of residuals, by default of all; smaller ones count as the floor."""
        return np.log(np.maximum(self.residual[candidates], self.floor[candidates]))

    def add(self, element: int) -> None:
        """Select a candidate. If it depends on the others, their residuals do not change."""
        pivot = self.residual[element]
        if self.dependent(element):
            self.residual[element] = 0.0
            return
        count = len(self._elements)
        if count % _BLOCK == 0:
            self._blocks.append(np.empty((_BLOCK, self.n)))
        row = self._blocks[-1][count % _BLOCK]
        self.columns.column(element, row)
        row *= self.scale
        row[element] += self.ridge
        _subtract(self.known, self.known[:, element], row)
        for at, block in enumerate(self._blocks):
            block = block[: count - at * _BLOCK]
            _subtract(block, block[:, element], row)
        row /= math.sqrt(pivot)
        self.residual -= row * row
        self.residual[element] = 0.0
        self._elements.append(element)
        self._check()

    def _check(self) -> None:
        """Refuse a kernel that is not positive definite."""
        bad = np.flatnonzero(self.residual < self._negative * self.diagonal)
        if not len(bad):
            return
        j = int(bad[0])
        beside = ", ".join(map(str, self._elements[:5])) + ", ..." * (len(self._elements) > 5)
        said = f"{self.name} is not positive definite: pivot {len(self._elements)}, of element {j}"
        said += f" beside [{beside}], is {self.residual[j]:g}"
        if len(self.known):
            raise ValueError(
                f"{said}; query and private items explain more of it than there is: lower eta or "
                "nu to at most 1, or give kernels that belong together"
            )
        some = np.arange(self.n) if self.n <= _LARGEST_EXAMINED else [*self._elements, j]
        least = float(np.linalg.eigvalsh(self.matrix(np.asarray(some)))[0])
        ridge = self.ridge + float(f"{-1.1 * least:.2g}")
        enough = "is" if self.n <= _LARGEST_EXAMINED else "may be"
        raise ValueError(f"{said}; ridge={ridge:.6g} {enough} enough to make it so")

    def matrix(self, candidates: np.ndarray) -> np.ndarray:
        """L between some candidates, in full."""
        part, known = self.columns.restrict(candidates), self.known[:, candidates]
        L = np.empty((part.n, part.n))
        for j in range(part.n):
            part.column(j, L[j])
        return self.scale * L + self.ridge * np.eye(part.n) - known.T @ known

    def restrict(self, candidates: np.ndarray) -> "Cholesky":
        """The same with fewer candidates."""
        part, known = self.columns.restrict(candidates), self.known[:, candidates]
        return Cholesky(part, self.scale, self.ridge, np.ascontiguousarray(known), self.name)

    def value(self, candidates: np.ndarray) -> float:
        """The log-determinant of L between some distinct candidates."""
        part, logs = self.restrict(candidates), []
        for j in range(part.n):
            logs.append(float(np.log(max(part.residual[j], part.floor[j]))))
            part.add(j)
        return math.fsum(logs)


class Spanned(Lagging):
    """Residuals of L = I + scale X M X', from the d x d matrix M that a selection shrinks.

    Parameters
    ----------
    features : FeatureColumns
        Whose columns are inner products.
    scale : float
    start : ndarray of float64, shape (d, d)
        M before anything is selected; the identity if nothing is explained.

    Notes
    -----
    Adding an element takes O(d^2) time, and then O(d) for each residual that is asked for, or might
    be the largest. Memory n + d^2 + k d numbers for k elements.
    """

    def __init__(self, features: FeatureColumns, scale: float, start: np.ndarray) -> None:
        super().__init__(features)
        self.scale, self.start, self.path = scale, start, features.path
        d = len(start)
        most = scale * float(features.diagonal().max())
        if not most < 2.0**40:
            raise ValueError(
                f"scale times the largest squared length of a row of X is {most:g}, more than "
                "float64 can tell residuals in; lower scale"
            )
        if (start == np.eye(d)).all():
            self._first_values = features.diagonal()
        else:
            sums, one, other = np.zeros(self.n), np.empty(self.n), np.empty(self.n)
            for k, axis in enumerate(np.eye(d)):
                features.with_row(axis, one)
                one *= features.with_row(np.ascontiguousarray(start[k]), other)
                sums += one
            self._first_values = sums
        if scale * self._first_values.min() <= -1:
            j = int(np.argmin(self._first_values))
            raise ValueError(
                f"query and private items explain more of row {j} of X than there is: lower eta or "
                "nu to at most 1"
            )
        self.reset()

    def reset(self) -> None:
        """Nothing selected."""
        d = self.features.d
        self._begin(
            linear.Residuals, self._first_values, scale=self.scale, middle=self.start.copy(),
            across=np.empty((0, d)), factors=np.empty(0), tolerance=2.0**-30,
        )  # fmt: skip

    def dependent(self, element: int) -> bool:
        """Always False: the identity in L remains."""
        return False

    def logs(self, candidates: Any = slice(None)) -> np.ndarray:
        """Logarithms of residuals, by default of all."""
        return np.log1p(self.scale * self.values(candidates))

    def add(self, element: int) -> None:
        """Select a candidate."""
        self._make_room(1)
        super().add(element)

    def extend(self, taken: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        self._make_room(count)
        elements, left = self.advance(taken, count)
        return elements, np.log1p(self.scale * left)

    def _make_room(self, count: int) -> None:
        """Room to note more elements, for as many again if there is none."""
        across, factors = self._search.across, self._search.factors
        added = int(self._search.counts[linear.ADDED])
        if added + count > len(factors):
            more = added + count
            self._search = self._search._replace(
                across=np.concatenate([across, np.empty((more, across.shape[1]))]),
                factors=np.concatenate([factors, np.empty(more)]),
            )

    def _best_of(self, candidates: np.ndarray) -> int:
        # Residuals that nearly are the largest may have the same logarithm, which decides.
        return int(candidates[np.argmax(self.logs(candidates))])

    def restrict(self, candidates: np.ndarray) -> "Spanned":
        """The same with fewer candidates."""
        return Spanned(self.features.restrict(candidates), self.scale, self.start)

    def value(self, candidates: np.ndarray) -> float:
        """The log-determinant of L between some distinct candidates: O(k d^2)."""
        middle = self.start.copy()
        rows = (self.features.row(int(j)) for j in candidates)
        left = (kernels.shrink(middle, row, self.scale)[1] for row in rows)
        return math.fsum(math.log1p(self.scale * some) for some in left)


def _subtract(rows: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Subtract rows (m, n), each times its weight, from `out`."""
    if len(rows):
        alone = threads() == 1 or rows.size < PARALLEL_WORK
        run = kernels.subtract_serial if alone else kernels.subtract_parallel
        run(rows, np.ascontiguousarray(weights), out)


def cholesky(A: np.ndarray, name: str) -> np.ndarray:
    """The lower triangular factor of a positive definite matrix; sums in a fixed order."""
    C = A.copy()
    for j in range(len(C)):
        if not C[j, j] > 2.0**-40 * A[j, j]:
            least = float(np.linalg.eigvalsh(A)[0])
            enough = 1e-6 * np.abs(A.diagonal()).max() - 1.1 * min(least, 0)
            raise ValueError(
                f"{name} is not positive definite: pivot {j} is {C[j, j]:g}; adding {enough:.3g} "
                "to its diagonal is enough to make it so"
            )
        C[j:, j] /= math.sqrt(C[j, j])
        C[j + 1 :, j + 1 :] -= np.outer(C[j + 1 :, j], C[j + 1 :, j])
    return np.tril(C)


def solve(C: np.ndarray, B: np.ndarray) -> np.ndarray:
    """C^-1 B for a lower triangular C; sums in a fixed order."""
    B = B.copy()
    for j in range(len(C)):
        B[j] /= C[j, j]
        B[j + 1 :] -= np.outer(C[j + 1 :, j], B[j])
    return B


def products(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A' B, with sums in a fixed order."""
    return np.einsum("ki,kj->ij", A, B)
