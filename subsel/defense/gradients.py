"""Per-example gradients of the cross-entropy at a classifier's last layer."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subsel.defense.data import batches, check_labels, named
from subsel.defense.forms import (
    Pick,
    Split,
    as_labels,
    called,
    logits_of,
    moved,
    shape_of,
    unwrapped,
)
from subsel.defense.notices import notice_outputs
from subsel.defense.parallel import Ranks
from subsel.validation import check_choice

__all__ = ["EpochLogits", "last_layer_gradients"]

WRT = ("logits", "input", "output")


def last_layer_gradients(
    model: nn.Module,
    data: Any,
    *,
    wrt: str = "logits",
    layer: str | None = None,
    output: Pick | None = None,
    batch: Split | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    group: Any = None,
    tensors: bool = False,
) -> tuple[Any, Any]:
    """The gradient of each example's cross-entropy at the last linear layer, in dataset order.

    The model is read through a forward hook and left as it was.  It runs in eval mode, without a
    gradient graph. Afterwards, even after an error, every submodule is back in its own mode. No
    random state changes.

    Parameters
    ----------
    model
        A classifier trained with the softmax cross-entropy: logits (n, C), by themselves, in an
        object's ``.logits``, under "logits" in a dict, or as the one tensor (n, C) of a tuple.
        Of a compiled, DataParallel or DistributedDataParallel model, the module inside is used.
    data
        A map-style dataset of (input, label), of dicts with an entry "labels" or "label" (the
        model is called with the others as keywords), or of triples with the example's place; a
        DataLoader, of which only the dataset, batch size, ``collate_fn`` and the settings of its
        workers are used, never its order; or a pair of tensors, arrays or tables (inputs (n, ...),
        labels (n,)).  Labels are integers in 0..C-1.  The dataset must give the same examples
        each time: no augmentation.  A few of them are read a second time to make sure.
    wrt
        "logits": softmax(z) - onehot(y), (n, C).  "input": the gradient with respect to the input
        of the last layer, (softmax(z) - onehot(y)) W, (n, embedding).  "output": the same as
        "logits", but with the logits that the whole model returns. This works for any head: a
        convolution, a cosine head, LoRA, tied weights, or a temperature after the last layer.
    layer
        Name of the last layer as in ``model.named_modules()``. By default it is the `nn.Linear`
        that the model executes last, and the model's output must be that layer's output (or its
        log-softmax). The output of a named layer is used as the logits without this check.
    output : callable, optional
        A function from what the model returns to the logits, if they are not found as described
        above. With ``wrt="logits"`` no layer is needed then.
    batch : callable, optional
        A function from a batch of the dataset to (inputs, labels), for batches of another form.
    batch_size
        Examples per forward pass. By default the batch size of the DataLoader, else 256.
    device
        Where to compute. By default the device of the model's first parameter. The model is not
        moved.
    group : torch.distributed.ProcessGroup, optional
        Share the work among the ranks of this group, such as ``torch.distributed.group.WORLD``.
        Each rank must make this call with the same data and model, computes its share of the
        batches, and gets the gradients of all examples. First, the model's buffers (BatchNorm's
        statistics), which may differ in data-parallel training, are set to those of rank 0.
    tensors
        Return torch tensors on the device where they were computed, so that `EPIC.prune` can select
        there.

    Returns
    -------
    gradients : ndarray of float32, or tensor, (n, C) or (n, embedding)
    labels : ndarray of int64, or tensor, (n,)

    Raises
    ------
    TypeError
        If the dataset is iterable-style or has no length, or labels are not integers.
    ValueError
        If the device does not exist; the dataset is empty; outputs are not (n, C) with C > 1; a
        label is outside 0..C-1 or a logit is not finite (the message names the examples); the
        dataset differs when it is read a second time; there is no linear layer, or no layer of the
        given name; or, with ``wrt="output"``, the model returns probabilities instead of logits.
        With a group, an error on one rank is raised on all.

    Warns
    -----
    DefenseWarning
        If the model has far more outputs than the data has classes.

    Notes
    -----
    Takes one forward pass over the data. The gradient with respect to the last layer's input bounds
    the variation of the full gradient up to a constant (Katharopoulos and Fleuret 2018; paper,
    section 3.5).
    """
    check_choice(wrt, WRT, "wrt")
    device = check_device(device, model)
    where = device if tensors else torch.device("cpu")
    ranks = Ranks(group)
    model = unwrapped(model)
    whole = takes_whole(wrt, layer, output)
    ranks.copy_first(model.buffers())
    gradients: list[Tensor] = []
    labels: list[Tensor] = []
    broken: list[int] = []
    outputs = 0
    with (
        ranks.together(),
        evaluating(model),
        torch.no_grad(),
        nullcontext() if whole else LastLayerHook(model, layer) as last,
    ):
        for start, x, y in batches(data, batch_size, ranks, batch):
            logits = logits_of(called(model, moved(x, device)), len(y), output)
            if last is None:
                check_logits(logits, len(y))
            else:
                logits = last.checked_logits(logits, len(y))
            outputs = logits.shape[1]
            y = y.to(device)
            check_labels(y, logits.shape[1], np.arange(start, start + len(y)))
            usable = usable_logits(logits, y)
            if not usable.all():
                broken += (start + torch.nonzero(~usable).flatten()).tolist()
            residual = softmax_residual(logits.float(), y)
            if wrt == "input":
                assert last is not None
                residual = residual @ last.weight().float()
            gradients.append(residual.to(where))
            labels.append(y.to(where))
    broken = list(chain.from_iterable(ranks.gather(broken)))
    if broken:
        raise ValueError(f"the model's logits are not finite for {named(broken)}")
    found = ranks.joined(gradients, where), ranks.joined(labels, where)
    if ranks.rank == 0:
        notice_outputs(outputs, found[1].cpu().numpy())
    return found if tensors else (found[0].numpy(), found[1].numpy())


class EpochLogits:
    """The logits of one training epoch, from which gradients can be computed.

    They replace the forward pass of `last_layer_gradients` at hardly any cost, because an epoch of
    training computes every example's logits anyway. But these logits differ: the model is in
    training mode (BatchNorm, dropout), inputs may be augmented, and weights change from batch to
    batch.

    Parameters
    ----------
    n : int
        Size of the training set.

    Notes
    -----
    Use a new object for each epoch, so that it contains no older logits. It holds n x C float32 and
    n int64 numbers on the device of the logits. Nothing is copied to the host before `gradients`.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.logits: Tensor | None = None
        self.labels: Tensor  # -1: not recorded

    def record(self, indices: Any, logits: Tensor, labels: Tensor) -> None:
        """Record a batch.

        Parameters
        ----------
        indices : array or tensor of integers, (b,)
            The positions of the examples in the training set.
        logits : Tensor, (b, C)
            The model's output, as it goes into the loss: the logits, or an output in which
            `last_layer_gradients` finds them.
        labels : Tensor of integers, (b,)

        Raises
        ------
        TypeError
            If indices or labels are not integers.
        ValueError
            If shapes do not fit, or indices are outside 0..n-1.
        """
        logits = logits_of(logits, len(indices))
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits must be a tensor (b, C), got {shape_of(logits)}")
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"logits must be (b, C) with C > 1, got {tuple(logits.shape)}")
        if not len(indices) == len(logits) == len(labels):
            raise ValueError(
                "indices, logits and labels must be of the same examples, got "
                f"{len(indices)}, {len(logits)} and {len(labels)}"
            )
        rows = torch.as_tensor(indices)
        if rows.is_floating_point() or rows.dtype == torch.bool:
            raise TypeError(f"indices must be integers, got {rows.dtype}")
        if rows.device.type == "cpu" and ((rows < 0) | (rows >= self.n)).any():
            raise ValueError(f"indices must lie in 0..{self.n - 1}, got {rows.tolist()[:10]}")
        labels = as_labels(labels)
        logits = logits.detach().float()
        if self.logits is None:
            self.logits = logits.new_zeros(self.n, logits.shape[1])
            self.labels = torch.full((self.n,), -1, device=logits.device)
        rows = rows.to(logits.device)
        self.logits[rows] = logits
        self.labels[rows] = labels.to(self.labels)

    def gather(self, group: Any) -> None:
        """Add what the other ranks recorded. Each rank recorded the examples that it trained on.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup
            All ranks of the group must make this call.
        """
        ranks = Ranks(group)
        if ranks.size == 1:
            return
        own = None
        if self.logits is not None:
            rows = torch.nonzero(self.labels >= 0).flatten()
            own = tuple(part.cpu() for part in (rows, self.logits[rows], self.labels[rows]))
        for recorded in filter(None, ranks.gather(own)):
            rows, logits, labels = recorded
            self.record(rows, logits if own is None else logits.to(self.labels.device), labels)

    def gradients(
        self, indices: np.ndarray, weight: Tensor | None = None, *, tensors: bool = False
    ) -> tuple[Any, Any]:
        """The gradients of some examples' cross-entropy, in the form that `EPIC.prune` takes.

        Parameters
        ----------
        indices : ndarray of int64, (m,)
            The examples, such as `EPIC.kept`.
        weight : Tensor, (C, embedding), optional
            The weight of the last layer, for gradients with respect to the layer's input.
        tensors : bool, default False
            Return torch tensors on the device of the logits.

        Returns
        -------
        gradients : ndarray of float32, or tensor, (m, C) or (m, embedding)
        labels : ndarray of int64, or tensor, (m,)

        Raises
        ------
        ValueError
            If an example was not part of the epoch, a label is outside 0..C-1, or logits are not
            finite. The message names the examples.
        """
        if self.logits is None:
            raise ValueError("no logits are recorded: no epoch was trained yet")
        rows = torch.as_tensor(indices, device=self.labels.device)
        logits, labels = self.logits[rows], self.labels[rows]
        if (labels == -1).any():
            unseen = rows[labels == -1].tolist()
            raise ValueError(f"no logits are recorded for {named(unseen)}: the epoch left them out")
        check_labels(labels, logits.shape[1], indices)
        notice_outputs(logits.shape[1], labels.cpu().numpy())
        broken = rows[~usable_logits(logits, labels)]
        if len(broken):
            raise ValueError(f"the model's logits are not finite for {named(broken.tolist())}")
        residual = softmax_residual(logits, labels)
        if weight is not None:
            residual = residual @ weight.detach().float()
        if tensors:
            return residual, labels
        return residual.cpu().numpy(), labels.cpu().numpy()


