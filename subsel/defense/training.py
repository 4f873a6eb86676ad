"""A training loop with EPIC. It is readable and resumable, and the seed decides its result."""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from subsel.defense import parallel
from subsel.defense.checkpoint import Checkpoint
from subsel.defense.data import Examples
from subsel.defense.epic import EPIC
from subsel.defense.epochs import (
    Loss,
    Trainee,
    accuracy,
    backbone_fixed,
    features,
    materialize,
    prepared_head,
)
from subsel.defense.forms import Pick, Split, unwrapped
from subsel.defense.gradients import (
    EpochLogits,
    check_device,
    linear_weight,
)
from subsel.defense.notices import (
    notice_late_rounds,
    notice_preset,
    notice_schedule,
    schedule_line,
)
from subsel.defense.randomness import Augment, seeded
from subsel.defense.result import TrainResult
from subsel.defense.rounds import fresh_gradients
from subsel.defense.settings import (
    check_cutmix,
    check_defense,
    check_own,
    check_view,
    checked_settings,
)

__all__ = ["TrainResult", "seeded", "train"]


def train(
    model: nn.Module,
    data: Any,
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
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    loss: Loss | None = None,
    amp: bool | str = False,
    batch_size: int = 128,
    accumulate: int = 1,
    augment: bool | Augment = False,
    cutmix: bool = False,
    gradients: str = "fresh",
    wrt: str = "logits",
    layer: str | None = None,
    output: Pick | None = None,
    batch: Split | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    clean_view: Any = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    workers: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
    callback: Callable[[TrainResult], object] | None = None,
) -> TrainResult:
    """Train a classifier with SGD, and with EPIC if a defense is given.

    If `torch.distributed` has a default process group, all its ranks train the model together. Each
    rank must make this call with the same arguments (docs/epic.md, "Several processes").

    Parameters
    ----------
    model : nn.Module
        A classifier with logits (n, C), which are found as in `last_layer_gradients`.  It is
        trained in place. It may be compiled, or a DataParallel. If the weight and the bias of a
        BatchNorm do not require gradients, its statistics do not change either.
    data
        A map-style dataset of (input, label), or of the other forms that `last_layer_gradients`
        takes, or a pair of tensors, arrays or tables (inputs, labels). It must give the same
        examples each time: use `augment` for augmentation, or give a `clean_view`.
    epochs : int
        The number of epochs. It is needed unless a preset gives it.
    defense : EPIC, optional
        A new EPIC. Its rounds take place before the epochs for which they are due. With the active
        ground set, only the gradients of kept examples are computed.
    test : optional
        Test examples, in the form of `data`. The accuracy on them is measured after each epoch.
    scenario : {"scratch", "transfer", "finetune"}
        With "scratch", everything is trained from the weights that the model has. With "transfer",
        the last linear layer is initialized again, and it alone is trained, on the features of the
        rest in eval mode. With "finetune", the last linear layer is initialized again, and
        everything is trained.
    fresh_head : bool, default True
        With False, transfer and fine-tuning continue with the last layer that the model has.
    preset : str, optional
        Name of one of `PRESETS`, which sets `epochs`, `scenario` and `drops` unless they are given.
        Its EPIC is ``PRESETS[name].epic()``, which must be given as `defense`.
    lr : float, optional
        The learning rate: by default 0.1, and 1e-4 for fine-tuning.
    drops : sequence of int
        Epochs before which the learning rate is multiplied by `drop_factor`.
    momentum, nesterov, weight_decay
        Settings of SGD. Weight decay does not apply to biases and BatchNorm (parameters of one
        dimension).
    optimizer : callable, optional
        A function from the trained parameters to an optimizer, in place of SGD with these settings.
        `drops` apply to its learning rates, too.
    scheduler : callable, optional
        A function from the optimizer to a schedule of `torch.optim.lr_scheduler`, in place of
        `drops`. The schedule makes a step after each epoch; ReduceLROnPlateau gets the training
        loss.
    loss : callable, optional
        A function from (logits, labels) to the mean loss, in place of the cross-entropy. EPIC still
        uses gradients of the cross-entropy.
    amp : bool or {"bfloat16", "float16"}, default False
        Train in mixed precision; True means bfloat16. Gradients before rounds and evaluations use
        the model's own precision.
    batch_size : int
        A last batch of a single example is added to the batch before it, because BatchNorm needs
        two.
    accumulate : int, default 1
        The number of batches for each step of the optimizer, which uses the mean over all their
        examples.
    augment : bool or callable
        With True, a random flip, then a random crop with 4 pixels of reflect padding. A callable
        gets a batch of inputs (of several ranks, its rank's part) and a CPU generator. It is never
        applied for gradients or features.
    cutmix : bool, default False
        Train on mixtures, after `augment`: each image gets a rectangle of another image of the
        batch (of its rank's part), and the same share of its label
        (`subsel.defense.augment.cutmix`). The training accuracy is then that of the mixtures, by
        each image's own label.
    gradients : {"fresh", "training"}
        The gradients that EPIC uses. With "fresh", they are computed before each round by a forward
        pass in eval mode, without augmentation, as in the paper. With "training", they are computed
        from the logits of the last epoch in training mode (`EpochLogits`), which costs no pass.
        This needs EPIC's active ground set, because dropped examples have no such logits. A round
        before epoch 0 or 1 uses fresh gradients anyway, because the first logits of epoch 0 come
        from an untrained model. Cannot be combined with `cutmix`.
    wrt, layer
        As for `last_layer_gradients`. `layer` is also the head of transfer and fine-tuning.
    output, batch : callables, optional
        Functions from what the model returns to logits, and from a batch to (inputs, labels), as in
        `last_layer_gradients`. The loss uses these logits, too.
    collate : callable, optional
        Makes a batch of a list of examples, as a DataLoader's ``collate_fn``.
    clean_view : optional
        The same examples as `data`, in the same order, but without augmentation, for a dataset that
        augments by itself. Used for gradients and hashes.
    seed : int
        Decides the order, augmentation, dropout and a fresh head. The global random state is
        restored after each epoch.
    device : optional
        Where to train; the model is moved there. By default the model's device. Each rank has its
        own device.
    workers : int
        The number of worker processes that read a dataset, if it is not tensors.
    checkpoint : path, optional
        The file that rank 0 writes before the first and after every epoch, completely or not at
        all. No other run may write it meanwhile. If the file exists already and the run does not
        resume from it, it is kept as ``<name>-before.<suffix>``.
    resume : path, optional
        A checkpoint to continue from. Model, data and settings must be the same as when it was
        made. Only `epochs` may differ, and must be at least the number of finished epochs. On a CPU
        with as many threads and ranks, the result is bit for bit that of a run without
        interruption.
    progress : bool
        Whether to write to standard error when rounds are due, and then show a progress bar. If
        standard error is not a terminal, one line for each epoch replaces the bar.
    callback : callable, optional
        Called after each epoch with the `TrainResult` so far, on rank 0.  If it returns True,
        training ends there.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        If arguments, data or model do not fit, or differ between ranks. This is raised before any
        training. A checkpoint that is damaged, or belongs to another run, is refused before
        anything is changed.
    OSError
        If a file cannot be read or written. The message names the file and the reason, such as
        "disk full". If another run is writing `checkpoint`, the error is a BlockingIOError.
    FloatingPointError
        If the loss is not finite. The checkpoint is that of the epoch before.
    KeyboardInterrupt
        On Ctrl-C, with a message on how to resume.

    Warns
    -----
    DefenseWarning
        If fewer than two rounds are due; if the first round comes after the first drop of the
        learning rate, or so shortly before it that less than an eighth of all epochs still have the
        high rate; if a preset is given without a defense; and as in `EPIC.prune`.

    Notes
    -----
    With `checkpoint` or `resume`, the data are read once more at the start, for a hash that
    identifies them. docs/reliability.md says what checkpoints promise.
    """
    settings = checked_settings(
        preset,
        {"epochs": epochs, "scenario": scenario, "lr": lr, "drops": drops},
        drop_factor=drop_factor,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        batch_size=batch_size,
        accumulate=accumulate,
        amp=amp,
        augment=augment is not False,
        cutmix=cutmix,
        fresh_head=fresh_head,
        gradients=gradients,
        wrt=wrt,
        seed=seed,
    )
    own = {"optimizer": optimizer, "scheduler": scheduler, "loss": loss}
    settings |= check_own(own, drops, lr)
    epochs = settings.pop("epochs")
    if isinstance(model, DistributedDataParallel):
        raise TypeError("give the model itself, not a DistributedDataParallel: train wraps it")
    where = check_device(device, model)
    reading = (where, workers, batch, collate)
    data = Examples(data, *reading)
    view = data if clean_view is None else Examples(clean_view, *reading)
    held_out = None if test is None else Examples(test, *reading, name="test")
    check_view(data, view)
    check_cutmix(cutmix, data)
    if defense is not None:
        check_defense(defense, settings)
        defense.start(len(data))
    ranks = parallel.all_ranks()
    file = Checkpoint(checkpoint, resume, ranks, settings)
    bare = unwrapped(model)
    materialize(bare, view, settings)
    ranks.agree(lambda: _description(bare, view, held_out, defense, settings | {"epochs": epochs}))
    result = TrainResult(model, np.arange(len(data)), defense=defense)
    seen = EpochLogits(len(data))
    transfer = settings["scenario"] == "transfer"

    with ExitStack() as until_the_end:
        until_the_end.enter_context(file.held())
        file.read(epochs, result, where)
        file.compare(bare, view)
        model.to(where)
        ranks.copy_first([*model.parameters(), *model.buffers()])
        head, is_end = prepared_head(
            bare, view, settings, layer, output, defended=defense is not None
        )
        net = model
        if transfer:
            until_the_end.enter_context(backbone_fixed(model, head))
        if transfer and is_end and augment is False and not cutmix and clean_view is None:
            # The features of the backbone never change. They are computed once, and the head
            # remains.
            data = view = features(bare, layer, data, ranks)
            held_out = held_out and features(bare, layer, held_out, ranks)
            net, layer, output = head, "", None  # the head is the whole model
        steps = _optimizer(net, settings, optimizer)
        trainee = Trainee(net, data, steps, settings, augment, ranks, output, loss)
        schedule = None if scheduler is None else scheduler(steps)
        parts = {"optimizer": steps, "scheduler": schedule, "scaler": trainee.scaler}
        file.restore(result, parts, seen)
        first = len(result.history)
        ranks.agree(lambda: {"epochs done": first, "kept": parallel.digest(result.kept)})
        trainee.start()
        if ranks.rank == 0:
            _tell(defense, epochs, settings["drops"], preset, progress)
        shown = progress and ranks.rank == 0
        # With None, tqdm shows the bar on a terminal only. A log gets one line for each epoch.
        bar = tqdm(disable=None if shown else True, unit="examples", bar_format=_BAR)
        try:
            file.save(result, parts, seen)
            for epoch in range(first, epochs):
                began = known = time.perf_counter()
                dropped = readmitted = 0
                if defense is not None and defense.due(epoch):
                    bar.set_description_str(f"epoch {epoch + 1}/{epochs}, selecting")
                    found = _gradients(trainee, view, seen, defense, epoch, head, layer)
                    known = time.perf_counter()
                    entry = defense.prune(*found, epoch, group=ranks.group)
                    dropped, readmitted = len(entry.dropped), len(entry.readmitted)
                    result.kept = defense.kept
                bar.set_description_str(f"epoch {epoch + 1}/{epochs}")
                bar.total = bar.n + (epochs - epoch) * len(result.kept)
                selected = time.perf_counter()

                rate = trainee.set_rate(epoch) if schedule is None else trainee.rate()
                seen = EpochLogits(len(data))
                next_round = defense is not None and defense.due(epoch + 1)
                recording = gradients == "training" and epoch > 0 and next_round
                total, right = trainee.train_epoch(
                    epoch, result.kept, seen if recording else None, bar.update
                )
                if not math.isfinite(total):
                    raise FloatingPointError(
                        f"the loss is not finite in epoch {epoch}, at a learning rate of {rate:g}: "
                        "the rate is too high, or inputs have NaN or inf"
                    )
                record = {
                    "epoch": epoch,
                    "lr": rate,
                    "loss": total / len(result.kept),
                    "train_accuracy": right / len(result.kept),
                    "test_accuracy": held_out and accuracy(net, held_out, ranks, output),
                    "kept": len(result.kept),
                    "dropped": dropped,
                    "readmitted": readmitted,
                    "gradient_seconds": known - began,
                    "selection_seconds": selected - known,
                    "seconds": time.perf_counter() - began,
                }
                result.history.append(ranks.first(record))
                if schedule is not None:
                    plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    schedule.step(*[result.history[-1]["loss"]] * plateau)
                file.save(result, parts, seen)
                told = _summary(result.history[-1])
                bar.set_postfix_str(told)
                if shown and bar.disable:
                    tqdm.write(told, file=sys.stderr)
                ended = False
                with ranks.together():
                    if callback is not None and ranks.rank == 0:
                        ended = callback(result) is True
                if ranks.first(ended):
                    break
        except KeyboardInterrupt:
            raise KeyboardInterrupt(file.how_to_resume()) from None
        except RuntimeError as error:  # e.g. the loss of another rank
            error.add_note(file.how_to_resume())
            raise
        finally:
            bar.close()
    model.eval()
    return result


