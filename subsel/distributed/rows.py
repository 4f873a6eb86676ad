"""Rows that tasks hand to each other, and how they are told apart by class."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Some rows of the input: where they stand in it, their features, and what else is known.

    `facts` has a field for each thing that this selection needs to know of a row, often none:
    "open" (whether it may be selected), "cost", "group" and "values".
    """

    at: np.ndarray
    features: np.ndarray
    facts: np.ndarray

    def take(self, at: Any) -> "Rows":
        """Some of them, in the order of `at`."""
        return Rows(self.at[at], self.features[at], self.facts[at])

    @property
    def closed(self) -> np.ndarray:
        """Which of them may not be selected."""
        names = self.facts.dtype.names or ()
        return ~self.facts["open"] if "open" in names else np.zeros(len(self.at), bool)


def joined(parts: list[Rows]) -> Rows:
    """All of them, one part after the other."""
    return Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def spans(parts: list[Rows]) -> list[np.ndarray]:
    """Where each part's rows are once all are joined."""
    return np.split(
        np.arange(sum(len(part.at) for part in parts)),
        np.cumsum([len(part.at) for part in parts])[:-1],
    )


def by_class(classes: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """Each class that occurs, and where."""
    if classes is None:
        yield 0, slice(None)
        return
    for c in np.unique(classes):
        yield int(c), np.flatnonzero(classes == c)
