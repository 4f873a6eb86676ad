"""A coverage objective of your own, whole: each further similar element is worth less."""

from typing import NamedTuple

import numpy as np

from subsel import Coverage, lazy_greedy, sources
from subsel.kernels.rules import join, worth
from subsel.testing import check_objective


class Square(NamedTuple):
    """Similarities add up, and are worth their square root."""

    weight: np.ndarray  # one entry for each point


@join.of(Square)
def add(rule, level, s):
    return level + s


@worth.of(Square)
def root(rule, i, level):
    return rule.weight[i] * np.sqrt(level)


class RootCoverage(Coverage):
    """F(S) = sum_i w_i sqrt(sum_{j in S} s_ij)."""

    def __init__(self, similarity, weight):
        self._of(sources.matrix(similarity), weight)

    def _of(self, source, weight):
        super().__init__(source, Square(np.asarray(weight, np.float64)))


S = np.random.default_rng(0).random((50, 30))
f = RootCoverage(S, weight=np.arange(50) / 50)
check_objective(f)
print(lazy_greedy(f, 3).indices)

X = np.random.default_rng(0).normal(size=(50, 5))
print(lazy_greedy(RootCoverage.from_features(X, "cosine", weight=np.ones(50)), 3).indices)
