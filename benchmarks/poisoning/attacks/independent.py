"""Somebody else's Gradient Matching, to see that ours is not weak."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.poisoning.attacks.gradients import gradient_of, mismatch
from benchmarks.poisoning.backbone import to_bytes, to_pixels

PACKAGE = "adversarial-robustness-toolbox"


def art_gradient_matching(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Witches' Brew as in the Adversarial Robustness Toolbox, against the clean net.

    It starts at the bases, keeps within the ball by a tanh and does not augment. The only loss
    returned is the last one, of the rounded poisons, as `match_gradient` has it.
    """
    try:
        from art.attacks.poisoning import GradientMatchingAttack
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ImportError(
            f"gradient-matching-art needs {PACKAGE}: pip install {PACKAGE} packaging"
        ) from error
    settings = lab.settings
    bases = lab.images[target.bases]
    goal = lab.data.test_images[target.index][None]
    attack = GradientMatchingAttack(
        PyTorchClassifier(
            lab.clean,
            loss=nn.CrossEntropyLoss(),
            input_shape=bases.shape[1:],
            nb_classes=lab.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if lab.device.type == "cuda" else "cpu",
        ),
        percent_poison=1.0,
        epsilon=settings.epsilon / 255,
        max_trials=settings.restarts,
        max_epochs=settings.steps,
        # Of 1, 0.1, ...: its noise is in units of the ball, and so is its step.
        learning_rate_schedule=(
            [settings.lr * 0.1**i for i in range(4)],
            [round(settings.steps * share / 8) for share in (3, 5, 7, 8)],
        ),
        batch_size=len(bases),
        verbose=0,
    )
    shown, own = (to_pixels(torch.from_numpy(images)).numpy() for images in (goal, bases))
    labels = np.full(len(bases), target.base)
    before = np.random.get_state()  # noqa: NPY002 - the toolbox draws from it
    with torch.random.fork_rng(devices=[]):
        seed = int(np.random.SeedSequence([settings.seed, target.number, 6]).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        found, _ = attack.poison(shown, labels[:1], own, labels)
    np.random.set_state(before)  # noqa: NPY002
    poisons = to_bytes(torch.from_numpy(found))
    lab.clean.zero_grad()
    wanted = gradient_of(lab.clean, goal, target.base)
    loss = mismatch(lab.clean, to_pixels(poisons).to(lab.device), torch.from_numpy(labels), wanted)
    return poisons.numpy(), np.array([loss.item()], np.float32)
