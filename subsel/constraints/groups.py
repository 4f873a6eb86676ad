"""Limits for each group, such as a source, a class or an author."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from subsel.constraints.base import Constraint, State, check_enough, largest
from subsel.validation import ArrayLike, check_count, check_labels


class Groups(Constraint):
    """Limits on the number of elements of each group, and of all groups together.

    Parameters
    ----------
    labels : array_like of int, bool or str, shape (n,)
        Group of each candidate.
    at_most : int, or mapping from label to int, optional
        The most elements of a group that may be selected. A number applies to every group. Groups
        that a mapping does not name have no limit.
    at_least : int, or mapping from label to int, optional
        The fewest elements of a group that must be selected. A number applies to every group.
        Groups that a mapping does not name have no minimum. Only with `count`.
    count : int, optional
        The number of elements in all. Default: as many as `at_most` allows.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above, a mapping names a label that does not occur, or the
        numbers cannot be met, for instance because a group has too few elements that are neither
        given nor excluded.

    Notes
    -----
    `at_least` is met by reserving room: once the number of picks left equals the number of elements
    that groups still need, only elements of those groups may follow. `given` elements do not count.

    For a monotone submodular F, greedy reaches at least 1/2 of the largest F of any set that the
    constraint allows: the sets that can be extended to one that meets the floors form a matroid.

    References
    ----------
    Fisher, Nemhauser, Wolsey (1978), "An analysis of approximations for maximizing submodular set
    functions II", for `at_most`; El Halabi, Mitrovic, Norouzi-Fard, Tardos, Tarnawski (2020),
    "Fairness in streaming submodular maximization", for `at_least`.

    Examples
    --------
    >>> import subsel
    >>> S = [[1.0, 0.9, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 0.1]]
    >>> one_each = subsel.constraints.Groups(["web", "web", "book"], at_most=1)
    >>> subsel.greedy(S, one_each).indices
    array([0, 2])
    """

    def __init__(
        self,
        labels: ArrayLike,
        *,
        at_most: int | Mapping[Any, int] | None = None,
        at_least: int | Mapping[Any, int] | None = None,
        count: int | None = None,
    ) -> None:
        if at_most is None and at_least is None and count is None:
            raise ValueError(
                "Groups needs at_most, at_least or count: without them it allows every set"
            )
        if at_least is not None and count is None:
            raise ValueError(
                "at_least needs count, the number of elements in all, so that room can be reserved"
            )
        self.labels = check_labels(labels)
        names, self.group = np.unique(self.labels, return_inverse=True)
        self._names = names.tolist()
        sizes = np.bincount(self.group)
        self.at_most = _by_group(at_most, self._names, "at_most", sizes)
        self.at_least = _by_group(at_least, self._names, "at_least", np.zeros_like(sizes))
        self.count = None if count is None else check_count(count, "count", 1)
        self.floors = bool(self.at_least.any())
        for g in np.flatnonzero(self.at_least > self.at_most)[:1]:
            raise ValueError(
                f"at_least is {self.at_least[g]} for {self._names[g]!r}, of which at most "
                f"{self.at_most[g]} can be selected"
            )
        if self.count is not None and (need := int(self.at_least.sum())) > self.count:
            raise ValueError(f"count is {self.count}, but at_least asks for {need} in all")

    def __repr__(self) -> str:
        return f"Groups({len(self._names)} groups, count={self.count})"

    def start(self, closed: np.ndarray, given: np.ndarray) -> State:
        """An empty selection."""
        if len(self.group) != len(closed):
            raise ValueError(
                f"labels must have one entry for each of {len(closed)} candidates, not "
                f"{len(self.group)}"
            )
        left = np.bincount(self.group[~closed], minlength=len(self._names))
        for g in np.flatnonzero(self.at_least > left)[:1]:
            raise ValueError(
                f"at_least is {self.at_least[g]} for {self._names[g]!r}, of which only {left[g]} "
                "are neither given nor excluded"
            )
        room = np.minimum(self.at_most, left)
        count = int(room.sum()) if self.count is None else self.count
        if self.count is not None:
            check_enough(count, closed, "count")
        if count > room.sum():
            raise ValueError(f"count is {count}, but at_most leaves only {room.sum()} in all")
        return _Quotas(self.group, room, self.at_least.copy(), count)

    def most_of(self, gains: np.ndarray) -> float:
        """The sum of the largest gains that the limits of the groups and the count allow."""
        order = np.lexsort((-gains, self.group))
        starts = np.searchsorted(self.group[order], np.arange(len(self._names)))
        rank = np.arange(len(order)) - starts[self.group[order]]
        some = gains[order[rank < self.at_most[self.group[order]]]]
        return largest(some, len(some) if self.count is None else self.count)


class _Quotas(State):
    def __init__(self, group: np.ndarray, room: np.ndarray, need: np.ndarray, count: int) -> None:
        self._group, self._room, self._need = group, room, need
        self.most = count
        self._left = count

    @property
    def _slack(self) -> int:
        """The number of picks that are not reserved for a group in need."""
        return self._left - int(self._need.sum())

    def safe(self) -> int:
        if not self._left:
            return 0
        if not self._slack:
            return int(self._need[self._need > 0].min())
        return int(min(self._slack, self._room.min(where=self._room > 0, initial=self._slack)))

    def close(self, closed: np.ndarray) -> None:
        open_ = self._room > 0 if self._slack else self._need > 0
        if not open_.all():
            closed |= ~open_[self._group]

    def add(self, elements: np.ndarray) -> None:
        added = np.bincount(self._group[elements], minlength=len(self._room))
        self._room = self._room - added
        self._need = np.maximum(self._need - added, 0)
        self._left -= len(elements)


def _by_group(numbers: Any, names: list, name: str, otherwise: np.ndarray) -> np.ndarray:
    """One number for each group, from a single number or from a mapping of labels to numbers."""
    if numbers is None:
        return otherwise
    values = otherwise.copy()
    if not isinstance(numbers, Mapping):
        values[:] = check_count(numbers, name, 0)
        return values
    at = {label: g for g, label in enumerate(names)}
    for label, number in numbers.items():
        if label not in at:
            raise ValueError(f"{name} names {label!r}, which is not the label of any candidate")
        values[at[label]] = check_count(number, f"{name}[{label!r}]", 0)
    return values
