"""Selection from rows that pass by once, in chunks."""

import copy
from dataclasses import dataclass, field
from numbers import Number

import numpy as np

from subsel.kernels import cpu
from subsel.objectives import FacilityLocation
from subsel.optimizers.run import Run
from subsel.optimizers.sieve_streaming import Sieves
from subsel.selection import Selection, sizes_of
from subsel.sources.dense import DenseSimilarity
from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_scalar,
    check_choice,
    check_count,
    check_entries,
    check_matrix_shape,
    check_number,
    read_only,
)

STREAM_METRICS = ("euclidean", "cosine", "rbf")


@dataclass(frozen=True, eq=False, repr=False)
class StreamSelection(Selection):
    """A selection from a stream, with the selected rows themselves.

    Attributes
    ----------
    features : ndarray of float64, shape (k, d)
        The selected rows. `indices` are their positions in the stream. `assignment` and `sizes` are
        those of the points; a point to which no selected row is similar has the assignment -1.
    """

    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class StreamSelector:
    """Sieve streaming over rows that pass by once, in chunks, in bounded memory.

    Maximizes facility location: F(S) is the sum over some points of the largest similarity to a
    selected row. Facility location needs points that are represented, and a stream cannot be kept.
    So a sample represents all of its rows: `points`. They are fixed before the first row is
    considered.

    Parameters
    ----------
    budget : int
        How many rows to select, at least 1.
    points : int or array_like, shape (r, d), default 1000
        The rows that are represented: features of a sample of the stream. A number means that many
        rows from the start of the stream, which are a uniform sample only if the stream is in
        random order. If it is not, give a sample.
    metric : {"euclidean", "cosine", "rbf"}, default "euclidean"
        Similarity of a point p and a row x, at least 0, computed in float64:

        - ``"euclidean"``: max(c0 - ||p - x||, 0), where c0 is twice the largest distance of a point
          to the middle of the points' ranges (1 if all points are equal);
        - ``"cosine"``: 1 + cos(p, x), where a row of zeros is orthogonal to all others;
        - ``"rbf"``: exp(-||p - x||^2 / d).
    epsilon : float, default 0.1
        In (0, 1). See `sieve_streaming`.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above, or `points` has NaN or inf (said where), or spreads
        too far for float64.

    Notes
    -----
    F is at least 1/2 - epsilon of the largest possible for these points, in any order of the rows.
    For F over all rows there is no guarantee here. Badanidiyuru et al. show how well a uniform
    sample represents all rows, depending on its size; the first rows of a stream are such a sample
    only if it is in random order.

    Memory beside the chunk: the points, O(k / epsilon) rows that are kept, fewer than max(512, 4 k)
    rows that wait to be judged together, and the similarities of the points to all of these.
    The selection does not depend on how the rows are divided into chunks. The object has all of the
    state: if it is pickled and read again, it continues exactly as before. Ctrl-C during
    `partial_fit` leaves it as it was before that chunk.

    References
    ----------
    Kazemi, Mitrovic, Zadimoghaddam, Lattanzi, Karbasi (2019), "Submodular streaming in all its
    glory: tight approximation, minimum memory and low adaptive complexity", Algorithm 1.
    Badanidiyuru, Mirzasoleiman, Karbasi, Krause (2014), "Streaming submodular maximization: massive
    data summarization on the fly", for a sample that stands for all.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> selector = subsel.StreamSelector(2, points=[[0.0], [0.2], [5.0]])
    >>> for chunk in ([[0.1], [9.0]], [[5.1], [0.0]]):
    ...     selector = selector.partial_fit(chunk)
    >>> chosen = selector.result()
    >>> chosen.indices, chosen.features.ravel()
    (array([0, 2]), array([0.1, 5.1]))
    """

    def __init__(
        self,
        budget: int,
        points: int | ArrayLike = 1000,
        *,
        metric: str = "euclidean",
        epsilon: float = 0.1,
    ) -> None:
        k = check_count(budget, "budget", 1)
        self._metric = check_choice(metric, STREAM_METRICS, "metric")
        self._sieves = Sieves(k, float(check_number(epsilon, "epsilon", 0, 1)))
        self._points: np.ndarray | None = None
        self._largest = {"cosine": 2.0, "rbf": 1.0}.get(metric, 0.0)
        self._wanted = 0
        self._d: int | None = None
        self._evaluations = 0
        self.n_rows = 0
        self._waiting = self._kept = np.empty((0, 0))
        self._at = np.empty(0, np.int64)
        if points is None or isinstance(as_scalar(points), Number | np.generic | str):
            self._wanted = check_count(points, "points", 1)
        else:
            self._begin(self._checked(points, "points"))

    def __repr__(self) -> str:
        metric = "" if self._metric == "euclidean" else f", metric={self._metric!r}"
        return f"StreamSelector(budget={self._sieves.k}, n_rows={self.n_rows}{metric})"

    def partial_fit(self, chunk: ArrayLike) -> "StreamSelector":
        """Process the next rows of the stream.

        Parameters
        ----------
        chunk : array_like, shape (m, d)
            Features: finite, any real dtype, computed in float64.

        Returns
        -------
        StreamSelector
            Itself.

        Raises
        ------
        ValueError, TypeError
            If the chunk is not 2-D, is empty, has NaN or inf (said where), or other columns than
            the rows before. The state is then unchanged.
        """
        before = dict(vars(self))
        self._sieves = copy.deepcopy(self._sieves)
        try:
            self._judge(self._checked(chunk, "chunk"))
        except BaseException:  # including Ctrl-C
            vars(self).update(before)
            raise
        return self

    def result(self) -> StreamSelection:
        """The selection from the rows that were processed; more may follow.

        Returns
        -------
        StreamSelection
            At most k rows. `stopped` is ``"exhausted"`` if they are fewer. `bound` is None.

        Raises
        ------
        ValueError
            If no row was processed.
        """
        if not self.n_rows:
            raise ValueError("no rows were processed yet: call partial_fit first")
        last = copy.deepcopy(self)
        if last._points is None:
            last._begin(last._waiting.copy())
        rows, step = last._waiting, last._sieves.step
        for start in range(0, len(rows), step):
            last._take(rows[start : start + step], last.n_rows - len(rows) + start)
        return last._selection()

    def _judge(self, rows: np.ndarray) -> None:
        """Take the next rows, as far as they fill blocks."""
        waiting = rows if self.n_rows == 0 else np.concatenate([self._waiting, rows])
        if self.n_rows == 0:
            self._kept = rows[:0].copy()
        if self._points is None and len(waiting) >= self._wanted:
            self._begin(waiting[: self._wanted].copy())
        self.n_rows += len(rows)
        step = self._sieves.step
        done = 0
        while self._points is not None and len(waiting) - done >= step:
            self._take(waiting[done : done + step], self.n_rows - len(waiting) + done)
            done += step
        self._waiting = waiting[done:].copy()

    def _checked(self, X: ArrayLike, name: str) -> np.ndarray:
        array = as_float_array(X, name)
        check_matrix_shape(array.shape, name, "(rows, d)")
        if self._d not in (None, array.shape[1]):
            raise ValueError(f"{name} must have {self._d} columns, not {array.shape[1]}")
        check_entries(array, name)
        self._d = array.shape[1]
        return array.astype(np.float64)

    def _begin(self, points: np.ndarray) -> None:
        """Fix the points."""
        if self._metric == "euclidean":
            low, high = points.min(axis=0), points.max(axis=0)
            middle = low / 2 + high / 2
            self._largest = 2 * float(_distances(points, middle[None], "euclidean").max()) or 1.0
        if not self._largest < _FARTHEST:
            raise ValueError(f"points spread over {self._largest:g}, too far; rescale the features")
        self._points = self._ready(points)

    def _ready(self, rows: np.ndarray) -> np.ndarray:
        """The points in the form from which distances are computed."""
        if self._metric != "cosine":
            return rows
        unit = np.empty((len(rows), rows.shape[1] + 1))
        cpu.unit_rows(read_only(rows), unit)
        return unit

    def _objective(self, rows: np.ndarray) -> FacilityLocation:
        """An objective on the points, with some rows as candidates."""
        ready, points = self._ready(rows), self._points
        assert points is not None
        if self._metric == "euclidean":
            matrix = np.maximum(self._largest - _distances(points, ready, "euclidean"), 0)
        else:
            squares = _distances(points, ready, "sqeuclidean")
            cosine = self._metric == "cosine"
            matrix = np.maximum(2 - squares / 2, 0) if cosine else np.exp(-squares / rows.shape[1])
        span = self._largest
        return FacilityLocation.of(DenseSimilarity(read_only(matrix), span=span, symmetric=False))

    def _take(self, rows: np.ndarray, first: int) -> None:
        """Let the sieves judge rows, the first of which stands at `first` in the stream."""
        candidates = np.concatenate([self._kept, rows])
        at = np.append(self._at, np.arange(first, first + len(rows)))
        f = self._objective(candidates)
        with Run("StreamSelector", f, min(self._sieves.k, f.n)) as run:
            self._sieves.take(run, np.arange(len(self._kept), f.n))
        self._evaluations += run.evaluations
        kept = self._sieves.elements()
        for sieve in self._sieves.all:
            sieve.elements = np.searchsorted(kept, sieve.elements).tolist()
        self._kept, self._at = candidates[kept], at[kept]

    def _selection(self) -> StreamSelection:
        """The selection from the rows that are kept."""
        k = self._sieves.k
        if not len(self._kept):  # nothing is similar to any point
            assert self._points is not None
            return StreamSelection(
                np.empty(0, np.int64), np.empty(0), 0.0, self._evaluations, path="dense",
                assignment=np.full(len(self._points), -1), sizes=np.empty(0, np.int64),
                stopped="exhausted", features=self._kept,
            )  # fmt: skip
        f = self._objective(self._kept)
        with Run("StreamSelector", f, min(k, f.n)) as run:
            best = self._sieves.best(run)
            run.took(np.array(best.elements, np.int64), np.array(best.gains))
            found = run.selection()
        assignment = f.assignment
        fields = vars(found) | {
            "indices": self._at[found.indices],
            "features": self._kept[found.indices],
            "assignment": assignment,
            "sizes": sizes_of(assignment, len(found)),
            "stopped": "budget" if len(found) == k else "exhausted",
            "n_evaluations": self._evaluations + run.evaluations,
            "bound": None,
        }
        return StreamSelection(**fields)


_FARTHEST = 1e150
"""Spread of points up to which squares of distances are finite."""


def _distances(points: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    from scipy.spatial.distance import cdist  # takes longer to import than subsel

    return cdist(points, rows, metric)
