"""`greedi` for every objective and constraint, beside the same algorithm in NumPy."""

import dask.array as da
import distributed
import numba
import numpy as np
import pytest
import scipy.sparse

import subsel
from subsel.distributed import engines, plan, tasks
from subsel.distributed.run import Run
from subsel.kernels import reference

N, D = 60, 4
_random = np.random.default_rng(0)
X = _random.integers(0, 9, (N, D)) / 8
X[17], X[40] = X[3], X[3]  # copies, which tie
BITS = 1.0 * (_random.random((N, 12)) < 0.2)
VALUES = _random.integers(0, 9, N) / 4
TENTHS = _random.integers(3, 9, N)
GROUP = np.repeat([*"abc"], [42, 12, 6])  # so that partitions as they lie lack groups
SIMILARITY = reference.similarity(
    X, "euclidean", c0=subsel.FacilityLocation.from_features(X).offset
)
KERNELS = {metric: reference.similarity(X, metric, c0=0.0) for metric in ("dot", "rbf")}

# What is maximized: each formula takes the points that judge, and the selected rows.
FORMULAS = {
    "facility_location": lambda points, S: reference.value(SIMILARITY[points], S),
    "saturated_coverage": lambda points, S: reference.saturated_coverage(SIMILARITY[points], S),
    "feature_based": lambda points, S: reference.feature_based(X, S),
    "probabilistic_set_cover": lambda points, S: reference.probabilistic_set_cover(X, S),
    "set_cover": lambda points, S: reference.set_cover(BITS, S),
    "log_determinant": lambda points, S: reference.log_determinant(np.eye(N) + KERNELS["dot"], S),
    "modular": lambda points, S: reference.modular(VALUES, S),
}
SAMPLED = {"facility_location", "saturated_coverage"}
GOALS = [
    *FORMULAS,
    {"facility_location": 2.0},
    {"facility_location": 0.5, "modular": 3},
    {"saturated_coverage": 1, "feature_based": 2.0, "facility_location": 1.5},
]

# What is allowed: each rule says whether a set of rows is, whatever else there is to choose from.
FLOORS, CEILING = {"b": 2, "c": 1}, 3


def of_group(S):
    return {g: int(sum(GROUP[S] == g)) for g in "abc"}


def within(S):
    return all(count <= CEILING for count in of_group(S).values())


def extendable(S):
    """Whether five rows that meet the floors may contain these."""
    return within(S) and sum(max(c, FLOORS.get(g, 0)) for g, c in of_group(S).items()) <= 5


QUOTAS = {"groups": GROUP, "at_most": CEILING}
LIMITS = {
    "count": ({"budget": 5}, lambda S: len(S) <= 5),
    "held": (
        {"budget": 5, "given": [16, 34, 35, 40, 41, 50], "exclude": [0, 17, 18]},
        lambda S: len(S) <= 5,
    ),
    "shut": ({"budget": 5, "exclude": [0, 12, 17, 18]}, lambda S: len(S) <= 5),
    "few": ({"budget": 5, "candidates": np.arange(N) % 3 == 0}, lambda S: len(S) <= 5),
    "quotas": (QUOTAS, within),
    "floors": ({"budget": 5, "at_least": FLOORS, **QUOTAS}, extendable),
    "costs": ({"budget": 2.0, "costs": TENTHS / 10}, lambda S: TENTHS[S].sum() <= 20),
    "all": (
        {"budget": 2.0, "costs": TENTHS / 10, "given": [3, 20], "exclude": [17], **QUOTAS},
        lambda S: TENTHS[S].sum() <= 20 and within(S),
    ),
}
MOST = {"quotas": 9, "costs": 6, "all": 6}
"""Rows that may be selected together, where that is not five."""


def features(goal):
    return BITS if goal == "set_cover" else X


def extras(goal):
    return {"values": VALUES} if "modular" in goal else {}


