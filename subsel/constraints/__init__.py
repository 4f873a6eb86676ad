"""Constraints: which elements may be selected together. Each works with every optimizer."""

from subsel.constraints.base import Constraint, Count, State

__all__ = ["Constraint", "Count", "State"]
