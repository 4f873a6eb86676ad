"""Somebody else's attacks, to see that ours are not weak."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.poisoning.attacks.backdoor import patch_for, sources, triggers
from benchmarks.poisoning.attacks.gradients import gradient_of, mismatch
from benchmarks.poisoning.backbone import to_bytes, to_pixels

PACKAGE = "adversarial-robustness-toolbox"


def art_gradient_matching(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Witches' Brew as in the Adversarial Robustness Toolbox, against the clean net.

    It starts at the bases, keeps within the ball by a tanh and does not augment. The only loss
    returned is the last one, of the rounded poisons, as `match_gradient` has it.
    """
    aim = lab.aims(target)
    bases = lab.images[target.bases]
    labels = np.full(len(bases), target.base)
    attack = of_toolbox(lab, "GradientMatchingAttack", len(bases))
    with seeded(lab.settings.seed, target.number, 6):
        found, _ = attack.poison(pixels_of(aim), labels[:1], pixels_of(bases), labels)
    return rounded(lab, target, found, aim)


def art_sleeper_agent(lab: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sleeper Agent as in the toolbox; else as `art_gradient_matching`.

    Bases and patch are ours, as is the choice of triggers. Without retraining: in version 1.20.1
    that changes a net that its loss does not look at.
    """
    bases, shown = lab.images[target.bases], sources(lab, target)
    labels = np.eye(lab.classes, dtype=np.float32)[np.full(len(bases), target.base)]
    attack = of_toolbox(
        lab,
        "SleeperAgentAttack",
        len(bases),
        patch=pixels_of(patch_for(lab, target)[None])[0],
        indices_target=np.arange(len(bases)),
        class_source=target.label,
        class_target=target.base,
        device_name=lab.device.type,
    )
    own, wanted = pixels_of(bases), np.full(len(shown), target.base)
    with seeded(lab.settings.seed, target.number, 6):
        found, _ = attack.poison(pixels_of(shown), wanted, own, labels, own, labels)
        order = attack.get_poison_indices()
    assert sorted(order) == list(range(len(bases)))
    return rounded(lab, target, found, triggers(lab, target)())


def of_toolbox(lab: Any, name: str, count: int, **settings: Any) -> Any:
    """An attack of the toolbox's on the clean net, by the lab's settings."""
    try:
        from art.attacks import poisoning
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ImportError(f"{name} needs {PACKAGE}: pip install {PACKAGE} packaging") from error
    steps = lab.settings.steps
    return getattr(poisoning, name)(
        PyTorchClassifier(
            lab.clean,
            loss=nn.CrossEntropyLoss(),
            input_shape=lab.images.shape[1:],
            nb_classes=lab.classes,
            clip_values=(0.0, 1.0),
            preprocessing=(0.0, 1.0),
            device_type="gpu" if lab.device.type == "cuda" else "cpu",
        ),
        percent_poison=1.0,
        epsilon=lab.settings.epsilon / 255,
        max_trials=lab.settings.restarts,
        max_epochs=steps,
        # Of 1, 0.1, ...: its noise is in units of the ball, and so is its step.
        learning_rate_schedule=(
            [lab.settings.lr * 0.1**i for i in range(4)],
            [round(steps * share / 8) for share in (3, 5, 7, 8)],
        ),
        batch_size=count,
        verbose=0,
        **settings,
    )


def pixels_of(images: np.ndarray) -> np.ndarray:
    return to_pixels(torch.from_numpy(images)).numpy()


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the global generators that the toolbox draws from, and put them back."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def rounded(
    lab: Any, target: Any, found: np.ndarray, aims: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The poisons in bytes, and their loss."""
    poisons = to_bytes(torch.from_numpy(found))
    lab.clean.zero_grad()
    wanted = gradient_of(lab.clean, aims, target.base)
    labels = torch.full((len(poisons),), target.base)
    loss = mismatch(lab.clean, to_pixels(poisons).to(lab.device), labels, wanted)
    return poisons.numpy(), np.array([loss.item()], np.float32)
