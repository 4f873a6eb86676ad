"""The published EPIC, and what can be done with what it keeps."""

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim


@defense("EPIC {subset_size} {ground_set}")
def epic(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    dropping = victim.epic(subset_size, ground_set)
    return Outcome(victim.train(dropping=dropping), dropping.kept, dropping.history)


@defense("{reference}, fresh head")
def fresh_start(victim: Victim, reference: Outcome) -> Outcome:
    """Not the paper's: train anew on what a defense kept."""
    return Outcome(victim.train(reference.kept), reference.kept)


@defense("{reference}, re-admission, fresh head")
def readmission(victim: Victim, reference: Outcome) -> Outcome:
    """Not the paper's: who is classified as labelled after a fresh start comes back."""
    trusted = victim.train(reference.kept)
    kept = np.union1d(reference.kept, victim.agreeing(trusted))
    return Outcome(victim.train(kept), kept)
