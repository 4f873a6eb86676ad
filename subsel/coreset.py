"""The front door: features in, the most representative rows out."""

import logging
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from subsel import sources
from subsel.allowed import OpenRows, budgets, constraint_of, only_for_classes
from subsel.constraints import Constraint, Count
from subsel.distributed import greedi
from subsel.distributed.goal import OF_ALL_ROWS
from subsel.kernels import cpu
from subsel.objectives import BY_NAME, FacilityLocation, Objective
from subsel.objectives.disjoint import side_by_side, together
from subsel.optimizers import greedy, lazy_greedy, stochastic_greedy
from subsel.optimizers.refine import refine as exchanged
from subsel.selection import Selection, Union, sizes_of
from subsel.sources.scale import METRICS
from subsel.types import ArrayLike, Backend, Method, Metric, ObjectiveName, SelectOptions
from subsel.validation import (
    as_host_array,
    check_backend,
    check_budget,
    check_choice,
    check_labels,
    check_memory,
    check_random_state,
    check_values,
)

if TYPE_CHECKING:
    from subsel.selection import Representation

_LOG = logging.getLogger("subsel.coreset")

METHODS = ("lazy", "greedy", "stochastic", "auto")

LARGE = 100_000
"""Rows, of a class where there are classes, of which ``method="auto"`` searches all."""

PER_SELECTED = 32
"""Rows of a sample for each that is to be selected from it; see docs/scaling.md."""

_OF_FEATURES = ("feature_based", "set_cover", "probabilistic_set_cover")


@overload
def select(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int] | None = None,
    *,
    objective: Literal["facility_location"] = "facility_location",
    **options: Unpack[SelectOptions],
) -> "Representation": ...


@overload
def select(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int] | None = None,
    *,
    objective: ObjectiveName,
    **options: Unpack[SelectOptions],
) -> Selection: ...


