"""What a member of `members` is, and the small data with ties of which they are made."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from subsel.kernels import reference


class Member(NamedTuple):
    """An objective over about 30 candidates.

    `make` builds it; `value` is F of a list of candidates by its formula. `ties` says that equal
    candidates have exactly equal gains, so that the oracle finds the same selection; where it is
    False, only values are compared. `stores` says what its data lie in, for the names of tests.
    Among equal gains greedy takes the element of largest `prefer`, then the lowest index.
    """

    name: str
    make: Callable[[], Any]
    value: Callable[[list[int]], float]
    submodular: bool = True
    monotone: bool = True
    prefer: Callable[[list[int], int], float] = lambda chosen, element: 0.0


N = 30
"""Candidates of every member."""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def similarities(seed: int = 0, rows: int = 40) -> np.ndarray:
    """Similarities with ties and with copies of columns."""
    S = rng(seed).integers(0, 9, (rows, N)) / 8
    S[:, 7] = S[:, 3]
    return S


def thin(S: np.ndarray) -> np.ndarray:
    """The same with most entries 0."""
    return np.where(S > 0.7, S, 0.0)


def rows(seed: int = 1, d: int = 4) -> np.ndarray:
    """Features with ties and with copies of rows."""
    X = rng(seed).integers(-4, 5, (N, d)) / 4
    X[7] = X[3]
    return X


def mixed(seed: int = 2) -> np.ndarray:
    """Symmetric numbers of both signs between candidates, with ties and a copy."""
    S = rng(seed).integers(-6, 9, (N, N)) / 8
    S = (S + S.T) / 2
    S[:, 7], S[7] = S[:, 3], S[3]
    S[7, 7] = S[3, 7] = S[7, 3] = S[3, 3]
    return S


def raw(X: np.ndarray, metric: str) -> np.ndarray:
    """Similarities with nothing added."""
    c0 = {"dot": 0.0}.get(metric, 1.0)
    return reference.similarity(X, metric, c0=c0)


def never_falls(value: Callable[[list[int]], float]) -> bool:
    """Whether a submodular objective is monotone: beside all others, no gain is negative."""
    everything = [*range(N)]
    return all(
        value(everything) - value(everything[:j] + everything[j + 1 :]) > -1e-9 for j in everything
    )


def amounts(seed: int = 4, d: int = 70) -> np.ndarray:
    """Non-negative features, two thirds of them 0, with ties and with copies of rows."""
    random = rng(seed)
    X = random.integers(1, 9, (N, d)) * (random.random((N, d)) < 0.35) / 4
    X[7] = X[3]
    return X