def layouts(limit):
    """One merge; a tree of merges of partitions as they lie, judged on samples of 18 rows or so."""
    return {"partitions": 4}, {"partitions": 5, "max_rows": 8 * MOST.get(limit, 5), "spread": 1}


def select(goal, limit, layout, X=None, **others):
    options = LIMITS[limit][0] | extras(goal) | layouts(limit)[layout] | others
    rows = features(goal) if X is None else X
    return subsel.greedi(rows, objective=goal, random_state=3, **options)


class Oracle:
    """The algorithm in NumPy, with every value from scratch, for rows dealt as the plan says."""

    def __init__(self, goal, limits, plan, merge_badly=False):
        self.terms = goal if isinstance(goal, dict) else {goal: 1.0}
        options, self.allowed = limits
        self.given = list(options.get("given", []))
        self.shut = {*self.given, *options.get("exclude", [])}
        self.shut |= {*np.flatnonzero(~options.get("candidates", np.ones(N, bool))).tolist()}
        self.costs = TENTHS if "costs" in options else None
        self.only_count = self.costs is None and "groups" not in options
        self.plan, self.merge_badly = plan, merge_badly

    def value(self, points, S):
        S = [*self.given, *S]
        scale = N / max(1, len(points)) if len(self.terms) > 1 else 1.0
        return sum(
            weight * (scale if name in SAMPLED else 1) * FORMULAS[name](points, S)
            for name, weight in self.terms.items()
        )

    def greedy(self, points, rows):
        rows = [j for j in sorted(rows) if j not in self.shut]
        S, prefixes = [], [[]]
        while free := [j for j in rows if j not in S and self.allowed([*S, j])]:
            gains = np.array([self.value(points, [*S, j]) for j in free]) - self.value(points, S)
            if self.costs is not None:
                gains = gains / self.costs[free]
            S = [*S, free[int(np.argmax(gains >= gains.max() - 1e-11 * max(1, gains.max())))]]
            prefixes.append(S)
        if self.costs is not None:
            for before in prefixes[:-1]:
                for j in rows:
                    more = [*before, j]
                    if j in before or not self.allowed(more):
                        continue
                    if self.value(points, more) > self.value(points, S) * (1 + 1e-12):
                        S = more
        return S

    def last(self, rows):
        S = []
        for j in sorted(rows, reverse=True):
            if self.allowed([*S, j]):
                S.append(j)
        return S

    def search(self):
        plan, found, singles = self.plan, {}, {}
        for node in plan.tree():
            place = node.level, node.number
            if not node.children:
                points = plan.rows(node.number)
                chosen = single = self.greedy(points, points)
            else:
                below = [found[child.level, child.number] for child in node.children]
                points = np.concatenate([sample for _, _, sample in below])
                rows = [j for some, _, _ in below for j in some]
                chosen = self.last(rows) if self.merge_badly else self.greedy(points, rows)
                single = max(
                    (some for _, some, _ in below),
                    key=lambda S: (len(S) if self.only_count else 0, self.value(points, S)),
                )
            sampled = SAMPLED & self.terms.keys()
            sample = points[plan.draw(0, len(points), *place)] if sampled else points[:0]
            found[place] = chosen, single, sample
            singles[place] = single
        everything = np.arange(N)
        if not self.only_count:
            for j in chosen:
                if j not in single and self.allowed([*single, j]):
                    single = [*single, j]
        elif len(single) < len(chosen):
            single = chosen
        if self.value(everything, single) > self.value(everything, chosen) * (1 + 1e-12):
            chosen = single
        return chosen, [self.value(everything, chosen[:t]) for t in range(len(chosen) + 1)]


@pytest.fixture
def plans(monkeypatch):
    """Of every run that is begun."""
    begun = []
    selection = Run.selection
    monkeypatch.setattr(Run, "selection", lambda run: begun.append(run.plan) or selection(run))
    return begun