def select(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int] | None = None,
    *,
    objective: ObjectiveName = "facility_location",
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    given: ArrayLike | None = None,
    given_features: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    costs: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    at_most: int | Mapping[Any, int] | None = None,
    at_least: int | Mapping[Any, int] | None = None,
    min_distance: float | None = None,
    target: float | None = None,
    coverage: float | None = None,
    refine: bool = False,
    metric: Metric | None = None,
    method: Method = "lazy",
    backend: Backend = "auto",
    random_state: int | np.random.Generator | None = None,
    memory: float | None = None,
    progress: bool = False,
) -> Selection:
    """Select the rows of a feature matrix that best represent all rows, or those of each class.

    Maximizes facility location over the similarities of `metric` (see
    `FacilityLocation.from_features`), or another objective.

    Parameters
    ----------
    X : array_like or scipy sparse matrix, shape (n, d)
        Features (embeddings, gradients): finite, any real dtype. Sparse ones, such as TF-IDF, are
        for ``"cosine"`` and ``"dot"``, and are not made dense. May lie in a GPU's memory: a torch
        tensor, or anything with ``__cuda_array_interface__`` or DLPack. Tables of pandas, polars
        and pyarrow are read too, and columns of vectors, here and wherever an array is wanted.
    budget : int or float, or mapping with labels, optional
        How many rows: a count in 1..n, or a fraction in (0, 1). With labels also a mapping from
        each label to its count. With `costs`, what the rows may cost together. May be left out if
        `target`, `coverage`, `min_distance` or `at_most` says when to stop.
    objective : str, default "facility_location"
        What to maximize, with the default options of its class: ``"facility_location"``,
        ``"saturated_coverage"``, ``"graph_cut"``, ``"sum_redundancy"``, ``"log_determinant"``,
        ``"disparity_sum"``, ``"disparity_min"``; or of the features themselves,
        ``"feature_based"``, ``"set_cover"``, ``"probabilistic_set_cover"``.
    labels : array_like of int, bool or str, shape (n,), optional
        Class of each row. Rows are then represented only by rows of their own class. A fraction f
        takes ceil(f * n_c) rows of each class of n_c; a count is shared out in proportion to n_c
        (largest remainder), at least one to each class. For facility location; goes with `weights`,
        `given`, `exclude`, `candidates` and `refine`.
    weights : array_like, optional
        Of the rows as points, (n,), for facility location; of the features, (d,), for the
        objectives of features. Default 1.
    given : array_like of int, optional
        Rows that you have already, for instance with labels. They represent others from the start,
        are not selected, and do not count towards the budget. Also a mask of n booleans, as for
        `exclude` and `candidates`.
    given_features : array_like, shape (m, d), optional
        Features of rows that you have already and that are not in X. They count as rows of X that
        are `given`, but are not represented themselves: F is a sum over the rows of X. For facility
        location of dense features on the CPU, without labels.
    exclude : array_like of int, optional
        Rows that are never selected.
    candidates : array_like of int, optional
        The only rows that may be selected; all rows are represented. Default: all.
    costs : array_like, shape (n,), optional
        What each row costs (tokens, minutes); `budget` is then the most that the selected ones may
        cost. See `subsel.constraints.Knapsack`, of rule ``"best"``, or ``"ratio"`` for
        ``method="stochastic"``.
    groups : array_like of int, bool or str, shape (n,), optional
        Group of each row, as a source or an author, for `at_most` and `at_least`. Unlike `labels`,
        rows represent rows of any group.
    at_most, at_least : int, or mapping from group to int, optional
        How many rows of a group may, and must, be selected. See `subsel.constraints.Groups`.
    min_distance : float, optional
        The smallest distance of two selected rows, or of a selected and a given one, by `metric`
        if that is a distance, else Euclidean. See `subsel.constraints.MinDistance`.
    target, coverage : float, optional
        Stop once F is at least this, or at least this fraction of F of all that may be selected.
    refine : bool, default False
        Exchange selected rows until no swap makes F larger; see `subsel.refine`.
    metric : str or callable, optional
        Similarity of two rows: ``"euclidean"``, ``"cosine"``, ``"dot"``, ``"rbf"`` or another of
        the objective's ``from_features``. Default: that of the objective's class, ``"euclidean"``
        for facility location. ``"precomputed"``, for facility location: X has the distances of n
        items to one another, (n, n), dense or a sparse graph, as in
        `FacilityLocation.from_distances`.
    method : {"lazy", "greedy", "stochastic", "auto"}, default "lazy"
        Optimizer; ``"lazy"`` and ``"greedy"`` select the same. ``"auto"`` is for any number of
        rows. It is ``"lazy"`` up to 100 000 of them (in the largest class). From more, facility
        location is searched in a sample: 32 rows for each that is to be selected, and at least
        100 000. If rows are labelled, given, shut out, or under costs or quotas, all rows are
        searched, in partitions, as by `greedi`; so they always are for saturated coverage. Other
        objectives are always searched as a whole. What was selected is evaluated over all rows,
        exactly; `path` says what was searched.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to compute: on the CPU, on an NVIDIA GPU, or where X is. X is copied if it is not
        there. The selection is the same.
    random_state : int, numpy.random.Generator or None, default None
        Seed of ``"stochastic"``, and of what ``"auto"`` draws (None: 0). The others use no
        randomness.
    memory : float, optional
        Bytes that matrices of similarities may take. Default: a quarter of what this process can
        have now, by what is free and by the limits of its container and its own, or a quarter of
        what is free on the GPU if that computes. The selection does not depend on it.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        With `assignment` and `sizes` for facility location; a row that only a given one represents
        has assignment -1. With labels, the selections of the classes are merged by decreasing gain,
        so that gains never rise; `value` is the sum over the classes.

    Raises
    ------
    ImportError, RuntimeError
        If a GPU is asked for, and numba-cuda, a driver or a GPU is missing.
    ValueError, TypeError
        If an argument is not one of the above: X not 2-D, empty, or with NaN or inf (said where); a
        budget outside its range, or smaller than the number of classes; labels of another length;
        arguments that do not go together.

    Warns
    -----
    UserWarning
        If X looks like a matrix of similarities or distances, because its rows are features here.

    Notes
    -----
    Time at most O(sum of n_c^2 d ln k_c) over classes c; memory O(n d) beside the matrices that
    `memory` allows. Classes are spread over the threads that Numba is allowed
    (``numba.set_num_threads``). With ``"auto"``, from a sample of m rows: time
    O(m^2 d ln k + n k d), and memory O(m d + n) beside X.

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
    >>> subsel.select(X, 2, given=[0], min_distance=1.0).indices
    array([3])
    """
    if isinstance(objective, Objective) or callable(objective):
        raise TypeError(
            "objective must be a name, such as 'facility_location', not "
            f"{reprlib.repr(objective)}: pass an objective to subsel.greedy"
        )
    check_choice(objective, BY_NAME, "objective")
    check_choice(method, METHODS, "method")
    if method == "auto":
        method = "lazy"
        unfit = [weights, given_features, min_distance, target, coverage, refine or None]
        chosen = _of_a_part(
            X, budget, objective, backend, unfit, labels=labels, given=given, exclude=exclude,
            candidates=candidates, costs=costs, groups=groups, at_most=at_most, at_least=at_least,
            metric=metric, memory=check_memory(memory) // cpu.threads(), progress=progress,
            random_state=0 if random_state is None else random_state,
        )  # fmt: skip
        if chosen is not None:
            return chosen
    if given_features is not None:
        _check_held_elsewhere(X, objective, metric, labels, backend)
    drawn = random_state is not None or method == "stochastic"
    random = check_random_state(random_state) if drawn else None
    allowed = check_memory(memory)
    stops = {"target": target, "coverage": coverage}
    limits = {
        "costs": costs, "groups": groups, "at_most": at_most, "at_least": at_least,
        "min_distance": min_distance,
    }  # fmt: skip
    if labels is not None:
        only_for_classes(objective, limits | stops)
    if objective == "facility_location":
        metric = "euclidean" if metric is None else metric
        features = _features(X, metric, backend)
        n = len(features)
        each = _weights_of_rows(weights, n, features)
    else:
        f = _named(objective, X, metric, weights, backend, memory)
        n = f.n
    rows = OpenRows.of(n, given, exclude, candidates)
    others = None
    if given_features is not None:
        others = features.others(given_features, "given_features")
        rows = rows.beside(len(others))

    if labels is None:
        rule = "ratio" if method == "stochastic" else "best"
        constraint = constraint_of(X, others, rows, budget, metric, rule, stops, **limits)
        if others is not None:
            f = FacilityLocation.of(features.beside(others, metric, None, memory), each)
        elif objective == "facility_location":
            f = FacilityLocation.of(features.similarity(metric, None, memory), each)
        return _represent(f, rows, constraint, method, refine, random, progress, **stops)

    classes = check_labels(labels, n)
    members, counts = budgets(budget, classes)
    rows.check_classes(members, counts)
    names = classes[[own[0] for own in members]].tolist()
    sizes = np.array([len(own) for own in members])
    union = Union(sizes, np.array(counts))
    plain = given is exclude is candidates is weights is None and not refine
    plain &= method != "stochastic"
    if features.together and plain:
        source = features.of_classes(members, metric, None, memory)
        for c, part in enumerate(together(source, counts, progress)):
            union.add(c, members[c], part)
        return union.merged(names)

    workers = 1 if features.together else min(cpu.threads(), len(members))
    seeds: list[Any] = [None] * len(members)
    if method == "stochastic" and random is not None:
        seeds = [*random.spawn(len(members))]

    each_allowed = allowed // workers

    def search_alone(c: int) -> None:
        own = members[c]
        source = features.rows(own).similarity(metric, None, each_allowed)
        f = FacilityLocation.of(source, None if each is None else each[own])
        k, seed = Count(counts[c]), seeds[c]
        chosen = _represent(f, rows.of_class(own), k, method, refine, seed, False)
        union.add(c, own, chosen)

    def search_small(some: np.ndarray) -> None:
        own = np.concatenate([members[c] for c in some])
        part = features.rows(own)
        found = sources.in_classes(part, sizes[some], union.counts[some], metric, each_allowed)
        union.add_all(some, own, *found)

    small = sources.small_classes(features, sizes, metric, workers) if plain else []
    others = np.setdiff1d(np.arange(len(sizes)), np.concatenate([[], *small]))
    tasks = [*((search_alone, c) for c in others.tolist()), *((search_small, s) for s in small)]
    done = [1] * len(others) + [len(some) for some in small]
    side_by_side(lambda search, own: search(own), tasks, workers, progress, done)
    return union.merged(names)


