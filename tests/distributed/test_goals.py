"""`greedi` for every objective and constraint, beside the same algorithm in NumPy."""

import dask.array as da
import distributed
import numpy as np
import pytest
from members import Rule

import subsel
from subsel.distributed import engines, goal
from subsel.distributed.run import Run
from subsel.kernels import reference

N, D = 60, 4
_random = np.random.default_rng(0)
X = _random.integers(0, 9, (N, D)) / 8
X[17], X[40] = X[3], X[3]  # copies, which tie
BITS = 1.0 * (_random.random((N, 12)) < 0.2)
VALUES = _random.integers(0, 9, N) / 4
TENTHS = _random.integers(3, 9, N)
GROUP = np.array([*"aaaaaaabbc"] * 6)
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
    "held": ({"budget": 5, "given": [3, 20, 41], "exclude": [0, 17, 18]}, lambda S: len(S) <= 5),
    "quotas": (QUOTAS, within),
    "floors": ({"budget": 5, "at_least": FLOORS, **QUOTAS}, extendable),
    "costs": ({"budget": 2.0, "costs": TENTHS / 10}, lambda S: TENTHS[S].sum() <= 20),
    "all": (
        {"budget": 2.0, "costs": TENTHS / 10, "given": [3, 20], "exclude": [17], **QUOTAS},
        lambda S: TENTHS[S].sum() <= 20 and within(S),
    ),
}


def features(goal):
    return BITS if goal == "set_cover" else X


def extras(goal):
    return {"values": VALUES} if "modular" in goal else {}


class Oracle:
    """The algorithm in NumPy, with every value from scratch, for rows dealt as the plan says."""

    def __init__(self, goal, limits, plan):
        self.terms = goal if isinstance(goal, dict) else {goal: 1.0}
        options, self.allowed = limits
        self.given = list(options.get("given", []))
        self.shut = {*self.given, *options.get("exclude", [])}
        self.costs = TENTHS if "costs" in options else None
        self.only_count = self.costs is None and "groups" not in options
        self.plan = plan

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
                chosen = self.greedy(points, [j for some, _, _ in below for j in some])
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


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("goal", GOALS, ids=str)
@pytest.mark.parametrize(
    "layout",
    [{"partitions": 4}, {"partitions": 5, "max_rows": 72, "spread": 1}],  # one merge; a tree
    ids=str,
)
def test_it_is_what_a_plain_implementation_selects(goal, limit, layout, plans):
    options = LIMITS[limit][0] | extras(goal) | layout
    chosen = subsel.greedi(features(goal), objective=goal, random_state=3, **options)
    indices, values = Oracle(goal, LIMITS[limit], plans[0]).search()
    np.testing.assert_array_equal(chosen.indices, indices)
    np.testing.assert_allclose(chosen.values, values[1:], rtol=1e-9)
    np.testing.assert_allclose(chosen.gains, np.diff(values), rtol=1e-9, atol=1e-9)
    assert chosen.value == pytest.approx(values[-1], rel=1e-9)
    if "costs" in options:
        assert chosen.cost == TENTHS[indices].sum() / 10
    if "at_least" in options:
        counts = of_group(indices)
        assert len(indices) == 5 and counts["b"] >= 2 and counts["c"] >= 1
