"""Objectives: what makes a selection good."""

from subsel.objectives.base import Objective
from subsel.objectives.facility_location import FacilityLocation

__all__ = ["FacilityLocation", "Objective"]
