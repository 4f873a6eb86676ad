"""Crafting clean-label poisons against a frozen feature extractor.

Both attacks move base images, whose labels stay right, until their features surround or meet the
target's; a linear head trained on them then gives the target the bases' label.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.poisoning.backbone import to_pixels


def bullseye_polytope(features: Tensor, target: Tensor) -> Tensor:
    """Loss ||mean_p phi(p) - phi(t)|| / ||phi(t)|| (Aghakhani et al., EuroS&P 2021, equation 3)."""
    return (features.mean(0) - target).norm() / target.norm()


def feature_collision(features: Tensor, target: Tensor) -> Tensor:
    """Mean over the poisons of ||phi(p) - phi(t)||^2 / ||phi(t)||^2 (Shafahi et al., NeurIPS 2018).

    The penalty that keeps a poison near its base is replaced by the l-infinity ball.
    """
    return (features - target).square().sum(1).mean() / target.square().sum()


ATTACKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bullseye-polytope": bullseye_polytope,
    "feature-collision": feature_collision,
}


def craft(
    extractor: nn.Module,
    bases: np.ndarray,
    target: np.ndarray,
    *,
    attack: str = "bullseye-polytope",
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
    attack : a name in `ATTACKS`
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
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}; got {attack!r}")
    if not 0 <= epsilon <= 255 or steps < 1:
        raise ValueError(f"epsilon must be in 0..255 and steps positive; got {epsilon}, {steps}")
    loss_of = ATTACKS[attack]
    clean, goal = to_pixels(torch.from_numpy(bases)), to_pixels(torch.from_numpy(target)[None])
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
    rounded = (poisons.detach() * 255).round().to(torch.uint8).contiguous()
    with torch.no_grad():
        losses[steps] = loss_of(extractor(to_pixels(rounded)), target_features)
    return rounded.numpy(), losses.numpy()
