"""Sieve streaming: one pass over the candidates, in the order in which they come."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subsel.objectives import Objective
from subsel.optimizers.bounds import Bounds
from subsel.optimizers.run import Run
from subsel.selection import Selection
from subsel.validation import ArrayLike, check_distinct, check_number

_CHUNK = 512
"""Candidates that are taken from the stream together, at least."""


@dataclass
class _Sieve:
    """The selection of one threshold."""

    elements: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return math.fsum(self.gains)


@dataclass
class Sieves:
    """All thresholds side by side, with what each has selected from the stream so far.

    Beside them is the `leader`: the selection of greedy from the former leader and each part of the
    stream.
    """

    k: int
    epsilon: float
    by_exponent: dict[int, _Sieve] = field(default_factory=dict)
    leader: _Sieve = field(default_factory=_Sieve)
    largest: float = 0.0
    """Gain of a single element."""
    reached: float = 0.0
    """F of a sieve."""

    @property
    def step(self) -> int:
        """How many elements to take from the stream at a time."""
        return max(_CHUNK, 4 * self.k)

    def take(self, run: Run, chunk: np.ndarray) -> None:
        """Let the next elements of the stream pass by."""
        run.hold([])
        alone = run.evaluated(chunk)
        rising = np.maximum.accumulate(np.maximum(alone, self.largest))
        self.largest = float(rising[-1])
        for i in self._thresholds():
            threshold = (1 + self.epsilon) ** i
            begin = 0
            if i not in self.by_exponent:
                self.by_exponent[i] = _Sieve()
                begin = int(np.searchsorted(rising, threshold))
            sieve = self.by_exponent[i]
            _pass(run, sieve, chunk, alone, begin, max(threshold, run.least_gain), self.k)
            self.reached = max(self.reached, sieve.value)
        kept = self._thresholds()
        self.by_exponent = {i: sieve for i, sieve in self.by_exponent.items() if i in kept}
        both = np.union1d(chunk, np.array(self.leader.elements, np.int64))
        self.leader = max(self.leader, _greedily(run, both, self.k), key=lambda sieve: sieve.value)

    def _thresholds(self) -> range:
        """Exponents of 1 + epsilon of the thresholds that may still be the right one."""
        if self.largest <= 0:
            return range(0)
        base = math.log1p(self.epsilon)
        least = max(self.reached, self.largest) / (2 * self.k)
        high = math.floor(math.log(self.largest) / base)
        return range(math.ceil(math.log(least) / base - 1), high + 1)

    @property
    def all(self) -> list[_Sieve]:
        """The selection of each threshold, and the leader."""
        return [*self.by_exponent.values(), self.leader]

    def elements(self) -> np.ndarray:
        """All elements that are kept, ascending."""
        return np.unique([e for sieve in self.all for e in sieve.elements]).astype(np.int64)

    def best(self, run: Run) -> _Sieve:
        """The best of these and of greedy over all kept elements; the objective contains it."""
        every = [*self.all, _greedily(run, self.elements(), self.k)]
        best = max(every, key=lambda sieve: sieve.value)
        run.hold(best.elements)
        return best


def sieve_streaming(
    f: Objective | ArrayLike,
    budget: Any,
    epsilon: float = 0.1,
    *,
    order: ArrayLike | None = None,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    target: float | None = None,
    coverage: float | None = None,
    min_gain: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select at most `budget` elements in one pass, which sees every candidate once.

    Several thresholds, which differ by the factor 1 + epsilon, are tried at the same time. Each
    selects a candidate if it gains at least the threshold. Thresholds that can no longer be the
    right one are dropped. In addition, greedy selects from each part of the stream together with
    its best selection so far, and at the end from all elements that were kept. The best of these
    selections is returned.

    Parameters
    ----------
    f : Objective, or array_like or sparse matrix of shape (n_points, n_candidates)
        What to maximize; a matrix means ``FacilityLocation(f)``. It must be submodular and
        monotone. An objective is reset first.
    budget : int or `subsel.constraints.Count`
        Number of elements k, 1..n.
    epsilon : float, default 0.1
        In (0, 1).
    order : array_like of int, shape (m,), optional
        The candidates in the order of the stream; others are not in the stream. Default: 0, 1, ...,
        n - 1.
    given, exclude, target, coverage, progress
        As for `greedy`.
    min_gain : float, optional
        Skip a candidate if its gain is not larger than this.

    Returns
    -------
    Selection
        At most k distinct elements. `stopped` is ``"exhausted"`` where they are fewer: the pass is
        over.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `greedy` does, and if the objective says that it is not submodular, or not monotone, or
        the budget is no count.

    Notes
    -----
    F is at least 1/2 - epsilon of the largest possible, in any order; on real data mostly within a
    hundredth of greedy's. Keeps O(k / epsilon) elements at any time. Evaluates at most
    O(n log(k) / epsilon) gains for the thresholds, and as many as lazy greedy for each part of the
    stream; those of candidates that gain less than a threshold alone are not evaluated for it.
    Candidates are taken from the stream max(512, 4 k) at a time, which does not change what a
    threshold selects. Greedy is not in the paper; it can only make the result better.

    References
    ----------
    Kazemi, Mitrovic, Zadimoghaddam, Lattanzi, Karbasi (2019), "Submodular streaming in all its
    glory: tight approximation, minimum memory and low adaptive complexity", Algorithm 1
    (SieveStreaming++).

    Examples
    --------
    >>> import subsel
    >>> S = [[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]]
    >>> subsel.sieve_streaming(S, 2, order=[2, 0, 1]).value
    2.0
    """
    epsilon = float(check_number(epsilon, "epsilon", 0, 1))
    search = Run(
        "sieve_streaming", f, budget, given=given, exclude=exclude, target=target,
        coverage=coverage, min_gain=min_gain, progress=progress, submodular=True, monotone=True,
        fills=False,
    )  # fmt: skip
    k = search.count("sieve_streaming")
    stream = np.arange(search.f.n)
    if order is not None:
        stream = check_distinct(order, search.f.n, "order")
    stream = stream[~search.closed[stream]]
    with search as run:
        sieves = Sieves(k, epsilon)
        for start in range(0, len(stream), sieves.step):
            if not run.room() or max(sieves.reached, sieves.leader.value) >= run.missing:
                break
            sieves.take(run, stream[start : start + sieves.step])
        best = sieves.best(run)
        run.took(np.array(best.elements, np.int64), np.array(best.gains))
        if run.room():
            run.end("exhausted")
        return run.selection()


