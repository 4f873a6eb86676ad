"""Every objective and every constraint, each with an obvious oracle, for the tests over all.

A new objective or constraint is tested with all the others by one entry here. An oracle is plain
NumPy in float64, written from the formula: slow, and independent of the library.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from member import Member, N, amounts, mixed, never_falls, raw, rng, rows, similarities, thin
from members_by_metric import other_metrics

import subsel
from subsel.constraints import Groups, Knapsack, MinDistance
from subsel.kernels import reference


def over_stores(name: str, cls: Any, value: Callable, **options: Any) -> list[Member]:
    """An objective of similarities over every store: dense in both orders, sparse, features."""
    S, X = similarities(), rows()
    T = thin(S)
    members = [
        Member(
            f"{name}, dense", lambda: cls(S, **options),
            lambda chosen: value(S, chosen, **options),
        ),
        Member(
            f"{name}, F order", lambda: cls(np.asfortranarray(S), **options),
            lambda chosen: value(S, chosen, **options),
        ),
        Member(
            f"{name}, sparse", lambda: cls(scipy.sparse.csr_array(T), **options),
            lambda chosen: value(T, chosen, **options),
        ),
    ]  # fmt: skip
    for metric in ("euclidean", "cosine"):
        c0 = 2.0
        if metric == "euclidean":
            c0 = subsel.FacilityLocation.from_features(X).offset
        own = reference.similarity(X, metric, c0=c0)
        members += [
            Member(
                f"{name}, {metric} features, {where}",
                lambda metric=metric, memory=memory: cls.from_features(
                    X, metric, memory=memory, **options
                ),
                lambda chosen, own=own: value(own, chosen, **options),
            )
            for where, memory in (("tiles", 0), ("matrix", 2**30))
        ]
    return members


def of_pairs(name: str, cls: Any, value: Callable, **options: Any) -> list[Member]:
    """An objective of raw similarities between candidates, over every store and metric."""
    S, M = np.abs(mixed()), mixed()
    T, lopsided = np.where(S > 0.4, S, 0.0), S + np.triu(np.ones((N, N))) / 4
    U = np.where(lopsided > 0.5, lopsided, 0.0)
    cases = [
        (kind, own, lambda own=own, store=store: cls(store(own), **options), own.min() >= 0)
        for kind, own, store in (
            ("dense", S, np.asarray), ("F order", S, np.asfortranarray),
            ("not symmetric", lopsided, np.asarray), ("negative", M, np.asarray),
            ("sparse", T, scipy.sparse.csr_array),
            ("sparse, not symmetric", U, scipy.sparse.coo_array),
            ("sparse, negative", np.where(M > -0.3, M, 0), scipy.sparse.csc_array),
        )
    ]  # fmt: skip
    for metric in ("dot", "cosine", "rbf"):
        for sign in ("", ", negative"):
            X = rows() if sign else np.abs(rows())

            def from_features(X: np.ndarray = X, metric: str = metric) -> Any:
                return cls.from_features(X, metric, **options)

            kind = f"{metric} features{sign}"
            cases.append((kind, raw(X, metric), from_features, metric == "rbf" or not sign))
    members = []
    for kind, own, make, submodular in cases:

        def formula(chosen: list[int], own: np.ndarray = own) -> float:
            return value(own, chosen, **options)

        monotone = submodular and never_falls(formula)
        members.append(Member(f"{name}, {kind}", make, formula, bool(submodular), bool(monotone)))
    return members


def of_distances(
    name: str, cls: Any, value: Callable, monotone: bool, farthest: bool
) -> list[Member]:
    """An objective of distances, over every store and metric."""
    X = rows()
    members = []
    for metric in ("euclidean", "cosine"):
        D = -reference.similarity(X, metric, c0=0.0)

        def prefer(chosen: list[int], element: int, D: np.ndarray = D) -> float:
            return round(float(D[element, chosen].min(initial=np.inf)), 9) if farthest else 0.0

        members += [
            Member(
                f"{name}, {metric} {where}", make, lambda chosen, D=D: value(D, chosen),
                False, monotone, prefer,
            )
            for where, make in (
                ("dense", lambda D=D: cls(np.maximum(D, 0))),
                ("features", lambda metric=metric: cls.from_features(X, metric)),
            )
        ]  # fmt: skip
    return members


def guided_graph_cut() -> list[Member]:
    """Graph cut with a redundancy of its own, and with items to be unlike."""
    S, R, P = similarities(), np.abs(mixed(3)), similarities(4, 5).T
    X, Q = np.abs(rows()), np.abs(rows(5))[:4]
    members = [
        Member(
            "GraphCut, redundancy",
            lambda: subsel.GraphCut(S, lam=0.25, redundancy=R),
            lambda chosen: reference.graph_cut(S, chosen, 0.25, R),
        ),
        Member(
            "GraphCut, private",
            lambda: subsel.GraphCut(S, lam=0.75, redundancy=R, private=P, nu=1.5),
            lambda chosen: reference.graph_cut(S, chosen, 0.75, R, P, 1.5), monotone=False,
        ),
    ]  # fmt: skip
    for metric in ("dot", "cosine", "rbf"):
        own = raw(np.concatenate([X, Q]), metric)
        members.append(Member(
            f"GraphCut, private, {metric} features",
            lambda metric=metric: subsel.GraphCut.from_features(X, metric, private=Q, nu=9.0),
            lambda chosen, own=own: reference.graph_cut(
                own[:N, :N], chosen, private=own[:N, N:], nu=9.0
            ),
            monotone=False,
        ))  # fmt: skip
    return members


def mixtures() -> list[Member]:
    """Modular objectives, and mixtures of objectives of several kinds."""
    S, M, X = similarities(), np.abs(mixed()), rows()
    worth = rng(6).integers(-4, 9, N) / 8
    D = -reference.similarity(X, "euclidean", c0=0.0)

    def made(*weights: float) -> Any:
        f = subsel.FacilityLocation(S), subsel.GraphCut(M), subsel.Modular(np.abs(worth))
        return subsel.Mixture(f, weights)

    def formula(a: float, b: float, c: float) -> Callable[[list[int]], float]:
        return lambda chosen: (
            a * reference.value(S, chosen) + b * reference.graph_cut(M, chosen)
            + c * reference.modular(np.abs(worth), chosen)
        )  # fmt: skip

    def spread() -> Any:
        return 2.0 * subsel.FacilityLocation(S) + 0.5 * subsel.DisparitySum.from_features(X)

    return [
        Member("Modular", lambda: subsel.Modular(np.abs(worth)),
               lambda chosen: reference.modular(np.abs(worth), chosen)),
        Member("Modular, negative", lambda: subsel.Modular(worth),
               lambda chosen: reference.modular(worth, chosen), monotone=False),
        Member("Mixture", lambda: made(0.5, 2, 1), formula(0.5, 2, 1)),
        Member("Mixture, less a modular one", lambda: made(1, 0.25, -1.5), formula(1, 0.25, -1.5),
               monotone=False),
        Member("Mixture, negative", lambda: made(1, -0.5, 1), formula(1, -0.5, 1), False, False),
        Member(
            "Mixture, spread", spread,
            lambda chosen: 2 * reference.value(S, chosen) + reference.disparity_sum(D, chosen) / 2,
            submodular=False,
        ),
        Member(
            "Mixture, lazy",
            lambda: subsel.SaturatedCoverage(M, fraction=0.125) + subsel.Modular(np.abs(worth)),
            lambda chosen: (
                reference.saturated_coverage(M, chosen, 0.125)
                + reference.modular(np.abs(worth), chosen)
            ),
        ),
    ]  # fmt: skip


def log_determinants() -> list[Member]:
    """Log-determinants over every store and state, and their forms with query and private items."""
    cls, formula = subsel.LogDeterminant, reference.log_determinant
    X, Q, P = rows(), rows(7)[:3], rows(8)[:4]
    K = raw(X, "rbf")
    T = np.where(K > 0.3, K, 0.0) + 2 * np.eye(N)
    worth = rng(9).integers(4, 12, N) / 8
    weighed = np.outer(worth, worth) * (K + np.eye(N) / 4)
    members = [
        Member("LogDeterminant, ridge", lambda: cls(K, ridge=0.25),
               lambda chosen: formula(K + np.eye(N) / 4, chosen), monotone=False),
        Member("LogDeterminant, above 1", lambda: cls(np.asfortranarray(K), ridge=1),
               lambda chosen: formula(K + np.eye(N), chosen)),
        Member("LogDeterminant, sparse", lambda: cls(scipy.sparse.csc_array(T)),
               lambda chosen: formula(T, chosen)),
        Member("LogDeterminant, quality", lambda: cls(K, ridge=0.25, quality=worth),
               lambda chosen: formula(weighed, chosen), monotone=False),
        Member("LogDeterminant, quality, features",
               lambda: cls.from_features(X, quality=worth),
               lambda chosen: formula(np.outer(worth, worth) * (np.eye(N) + X @ X.T), chosen),
               monotone=False),
    ]  # fmt: skip
    wide = np.concatenate([X, rng(10).integers(-4, 5, (N, N)) / 16], axis=1)
    wide[7] = wide[3]
    for name, features, metric, scale in (
        ("dot", X, "dot", 0.5), ("cosine", X, "cosine", 3.0), ("rbf", X, "rbf", 2.0),
        ("wide dot", wide, "dot", 0.5),
    ):  # fmt: skip
        L = np.eye(N) + scale * raw(features, metric)
        members.append(Member(
            f"LogDeterminant, {name} features",
            lambda features=features, metric=metric, scale=scale: cls.from_features(
                features, metric=metric, scale=scale
            ),
            lambda chosen, L=L: formula(L, chosen),
        ))  # fmt: skip
    for metric in ("dot", "rbf"):
        J = raw(np.concatenate([X, Q, P]), metric)
        J = J + np.eye(len(J))
        q, p = slice(N, N + 3), slice(N + 3, None)
        to_q, to_p, cross = (J[:N, q], J[q, q]), (J[:N, p], J[p, p]), J[p, q]
        for form, query, private, options in (
            ("query", to_q, None, {"eta": 0.75}), ("private", None, to_p, {"nu": 0.75}),
            ("query and private", to_q, to_p, {"eta": 0.5, "nu": 0.5}),
        ):  # fmt: skip
            both = query is not None and private is not None

            def value(
                chosen: list[int], L: np.ndarray = J[:N, :N], query: Any = query,
                private: Any = private, cross: Any = cross if both else None,
                options: dict = options,
            ) -> float:  # fmt: skip
                return formula(L, chosen, query, private, cross, **options)

            kernels = {"query": query, "private": (*private, cross) if both else private}
            features = {k: v for k, v in (("query", Q), ("private", P)) if kernels[k] is not None}
            lost = query is None
            members += [
                Member(
                    f"LogDeterminant, {form}, {metric} {where}", make, value,
                    submodular=lost, monotone=True,
                )
                for where, make in (
                    ("kernel", lambda L=J[:N, :N], kernels=kernels, options=options: cls(
                        L, **kernels, **options
                    )),
                    ("features", lambda metric=metric, features=features, options=options: (
                        cls.from_features(X, metric=metric, **features, **options)
                    )),
                )
            ]  # fmt: skip
    return members


MEMBERS = [
    *over_stores("FacilityLocation", subsel.FacilityLocation, reference.value),
    # A fraction that keeps all numbers exact, so that ties are ties for the oracle too.
    *over_stores(
        "SaturatedCoverage", subsel.SaturatedCoverage, reference.saturated_coverage, fraction=0.125
    ),
    *of_pairs("GraphCut", subsel.GraphCut, reference.graph_cut),
    *of_pairs("GraphCut, diverse", subsel.GraphCut, reference.graph_cut, lam=1.5)[::4],
    *guided_graph_cut(),
    *of_pairs("SumRedundancy", subsel.SumRedundancy, reference.sum_redundancy),
    *of_distances("DisparitySum", subsel.DisparitySum, reference.disparity_sum, True, False),
    *of_distances("DisparityMin", subsel.DisparityMin, reference.disparity_min, False, True),
    *mixtures(),
    *log_determinants(),
]


def of_amounts(
    name: str, cls: Any, value: Callable, X: np.ndarray | None = None, **options: Any
) -> list[Member]:
    """An objective of what candidates have of features or concepts, over every store."""
    X = amounts() if X is None else X
    stores = {
        "dense": X,
        "F order": np.asfortranarray(X),
        "float32": X.astype(np.float32),
        "sparse": scipy.sparse.csr_array(X),
    }
    return [
        Member(
            f"{name}, {where}", lambda data=data: cls(data, **options),
            lambda chosen: value(X, chosen, **options),
        )
        for where, data in stores.items()
    ]  # fmt: skip


MEMBERS += [
    member
    for options in (
        {"concave": "sqrt"},
        {"concave": "log1p"},
        {"concave": "ratio", "weights": np.arange(70) / 8},
        {"concave": "min", "cap": 2.0},
        {"concave": "min", "cap": np.arange(70) / 8, "weights": np.arange(70)[::-1] / 8},
    )
    for member in of_amounts(
        f"FeatureBased, {options['concave']}", subsel.FeatureBased, reference.feature_based,
        **options,
    )
]  # fmt: skip

_HALF = np.arange(70) % 2 == 0
_THIRD = np.arange(70) % 3 == 0
MEMBERS += [
    member
    for name, options in (
        ("", {}),
        (", weights", {"weights": np.arange(70) / 8}),
        (", twice", {"times": 2, "weights": np.arange(70) / 8}),
        (", query", {"query": _HALF}),
        (", private", {"private": _THIRD}),
        (", both", {"query": _HALF, "private": _THIRD, "times": 3}),
    )
    for member in of_amounts(
        f"SetCover{name}", subsel.SetCover, reference.set_cover, 1.0 * (amounts() > 0), **options
    )
]
MEMBERS += [
    member
    for name, options in (
        ("", {}),
        (", weights", {"weights": np.arange(70) / 8}),
        (", query", {"query": _HALF / 2}),
        (", private", {"private": 1.0 * _THIRD}),
        (", both", {"query": _HALF / 2, "private": _THIRD / 4, "weights": np.arange(70) / 8}),
    )
    for member in of_amounts(
        f"ProbabilisticSetCover{name}", subsel.ProbabilisticSetCover,
        reference.probabilistic_set_cover, amounts() / 8 * (amounts() < 2), **options,
    )
]  # fmt: skip


def guided_facility_location() -> list[Member]:
    """Facility location with weights, a query and private items, over every store."""
    S, X = similarities(), rows()
    T, Q, P = thin(S), similarities(4)[:, :3] / 2, similarities(5)[:, :4] / 2
    U, V = rows(6)[:5], rows(7)[:3]
    forms: dict[str, dict[str, Any]] = {
        "weights": {"weights": True},
        "query": {"query": True, "eta": 1.25},
        "private": {"private": True, "nu": 0.75},
        "all": {"weights": True, "query": True, "private": True, "eta": 1.5, "nu": 0.5},
    }
    members = []
    for name, form in forms.items():
        weights = np.arange(40) % 5 / 4

        def options(
            query: Any, private: Any, points: int, form: dict = form, w: np.ndarray = weights
        ) -> dict[str, Any]:
            parts = {"weights": w[:points], "query": query, "private": private}
            return {key: parts.get(key, value) for key, value in form.items()}

        given = options(Q, P, 40)
        for where, own, store in (
            ("dense", S, np.asarray), ("F order", S, np.asfortranarray),
            ("float32", S, np.float32), ("sparse", T, scipy.sparse.csr_array),
        ):  # fmt: skip
            members.append(Member(
                f"FacilityLocation, {name}, {where}",
                lambda own=own, store=store, given=given: subsel.FacilityLocation(
                    store(own), **given
                ),
                lambda chosen, own=own, given=given: reference.guided_facility_location(
                    own, chosen, **given
                ),
            ))  # fmt: skip
        given = options(U, V, N)
        for metric in ("euclidean", "cosine", "dot", "rbf"):
            for where, memory in (("tiles", 0), ("matrix", 2**30)):

                def make(metric: str = metric, memory: int = memory, given: dict = given) -> Any:
                    return subsel.FacilityLocation.from_features(X, metric, memory=memory, **given)

                c0 = make().offset
                whole = reference.similarity(np.concatenate([X, U, V]), metric, c0=c0)
                own = whole[:N]
                near = options(own[:, N : N + 5], own[:, N + 5 :], N)
                members.append(Member(
                    f"FacilityLocation, {name}, {metric} features, {where}", make,
                    lambda chosen, own=own, near=near: reference.guided_facility_location(
                        own, chosen, **near
                    ),
                ))  # fmt: skip
    return members


MEMBERS += guided_facility_location()


MEMBERS += other_metrics()


class Rule(NamedTuple):
    """A constraint, and by the oracle which elements may follow those that were picked,
    beside those given.

    `compared` is what greedy compares of an element: gains, or gains divided by a cost. With
    `singles`, the best single element that is allowed is tried at each prefix.
    """

    name: str
    make: Callable[[], Any]
    allowed: Callable[[list[int], tuple[int, ...]], list[int]]
    compared: Callable[[float, int], float] = lambda gain, element: gain
    singles: bool = False


def everything(chosen: list[int]) -> list[int]:
    return [j for j in range(N) if j not in chosen]


def that_fit(chosen: list[int], given: tuple[int, ...]) -> list[int]:
    spent = sum(TENTHS[j] for j in chosen)
    return [j for j in everything(chosen) if spent + TENTHS[j] <= 20]


def within_quotas(chosen: list[int], given: tuple[int, ...]) -> list[int]:
    held = [sum(j % 4 == g for j in chosen) for g in range(4)]
    need = {g: max(0, {0: 2, 3: 3}.get(g, 0) - held[g]) for g in range(4)}
    left = 7 - len(chosen)
    return [
        j for j in everything(chosen)
        if left and held[j % 4] < 3 and (need[j % 4] or left > sum(need.values()))
    ]  # fmt: skip


def apart(chosen: list[int], given: tuple[int, ...]) -> list[int]:
    X = rows()
    held = [*chosen, *given]
    return [
        j for j in everything(chosen)
        if all(np.sqrt(((X[j] - X[a]) ** 2).sum()) >= 1.5 for a in held)
    ]  # fmt: skip


TENTHS = np.random.default_rng(5).integers(1, 9, N)
"""Costs of the candidates, in tenths: their sums are exact here, but not in floating point."""
COSTS = TENTHS / 10

CONSTRAINTS = [
    Rule("count", lambda: 6, lambda chosen, given: everything(chosen) if len(chosen) < 6 else []),
    *(
        Rule(
            f"knapsack, {rule}", lambda rule=rule: Knapsack(COSTS, 2.0, rule=rule), that_fit,
            lambda gain, j, rule=rule: gain if rule == "plain" else gain / COSTS[j],
            singles=rule == "best",
        )
        for rule in ("plain", "ratio", "best")
    ),
    Rule(
        "groups",
        lambda: Groups(np.arange(N) % 4, at_most=3, at_least={0: 2, 3: 3}, count=7),
        within_quotas,
    ),
    Rule("distance", lambda: MinDistance(rows(), 1.5), apart),
    Rule(
        "knapsack & groups & distance",
        lambda: Knapsack(COSTS, 2.0, rule="ratio")
        & Groups(np.arange(N) % 4, at_most=2)
        & MinDistance(rows().astype(np.float32), 1.5),
        lambda chosen, given: [
            j for j in apart(chosen, given)
            if j in that_fit(chosen, given) and sum(a % 4 == j % 4 for a in chosen) < 2
        ],
        lambda gain, j: gain / COSTS[j],
    ),
]  # fmt: skip


def free_after(
    rule: Rule, chosen: list[int], given: tuple[int, ...], exclude: tuple[int, ...]
) -> list[int]:
    """What may follow by the oracle."""
    return [j for j in rule.allowed(chosen, given) if j not in given and j not in exclude]


def with_singles(
    member: Member, rule: Rule, chosen: list[int], gains: list[float],
    given: tuple[int, ...], exclude: tuple[int, ...],
) -> tuple[list[int], list[float]]:  # fmt: skip
    """The best of what greedy selected, and of each prefix with one more element."""
    best, value = (chosen, gains), member.value([*given, *chosen])
    for at in range(len(chosen) if rule.singles else 0):
        before = member.value([*given, *chosen[:at]])
        for j in free_after(rule, chosen[:at], given, exclude):
            own = member.value([*given, *chosen[:at], j])
            if own > value + 1e-12 * abs(value):
                best, value = ([*chosen[:at], j], [*gains[:at], own - before]), own
    return best


@functools.cache
def greedy(
    member: Member,
    rule: Rule,
    *,
    given: tuple[int, ...] = (),
    exclude: tuple[int, ...] = (),
    target: float = np.inf,
    min_gain: float = -np.inf,
) -> tuple[list[int], list[float]]:
    """Greedy by the oracle: every value from scratch; the lowest index among equals."""
    chosen: list[int] = []
    gains: list[float] = []
    while member.value([*given, *chosen]) < target:
        before = member.value([*given, *chosen])
        free = free_after(rule, chosen, given, exclude)
        if not free:
            return with_singles(member, rule, chosen, gains, given, exclude)
        gain = {j: member.value([*given, *chosen, j]) - before for j in free}
        worth = {j: rule.compared(gain[j], j) for j in free}
        scale = max(1e-300, *(abs(w) for w in worth.values()))
        # Values from scratch are rounded: what is equal but for that is a tie.
        equal = [j for j in free if worth[j] >= max(worth.values()) - 1e-11 * scale]
        best = max(equal, key=lambda j: (member.prefer([*given, *chosen], j), -j))
        if gain[best] <= min_gain:
            break
        chosen.append(best)
        gains.append(gain[best])
    return chosen, gains
