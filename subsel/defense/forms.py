"""Reads what a loader yields and what a model returns, in all forms that are in use.

Inputs are a tensor, a mapping (a model is called with its entries as keywords) or a sequence (a
model is called with its parts one after the other). Everything else in `subsel.defense` sees them
through these functions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = [
    "Pick",
    "Split",
    "as_labels",
    "bare_state",
    "called",
    "logits_of",
    "moved",
    "row_of",
    "same",
    "shape_of",
    "split",
    "tensors_of",
    "unwrapped",
]

Split = Callable[[Any], tuple[Any, Any]]
Pick = Callable[[Any], Tensor]
LABELS = ("labels", "label")
PREFIXES = ("_orig_mod.", "module.")


def split(batch: Any, how: Split | None = None) -> tuple[Any, Tensor]:
    """The inputs and labels in what a loader yields.

    Parameters
    ----------
    batch
        A pair (inputs, labels); a mapping with an entry "labels" or "label", whose other entries
        are the inputs; or a triple with the examples' places, (inputs, labels, places) or (places,
        inputs, labels).
    how : callable, optional
        A function from `batch` to inputs and labels, for any other form.

    Raises
    ------
    TypeError, ValueError
        If the batch has none of these forms, or labels are not integers (n,).
    """
    x, y = _parts(batch) if how is None else _given(how(batch))
    y = as_labels(y)
    n = next((len(part) for part in tensors_of(x)), len(y))
    if y.ndim != 1 or n != len(y):
        raise ValueError(f"labels must be (n,), one for each of {n} inputs, got {tuple(y.shape)}")
    return x, y


def _parts(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        found = [name for name in LABELS if name in batch]
        if len(found) != 1:
            raise TypeError(
                'a batch that is a dict must have its labels under "labels" or "label", got '
                f"{list(batch)}; batch= takes a function from a batch to (inputs, labels)"
            )
        inputs = {name: part for name, part in batch.items() if name != found[0]}
        return _tensors(inputs), batch[found[0]]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        if len(batch) == 2:
            return _tensors(batch[0]), batch[1]
        if len(batch) == 3:
            first, second, third = batch
            if _is_index(first):
                return _tensors(second), third
            if _is_index(third):
                return _tensors(first), second
    raise TypeError(
        f"data must give pairs (input, label), got {_named(batch)}; batch= takes a function from "
        "a batch to (inputs, labels)"
    )


def _given(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"batch= must return a pair (inputs, labels), got {_named(pair)}")
    return _tensors(pair[0]), pair[1]


def _tensors(x: Any) -> Any:
    if next(tensors_of(x), None) is None:
        raise TypeError(
            f"the inputs of a batch must be tensors, got {_named(x)}: have the dataset give tensors"
        )
    return x


def _is_index(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 1 and not _is_no_integer(part.dtype)


def as_labels(y: Any) -> Tensor:
    """Labels as int64. Other types than integers are refused, not rounded."""
    if isinstance(y, np.ndarray) and y.dtype.kind in "iu":
        y = torch.from_numpy(y.astype(np.int64))
    if not isinstance(y, Tensor):
        raise TypeError(
            f"labels must be a tensor of integers, got {_named(y)}: give the number of each class, "
            "from 0"
        )
    if _is_no_integer(y.dtype):
        raise TypeError(f"labels must be integers, got {y.dtype}")
    return y.long()


def _is_no_integer(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex or dtype == torch.bool


def tensors_of(x: Any) -> Iterator[Tensor]:
    """All tensors among the inputs."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for part in x.values():
            yield from tensors_of(part)
    elif isinstance(x, list | tuple):
        for part in x:
            yield from tensors_of(part)


def moved(x: Any, device: torch.device) -> Any:
    """The inputs, moved to a device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, Mapping):
        return {name: moved(part, device) for name, part in x.items()}
    return [moved(part, device) for part in x] if isinstance(x, list | tuple) else x


def row_of(x: Any, i: int) -> list[Tensor]:
    """Copies of the i-th example's tensors."""
    return [part[i].clone() for part in tensors_of(x)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two examples are equal, as far as they can be compared.

    Different shapes count as equal, because inputs may be padded to the length of their batch.
    """
    return all(
        torch.equal(p.nan_to_num(), q.nan_to_num())
        for p, q in zip(a, b, strict=True)
        if p.shape == q.shape
    )


def called(model: nn.Module, x: Any) -> Any:
    """Call a model with inputs of any form."""
    try:
        if isinstance(x, Mapping):
            return model(**x)
        return model(*x) if isinstance(x, list | tuple) else model(x)
    except RuntimeError as error:
        given = {part.dtype for part in tensors_of(x) if part.is_floating_point()}
        wanted = {part.dtype for part in model.parameters() if part.is_floating_point()}
        if given and wanted and not given & wanted:
            raise TypeError(
                f"the inputs are {_dtypes(given)} and the model's parameters {_dtypes(wanted)}: "
                "convert one of them"
            ) from error
        raise


def logits_of(output: Any, n: int, how: Pick | None = None) -> Any:
    """The logits (n, C) in what a model returns; if none are found, what it returns.

    Parameters
    ----------
    output
        A tensor; an object with ``.logits``, such as those of Hugging Face's models; a mapping
        with "logits"; or a sequence of which one part is a tensor (n, C).
    n : int
        The number of examples in the batch.
    how : callable, optional
        A function from `output` to the logits, for any other form.
    """
    if how is not None:
        return how(output)
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, list | tuple):
        found = [p for p in output if isinstance(p, Tensor) and p.ndim == 2 and len(p) == n]
        if len(found) == 1:
            return found[0]
    return output


def shape_of(output: Any) -> str:
    """The shape or type of something, for an error message."""
    return str(tuple(output.shape)) if isinstance(output, Tensor) else _named(output)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in a compiled, DataParallel or DistributedDataParallel model."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def bare_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the prefixes that `torch.compile` and DataParallel put before names."""
    bare = dict(state)
    while prefix := next((p for p in PREFIXES if bare and all(k.startswith(p) for k in bare)), ""):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _dtypes(found: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))


def _named(value: Any) -> str:
    if isinstance(value, list | tuple):
        inside = ", ".join(type(part).__name__ for part in value[:4])
        return f"{type(value).__name__} ({inside}{', ...' if len(value) > 4 else ''})"
    return type(value).__name__
