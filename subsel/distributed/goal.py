"""What `greedi` maximizes: objectives that can be evaluated on a part of the rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from subsel.distributed.rows import Rows
from subsel.objectives import (
    BY_NAME,
    FacilityLocation,
    FeatureBased,
    LogDeterminant,
    Mixture,
    Modular,
    Objective,
    ProbabilisticSetCover,
    SetCover,
)
from subsel.objectives.coverage import Coverage
from subsel.objectives.saturated_coverage import Saturated
from subsel.validation import check_number

if TYPE_CHECKING:
    from subsel.distributed.plan import Plan

OF_ALL_ROWS = ("facility_location", "saturated_coverage")
"""Objectives that are sums over all rows. A sample of the rows yields an estimate of them."""

OF_THE_SELECTED: dict[str, Any] = {
    "feature_based": FeatureBased,
    "set_cover": SetCover,
    "probabilistic_set_cover": ProbabilisticSetCover,
}
"""Objectives that the selected rows alone decide, as they do the log-determinant and "modular"."""

NAMES = (*OF_ALL_ROWS, *OF_THE_SELECTED, "log_determinant", "modular")

FRACTION = 0.1
"""The default `fraction` of `SaturatedCoverage`."""

_WHY_NOT = {
    "graph_cut": "is not monotone",
    "sum_redundancy": "is not monotone",
    "disparity_sum": "is not submodular",
    "disparity_min": "is not submodular",
}


class Goal(NamedTuple):
    """A sum of objectives by name, each with a weight; `kernel` is the log-determinant's metric."""

    terms: tuple[tuple[str, float], ...] = (("facility_location", 1.0),)
    kernel: str = "dot"

    @property
    def plain(self) -> bool:
        """Whether the goal is facility location and nothing else."""
        return self.terms == Goal().terms

    @property
    def sampled(self) -> bool:
        """Whether any of the objectives is a sum over all rows."""
        return any(name in OF_ALL_ROWS for name, _ in self.terms)

    @property
    def names(self) -> set[str]:
        """The names of the objectives."""
        return {name for name, _ in self.terms}

    def first_of_best(self, values: list[float]) -> int:
        """The position of the largest value; the first one if several differ only by rounding.

        The values of facility location are exact, so they are compared without a tolerance.
        """
        largest = max(values)
        least = largest if self.plain else largest - 2.0**-44 * abs(largest)
        return next(at for at, value in enumerate(values) if value >= least)

    def parts(self) -> tuple["Goal", "Goal"]:
        """The objectives that are sums over all rows, and those that the selected rows decide."""
        over = tuple(term for term in self.terms if term[0] in OF_ALL_ROWS)
        alone = tuple(term for term in self.terms if term not in over)
        return self._replace(terms=over), self._replace(terms=alone)

    def objective(
        self, plan: "Plan", c: int, points: Rows, candidates: Rows | None = None, scale: float = 1.0
    ) -> Objective:
        """The objective for candidates, evaluated on points (None: on the candidates).

        Sums over the points are multiplied by `scale`; other objectives are not.
        """
        own = points if candidates is None else candidates
        source: Any = None
        if self.sampled and candidates is None:
            source = plan.similarity(c, points.features).fastest(plan.memory)
        elif self.sampled:
            source = plan.similarity(c, points.features, own.features)
        kernel: Any = self.kernel
        made = []
        for name, weight in self.terms:
            if name == "facility_location":
                f: Objective = FacilityLocation.of(source)
            elif name == "saturated_coverage":
                f = Coverage(source, Saturated.of(plan.caps(c, points.features), source))
            elif name == "modular":
                f = Modular(own.facts["values"])
            elif name == "log_determinant":
                f = LogDeterminant.from_features(own.features, metric=kernel, backend="cpu")
            else:
                f = OF_THE_SELECTED[name](own.features, backend="cpu")
            several = len(self.terms) > 1 and name in OF_ALL_ROWS
            made.append((f, weight * scale if several else weight))
        if len(made) == 1 and made[0][1] == 1:
            return made[0][0]
        return Mixture(*zip(*made, strict=True))

    def first_wrong(self, rows: np.ndarray) -> tuple[int, int, str] | None:
        """The row and column of an entry that an objective does not allow, and what it needs."""
        wanted = []
        if "feature_based" in self.names:
            wanted.append((rows < 0, "features must not be negative"))
        if "probabilistic_set_cover" in self.names:
            wanted.append(((rows < 0) | (rows > 1), "probabilities must be in [0, 1]"))
        if "set_cover" in self.names:
            wanted.append(((rows != 0) & (rows != 1), "memberships must be 0 or 1"))
        for wrong, words in wanted:
            if wrong.any():
                i, j = np.argwhere(wrong)[0].tolist()
                return i, j, words
        return None


def check_goal(objective: Any, metric: str | None, values: Any, place: str) -> Goal:
    """The goal that the arguments `objective`, `metric` and `values` of `greedi` describe."""
    if isinstance(objective, Mapping):
        if not objective:
            raise ValueError("objective must name at least one objective, with its weight")
        given = dict(objective)
    else:
        _check_name(objective)
        given = {objective: 1.0}
    for name, weight in given.items():
        _check_name(name)
        check_number(weight, f"objective[{name!r}]", 0)
    goal = Goal(tuple((name, float(given[name])) for name in given), metric or "dot")
    if ("modular" in given) != (values is not None):
        raise ValueError(
            "values and objective='modular' only work together: give both of them, or neither"
        )
    if metric is not None and not given.keys() & {*OF_ALL_ROWS, "log_determinant"}:
        raise ValueError(f"{objective!r} uses the features themselves: leave metric out")
    if "log_determinant" in given and metric == "euclidean":
        raise ValueError(
            "log_determinant needs a kernel, and metric='euclidean' is not one: use 'dot' (the "
            "default for it), 'cosine' or 'rbf'"
        )
    if place == "cuda" and not goal.plain:
        raise ValueError(
            f"objective={objective!r} works on the CPU only; greedi uses the GPU for "
            "'facility_location' only: use backend='cpu'"
        )
    return goal


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name in NAMES:
        return
    if isinstance(name, Objective):
        raise TypeError(
            f"objective must be one of the names {', '.join(map(repr, NAMES))}, or a mapping from "
            f"names to weights, not {name!r}: pass an objective to subsel.lazy_greedy instead"
        )
    if isinstance(name, str) and name in BY_NAME:
        raise ValueError(
            f"objective={name!r} {_WHY_NOT[name]}, so a selection from parts of the rows would "
            f"have no guarantee: use subsel.select(X, ..., objective={name!r}), or here one of "
            f"{', '.join(map(repr, NAMES))}"
        )
    raise ValueError(f"objective must be one of {', '.join(map(repr, NAMES))}, not {name!r}")
