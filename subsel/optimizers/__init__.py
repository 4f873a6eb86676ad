"""Optimizers: how to search for a good selection. Each works with every objective."""

from subsel.optimizers.greedy import greedy
from subsel.optimizers.lazy_greedy import lazy_greedy
from subsel.optimizers.random_greedy import random_greedy
from subsel.optimizers.refine import refine
from subsel.optimizers.sieve_streaming import sieve_streaming
from subsel.optimizers.stochastic_greedy import stochastic_greedy
from subsel.optimizers.threshold_greedy import threshold_greedy

__all__ = [
    "greedy",
    "lazy_greedy",
    "random_greedy",
    "refine",
    "sieve_streaming",
    "stochastic_greedy",
    "threshold_greedy",
]
