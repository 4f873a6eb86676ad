"""Attackers who know the defense: copies, agreement, like gradients, mixtures.

EPIC drops examples that are isolated, so an attacker makes poisons that are not. A fresh start
readmits examples whose label is likely by a model of trusted data, so an attacker makes poisons
whose label is likely. Training on mixtures never shows a whole poison, so an attacker makes poisons
that work in parts.

The paper (section 3.6) names two more attackers: one makes poisons whose gradients are alike
throughout training, and one chooses bases that make the poisons' gradients a cluster. The second is
``--bases nearest``. On a head, Feature Collision makes poisons that share one gradient.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.attacks.features import bullseye_polytope, on_features
from benchmarks.poisoning.attacks.gradients import against_nets, flipped, gradient_matching_late
from benchmarks.poisoning.backbone import to_pixels
from subsel.defense.augment import cutmix

COPIES = 4
NOISE = 2  # levels of 255
POSSIBLE = 0.1  # twice the threshold of a fresh start
MIXED_WITH = 1000  # clean images
LIKENESS = 0.5  # what the spread of the poisons' gradients weighs beside their mismatch

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


def gradient_matching_alike(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradient Matching against late nets; the poisons' last-layer gradients are to be alike.

    To the mismatch is added `LIKENESS` times the `spread`, on the same net.
    """

    def unlike(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        return LIKENESS * spread(net(pixels).softmax(1) - F.one_hot(labels, lab.classes))

    return gradient_matching_late(lab, target, unlike)


def spread(gradients: Tensor) -> Tensor:
    """Mean squared distance of the rows to their mean, in that of the rows to 0; from 0 to 1."""
    away = gradients - gradients.mean(0)
    return away.square().sum() / gradients.square().sum().clamp(min=1e-12)


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
