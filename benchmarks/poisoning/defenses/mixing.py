"""Training on mixtures of images, in which no small perturbation is worth learning.

Strong augmentation against poisons: Borgnia et al., ICASSP 2021.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.defenses.epic import afresh, with_readmission
from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Step, Steps
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense.augment import cutmix

IMAGES = ("scratch", "finetune")
# From a batch to the mixed batch, with whom each image was mixed, and how much of it is left.
Mix = Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor, float]]


@defense("CutMix", scenarios=IMAGES)
def with_cutmix(victim: Victim) -> Outcome:
    """Each image gets a rectangle of another one, and as much of its label (Yun et al. 2019)."""
    return Outcome(victim.train(steps=mixing(cutmix)), victim.everyone)


@defense("Mixup", scenarios=IMAGES)
def with_mixup(victim: Victim) -> Outcome:
    """Each image is blended with another one, and so is its label (Zhang et al. 2018)."""
    return Outcome(victim.train(steps=mixing(mixup)), victim.everyone)


@defense("EPIC {subset_size} {ground_set} with CutMix", scenarios=IMAGES)
def epic_with_cutmix(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    return victim.defended(victim.epic(subset_size, ground_set), steps=mixing(cutmix))


@defense("EPIC with re-admission and CutMix", scenarios=IMAGES)
def readmission_with_cutmix(victim: Victim) -> Outcome:
    return victim.defended(with_readmission(victim), steps=mixing(cutmix))


@defense("quick fresh start {subset_size} {threshold} with CutMix", scenarios=IMAGES)
def quick_fresh_start_with_cutmix(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    """Judge and final training on mixtures, and shorter, for mixing costs a little itself."""
    return paced_fresh_start_with_cutmix(victim, subset_size, threshold, 0.25, 0.7)


@defense(
    "quick fresh start {subset_size} {threshold} with CutMix, judge {judging}, final {finishing}",
    scenarios=IMAGES,
)
def paced_fresh_start_with_cutmix(
    victim: Victim, subset_size: float, threshold: float, judging: float, finishing: float
) -> Outcome:
    """The same in other shares of the epochs."""
    epochs = victim.scenario.recipe.epochs
    judge_epochs, final_epochs = (max(1, round(share * epochs)) for share in (judging, finishing))
    return afresh(
        victim,
        subset_size,
        threshold,
        quick=True,
        cutmix=True,
        judge_epochs=judge_epochs,
        final_epochs=final_epochs,
    )


def mixing(mix: Mix) -> Steps:
    """Steps of training on mixtures within the batch; the share is uniform in [0, 1]."""

    def steps(
        model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> Step:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        rng = np.random.default_rng(seed)

        def step(x: Tensor, y: Tensor) -> None:
            x, other, share = mix(x, rng)
            logits = model(x)
            loss = share * F.cross_entropy(logits, y)
            loss = loss + (1 - share) * F.cross_entropy(logits, y[other])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    return steps


def mixup(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Blends of images."""
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    share = float(rng.random())
    pixels = x.float() / 255 if x.dtype == torch.uint8 else x
    return torch.lerp(pixels[other], pixels, share), other, share
