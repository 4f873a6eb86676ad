"""The trials of the fuzzer that draw an objective of any kind, a constraint, and when to stop.

Each draws data, an objective of it, a rule of what may be selected together, and elements that are
given and excluded. Every pick is then compared with the formula of the objective, computed from
scratch in plain NumPy (`subsel.kernels.reference`), and every other way with the first one, bit for
bit.
"""

import copy
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

import subsel
from subsel.constraints import Count, Groups, Knapsack, MinDistance
from subsel.kernels import reference
from tests.trust.drawing import FORMATS, clean, disguised, in_format, numbers, repeated, typed

Formula = Callable[[list[int]], float]


class Drawn(NamedTuple):
    """An objective of some data, and what it should be.

    `make` builds it from the data, in whatever form they come; `value` is F by its formula. Gains
    may be off by `slack`; where `exact`, every sum is exact, so that ties are ties for the formula
    too. Among equal gains greedy takes the element of largest `prefer`, then the lowest index.
    """

    data: np.ndarray
    make: Callable[[Any], subsel.Objective]
    value: Formula
    slack: float
    exact: bool = False
    sparse: bool = True
    prefer: Callable[[list[int], int], float] = lambda chosen, element: 0.0


# --- Objectives -------------------------------------------------------------------------------


def few(random: np.random.Generator) -> int:
    """How many candidates: few, so that the formula can be asked for all of them at each step."""
    return int(random.choice([1, 2, 3, random.integers(4, 30)], p=[0.03, 0.05, 0.07, 0.85]))


def amounts(random, shape, **limits):
    """Numbers of at least 0 in some type; the same in float64, and whether sums are exact."""
    values, exact = numbers(random, shape)
    array, S, exact = typed(random, repeated(random, values, 0), exact, **limits)
    return array, S, exact and S.max() < 2**20


def facility_location(random, n):
    array, S, exact = amounts(random, (int(random.integers(1, 40)), n), low=-200, high=200)
    options: dict[str, Any] = {}
    if random.random() < 0.3:
        options["weights"] = random.integers(0, 9, len(S)) / 8
    for name, factor in (("query", "eta"), ("private", "nu")):
        if random.random() < 0.3:
            options[name] = S.max() / 4 * random.integers(0, 5, (len(S), 3))
            options[factor] = float(random.choice([0.5, 1.0, 2.0]))
    most = max([float(S.max()), *(float(np.max(o)) for o in options.values())])
    # What similarities are bounded by has their number type.
    single = clean(array).dtype == np.float32 and len(options) > ("weights" in options)
    rounded = 2.0**-22 * len(S) * most if single else 0.0
    return Drawn(
        array, lambda S: subsel.FacilityLocation(S, **options),
        lambda c: reference.guided_facility_location(S, c, **options),
        2.0**-44 * (S.sum() + len(S) * most * bool(options)) + rounded, exact,
    )  # fmt: skip


def saturated_coverage(random, n):
    array, S, exact = amounts(random, (int(random.integers(1, 40)), n), low=-200, high=200)
    fraction = float(random.choice([0.125, 0.5, 1.0, random.uniform(0.01, 1)]))
    return Drawn(
        array, lambda S: subsel.SaturatedCoverage(S, fraction=fraction),
        lambda c: reference.saturated_coverage(S, c, fraction),
        2.0**-44 * S.sum(), exact and fraction in (0.125, 0.5, 1.0),
    )  # fmt: skip


