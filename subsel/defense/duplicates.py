"""Near-duplicates: examples that occur more than once, or nearly so."""

from typing import Any

import numpy as np
import torch

from subsel.defense.data import as_tensor
from subsel.defense.evidence import BLOCK, nearest
from subsel.validation import as_host_array

__all__ = ["distinct", "duplicate_groups"]

NEAR = 0.25  # of the distance at which an example of the class usually has its nearest neighbour


def distinct(inputs: Any, labels: Any, *, near: float = NEAR) -> np.ndarray:
    """The examples that have no earlier near-duplicate with the same label.

    An attacker who knows that EPIC drops isolated examples submits each poison in several copies.
    So drop near-duplicates first, and train on the examples that this returns.

    Parameters
    ----------
    inputs : array_like or Tensor (n, ...)
        Images or features.
    labels : array_like or Tensor of int (n,)
    near : float, default 0.25
        Two examples of a class are near-duplicates if their Euclidean distance is less than this
        share of the class's median distance to the nearest other example.

    Returns
    -------
    ndarray of int64
        Ascending.

    Raises
    ------
    TypeError, ValueError
        If inputs and labels do not fit, or inputs have fewer than two dimensions or are not finite.

    Notes
    -----
    Time O(n^2 values / classes).  Distances are computed in blocks; the matrix of all distances is
    never in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from subsel.defense import distinct
    >>> distinct(np.array([[0.0], [4.0], [0.1], [8.0]]), np.zeros(4, int)).tolist()
    [0, 1, 3]
    """
    points = as_tensor(as_host_array(inputs, "inputs"), "inputs")
    if not points.isfinite().all():
        raise ValueError("inputs must be finite, but have NaN or inf")
    return np.flatnonzero(_first_like_it(points, labels, near) == -1)


def duplicate_groups(inputs: Any, labels: Any, *, near: float = NEAR) -> list[np.ndarray]:
    """Groups of near-duplicates, the largest first; parameters are those of `distinct`.

    An example belongs to the group of the first example of which it is a near-duplicate.
    """
    first = _first_like_it(inputs, labels, near)
    root = np.where(first == -1, np.arange(len(first)), first)
    for i in range(len(root)):  # ascending, so earlier examples are decided first
        root[i] = root[root[i]]
    groups = [np.flatnonzero(root == r) for r in np.unique(root[first != -1])]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _first_like_it(inputs: Any, labels: Any, near: float) -> np.ndarray:
    """For each example the first near-duplicate before it, or -1."""
    if not isinstance(near, int | float | np.number) or isinstance(near, bool) or not near > 0:
        raise ValueError(f"near must be greater than 0, got {near!r}")
    labels = as_host_array(labels, "labels")
    points = as_tensor(as_host_array(inputs, "inputs"), "inputs")
    if points.ndim < 2:
        raise ValueError(f"inputs must be (n, ...), at least 2-D, got {tuple(points.shape)}")
    points = points.flatten(1).float()
    if labels.shape != (len(points),):
        raise ValueError(f"labels must be ({len(points)},) as inputs, got {labels.shape}")
    first = np.full(len(labels), -1)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        _, far = nearest(points, members, members)
        if len(members) < 2:
            continue
        limit = near * float(torch.from_numpy(far).median())
        close = members[far < limit]
        own = points[close]
        step = max(1, BLOCK // max(1, len(close)))
        for start in range(0, len(close), step):
            distances = torch.cdist(
                own[start : start + step], own, compute_mode="donot_use_mm_for_euclid_dist"
            )
            before = (distances < limit).tril(start - 1).numpy()
            has = before.any(axis=1)
            first[close[start : start + step][has]] = close[before.argmax(axis=1)[has]]
    return first
