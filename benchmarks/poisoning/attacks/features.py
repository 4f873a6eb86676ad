"""Crafting clean-label poisons against a frozen feature extractor.

All of these move base images, whose labels stay right, until their features surround or meet the
target's; a linear head trained on them then gives the target the bases' label.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.poisoning.backbone import to_bytes, to_pixels
from subsel.defense.gradients import device_of


def bullseye_polytope(features: Tensor, target: Tensor) -> Tensor:
    """Loss ||mean_p phi(p) - phi(t)|| / ||phi(t)|| (Aghakhani et al., EuroS&P 2021, equation 3)."""
    return (features.mean(0) - target).norm() / target.norm()


def feature_collision(features: Tensor, target: Tensor) -> Tensor:
    """Mean over the poisons of ||phi(p) - phi(t)||^2 / ||phi(t)||^2 (Shafahi et al., NeurIPS 2018).

    The penalty that keeps a poison near its base is replaced by the l-infinity ball.
    """
    return (features - target).square().sum(1).mean() / target.square().sum()


def convex_polytope(features: Tensor, target: Tensor) -> Tensor:
    """Half of ||phi(t) - sum_p c_p phi(p)||^2 / ||phi(t)||^2, with the best c on the simplex.

    Zhu et al., ICML 2019, equation 2, for one net. At the best c the gradient is that with c
    held fixed. c is found by accelerated projected gradient on the poisons' Gram matrix.
    """
    with torch.no_grad():
        weights = nearest_in_hull(features, target)
    return 0.5 * (weights @ features - target).square().sum() / target.square().sum()


def nearest_in_hull(points: Tensor, target: Tensor, steps: int = 200) -> Tensor:
    """Convex weights (n,) of the combination of `points` (n, d) that is nearest to `target`."""
    gram, pull = points @ points.T, points @ target
    rate = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=1e-12)
    weights = ahead = torch.full_like(pull, 1 / len(pull))
    momentum = 1.0
    for _ in range(steps):
        previous, weights = weights, on_simplex(ahead - rate * (gram @ ahead - pull))
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = weights + (momentum - 1) / following * (weights - previous)
        momentum = following
    return weights


def on_simplex(point: Tensor) -> Tensor:
    """The nearest non-negative vector that sums to one (Duchi et al., ICML 2008)."""
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1, device=point.device)
    return (point - excess[(ordered > excess).sum() - 1]).clamp(min=0)


Loss = Callable[[Tensor, Tensor], Tensor]  # of the poisons' features and the target's


def on_features(loss_of: Loss) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The attack that lowers this loss within the l-infinity ball."""

    def attack(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        settings = lab.settings
        return craft(
            lab.extractor,
            lab.images[target.bases],
            lab.data.test_images[target.index],
            loss_of=loss_of,
            epsilon=settings.epsilon,
            steps=settings.steps,
            lr=settings.lr,
            watermark=settings.watermark,
        )

    return attack


def watermark(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """The target laid over each base as far as epsilon allows; no net is asked.

    What Shafahi et al. (NeurIPS 2018, section 4.2) begin with, taken alone.
    """
    bases = lab.images[target.bases].astype(np.int16)
    change = lab.data.test_images[target.index] - bases
    epsilon = lab.settings.epsilon
    poisons = bases + change.clip(-epsilon, epsilon)
    return poisons.astype(np.uint8), np.empty(0, np.float32)


def soft_feature_collision(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Feature Collision as published: a penalty in place of the ball; epsilon is ignored."""
    settings = lab.settings
    return collide(
        lab.extractor,
        lab.images[target.bases],
        lab.data.test_images[target.index],
        steps=settings.steps,
        lr=settings.lr,
        watermark=settings.watermark,
    )


def collide(
    extractor: nn.Module,
    bases: np.ndarray,
    target: np.ndarray,
    *,
    steps: int = 120,
    lr: float = 0.001,
    watermark: float = 0.3,
    beta: float = 4.0,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Move each base towards the target's features, held back by beta ||x - base||^2.

    Forward-backward splitting (Shafahi et al., NeurIPS 2018, algorithm 1): a step down
    ||phi(x) - phi(t)||^2, then back towards the base. A poison's own rate is halved when its
    objective would rise, and that step is not taken.

    Returns
    -------
    poisons : uint8 array like `bases`
    losses : float32 array (steps + 1,)
        Mean of the poisons' objectives; the last is that of the rounded poisons.
    """
    device = device_of(extractor)
    clean = to_pixels(torch.from_numpy(bases)).to(device)
    goal = to_pixels(torch.from_numpy(target)[None]).to(device)
    with torch.no_grad():
        wanted = extractor(goal)[0]

    def pulls(x: Tensor) -> Tensor:
        return (extractor(x) - wanted).square().sum(1)

    def objective(x: Tensor, pull: Tensor) -> Tensor:
        return pull.detach() + beta * (x.detach() - clean).square().flatten(1).sum(1)

    poisons = ((1 - watermark) * clean + watermark * goal).requires_grad_()
    pull = pulls(poisons)
    current = objective(poisons, pull)
    rates = torch.full((len(bases), 1, 1, 1), lr, device=device)
    losses = torch.empty(steps + 1)
    for step in tqdm(range(steps), desc="craft", unit="step", leave=False, disable=not progress):
        losses[step] = current.mean()
        (slope,) = torch.autograd.grad(pull.sum(), poisons)
        with torch.no_grad():
            forward = poisons - rates * slope
            moved = (forward + rates * beta * clean) / (1 + rates * beta)
            moved = moved.clamp(0, 1)
            better = objective(moved, pulls(moved)) <= current
            rates[~better] /= 2
            poisons = torch.where(better[:, None, None, None], moved, poisons)
        poisons.requires_grad_()
        pull = pulls(poisons)
        current = objective(poisons, pull)
    rounded = to_bytes(poisons)
    with torch.no_grad():
        final = to_pixels(rounded).to(device)
        losses[steps] = objective(final, pulls(final)).mean()
    return rounded.numpy(), losses.numpy()


def craft(
    extractor: nn.Module,
    bases: np.ndarray,
    target: np.ndarray,
    *,
    loss_of: Loss = bullseye_polytope,
    epsilon: int = 51,
    steps: int = 1000,
    lr: float = 0.01,
    watermark: float = 0.0,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Perturb `bases` so that their features attack `target`.

    Adam on all poisons together, projected after each step to the l-infinity ball around the
    bases and to valid pixels. There is no randomness in it. Time: `steps` forward and backward
    passes of the extractor over all bases.

    Parameters
    ----------
    extractor : module
        Frozen, from pixels in [0, 1] to features (n, d).
    bases : uint8 array (n, channels, height, width)
    target : uint8 array (channels, height, width)
    loss_of
        What is to become small, from the poisons' features and the target's.
    epsilon : int
        Radius of the ball, in levels of 255.
    steps, lr
        Of Adam; the step is in units of the full pixel range.
    watermark : float
        Opacity of the target laid over the bases at the start (0.3 in Feature Collision), cut to
        the ball.

    Returns
    -------
    poisons : uint8 array like `bases`, within `epsilon` of them
    losses : float32 array (steps + 1,), of which the last is that of the rounded poisons
    """
    if not 0 <= epsilon <= 255 or steps < 1:
        raise ValueError(f"epsilon must be in 0..255 and steps positive; got {epsilon}, {steps}")
    device = device_of(extractor)
    clean = to_pixels(torch.from_numpy(bases)).to(device)
    goal = to_pixels(torch.from_numpy(target)[None]).to(device)
    low, high = (clean - epsilon / 255).clamp(min=0), (clean + epsilon / 255).clamp(max=1)
    with torch.no_grad():
        target_features = extractor(goal)[0]
        start = ((1 - watermark) * clean + watermark * goal).clamp(low, high)
    poisons = start.requires_grad_()
    optimizer = torch.optim.Adam([poisons], lr=lr)
    losses = torch.empty(steps + 1)
    for step in tqdm(range(steps), desc="craft", unit="step", leave=False, disable=not progress):
        loss = loss_of(extractor(poisons), target_features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        with torch.no_grad():
            poisons.clamp_(low, high)
    rounded = to_bytes(poisons)
    with torch.no_grad():
        losses[steps] = loss_of(extractor(to_pixels(rounded).to(device)), target_features)
    return rounded.numpy(), losses.numpy()
