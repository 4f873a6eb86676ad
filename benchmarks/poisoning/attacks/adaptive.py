"""Attackers who know the defense: poisons in copies, poisons that a clean model agrees with.

EPIC drops what is isolated, so that poisons had better not be; a fresh start lets back in what a
model of trusted data holds for possible, so that poisons had better be that. (Poisons that all have
one gradient, and differ in their images, are what Feature Collision makes.)
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.poisoning.attacks.features import bullseye_polytope, on_features

COPIES = 4
NOISE = 2  # levels of 255
POSSIBLE = 0.1  # twice the threshold of a fresh start

Attack = Callable[..., tuple[np.ndarray, np.ndarray]]


def agreeing_polytope(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bullseye Polytope among poisons whose label the cleanly trained model holds for possible.

    To its loss is added, for each poison, by how much its label's log-probability falls short of
    that of `POSSIBLE`.
    """
    head = list(lab.clean.modules())[-1]

    def loss_of(features: Tensor, goal: Tensor) -> Tensor:
        found = head(features).log_softmax(1)[:, target.base]
        return bullseye_polytope(features, goal) + (math.log(POSSIBLE) - found).relu().mean()

    return on_features(loss_of)(lab, target)


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
