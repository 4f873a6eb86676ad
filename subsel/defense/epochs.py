"""One epoch of training: its steps, and other forward passes over the data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsel.defense.augment import cutmix as cut_and_mixed
from subsel.defense.data import Examples, batch_sizes, check_labels
from subsel.defense.forms import Pick, called, logits_of, moved, shape_of
from subsel.defense.gradients import (
    EpochLogits,
    LastLayerHook,
    check_logits,
    evaluating,
    linear_weight,
    takes_whole,
)
from subsel.defense.parallel import Part, Ranks
from subsel.defense.randomness import Augment, augmentation, numpy_generator, seeded

Loss = Callable[[Tensor, Tensor], Tensor]

__all__ = ["Loss", "Trainee", "accuracy", "backbone_fixed", "features", "prepared_head"]


class Trainee:
    """The part of a model that is trained, with its data, optimizer and settings.

    Parameters
    ----------
    net : nn.Module
        The model, or its head alone.
    data : Examples
        The inputs of `net`, with labels.
    optimizer : torch.optim.Optimizer
    settings : dict
        The settings that `checked_settings` returned.
    augment : bool or callable
        As in `train`.
    ranks : Ranks
    output : callable, optional
        A function from the result of `net` to the logits.
    loss : callable, optional
        A function from (logits, labels) to the mean loss. Default: the cross-entropy.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Examples,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        augment: bool | Augment,
        ranks: Ranks,
        output: Pick | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.net, self.data, self.optimizer = net, data, optimizer
        self._loss = F.cross_entropy if loss is None else loss
        self._rates = [group["lr"] for group in optimizer.param_groups]
        # Does nothing except for float16, in which small gradients would become 0.
        self.scaler = torch.amp.GradScaler(data.device.type, enabled=settings["amp"] == "float16")
        self.settings, self.ranks, self.output = settings, ranks, output
        self._augmented = augmentation(augment)
        self._frozen = [part for part in net.modules() if _is_frozen_norm(part)]

    def start(self) -> None:
        """Call this when the initial weights are set. From here on, only steps change them."""
        self._trained = self.ranks.data_parallel(self.net)

    def set_rate(self, epoch: int) -> float:
        """Set the learning rate of the optimizer to that of an epoch, and return it."""
        drops = sum(epoch >= drop for drop in self.settings["drops"])
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.settings["drop_factor"] ** drops
        return self.rate()

    def rate(self) -> float:
        """The current learning rate of the optimizer."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_epoch(
        self, epoch: int, kept: np.ndarray, seen: EpochLogits | None, done: Callable[[int], Any]
    ) -> tuple[float, float]:
        """One pass over the examples that are kept.

        Parameters
        ----------
        epoch : int
            Together with the seed, this decides all randomness.
        kept : ndarray of int64
        seen : EpochLogits, optional
            Records the logits of all examples.
        done : callable
            Called after each step with the number of its examples.

        Returns
        -------
        loss, right : float
            The sum of the losses, and the number of examples that are classified as labelled.
        """
        where, settings = self.data.device, self.settings
        self.net.train(settings["scenario"] != "transfer")
        for norm in self._frozen:
            norm.eval()
        loss_sum = right = torch.zeros((), device=where)
        sizes, step = batch_sizes(len(kept), settings["batch_size"]), settings["accumulate"]
        with seeded(settings["seed"], epoch, where, self.ranks.rank) as generator:
            shuffled = self.data.shuffled(kept, settings["batch_size"], generator, self.ranks)
            for number, (rows, x, y, part) in enumerate(shuffled):
                logits, loss = self._forward(x, y, part, generator)
                own = slice(part.own)
                if seen is not None:
                    seen.record(rows[own], logits[own], y[own])
                if number % step == 0:
                    self.optimizer.zero_grad()
                    examples = sum(sizes[number : number + step])
                share = part.weight * (part.total / examples)
                self.scaler.scale(loss * share).backward()
                if (number + 1) % step == 0 or number + 1 == len(sizes):
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
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
        self, x: Any, y: Tensor, part: Part, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The logits and the mean loss of a part of a batch, in training mode."""
        if self.settings["augment"]:
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"augment needs inputs that are one tensor, got {shape_of(x)}: let the dataset "
                    "augment, and give the same examples without as clean_view="
                )
            x = self._augmented(x, generator, part)
        if not self.settings["cutmix"]:
            return self._logits_and_loss(x, len(y), lambda logits: self._loss(logits, y))
        x, other, share = cut_and_mixed(x, numpy_generator(generator, part))

        def mixed(logits: Tensor) -> Tensor:
            return share * self._loss(logits, y) + (1 - share) * self._loss(logits, y[other])

        return self._logits_and_loss(x, len(y), mixed)

    def _logits_and_loss(
        self, x: Any, n: int, loss_of: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        number = self.settings["amp"]
        dtype = None if number is None else getattr(torch, number)
        with torch.autocast(self.data.device.type, dtype, enabled=dtype is not None):
            logits = logits_of(called(self._trained, x), n, self.output)
            loss = loss_of(logits)
        if not isinstance(loss, Tensor) or loss.ndim > 0:
            raise ValueError(f"loss must return one number as a tensor, got {shape_of(loss)}")
        return logits, loss


def materialize(model: nn.Module, data: Examples, settings: dict[str, Any]) -> None:
    """Create the parameters of lazy layers, whose size depends on the inputs."""
    if not any(nn.parameter.is_lazy(p) for p in model.parameters()):
        return
    with seeded(settings["seed"], None, data.device), torch.no_grad(), evaluating(model):
        _, x, _ = next(data.batches(np.arange(min(2, len(data)))))
        called(model.to(data.device), moved(x, data.device))


def prepared_head(
    model: nn.Module,
    data: Examples,
    settings: dict[str, Any],
    layer: str | None,
    output: Pick | None,
    *,
    defended: bool,
) -> tuple[Any, bool]:
    """The last linear layer (fresh if the scenario says so), and whether the model ends with it.

    The layer is None if it is not needed, which is so if everything is trained and no gradients are
    taken at it. First this checks that model and data fit together and, if gradients are taken with
    respect to the layer's input, that the layer has a weight.
    """
    transferred = settings["scenario"] != "scratch"
    whole = takes_whole(settings["wrt"], layer, output)
    with seeded(settings["seed"], None, data.device):
        _, x, y = next(data.batches(np.arange(min(2, len(data)))))
        hooked = transferred or (defended and not whole)
        with (
            torch.no_grad(),
            evaluating(model),
            LastLayerHook(model, layer) if hooked else nullcontext() as last,
        ):
            logits = logits_of(called(model, moved(x, data.device)), len(y), output)
            check_logits(logits, len(y), probabilities=layer is not None)
            if last is not None and not whole:
                last.checked_logits(logits, len(y))
        check_labels(y if data.tensors is None else data.tensors[1], logits.shape[1])
        if last is None:
            return None, False
        head: Any = last.module
        if defended and settings["wrt"] == "input":
            linear_weight(head)
        if transferred and settings["fresh_head"]:
            if not hasattr(head, "reset_parameters"):
                raise ValueError(
                    f"the last layer, {type(head).__name__}, has no reset_parameters() that would "
                    "make it a fresh one; initialize it yourself and give fresh_head=False"
                )
            head.reset_parameters()
    return head, last.is_last(logits)


@torch.no_grad()
def features(model: nn.Module, layer: str | None, data: Examples, ranks: Ranks) -> Examples:
    """Examples whose inputs are replaced by the inputs of the model's last layer."""
    inputs, labels = [], []
    with ranks.together(), evaluating(model), LastLayerHook(model, layer) as last:
        for _, x, y in data.batches(ranks=ranks):
            called(model, moved(x, data.device))
            inputs.append(last.input)
            labels.append(y)
    joined = (ranks.joined(parts, data.device) for parts in (inputs, labels))
    return Examples(tuple(joined), data.device)


@torch.no_grad()
def accuracy(net: nn.Module, data: Examples, ranks: Ranks, output: Pick | None = None) -> float:
    """The fraction of the examples that the network classifies as they are labelled."""
    right = 0
    with ranks.together(), evaluating(net):
        for start, x, y in data.batches(ranks=ranks):
            logits = logits_of(called(net, moved(x, data.device)), len(y), output)
            check_labels(y, logits.shape[1], np.arange(start, start + len(y)), "test labels")
            right += int((logits.argmax(dim=1) == y.to(data.device)).sum())
    return sum(ranks.gather(right)) / len(data)


def _is_frozen_norm(part: nn.Module) -> bool:
    """Whether this is a BatchNorm whose weight and bias are fixed; then its statistics are, too."""
    own = list(part.parameters(recurse=False))
    is_norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
    return is_norm and bool(own) and not any(p.requires_grad for p in own)


@contextmanager
def backbone_fixed(model: nn.Module, head: nn.Module) -> Iterator[None]:
    """Context in which the model is in eval mode, and only the head has gradients."""
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    head.requires_grad_(True)
    model.eval()
    try:
        yield
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
