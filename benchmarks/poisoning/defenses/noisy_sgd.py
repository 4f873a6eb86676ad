"""SGD on clipped and noisy gradients: of a whole batch, and of each example."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.training import Step
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense.gradients import device_of

CLIP = 1.0


@defense("batch-level noisy SGD")
def noisy_sgd(victim: Victim) -> Outcome:
    """What the paper calls differentially private SGD (Hong et al. 2020); it gives no privacy.

    The gradient of the batch is clipped to norm 1, and noise of a hundredth of that is added.
    """
    return Outcome(victim.train(steps=noisy_steps), victim.everyone)


def noisy_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    noise: float = 0.01,
) -> Step:
    parameters = list(model.parameters())

    def step(x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        for parameter in parameters:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad.add_(drawn.to(parameter.device), alpha=noise * CLIP)
        optimizer.step()

    return step


@defense("DP-SGD {noise}", package="opacus")
def dp_sgd(victim: Victim, noise: float) -> Outcome:
    """DP-SGD proper (Abadi et al. 2016) by Opacus: every example's gradient is clipped to norm 1.

    `noise` is the multiplier; BatchNorm, which mixes examples, is replaced by GroupNorm.
    """
    from opacus.validators import ModuleValidator

    batch = victim.scenario.recipe.batch

    def steps(
        model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> Step:
        return private_steps(model, optimizer, generator, noise=noise, batch=batch)

    return Outcome(victim.train(steps=steps, convert=ModuleValidator.fix), victim.everyone)


def private_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    noise: float,
    batch: int,
) -> Step:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    sampled = GradSampleModule(model)
    private = DPOptimizer(
        optimizer,
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        expected_batch_size=batch,
        generator=torch.Generator(device_of(model)).manual_seed(generator.initial_seed()),
    )

    def step(x: Tensor, y: Tensor) -> None:
        private.zero_grad()
        x = x / 255 if x.dtype == torch.uint8 else x
        # Opacus's hooks warn where no input wants a gradient.
        F.cross_entropy(sampled(x.requires_grad_()), y).backward()
        private.step()

    return step
