"""Objectives: what makes a selection good."""

from typing import Any

from subsel.objectives.base import Objective
from subsel.objectives.coverage import Coverage
from subsel.objectives.disparity import DisparityMin, DisparitySum
from subsel.objectives.facility_location import FacilityLocation
from subsel.objectives.feature_based import FeatureBased
from subsel.objectives.graph_cut import GraphCut
from subsel.objectives.log_determinant import LogDeterminant
from subsel.objectives.mixture import Mixture
from subsel.objectives.modular import Modular
from subsel.objectives.probabilistic_set_cover import ProbabilisticSetCover
from subsel.objectives.saturated_coverage import SaturatedCoverage
from subsel.objectives.set_cover import SetCover
from subsel.objectives.sum_redundancy import SumRedundancy

__all__ = [
    "BY_NAME",
    "Coverage",
    "DisparityMin",
    "DisparitySum",
    "FacilityLocation",
    "FeatureBased",
    "GraphCut",
    "LogDeterminant",
    "Mixture",
    "Modular",
    "Objective",
    "ProbabilisticSetCover",
    "SaturatedCoverage",
    "SetCover",
    "SumRedundancy",
]

BY_NAME: dict[str, Any] = {
    "facility_location": FacilityLocation,
    "saturated_coverage": SaturatedCoverage,
    "graph_cut": GraphCut,
    "sum_redundancy": SumRedundancy,
    "log_determinant": LogDeterminant,
    "disparity_sum": DisparitySum,
    "disparity_min": DisparityMin,
    "feature_based": FeatureBased,
    "set_cover": SetCover,
    "probabilistic_set_cover": ProbabilisticSetCover,
}
"""By the names that `select` and `greedi` take. The last three are of the features
themselves, the others of similarities of rows."""
