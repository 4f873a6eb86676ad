"""Training on mixtures of images, in which no small perturbation is worth learning.

Strong augmentation against poisons: Borgnia et al., ICASSP 2021.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Step, Steps
from benchmarks.poisoning.victim import Outcome, Victim

IMAGES = ("scratch", "finetune")
Mix = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, float]]


@defense("CutMix", scenarios=IMAGES)
def cutmix(victim: Victim) -> Outcome:
    """Each image gets a rectangle of another one, and as much of its label (Yun et al. 2019)."""
    return Outcome(victim.train(steps=mixing(patched)), victim.everyone)


@defense("Mixup", scenarios=IMAGES)
def mixup(victim: Victim) -> Outcome:
    """Each image is blended with another one, and so is its label (Zhang et al. 2018)."""
    return Outcome(victim.train(steps=mixing(blended)), victim.everyone)


@defense("EPIC {subset_size} {ground_set} with CutMix", scenarios=IMAGES)
def epic_with_cutmix(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    dropping = victim.epic(subset_size, ground_set)
    model = victim.train(dropping=dropping, steps=mixing(patched))
    return Outcome(model, dropping.kept, dropping.history)


def mixing(mix: Mix) -> Steps:
    """Steps of training on mixtures within the batch; the share is uniform in [0, 1]."""

    def steps(
        model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> Step:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        rng = np.random.default_rng(seed)

        def step(x: Tensor, y: Tensor) -> None:
            other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
            x, share = mix(x, x[other], rng)
            logits = model(x)
            loss = share * F.cross_entropy(logits, y)
            loss = loss + (1 - share) * F.cross_entropy(logits, y[other])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    return steps


def patched(x: Tensor, other: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """`x` with one rectangle of `other`, its shape the image's; the share of `x` that is left."""
    height, width = x.shape[2:]
    side = np.sqrt(1 - rng.random())
    rows, columns = round(height * side), round(width * side)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    x = x.clone()
    where = (..., slice(top, top + rows), slice(left, left + columns))
    x[where] = other[where]
    return x, 1 - rows * columns / (height * width)


def blended(x: Tensor, other: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A blend, and the share of `x` in it."""
    share = float(rng.random())
    pixels, others = ((p.float() / 255 if p.dtype == torch.uint8 else p) for p in (x, other))
    return torch.lerp(others, pixels, share), share
