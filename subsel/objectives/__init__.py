"""Objectives: what makes a selection good."""

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