def assert_same(a, b):
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.gains, b.gains)
    np.testing.assert_array_equal(a.values, b.values)
    assert (a.value, a.n_evaluations, a.cost) == (b.value, b.n_evaluations, b.cost)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("goal", GOALS, ids=str)
@pytest.mark.parametrize("layout", [0, 1], ids=["one merge", "tree"])
def test_it_is_what_a_plain_implementation_selects(goal, limit, layout, plans):
    chosen = select(goal, limit, layout)
    indices, values = Oracle(goal, LIMITS[limit], plans[0]).search()
    np.testing.assert_array_equal(chosen.indices, indices)
    np.testing.assert_allclose(chosen.values, values[1:], rtol=1e-9)
    np.testing.assert_allclose(chosen.gains, np.diff(values), rtol=1e-9, atol=1e-9)
    assert chosen.value == pytest.approx(values[-1], rel=1e-9)
    assert LIMITS[limit][1](indices)
    if limit in ("costs", "all"):
        assert chosen.cost == TENTHS[indices].sum() / 10
    else:
        assert len(indices) == MOST.get(limit, 5)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("goal", ["facility_location", "feature_based", "modular", GOALS[-1]],
                         ids=str)  # fmt: skip
def test_the_best_partition_wins_if_merging_was_bad(goal, limit, plans, monkeypatch):
    """Filled up from the merge where it lacks groups."""
    selected = tasks.selected

    def badly(plan, c, points, candidates=None):
        if candidates is None:
            return selected(plan, c, points)
        nothing = candidates.take(slice(0))
        return plan.limits.completed(nothing, candidates.take(slice(None, None, -1)), 5), 0

    monkeypatch.setattr(tasks, "selected", badly)
    for layout in (0, 1):
        chosen = select(goal, limit, layout)
        indices, values = Oracle(goal, LIMITS[limit], plans[-1], merge_badly=True).search()
        np.testing.assert_array_equal(chosen.indices, indices)
        np.testing.assert_allclose(chosen.values, values[1:], rtol=1e-9)


def test_what_satisfies_a_row_is_known_from_a_sample(plans, monkeypatch):
    """Of rows of all kinds, so that it is near what all rows say."""
    monkeypatch.setattr(plan, "DRAWN", 20)
    chosen = select("saturated_coverage", "count", 1)
    drawn = plans[0].drawn_rows()
    assert len(np.unique(drawn)) == 20
    caps = 0.1 * N / 20 * SIMILARITY[:, drawn].sum(axis=1)
    np.testing.assert_allclose(caps, 0.1 * SIMILARITY.sum(axis=1), rtol=0.2)
    monkeypatch.setitem(
        FORMULAS, "saturated_coverage",
        lambda points, S: np.minimum(SIMILARITY[points][:, S].sum(axis=1), caps[points]).sum(),
    )  # fmt: skip
    indices, values = Oracle("saturated_coverage", LIMITS["count"], plans[0]).search()
    np.testing.assert_array_equal(chosen.indices, indices)
    np.testing.assert_allclose(chosen.values, values[1:], rtol=1e-9)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("goal", [goal for goal in FORMULAS if goal != "modular"])
def test_one_partition_is_select(goal, limit):
    options = LIMITS[limit][0]
    chosen = subsel.greedi(features(goal), objective=goal, **options)
    whole = subsel.select(features(goal), objective=goal, **options)
    np.testing.assert_array_equal(chosen.indices, whole.indices)
    np.testing.assert_allclose(chosen.values, whole.values, rtol=1e-12)
    assert (chosen.cost, chosen.stopped) == (whole.cost, whole.stopped)
    if goal == "facility_location":
        np.testing.assert_array_equal(chosen.gains, whole.gains)
        np.testing.assert_array_equal(chosen.assignment, whole.assignment)
        np.testing.assert_array_equal(chosen.sizes, whole.sizes)
    else:
        assert chosen.assignment is chosen.sizes is None


