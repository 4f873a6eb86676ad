"""What happens in gradient space while a victim is defended, for the plots."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import nn

from benchmarks.poisoning.defenses import Trial
from benchmarks.poisoning.lab import Lab, Target
from subsel.defense import Round, last_layer_gradients


def trace(lab: Lab, target: Target, trial: Trial, subset_size: float = 0.2) -> dict:
    """What happens in gradient space, for the plots: arrays over the victim's examples.

    The distance is that of the logit gradients to the target's, were the target labelled as the
    bases: after the warmup, after undefended training and after EPIC. The cluster sizes are those
    of EPIC's medoids in each round, 0 for what had been dropped before.
    """
    victim = trial.victim
    goal = lab.test_inputs[target.index][None]

    def gradients(model: nn.Module) -> np.ndarray:
        return last_layer_gradients(model, (victim.inputs, victim.labels))[0]

    def distances(model: nn.Module) -> np.ndarray:
        wanted, _ = last_layer_gradients(model, (goal, torch.tensor([target.base])))
        return np.linalg.norm(gradients(model) - wanted, axis=1)

    epic = victim.epic(subset_size, "active")
    seen, after_warmup = [], []

    def watch(epoch: int, model: nn.Module) -> None:
        seen.append(gradients(model))
        if len(seen) == 1:
            after_warmup.append(distances(model))

    defended = victim.train(dropping=epic, on_round=watch)
    return {
        "poisoned": trial.poisoned,
        "base": (victim.labels == target.base).numpy(),
        "kept": np.isin(victim.everyone, epic.kept),
        "cluster_sizes": cluster_sizes(epic.history, seen, victim.labels.numpy()),
        "after_warmup": after_warmup[0],
        "after_undefended": distances(trial.outcome("none").model),
        "after_epic": distances(defended),
    }


def cluster_sizes(
    rounds: Sequence[Round], gradients: Sequence[np.ndarray], labels: np.ndarray
) -> np.ndarray:
    """Size of each example's cluster in each round (rounds, n), 0 for what was dropped before."""
    sizes = np.zeros((len(rounds), len(labels)), np.uint16)
    kept = np.arange(len(labels))
    for row, entry, gradient in zip(sizes, rounds, gradients, strict=True):
        for label in np.unique(labels[entry.medoids]):
            members = kept[labels[kept] == label]
            medoids = entry.medoids[labels[entry.medoids] == label]
            nearest = cdist(gradient[members], gradient[medoids]).argmin(1)
            row[members] = np.bincount(nearest)[nearest]
        kept = np.setdiff1d(kept, entry.dropped)
    return sizes
