"""Objectives: what makes a selection good."""

from subsel.objectives.base import Objective
from subsel.objectives.coverage import Coverage
from subsel.objectives.facility_location import FacilityLocation
from subsel.objectives.feature_based import FeatureBased
from subsel.objectives.saturated_coverage import SaturatedCoverage

__all__ = ["Coverage", "FacilityLocation", "FeatureBased", "Objective", "SaturatedCoverage"]