def test_when_all_fit():
    chosen = subsel.greedi(X, 999, costs=TENTHS, exclude=[1], partitions=3)
    assert (len(chosen), chosen.stopped, chosen.cost) == (
        N - 1,
        "exhausted",
        TENTHS.sum() - TENTHS[1],
    )


def test_given_and_excluded_by_class():
    labels = np.arange(N) % 3
    options = {"labels": labels, "given": [3, 4, 20], "exclude": [0, 17, 18]}
    whole = subsel.select(X, 9, **options)
    one = subsel.greedi(X, 9, **options)
    for name in ("indices", "gains", "value", "values", "sizes", "assignment"):
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name), err_msg=name)
    several = subsel.greedi(X, 9, partitions=3, random_state=0, **options)
    assert not {3, 4, 20, 0, 17, 18} & set(several.indices.tolist())
    for c in range(3):
        own = np.flatnonzero(labels == c)
        given = np.searchsorted(own, [j for j in (3, 4, 20) if labels[j] == c])
        inside = np.searchsorted(own, several.indices[labels[several.indices] == c])
        f = subsel.FacilityLocation.from_features(X[own])
        order = np.append(given, inside)
        assignment = f.assign(order)[0] - len(given)
        picks = np.append(own[inside], -1)[np.maximum(assignment, -1)]
        found = np.append(several.indices, -1)[several.assignment[own]]
        np.testing.assert_array_equal(found, picks)
    assert several.sizes.sum() + several.uncovered == N


# However it is run


def chunked(X):
    yield da.from_array(X, chunks=(7, -1))
    yield da.from_array(X, chunks=((1, 0, 30, 29), -1))


