"""Other defenses as scores: a number for each example; higher numbers are more suspicious.

All take features (n, e) of a trained model, such as the inputs of its last layer, and labels (n,).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsel.defense.data import as_tensor
from subsel.validation import as_host_array, check_count

__all__ = ["activation_clustering", "deep_knn", "spectral_signatures"]

BLOCK = 1000  # examples that are compared with all others at a time


def deep_knn(features: Any, labels: Any, *, neighbours: int | None = None) -> np.ndarray:
    """The share of an example's nearest neighbours that have another label, in 0..1.

    Peri et al., Deep k-NN Defense against Clean-label Data Poisoning Attacks (ECCV 2020 workshops),
    drop the examples for which it is more than one half.

    Parameters
    ----------
    features : array_like or Tensor (n, e)
    labels : array_like or Tensor of int (n,)
    neighbours : int, optional
        The number of neighbours; no more than n - 1 are used. The paper uses twice the expected
        number of poisons. Default: a quarter of the size of the example's class.

    Returns
    -------
    ndarray of float64 (n,)

    Notes
    -----
    Time O(n^2 e), memory O(1000 n).
    """
    points, labels = _checked(features, labels)
    if neighbours is None:
        _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        wanted = np.maximum(1, sizes // 4)[place]
    else:
        wanted = np.full(len(points), check_count(neighbours, "neighbours", 1))
    counts = torch.from_numpy(np.minimum(wanted, len(points) - 1))
    if len(points) < 2:
        return np.zeros(len(points))
    own, most = torch.from_numpy(labels), int(counts.max())
    shares = []
    for rows in torch.arange(len(points)).split(BLOCK):
        distances = torch.cdist(points[rows], points)
        distances[torch.arange(len(rows)), rows] = torch.inf
        nearest, k = distances.topk(most, largest=False).indices, counts[rows]
        same = (own[nearest] == own[rows, None]).cumsum(1).gather(1, k[:, None] - 1)[:, 0]
        shares.append(1 - same.double() / k)
    return torch.cat(shares).numpy()


def spectral_signatures(features: Any, labels: Any) -> np.ndarray:
    """Squared projection on the first principal direction of an example's class.

    Tran, Li and Madry, Spectral Signatures in Backdoor Attacks (NeurIPS 2018), drop the examples of
    each class with the highest scores.  Parameters are those of `deep_knn`.

    Returns
    -------
    ndarray of float64 (n,)
    """
    points, labels = _checked(features, labels)
    scores = np.zeros(len(points))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        centred = points[members] - points[members].mean(0)
        first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores[members] = (centred @ first).square().numpy()
    return scores


def activation_clustering(features: Any, labels: Any, *, seed: int = 0) -> np.ndarray:
    """1 for the examples in the smaller of the two clusters of their class, else 0.

    Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering
    (SafeAI workshop 2019): 2-means on ten principal components. If both clusters have the same
    size, the first counts as the smaller one. A class of one example has no clusters.  Parameters
    are those of `deep_knn`.

    Returns
    -------
    ndarray of float64 (n,)

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
    except ModuleNotFoundError:
        raise ImportError(
            'activation_clustering needs scikit-learn: pip install "subsel[sklearn]"'
        ) from None
    points, labels = _checked(features, labels)
    scores = np.zeros(len(points))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        own = points[members].double().numpy()
        reduced = PCA(min(10, *own.shape), random_state=seed).fit_transform(own)
        side = KMeans(2, n_init=10, random_state=seed).fit_predict(reduced)
        scores[members[side == np.bincount(side, minlength=2).argmin()]] = 1
    return scores


def _checked(features: Any, labels: Any) -> tuple[Tensor, np.ndarray]:
    points = as_tensor(as_host_array(features, "features"), "features")
    labels = as_host_array(labels, "labels")
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"features must be (n, e), got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"features must be finite floats, got {points.dtype}")
    if not points.isfinite().all():
        raise ValueError("features must be finite floats, got NaN or inf")
    if labels.dtype.kind not in "iu" or labels.shape != (len(points),):
        raise ValueError(
            f"labels must be integers ({len(points)},) as features, got {labels.dtype} "
            f"{labels.shape}"
        )
    return points, labels.astype(np.int64)