def takes_whole(wrt: str, layer: str | None, output: Pick | None) -> bool:
    """Whether the logits are the result of the whole model, so that no layer is needed."""
    return wrt == "output" or (wrt == "logits" and output is not None and layer is None)


def usable_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """For each example whether its loss is finite; -inf may mask all classes but its own."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own.isfinite() & ~(logits.isnan() | (logits == torch.inf)).any(dim=1)


def check_logits(logits: Any, n: int, *, probabilities: bool = False) -> None:
    """Refuse the output of a whole model if it cannot be logits (n, C).

    With `probabilities` it may be probabilities, because a named layer computes the logits.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
        raise ValueError(
            f"the model must return ({n}, C) logits, got {shape_of(logits)}; output= takes a "
            "function from what it returns to the logits"
        )
    if logits.shape[1] < 2:
        raise ValueError("the model returns one logit; a softmax needs two or more")
    if probabilities:
        return
    sums = logits.float().sum(dim=1)
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(
            "the model returns probabilities, not logits: name the layer that computes the logits "
            "with layer=, or let output= take the logarithm"
        )


def softmax_residual(logits: Tensor, labels: Tensor) -> Tensor:
    """softmax(logits) - onehot(labels), (n, C).

    The labelled entry, p_y - 1, is computed as minus the sum of the others. This loses no digits if
    p_y is near 1, as it is for most examples after a few epochs.
    """
    labels = labels[:, None]
    residual = logits.softmax(dim=1).scatter_(1, labels, 0.0)
    return residual.scatter_(1, labels, -residual.sum(dim=1, keepdim=True))


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter, or the CPU."""
    if not isinstance(model, nn.Module):
        made = f": make one, {model.__name__}(...)" if isinstance(model, type) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {reprlib.repr(model)}{made}")
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_device(device: torch.device | str | None, model: nn.Module) -> torch.device:
    """The device to compute on, by default the model's. Raises an error if it cannot be used."""
    own = device_of(model)
    if device is None:
        return own
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f'device must be "cpu", "cuda", "cuda:1" or the like, not {device!r}'
        ) from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {str(where)!r} is not available: "
            + ("no GPU was found" if torch.version.cuda else "this PyTorch is built without CUDA")
        )
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"device {str(where)!r} is not available: the number of GPUs is {found}")
    try:
        torch.ones((), device=where).item()
    except (RuntimeError, AssertionError, ImportError):
        raise ValueError(f"device {str(where)!r} cannot be used here") from None
    return where


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context of eval mode; afterwards each submodule is back in its former mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class LastLayerHook:
    """Context in which the last layer's input and output are available after each forward pass.

    Attributes
    ----------
    module : the named layer, or the `nn.Linear` that was executed last
    input, output : its latest input and output
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        modules = dict(model.named_modules())
        self.named = layer is not None
        if layer is not None and layer not in modules:
            raise ValueError(f"layer {layer!r} is not in the model; it has {list(modules)}")
        self.watched = [
            module
            for name, module in modules.items()
            if (name == layer if self.named else isinstance(module, nn.Linear))
        ]
        if not self.watched:
            raise ValueError(
                "the model has no nn.Linear; name the layer that computes the logits with layer=, "
                'or, if the model itself returns them, give wrt="output"'
            )
        self.module: nn.Module | None = None
        self.input: Tensor
        self.output: Any

    def __enter__(self) -> "LastLayerHook":
        self.handles = [
            module.register_forward_hook(self._record, with_kwargs=True) for module in self.watched
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _record(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        self.module, self.output = module, output
        self.input = inputs[0] if inputs else next(iter(keywords.values()))

    def checked_logits(self, model_output: Any, n: int) -> Tensor:
        """The layer's output, after a check that it is (n, C) and the input of the loss."""
        if self.module is None:
            raise ValueError(
                "no linear layer was executed as a module; if the model itself returns the "
                'logits, give wrt="output"'
            )
        logits = self.output
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n:
            raise ValueError(f"the last layer must return ({n}, C) logits, got {shape_of(logits)}")
        if logits.shape[1] < 2:
            raise ValueError("the last layer returns one logit; a softmax needs two or more")
        if not self.named and not self.is_last(model_output):
            raise ValueError(
                f"the model's output, {shape_of(model_output)}, is not that of the linear layer it "
                f"executes last, {shape_of(logits)}; name the layer that computes the logits with "
                'layer=, or, if the model itself returns them, give wrt="output"'
            )
        return logits

    def is_last(self, model_output: Any) -> bool:
        """Whether the model's output is that of the layer, or its log-softmax."""
        if model_output is self.output:
            return True
        return (
            isinstance(model_output, Tensor)
            and isinstance(self.output, Tensor)
            and model_output.shape == self.output.shape
            and torch.allclose(
                model_output.log_softmax(1),
                self.output.log_softmax(1),
                rtol=1e-3,
                atol=1e-3,
                equal_nan=True,
            )
        )

    def weight(self) -> Tensor:
        """The layer's weight, (C, embedding)."""
        return linear_weight(self.module)


def linear_weight(module: nn.Module | None) -> Tensor:
    """The weight of a last layer, (C, embedding), which must be an `nn.Linear`."""
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f'wrt="input" needs an nn.Linear as last layer, got {type(module).__name__}'
        )
    return module.weight
