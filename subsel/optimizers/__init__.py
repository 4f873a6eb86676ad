"""Optimizers: how to search for a good selection. Each works with every objective."""

from subsel.optimizers.greedy import greedy
from subsel.optimizers.lazy_greedy import lazy_greedy
from subsel.optimizers.stochastic_greedy import stochastic_greedy

__all__ = ["greedy", "lazy_greedy", "stochastic_greedy"]
