"""Deep k-NN (Peri et al., ECCV 2020 workshops)."""

import numpy as np
from torch import Tensor

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
    kept = agreeing_with_neighbours(victim.features(), victim.labels, neighbours=None)
    return Outcome(victim.train(kept), kept)


def agreeing_with_neighbours(
    features: Tensor, labels: Tensor, *, neighbours: int | None
) -> np.ndarray:
    """Those of whom at least half of the nearest in feature space share the label."""
    return np.flatnonzero(scores.deep_knn(features, labels, neighbours=neighbours) <= 0.5)
