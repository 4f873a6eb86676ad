"""Attackers who know the defense: poisons in copies, that a clean model agrees with, for mixtures.

EPIC drops examples that are isolated, so an attacker makes poisons that are not. A fresh start
readmits examples whose label is likely by a model of trusted data, so an attacker makes poisons
whose label is likely. (Feature Collision makes poisons that share one gradient and differ in their
images.) Training on mixtures never shows a whole poison, so an attacker makes poisons that work in
parts.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.poisoning.attacks.features import bullseye_polytope, on_features
from benchmarks.poisoning.attacks.gradients import against_nets, flipped
from benchmarks.poisoning.backbone import to_pixels
from subsel.defense.augment import cutmix

COPIES = 4
NOISE = 2  # levels of 255
POSSIBLE = 0.1  # twice the threshold of a fresh start
MIXED_WITH = 1000  # clean images

Attack = Callable[..., tuple[np.ndarray, np.ndarray]]


def agreeing_polytope(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bullseye Polytope among poisons whose label is likely by the cleanly trained model.

    To its loss is added, for each poison, by how much its label's log-probability falls short of
    that of `POSSIBLE`.
    """
    head = list(lab.clean.modules())[-1]

    def loss_of(features: Tensor, goal: Tensor) -> Tensor:
        found = head(features).log_softmax(1)[:, target.base]
        return bullseye_polytope(features, goal) + (math.log(POSSIBLE) - found).relu().mean()

    return on_features(loss_of)(lab, target)


def gradient_matching_in_mixtures(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradient Matching against an ensemble of nets that were trained with CutMix.

    In each step the poisons are mixed with clean images, another rectangle each time, and what is
    matched is the gradient of training on the mixtures.
    """
    rng = np.random.default_rng([lab.settings.seed, target.number, 7])
    rows = rng.permutation(len(lab.images))[:MIXED_WITH]
    others = to_pixels(torch.from_numpy(lab.images[rows])).to(lab.device)
    named = lab.labels[torch.from_numpy(rows)].to(lab.device)

    def mixed(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if lab.settings.augment:
            pixels, labels = flipped(pixels, labels, generator)
        classes = F.one_hot(torch.cat([labels, named]), lab.classes).float()
        batch, other, share = cutmix(torch.cat([pixels, others]), rng)
        soft = share * classes + (1 - share) * classes[other]
        return batch[: len(pixels)], soft[: len(pixels)]

    return against_nets(lab, target, lab.mixed_nets_of_ages, lab.aims(target), mixed)


def in_copies(attack: Attack) -> Attack:
    """The attack with a fraction of the poisons, each of them `COPIES` times.

    Copies have nearly the same gradient, so none is ever alone. They differ by noise, as equal
    files would be found by anybody.
    """

    def copied(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        few = replace(target, bases=target.bases[::COPIES])
        poisons, losses = attack(lab, few)
        rng = np.random.default_rng([lab.settings.seed, target.number, 5])
        copies = np.repeat(poisons, COPIES, axis=0)[: len(target.bases)]
        noise = rng.integers(-NOISE, NOISE + 1, copies.shape)
        return np.clip(copies + noise, 0, 255).astype(np.uint8), losses

    return copied
