"""The front door: selection from more rows than one machine can search."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from subsel.allowed import OpenRows, budgets, constraint_of, only_for_classes
from subsel.distributed import engines
from subsel.distributed.goal import check_goal
from subsel.distributed.inputs import source_of
from subsel.distributed.limits import Limits
from subsel.distributed.plan import MAX_ROWS, Plan, layout
from subsel.distributed.run import Run
from subsel.selection import Selection
from subsel.sources.scale import METRICS
from subsel.validation import (
    ArrayLike,
    check_backend,
    check_choice,
    check_count,
    check_labels,
    check_memory,
    check_random_state,
    check_values,
)


def greedi(
    X: ArrayLike,
    budget: int | float | Mapping[Any, int] | None = None,
    *,
    objective: str | Mapping[str, float] = "facility_location",
    partitions: int | None = None,
    max_rows: int | None = None,
    spread: int = 16,
    sample: int | None = None,
    labels: ArrayLike | None = None,
    values: ArrayLike | None = None,
    given: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    costs: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    at_most: int | Mapping[Any, int] | None = None,
    at_least: int | Mapping[Any, int] | None = None,
    metric: str | None = None,
    memory: float = 0,
    backend: str = "auto",
    random_state: int | np.random.Generator | None = None,
    progress: bool = False,
) -> Selection:
    """Select representative rows in partitions, then among the selected rows; for very many rows.

    Runs on the active Dask client or, without one, on threads of this process. Rows are divided
    among partitions, greedy selects from each partition, and a tree of merges selects among the
    selected rows. In the tree, objectives that are sums over all rows are evaluated on a uniform
    sample. At the end, the merged selection and the best one of a single partition are compared by
    F over all rows, and the better one is returned.

    Parameters
    ----------
    X : dask.array.Array or array_like, shape (n, d)
        Finite features. A dask array is read chunk by chunk, several times, and never gathered;
        its chunks must be of known size. A memory-mapped file is opened by each worker, where it
        must have the same path. Any other array is sent to the workers in parts.
    budget : int or float, or mapping with labels, optional
        As in `select`: a count or a fraction; with `costs`, the largest total cost. May be left out
        if `at_most` is given.
    objective : str, or mapping from str to float, default "facility_location"
        What to maximize: ``"facility_location"`` or ``"saturated_coverage"`` of the similarities
        of rows; ``"feature_based"``, ``"set_cover"`` or ``"probabilistic_set_cover"`` of the
        features themselves; ``"log_determinant"``; or ``"modular"``, with `values`. Each has the
        default options of its class. A mapping gives each of several a positive weight, and their
        sum is maximized. For other objectives use `select`.
    partitions : int, optional
        The number of partitions, 1..n. Default: the fewest that `max_rows` allows.
    max_rows : int, optional
        The most rows that a task may hold. With several partitions, at least 8 times the budget
        (with costs, 8 times the most rows that can be paid for). Default: 50 000, or more if a
        partition, a chunk of X or a single merge of all partitions needs more. Every task also
        holds the given rows, which are not counted here; if there are any, a task of a partition
        holds its own rows twice.
    spread : int, default 16
        The rows of a partition are drawn uniformly from this many blocks of neighbouring rows,
        which are assigned at random, and the task of the partition reads all of these blocks. With
        1, partitions are blocks of consecutive rows (GreeDi). With at least `partitions`, each row
        goes to a partition uniformly at random (RandGreeDi).
    sample : int, optional
        Select only from a uniform sample of this many rows; in the end the selected rows represent
        all rows. Cannot be combined with labels, groups, given or excluded rows. Default: select
        from all rows.
    labels : array_like of int, bool or str, shape (n,), optional
        Class of each row, as in `select`. Each class is searched, merged and evaluated by itself.
        For facility location only; can be combined with `given`, `exclude` and `candidates`.
    values : array_like, shape (n,), optional
        The value of each row, not negative, for the objective ``"modular"``.
    given, exclude, candidates : array_like of int, optional
        Rows that you have already, rows that are never selected, and the only rows that may be
        selected, as in `select`. Each may also be a mask of n booleans.
    costs : array_like, shape (n,), optional
        What each row costs, as in `select`. Each partition may spend the whole budget, and so may
        each merge.
    groups : array_like of int, bool or str, shape (n,), optional
        Group of each row, for `at_most` and `at_least`.
    at_most, at_least : int, or mapping from group to int, optional
        How many rows of a group may, and must, be selected, as in `select`.
    metric : {"euclidean", "cosine", "dot", "rbf"}, optional
        Similarity of two rows. Default ``"euclidean"``, and ``"dot"`` for the log-determinant,
        which needs a kernel.
    memory : float, default 0
        Bytes that a task may use, beside its rows, for a matrix of similarities. The matrix is made
        only if that is faster, and the selection does not depend on it.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where tasks search and evaluate: on the CPU, or on the GPU of the worker on which they run
        (without a Dask client, on the GPU of this process, one task at a time). "auto" means "cuda"
        for an array in a GPU's memory and "cpu" for any other.
    random_state : int, numpy.random.Generator or None, default None
        Seed of the division into partitions and of all samples.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    Selection
        `value`, `values`, `gains` and `sizes` are exact, over all rows. The order was found on a
        part of the rows, so a gain may be larger than the one before it. `assignment` and `sizes`
        are given for facility location. `assignment` is a NumPy array; if X is a dask array, it is
        a dask array in the same chunks, which is computed on demand. With labels, the selections of
        the classes are merged by gain, each in its own order. `bound` is None.

    Raises
    ------
    ValueError, TypeError
        If an argument is not one of the above, if arguments cannot be combined, if the constraint
        cannot be met, or if X has NaN, inf or an entry that the objective does not allow (the
        message names the chunk and the row).
    ImportError, RuntimeError
        If a GPU is asked for, and numba-cuda, a driver or a GPU is missing (on a worker).

    Notes
    -----
    The same seed gives the same bits for any number of workers, for any order in which tasks
    finish, with and without Dask. Facility location also gives the same bits for all chunks of X,
    and on CPUs and GPUs (except for "rbf", see docs/cuda.md). Its `value` is exactly
    ``FacilityLocation.from_features(X).value(indices)`` (with labels, the sum of those of classes).
    The values of other objectives are those of their classes on all rows, up to rounding. With
    saturated coverage, the similarity of a row to all rows is estimated from at most 4096 rows
    drawn at random.

    Guarantees, for P partitions and at most k selected rows: F is at least t / min(P, k) of the
    largest possible F, where t = 1 - 1/e under a count and t = 1/2 under costs or groups. They hold
    where merges evaluate F exactly, because the result is then at least as good as the best
    partition. If rows are assigned uniformly and merged once, the expected F is at least (1 - 1/e)
    / 2 of the largest under a count, and 1/4 under groups. No guarantee is known for costs together
    with groups. docs/scaling.md has the details, also for small partitions.

    Time over all workers, for partitions of m rows: O(n m d ln k) for facility location, at most
    O(n m d k) for other similarities, and O(n d k) for objectives of features. Each level of merges
    adds O(m^2 d ln k), which cannot be shared among workers. Memory of a task: O(m d).

    References
    ----------
    Mirzasoleiman, Karbasi, Sarkar, Krause (2013), "Distributed submodular maximization" (GreeDi;
    section 4.5 on evaluating a decomposable function on a sample), and, under the same title, JMLR
    17 (2016), for other constraints than a count. Barbosa, Ene, Nguyen, Ward (2015), "The power of
    randomization" (RandGreeDi). Gopal, Ferdous, Maji, Pothen (2024), "GreedyML" (the tree).

    Examples
    --------
    >>> import numpy as np
    >>> import subsel
    >>> X = np.random.default_rng(0).normal(size=(2000, 3))
    >>> chosen = subsel.greedi(X, 20, partitions=4, random_state=0)
    >>> len(chosen), int(chosen.sizes.sum())
    (20, 2000)
    >>> chosen = subsel.greedi(
    ...     np.abs(X), 5.0, objective="feature_based", costs=np.full(2000, 0.5), partitions=4
    ... )
    >>> len(chosen), chosen.cost
    (10, 5.0)
    """
    if metric is not None:
        check_choice(metric, METRICS, "metric")
    random = check_random_state(random_state)
    allowed = check_memory(memory)
    place = check_backend(backend, X)
    goal = check_goal(objective, metric, values, place)
    if max_rows is not None:
        max_rows = check_count(max_rows, "max_rows", 1)
    engine = engines.choose(place)
    source = source_of(X, max_rows or MAX_ROWS, sent=engine.elsewhere)
    n, classes = source.n, None
    rows = OpenRows.of(n, given, exclude, candidates)
    rows.whole = True
    facts: dict[str, np.ndarray] = {}
    if not given is exclude is candidates is None:
        facts["open"] = rows.open
    if values is not None:
        facts["values"] = check_values(values, "values", n, 0, "[", "row")
    if sample is not None:
        _only_without_sample(given=given, exclude=exclude, candidates=candidates, groups=groups)
    limits, held, constraint = Limits(), np.flatnonzero(rows.held), None
    together = {"costs": costs, "groups": groups, "at_most": at_most, "at_least": at_least}
    if labels is None:
        constraint = constraint_of(
            X, None, rows, budget, "euclidean", "best", {}, min_distance=None, **together
        )
        assert constraint is not None  # a budget of None without groups was refused
        most = constraint.start(~rows.open, held).most
        assert most is not None
        sizes, counts = [n], [most]
        limits, known = Limits.of(constraint)
        facts |= known
    else:
        only_for_classes("facility_location" if goal.plain else str(objective), together)
        if sample is not None:
            raise ValueError(
                "sample and labels cannot be combined: select from a part of X instead"
            )
        members, counts = budgets(budget, check_labels(labels, n))
        rows.check_classes(members, counts)
        sizes = [len(own) for own in members]
        classes = np.empty(n, np.min_scalar_type(len(counts)))
        for c, own in enumerate(members):
            classes[own] = c
    plan = Plan(
        n, sizes, counts, metric or "euclidean", allowed, place, int(random.integers(2**63)),
        **layout(
            n, sum(counts), partitions, max_rows, spread, sample, source.largest,
            limits.only_count,
        ),
        goal=goal, limits=limits,
    )  # fmt: skip
    table = np.empty(n, [(name, column.dtype) for name, column in facts.items()])
    for name, column in facts.items():
        table[name] = column
    chosen = Run(engine, source, plan, classes, table, held, progress).selection()
    if constraint is None:
        return chosen
    only_costs = limits.at_most is None and limits.budget is not None
    none_left = only_costs and len(chosen) == np.count_nonzero(rows.open)
    return replace(
        chosen, cost=constraint.cost(chosen.indices), stopped="exhausted" if none_left else "budget"
    )


def _only_without_sample(**refused: Any) -> None:
    """Refuse constraints that the rows of a sample might be unable to meet."""
    for name, value in refused.items():
        if value is not None:
            raise ValueError(
                f"sample and {name} cannot be combined, because too few of the rows that are drawn "
                f"might be allowed: leave sample out, or select from a part of X"
            )
