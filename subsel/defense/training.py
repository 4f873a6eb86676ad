"""A training loop with EPIC in it: readable, resumable, the same for the same seed."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from subsel.defense import parallel
from subsel.defense.augment import cutmix as cut_and_mixed
from subsel.defense.augment import flip_and_crop
from subsel.defense.data import Examples, batches, check_labels
from subsel.defense.epic import EPIC
from subsel.defense.gradients import (
    EpochLogits,
    LastLayerHook,
    device_of,
    evaluating,
    last_layer_gradients,
    linear_weight,
)
from subsel.defense.parallel import Part, Ranks
from subsel.defense.presets import PRESETS
from subsel.files import written_whole
from subsel.validation import check_choice

__all__ = ["TrainResult", "seeded", "train"]

Augment = Callable[[Tensor, torch.Generator], Tensor]
CHOICES = {
    "scenario": ("scratch", "transfer", "finetune"),
    "gradients": ("fresh", "training"),
    "wrt": ("logits", "input"),
}


@dataclass
class TrainResult:
    """What training came to.

    Attributes
    ----------
    model : nn.Module
        The model that was given, trained, in eval mode.
    kept : ndarray of int64
        The examples that the last epoch was trained on, ascending.
    history : list of dict
        For each epoch: ``epoch`` (from 0), ``lr``, ``loss`` and ``train_accuracy`` (means over
        the epoch, as it trained), ``test_accuracy`` (None without a test set), ``kept``,
        ``dropped`` (in the round before the epoch), ``gradient_seconds`` and
        ``selection_seconds`` (of that round), ``seconds`` (of all).
    defense : EPIC or None
    """

    model: nn.Module
    kept: np.ndarray
    history: list[dict[str, Any]] = field(default_factory=list)
    defense: EPIC | None = None

    @property
    def accuracy(self) -> float | None:
        """Test accuracy after the last epoch, None without a test set."""
        return self.history[-1]["test_accuracy"] if self.history else None


def train(
    model: nn.Module,
    dataset: Any,
    *,
    epochs: int | None = None,
    defense: EPIC | None = None,
    test: Any = None,
    scenario: str | None = None,
    fresh_head: bool = True,
    preset: str | None = None,
    lr: float | None = None,
    drops: Sequence[int] | None = None,
    drop_factor: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    augment: bool | Augment = False,
    cutmix: bool = False,
    gradients: str = "fresh",
    wrt: str = "logits",
    layer: str | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    workers: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
    callback: Callable[[TrainResult], object] | None = None,
) -> TrainResult:
    """Train a classifier with SGD, and with EPIC if a defense is given.

    If `torch.distributed` has a default process group, all its ranks train the model together:
    each has to make this call, with the same arguments (docs/epic.md, "Several processes").

    Parameters
    ----------
    model : nn.Module
        A classifier that ends in a linear layer, logits (n, C).  It is trained in place.
    dataset
        A map-style dataset of (input, label), or a pair of tensors or arrays (inputs, labels).
        It has to give the same examples each time: augmentation goes to `augment`.
    epochs : int
        Needed unless a preset gives it.
    defense : EPIC, optional
        A fresh one; its rounds take place before the epochs for which it is due.  With the
        active ground set only the kept examples' gradients are taken.
    test : optional
        Like `dataset`; its accuracy is measured after each epoch.
    scenario : {"scratch", "transfer", "finetune"}
        "scratch": everything trains from the weights that the model has.  "transfer": the last
        linear layer is initialized anew and trains alone, on the features of the rest in eval
        mode.  "finetune": the last linear layer is initialized anew, everything trains.
    fresh_head : bool, default True
        False: transfer and fine-tuning go on from the last layer that the model has.
    preset : str, optional
        Name of one of `PRESETS`: gives `epochs`, `scenario` and `drops` where they are not given.
        Its EPIC is ``PRESETS[name].epic()``.
    lr : float, optional
        By default 0.1, for fine-tuning 1e-4.
    drops : sequence of int
        Epochs before which the learning rate is multiplied by `drop_factor`.
    momentum, nesterov, weight_decay
        Of SGD.  Weight decay spares biases and BatchNorm (parameters of one dimension).
    batch_size : int
        A last batch of a single example, which BatchNorm could not take, joins the one before.
    augment : bool or callable
        True: random flip, then random crop with 4 pixels of reflect padding.  A callable gets a
        batch of inputs (its rank's part of one) and a CPU generator.  Never applied for gradients
        or features.
    cutmix : bool, default False
        Train on mixtures: each image gets a rectangle of another one of the batch (of its rank's
        part of it), and as much of its label (`subsel.defense.augment.cutmix`), after `augment`.
        The training accuracy is then that of the mixtures, by each image's own label.
    gradients : {"fresh", "training"}
        What EPIC looks at.  "fresh": gradients taken before each round by a forward pass in eval
        mode, without augmentation, as in the paper.  "training": those that follow from the
        logits of the epoch before, as it trained (`EpochLogits`), which costs no pass.  It wants
        EPIC's active ground set, for what was dropped has no such logits.  A round before epoch 0
        or 1 takes fresh ones all the same: what epoch 0 sees first, it sees untrained.  Not
        with `cutmix`.
    wrt, layer
        Of `last_layer_gradients`; `layer` is also the head of transfer and fine-tuning.
    seed : int
        Decides order, augmentation, dropout and a fresh head.  The global random state is put
        back after each epoch.
    device : optional
        Where to train; the model is moved there.  By default where it lies.  Each rank has its
        own.
    workers : int
        Worker processes that read a dataset which is not tensors.
    checkpoint : path, optional
        Written before the first and after every epoch, whole or not at all, by rank 0.
    resume : path, optional
        A checkpoint to go on from.  Model, data and settings must be those it was made with;
        only `epochs` may differ.  On a CPU with as many threads and ranks the result is bit for
        bit that of a run without interruption.
    progress : bool
        Whether to show a progress bar.
    callback : callable, optional
        Called after each epoch with the `TrainResult` so far, on rank 0.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        Arguments, data or a model that do not fit, or differ between ranks, before any training.
    FloatingPointError
        The loss is not finite; the checkpoint is that of the epoch before.
    KeyboardInterrupt
        On Ctrl-C, with a message on how to resume.
    """
    settings = _settings(
        preset,
        {"epochs": epochs, "scenario": scenario, "lr": lr, "drops": drops},
        drop_factor=drop_factor,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        batch_size=batch_size,
        augment=augment is not False,
        cutmix=cutmix,
        fresh_head=fresh_head,
        gradients=gradients,
        wrt=wrt,
        seed=seed,
    )
    epochs = settings.pop("epochs")
    transfer = settings["scenario"] == "transfer"
    augmented = _augmentation(augment)
    if isinstance(model, DistributedDataParallel):
        raise TypeError("give the model itself, not a DistributedDataParallel: train wraps it")
    where = torch.device(device) if device is not None else device_of(model)
    data = Examples(dataset, where, workers)
    held_out = None if test is None else Examples(test, where, workers)
    check_cutmix(cutmix, data)
    result = TrainResult(model, np.arange(len(data)), defense=defense)
    if defense is not None:
        if defense.history:
            raise ValueError("defense has already pruned; give a fresh EPIC, also to resume")
        defense.start(len(data))
        if gradients == "training" and defense.ground_set != "active":
            raise ValueError(
                f'gradients="training" needs ground_set="active", not {defense.ground_set!r}: '
                "dropped examples are not trained on and have no gradients; take fresh ones"
            )
        if gradients == "training" and cutmix:
            raise ValueError('cutmix needs gradients="fresh": it trains on no example as it is')
    checkpoint = None if checkpoint is None else Path(checkpoint)
    if checkpoint is not None and not checkpoint.parent.is_dir():
        raise FileNotFoundError(f"checkpoint {checkpoint} is in a folder that does not exist")

    ranks = parallel.all_ranks()
    ranks.agree(lambda: _description(model, data, held_out, defense, settings | {"epochs": epochs}))
    model.to(where)
    ranks.copy_first([*model.parameters(), *model.buffers()])
    with seeded(seed, None, where):
        head = _head(model, data, layer)
        if defense is not None and wrt == "input":
            linear_weight(head)  # objects to other layers, before any training
        if settings["scenario"] != "scratch" and fresh_head:
            head.reset_parameters()
    with _backbone_fixed(model, head) if transfer else nullcontext():
        net = model
        if transfer and augment is False and not cutmix:
            # The backbone puts out the same each time: once is enough, and the head remains.
            data = _features(model, layer, data, ranks)
            held_out = held_out and _features(model, layer, held_out, ranks)
            net, layer = head, None
        optimizer = _sgd(net, settings)
        seen = EpochLogits(len(data))
        if resume is not None:
            _restore(Path(resume), settings, result, optimizer, seen)
        first = len(result.history)
        ranks.agree(lambda: {"epochs done": first, "kept": parallel.digest(result.kept)})
        trained = ranks.data_parallel(net)
        bar = tqdm(disable=not progress or ranks.rank > 0, unit="examples", bar_format=_BAR)
        try:
            if checkpoint is not None:
                _save(checkpoint, settings, result, optimizer, seen, ranks)
            for epoch in range(first, epochs):
                began = known = time.perf_counter()
                dropped = 0
                if defense is not None and defense.due(epoch):
                    bar.set_description_str(f"epoch {epoch + 1}/{epochs}, selecting")
                    if seen.logits is not None:
                        weight = linear_weight(head) if wrt == "input" else None
                        found = seen.gradients(defense.kept, weight, tensors=where.type == "cuda")
                    else:
                        ground = defense.kept if defense.ground_set == "active" else None
                        found = last_layer_gradients(
                            net, data.subset(ground), wrt=wrt, layer=layer, group=ranks.group,
                            tensors=where.type == "cuda",
                        )  # fmt: skip
                    known = time.perf_counter()
                    dropped = len(defense.prune(*found, epoch, group=ranks.group).dropped)
                    result.kept = defense.kept
                bar.set_description_str(f"epoch {epoch + 1}/{epochs}")
                bar.total = bar.n + (epochs - epoch) * len(result.kept)
                selected = time.perf_counter()

                rate = settings["lr"] * drop_factor ** sum(epoch >= e for e in settings["drops"])
                for group in optimizer.param_groups:
                    group["lr"] = rate
                net.train(not transfer)
                seen = EpochLogits(len(data))
                recording = (
                    gradients == "training" and epoch > 0 and defense and defense.due(epoch + 1)
                )
                loss_sum = right = torch.zeros((), device=where)
                with seeded(seed, epoch, where, ranks.rank) as generator:
                    for rows, x, y, part in data.shuffled(
                        result.kept, batch_size, generator, ranks
                    ):
                        x = augmented(x, generator, part)
                        if cutmix:
                            x, other, share = cut_and_mixed(x, _numpy_generator(generator, part))
                        logits = trained(x)
                        loss = F.cross_entropy(logits, y)
                        if cutmix:
                            loss = share * loss + (1 - share) * F.cross_entropy(logits, y[other])
                        own = slice(part.own)
                        if recording:
                            seen.record(rows[own], logits[own], y[own])
                        optimizer.zero_grad()
                        (loss * part.weight).backward()
                        optimizer.step()
                        loss_sum = loss_sum + loss.detach() * part.own
                        right = right + (logits.detach().argmax(dim=1) == y)[own].sum()
                        bar.update(part.total)
                if recording:
                    seen.gather(ranks.group)
                ranks.copy_first(net.buffers())
                sums = ranks.gather((loss_sum.item(), right.item()))
                loss_total, right_total = (sum(parts) for parts in zip(*sums, strict=True))
                if not math.isfinite(loss_total):
                    raise FloatingPointError(
                        f"the loss is not finite in epoch {epoch}, at a learning rate of {rate:g}"
                    )

                accuracy = None if held_out is None else _accuracy(net, held_out, ranks)
                record = {
                    "epoch": epoch,
                    "lr": rate,
                    "loss": loss_total / len(result.kept),
                    "train_accuracy": right_total / len(result.kept),
                    "test_accuracy": accuracy,
                    "kept": len(result.kept),
                    "dropped": dropped,
                    "gradient_seconds": known - began,
                    "selection_seconds": selected - known,
                    "seconds": time.perf_counter() - began,
                }
                result.history.append(ranks.first(record))
                if checkpoint is not None:
                    _save(checkpoint, settings, result, optimizer, seen, ranks)
                bar.set_postfix_str(_summary(result.history[-1]))
                with ranks.together():
                    if callback is not None and ranks.rank == 0:
                        callback(result)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_resume(checkpoint)) from None
        except RuntimeError as error:  # such as the loss of another rank
            error.add_note(_how_to_resume(checkpoint))
            raise
        finally:
            bar.close()
    model.eval()
    return result


@contextmanager
def seeded(
    seed: int, epoch: int | None, device: torch.device, rank: int = 0
) -> Iterator[torch.Generator]:
    """Randomness of one epoch (None: of what comes before), a function of the arguments alone.

    Inside, torch's global state is set, for the model's own draws such as dropout; afterwards it
    is put back.  The generator, on the CPU, is for order and augmentation, and the same on every
    rank.
    """
    key = () if epoch is None else (epoch,)
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(2 + rank).tolist()
    own, for_order = words[0] if rank == 0 else words[-1], words[1]
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(own)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        yield torch.Generator().manual_seed(for_order)


def _settings(preset: str | None, given: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Everything that decides the outcome, checked; what is not given comes from the preset."""
    settings |= from_preset(preset, given)
    settings.setdefault("lr", 1e-4 if settings["scenario"] == "finetune" else 0.1)
    settings["drops"] = [int(epoch) for epoch in settings["drops"]]
    for name, choices in CHOICES.items():
        check_choice(settings[name], choices, name)
    check_positive(settings["batch_size"], "batch_size")
    for name in ("lr", "drop_factor"):
        if not 0 < settings[name] < math.inf:
            raise ValueError(f"{name} must be positive, got {settings[name]!r}")
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {settings['seed']!r}")
    return settings


def from_preset(preset: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The preset's settings and, in place of them, what is given; how many epochs is checked."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    found = {"scenario": "scratch", "drops": ()} | (PRESETS[preset].training if preset else {})
    found |= {name: value for name, value in given.items() if value is not None}
    if "epochs" not in found:
        raise ValueError("epochs must be given, or a preset that says how many")
    check_positive(found["epochs"], "epochs")
    return found


def check_cutmix(cutmix: bool, data: Examples) -> None:
    """Refuse what is neither True nor False, and to mix what is no image."""
    if not isinstance(cutmix, bool):
        raise TypeError(f"cutmix must be True or False, got {cutmix!r}")
    if cutmix:
        _, x, _ = next(batches(data.subset(np.arange(1))))
        if x.ndim != 4:
            shape = ", ".join(["n", *map(str, x.shape[1:])])
            raise ValueError(f"cutmix needs images (n, channels, height, width), got ({shape})")


def check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _head(model: nn.Module, data: Examples, layer: str | None) -> Any:
    """The model's last linear layer, after a first look at whether model and data fit."""
    _, x, y = next(batches(data.subset(np.arange(min(2, len(data))))))
    with torch.no_grad(), evaluating(model), LastLayerHook(model, layer) as last:
        logits = last.checked_logits(model(x.to(data.device)), len(y))
    check_labels(y if data.tensors is None else data.tensors[1], logits.shape[1])
    return last.module


@torch.no_grad()
def _features(model: nn.Module, layer: str | None, data: Examples, ranks: Ranks) -> Examples:
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
def _accuracy(net: nn.Module, data: Examples, ranks: Ranks) -> float:
    """Fraction of the examples that the network classifies as they are labelled."""
    right = 0
    with ranks.together(), evaluating(net):
        for _, x, y in batches(data.subset(), ranks=ranks):
            predicted = net(x.to(data.device)).argmax(dim=1)
            right += int((predicted == y.to(data.device)).sum())
    return sum(ranks.gather(right)) / len(data)


def _numpy_generator(generator: torch.Generator, part: Part) -> np.random.Generator:
    """Of a batch, one for each part; `generator` stays the same on all ranks."""
    draw = int(torch.randint(2**62, (), generator=generator))
    return np.random.default_rng(draw + part.rows.start)


def _augmentation(augment: bool | Augment) -> Callable[[Tensor, torch.Generator, Part], Tensor]:
    """`augment` as a function of (this rank's part of a batch, generator, which part it is)."""

    def flipped_and_cropped(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        return flip_and_crop(x, generator, batch=(part.rows.start, part.total))

    def augmented(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        assert callable(augment)
        if len(x) < part.total:
            # What is drawn for a part may not be what is drawn for the other ranks' parts.
            draw = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator().manual_seed(draw + part.rows.start)
        return augment(x, generator)

    if augment is True:
        return flipped_and_cropped
    return augmented if augment else lambda x, generator, part: x


def _description(
    model: nn.Module,
    data: Examples,
    held_out: Examples | None,
    defense: EPIC | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What has to be the same on all ranks, by name."""

    def about(examples: Examples | None) -> str | None:
        if examples is None:
            return None
        some = np.unique(np.linspace(0, len(examples) - 1, 8, dtype=int))
        _, x, y = next(batches(examples.subset(some)))
        labels = y if examples.tensors is None else examples.tensors[1]
        return f"{len(examples)} examples {parallel.digest(x, y, labels)}"

    return {
        **settings,
        "defense": None if defense is None else repr(defense),
        "model": {name: tuple(value.shape) for name, value in model.named_parameters()},
        "dataset": about(data),
        "test": about(held_out),
    }


@contextmanager
def _backbone_fixed(model: nn.Module, head: nn.Module) -> Iterator[None]:
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


def _sgd(net: nn.Module, settings: dict[str, Any]) -> torch.optim.SGD:
    parameters = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings["lr"],
        momentum=settings["momentum"],
        nesterov=settings["nesterov"],
    )


def _save(
    path: Path,
    settings: dict[str, Any],
    result: TrainResult,
    optimizer: torch.optim.Optimizer,
    seen: EpochLogits,
    ranks: Ranks,
) -> None:
    state = {
        "settings": settings,
        "model": result.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "defense": None if result.defense is None else result.defense.state_dict(),
        "history": result.history,
        # For the round that comes next, if it looks at what the last epoch computed.
        "logits": None if seen.logits is None else (seen.logits, seen.labels),
    }
    with ranks.together():
        if ranks.rank == 0:
            with written_whole(path) as part:
                torch.save(state, part)


def _restore(
    path: Path,
    settings: dict[str, Any],
    result: TrainResult,
    optimizer: torch.optim.Optimizer,
    seen: EpochLogits,
) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"resume: there is no checkpoint {path}")
    state = torch.load(path, weights_only=True, map_location=device_of(result.model))
    if not isinstance(state, dict) or not state.keys() >= {"settings", "model", "history"}:
        raise ValueError(f"resume: {path} is not a checkpoint of subsel.defense.train")
    changed = [
        f"{name}={state['settings'].get(name)!r}, now {value!r}"
        for name, value in settings.items()
        if value != state["settings"].get(name)
    ]
    if (state["defense"] is None) != (result.defense is None):
        changed.append(f"{'no' if state['defense'] is None else 'a'} defense")
    if changed:
        raise ValueError(f"resume: {path} was made with {'; '.join(changed)}")
    result.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    result.history = state["history"]
    if result.defense is not None:
        result.defense.load_state_dict(state["defense"])
        result.kept = result.defense.kept
    if state["logits"] is not None:
        seen.logits, seen.labels = state["logits"]


_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def _summary(record: dict[str, Any]) -> str:
    test = record["test_accuracy"]
    return (
        f"epoch {record['epoch']}, loss {record['loss']:.3f}, "
        + ("" if test is None else f"test {test:.3f}, ")
        + f"kept {record['kept']}, dropped {record['dropped']}"
    )


def _how_to_resume(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "stopped; there is no checkpoint to resume from"
    return f"stopped; go on from the last whole epoch with resume={str(checkpoint)!r}"
