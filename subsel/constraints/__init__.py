"""Constraints: which elements may be selected together. Each works with every objective."""

from subsel.constraints.base import Constraint, Count, State
from subsel.constraints.groups import Groups
from subsel.constraints.knapsack import Knapsack
from subsel.constraints.min_distance import MinDistance

__all__ = ["Constraint", "Count", "Groups", "Knapsack", "MinDistance", "State"]
