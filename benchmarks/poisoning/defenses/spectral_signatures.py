"""Spectral Signatures (Tran, Li and Madry, NeurIPS 2018)."""

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense import scores


@defense("Spectral Signatures, given the number of poisons", told=("budget",))
def spectral_signatures(victim: Victim, budget: int) -> Outcome:
    outlying = scores.spectral_signatures(victim.features(), victim.labels)
    labels = victim.labels.numpy()
    dropped = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(1.5 * budget), len(members) - 1)
        dropped.append(members[np.argsort(-outlying[members], kind="stable")[:count]])
    kept = np.setdiff1d(victim.everyone, np.concatenate(dropped))
    return Outcome(victim.train(kept), kept)