def _of_a_part(
    X: ArrayLike, budget: Any, objective: str, backend: str, unfit: list[Any], **options: Any
) -> Selection | None:
    """Rows from a sample, if any sample will do, or from partitions of all; None for few rows.

    None also where `greedi` is not for the arguments, of which `unfit` are those that it lacks.
    """
    metric = options["metric"]
    if objective not in OF_ALL_ROWS or any(value is not None for value in unfit):
        return None
    if not (metric is None or (isinstance(metric, str) and metric in METRICS)):
        return None
    if check_backend(backend, X) == "cuda" or hasattr(X, "tocsr"):
        return None
    X = as_host_array(X, "X")
    if X.ndim != 2 or len(X) <= LARGE:  # other shapes are refused where all rows are searched
        return None
    if options["labels"] is not None:
        labels = check_labels(options["labels"], len(X))
        if np.unique(labels, return_counts=True)[1].max() <= LARGE:
            return None
    rows = ("labels", "given", "exclude", "candidates", "costs", "groups", "at_most", "at_least")
    if objective != "facility_location" or any(options[name] is not None for name in rows):
        searched = f"partitions of {len(X)} rows"
    else:
        k = check_budget(budget, len(X), fraction=True)
        sample = min(len(X), max(LARGE, PER_SELECTED * k))
        searched = f"{sample} of {len(X)} rows"
        options |= {"sample": sample, "partitions": 1}
    _LOG.info("searching %s, and evaluating what is selected over all rows", searched)
    chosen = greedi(X, budget, objective=objective, **options)
    return replace(chosen, path=f"{chosen.path}: {searched}")


