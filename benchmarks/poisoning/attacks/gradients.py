"""Crafting poisons whose training gradient is the one that would misclassify the target."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.poisoning.backbone import to_bytes, to_pixels
from subsel.defense.augment import flip_and_crop
from subsel.defense.gradients import device_of

Refresh = Callable[[int, Tensor], tuple[nn.Module, Sequence[Tensor]] | None]
# From a net, pixels and labels to what is to be small beside the mismatch of gradients.
Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]
# From pixels, labels and a generator on the CPU to what a net is shown of them.
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def gradient_matching(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Witches' Brew (Geiping et al., ICLR 2021) against the clean net."""
    wanted = gradient_of(lab.clean, lab.aims(target), target.base)
    return against_clean_net(lab, target, wanted)


def gradient_matching_ensemble(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same against clean nets of several ages in turn, a net for each step.

    Poisons that match the gradient of one trained net fit that net alone, and most of what they do
    to a victim they do early: MetaPoison (Huang et al., NeurIPS 2020) staggers its nets likewise.
    """
    return against_nets(lab, target, lab.nets_of_ages, lab.aims(target))


def gradient_matching_late(
    lab: Any, target: Any, penalty: Penalty | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same against clean nets from after the first drop of the learning rate."""
    nets = [lab.scenario.whole(net) for net in lab.late_nets]
    return against_nets(lab, target, nets, lab.aims(target), penalty=penalty)


def against_nets(
    lab: Any,
    target: Any,
    nets: Sequence[nn.Module],
    aims: np.ndarray,
    augment: Augment | None = None,
    penalty: Penalty | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Match, on these nets in turn, the gradient that has the aims taken for the base class."""
    pairs = [(net, gradient_of(net, aims, target.base)) for net in nets]

    def turn(step: int, pixels: Tensor) -> tuple[nn.Module, Sequence[Tensor]]:
        return pairs[step % len(pairs)]

    return against_clean_net(lab, target, pairs[0][1], turn, augment, penalty)


def against_clean_net(
    lab: Any,
    target: Any,
    wanted: Sequence[Tensor],
    refresh: Refresh | None = None,
    augment: Augment | None = None,
    penalty: Penalty | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`match_gradient` by the lab's settings; by default it augments as the victim does."""
    settings = lab.settings
    if augment is None and settings.augment:
        augment = flipped
    return match_gradient(
        lab.scenario.whole(lab.clean),
        lab.images[target.bases],
        target.base,
        wanted,
        std=lab.data.std,
        epsilon=settings.epsilon,
        steps=settings.steps,
        lr=settings.lr,
        restarts=settings.restarts,
        augment=augment,
        seed=[settings.seed, target.number, 2],
        refresh=refresh,
        penalty=penalty,
    )


def flipped(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flipped and shifted, as in training."""
    return flip_and_crop(pixels, generator, padding=max(1, pixels.shape[-1] // 8)), labels


def gradient_of(net: nn.Module, images: np.ndarray, label: int) -> list[Tensor]:
    """Gradient, over all parameters, of the mean cross-entropy of images given this label."""
    x = torch.from_numpy(images).to(device_of(net))
    loss = F.cross_entropy(net(x), torch.full((len(x),), label, device=x.device))
    return list(torch.autograd.grad(loss, trainable(net)))


def match_gradient(
    net: nn.Module,
    bases: np.ndarray,
    label: int,
    wanted: Sequence[Tensor],
    *,
    std: np.ndarray,
    epsilon: int,
    steps: int,
    lr: float,
    restarts: int,
    augment: Augment | None,
    seed: int | Sequence[int],
    refresh: Refresh | None = None,
    penalty: Penalty | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Perturb `bases` so that the gradient of training on them points where `wanted` does.

    Adam on the signs of the gradient of 1 - cosine, the step divided by ten at 3/8, 5/8 and 7/8;
    projected to the l-infinity ball and to valid pixels; a random start in the ball, several of
    them, of which the one whose last loss is lowest is kept. The nets are in eval mode.

    Parameters
    ----------
    net : module
        From pixels in [0, 1] to logits.
    bases : uint8 array (n, channels, height, width), all labelled `label`
    wanted : tensors as the net's parameters, without those that are fixed
    std : array (channels,)
        Of the data set's pixels: the unit of `lr` (the authors' tau, 0.1).
    augment : optional
        What is done to the poisons in each step, as the victim will do.
    refresh : optional
        From step and pixels to another net and another gradient to go on with, or None.
    penalty : optional
        What is to be small as well.

    Returns
    -------
    poisons : uint8 array like `bases`, within `epsilon` of them
    losses : float32 array (steps + 1,)
        Of the start that was kept, the last being that of the rounded poisons, not augmented.
    """
    device = device_of(net)
    clean = to_pixels(torch.from_numpy(bases)).to(device)
    low, high = (clean - epsilon / 255).clamp(min=0), (clean + epsilon / 255).clamp(max=1)
    unit = torch.from_numpy(np.asarray(std, np.float32))[:, None, None].to(device)
    labels = torch.full((len(bases),), label, device=device)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1)[0])
    )
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    bar = tqdm(total=restarts * steps, desc="craft", unit="step", leave=False, disable=not progress)
    for _ in range(restarts):
        model, goal = net, wanted
        draw = torch.rand(clean.shape, generator=generator).to(device)
        # In units of the standard deviation, so that Adam's step is one too.
        change = (((2 * draw - 1) * epsilon / 255 + clean).clamp(low, high) - clean) / unit
        change.requires_grad_()
        optimizer = torch.optim.Adam([change], lr=lr)
        milestones = [round(steps * share / 8) for share in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        losses = torch.empty(steps + 1)
        for step in range(steps):
            pixels = clean + change * unit
            if refresh is not None and (fresh := refresh(step, pixels.detach())) is not None:
                model, goal = fresh
            shown = (pixels, labels) if augment is None else augment(pixels, labels, generator)
            loss = mismatch(model, *shown, goal)
            if penalty is not None:
                loss = loss + penalty(model, *shown)
            change.grad = torch.autograd.grad(loss, change)[0].sign()
            optimizer.step()
            schedule.step()
            losses[step] = loss.detach()
            with torch.no_grad():
                change.copy_(((clean + change * unit).clamp(low, high) - clean) / unit)
            bar.update()
        poisons = to_bytes(clean + change * unit)
        losses[steps] = mismatch(model, to_pixels(poisons).to(device), labels, goal).detach()
        if best is None or losses[steps] < best[0]:
            best = float(losses[steps]), poisons.numpy(), losses.numpy()
    bar.close()
    assert best is not None
    return best[1], best[2]


def mismatch(net: nn.Module, images: Tensor, labels: Tensor, wanted: Sequence[Tensor]) -> Tensor:
    """1 - cosine of the wanted gradient and that of training on these images.

    The labels are classes, or the probabilities of all of them.
    """
    loss = F.cross_entropy(net(images), labels)
    gradients = torch.autograd.grad(loss, trainable(net), create_graph=images.requires_grad)
    product = sum((a * b).sum() for a, b in zip(gradients, wanted, strict=True))
    return 1 - product / (norm(gradients) * norm(wanted)).clamp(min=1e-12)


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not fixed."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def norm(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()
