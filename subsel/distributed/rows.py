"""Rows that tasks pass to one another, and their division into classes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Some rows of the input: their positions in it, their features, and other facts about them.

    `facts` has a field for each fact that this selection needs about a row; often there is none.
    Possible fields are "open" (whether the row may be selected), "cost", "group" and "values".
    """

    at: np.ndarray
    features: np.ndarray
    facts: np.ndarray

    def take(self, at: Any) -> "Rows":
        """Some of the rows, in the order of `at`."""
        return Rows(self.at[at], self.features[at], self.facts[at])

    @property
    def closed(self) -> np.ndarray:
        """Which of the rows may not be selected."""
        names = self.facts.dtype.names or ()
        return ~self.facts["open"] if "open" in names else np.zeros(len(self.at), bool)


def joined(parts: list[Rows]) -> Rows:
    """The rows of all parts, one part after another."""
    return Rows(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def spans(parts: list[Rows]) -> list[np.ndarray]:
    """The slice of each part in the joined rows."""
    return np.split(
        np.arange(sum(len(part.at) for part in parts)),
        np.cumsum([len(part.at) for part in parts])[:-1],
    )


def by_class(classes: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """Each class that occurs, with the positions of its rows."""
    if classes is None:
        yield 0, slice(None)
        return
    for c in np.unique(classes):
        yield int(c), np.flatnonzero(classes == c)
