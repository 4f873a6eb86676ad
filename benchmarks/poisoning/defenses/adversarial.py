"""Training on what an attacker would do: adversarial training, and Adversarial Poisoning."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.attacks.gradients import mismatch
from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Step, plain
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense.gradients import evaluating

IMAGES = ("scratch", "finetune")


@defense("adversarial training {epsilon}", scenarios=IMAGES)
def adversarial_training(victim: Victim, epsilon: float) -> Outcome:
    """Madry et al., ICLR 2018: every image is moved, within a ball, to raise its loss.

    `epsilon`, of 255, is its radius; seven steps of a quarter of that, from a random start.
    """

    def steps(
        model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> Step:
        step = plain(model, optimizer, generator)
        return lambda x, y: step(hardest(model, x, y, epsilon / 255, generator), y)

    return Outcome(victim.train(steps=steps), victim.everyone)


def hardest(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    generator: torch.Generator,
    steps: int = 7,
) -> Tensor:
    """Images (uint8) moved within the l-infinity ball so that their loss is high; in [0, 1]."""
    clean = images.float() / 255
    low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=1)
    moved = (clean + epsilon * symmetric(clean, generator)).clamp(low, high)
    with evaluating(model):
        for _ in range(steps):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
            moved = (moved.detach() + epsilon / 4 * slope.sign()).clamp(low, high)
    return moved


def symmetric(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1], drawn on the CPU."""
    return (2 * torch.rand(like.shape, generator=generator) - 1).to(like.device)


@defense("Adversarial Poisoning {share}, given epsilon", told=("epsilon",), scenarios=IMAGES)
def adversarial_poisoning(victim: Victim, share: float, epsilon: int) -> Outcome:
    """Geiping et al. 2021, "What doesn't kill you makes you robust(er)".

    In each step a `share` of the batch becomes poisons against the rest of it, by five steps of
    gradient matching as strong as the attack, and the model is trained on both.
    """

    def steps(
        model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> Step:
        step = plain(model, optimizer, generator)

        def poisoned(x: Tensor, y: Tensor) -> None:
            x, count = x.float() / 255, round(share * len(x))
            if 0 < count < len(x):
                crafted = against(model, x[:count], y[:count], x[count:], epsilon / 255, generator)
                x = torch.cat([crafted, x[count:]])
            step(x, y)

        return poisoned

    return Outcome(victim.train(steps=steps), victim.everyone)


def against(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    epsilon: float,
    generator: torch.Generator,
    steps: int = 5,
) -> Tensor:
    """Poisons of these images that would have the targets taken for one of the images' labels.

    Adam on the gradient's signs, a step of a tenth of a standard deviation of the pixels.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    wrong = labels[torch.randint(len(labels), (len(targets),), generator=generator)]
    rate = 0.1 * float(images.std())
    with evaluating(model):
        parameters = list(model.parameters())
        wanted = torch.autograd.grad(F.cross_entropy(model(targets), wrong), parameters)
        moved = (images + epsilon * symmetric(images, generator)).clamp(low, high)
        optimizer = torch.optim.Adam([moved.requires_grad_()], lr=rate)
        for _ in range(steps):
            loss = mismatch(model, moved, labels, wanted)
            moved.grad = torch.autograd.grad(loss, moved)[0].sign()
            optimizer.step()
            with torch.no_grad():
                moved.copy_(moved.clamp(low, high))
    return moved.detach()
