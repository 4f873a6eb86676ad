"""One forward pass of a trained model: the inputs of its last layer, and its logits."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from subsel.defense.data import Examples, check_labels
from subsel.defense.forms import Pick, Split, called, logits_of, moved, unwrapped
from subsel.defense.gradients import LastLayerHook, check_device, check_logits, evaluating
from subsel.defense.parallel import ALONE, Ranks

__all__ = ["Looking", "Seen", "look"]


class Looking(TypedDict, total=False):
    """The arguments of `look` that `report` and `audit` pass on; they are as for `train`."""

    layer: str | None
    output: Pick | None
    batch: Split | None
    collate: Callable[[list[Any]], Any] | None
    workers: int
    device: torch.device | str | None


@dataclass
class Seen:
    """The results of a model for examples, in the order of the examples, in main memory.

    Attributes
    ----------
    features : Tensor (n, e)
        The inputs of the last linear layer (or of the named layer); the logits if there is none.
    logits : Tensor (n, C)
    labels : Tensor of int64 (n,)
    inputs : Tensor (n, ...) or None
        The inputs, if they should be kept, each is one tensor, and all have the same shape.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    inputs: Tensor | None

    @property
    def losses(self) -> Tensor:
        """The cross-entropy of each example."""
        return nn.functional.cross_entropy(self.logits, self.labels, reduction="none")

    @property
    def probabilities(self) -> Tensor:
        """The probability that the model gives to each label."""
        return self.logits.softmax(dim=1).gather(1, self.labels[:, None])[:, 0]


@torch.no_grad()
def look(
    model: nn.Module,
    data: Any,
    *,
    layer: str | None = None,
    output: Pick | None = None,
    batch: Split | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    keep_inputs: bool = True,
    ranks: Ranks = ALONE,
) -> Seen:
    """Pass data, or `Examples`, through a model. Several ranks share the work.

    The other arguments are those of `last_layer_gradients` and `train`.
    """
    model, examples = unwrapped(model), data
    if not isinstance(data, Examples):
        examples = Examples(data, check_device(device, model), workers, batch, collate)
    hooked = layer is not None or any(isinstance(part, nn.Linear) for part in model.modules())
    features, logits, labels, inputs = [], [], [], []
    with (
        ranks.together(),
        evaluating(model),
        LastLayerHook(model, layer) if hooked else nullcontext() as last,
    ):
        for _, x, y in examples.batches(ranks=ranks):
            out = logits_of(called(model, moved(x, examples.device)), len(y), output)
            check_logits(out, len(y), probabilities=layer is not None)
            check_labels(y, out.shape[1])
            logits.append(out.float().cpu())
            labels.append(y.cpu())
            enters = out if last is None or last.module is None else last.input
            if not isinstance(enters, Tensor) or len(enters) != len(y):
                enters = out
            features.append(enters.flatten(1).float().cpu())
            inputs.append(x.cpu() if keep_inputs and isinstance(x, Tensor) else None)
    shapes = {None if x is None else x.shape[1:] for x in inputs}
    same = len(shapes) == 1 and None not in shapes
    here = torch.device("cpu")
    return Seen(
        ranks.joined(features, here),
        ranks.joined(logits, here),
        ranks.joined(labels, here),
        torch.cat([x for x in inputs if x is not None]) if same else None,
    )
