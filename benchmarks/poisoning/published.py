"""Poisoned sets that others have published, in place of ones crafted here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.poisoning.defenses import Trial
from benchmarks.poisoning.lab import Lab, Target
from benchmarks.poisoning.settings import Settings
from subsel.defense import PoisonedSet, read_poisons
from subsel.defense.datasets import ImageData


class PublishedLab(Lab):
    """Victims that train from scratch on a whole training set, poisoned by others.

    Target i is the i-th set in the order of their names. Numbers in a set are positions in the
    training set, so that is taken whole and in its own order.

    Parameters
    ----------
    folder : path
        What is in it are sets that `subsel.defense.read_poisons` reads.
    """

    def __init__(
        self, settings: Settings, data: ImageData, cache: Path, device: str, folder: Path
    ) -> None:
        if settings.scenario != "scratch":
            raise ValueError(
                f"published sets were crafted on nets that are not here: scenario "
                f"{settings.scenario!r} would be another experiment than theirs"
            )
        self.sets = sorted(folder.iterdir()) if folder.is_dir() else []
        if not self.sets:
            raise FileNotFoundError(f"{folder} holds no poisoned sets")
        whole = replace(settings, pretrain=0, victim=len(data.train_images), poisons=1)
        super().__init__(whole, data, cache, device)

    def _split(self, n_train: int) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(0, np.int64), np.arange(n_train)

    def read(self, number: int) -> PoisonedSet:
        if number >= len(self.sets):
            raise ValueError(f"there are {len(self.sets)} published sets; {number + 1} are wanted")
        return read_poisons(self.sets[number])

    def target(self, number: int) -> Target:
        given = self.read(number)
        if given.adversarial_label is None:
            raise ValueError(f"{self.sets[number]} does not say which class the attack wants")
        label, base = int(given.target_labels[0]), given.adversarial_label
        return Target(number, -1, label, base, given.indices)

    def aims(self, target: Target) -> np.ndarray:
        return self.read(target.number).triggered_targets()

    def poisons(self, target: Target) -> np.ndarray:
        return self.read(target.number).images

    def trial(self, target: Target) -> Trial:
        given = self.read(target.number)
        images, labels = given.apply(self.images, self.labels.numpy())
        trial = super().trial(target)
        trial.victim = replace(trial.victim, images=images, labels=torch.from_numpy(labels))
        trial.victim = trial.victim.with_images(images)
        return trial
