"""One epoch of training: its steps, and the forward passes that are made beside them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsel.defense.augment import cutmix as cut_and_mixed
from subsel.defense.data import Examples, batches, check_labels
from subsel.defense.gradients import EpochLogits, LastLayerHook, evaluating, linear_weight
from subsel.defense.parallel import Part, Ranks
from subsel.defense.randomness import Augment, augmentation, numpy_generator, seeded

__all__ = ["Trainee", "accuracy", "backbone_fixed", "features", "prepared_head"]


class Trainee:
    """The part of a model that is trained, on what, and how.

    Parameters
    ----------
    net : nn.Module
        The model, or its head alone.
    data : Examples
        What goes into `net`.
    optimizer : torch.optim.Optimizer
    settings : dict
        As `checked_settings` returns them.
    augment : bool or callable
        As in `train`.
    ranks : Ranks
    """

    def __init__(
        self,
        net: nn.Module,
        data: Examples,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        augment: bool | Augment,
        ranks: Ranks,
    ) -> None:
        self.net, self.data, self.optimizer = net, data, optimizer
        self.settings, self.ranks = settings, ranks
        self._augmented = augmentation(augment)

    def start(self) -> None:
        """Call this once the weights are those to start from: after it only steps change them."""
        self._trained = self.ranks.data_parallel(self.net)

    def set_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, which the optimizer then has."""
        drops = sum(epoch >= drop for drop in self.settings["drops"])
        rate = self.settings["lr"] * self.settings["drop_factor"] ** drops
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def train_epoch(
        self, epoch: int, kept: np.ndarray, seen: EpochLogits | None, done: Callable[[int], Any]
    ) -> tuple[float, float]:
        """One pass over the examples that are kept.

        Parameters
        ----------
        epoch : int
            Decides, with the seed, all randomness.
        kept : ndarray of int64
        seen : EpochLogits, optional
            Gets the logits of all examples.
        done : callable
            Called after each step with the number of its examples.

        Returns
        -------
        loss, right : float
            Sums over the examples: of the loss, and of those classified as labelled.
        """
        where, settings = self.data.device, self.settings
        self.net.train(settings["scenario"] != "transfer")
        loss_sum = right = torch.zeros((), device=where)
        with seeded(settings["seed"], epoch, where, self.ranks.rank) as generator:
            for rows, x, y, part in self.data.shuffled(
                kept, settings["batch_size"], generator, self.ranks
            ):
                logits, loss = self._forward(x, y, part, generator)
                own = slice(part.own)
                if seen is not None:
                    seen.record(rows[own], logits[own], y[own])
                self.optimizer.zero_grad()
                (loss * part.weight).backward()
                self.optimizer.step()
                loss_sum = loss_sum + loss.detach() * part.own
                right = right + (logits.detach().argmax(dim=1) == y)[own].sum()
                done(part.total)
        if seen is not None:
            seen.gather(self.ranks.group)
        self.ranks.copy_first(self.net.buffers())
        sums = self.ranks.gather((loss_sum.item(), right.item()))
        loss_total, right_total = (sum(parts) for parts in zip(*sums, strict=True))
        return loss_total, right_total

    def _forward(
        self, x: Tensor, y: Tensor, part: Part, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Logits and mean loss of a part of a batch, as it is trained on."""
        x = self._augmented(x, generator, part)
        if not self.settings["cutmix"]:
            logits = self._trained(x)
            return logits, F.cross_entropy(logits, y)
        x, other, share = cut_and_mixed(x, numpy_generator(generator, part))
        logits = self._trained(x)
        mixed = share * F.cross_entropy(logits, y)
        return logits, mixed + (1 - share) * F.cross_entropy(logits, y[other])


def prepared_head(
    model: nn.Module,
    data: Examples,
    settings: dict[str, Any],
    layer: str | None,
    *,
    wrt_input: bool,
) -> Any:
    """The model's last linear layer, fresh where the scenario wants it.

    Model and data are looked at first: whether they fit each other, and, with `wrt_input`, whether
    the layer has a weight to take gradients through.
    """
    with seeded(settings["seed"], None, data.device):
        _, x, y = next(batches(data.subset(np.arange(min(2, len(data))))))
        with torch.no_grad(), evaluating(model), LastLayerHook(model, layer) as last:
            logits = last.checked_logits(model(x.to(data.device)), len(y))
        check_labels(y if data.tensors is None else data.tensors[1], logits.shape[1])
        head: Any = last.module
        if wrt_input:
            linear_weight(head)
        if settings["scenario"] != "scratch" and settings["fresh_head"]:
            head.reset_parameters()
    return head


@torch.no_grad()
def features(model: nn.Module, layer: str | None, data: Examples, ranks: Ranks) -> Examples:
    """What enters the model's last layer, in place of the inputs."""
    inputs, labels = [], []
    with ranks.together(), evaluating(model), LastLayerHook(model, layer) as last:
        for _, x, y in batches(data.subset(), ranks=ranks):
            model(x.to(data.device))
            inputs.append(last.input)
            labels.append(y)
    joined = (ranks.joined(parts, data.device) for parts in (inputs, labels))
    return Examples(tuple(joined), data.device)


@torch.no_grad()
def accuracy(net: nn.Module, data: Examples, ranks: Ranks) -> float:
    """Fraction of the examples that the network classifies as they are labelled."""
    right = 0
    with ranks.together(), evaluating(net):
        for _, x, y in batches(data.subset(), ranks=ranks):
            predicted = net(x.to(data.device)).argmax(dim=1)
            right += int((predicted == y.to(data.device)).sum())
    return sum(ranks.gather(right)) / len(data)


@contextmanager
def backbone_fixed(model: nn.Module, head: nn.Module) -> Iterator[None]:
    """Eval mode, and gradients for the head alone."""
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    head.requires_grad_(True)
    model.eval()
    try:
        yield
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
