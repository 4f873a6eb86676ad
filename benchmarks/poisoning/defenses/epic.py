"""The published EPIC, and fresh starts from what it keeps, which are not the paper's."""

import numpy as np
from torch import nn

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Steps, plain
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
    """A fresh start at about the cost of one training: rounds come early, the judge trains on."""
    return quick(victim, subset_size, threshold)


def quick(
    victim: Victim,
    subset_size: float,
    threshold: float,
    *,
    steps: Steps = plain,
    judging: float = 0.5,
    finishing: float = 0.75,
) -> Outcome:
    """The core is what rounds before every epoch of the first quarter leave.

    The judge trains on it for a share of the epochs, and then for another share of them on all
    that is let in.
    """
    quarter = max(2, victim.scenario.recipe.epochs // 4)
    epic = EPIC(len(victim.labels), subset_size=subset_size, warmup=1, interval=1, stop=quarter)
    victim.shortened(quarter).train(dropping=epic)
    judge = victim.paced(judging).train(epic.kept, steps=steps)
    kept = let_in(victim, judge, epic.kept, threshold)
    model = victim.paced(finishing).train(kept, steps=steps, convert=lambda _: judge)
    return Outcome(model, kept, epic.history)


def let_in(victim: Victim, judge: nn.Module, core: np.ndarray, threshold: float) -> np.ndarray:
    """The core, and all whose label the judge holds for possible."""
    found = last_layer_gradients(judge, (victim.inputs, victim.labels))
    return readmitted(*found, core, threshold)
