"""Pictures of a selection. Every function draws on the axes that it is given, and returns them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise ImportError(
        'subsel.plots needs matplotlib: pip install matplotlib (or "subsel[plots]")'
    ) from error

from subsel.validation import (
    ArrayLike,
    as_float_array,
    as_host_array,
    check_count,
    check_entries,
    check_labels,
    check_matrix_shape,
    check_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from subsel.selection import Selection

__all__ = ["balance", "contact_sheet", "curve", "map"]

_CHOSEN, _ALL = "#c03a2b", "#8fa8c4"
_COVERED = 0.03
"""The part of a map that the markers of all selected elements cover together."""


def curve(
    selection: "Selection",
    ax: "Axes | None" = None,
    *,
    enough: float = 0.9,
    everything: float | None = None,
) -> "Axes":
    """F after each pick, the bound, and how many picks are enough.

    Parameters
    ----------
    selection : Selection
        Of at least one element.
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.
    enough : float, default 0.9
        In (0, 1]. The smallest number of picks that reach this part of F is marked.
    everything : float, optional
        F of all elements, if it is known (``f.value(range(f.n))``). F is then shown as a part of
        it, and `enough` is a part of it. Default: F of the whole selection.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If the selection is empty, its F is not positive, or an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> chosen = subsel.select(np.random.default_rng(0).normal(size=(200, 2)), 30)
    >>> ax = subsel.plots.curve(chosen)
    >>> ax.get_xlabel()
    'selected'
    """
    if not len(_indices(selection)):
        raise ValueError("selection is empty: there is no curve to draw")
    values = np.asarray(selection.values, float)
    enough = check_number(enough, "enough", 0, 1, ends="(]")
    unit = 1.0 if everything is None else float(check_number(everything, "everything", 0))
    of_what = "F" if everything is None else "F of everything"
    wanted = enough * (values[-1] if everything is None else unit)
    if values[-1] <= 0:
        raise ValueError(f"F of the selection is {values[-1]:g}; a curve needs it to be positive")

    ax = _axes(ax)
    counts = np.arange(1, len(values) + 1)
    ax.plot(counts, values / unit, color=_CHOSEN, lw=2, marker="." if len(values) < 30 else "")
    if selection.bound is not None and np.isfinite(selection.bound):
        bound = selection.bound / unit
        ax.plot(counts[-1:], [bound], "v", color="0.3", ms=6, label="no selection exceeds this")
    reached = np.flatnonzero(values >= wanted)
    if len(reached):
        k = int(counts[reached[0]])
        ax.plot([k, k, 0], [0, wanted / unit, wanted / unit], color="0.4", lw=1, ls=":")
        ax.plot(
            [k], [values[k - 1] / unit], "o", color=_CHOSEN, ms=7,
            label=f"{k} selected reach {enough:.0%} of {of_what}",
        )  # fmt: skip
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower right", fontsize="small", frameon=False)
    ax.set(xlabel="selected", ylabel="F" if everything is None else "part of F of everything")
    ax.set_xlim(0, len(values) * 1.04)
    ax.set_ylim(bottom=min(0.0, float(values.min()) / unit))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if everything is not None:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    _plain(ax)
    return ax


def map(
    X: ArrayLike,
    selection: "Selection",
    ax: "Axes | None" = None,
    *,
    labels: ArrayLike | None = None,
    lines: bool = True,
) -> "Axes":
    """All points in two dimensions; the size of a selected one shows how many it represents.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Positions, if d = 2. Else features, of which the first two principal components are shown.
    selection : Selection
        Its `indices` are rows of X.
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.
    labels : array_like of int, bool or str, shape (n,), optional
        Class of each row, shown by colour.
    lines : bool, default True
        Join each point to the selected one that represents it, where that is known.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If X is not 2-D, or has NaN or inf, or if an argument does not fit to it.

    Notes
    -----
    The area of a marker is proportional to `Selection.sizes`. O(n d^2) for the components.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> ax = subsel.plots.map(X, subsel.select(X, 10))
    >>> len(ax.collections)
    3
    """
    chosen = _indices(selection)
    points = _in_the_plane(X)
    if len(chosen) and chosen.max() >= len(points):
        raise ValueError(f"X has {len(points)} rows, but row {chosen.max()} is selected")
    assignment = None if selection.assignment is None else np.asarray(selection.assignment)
    if assignment is not None and len(assignment) != len(points):
        raise ValueError(
            f"X must have {len(assignment)} rows, as many as points, not {len(points)}"
        )

    ax = _axes(ax)
    colours: Any = _ALL
    if labels is not None:
        classes, kinds = np.unique(check_labels(labels, len(points)), return_inverse=True)
        colours = _colours(len(classes))[kinds]
    if lines and assignment is not None:
        covered = np.flatnonzero(assignment >= 0)
        ends = np.stack([points[covered], points[chosen[assignment[covered]]]], axis=1)
        own = colours if isinstance(colours, str) else colours[covered]
        ax.add_collection(
            LineCollection(list(ends), colors=own, lw=0.5, alpha=0.45, zorder=1, rasterized=True)
        )
    small = float(np.clip(3000 / len(points), 1, 9))
    x, y = points.T
    ax.scatter(x, y, s=small, c=colours, lw=0, zorder=2, rasterized=True)
    box = ax.get_window_extent()
    room = box.width * box.height * (72 / ax.figure.dpi) ** 2  # in points, as areas of markers are
    sizes = np.ones(len(chosen)) if selection.sizes is None else np.asarray(selection.sizes)
    areas = np.maximum(_COVERED * room * sizes / max(1, sizes.sum()), 8)
    ax.scatter(x[chosen], y[chosen], s=areas, c=_CHOSEN, lw=0.6, edgecolors="white", zorder=3)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.margins(0.06)
    return ax


def balance(labels: ArrayLike, selection: "Selection", ax: "Axes | None" = None) -> "Axes":
    """The share of each class among all elements and among the selected ones.

    Parameters
    ----------
    labels : array_like of int, bool or str, shape (n,)
        Class of each element.
    selection : Selection
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If `labels` are not 1-D, or too few for the selection.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> ax = subsel.plots.balance(["a", "a", "a", "b", "b"], subsel.select(X, 2))
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['a', 'b']
    """
    chosen = _indices(selection)
    every = check_labels(labels)
    if not len(chosen):
        raise ValueError("selection is empty: it has no classes")
    if chosen.max() >= len(every):
        raise ValueError(f"labels has {len(every)} entries, but element {chosen.max()} is selected")
    classes, kinds = np.unique(every, return_inverse=True)
    before = np.bincount(kinds, minlength=len(classes)) / len(every)
    after = np.bincount(kinds[chosen], minlength=len(classes)) / len(chosen)

    ax = _axes(ax)
    at = np.arange(len(classes))
    ax.barh(at - 0.2, before, 0.38, color=_ALL, label=f"all {len(every):,}")
    ax.barh(at + 0.2, after, 0.38, color=_CHOSEN, label=f"selected {len(chosen):,}")
    ax.set_yticks(at, [str(name) for name in classes.tolist()])
    ax.invert_yaxis()
    ax.set_xlabel("share")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False
    )
    _plain(ax)
    return ax


def contact_sheet(
    images: "np.ndarray | Sequence[ArrayLike]",
    selection: "Selection",
    ax: "Axes | None" = None,
    *,
    columns: int | None = None,
    most: int = 24,
) -> "Axes":
    """The selected images, each with the number of images that it represents.

    Parameters
    ----------
    images : array_like, shape (n, height, width) or (n, height, width, 3 or 4)
        All images, grey or in colours, as `imshow` of matplotlib takes them. Also a sequence of
        images of different sizes, of which only the selected ones are read.
    selection : Selection
    ax : matplotlib Axes, optional
        Where to draw; default a new figure.
    columns : int, optional
        Images side by side. Default: as many as make the sheet about as wide as it is high.
    most : int, default 24
        Show at most so many, the first that were selected.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> images = np.random.default_rng(0).random((50, 8, 8))
    >>> ax = subsel.plots.contact_sheet(images, subsel.select(images.reshape(50, 64), 6))
    >>> len(ax.images)
    6
    """
    shown = _indices(selection)[: check_count(most, "most", 1)]
    if not len(shown):
        raise ValueError("selection is empty: there is no image to show")
    if shown.max() >= len(images):
        raise ValueError(f"there are {len(images)} images, but image {shown.max()} is selected")
    across = int(np.ceil(np.sqrt(len(shown)))) if columns is None else columns
    across = min(check_count(across, "columns", 1), len(shown))

    ax = _axes(ax)
    for place, index in enumerate(shown):
        down, right = divmod(place, across)
        picture = as_host_array(images[int(index)], f"images[{index}]")
        if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[2] not in (1, 3, 4)):
            raise ValueError(
                f"images[{index}] must be (height, width), or (height, width, 1, 3 or 4) with "
                f"the colours last, not of shape {picture.shape}"
            )
        high, wide = np.array(picture.shape[:2]) / max(picture.shape[:2])
        left, top = right + (1 - wide) / 2, -1.3 * down - (1 - high) / 2
        ax.imshow(picture, cmap="gray_r", extent=(left, left + wide, top - high, top))
        if selection.sizes is not None:
            size = int(selection.sizes[place])
            ax.text(right + 0.5, -1.3 * down - 1.05, f"{size:,}", ha="center", va="top", size=8)
    rows = -(-len(shown) // across)
    ax.set(xlim=(-0.05, across + 0.05), ylim=(-1.3 * rows - 0.05, 0.05), aspect="equal")
    ax.set_axis_off()
    return ax


def _indices(selection: "Selection") -> np.ndarray:
    """What is selected, if this is a selection."""
    if not hasattr(selection, "indices"):
        raise TypeError(
            f"selection must be a Selection, as a search returns it, "
            f"not of type {type(selection).__name__}"
        )
    return np.asarray(selection.indices)


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None and not hasattr(ax, "scatter"):
        raise TypeError(f"ax must be one Axes of matplotlib, not of type {type(ax).__name__}")
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _plain(ax: "Axes") -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _in_the_plane(X: ArrayLike) -> np.ndarray:
    """Two numbers for each row: the columns of X, or its first two principal components."""
    features = as_float_array(X, "X")
    check_matrix_shape(features.shape, "X", "(n, d)")
    check_entries(features, "X")
    if features.shape[1] == 2:
        return features
    if features.shape[1] == 1:
        return np.column_stack([features[:, 0], np.zeros(len(features))])
    centred = features - features.mean(axis=0, dtype=np.float64)
    scaled = centred / (np.abs(centred).max() or 1)  # squares neither overflow nor vanish
    return centred @ np.linalg.eigh(scaled.T @ scaled)[1][:, :-3:-1]


def _colours(count: int) -> np.ndarray:
    import matplotlib as mpl

    name = "tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"
    chosen = mpl.colormaps[name]
    return chosen(np.arange(count)) if count <= 20 else chosen(np.linspace(0, 1, count))
