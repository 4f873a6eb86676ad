"""Spectral Signatures (Tran, Li and Madry, NeurIPS 2018)."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim


@defense("Spectral Signatures, told the budget", told=("budget",))
def spectral_signatures(victim: Victim, budget: int) -> Outcome:
    scores = outlyingness(victim.features(), victim.labels).numpy()
    labels = victim.labels.numpy()
    dropped = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(1.5 * budget), len(members) - 1)
        dropped.append(members[np.argsort(-scores[members], kind="stable")[:count]])
    kept = np.setdiff1d(victim.everyone, np.concatenate(dropped))
    return Outcome(victim.train(kept), kept)


def outlyingness(features: Tensor, labels: Tensor) -> Tensor:
    """Squared projection on the first principal direction of each example's class."""
    scores = torch.empty(len(labels))
    for label in labels.unique():
        members = labels == label
        centred = features[members] - features[members].mean(0)
        first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores[members] = (centred @ first).square()
    return scores
