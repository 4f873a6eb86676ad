"""subsel picks the few items that stand for the many.

Facility-location selection on Numba kernels, and in `subsel.defense` a defense against targeted
data poisoning (EPIC) that is built on it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Coverage": "subsel.objectives",
    "DisparityMin": "subsel.objectives",
    "DisparitySum": "subsel.objectives",
    "FacilityLocation": "subsel.objectives",
    "FeatureBased": "subsel.objectives",
    "GraphCut": "subsel.objectives",
    "LogDeterminant": "subsel.objectives",
    "Mixture": "subsel.objectives",
    "Modular": "subsel.objectives",
    "Objective": "subsel.objectives",
    "ProbabilisticSetCover": "subsel.objectives",
    "SaturatedCoverage": "subsel.objectives",
    "SetCover": "subsel.objectives",
    "SumRedundancy": "subsel.objectives",
    "Selection": "subsel.selection",
    "greedy": "subsel.optimizers",
    "lazy_greedy": "subsel.optimizers",
    "threshold_greedy": "subsel.optimizers",
    "sieve_streaming": "subsel.optimizers",
    "refine": "subsel.optimizers",
    "random_greedy": "subsel.optimizers",
    "stochastic_greedy": "subsel.optimizers",
    "select": "subsel.coreset",
    "StreamSelection": "subsel.streaming",
    "StreamSelector": "subsel.streaming",
    "assign": "subsel.assignment",
    "greedi": "subsel.distributed",
}
_MODULES = (
    "constraints",
    "defense",
    "estimators",
    "objectives",
    "optimizers",
    "plots",
    "testing",
)
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
    "Selection",
    "SetCover",
    "StreamSelection",
    "StreamSelector",
    "SumRedundancy",
    "assign",
    "greedi",
    "greedy",
    "lazy_greedy",
    "random_greedy",
    "refine",
    "select",
    "sieve_streaming",
    "stochastic_greedy",
    "threshold_greedy",
]

if TYPE_CHECKING:
    from subsel.assignment import assign
    from subsel.coreset import select
    from subsel.distributed.greedi import greedi
    from subsel.objectives import (
        Coverage,
        DisparityMin,
        DisparitySum,
        FacilityLocation,
        FeatureBased,
        GraphCut,
        LogDeterminant,
        Mixture,
        Modular,
        Objective,
        ProbabilisticSetCover,
        SaturatedCoverage,
        SetCover,
        SumRedundancy,
    )
    from subsel.optimizers.greedy import greedy
    from subsel.optimizers.lazy_greedy import lazy_greedy
    from subsel.optimizers.random_greedy import random_greedy
    from subsel.optimizers.refine import refine
    from subsel.optimizers.sieve_streaming import sieve_streaming
    from subsel.optimizers.stochastic_greedy import stochastic_greedy
    from subsel.optimizers.threshold_greedy import threshold_greedy
    from subsel.selection import Selection
    from subsel.streaming import StreamSelection, StreamSelector


def __getattr__(name: str) -> Any:
    # Numba and its compiled kernels are loaded on first use, not on import.
    if name in _MODULES:
        return import_module(f"subsel.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'subsel' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name[:2] == "__")})
