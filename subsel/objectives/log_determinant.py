"""Log-determinant: elements that the other selected elements do not explain."""

import copy
import math
from typing import Any

import numpy as np

from subsel.objectives.base import Objective
from subsel.sources import columns
from subsel.sources.measures import columns_of
from subsel.sources.residuals import Cholesky, Spanned, cholesky, products, solve
from subsel.validation import (
    ArrayLike,
    Metric,
    check_candidates,
    check_count,
    check_indices,
    check_number,
    check_values,
)

_LARGEST_INVERTED = 2048
"""Candidates up to which the kernel is inverted to know whether F is monotone."""


class LogDeterminant(Objective):
    """Log-determinant: F(S) = log det L_S, where L_S is the kernel L between elements of S.

    The determinant is the squared volume that the elements span, so it is large if they are unlike
    one another. A gain is the log of an element's residual: the part that remains once the selected
    elements are projected out. Greedy is the usual approximation of the most probable set of a
    determinantal point process with kernel L.

    Parameters
    ----------
    kernel : array_like or scipy sparse matrix, shape (n, n)
        K: symmetric, finite, positive semidefinite. L = diag(q) (K + ridge I) diag(q).
    ridge : float, default 0.0
        At least 0: added to the diagonal of K. It makes F finite where K is singular.
    quality : array_like, shape (n,), optional
        q: positive numbers. Each selected element j adds 2 log q_j to F. Not together with `query`.
    query : pair of array_like, shapes (n, m) and (m, m), optional
        The kernel between candidates and query items, and the kernel between query items (`ridge`
        is not added to it). F is then the mutual information between S and the query, which favours
        elements like the query.
    private : pair of array_like, shapes (n, p) and (p, p), optional
        The same two kernels for private items, which S should be unlike. F is then the conditional
        gain of S beside them. With `query` it is the conditional mutual information, which needs a
        third matrix (p, m): the kernel between private and query items.
    eta, nu : float, default 1.0
        At least 0: factors of the kernel between candidates and query items, and of that between
        candidates and private items. Above 1 the joint kernel may no longer be positive
        semidefinite. This raises an error as soon as a residual becomes negative.
    backend : {"auto", "cpu"}, default "auto"
        Log-determinants are computed on the CPU.

    Attributes
    ----------
    submodular : bool
        True without `query`; mutual information is not submodular.
    monotone : bool
        True with `query`. Otherwise, whether no residual times q^2 can fall below 1. This holds if
        every eigenvalue of L is at least 1, as it is from features. It is computed on first access.
        For a matrix of more than 2048 candidates that would take too long, and it is False.

    Raises
    ------
    ValueError
        If a matrix has the wrong shape, NaN or infinite entries, is not symmetric, or is not
        positive definite. The last is raised at once if it shows, otherwise as soon as a residual
        becomes negative. The message names the pivot and a sufficient ridge.
    TypeError
        If a matrix is not numeric.

    Warns
    -----
    RuntimeWarning
        From optimizers, if a selected element is a linear combination of those before it up to
        rounding, such as a duplicate. F would be minus infinity. Instead, the residual of the
        element counts as 2**-40 of L_jj (2**-22 for a float32 matrix), and no other gain changes.
        So such elements come last. `min_gain` stops the search before them; for instance,
        ``min_gain=0`` stops before the first element that lowers F. A ridge makes F finite.

    Notes
    -----
    The method is incremental Cholesky: the t-th element takes one column of K and O(n t) time.
    Memory is n k numbers for k elements; `from_features` needs less. The first element is the one
    with the largest L_jj; for a constant diagonal that is index 0. All state is float64.

    References
    ----------
    Kulesza, Taskar (2012), "Determinantal point processes for machine learning". Chen, Zhang, Zhou
    (2018), "Fast greedy MAP inference for determinantal point process", Algorithm 1. With query and
    private: Kothawade et al. (2021), "SIMILAR", table 1.

    Examples
    --------
    >>> import subsel
    >>> f = subsel.LogDeterminant([[2.0, 1.9, 0.0], [1.9, 2.0, 0.1], [0.0, 0.1, 1.0]])
    >>> subsel.greedy(f, 2).indices
    array([0, 2])
    """

    keeps_gains = True

    def __init__(
        self, kernel: ArrayLike, *, ridge: float = 0.0, quality: ArrayLike | None = None,
        query: Any = None, private: Any = None, eta: float = 1.0, nu: float = 1.0,
        backend: str = "auto",
    ) -> None:  # fmt: skip
        columns.on_cpu("LogDeterminant", backend, kernel)
        ridge = float(check_number(ridge, "ridge", 0, 1e100, ends="[]"))
        eta, nu = _weights(eta, nu)
        between = columns.matrix(kernel, "kernel")
        columns.check_symmetric(between, "kernel")
        n = between.n
        told = None if query is None else _items(query, "query", n, 2)
        kept = None if private is None else _items(private, "private", n, 2 if told is None else 3)
        if told and kept and kept[2].shape != (len(kept[1]), len(told[1])):
            raise ValueError(
                f"private[2] must be private x query, {(len(kept[1]), len(told[1]))}, not of shape "
                f"{kept[2].shape}"
            )
        states = [Cholesky(between, 1.0, ridge, known) for known in _known(n, told, kept, eta, nu)]
        self._of(states, quality, None)

    @classmethod
    def from_features(
        cls, X: ArrayLike, *, scale: float = 1.0, metric: Metric = "dot",
        gamma: float | None = None, quality: ArrayLike | None = None,
        query: ArrayLike | None = None, private: ArrayLike | None = None, eta: float = 1.0,
        nu: float = 1.0, backend: str = "auto",
    ) -> "LogDeterminant":  # fmt: skip
        """Log-determinant of L = I + scale K, where K holds the similarities of the rows of X.

        Every residual is at least 1, so F is finite and monotone even if rows are duplicated. F is
        twice the information that noisy measurements along the selected rows give, where `scale` is
        the signal-to-noise ratio.

        Parameters
        ----------
        X : array_like or scipy sparse matrix, shape (n, d)
            As for `GraphCut.from_features`.
        scale : float, default 1.0
            Positive. Large values favour new directions, small values favour long rows.
        metric : str or callable, default "dot"
            As for `GraphCut.from_features`, all of whose named metrics are positive semidefinite. A
            callable must be so too; if it is not, an error is raised as soon as a residual becomes
            negative.
        gamma : float, optional
            Of ``"rbf"``; default 1 / d.
        query, private : array_like, shapes (m, d) and (p, d), optional
            Features of query and private items, for the forms of `LogDeterminant`. Their own
            kernels are I + scale K as well.
        quality, eta, nu, backend
            As for `LogDeterminant`.

        Notes
        -----
        Nothing is approximated. For ``"dot"``, ``"cosine"`` and ``"correlation"`` with dense X and
        at least as many rows as features, each element takes O(d^2) time, and O(n d) at most to
        bring residuals up to date that might be the largest. Memory is then n + d^2 + k d numbers
        for k elements, beside a copy of X. Otherwise each element takes one column of K, as for a
        matrix. The rounding error of a gain is about 2**-52 times `scale` times the largest squared
        length.
        """
        columns.on_cpu("LogDeterminant", backend, X)
        scale = float(check_number(scale, "scale", 0, 1e100))
        eta, nu = _weights(eta, nu)
        rows = columns_of(X, metric, gamma)
        spanned = isinstance(rows, columns.FeatureColumns) and rows.linear and rows.n >= rows.d
        make: Any = _spanned if spanned else _by_columns
        objective = cls.__new__(cls)
        told, kept = (
            rows.beside(items, metric, gamma, name)
            for items, name in ((query, "query"), (private, "private"))
        )
        states = make(rows, scale, told, kept, eta, nu)
        objective._of(states, quality, nu <= 1)
        return objective

    def _of(self, states: list[Any], quality: ArrayLike | None, above_one: bool | None) -> None:
        """Set up from the residuals beside private items, and then those beside the query as well.

        `above_one` says whether no residual can fall below 1; None if that is not known.
        """
        self._states, self.n, self.path = states, states[0].n, states[0].path
        self.submodular = len(states) == 1
        self._extra: np.ndarray | None = None
        if quality is not None:
            if not self.submodular:
                raise ValueError("quality cancels out with query: leave one of them out")
            self._extra = 2 * np.log(check_values(quality, "quality", self.n, 0))
        self._monotone: bool | None = None
        if not self.submodular or (above_one and (self._extra is None or self._extra.min() >= 0)):
            self._monotone = True
        self.reset()

    @property
    def monotone(self) -> bool:  # type: ignore[override]
        """Whether no gain is negative."""
        if self._monotone is None:
            self._monotone = self._never_falls()
        return self._monotone

    def _never_falls(self) -> bool:
        """Whether no gain beside all other elements is negative. These are the smallest gains."""
        state = self._states[0]
        if not isinstance(state, Cholesky) or self.n > _LARGEST_INVERTED:
            return False
        extra = 0.0 if self._extra is None else self._extra
        if (np.log(state.diagonal) + extra).min() < 0:
            return False
        try:
            left = 1 / np.linalg.inv(state.matrix(np.arange(self.n))).diagonal()
        except np.linalg.LinAlgError:
            return False
        return bool((left > state.floor).all() and (np.log(left) + extra).min() > -1e-12)

    def reset(self) -> None:
        """Make the selection empty."""
        for state in self._states:
            state.reset()
        self._added, self.caution = np.zeros(self.n, bool), ""

    def gains(self, candidates: ArrayLike) -> np.ndarray:
        """Marginal gains of candidates with respect to what was added, float64 (m,): O(m).

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            The gain of one that was added already is 0.
        """
        return self._gains(check_indices(candidates, self.n, "candidates"))

    def _gains(self, candidates: Any) -> np.ndarray:
        gains = self._states[0].logs(candidates)
        if self._extra is not None:
            gains += self._extra[candidates]
        if not self.submodular:
            gains -= self._states[1].logs(candidates)
        gains[self._added[candidates]] = 0.0
        return gains

    def add(self, element: int) -> None:
        """Select an element."""
        element = check_count(element, "element", 0, self.n - 1)
        if self._added[element]:
            return
        if self._states[0].dependent(element) and not self.caution:
            self.caution = (
                f"element {element} is a combination of those selected before it, so that the "
                "determinant is 0; it counts as if a little were left of it. min_gain stops before "
                "such elements, and a ridge makes the determinant positive"
            )
        self._added[element] = True
        for state in self._states:
            state.add(element)

    def _extend(
        self, taken: np.ndarray, count: int, costs: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the best candidate that is not taken, `count` times; see `Objective.extend`."""
        state = self._states[0]
        alone = isinstance(state, Spanned) and len(self._states) == 1 and self._extra is None
        if alone and costs is None and not (self._added & ~taken).any():
            elements, won = state.extend(taken, count)
            self._added[elements] = True
            return elements, won
        elements, won = np.empty(count, np.int64), np.empty(count)
        for step in range(count):
            gains = self._gains(slice(None))
            worth = gains if costs is None else gains / costs
            elements[step] = element = int(np.argmax(np.where(taken, -np.inf, worth)))
            won[step] = gains[element]
            taken[element] = True
            self.add(element)
        return elements, won

    def value(self, indices: ArrayLike) -> float:
        """F(indices), computed from scratch. This does not change the selection.

        Parameters
        ----------
        indices : array_like of int, shape (k,)
            May be empty (F = 0) and may repeat. O(k^3) time, or O(k d^2) from features.
        """
        indices = np.unique(check_indices(indices, self.n))
        if not len(indices):
            return 0.0
        values = [state.value(indices) for state in self._states]
        extra = 0.0 if self._extra is None else math.fsum(self._extra[indices])
        return values[0] - sum(values[1:]) + extra

    def restrict(self, candidates: ArrayLike) -> "LogDeterminant":
        """The same objective with fewer candidates. Nothing is selected.

        Parameters
        ----------
        candidates : array_like of int, shape (m,)
            Element j of the result is ``candidates[j]``.
        """
        candidates = check_candidates(candidates, self.n)
        part = copy.copy(self)
        part.n = len(candidates)
        part._extra = None if self._extra is None else self._extra[candidates]
        part._states = [state.restrict(candidates) for state in self._states]
        part.reset()
        return part


def _weights(eta: float, nu: float) -> tuple[float, float]:
    eta = float(check_number(eta, "eta", 0, 1e50, ends="[]"))
    return eta, float(check_number(nu, "nu", 0, 1e50, ends="[]"))


def _items(given: Any, name: str, n: int, many: int) -> list[np.ndarray]:
    """Check the kernels of query or private items: to candidates, among themselves, and across."""
    wanted = ["candidates x items", "items x items", "private x query items"][:many]
    if not isinstance(given, tuple | list) or len(given) != many:
        raise ValueError(f"{name} must be a tuple of {many} kernels: {', '.join(wanted)}")
    kernels = []
    for at, (kernel, axes) in enumerate(zip(given, wanted, strict=True)):
        checked = columns.finite_matrix(kernel, f"{name}[{at}]", axes)
        checked = checked.toarray() if hasattr(checked, "tocsr") else checked
        kernels.append(checked.astype(np.float64))
    cross, own = kernels[:2]
    if len(cross) != n:
        raise ValueError(
            f"{name}[0] must have one row for each of {n} candidates, not {len(cross)}"
        )
    if own.shape != (cross.shape[1],) * 2:
        raise ValueError(
            f"{name}[1] must be {cross.shape[1]} x {cross.shape[1]}, as {name}[0] has so many "
            f"columns, not of shape {own.shape}"
        )
    between = columns.between(columns.read_only(own), f"{name}[1]")
    columns.check_symmetric(between, f"{name}[1]")
    return kernels


def _known(
    n: int, told: list[np.ndarray] | None, kept: list[np.ndarray] | None, eta: float, nu: float
) -> list[np.ndarray]:
    """Rows (m, n) whose squares are what private items explain, then also query items."""
    known = np.zeros((0, n))
    if kept:
        factor = cholesky(kept[1], "private[1]")
        private = solve(factor, kept[0].T)
        known = nu * private
    if not told:
        return [known]
    across, own = eta * told[0].T, told[1]
    if kept:  # both kernels of the query, once private items are projected out
        side = solve(factor, kept[2])
        across, own = across - products(side, known), own - products(side, side)
    explained = solve(cholesky(own, "query[1]"), across)
    return [known, np.concatenate([known, explained])]


def _by_columns(
    rows: columns.RowColumns, scale: float, query: columns.RowColumns | None,
    private: columns.RowColumns | None, eta: float, nu: float,
) -> list[Cholesky]:  # fmt: skip
    """Residuals of I + scale K for any similarities K."""

    def kernel(some: columns.RowColumns, others: columns.RowColumns) -> np.ndarray:
        out = np.empty((others.n, some.n))
        for i in range(others.n):
            some.with_row(others.row(i), out[i])
        return scale * out.T

    def items(some: columns.RowColumns | None) -> list[np.ndarray] | None:
        return [kernel(rows, some), np.eye(some.n) + kernel(some, some)] if some else None

    told, kept = items(query), items(private)
    if kept and query and private:
        kept.append(kernel(private, query))
    return [
        Cholesky(rows, scale, 1.0, known, "the kernel of X")
        for known in _known(rows.n, told, kept, eta, nu)
    ]


def _spanned(
    rows: columns.FeatureColumns, scale: float, query: columns.FeatureColumns | None,
    private: columns.FeatureColumns | None, eta: float, nu: float,
) -> list[Spanned]:  # fmt: skip
    """Residuals of I + scale X X', in d dimensions."""
    start = left = across = np.eye(rows.d)
    across = eta * across
    if private:  # `left` is the part of each direction that private items do not explain
        P = private.all_rows()
        root = solve(cholesky(left + scale * products(P, P), "private"), left)
        explained = np.eye(rows.d) - products(root, root)
        left = left - explained
        start = start - nu**2 * explained
        across = across - nu * explained
    states = [Spanned(rows, scale, start)]
    if query:
        Q = query.all_rows()
        own = np.eye(len(Q)) + scale * products(products(left, Q.T), Q.T)
        told = solve(cholesky(own, "query"), scale**0.5 * products(Q.T, across))
        states.append(Spanned(rows, scale, start - products(told, told)))
    return states
