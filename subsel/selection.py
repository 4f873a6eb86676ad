"""The result of a selection."""

import math
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from subsel.validation import check_choice

_SHOWN = 6
"""The number of classes that a repr names."""


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """What an optimizer selected.

    Attributes
    ----------
    indices : ndarray of int64, shape (k,)
        Selected elements (columns of the similarity, rows of the features), in order of selection.
    gains : ndarray of float64, shape (k,)
        Marginal gain of each at the time it was selected.
    value : float
        The objective's value F of the whole selection.
    n_evaluations : int
        Work done, in marginal gains evaluated over all points. Objectives that keep their gains up
        to date (facility location) count the similarities that they computed, divided by the number
        of points and rounded up.
    assignment : ndarray of int64, shape (n,), or None
        For each point the position in `indices` of the element that represents it. Among equally
        similar elements, the earliest one represents the point. With labels, the element is always
        of the point's own class. -1 means that no selected element represents the point; see
        `uncovered`.
    sizes : ndarray of int64, shape (k,), or None
        Number of points assigned to each selected element (CRAIG's weights). The sizes sum to the
        number of points that have a representative.
    values : ndarray of float64, shape (k,)
        F after each pick, including given elements; the last is `value`.
    stopped : str
        Why the search ended: ``"budget"`` (the constraint is full), ``"target"``, ``"coverage"``,
        ``"min_gain"``, or ``"exhausted"`` (no candidate was left).
    bound : float or None
        An upper bound of the largest F of any selection under the same constraint, with the same
        elements given and excluded: ``value / bound`` is a proven fraction of the optimum, usually
        far above the guarantee of the algorithm. None if the objective is not both monotone and
        submodular, or if the bound was not computed (`subsel.greedi`).
    cost : float or None
        The total cost of the selection, under a `subsel.constraints.Knapsack`.
    path : str
        How the similarities were obtained: ``"features"`` (recomputed), ``"dense"`` or
        ``"sparse"`` (in memory), ``"cuda features"`` or ``"cuda dense"`` (the same on a GPU),
        ``"mixed"`` if classes differ, or ``""`` for other objectives. If ``method="auto"`` searched
        only some of the rows, it says so: ``"features: 100000 of 2000000 rows"``.
    per_class : dict of label to int, or None
        With labels: the number of selected elements of each class.
    """

    indices: np.ndarray
    gains: np.ndarray
    value: float
    n_evaluations: int
    assignment: np.ndarray | None = None
    sizes: np.ndarray | None = None
    path: str = ""
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    stopped: str = "budget"
    bound: float | None = None
    cost: float | None = None
    per_class: dict[Any, int] | None = None

    def __repr__(self) -> str:
        parts = [f"k={len(self)}", f"F={self.value:.6g}"]
        if (share := proven(self)) is not None:
            parts.append(f"proven={share:g}")
        if self.cost is not None:
            parts.append(f"cost={self.cost:g}")
        if self.per_class is not None:
            some = [f"{label!r}: {count}" for label, count in [*self.per_class.items()][:_SHOWN]]
            more = [f"and {len(self.per_class) - _SHOWN} more"] * (len(self.per_class) > _SHOWN)
            parts.append(f"per_class={{{', '.join(some + more)}}}")
        if self.stopped != "budget":
            parts.append(f"stopped={self.stopped!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def uncovered(self) -> int | None:
        """The number of points without a representative; None without an assignment."""
        return None if self.assignment is None else int(np.count_nonzero(self.assignment < 0))

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw F after each pick, its bound, and how many picks are enough (`subsel.plots.curve`).

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        **options
            Other arguments of `subsel.plots.curve`.

        Returns
        -------
        matplotlib Axes
        """
        from subsel.plots import curve

        return curve(self, ax, **options)

    def columns(self) -> dict[str, np.ndarray]:
        """The row, rank (from 1), gain and, if known, size of each selected element."""
        known = {
            "row": self.indices,
            "rank": np.arange(1, len(self) + 1),
            "gain": self.gains,
            "size": self.sizes,
        }
        return {name: column for name, column in known.items() if column is not None}

    def to_frame(self, backend: str = "pandas") -> Any:
        """The selected elements as a table, in order of selection.

        Parameters
        ----------
        backend : {"pandas", "polars", "pyarrow"}, default "pandas"
            The library of the table.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table
            With the columns ``row`` (the index), ``rank`` (1 is the first that was selected),
            ``gain``, and ``size`` (how many points it represents) for facility location.

        Raises
        ------
        ImportError
            If the library is not installed.
        """
        check_choice(backend, ("pandas", "polars", "pyarrow"), "backend")
        try:
            library = import_module(backend)
        except ImportError:
            raise ImportError(
                f"to_frame makes a table of {backend}, which is not installed: pip install "
                f"{backend}, or name another as backend='pandas', 'polars' or 'pyarrow'"
            ) from None
        make = library.table if backend == "pyarrow" else library.DataFrame
        return make(self.columns())

    def to_torch(self, device: Any = None) -> "Selection":
        """A copy with torch tensors in place of NumPy arrays.

        Parameters
        ----------
        device : torch.device or str, optional
            Where to put them; default the CPU.
        """
        import torch

        arrays = {
            name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        tensors: Any = {name: torch.tensor(a, device=device) for name, a in arrays.items()}
        return replace(self, **tensors)


if TYPE_CHECKING:

    class Representation(Selection):
        """A selection that is known to have an assignment and sizes, for type checkers."""

        assignment: np.ndarray
        sizes: np.ndarray


def proven(selection: Selection) -> float | None:
    """The fraction of the largest possible F that is proven, rounded down to three digits."""
    if selection.bound is None or not 0 < selection.bound < math.inf:
        return None
    return math.floor(1000 * selection.value / selection.bound) / 1000


def sizes_of(assignment: np.ndarray, k: int) -> np.ndarray:
    """The number of points assigned to each of k elements; -1 counts for no element."""
    return np.bincount(assignment[assignment >= 0], minlength=k)


def by_falling_gain(gains: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The order that merges the picks of several parts by decreasing gain.

    Returns the order, as positions in the concatenated gains, and for each part the positions of
    its picks in that order. Among equal gains the earlier part and the earlier pick come first.
    """
    ranking, place = _falling(np.concatenate(gains))
    return ranking, np.split(place, np.cumsum([len(own) for own in gains])[:-1])


def _falling(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of decreasing gains, and the position of each in it."""
    ranking = np.argsort(-gains, kind="stable")
    place = np.empty_like(ranking)
    place[ranking] = np.arange(len(ranking))
    return ranking, place


def bound_of_greedy(gains: np.ndarray, k: int, base: float = 0.0) -> float:
    """An upper bound of F of any k elements, from the gains of greedy; F starts at `base`.

    At each prefix, no element could gain more than the one that greedy selected.
    """
    before = base + np.cumsum(gains) - gains
    return float((before + np.maximum(gains, 0) * k).min(initial=math.inf))


class Union:
    """The selections of disjoint classes of n rows, until they are merged by decreasing gain.

    Parameters
    ----------
    sizes, counts : ndarray of int64, shape (classes,)
        The number of rows of each class, and how many of them are selected.

    Notes
    -----
    Several threads may `add` classes at a time, each its own.
    """

    def __init__(self, sizes: np.ndarray, counts: np.ndarray) -> None:
        self.sizes, self.counts = sizes, counts
        self._starts = np.cumsum(counts) - counts
        self._indices, self._gains = np.empty(counts.sum(), np.int64), np.empty(counts.sum())
        self._assignment = np.full(sizes.sum(), -1)
        self._bases, self._work = np.zeros(len(sizes)), np.zeros(len(sizes), np.int64)
        self._bounds = np.full(len(sizes), math.nan)
        self._paths: set[str] = set()

    def add(self, c: int, rows: np.ndarray, part: Selection) -> None:
        """Add the selection of one class, which has these rows."""
        assert part.assignment is not None
        one = np.array([c])
        self._put(one, rows, part.indices, part.gains, part.assignment, part.n_evaluations)
        self._bases[c] = part.value - math.fsum(part.gains)  # F of what is given
        self._bounds[c] = math.nan if part.bound is None else part.bound
        self._paths.add(part.path)

    def add_all(
        self, classes: np.ndarray, rows: np.ndarray, elements: np.ndarray, gains: np.ndarray,
        assignment: np.ndarray, bounds: np.ndarray, path: str,
    ) -> None:  # fmt: skip
        """Add those of several classes, one after the other, of which all pairs were compared."""
        self._put(classes, rows, elements, gains, assignment, self.sizes[classes])
        self._bounds[classes] = bounds
        self._paths.add(path)

    def _put(
        self, classes: np.ndarray, rows: np.ndarray, elements: np.ndarray, gains: np.ndarray,
        assignment: np.ndarray, evaluations: Any,
    ) -> None:  # fmt: skip
        counts = self.counts[classes]
        before = np.cumsum(counts) - counts
        place = (self._starts[classes] - before).repeat(counts) + np.arange(counts.sum())
        self._indices[place], self._gains[place] = rows[elements], gains
        # The last entry stands for -1, a point that nothing represents.
        self._assignment[rows] = np.append(place, -1)[assignment]
        self._work[classes] = evaluations * self.sizes[classes]

    def merged(self, names: list | None = None) -> Selection:
        """All selections as one. Among equal gains the earlier class comes first.

        Parameters
        ----------
        names : list, optional
            The labels of the classes.
        """
        n, k = len(self._assignment), len(self._indices)
        ranking, place = _falling(self._gains)
        gains = self._gains[ranking]
        assignment = np.append(place, -1)[self._assignment]
        certified = not np.isnan(self._bounds).any()
        return Selection(
            indices=self._indices[ranking],
            gains=gains,
            value=math.fsum([*self._gains, *self._bases]),
            n_evaluations=-(-int(self._work.sum()) // n),
            assignment=assignment,
            sizes=sizes_of(assignment, k),
            path=next(iter(self._paths)) if len(self._paths) == 1 else "mixed",
            values=math.fsum(self._bases) + np.cumsum(gains),
            bound=math.fsum(self._bounds) if certified else None,
            per_class=None
            if names is None
            else dict(zip(names, self.counts.tolist(), strict=True)),
        )
