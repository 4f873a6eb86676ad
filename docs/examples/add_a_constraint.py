"""A complete constraint of your own: elements must lie apart on a line."""

import numpy as np

import subsel
from subsel.constraints import Constraint, State


class Apart(Constraint):
    """Selected elements are at least `least` from each other and from those that are given."""

    def __init__(self, position, least):
        self.position, self.least = np.asarray(position, float), least

    def start(self, closed, given):
        if len(self.position) != len(closed):
            raise ValueError(f"position must have {len(closed)} entries, not {len(self.position)}")
        state = Placed(self)
        state.add(given)
        return state

    def most_of(self, gains):
        room = int(np.ptp(self.position) // self.least) + 1  # no more fit on the line
        return float(np.sort(gains)[-room:].sum())


class Placed(State):
    """Which elements are too near to selected ones."""

    def __init__(self, constraint):
        self.constraint = constraint
        self.near = np.zeros(len(constraint.position), bool)

    def safe(self):
        return 1  # after one pick, others may be too near

    def close(self, closed):
        closed |= self.near

    def add(self, elements):
        position, least = self.constraint.position, self.constraint.least
        for element in elements:
            self.near |= np.abs(position - position[element]) < least


S = np.random.default_rng(0).random((50, 30))
apart = Apart(np.arange(30), least=5)
chosen = subsel.greedy(S, apart, min_gain=0)
print(np.diff(np.sort(chosen.indices)).min() >= 5, 0.8 < chosen.value / chosen.bound <= 1)
