"""How much a round changes the mean gradient, which training follows (theorem 3.1 of the paper)."""

from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["RANDOM_SUBSETS", "Fidelity", "fidelity"]

RANDOM_SUBSETS = 5


class Fidelity(NamedTuple):
    """How dropping changed the mean gradient. The fields are those of `Round`."""

    rho: float
    error: float
    random_error: float


def fidelity(gradients: Any, before: np.ndarray, after: np.ndarray, epoch: int) -> Fidelity:
    """Compare the mean gradients before and after a round.

    Parameters
    ----------
    gradients : ndarray or Tensor (n, d)
    before, after : ndarrays of bool (n,)
        The examples that were kept before the round, and those that are kept after it.
    epoch : int
        Seeds the random subsets.

    Returns
    -------
    Fidelity

    Notes
    -----
    Time O(n d), memory O(n d) for float64 copies.
    """
    found = torch.as_tensor(gradients)[torch.as_tensor(np.flatnonzero(before))].double()
    kept = torch.as_tensor(after[before], device=found.device)
    whole = found.mean(dim=0)
    length = max(float(whole.norm()), np.finfo(float).tiny)
    mean = found[kept].mean(dim=0)
    rng = np.random.default_rng([epoch, len(found)])
    size = int(kept.sum())
    errors = []
    for _ in range(RANDOM_SUBSETS):
        rows = torch.as_tensor(rng.choice(len(found), size, replace=False), device=found.device)
        errors.append(float((found[rows].mean(dim=0) - whole).norm()) / length)
    return Fidelity(
        rho=abs(float(mean.norm()) - float(whole.norm())),
        error=float((mean - whole).norm()) / length,
        random_error=float(np.mean(errors)),
    )
