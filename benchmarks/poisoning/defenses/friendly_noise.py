"""Friendly Noise (Liu, Yang and Mirzasoleiman, NeurIPS 2022)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Step, plain
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense.gradients import device_of

WARMUP = 1 / 8  # of the epochs: 5 of 40
LARGEST, RANDOM = 16 / 255, 8 / 255


@defense("Friendly Noise")
def friendly_noise(victim: Victim) -> Outcome:
    """Train on images with as much noise as a net of a few epochs hardly notices.

    In each step random noise of 8/255 is added to it; in transfer, where the features are
    computed once, so is that noise.
    """
    model = victim.shortened(max(1, round(WARMUP * victim.scenario.recipe.epochs))).train()
    generator = torch.Generator().manual_seed(victim.seed)
    pixels = torch.from_numpy(victim.images).float() / 255
    noise = unnoticed(victim.scenario.whole(model), pixels, generator)
    noisy = pixels + noise
    if victim.inputs.ndim == 2:
        return Outcome(
            victim.with_images(as_bytes(shaken(noisy, generator))).train(), victim.everyone
        )
    return Outcome(victim.with_images(as_bytes(noisy)).train(steps=shaken_steps), victim.everyone)


def unnoticed(
    net: nn.Module, pixels: Tensor, generator: torch.Generator, steps: int = 30, lr: float = 100
) -> Tensor:
    """Large noise of little consequence, like `pixels` (n, channels, height, width) in [0, 1].

    SGD on KL(net(x), net(x + e)) - mean(e^2), e held to 16/255.
    """
    device, parts = device_of(net), []
    for part in pixels.split(500):
        x = part.to(device)
        with torch.no_grad():
            wanted = net(x).log_softmax(1)
        noise = LARGEST * (2 * torch.rand(part.shape, generator=generator) - 1).to(device)
        optimizer = torch.optim.SGD([noise.requires_grad_()], lr=lr, momentum=0.9)
        for _ in range(steps):
            change = F.kl_div(
                net(x + noise).log_softmax(1), wanted, reduction="none", log_target=True
            )
            loss = change.sum() - noise.square().flatten(1).mean(1).sum()
            noise.grad = torch.autograd.grad(loss, noise)[0]
            optimizer.step()
            with torch.no_grad():
                noise.clamp_(-LARGEST, LARGEST)
        parts.append(noise.detach().cpu())
    return torch.cat(parts)


def shaken_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Step:
    step = plain(model, optimizer, generator)
    return lambda x, y: step(shaken(x.float() / 255, generator), y)


def shaken(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel up or down by 8/255 (Bernoulli noise)."""
    signs = 2 * torch.randint(2, pixels.shape, generator=generator) - 1
    return (pixels + RANDOM * signs.to(pixels.device)).clamp(0, 1)


def as_bytes(pixels: Tensor) -> np.ndarray:
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
