"""Find what is suspicious in a data set with a model that is trained already, without training."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Unpack

import numpy as np
from torch import nn

from subsel.defense import scores
from subsel.defense.epic import EPIC
from subsel.defense.gradients import softmax_residual
from subsel.defense.looking import Looking, look
from subsel.defense.notices import DefenseWarning, notice_small_classes
from subsel.defense.reporting import Report, table

__all__ = ["audit"]


def audit(
    model: nn.Module,
    data: Any,
    *,
    subset_size: float = 0.1,
    neighbours: int | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    known: Any = None,
    shown: int = 24,
    seed: int = 0,
    **looking: Unpack[Looking],
) -> Report:
    """Look for poisons and wrong labels with a model that is trained already.

    Nothing is trained and nothing is dropped.  If the model has seen the data, it has learned from
    the poisons in it; a model that was trained on other data judges better.

    Parameters
    ----------
    model : nn.Module
        A trained classifier.
    data
        Examples without augmentation, in any form that `last_layer_gradients` takes.
    subset_size : float, default 0.1
        The number of medoids as a fraction of each class, as for `EPIC`.
    neighbours : int, optional
        The number of neighbours for Deep k-NN. Default: a quarter of the smallest class, but at
        least 1 and at most 100.
    classes, ids, known, shown
        As for `report`.
    seed : int, default 0
        Seed of Activation Clustering.
    **looking
        `layer`, `output`, `batch`, `collate`, `workers` and `device`, as in `train` and
        `last_layer_gradients`.

    Returns
    -------
    Report
        Its table has the columns of `report` that describe the trained model; ``isolated`` (whether
        a round of EPIC would drop the example), ``cluster_size``, ``medoid_distance``,
        ``neighbour`` and ``neighbour_distance``; and the scores ``deep_knn`` (share of its
        neighbours that have another label), ``spectral`` (Spectral Signatures) and, with
        scikit-learn, ``clustering`` (Activation Clustering; 1 for the smaller cluster).
        The table is ordered by ``suspicion``, in 0..1. For each of loss, neighbour distance and
        scores, the share of examples with a lower value is taken; the suspicion is the mean of
        these shares.

    Raises
    ------
    TypeError, ValueError
        As `last_layer_gradients` and `report` do.

    Warns
    -----
    DefenseWarning
        If classes have fewer than 50 examples.

    Notes
    -----
    One forward pass, and O(n^2 e) time and O(1000 n) memory for neighbours, where e is the number
    of features.
    """
    seen = look(model, data, **looking)
    labels = seen.labels.numpy()
    n = len(labels)
    notice_small_classes(dict(zip(*np.unique(labels, return_counts=True), strict=True)))
    epic = EPIC(n, subset_size=subset_size, warmup=0, interval=1)
    with warnings.catch_warnings():  # about rounds that drop nothing or too much
        warnings.simplefilter("ignore", DefenseWarning)
        epic.prune(softmax_residual(seen.logits, seen.labels).numpy(), labels, 0)
    if neighbours is None:
        smallest = int(np.unique(labels, return_counts=True)[1].min())
        neighbours = min(max(smallest // 4, 1), 100)
    found = {
        "deep_knn": scores.deep_knn(seen.features, labels, neighbours=neighbours),
        "spectral": scores.spectral_signatures(seen.features, labels),
    }
    if find_spec("sklearn") is not None:
        found["clustering"] = scores.activation_clustering(seen.features, labels, seed=seed)
    alone = np.zeros(n)
    alone[epic.history[0].dropped] = epic.history[0].evidence["neighbour_distance"]
    judged = [seen.losses.numpy(), alone, *found.values()]
    suspicion = np.mean([_share_below(values) for values in judged], axis=0)
    return table(
        epic.history,
        labels,
        np.arange(n),
        seen,
        classes=classes,
        ids=ids,
        known=known,
        shown=shown,
        scores={**found, "suspicion": suspicion},
    )


def _share_below(values: np.ndarray) -> np.ndarray:
    """For each value the share of all values that are lower."""
    return np.searchsorted(np.sort(values), values) / len(values)
