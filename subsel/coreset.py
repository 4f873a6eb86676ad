"""The front door: features in, the most representative rows out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Any

import numpy as np

from subsel import objectives as all_objectives
from subsel import sources
from subsel.constraints import Constraint, Count, Groups, Knapsack, MinDistance
from subsel.kernels import cpu
from subsel.objectives import FacilityLocation, Objective
from subsel.objectives.disjoint import side_by_side, together
from subsel.optimizers import greedy, lazy_greedy, stochastic_greedy
from subsel.optimizers.refine import refine as exchanged
from subsel.selection import Selection, merged, sizes_of
from subsel.validation import (
    ArrayLike,
    Metric,
    as_float_array,
    as_host_array,
    as_scalar,
    check_backend,
    check_budget,
    check_choice,
    check_distinct,
    check_labels,
    check_memory,
    check_random_state,
    check_values,
    portion,
)

METHODS = ("lazy", "greedy", "stochastic")

OBJECTIVES: dict[str, Any] = {
    "facility_location": all_objectives.FacilityLocation,
    "saturated_coverage": all_objectives.SaturatedCoverage,
    "graph_cut": all_objectives.GraphCut,
    "sum_redundancy": all_objectives.SumRedundancy,
    "log_determinant": all_objectives.LogDeterminant,
    "disparity_sum": all_objectives.DisparitySum,
    "disparity_min": all_objectives.DisparityMin,
    "feature_based": all_objectives.FeatureBased,
    "set_cover": all_objectives.SetCover,
    "probabilistic_set_cover": all_objectives.ProbabilisticSetCover,
}
"""By name. The last three are of the features themselves, the others of similarities of rows."""

_OF_FEATURES = ("feature_based", "set_cover", "probabilistic_set_cover")


def select(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int] | None = None,
    *,
    objective: str = "facility_location",
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
    method: str = "lazy",
    backend: str = "auto",
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
        tensor, or anything with ``__cuda_array_interface__`` or DLPack.
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
        Rows that are held already, labelled for instance. They represent others from the start, and
        are neither selected nor counted. Also a mask of n booleans, as for `exclude` and
        `candidates`.
    given_features : array_like, shape (m, d), optional
        Features of rows that are held already and are not in X. They are as rows of X that are
        `given`, but need not be represented: F is a sum over the rows of X. For facility location
        of dense features on the CPU, without labels.
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
    >>> subsel.select(X, 2, given=[0], min_distance=1.0).indices
    array([3])
    """
    check_choice(objective, OBJECTIVES, "objective")
    check_choice(method, METHODS, "method")
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
        _only_for_classes(objective, limits | stops)
    if objective == "facility_location":
        metric = "euclidean" if metric is None else metric
        features = _features(X, metric, backend)
        n = len(features)
        weights = _weights_of_rows(weights, n, features)
    else:
        f = _named(objective, X, metric, weights, backend, memory)
        n = f.n
    rows = _Rows.of(n, given, exclude, candidates)
    others = None
    if given_features is not None:
        others = features.others(given_features, "given_features")
        rows = rows.beside(len(others))

    if labels is None:
        rule = "ratio" if method == "stochastic" else "best"
        constraint = _constraint(X, others, rows, budget, metric, rule, stops, **limits)
        if others is not None:
            f = FacilityLocation.of(features.beside(others, metric, None, memory), weights)
        elif objective == "facility_location":
            f = FacilityLocation.of(features.similarity(metric, None, memory), weights)
        return _represent(f, rows, constraint, method, refine, random, progress, **stops)

    members, counts = budgets(budget, check_labels(labels, n))
    rows.check_classes(members, counts)
    plain = given is exclude is candidates is weights is None and not refine
    if features.together and method != "stochastic" and plain:
        source = features.of_classes(members, metric, None, memory)
        return merged(together(source, counts, progress), members, n)

    workers = 1 if features.together else min(cpu.threads(), len(members))

    def represent(own: np.ndarray, k: int, seed: np.random.Generator | None) -> Selection:
        source = features.rows(own).similarity(metric, None, allowed // workers)
        f = FacilityLocation.of(source, None if weights is None else weights[own])
        return _represent(f, rows.of_class(own), Count(k), method, refine, seed, False)

    seeds: list[Any] = [None] * len(members)
    if method == "stochastic" and random is not None:
        seeds = [*random.spawn(len(members))]
    tasks = list(zip(members, counts, seeds, strict=True))
    return merged(side_by_side(represent, tasks, workers, progress), members, n)


def _features(X: ArrayLike, metric: Any, backend: str) -> Any:
    """Checked features, or distances, for facility location."""
    if metric != "precomputed":
        sources.check_metric(metric)
        return sources.features(X, backend)
    features = sources.distances(X, backend, "X")
    if features.array.shape[1] != len(features):
        raise ValueError(
            f"X must be square for metric='precomputed', not of shape {features.array.shape}; "
            "for distances of points to other candidates, use FacilityLocation.from_distances"
        )
    return features


@dataclass
class _Rows:
    """Which rows are held already, and which may be selected: masks (n,).

    `whole` says that the objective gets all rows as candidates in any case.
    """

    held: np.ndarray
    open: np.ndarray
    whole: bool = False

    @classmethod
    def of(cls, n: int, given: Any, exclude: Any, candidates: Any) -> "_Rows":
        """From the arguments of `select`."""
        held, shut = np.zeros(n, bool), np.zeros(n, bool)
        held[check_distinct(given, n, "given")] = True
        shut[check_distinct(exclude, n, "exclude")] = True
        if (held & shut).any():
            raise ValueError(f"{np.argmax(held & shut)} is in given and in exclude")
        if candidates is not None:
            some = np.zeros(n, bool)
            some[check_distinct(candidates, n, "candidates")] = True
            if not some.any():
                raise ValueError("candidates must not be empty")
            shut |= ~some
        return cls(held, ~(held | shut))

    def beside(self, count: int) -> "_Rows":
        """And as many more, below them, that are held."""
        held, open_ = np.ones(count, bool), np.zeros(count, bool)
        return _Rows(np.append(self.held, held), np.append(self.open, open_))

    def part(self, stops: dict[str, float | None]) -> np.ndarray:
        """The rows that the objective gets as candidates, ascending: all, or those that may be."""
        few = np.flatnonzero(self.held | self.open)
        # A coverage is a part of F of all rows; and leaving out a few makes nothing faster.
        whole = self.whole or stops.get("coverage") is not None
        whole = whole or 2 * len(few) > len(self.held)
        return np.arange(len(self.held)) if whole else few

    def check_classes(self, members: list[np.ndarray], counts: list[int]) -> None:
        """Refuse classes with too few rows that may be selected."""
        for own, k in zip(members, counts, strict=True):
            if (left := int(self.open[own].sum())) < k:
                raise ValueError(
                    f"the class of row {own[0]} is to have {k} rows selected, but only {left} of "
                    f"its {len(own)} are candidates, and neither given nor excluded"
                )

    def of_class(self, own: np.ndarray) -> "_Rows":
        """Of some rows alone."""
        return _Rows(self.held[own], self.open[own])


def _represent(
    f: Objective,
    rows: _Rows,
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
        chosen = exchanged(f, chosen, budget=None if counted else constraint, **common)
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
    make, options = OBJECTIVES[objective], {"backend": backend}
    if objective in _OF_FEATURES:
        if metric is not None:
            raise ValueError(f"{objective!r} is of the features themselves: leave metric out")
        if weights is not None:
            options["weights"] = weights
        return make(X, **options)
    if weights is not None:
        some = ", ".join(map(repr, ("facility_location", *_OF_FEATURES)))
        raise ValueError(f"weights go with {some}, not with {objective!r}")
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
            f"given_features do not go together with {what}: put these rows below those of X, and "
            "name them in given"
        )


def _weights_of_rows(weights: Any, n: int, features: Any) -> np.ndarray | None:
    if weights is None:
        return None
    if features.together:
        raise ValueError("weights are for the CPU: use backend='cpu'")
    return check_values(weights, "weights", n, 0, "[", "row")


def _only_for_classes(objective: str, refused: dict[str, Any]) -> None:
    """Refuse what does not go together with labels."""
    cure = "for one selection of all rows, pass the classes as groups"
    if objective != "facility_location":
        raise ValueError(f"labels go with facility location only, not with {objective!r}: {cure}")
    for name, value in refused.items():
        if value is not None:
            raise ValueError(
                f"labels and {name} do not go together, as each class has a selection and a budget "
                f"of its own: {cure}"
            )


def _constraint(
    X: ArrayLike, others: np.ndarray | None, rows: _Rows, budget: Any, metric: Any,
    rule: str, stops: dict[str, float | None], *, costs: Any, groups: Any, at_most: Any,
    at_least: Any, min_distance: Any,
) -> Constraint | None:  # fmt: skip
    """What the arguments of `select` allow, of `_Rows.part`; None if a stop decides.

    `others` are features of rows that are held and not in X.
    """
    n, part = len(rows.open) - (0 if others is None else len(others)), rows.part(stops)
    known = np.where(part < n, part, 0)  # what others cost, and their group, count nowhere
    some: list[Constraint] = []
    if isinstance(budget, Constraint):
        raise TypeError(
            f"budget must be a number, not {budget}: pass what the constraint is made of (costs, "
            "groups, at_most, at_least, min_distance), or give the constraint to subsel.greedy"
        )
    if costs is not None:
        if budget is None:
            raise ValueError("costs need a budget: what the selected rows may cost together")
        own = as_host_array(costs, "costs")
        if own.shape != (n,):
            raise ValueError(f"costs must have one entry per row of X: ({n},), not {own.shape}")
        some.append(Knapsack(own[known], budget, rule=rule))
    count = None
    if costs is None and budget is not None:
        count = check_budget(budget, n, fraction=True)
        if 0 < (left := np.count_nonzero(rows.open)) < count:
            raise ValueError(
                f"budget is {count}, but only {left} of {n} rows are candidates, and neither given "
                "nor excluded"
            )
    if groups is None:
        if not at_most is at_least is None:
            raise ValueError("at_most and at_least are numbers of each group: give groups, too")
    else:
        if at_most is at_least is None:
            raise ValueError("groups are for at_most and at_least: give one of them, or leave it")
        if at_least is not None and count is None:
            raise ValueError("at_least needs a budget that is a count, so that room can be kept")
        own = check_labels(groups, n, "groups")
        some.append(Groups(own[known], at_most=at_most, at_least=at_least, count=count))
    if min_distance is not None:
        if metric == "precomputed":
            raise ValueError(
                "min_distance needs features, but X has distances (metric='precomputed'): use "
                "subsel.constraints.MinDistance with subsel.greedy"
            )
        distance = metric if metric in sources.DISTANCES else "euclidean"
        own = X.tocsr() if hasattr(X, "tocsr") else as_float_array(X, "X")
        own = own if others is None else np.concatenate([own, others])
        some.append(MinDistance(own[part], min_distance, metric=distance))
    if count is not None and groups is None:
        some.append(Count(count))
    if not some and all(stop is None for stop in stops.values()):
        check_budget(budget, n, fraction=True)  # says what is wanted
    return reduce(and_, some) if some else None


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
