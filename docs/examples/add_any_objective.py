"""An objective that belongs to no family: a set of intervals, and how much they cover together."""

import numpy as np

from subsel import Objective, lazy_greedy
from subsel.testing import check_objective


class Intervals(Objective):
    """F(S) = how many of the cells 0, 1, 2, ... lie in at least one of the intervals in S."""

    def __init__(self, begin, end):
        self.begin, self.end = np.asarray(begin), np.asarray(end)
        self.n = len(self.begin)
        self.reset()

    def reset(self):
        self.covered = np.zeros(self.end.max(), bool)

    def _cells(self, element):
        return slice(self.begin[element], self.end[element])

    def gains(self, candidates):
        return np.array([np.sum(~self.covered[self._cells(e)]) for e in candidates], float)

    def add(self, element):
        self.covered[self._cells(element)] = True

    def value(self, indices):
        covered = np.zeros_like(self.covered)
        for element in indices:
            covered[self._cells(element)] = True
        return float(covered.sum())


f = Intervals(begin=[0, 3, 5, 9], end=[4, 9, 8, 12])
check_objective(f)
print(lazy_greedy(f, 2).indices)
