"""Checks for objectives of your own."""

import numpy as np

from subsel.objectives import Objective
from subsel.validation import check_count, check_number, check_random_state

__all__ = ["check_objective"]


def check_objective(
    f: Objective,
    *,
    trials: int = 20,
    tolerance: float = 1e-9,
    random_state: int | np.random.Generator | None = 0,
) -> None:
    """Check on random sets that an objective keeps its contract.

    F(empty) must be 0, and gains must be differences of values. `add`, `extend`, `reset` and
    `restrict` must agree with both. Gains must never rise if the objective is declared submodular,
    and must never be negative if it is declared monotone. All results must have the right types and
    shapes. The objective is reset at the end.

    Parameters
    ----------
    f : Objective
    trials : int, default 20
        Number of random sets, each of at most 8 elements.
    tolerance : float, default 1e-9
        Largest difference that counts as rounding, as a fraction of the largest gain beside no or
        one element.
    random_state : int, numpy.random.Generator or None, default 0
        Seed of the sets.

    Raises
    ------
    AssertionError
        If a check fails. The message names the broken rule and the sets that show it.
    TypeError, ValueError
        If `f` is not an objective, or another argument is not one of the above.

    Notes
    -----
    Each trial takes about ten values of at most 9 elements, and as many evaluations of all gains. A
    rule that is broken on few sets may go unnoticed.

    Examples
    --------
    >>> import subsel
    >>> subsel.testing.check_objective(subsel.FacilityLocation([[1.0, 0.5], [0.0, 2.0]]))
    """
    if not isinstance(f, Objective):
        came = f"the class {f.__name__}: make one" if isinstance(f, type) else type(f).__name__
        raise TypeError(f"f must be a subsel.Objective, not {came}")
    check_count(trials, "trials", 1)
    tolerance = float(check_number(tolerance, "tolerance", 0, ends="[)"))
    random = check_random_state(random_state)
    _Checks(f, tolerance, random).run(trials)
    f.reset()


class _Checks:
    def __init__(self, f: Objective, tolerance: float, random: np.random.Generator) -> None:
        self.f, self.random, self.name = f, random, type(f).__name__
        count = getattr(f, "n", None)
        self.that(
            isinstance(count, int | np.integer) and not isinstance(count, bool) and int(count) > 0,
            f"n must be the number of candidates, a count of at least 1, not {count!r}",
        )
        f.reset()
        self.first = self.gains()
        f.add(0)  # beside nothing, all gains of some objectives are 0
        largest = max(float(np.abs(gains).max()) for gains in (self.first, self.gains()))
        f.reset()
        self.slack = tolerance * max(1e-300, largest)

    def that(self, holds: bool, otherwise: str) -> None:
        """Fail unless something holds."""
        if not holds:
            raise AssertionError(f"{self.name}: {otherwise}")

    def near(self, a: float, b: float) -> bool:
        """Whether two numbers are equal but for rounding."""
        return abs(a - b) <= self.slack * (1 + len(self.first) ** 0.5)

    def gains(self) -> np.ndarray:
        """Gains of all candidates, with a check of their type and shape."""
        everything = np.arange(self.f.n)
        everything.flags.writeable = False
        gains = self.f.gains(everything)
        self.that(
            isinstance(gains, np.ndarray) and gains.shape == (self.f.n,),
            f"gains must return one number for each candidate, an array of shape ({self.f.n},), "
            f"not {type(gains).__name__} of shape {np.shape(gains)}",
        )
        self.that(gains.dtype.kind == "f", f"gains must be floats, not {gains.dtype}")
        self.that(bool(np.isfinite(gains).all()), "gains must be finite")
        return np.array(gains, np.float64)

    def value(self, elements: list[int]) -> float:
        """F of a set, with a check of its type."""
        value = self.f.value(np.array(elements, np.int64))
        self.that(
            isinstance(value, float | np.floating) and bool(np.isfinite(value)),
            f"value({elements}) must be a finite float, not {value!r}",
        )
        return float(value)

    def run(self, trials: int) -> None:
        """All checks."""
        empty = self.value([])
        self.that(empty == 0, f"F of nothing must be 0, not {empty}")
        for _ in range(trials):
            self.growth()
        self.resetting()
        self.extending()
        self.restricting()

    def growth(self) -> None:
        """Add random elements one by one, and compare gains with values all the way."""
        size = int(self.random.integers(1, min(8, self.f.n) + 1))
        added: list[int] = []
        self.f.reset()
        before = self.gains()
        for element in self.random.permutation(self.f.n)[:size].tolist():
            gained = self.value([*added, element]) - self.value(added)
            self.that(
                self.near(before[element], gained),
                f"the gain of {element} beside {added} is {before[element]}, but F(S + e) - F(S) "
                f"is {gained}",
            )
            self.that(
                not self.f.monotone or gained >= -self.slack,
                f"it says that it is monotone, but adding {element} to {added} changes F by "
                f"{gained}",
            )
            self.f.add(element)
            added.append(element)
            after = self.gains()
            others = np.setdiff1d(np.arange(self.f.n), added)
            rise = (after - before)[others]
            if self.f.submodular and len(others) and rise.max() > self.slack:
                at = others[int(np.argmax(rise))]
                self.that(
                    False,
                    f"it says that it is submodular, but the gain of {at} rises from {before[at]} "
                    f"beside {added[:-1]} to {after[at]} beside {added}",
                )
            before = after

    def resetting(self) -> None:
        """After reset, gains are the first ones."""
        self.f.reset()
        self.that(
            bool((self.gains() == self.first).all()), "after reset, gains must be the first ones"
        )

    def extending(self) -> None:
        """`extend` is greedy: each time the largest gain, the lowest index among equals."""
        count = min(4, self.f.n)
        taken = np.zeros(self.f.n, bool)
        self.f.reset()
        elements, gains = self.f.extend(taken, count)
        self.that(
            len(elements) == count and sorted(np.flatnonzero(taken)) == sorted(elements),
            f"extend must add {count} elements and mark them as taken, not {elements}",
        )
        self.f.reset()
        added: list[int] = []
        for element, gain in zip(elements.tolist(), gains.tolist(), strict=True):
            now = self.gains()
            self.that(
                self.near(now[element], gain),
                f"extend says that {element} gained {gain}, but gains says {now[element]}",
            )
            free = np.setdiff1d(np.arange(self.f.n), added)
            best = free[int(np.argmax(now[free]))]
            self.that(
                now[element] >= now[best] - self.slack,
                f"extend added {element}, which gains {now[element]} beside {added}, though {best} "
                f"gains {now[best]}",
            )
            self.f.add(element)
            added.append(element)

    def restricting(self) -> None:
        """A part of the ground set has the same values."""
        part = self.random.permutation(self.f.n)[: max(1, self.f.n // 2)]
        try:
            restricted = self.f.restrict(part)
        except NotImplementedError:
            return
        self.that(restricted.n == len(part), f"restrict must leave {len(part)} candidates")
        some = np.arange(min(3, len(part)))
        wanted, found = self.value(part[some].tolist()), float(restricted.value(some))
        self.that(
            self.near(wanted, found),
            f"restricted to {part.tolist()}, F({some.tolist()}) is {found}, but F of the same "
            f"elements without the restriction is {wanted}",
        )