def _greedily(run: Run, left: np.ndarray, k: int) -> _Sieve:
    """Run greedy over some elements."""
    found, bounds = _Sieve(), Bounds(run)
    run.hold([])
    while len(left) and len(found.elements) < k:
        element, gain = bounds.best(left)
        if gain < run.least_gain:
            break
        run.f.add(element)
        bounds.grown()
        found.elements.append(element)
        found.gains.append(gain)
        left = left[left != element]
    return found


def _pass(
    run: Run, sieve: _Sieve, chunk: np.ndarray, alone: np.ndarray, begin: int, threshold: float,
    k: int,
) -> None:  # fmt: skip
    """Let one threshold select from a part of the stream."""
    upper = alone.copy()  # no gain exceeds the gain beside nothing, or an earlier gain
    upper[:begin] = -np.inf
    hopeful = np.flatnonzero(upper >= threshold)
    if len(sieve.elements) == k or not len(hopeful):
        return
    run.hold(sieve.elements)
    at, batch = 0, 4 if sieve.elements else 1
    while at < len(hopeful) and len(sieve.elements) < k:
        part = hopeful[at : at + batch]
        part = part[upper[part] >= threshold]
        upper[part] = run.evaluated(chunk[part])
        reach = part[upper[part] >= threshold]
        if not len(reach):
            at, batch = at + batch, 2 * batch
            continue
        element = int(chunk[reach[0]])
        run.f.add(element)
        sieve.elements.append(element)
        sieve.gains.append(float(upper[reach[0]]))
        at, batch = int(np.searchsorted(hopeful, reach[0])) + 1, max(4, batch // 2)