def _features(X: ArrayLike, metric: Any, backend: str) -> Any:
    """Checked features, or distances, for facility location."""
    if metric != "precomputed":
        sources.check_metric(metric)
        features = sources.features(X, backend)
        sources.warn_of_pairs(features)
        return features
    features = sources.distances(X, backend, "X")
    if features.array.shape[1] != len(features):
        raise ValueError(
            f"X must be square for metric='precomputed', not of shape {features.array.shape}; "
            "for distances of points to other candidates, use FacilityLocation.from_distances"
        )
    return features


def _represent(
    f: Objective,
    rows: OpenRows,
    constraint: Constraint | None,
    method: str,
    refine: bool,
    random: np.random.Generator | None,
    progress: bool,
    **stops: Any,
) -> Selection:
    """Select rows without regard to labels, with the assignment that the search left behind."""
    part = rows.part(stops)
    if not rows.open.any():
        n = f.n_points if isinstance(f, FacilityLocation) else f.n
        raise ValueError(f"none of {n} rows is left to select: all are given or excluded")
    if len(part) < f.n:
        f = f.restrict(part)
    held, open_ = rows.held[part], rows.open[part]
    given = np.flatnonzero(held)
    shut = ~(held | open_)
    common: dict[str, Any] = {
        "given": given if len(given) else None,
        "exclude": shut if shut.any() else None,
        "progress": progress,
    }
    if method == "stochastic":
        chosen = stochastic_greedy(f, constraint, random_state=random, **common, **stops)
    else:
        search = lazy_greedy if method == "lazy" and f.submodular else greedy
        chosen = search(f, constraint, **common, **stops)
    if refine and len(chosen):
        counted = constraint is None or isinstance(constraint, Count)
        first = chosen.bound
        chosen = exchanged(f, chosen, budget=None if counted else constraint, **common)
        if first is not None and chosen.bound is not None:  # both hold
            chosen = replace(chosen, bound=max(chosen.value, min(first, chosen.bound)))
    chosen = replace(chosen, indices=part[chosen.indices])
    if not isinstance(f, FacilityLocation):
        return chosen
    assignment = f.assignment
    if len(given):  # they were added first
        assignment = np.where(assignment < len(given), -1, assignment - len(given))
    return replace(chosen, assignment=assignment, sizes=sizes_of(assignment, len(chosen)))


def _named(
    objective: str, X: ArrayLike, metric: Any, weights: Any, backend: str, memory: Any
) -> Objective:
    """An objective other than facility location, with the options of its own by default."""
    make, options = BY_NAME[objective], {"backend": backend}
    if objective in _OF_FEATURES:
        if metric is not None:
            raise ValueError(f"{objective!r} uses the features themselves: leave metric out")
        if weights is not None:
            options["weights"] = weights
        return make(X, **options)
    if weights is not None:
        some = ", ".join(map(repr, ("facility_location", *_OF_FEATURES)))
        raise ValueError(f"weights need one of the objectives {some}, not {objective!r}")
    if metric is not None:
        options["metric"] = metric
    if objective == "saturated_coverage":
        options["memory"] = memory
    return make.from_features(X, **options)


def _check_held_elsewhere(
    X: ArrayLike, objective: str, metric: Any, labels: Any, backend: str
) -> None:
    """Refuse what does not go together with given_features."""
    wrong = {
        f"the objective {objective!r}": objective != "facility_location",
        "labels": labels is not None,
        "metric='precomputed'": metric == "precomputed",
        "sparse X": hasattr(X, "tocsr"),
        "a GPU": check_backend(backend, X) == "cuda",
    }
    for what in (what for what, is_so in wrong.items() if is_so):
        raise ValueError(
            f"given_features cannot be combined with {what}: put these rows below those of X, and "
            "name them in given"
        )


def _weights_of_rows(weights: Any, n: int, features: Any) -> np.ndarray | None:
    if weights is None:
        return None
    if features.together:
        raise ValueError("weights work on the CPU only: use backend='cpu'")
    return check_values(weights, "weights", n, 0, "[", "row")
