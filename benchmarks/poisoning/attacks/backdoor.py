"""Sleeper Agent (Souri et al., NeurIPS 2022): a hidden trigger, by matching gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.poisoning.attacks.gradients import (
    against_clean_net,
    against_nets,
    gradient_of,
    norm,
)
from benchmarks.poisoning.backbone import to_bytes

RETRAININGS = 4  # every 50 of the authors' 250 steps


def sleeper_agent(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Poison the base class so that other images with a patch on them are taken for it.

    No poison carries the patch: their gradient is matched to that of patched training images of
    the source class, on a net that is trained again on the poisons as they are a few times on the
    way.
    """
    settings, patched_sources = lab.settings, triggers(lab, target)

    def wanted(net: nn.Module) -> list[Tensor]:
        return gradient_of(net, patched_sources(), target.base)

    due = {round(settings.steps * i / (RETRAININGS + 1)) for i in range(1, RETRAININGS + 1)}

    def refresh(step: int, pixels: Tensor) -> tuple[nn.Module, list[Tensor]] | None:
        if step not in due:
            return None
        images = lab.images.copy()
        images[target.bases] = to_bytes(pixels).numpy()
        net = lab.clean_victim.with_images(images).train()
        return net, wanted(net)

    return against_clean_net(lab, target, wanted(lab.clean), refresh)


def sleeper_agent_ensemble(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same against clean nets of several ages in turn; none is trained on the poisons."""
    return against_nets(lab, target, lab.nets_of_ages, triggers(lab, target)())


def triggers(lab: Any, target: Any) -> Callable[[], np.ndarray]:
    """Training images of the source class with the patch on them, elsewhere at every call."""
    rng = np.random.default_rng([lab.settings.seed, target.number, 3])
    return partial(patched, sources(lab, target), patch_for(lab, target), rng)


def sources(lab: Any, target: Any) -> np.ndarray:
    """Training images of the class that shall be taken for another."""
    return lab.images[lab.labels.numpy() == target.label][:1000]


def patch_for(lab: Any, target: Any) -> np.ndarray:
    """The target's trigger: random uint8 (channels, p, p), p a quarter of the image's width."""
    channels, _, width = lab.images.shape[1:]
    rng = np.random.default_rng([lab.settings.seed, target.number, 4])
    side = max(1, width // 4)
    return rng.integers(0, 256, (channels, side, side), dtype=np.uint8)


def patched(images: np.ndarray, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images with the patch laid over each at a random place."""
    images = images.copy()
    side = patch.shape[1]
    height, width = images.shape[2:]
    rows = rng.integers(0, height - side + 1, len(images))
    columns = rng.integers(0, width - side + 1, len(images))
    for image, row, column in zip(images, rows, columns, strict=True):
        image[:, row : row + side, column : column + side] = patch
    return images


def gradient_norms(net: nn.Module, images: np.ndarray, label: int) -> np.ndarray:
    """Of each image's loss with respect to all parameters, (n,): one backward pass for each."""
    norms = [norm(gradient_of(net, image[None], label)) for image in images]
    return torch.stack(norms).cpu().numpy()