def _tell(
    defense: EPIC | None, epochs: int, drops: Sequence[int], preset: str | None, progress: bool
) -> None:
    """Say when rounds take place, and warn if there are too few."""
    if defense is None:
        if preset is not None:
            notice_preset(preset)
        return
    rounds = defense.schedule(epochs)
    if progress:
        tqdm.write(schedule_line(rounds, epochs, defense.readmit), file=sys.stderr)
    notice_schedule(defense, epochs)
    notice_late_rounds(rounds, drops, epochs)


def _gradients(
    trainee: Trainee,
    view: Examples,
    seen: EpochLogits,
    defense: EPIC,
    epoch: int,
    head: Any,
    layer: str | None,
) -> tuple[Any, Any]:
    """The gradients for a round: those of the last epoch if they were recorded, else fresh ones."""
    wrt, tensors = trainee.settings["wrt"], trainee.data.device.type == "cuda"
    if seen.logits is not None and epoch != defense.readmit:
        weight = linear_weight(head) if wrt == "input" else None
        return seen.gradients(defense.kept, weight, tensors=tensors)
    taking = {"wrt": wrt, "layer": layer, "output": trainee.output}
    return fresh_gradients(trainee.net, view, defense, epoch, group=trainee.ranks.group, **taking)


def _optimizer(
    net: nn.Module,
    settings: dict[str, Any],
    own: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer. The default is SGD, without weight decay for parameters of one dimension."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    if own is not None:
        made = own(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"optimizer must make an optimizer, got {type(made).__name__}")
        return made
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


def _description(
    model: nn.Module,
    data: Examples,
    held_out: Examples | None,
    defense: EPIC | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """By name, everything that must be the same on all ranks."""

    def about(examples: Examples | None) -> str | None:
        return None if examples is None else f"{len(examples)} examples {examples.mark()}"

    return {
        **settings,
        "defense": None if defense is None else repr(defense),
        "model": {name: tuple(value.shape) for name, value in model.named_parameters()},
        "dataset": about(data),
        "test": about(held_out),
    }


_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def _summary(record: dict[str, Any]) -> str:
    test = record["test_accuracy"]
    return (
        f"epoch {record['epoch']}, loss {record['loss']:.3f}, "
        + ("" if test is None else f"test {test:.3f}, ")
        + f"kept {record['kept']}, dropped {record['dropped']}"
    )