SOME = [
    (goal, limit)
    for goal, limit in [
        ("facility_location", "held"), ("facility_location", "floors"),
        ("saturated_coverage", "costs"), ("set_cover", "held"), ("log_determinant", "all"),
        ("modular", "quotas"), (GOALS[-1], "all"),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("goal", "limit"), SOME, ids=str)
def test_the_same_bits_in_whatever_order_tasks_are_done(goal, limit, monkeypatch):
    wanted = select(goal, limit, 1)
    started = []
    start = engines.Threads.start

    def noted(engine, task, below):
        future = start(engine, task, below)
        started.append(future)
        return future

    def finished(at):
        def one(engine, running):
            running[at].result()
            return [running[at]]

        return one

    monkeypatch.setattr(engines.Threads, "slots", lambda engine: 6)
    monkeypatch.setattr(engines.Threads, "start", noted)
    for at in (0, -1):
        monkeypatch.setattr(engines.Threads, "finished", finished(at))
        assert_same(select(goal, limit, 1), wanted)
    assert len(started) > 12


@pytest.mark.parametrize(("goal", "limit"), SOME, ids=str)
def test_the_same_for_any_chunks_and_number_of_threads(goal, limit):
    wanted = select(goal, limit, 1)
    before = numba.get_num_threads()
    for threads in (1, 2):
        numba.set_num_threads(min(threads, before))
        assert_same(select(goal, limit, 1), wanted)
    numba.set_num_threads(before)
    for lazy in chunked(features(goal)):
        other = select(goal, limit, 1, lazy)
        np.testing.assert_array_equal(other.indices, wanted.indices)
        np.testing.assert_allclose(other.values, wanted.values, rtol=1e-12)
        if goal == "facility_location":
            assert_same(other, wanted)
            own = other.assignment.compute(scheduler="synchronous")
            np.testing.assert_array_equal(own, wanted.assignment)
            np.testing.assert_array_equal(other.sizes, wanted.sizes)


def test_the_same_bits_on_a_cluster(cluster):
    wanted = [select(goal, limit, 1) for goal, limit in SOME]
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=30)
        for (goal, limit), chosen in zip(SOME, wanted, strict=True):
            assert_same(select(goal, limit, 1), chosen)
        goal, limit = SOME[0]
        lazy = da.from_array(features(goal), chunks=(7, -1))
        other = select(goal, limit, 1, lazy)
        assert_same(other, wanted[0])
        np.testing.assert_array_equal(other.assignment.compute(), wanted[0].assignment)


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"objective": "graph_cut"}, ValueError, "not monotone.*subsel.select.*'graph_cut'"),
        ({"objective": "sum_redundancy"}, ValueError, "not monotone"),
        ({"objective": "disparity_min"}, ValueError, "not submodular.*subsel.select"),
        ({"objective": "coverage"}, ValueError, "objective must be one of 'facility_location'"),
        ({"objective": None}, ValueError, "objective must be one of"),
        ({"objective": {}}, ValueError, "at least one objective"),
        ({"objective": {"modular": 1, "disparity_sum": 1}}, ValueError, "not submodular"),
        ({"objective": {"facility_location": 1, "feature_based": -1}}, ValueError,
         r"objective\['feature_based'\] must be a number in \(0"),
        ({"objective": {"facility_location": 1, "feature_based": "1"}}, TypeError,
         r"objective\['feature_based'\] must be a number"),
        ({"objective": {"facility_location": -1}}, ValueError, r"objective\['facility_location'\]"),
        ({"objective": {"facility_location": np.nan}}, ValueError, "must be a number in"),
        ({"objective": ["facility_location"]}, ValueError, "objective must be one of"),
        ({"objective": {3: 1}}, ValueError, "objective must be one of"),
        ({"X": scipy.sparse.csr_array(X)}, TypeError, "X is sparse.*subsel.select"),
        ({"objective": subsel.Modular(VALUES)}, TypeError, "one of the names.*lazy_greedy"),
        ({"objective": "modular"}, ValueError, "values and objective='modular' only"),
        ({"values": VALUES}, ValueError, "values and objective='modular' only"),
        ({"objective": "modular", "values": VALUES[1:]}, ValueError, "one number for each row"),
        ({"objective": "modular", "values": -VALUES}, ValueError, r"values\[0\] is -"),
        ({"objective": "feature_based", "metric": "dot"}, ValueError, "leave metric out"),
        ({"objective": "log_determinant", "metric": "euclidean"}, ValueError, "a kernel, and"),
        ({"objective": "feature_based", "X": -X}, ValueError,
         r"X\[0, 0\] is -.*features must not be negative"),
        ({"objective": "probabilistic_set_cover", "X": 2 * X}, ValueError,
         r"X\[0, 0\] is 1.75; probabilities must be in \[0, 1\]"),
        ({"objective": "set_cover", "X": X}, ValueError, "memberships must be 0 or 1"),
        ({"objective": "set_cover", "X": da.from_array(X, chunks=(7, -1))}, ValueError,
         r"\(row \d of chunk 0\); memberships"),
        ({"given": [1, 1]}, ValueError, "given contains 1 more than once"),
        ({"given": [N]}, ValueError, r"given\[0\] is 60"),
        ({"given": [1.0]}, TypeError, "given must be integers"),
        ({"given": [1], "exclude": [1]}, ValueError, "row 1 must not be both in given"),
        ({"exclude": range(N)}, ValueError, "only 0 of 60"),
        ({"candidates": []}, ValueError, "candidates must not be empty"),
        ({"candidates": range(4)}, ValueError, "budget is 5, but only 4 of 60"),
        ({"exclude": range(N - 4)}, ValueError, "budget is 5, but only 4 of 60"),
        ({"costs": TENTHS[1:]}, ValueError, "costs must have one entry per row"),
        ({"costs": TENTHS - 3}, ValueError, r"costs\[\d+\] is 0"),
        ({"costs": TENTHS, "budget": 2}, ValueError, "less than the smallest cost"),
        ({"costs": TENTHS, "budget": None}, ValueError, "costs need a budget"),
        ({"groups": GROUP}, ValueError, "groups need at_most or at_least"),
        ({"at_most": 2}, ValueError, "give groups, too"),
        ({"groups": GROUP[1:], "at_most": 2}, ValueError, "groups must have shape"),
        ({"groups": GROUP, "at_most": {"z": 2}}, ValueError, "at_most names 'z'"),
        ({"groups": GROUP, "at_most": 1}, ValueError, "at_most leaves only 3 in all"),
        ({"groups": GROUP, "at_least": {"c": 7}, "budget": 9}, ValueError, "of which at most 6"),
        ({"groups": GROUP, "at_least": {"c": 6}, "budget": 9, "exclude": [N - 1]}, ValueError,
         "of which only 5"),
        ({"groups": GROUP, "at_least": 1, "budget": None}, ValueError, "at_least needs a budget"),
        ({"budget": None}, TypeError, "budget must be"),
        ({"budget": 5.0}, ValueError, "pass the integer 5"),
        ({"sample": 30, "exclude": [1]}, ValueError, "sample and exclude cannot be combined"),
        ({"sample": 30, "groups": GROUP, "at_most": 2}, ValueError, "sample and groups"),
        ({"labels": GROUP, "costs": TENTHS}, ValueError, "labels and costs cannot be combined"),
        ({"labels": GROUP, "objective": "feature_based"}, ValueError, "labels need the objective"),
        ({"labels": GROUP, "exclude": range(55, N), "budget": {"a": 1, "b": 1, "c": 2}},
         ValueError, "budget asks for 2 rows of the class of row 54"),
        ({"costs": TENTHS, "budget": 300, "partitions": 2, "max_rows": 40}, ValueError,
         "the most that may be selected together"),
        ({"backend": "cuda", "objective": "feature_based"}, ValueError, "use backend='cpu'"),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        subsel.greedi(**{"X": X, "budget": 5, **change})


