"""The front door: features in, the most representative rows out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from subsel import sources
from subsel.kernels import cpu
from subsel.objectives import FacilityLocation
from subsel.objectives.disjoint import side_by_side, together
from subsel.optimizers import greedy, lazy_greedy, stochastic_greedy
from subsel.selection import Selection, merged, sizes_of
from subsel.sources import METRICS
from subsel.validation import (
    ArrayLike,
    as_scalar,
    check_budget,
    check_choice,
    check_labels,
    check_memory,
    check_random_state,
    portion,
)

METHODS = ("lazy", "greedy", "stochastic")


def select(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int],
    *,
    labels: ArrayLike | None = None,
    metric: str = "euclidean",
    method: str = "lazy",
    backend: str = "auto",
    random_state: int | np.random.Generator | None = None,
    memory: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select the rows of a feature matrix that best represent all rows, or those of each class.

    Maximizes facility location over the similarities of `metric`; see
    `FacilityLocation.from_features`.

    Parameters
    ----------
    X : array_like or scipy sparse matrix, shape (n, d)
        Features (embeddings, gradients): finite, any real dtype. Sparse ones, such as TF-IDF, are
        for ``"cosine"`` and ``"dot"``, and are not made dense. May lie in a GPU's memory: a torch
        tensor, or anything with ``__cuda_array_interface__`` or DLPack.
    budget : int or float, or mapping with labels
        How many rows: a count in 1..n, or a fraction in (0, 1). With labels also a mapping from
        each label to its count.
    labels : array_like of int, bool or str, shape (n,), optional
        Class of each row. Rows are then represented only by rows of their own class. A fraction f
        takes ceil(f * n_c) rows of each class of n_c; a count is shared out in proportion to n_c
        (largest remainder), at least one to each class.
    metric : {"euclidean", "cosine", "dot", "rbf", "precomputed"}, default "euclidean"
        Similarity of two rows. ``"precomputed"``: X has the distances of n items to one another,
        (n, n), dense or a sparse graph, as in `FacilityLocation.from_distances`.
    method : {"lazy", "greedy", "stochastic"}, default "lazy"
        Optimizer; ``"lazy"`` and ``"greedy"`` select the same.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute: on the CPU, on an NVIDIA GPU, or where X is. X is copied if it is not
        there. The selection is the same.
    random_state : int, numpy.random.Generator or None, default None
        Seed of ``"stochastic"``; the others use no randomness.
    memory : float, optional
        Bytes that matrices of similarities may take. Default: a quarter of what this process can
        have now, by what is free and by the limits of its container and its own, or a quarter of
        what is free on the GPU if that computes. The selection does not depend on it.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        With `assignment` and `sizes`. With labels, the selections of the classes are merged by
        decreasing gain, so that gains never rise; `value` is the sum over the classes.

    Raises
    ------
    ImportError, RuntimeError
        If a GPU is asked for, and numba-cuda, a driver or a GPU is missing.
    ValueError, TypeError
        If an argument is not one of the above: X not 2-D, empty, or with NaN or inf (said where); a
        budget outside its range, or smaller than the number of classes; labels of another length.

    Notes
    -----
    Time at most O(sum of n_c^2 d ln k_c) over classes c; memory O(n d) beside the matrices that
    `memory` allows. Classes are spread over the threads that
    Numba is allowed (``numba.set_num_threads``).

    References
    ----------
    Mirzasoleiman, Bilmes, Leskovec (2020), "Coresets for data-efficient training of machine
    learning models" (CRAIG), for `sizes` as weights.

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> chosen = subsel.select(X, 2)
    >>> chosen.indices, chosen.sizes
    (array([2, 3]), array([3, 2]))
    """
    check_choice(metric, (*METRICS, "precomputed"), "metric")
    check_choice(method, METHODS, "method")
    random = check_random_state(random_state)
    allowed = check_memory(memory)
    if metric == "precomputed":
        features: Any = sources.distances(X, backend, "X")
        if features.array.shape[1] != len(features):
            raise ValueError(
                f"X must be square for metric='precomputed', not of shape {features.array.shape}; "
                "for distances of points to other candidates, use FacilityLocation.from_distances"
            )
    else:
        features = sources.features(X, backend)
    n = len(features)
    if labels is None:
        k = check_budget(budget, n, fraction=True)
        return _represent(features, k, metric, method, random, memory, progress)

    members, counts = budgets(budget, check_labels(labels, n))
    if features.together and method != "stochastic":
        source = features.of_classes(members, metric, None, memory)
        return merged(together(source, counts, progress), members, n)

    workers = 1 if features.together else min(cpu.threads(), len(members))

    def represent(rows: np.ndarray, k: int, seed: np.random.Generator) -> Selection:
        share = allowed // workers
        return _represent(features.rows(rows), k, metric, method, seed, share, False)

    seeds = random.spawn(len(members)) if method == "stochastic" else [random] * len(members)
    tasks = list(zip(members, counts, seeds, strict=True))
    return merged(side_by_side(represent, tasks, workers, progress), members, n)


def _represent(
    features: Any,
    k: int,
    metric: str,
    method: str,
    random: np.random.Generator,
    memory: float | None,
    progress: bool,
) -> Selection:
    """Select k rows without regard to labels, with the assignment that the search left behind."""
    f = FacilityLocation.of(features.similarity(metric, None, memory))
    if method == "stochastic":
        chosen = stochastic_greedy(f, k, random_state=random, progress=progress)
    else:
        search = {"lazy": lazy_greedy, "greedy": greedy}[method]
        chosen = search(f, k, progress=progress)
    assignment = f.assignment
    return replace(chosen, assignment=assignment, sizes=sizes_of(assignment, k))


def budgets(budget: Any, labels: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
    """Rows of each class that occurs (ascending, classes in sorted order), and its count."""
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    budget = as_scalar(budget)
    if isinstance(budget, Mapping):
        names = classes.tolist()
        if wrong := set(names) ^ set(budget):
            raise ValueError(
                f"budget must have a count for each label; see {sorted(wrong, key=repr)[:5]}"
            )
        counts = [
            check_budget(budget[name], int(size), name=f"budget[{name!r}]")
            for name, size in zip(names, sizes, strict=True)
        ]
    else:
        count = check_budget(budget, len(labels), fraction=True)
        if isinstance(budget, float | np.floating):
            counts = [portion(budget, int(size)) for size in sizes]
        else:
            counts = apportion(count, sizes).tolist()
    return members, counts


def apportion(budget: int, sizes: np.ndarray) -> np.ndarray:
    """Share out a count in proportion to sizes (largest remainder), each from 1 to its size.

    Parameters
    ----------
    budget : int
        In len(sizes)..sum(sizes).
    sizes : ndarray of int, shape (c,)

    Returns
    -------
    ndarray of int64, shape (c,)
        They sum to `budget`. Among equal remainders the first wins.
    """
    if budget < len(sizes):
        raise ValueError(
            f"budget must be at least one for each of the {len(sizes)} classes, not {budget}"
        )
    exact = budget * sizes.astype(np.int64)
    counts = np.maximum(exact // sizes.sum(), 1)
    while counts.sum() != budget:
        # A class's claim to one more: how far its count lies below its exact share.
        claim = exact - counts * sizes.sum()
        if counts.sum() < budget:
            counts[np.argmax(np.where(counts < sizes, claim, np.iinfo(np.int64).min))] += 1
        else:
            counts[np.argmin(np.where(counts > 1, claim, np.iinfo(np.int64).max))] -= 1
    return counts
