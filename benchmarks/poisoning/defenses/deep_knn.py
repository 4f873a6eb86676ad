"""Deep k-NN (Peri et al., ECCV 2020 workshops)."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from benchmarks.poisoning.defenses.epic import with_readmission
from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense import scores


@defense("Deep k-NN, given the number of poisons", told=("budget",))
def deep_knn(victim: Victim, budget: int) -> Outcome:
    kept = agreeing_with_neighbours(victim.features(), victim.labels, neighbours=2 * budget)
    return Outcome(victim.train(kept), kept)


@defense("Deep k-NN")
def deep_knn_untold(victim: Victim) -> Outcome:
    """The same without the budget: a quarter as many neighbours as the class has examples."""
    return deep_knn_at(victim, 0.5)


@defense("Deep k-NN at {share}")
def deep_knn_at(victim: Victim, share: float) -> Outcome:
    """Untold, and patient: out goes only whose neighbours have other labels in a larger share."""
    kept = agreeing_with_neighbours(victim.features(), victim.labels, share=share)
    return Outcome(victim.train(kept), kept)


@defense("Deep k-NN at {share}, EPIC with re-admission")
def deep_knn_and_readmission(victim: Victim, share: float) -> Outcome:
    """The same, and EPIC among those who stay."""
    kept = agreeing_with_neighbours(victim.features(), victim.labels, share=share)
    some = victim.only(kept)
    outcome = some.defended(with_readmission(some))
    rounds = [
        replace(entry, dropped=kept[entry.dropped], readmitted=kept[entry.readmitted])
        for entry in outcome.rounds
    ]
    return Outcome(outcome.model, kept[outcome.kept], rounds)


def agreeing_with_neighbours(
    features: Tensor, labels: Tensor, *, neighbours: int | None = None, share: float = 0.5
) -> np.ndarray:
    """Those of whose nearest in feature space at most such a share has other labels."""
    return np.flatnonzero(scores.deep_knn(features, labels, neighbours=neighbours) <= share)
