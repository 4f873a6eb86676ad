"""The state of one search: what may be picked, what was picked, and when to stop.

Every optimizer is a loop around a `Run`, which holds everything that they have in common: the
elements that are given, excluded or closed by the constraint, the stops, the progress bar, and the
selection at the end.
"""

import math
import os
import reprlib
import threading
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np

from subsel.constraints.base import Count, Unlimited, as_constraint
from subsel.objectives import FacilityLocation, Objective
from subsel.pacing import Pace
from subsel.progress import Progress
from subsel.selection import Selection, bound_of_greedy
from subsel.validation import ArrayLike, check_distinct, check_number, whole_number

STOPPED = ("budget", "target", "coverage", "min_gain", "exhausted")
"""Why a search ended: see `Selection.stopped`."""

_in_use: set[int] = set()
"""The identities of objectives that are being searched."""
_in_use_lock = threading.Lock()


def _after_fork() -> None:
    """A forked child has copies of all objectives, and none of the threads that search them."""
    global _in_use_lock
    _in_use_lock = threading.Lock()
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Run:
    """A search of an objective, from the arguments of an optimizer.

    Use it as a context manager: an objective can be searched by one thread at a time.

    Attributes
    ----------
    f : Objective
    closed : ndarray of bool, shape (n,)
        Which candidates may not be picked: given, excluded, picked, or closed by the constraint.
    costs : ndarray of float64, shape (n,), or None
        What gains are divided by before they are compared.
    most : int or None
        How many elements will be selected at most, where the constraint knows.
    """

    def __init__(
        self,
        optimizer: str,
        f: Objective | ArrayLike,
        budget: Any,
        *,
        given: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        target: float | None = None,
        coverage: float | None = None,
        min_gain: float | None = None,
        progress: bool = False,
        submodular: bool = False,
        monotone: bool = False,
        greedy: bool = False,
        ranks: bool = True,
        fills: bool = True,
    ) -> None:
        self.f = as_objective(f)
        self._searched = self.f.searched()
        if submodular and not self.f.submodular:
            raise ValueError(
                f"{optimizer} is for submodular objectives, and {type(self.f).__name__} is not "
                "submodular: use subsel.greedy"
            )
        if monotone and not self.f.monotone:
            raise ValueError(
                f"{optimizer} is for monotone objectives, and {type(self.f).__name__} is not "
                "monotone: use subsel.random_greedy, or subsel.greedy"
            )
        self._constraint = as_constraint(budget)
        if isinstance(self._constraint, Unlimited) and (target, coverage, min_gain) == (None,) * 3:
            raise ValueError(
                f"budget must be a count in 1..{self.f.n} or a constraint; it can be left out only "
                "where target, coverage or min_gain says when to stop"
            )
        n = self.f.n
        self._given = check_distinct(given, n, "given")
        excluded = check_distinct(exclude, n, "exclude")
        self._min_gain = -math.inf
        if min_gain is not None:
            self._min_gain = float(check_number(min_gain, "min_gain", *_REAL))
        self._target = None if target is None else float(check_number(target, "target", *_REAL))
        self._stop_at_target = "target"
        self._fraction = coverage
        if coverage is not None:
            if target is not None:
                raise ValueError("target and coverage both say when to stop; give one of them")
            check_number(coverage, "coverage", 0, 1, "(]")
            if not self.f.monotone:
                raise ValueError(
                    f"coverage is a fraction of F(everything), the largest F of a monotone "
                    f"objective; {type(self.f).__name__} is not monotone: give target, a value of F"
                )
        self.closed = np.zeros(n, bool)
        self.closed[self._given] = True
        if len(both := excluded[self.closed[excluded]]):
            raise ValueError(f"element {both.min()} must not be both in given and in exclude")
        self.closed[excluded] = True
        if self.closed.all() and not isinstance(self._constraint, Unlimited):
            raise ValueError(f"all of {n} candidates are given or excluded: none is left to select")
        self._state = self._constraint.start(self.closed, self._given)
        self._greedy = greedy
        if self._state.singles and ranks and not greedy:
            other = "give it rule='ratio' or rule='plain', or use" if fills else "use"
            raise ValueError(
                f"{optimizer} does not try single elements at each of its prefixes, as a Knapsack "
                f"of rule='best' wants: {other} subsel.greedy or subsel.lazy_greedy"
            )
        self.costs = self._state.costs
        self._never = self.closed.copy()
        self._ranks = ranks
        self._bound = math.inf
        self._noted = -1
        self._certified = bool(self.f.submodular and self.f.monotone)
        self._elements: list[np.ndarray] = []
        self._gains: list[np.ndarray] = []
        self._stopped: str | None = None
        self._counted = 0
        self.evaluations = 0
        # Where gains are kept, a pick among few candidates takes less time than a step in Python.
        self._pace = Pace(max(1, _SMALL // n) if self.f.keeps_gains else 1)
        self.most = self._state.most
        self._bar = Progress(total=self.most, desc="select", unit="element", disable=not progress)

    def __enter__(self) -> "Run":
        with _in_use_lock:
            for f in self._searched:
                if id(f) in _in_use:
                    raise RuntimeError(
                        f"this {type(f).__name__} is being searched already, perhaps by another "
                        "thread; make one objective for each search"
                    )
            _in_use.update(map(id, self._searched))
        try:
            self._begin()
        except BaseException:
            self._release()
            raise
        return self

    def _release(self) -> None:
        with _in_use_lock:
            _in_use.difference_update(map(id, self._searched))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._release()

    def _begin(self) -> None:
        if self._fraction is not None:
            self._target = self._fraction * self.f.value(np.arange(self.f.n))
            self._stop_at_target = "coverage"
        self._start_from([])
        self._base = self.f.value(self._given) if len(self._given) else 0.0
        self._reached = self._base
        if self._target is not None and self._reached >= self._target:
            self._stopped = self._stop_at_target
        self._state.close(self.closed)
        self._possible = ~self.closed
        if self._certified and self.f.keeps_gains and self._ranks:
            candidates = self.candidates()
            self.note(candidates, self.f.checked_gains(candidates))

    def room(self) -> int:
        """How many elements may be picked now, whichever they are; 0 at the end of the search."""
        if self._stopped:
            return 0
        safe = self._state.safe()
        if safe == 0:
            self._stopped = "budget"
            return 0
        left = len(self.closed) - int(np.count_nonzero(self.closed))
        if left == 0:
            picked = sum(map(len, self._elements))
            all_picked = picked + np.count_nonzero(self._never) == len(self.closed)
            self._stopped = "exhausted" if all_picked else "budget"
            return 0
        return min(safe, left, self._pace.size())

    def end(self, why: str) -> None:
        """End the search, unless it ended before."""
        self._stopped = self._stopped or why

    def count(self, optimizer: str) -> int:
        """The budget of an optimizer that works with a count only."""
        if not isinstance(self._constraint, Count):
            raise ValueError(
                f"{optimizer} works with a count as budget only, not with {self._constraint}: "
                "use subsel.greedy"
            )
        return int(self._constraint.k)

    @property
    def missing(self) -> float:
        """By how much F of what is picked has to exceed that of what is given, for the target."""
        return math.inf if self._target is None else self._target - self._base

    @property
    def least_gain(self) -> float:
        """The smallest gain that is above min_gain."""
        return math.nextafter(self._min_gain, math.inf)

    def closed_beside(self, elements: list[int]) -> np.ndarray:
        """The candidates that may not be selected beside some elements, these included."""
        closed = self._never.copy()
        closed[elements] = True
        state = self._constraint.start(self._never, self._given)
        state.add(np.array(elements, np.int64))
        state.close(closed)
        return closed

    def check_allowed(self, elements: np.ndarray, name: str) -> None:
        """Refuse elements that the constraint does not allow together."""
        closed, state = self._never.copy(), self._constraint.start(self._never, self._given)
        state.close(closed)
        for at, element in enumerate(elements):
            if closed[element] or state.safe() == 0:
                raise ValueError(
                    f"{name} must keep to budget, {self._constraint}, which does not allow "
                    f"{element} beside the {at} before it"
                )
            closed[element] = True
            state.add(elements[at : at + 1])
            state.close(closed)

    def candidates(self) -> np.ndarray:
        """The candidates that may be picked, ascending."""
        return np.flatnonzero(~self.closed)

    def worth(self, gains: np.ndarray, candidates: Any) -> np.ndarray:
        """The numbers that greedy compares: gains, or gains divided by costs."""
        return gains if self.costs is None else gains / self.costs[candidates]

    def extend(self, count: int) -> None:
        """Pick the best candidate, `count` times: greedy, by the objective itself."""
        if not self._elements and not self.f.keeps_gains and self.most != 1:
            self.note(candidates := self.candidates(), self.evaluated(candidates))
        left = len(self.closed) - int(np.count_nonzero(self.closed))
        self.evaluations += count * left - count * (count - 1) // 2
        self.took(*self.f.extend(self.closed, count, self.costs))

    def pick(self, element: int, gain: float) -> None:
        """Add one element to the objective and to the selection."""
        if gain <= self._min_gain:
            self._stopped = "min_gain"
            return
        self.f.add(element)
        self.closed[element] = True
        self.took(np.array([element]), np.array([gain]))

    def took(self, elements: np.ndarray, gains: np.ndarray) -> None:
        """Record elements that were picked, and added to the objective, in this order."""
        count = self._until_stop(gains)
        self._elements.append(elements[:count])
        self._gains.append(gains[:count])
        self._bar.update(count)
        if count < len(elements):
            self._rewind()
        else:
            self._state.add(elements)
            self._state.close(self.closed)

    def _until_stop(self, gains: np.ndarray) -> int:
        """How many of the gains belong to the selection. If they end the search, this is noted."""
        if self._target is None and self._min_gain == -math.inf:
            return len(gains)
        for at, gain in enumerate(gains):
            if gain <= self._min_gain:
                self._stopped = "min_gain"
                return at
            self._reached += float(gain)
            if self._target is not None and self._reached >= self._target:
                self._stopped = self._stop_at_target
                return at + 1
        return len(gains)

    def _rewind(self) -> None:
        """Restore the objective to the selection if it went on beyond the stop."""
        self.hold(self.picked())
        self._counted -= self.f.n_evaluations or 0

    def hold(self, elements: Iterable[int]) -> None:
        """Make the objective contain the given elements and some others, and nothing else."""
        self._counted += self.f.n_evaluations or 0
        self._start_from(elements)

    def _start_from(self, elements: Iterable[int]) -> None:
        self.f.reset()
        for element in (*self._given, *elements):
            self.f.add(int(element))

    def picked(self) -> np.ndarray:
        """The elements selected so far, in order."""
        return np.concatenate([np.empty(0, np.int64), *self._elements])

    def note(self, candidates: np.ndarray, gains: np.ndarray) -> None:
        """Note gains, or upper bounds, of all candidates that are left: F can gain no more."""
        if not self._certified or len(candidates) < len(self.closed) - self.closed.sum():
            return  # the usual case, without a look at all that was picked
        picked = self.picked()
        if len(candidates) < np.count_nonzero(self._possible) - len(picked):
            return
        self._noted = len(picked)
        by_element = np.zeros(self.f.n)
        by_element[candidates] = np.maximum(gains, 0)
        held = math.fsum([self._base, *np.concatenate([np.empty(0), *self._gains])])
        self._bound = min(self._bound, held + self._constraint.most_of(by_element))

    def _certify(self, upper: np.ndarray | None) -> None:
        """An upper bound of F from the gains at the end, and from those that greedy took."""
        gains = np.concatenate([np.empty(0), *self._gains])
        if self._greedy and isinstance(self._constraint, Count):
            own = bound_of_greedy(gains, int(self._constraint.k), self._base)
            self._bound = min(self._bound, own)
        if self._noted == len(gains) or self._bound <= math.fsum([self._base, *gains]):
            return
        left = self._possible.copy()
        left[self.picked()] = False
        candidates = np.flatnonzero(left)
        if upper is None or not isinstance(self._constraint, Count):
            self.note(candidates, self.evaluated(candidates))
        else:
            upper = upper[candidates]
            high = np.isinf(upper)  # never evaluated
            high[np.argsort(-upper, kind="stable")[: len(gains)]] = True
            upper[high] = self.evaluated(candidates[high])
            self.note(candidates, upper)

    def exchange(
        self, elements: np.ndarray, max_swaps: int | None
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Swap under a count, if the objective has a fast way; see `Objective.exchange`."""
        if not isinstance(self._constraint, Count):
            return None
        found = self.f.exchange(elements, self._never, max_swaps)
        if found is None:
            return None
        elements, gains, evaluations = found
        self.evaluations += evaluations
        self._counted += evaluations
        return elements, gains

    def taken(self, elements: np.ndarray) -> np.ndarray:
        """Add elements to the objective in this order, and return the gain of each."""
        self.evaluations += len(elements)
        return self.f.take(elements)

    def evaluated(self, candidates: np.ndarray) -> np.ndarray:
        """The gains of candidates, checked and counted."""
        self.evaluations += len(candidates)
        return self.f.checked_gains(candidates)

    def selection(self, upper: np.ndarray | None = None) -> Selection:
        """The result of the search.

        Parameters
        ----------
        upper : ndarray of float64, shape (n,), optional
            Upper bounds of all gains, where the optimizer has them: under a count, only the largest
            are then evaluated anew for `Selection.bound`.
        """
        if self._certified:
            self._certify(upper)
        if self._state.singles and self._greedy and self._stopped in ("budget", "exhausted"):
            self._try_singles()
        if self.f.caution:
            warnings.warn(self.f.caution, RuntimeWarning, stacklevel=3)
        gains = np.concatenate([np.empty(0), *self._gains])
        value = math.fsum([self._base, *gains])
        values = self._base + np.cumsum(gains)
        values[-1:] = value
        counted = self.f.n_evaluations
        return Selection(
            indices=self.picked(),
            gains=gains,
            value=value,
            n_evaluations=self.evaluations if counted is None else counted + self._counted,
            path=self.f.path,
            values=values,
            stopped=self._stopped or "budget",
            bound=float(max(self._bound, value)) if self._certified else None,
            cost=self._constraint.cost(self.picked()),
        )

    def _try_singles(self) -> None:
        """Keep the best of the selection and of each prefix with one more element that may follow.

        No element's gain at a prefix is more than its cost times the ratio of the one that greedy
        took there, so few elements, mostly at the last few prefixes, have to be tried.
        """
        elements, gains = self.picked(), np.concatenate([np.empty(0), *self._gains])
        if self.costs is None or not len(elements):
            return
        before = self._base + np.cumsum(gains) - gains
        ratios = gains / self.costs[elements]
        best = math.fsum([self._base, *gains])
        own = self.costs[~self._never]
        at_most = before + np.maximum(ratios * own.min(), ratios * own.max())
        found, held = None, -1
        for at in np.flatnonzero(at_most > best):
            closed = self.closed_beside(elements[:at].tolist())
            closed |= before[at] + ratios[at] * self.costs <= best
            candidates = np.flatnonzero(~closed)
            if not len(candidates):
                continue
            if held < 0:
                self.hold(elements[:at])
            else:
                for element in elements[held:at]:
                    self.f.add(int(element))
            held = int(at)
            tried = self.evaluated(candidates)
            top = int(np.argmax(tried))
            if before[at] + tried[top] > best + _EQUAL * abs(best):
                best = before[at] + tried[top]
                found = at, candidates[top], tried[top]
        if found:
            at, element, gain = found
            elements, gains = np.append(elements[:at], element), np.append(gains[:at], gain)
            self._elements, self._gains = [elements], [gains]
        if held >= 0:
            self._rewind()


_REAL = (-math.inf, math.inf)
_SMALL = 2**13
"""The number of candidates times picks between two looks at the clock."""
_EQUAL = 2.0**-44
"""Values that differ by less than this part of them count as equal."""


def as_objective(f: Objective | ArrayLike) -> Objective:
    """An objective, after a check of its n; a matrix becomes `FacilityLocation`."""
    if callable(f):
        made = f": make one, {f.__name__}(...)" if isinstance(f, type) else ""
        raise TypeError(
            f"f must be an Objective or a matrix of similarities, not {reprlib.repr(f)}{made}"
        )
    if not isinstance(f, Objective):
        return FacilityLocation(f)
    count = whole_number(getattr(f, "n", None))
    if count is None or count < 1:
        raise TypeError(
            f"{type(f).__name__}.n must be the number of candidates, a count of at least 1, not "
            f"{getattr(f, 'n', 'missing')!r}: set self.n in its __init__"
        )
    return f
