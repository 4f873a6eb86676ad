"""Upper bounds of gains, so that only candidates which might be the best are evaluated anew."""

import numpy as np

from subsel.optimizers.run import Run


class Bounds:
    """Upper bounds of gains, from earlier steps; none for an objective that is not submodular.

    Gains never rise, so a gain from an earlier step bounds today's from above. A computed gain may
    be larger than an earlier one by rounding; bounds are raised by as much (`Objective.rounding`).

    Attributes
    ----------
    upper : ndarray of float64, shape (n,)
        No gain is larger than this; inf where a candidate was never evaluated.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.upper = np.full(run.f.n, np.inf)
        self._fresh = np.zeros(run.f.n, bool)
        self._largest = 0.0

    def best(self, candidates: np.ndarray) -> tuple[int, float]:
        """The best of some candidates (ascending), the first of equals, and its gain.

        Candidates are evaluated in the order of their bounds, in batches that double, until no
        bound that is left could win, or tie with a lower index.
        """
        batch = max(1, int(np.count_nonzero(np.isinf(self.upper[candidates]))))
        worth = self._run.worth(self.upper[candidates], candidates)
        while not self._fresh[candidates[at := int(np.argmax(worth))]]:
            stale = np.flatnonzero(~self._fresh[candidates])
            if len(stale) > batch:
                stale = stale[largest(worth[stale], batch)]
            self.evaluate(candidates[stale])
            worth[stale] = self._run.worth(self.upper[candidates[stale]], candidates[stale])
            batch *= 2
        element = int(candidates[at])
        return element, float(self.upper[element])

    def stale(self, candidates: np.ndarray) -> np.ndarray:
        """The candidates whose current gain is not known."""
        return candidates[~self._fresh[candidates]]

    def evaluate(self, candidates: np.ndarray) -> None:
        """Replace the bounds of candidates by their gains."""
        if not len(candidates):
            return
        gains = self._run.evaluated(candidates)
        self._largest = max(self._largest, float(np.abs(gains).max(initial=0)))
        self._run.note(candidates, gains)
        self.upper[candidates] = gains
        self._fresh[candidates] = True

    def grown(self) -> None:
        """Note that an element was added, so that earlier gains are only bounds from now on."""
        slack = self._run.f.rounding
        self.upper[self._fresh] += 2.0**-44 * self._largest if slack is None else slack
        self._fresh[:] = False
        if not self._run.f.submodular:
            self.upper[:] = np.inf


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` largest values, ascending; among equal values the first ones."""
    last = np.partition(values, len(values) - count)[len(values) - count]
    ahead = np.flatnonzero(values > last)
    level = np.flatnonzero(values == last)[: count - len(ahead)]
    return np.sort(np.concatenate([ahead, level]))
