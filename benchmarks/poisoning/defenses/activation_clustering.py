"""Activation Clustering (Chen et al., SafeAI workshop 2019)."""

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim


@defense("Activation Clustering")
def activation_clustering(victim: Victim) -> Outcome:
    dropped = smaller_clusters(victim.features().numpy(), victim.labels.numpy(), victim.seed)
    kept = np.setdiff1d(victim.everyone, dropped)
    return Outcome(victim.train(kept), kept)


def smaller_clusters(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The smaller of each class's two clusters, by 2-means on ten principal components."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    dropped = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        own = features[members].astype(np.float64)
        reduced = PCA(min(10, *own.shape), random_state=seed).fit_transform(own)
        side = KMeans(2, n_init=10, random_state=seed).fit_predict(reduced)
        dropped.append(members[side == np.bincount(side, minlength=2).argmin()])
    return np.concatenate(dropped)
