"""What a round records about each dropped example: how isolated and how unlikely it was."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["FIELDS", "evidence_of", "label_probabilities", "nearest", "of_logits"]

FIELDS = ("cluster_size", "medoid_distance", "neighbour", "neighbour_distance", "probability")
BLOCK = 1 << 24  # distances that are computed at a time


def evidence_of(
    rows: np.ndarray,
    gradients: Any,
    labels: np.ndarray,
    medoids: np.ndarray,
    owner: np.ndarray,
    sizes: np.ndarray,
) -> dict[str, np.ndarray]:
    """`Round.evidence` for the dropped rows of a ground set; `rows` are positions in that set.

    Time O(rows x largest class x d).
    """
    if isinstance(gradients, np.ndarray):
        gradients = torch.from_numpy(gradients)
    own = medoids[owner[rows]]
    neighbour = np.full(len(rows), -1)
    distance = np.full(len(rows), np.nan)
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels == label)
        mine = labels[rows] == label
        at, far = nearest(gradients, rows[mine], members)
        neighbour[mine], distance[mine] = at, far
    dropped = gradients[rows]
    apart = (dropped - gradients[own]).float().norm(dim=1)
    probability = np.full(len(rows), np.nan)
    if of_logits(dropped, labels[rows]):
        probability[:] = label_probabilities(dropped, labels[rows])
    return {
        "cluster_size": sizes[owner[rows]],
        "medoid_distance": apart.cpu().numpy().astype(np.float64),
        "neighbour": neighbour,
        "neighbour_distance": distance,
        "probability": probability,
    }


def label_probabilities(gradients: Any, labels: np.ndarray) -> np.ndarray:
    """What the model gives to each example's label, (n,), from gradients with respect to logits.

    Raises
    ------
    ValueError
        They are other gradients (`of_logits`), or a label has no column.
    """
    if isinstance(gradients, np.ndarray):
        gradients = torch.from_numpy(gradients)
    if len(labels) and labels.max() >= gradients.shape[1]:
        raise ValueError(
            f"labels must be in 0..{gradients.shape[1] - 1}, the columns of gradients; "
            f"got {labels.max()}"
        )
    if not of_logits(gradients, labels):
        raise ValueError(
            'gradients must be with respect to the logits (wrt="logits"): the entry at the label '
            "must be its probability less 1, and the others the probabilities of other classes"
        )
    return (1 + _at_labels(gradients, labels)).clamp(0, 1).cpu().numpy()


def of_logits(gradients: Tensor, labels: np.ndarray) -> bool:
    """Whether they may be with respect to the logits, p - y, up to the rounding of half precision.

    Then only the label's entry is negative, and at least -1, and each row sums to 0.
    """
    if len(labels) == 0 or labels.max() >= gradients.shape[1]:
        return len(labels) == 0
    at_labels = _at_labels(gradients, labels)
    negative = (gradients < -1e-6).sum(dim=1) - (at_labels < -1e-6).long()
    right = (negative == 0) & (at_labels > -1.01) & (gradients.sum(dim=1).abs() < 0.01)
    return bool(right.all())


def _at_labels(gradients: Tensor, labels: np.ndarray) -> Tensor:
    """The entry at the label, for each row."""
    return gradients.gather(1, torch.from_numpy(labels).to(gradients.device)[:, None])[:, 0]


def nearest(
    points: Tensor, rows: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the nearest candidate other than itself, and the distance to it.

    They are -1 and NaN if there is none. Candidates are ascending; the first of equally near ones
    wins.
    """
    at = np.full(len(rows), -1)
    far = np.full(len(rows), np.nan)
    if len(candidates) == 0 or len(rows) == 0:
        return at, far
    others = points[candidates].float()
    own = torch.from_numpy(candidates).to(points.device)
    step = max(1, BLOCK // len(candidates))
    for start in range(0, len(rows), step):
        part = torch.from_numpy(rows[start : start + step]).to(points.device)
        distances = torch.cdist(
            points[part].float(), others, compute_mode="donot_use_mm_for_euclid_dist"
        )
        distances.masked_fill_(part[:, None] == own, torch.inf)
        least = distances.min(dim=1)
        good = least.values.isfinite().cpu().numpy()
        here = np.arange(start, start + len(part))[good]
        at[here] = candidates[least.indices.cpu().numpy()[good]]
        far[here] = least.values.cpu().numpy()[good]
    return at, far
