"""The published EPIC, and fresh starts from what it keeps, which are not the paper's."""

import numpy as np
from torch import nn

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense import EPIC, last_layer_gradients, readmitted


@defense("EPIC {subset_size} {ground_set}")
def epic(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    dropping = victim.epic(subset_size, ground_set)
    return Outcome(victim.train(dropping=dropping), dropping.kept, dropping.history)


@defense("{reference}, fresh head")
def fresh_head(victim: Victim, reference: Outcome) -> Outcome:
    """Train anew on what a defense kept."""
    return Outcome(victim.train(reference.kept), reference.kept)


@defense("{reference}, re-admission, fresh head")
def readmission(victim: Victim, reference: Outcome) -> Outcome:
    """Who is classified as labelled after a fresh start comes back."""
    trusted = victim.train(reference.kept)
    kept = np.union1d(reference.kept, victim.agreeing(trusted))
    return Outcome(victim.train(kept), kept)


@defense("fresh start {subset_size} {threshold}")
def fresh_start(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    """What `subsel.defense.train_afresh` does: core, judge and final training."""
    epic = victim.epic(subset_size, "active")
    victim.shortened(min(epic.stop, victim.scenario.recipe.epochs)).train(dropping=epic)
    kept = let_in(victim, victim.train(epic.kept), epic.kept, threshold)
    return Outcome(victim.train(kept), kept, epic.history)


@defense("quick fresh start {subset_size} {threshold}")
def quick_fresh_start(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    """A fresh start at about the cost of one training: rounds come early, the judge trains on.

    The core is what rounds before every epoch of the first quarter leave; the judge trains on it
    for half of the epochs, and then for three quarters of them on all that is let in.
    """
    epic = early(victim, subset_size)
    victim.shortened(epic.stop).train(dropping=epic)
    judge = victim.paced(0.5).train(epic.kept)
    kept = let_in(victim, judge, epic.kept, threshold)
    return Outcome(victim.paced(0.75).train(kept, convert=lambda _: judge), kept, epic.history)


@defense("early EPIC {subset_size} {threshold}")
def early_epic(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    dropping = early(victim, subset_size, threshold)
    return Outcome(victim.train(dropping=dropping), dropping.kept, dropping.history)


def early(victim: Victim, subset_size: float, threshold: float | None = None) -> EPIC:
    """Rounds before all epochs of the first quarter but the first, then perhaps re-admission."""
    return EPIC(
        len(victim.labels),
        subset_size=subset_size,
        warmup=1,
        interval=1,
        stop=max(2, victim.scenario.recipe.epochs // 4),
        readmission=threshold,
    )


def let_in(victim: Victim, judge: nn.Module, core: np.ndarray, threshold: float) -> np.ndarray:
    """The core, and all whose label the judge holds for possible."""
    found = last_layer_gradients(judge, (victim.inputs, victim.labels))
    return readmitted(*found, core, threshold)
