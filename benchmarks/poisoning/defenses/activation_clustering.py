"""Activation Clustering (Chen et al., SafeAI workshop 2019)."""

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense import scores


@defense("Activation Clustering")
def activation_clustering(victim: Victim) -> Outcome:
    dropped = smaller_clusters(victim.features().numpy(), victim.labels.numpy(), victim.seed)
    kept = np.setdiff1d(victim.everyone, dropped)
    return Outcome(victim.train(kept), kept)


def smaller_clusters(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The smaller of each class's two clusters, by 2-means on ten principal components."""
    found = scores.activation_clustering(features, labels, seed=seed) == 1
    return np.concatenate([np.flatnonzero(found & (labels == c)) for c in np.unique(labels)])
