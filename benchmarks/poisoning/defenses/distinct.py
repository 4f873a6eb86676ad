"""Near-duplicates leave first, so that poisons in copies stand alone after all."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.poisoning.defenses.epic import epic, fresh_start
from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim

NEAR = 0.25  # of the distance at which an image of the class usually has its nearest neighbour


@defense("EPIC {subset_size} {ground_set} on distinct images")
def epic_on_distinct(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    return on_distinct(victim, lambda part: epic(part, subset_size, ground_set))


@defense("fresh start {subset_size} {threshold} on distinct images")
def fresh_start_on_distinct(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return on_distinct(victim, lambda part: fresh_start(part, subset_size, threshold))


def on_distinct(victim: Victim, run: Callable[[Victim], Outcome]) -> Outcome:
    rows = distinct(victim.images, victim.labels.numpy())
    outcome = run(victim.only(rows))
    return Outcome(outcome.model, rows[outcome.kept])


def distinct(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images, ascending, that have no near-duplicate of their label before them.

    Near is a distance of pixels of less than `NEAR` times the median, over the class, of the
    distance to the nearest other image. Time O(n^2 pixels / classes).
    """
    kept = np.ones(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        flat = torch.from_numpy(images[members]).flatten(1).float()
        distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)
        near = NEAR * distances.amin(1).median()
        earlier = (distances < near).tril().any(1).numpy()
        kept[members[earlier]] = False
    return np.flatnonzero(kept)