# What is guaranteed


@pytest.mark.parametrize(
    ("options", "allowed", "part"),
    [
        ({"budget": 3}, lambda S: len(S) <= 3, 1 - 1 / np.e),
        ({"budget": 1.4, "costs": TENTHS[:9] / 10}, lambda S: TENTHS[S].sum() <= 14, 1 / 2),
        ({"groups": np.arange(9) % 3, "at_most": 1}, lambda S: len({j % 3 for j in S}) == len(S),
         1 / 2),
    ],
    ids=["count", "costs", "groups"],
)  # fmt: skip
@pytest.mark.parametrize("goal", ["feature_based", "set_cover", "log_determinant", "modular"])
def test_guarantee_beside_the_best_of_all(goal, options, allowed, part):
    """Where tasks know F; for three partitions, and three rows or four that may be selected."""
    sets = [[j for j in range(9) if bits >> j & 1] for bits in range(1, 2**9)]
    sets = [S for S in sets if allowed(S)]
    for seed in range(4):
        random = np.random.default_rng(seed)
        scaled = random.integers(0, 9, (9, 3)) * (random.random((9, 3)) < 0.5) / 4
        rows = np.minimum(scaled, 1.0) // 1 if goal == "set_cover" else scaled
        f = {
            "feature_based": subsel.FeatureBased,
            "set_cover": subsel.SetCover,
            "log_determinant": subsel.LogDeterminant.from_features,
            "modular": lambda rows: subsel.Modular(rows[:, 0]),
        }[goal](rows)
        values = {"values": rows[:, 0]} if goal == "modular" else {}
        chosen = subsel.greedi(
            rows, objective=goal, partitions=3, spread=1, random_state=seed, **values, **options
        )
        assert allowed(chosen.indices.tolist())
        assert chosen.value == pytest.approx(f.value(chosen.indices))
        assert chosen.value >= part / 3 * max(f.value(S) for S in sets) - 1e-9