def square(random, n, *, negative):
    """Numbers between all pairs, mostly symmetric, with copies of candidates."""
    values, exact = numbers(random, (n, n))
    if random.random() < 0.7:
        values = np.triu(values) + np.triu(values, 1).T
    if negative:
        values = values * random.choice([-1, 1], n)[:, None] * random.choice([-1, 1], n)
    if random.random() < 0.3:
        source = random.integers(0, max(1, n // 2), n)
        values = values[np.ix_(source, source)]
    array, S, exact = typed(random, values, exact, low=-140, high=140)
    return array, S, exact and abs(S).max() < 2**20


def graph_cut(random, n):
    array, S, exact = square(random, n, negative=random.random() < 0.3)
    lam = float(random.choice([0.0, 0.25, 0.5, 2.0, random.uniform(0, 3)]))
    options: dict[str, Any] = {"lam": lam}
    size = abs(S).sum()
    own: dict[str, Any] = {}
    if random.random() < 0.3:
        _, own["redundancy"], also = square(random, n, negative=False)
        exact &= also
    if random.random() < 0.3:
        own["private"] = random.integers(0, 4, (n, int(random.integers(1, 4)))).astype(float)
        options["nu"] = float(random.choice([0.5, 1.0, 3.0]))
    size += 8 * n * (1 + lam) * sum(abs(array).sum() for array in own.values())
    return Drawn(
        array, lambda S: subsel.GraphCut(S, **options, **own),
        lambda c: reference.graph_cut(S, c, **options, **own),
        2.0**-46 * (1 + lam) * n * size, exact and lam in (0.0, 0.25, 0.5, 2.0),
    )  # fmt: skip


def sum_redundancy(random, n):
    array, S, exact = square(random, n, negative=random.random() < 0.3)
    slack = 2.0**-46 * n * abs(S).sum()
    return Drawn(
        array, subsel.SumRedundancy, lambda c: reference.sum_redundancy(S, c), slack, exact
    )


def distances(random, n):
    """Distances on a line, in some number type."""
    values, exact = numbers(random, n)
    values = repeated(random, values, 0)
    array, _, exact = typed(random, abs(values[:, None] - values), exact, low=-140, high=140)
    array = np.triu(array, 1) + np.triu(array, 1).T
    return array, array.astype(float), exact


def farthest(D):
    return lambda chosen, element: float(D[element, chosen].min(initial=np.inf))


def disparity_sum(random, n):
    array, D, exact = distances(random, n)
    slack = 2.0**-46 * n * D.sum()
    value = lambda c: reference.disparity_sum(D, c)  # noqa: E731
    return Drawn(array, subsel.DisparitySum, value, slack, exact and D.max() < 2**20, sparse=False)


def disparity_min(random, n):
    array, D, _ = distances(random, n)
    value = lambda c: reference.disparity_min(D, c)  # noqa: E731
    return Drawn(
        array, subsel.DisparityMin, value, 2.0**-50 * D.max(), True,
        sparse=False, prefer=farthest(D),
    )  # fmt: skip


def feature_based(random, n):
    d = int(random.integers(1, 50))
    array, X, exact = amounts(random, (n, d), low=-100, high=100)
    kind = str(random.choice(["sqrt", "log1p", "ratio", "min"]))
    options: dict[str, Any] = {"concave": kind}
    if random.random() < 0.4:
        options["weights"] = random.integers(0, 9, d) / 8
    if kind == "min":
        options["cap"] = float(random.choice([0.5, 2.0, X.max() or 1.0]))
    worth = reference.feature_based(X, [*range(n)], **options)
    most = 9 * d * max(float(options.get("weights", np.ones(1)).max()), 1.0) + worth
    return Drawn(
        array, lambda X: subsel.FeatureBased(X, **options),
        lambda c: reference.feature_based(X, c, **options),
        2.0**-44 * max(worth, most if kind == "ratio" else worth), exact and kind == "min",
    )  # fmt: skip


def set_cover(random, n):
    u = int(random.integers(1, 60))
    M = random.random((n, u)) < random.choice([0.05, 0.3, 0.9])
    options: dict[str, Any] = {"weights": random.integers(0, 9, u) / 8}
    if random.random() < 0.4:
        options["times"] = int(random.integers(1, 4))
    for name in ("query", "private"):
        if random.random() < 0.3:
            options[name] = random.random(u) < 0.5
    array = M.astype(random.choice(["?", "i1", "f4", ">f8", "u2"]))
    return Drawn(
        array, lambda M: subsel.SetCover(M, **options),
        lambda c: reference.set_cover(M.astype(float), c, **options), 0.0, True,
    )  # fmt: skip


def probabilistic_set_cover(random, n):
    u = int(random.integers(1, 60))
    P = np.minimum(1, numbers(random, (n, u))[0])
    P = repeated(random, P / random.choice([1, 2, 1e3]), 0).astype(random.choice(["f4", "f8"]))
    options: dict[str, Any] = {"weights": random.integers(0, 9, u) / 8}
    for name in ("query", "private"):
        if random.random() < 0.3:
            options[name] = random.random(u)
    S = P.astype(float)
    return Drawn(
        P, lambda P: subsel.ProbabilisticSetCover(P, **options),
        lambda c: reference.probabilistic_set_cover(S, c, **options), 2.0**-44 * u,
    )  # fmt: skip


def log_determinant(random, n):
    X = random.normal(size=(n, int(random.integers(1, n + 3))))
    K = repeated(random, X, 0)
    K = (K @ K.T + (K @ K.T).T) / 2
    K = K.astype(random.choice(["f4", "f8"]))
    ridge = float(random.choice([0.25, 1.0])) * (1 + float(abs(K).max()))
    L = K.astype(float) + ridge * np.eye(n)
    return Drawn(
        K, lambda K: subsel.LogDeterminant(K, ridge=ridge),
        lambda c: reference.log_determinant(L, c), 1e-10 * (n + abs(np.linalg.slogdet(L)[1])),
    )  # fmt: skip


def modular(random, n):
    values, exact = numbers(random, n)
    if random.random() < 0.5:
        values = values * random.choice([-1, 1], n)
    array, V, exact = typed(random, values, exact)
    slack = 2.0**-46 * abs(V).sum()
    return Drawn(
        array, subsel.Modular, lambda c: reference.modular(V, c), slack,
        exact and abs(V).max() < 2**20, sparse=False,
    )  # fmt: skip


def from_features(random, n):
    """Objectives of rows of features, by each of their metrics."""
    d = int(random.choice([1, 2, 5, 40]))
    values, _ = numbers(random, (n, d))
    values = repeated(random, values * random.choice([-1, 1], (n, d)), 0)
    array, X, _ = typed(random, values, False, low=-60, high=60)
    cls, metrics = [
        (subsel.SaturatedCoverage, ["euclidean", "cosine", "dot", "rbf"]),
        (subsel.GraphCut, ["cosine", "dot", "rbf"]),
        (subsel.SumRedundancy, ["cosine", "dot", "rbf"]),
        (subsel.DisparitySum, ["euclidean", "cosine"]),
        (subsel.DisparityMin, ["euclidean", "cosine"]),
    ][random.integers(5)]
    metric = str(random.choice(metrics))
    unit = math.frexp(abs(X).max())[1]  # of which the formula can take squares
    scale = {"euclidean": 2.0**unit, "dot": 4.0**unit}.get(metric, 1.0)
    if metric == "rbf":
        with np.errstate(over="ignore", under="ignore"):
            S = reference.similarity(X, metric)
    elif metric == "cosine":
        with np.errstate(under="ignore"):
            rows = np.ldexp(X, -np.frexp(abs(X).max(axis=1, keepdims=True))[1])
        S = reference.similarity(rows, metric, c0=1.0)
    else:
        S = scale * reference.similarity(np.ldexp(X, -unit), metric, c0=0.0)
    single = clean(array).dtype == np.float32 and cls is subsel.SaturatedCoverage
    error = (2 * d + 128) * (2.0**-23 if single else 2.0**-52)
    if cls is subsel.SaturatedCoverage:
        c0 = subsel.FacilityLocation.from_features(clean(array), metric).offset
        S = {"rbf": S, "cosine": S + 1.0}.get(metric, S + c0)
        value = lambda c: reference.saturated_coverage(S, c)  # noqa: E731
    elif cls is subsel.GraphCut:
        value = lambda c: reference.graph_cut(S, c)  # noqa: E731
    elif cls is subsel.SumRedundancy:
        value = lambda c: reference.sum_redundancy(S, c)  # noqa: E731
    else:
        D = 1 - S if metric == "cosine" else -S
        formula = reference.disparity_sum if cls is subsel.DisparitySum else reference.disparity_min
        value = lambda c: formula(D, c)  # noqa: E731
    size = max(float(abs(S).max()), scale if metric in ("euclidean", "dot") else 1.0)
    return Drawn(
        array, lambda X: cls.from_features(X, metric), value, error * size * n * n, sparse=False
    )  # fmt: skip


KINDS = [
    facility_location, saturated_coverage, graph_cut, sum_redundancy, disparity_sum, disparity_min,
    feature_based, set_cover, probabilistic_set_cover, log_determinant, modular, from_features,
]  # fmt: skip


def mixture(random, n):
    """A sum of two objectives, the second of plain data, with weights that keep sums exact."""
    one, other = (KINDS[i](random, n) for i in random.integers(0, len(KINDS), 2))
    a, b = random.choice([0.5, 1.0, 2.0, -1.0], 2, p=[0.3, 0.3, 0.3, 0.1])
    second = other.make(other.data)
    return Drawn(
        one.data, lambda data: float(a) * one.make(data) + float(b) * copy.deepcopy(second),
        lambda c: float(a * one.value(c) + b * other.value(c)),
        2.0 * (one.slack + other.slack) + 2.0**-44 * sizes(one, other, n), sparse=one.sparse,
    )  # fmt: skip


def sizes(one, other, n):
    """The magnitude of what a mixture of two objectives rounds."""
    probes = [[j] for j in range(n)] + [[*range(n)]]
    return sum(max(abs(f.value(c)) for c in probes) for f in (one, other))


# --- Rules ------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """A constraint; by the oracle what may follow; and what greedy compares of a gain."""

    make: Callable[[], Any]
    allowed: Callable[[list[int], list[int]], list[int]]
    costs: np.ndarray | None = None
    singles: bool = False


def count(random, n, free):
    k = int(random.integers(1, len(free) + 1))
    make = (lambda: k) if random.random() < 0.5 else (lambda: Count(k))
    return Rule(make, lambda chosen, given: free if len(chosen) < k else [])


def knapsack(random, n, free):
    tenths = random.integers(1, 9, n)
    budget = int(random.integers(tenths[free].min(), max(10, 3 * n)))
    rule = str(random.choice(["plain", "ratio", "best"]))
    costs = tenths / 10
    given = [costs, costs.astype("f4"), costs.tolist()][random.integers(3)]
    return Rule(
        lambda: Knapsack(given, float(Fraction(budget, 10)), rule=rule),
        lambda chosen, _: [j for j in free if tenths[[*chosen, j]].sum() <= budget],
        None if rule == "plain" else costs,
        rule == "best",
    )


def groups(random, n, free):
    labels = random.integers(0, 4, n)
    size = np.bincount(labels[free], minlength=4)
    most = {g: int(random.integers(1, 5)) for g in range(4) if (labels == g).any()}
    room = {g: min(m, int(size[g])) for g, m in most.items()}
    floors = {g: int(random.integers(0, r + 1)) for g, r in room.items() if random.random() < 0.5}
    low, high = max(1, sum(floors.values())), sum(room.values())
    if high < low:
        return count(random, n, free)
    k = int(random.integers(low, high + 1))

    def allowed(chosen, given):
        held = np.bincount(labels[chosen], minlength=4)
        need = {g: max(0, floors.get(g, 0) - int(held[g])) for g in range(4)}
        return [
            j for j in free
            if len(chosen) < k and held[labels[j]] < most[labels[j]]
            and (need[labels[j]] or k - len(chosen) > sum(need.values()))
        ]  # fmt: skip

    names = labels if random.random() < 0.5 else np.array(["a", "b", "c", "d"])[labels]
    key = (lambda g: g) if names is labels else (lambda g: "abcd"[g])
    return Rule(
        lambda: Groups(
            names, at_most={key(g): m for g, m in most.items()},
            at_least={key(g): m for g, m in floors.items()} or None, count=k,
        ),
        allowed,
    )  # fmt: skip


def min_distance(random, n, free):
    at = random.integers(0, 12, n).astype(random.choice(["f4", "f8", "i2", "i8"]))
    least = float(random.choice([0.5, 1, 2, 3]))
    at_most = int(random.integers(1, len(free) + 1))

    def allowed(chosen, given):
        held = at[[*chosen, *given]].astype(float)
        return [j for j in free if len(chosen) < at_most and (abs(held - at[j]) >= least).all()]

    return Rule(lambda: MinDistance(at[:, None], least) & Count(at_most), allowed)


RULES = [count, knapsack, groups, min_distance]


# --- The trial --------------------------------------------------------------------------------


def objective_trial(random, folder):
    """An objective under a rule, beside its formula, and by every other way."""
    n = few(random)
    kind = [*KINDS, mixture][random.integers(len(KINDS) + 1)]
    try:
        drawn = kind(random, n)
        f = drawn.make(clean(drawn.data))
    except ValueError as error:
        if "rescale" in str(error):
            return
        raise
    check(random, folder, drawn, f)


def check(random, folder, drawn, f):
    """All checks of one trial."""
    n = f.n
    order = random.permutation(n).tolist()
    held = int(random.integers(0, 1 + n // 3)) if random.random() < 0.5 else 0
    banned = int(random.integers(0, 1 + n // 3)) if random.random() < 0.5 else 0
    given, exclude = order[:held], order[held : held + banned]
    free = sorted(order[held + banned :])
    rule = RULES[random.integers(len(RULES))](random, n, free)
    options = {"given": given, "exclude": exclude}
    chosen = subsel.greedy(f, rule.make(), **options)
    what = f"{f!r}, {rule.make()}"
    check_value(drawn, f, chosen, given, what)
    check_state(random, drawn, f, chosen, given, what)
    check_bound(random, drawn, rule, chosen, options, what)
    if rule.singles:
        plain = subsel.greedy(f, rule_without_singles(rule), **options)
        assert chosen.value >= plain.value, what
        check_picks(drawn, rule, plain, options, what)
        check_gains(drawn, rule, chosen, options, what)
    else:
        check_picks(drawn, rule, chosen, options, what)
        check_stops(random, f, rule, chosen, options, what)

    form = disguised(random, drawn.data, folder)
    pickled = pickle.dumps(f)
    other = [drawn.make(form), copy.deepcopy(f), pickle.loads(pickled)][random.integers(3)]  # noqa: S301
    same(subsel.greedy(other, rule.make(), **options), chosen, f"{what}, another form")
    if f.submodular and not rule.singles:
        same(subsel.lazy_greedy(f, rule.make(), **options), chosen, f"{what}, lazy")
    if drawn.sparse and drawn.data.dtype.isnative and drawn.data.dtype.char not in "eg":
        formats = random.choice(FORMATS, 2)
        first, second = (
            subsel.greedy(drawn.make(in_format(drawn.data, fmt)), rule.make(), **options)
            for fmt in formats
        )
        same(first, second, f"{what}, {' and '.join(formats)}")
        if not rule.singles:
            check_picks(drawn, rule, first, options, f"{what}, sparse")
    if rule.costs is None:
        drawn_by_lot = subsel.stochastic_greedy(f, rule.make(), 0.3, random_state=0, **options)
        check_gains(drawn, rule, drawn_by_lot, options, f"{what}, stochastic")
    part = random.permutation(n)[: int(random.integers(1, n + 1))]
    restricted = subsel.greedy(f.restrict(part), int(random.integers(1, len(part) + 1)))
    inside = Rule(lambda: None, lambda chosen, given: part.tolist())
    moved = subsel.Selection(part[restricted.indices], restricted.gains, restricted.value, 0)
    check_gains(drawn, inside, moved, {"given": [], "exclude": []}, f"{what}, restricted")


def rule_without_singles(rule):
    constraint = rule.make()
    return Knapsack(constraint.costs, constraint.budget, rule="ratio")


def same(ours, wanted, what):
    """The same elements, gains and values, bit for bit."""
    for name in ("indices", "gains", "value", "values"):
        np.testing.assert_array_equal(
            getattr(ours, name), getattr(wanted, name), err_msg=f"{name}, {what}"
        )


def check_gains(drawn, rule, selection, options, what):
    """Gains are those of the elements selected, each of which was allowed."""
    held, chosen = list(options["given"]), []
    before = drawn.value(held)
    for element, gain in zip(selection.indices.tolist(), selection.gains.tolist(), strict=True):
        assert element in rule.allowed(chosen, held), f"{element} is not allowed, {what}"
        assert element not in chosen, f"{element} was selected twice, {what}"
        chosen.append(element)
        now = drawn.value([*held, *chosen])
        near(gain, now - before, drawn.slack, f"the gain of {element} at {len(chosen)}, {what}")
        before = now


def check_picks(drawn, rule, selection, options, what):
    """Each pick was the best that was allowed, and it ended where nothing was allowed."""
    check_gains(drawn, rule, selection, options, what)
    held, chosen = list(options["given"]), []
    for element in [*selection.indices.tolist(), None]:
        now = [*held, *chosen]
        before = drawn.value(now)
        free = [j for j in rule.allowed(chosen, held) if j not in now]
        if element is None:
            assert not free, f"it ended after {len(chosen)}, though {free} may follow, {what}"
            return
        gains = np.array([drawn.value([*now, j]) - before for j in free])
        slack = np.full(len(free), drawn.slack)
        if rule.costs is not None:
            gains, slack = gains / rule.costs[free], slack / rule.costs[free]
        at = free.index(element)
        assert gains[at] >= (gains - slack).max() - slack[at], f"step {len(chosen)}, {what}"
        if drawn.exact and rule.costs is None:
            ties = np.flatnonzero(gains == gains.max())
            best = max(ties, key=lambda i: (drawn.prefer(now, free[i]), -i))
            assert free[best] == element, f"step {len(chosen)}: {free[best]} is as good, {what}"
        chosen.append(element)


def check_value(drawn, f, chosen, given, what):
    wanted = drawn.value([*given, *chosen.indices.tolist()])
    steps = 1 + len(chosen)
    near(chosen.value, wanted, steps * drawn.slack, f"value, {what}")
    near(f.value([*given, *chosen.indices]), wanted, steps * drawn.slack, f"f.value, {what}")
    if len(chosen):
        assert chosen.values[-1] == chosen.value, what


def check_state(random, drawn, f, chosen, given, what):
    """After a search the objective holds what was given and selected, also once reset and told."""
    if random.random() < 0.5:
        f.reset()
        for element in (*given, *chosen.indices.tolist()):
            f.add(int(element))
    held = [*given, *chosen.indices.tolist()]
    before = drawn.value(held)
    for j, gain in enumerate(f.gains(np.arange(f.n)).tolist()):
        wanted = drawn.value([*held, j]) - before if j not in held else None
        if wanted is not None:
            near(gain, wanted, drawn.slack, f"the gain of {j} afterwards, {what}")


def check_bound(random, drawn, rule, chosen, options, what):
    """Nothing that the rule allows has a larger F than the bound says."""
    if chosen.bound is None:
        return
    slack = (2 + len(chosen)) * drawn.slack
    assert chosen.bound >= chosen.value - slack, f"the bound is below the value, {what}"
    held = list(options["given"])
    for greedily in (False, False, False, True):
        some: list[int] = []
        while free := [j for j in rule.allowed(some, held) if j not in (*held, *some)]:
            few = random.choice(free, min(3 if greedily else 1, len(free)), replace=False).tolist()
            some.append(max(few, key=lambda j: drawn.value([*held, *some, j])))
        found = drawn.value([*held, *some])
        assert found <= chosen.bound + slack, f"{some} has {found}, bound {chosen.bound}, {what}"
    if rule.costs is None:  # the best pair, as far as pairs are allowed
        pairs = [
            (a, b) for a in rule.allowed([], held) for b in rule.allowed([a], held) if b > a
        ]  # fmt: skip
        best = max((drawn.value([*held, *pair]) for pair in pairs), default=-math.inf)
        assert best <= chosen.bound + slack, f"a pair has {best}, bound {chosen.bound}, {what}"


def check_stops(random, f, rule, chosen, options, what):
    """A search that stops early is the beginning of one that does not."""
    if not len(chosen):
        return
    at = int(random.integers(len(chosen)))
    base = chosen.values[0] - chosen.gains[0]
    stops = [{"target": float(chosen.values[at])}, {"min_gain": float(chosen.gains[at])}]
    if f.monotone:
        stops.append({"coverage": float(random.choice([1e-9, random.random() or 1.0, 1.0]))})
    for stop in stops:
        found = subsel.greedy(f, rule.make(), **options, **stop)
        (name, limit), *_ = stop.items()
        if name == "min_gain":
            ends = np.flatnonzero(chosen.gains <= limit)
            length = int(ends[0])
        else:
            if name == "coverage":
                limit *= f.value(np.arange(f.n))
            held = f.value(options["given"]) if len(options["given"]) else 0.0
            reached = np.array([held, *running(held, chosen.gains)])
            ends = np.flatnonzero(reached >= limit)
            length = int(ends[0]) if len(ends) else len(chosen)
        assert len(found) == length, f"{stop}: {len(found)}, not {length}, {what}, base {base}"
        np.testing.assert_array_equal(found.indices, chosen.indices[:length], err_msg=what)
        np.testing.assert_array_equal(found.gains, chosen.gains[:length], err_msg=what)
        if len(ends):
            assert found.stopped == name, f"{found.stopped}, {stop}, {what}"


def running(start, gains):
    """Sums one after the other."""
    for gain in gains.tolist():
        start += gain
        yield start


def near(found, wanted, slack, what):
    assert abs(found - wanted) <= slack, f"{found!r}, not {wanted!r} (within {slack:g}): {what}"
