"""EPIC in the training loop of a user: its rounds, and a sampler of the kept examples."""

import math
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler

from subsel.defense import parallel
from subsel.defense.data import Examples
from subsel.defense.epic import EPIC, Round
from subsel.defense.forms import Pick, Split
from subsel.defense.gradients import device_of, last_layer_gradients
from subsel.defense.notices import notice_loader, notice_schedule
from subsel.defense.randomness import order_generator
from subsel.validation import as_host_array, check_count

__all__ = ["KeptSampler", "Rounds"]


class KeptSampler(Sampler[int]):
    """The examples that EPIC keeps, in random order, as a ``sampler`` for a DataLoader.

    It asks EPIC at the start of each pass, so one loader serves a whole training. The order is that
    of `train` for the same seed and epoch.

    Parameters
    ----------
    epic : EPIC
        It has to know the number of examples: ``EPIC(len(data), ...)``.
    seed : int, default 0
        Together with the epoch, this decides the order.
    shuffle : bool, default True
        With False, the order is ascending.
    weights : array_like of float (n,), optional
        Draw as many examples as are kept, with replacement, with probabilities in proportion to
        these weights.
    num_replicas, rank : int, default 1 and 0
        As for `torch.utils.data.DistributedSampler`: each of ``num_replicas`` processes gets its
        share. All shares have the same size, so a few examples may occur twice. Lightning and
        Accelerate divide the examples themselves and need the default.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above.

    Notes
    -----
    Passes count as epochs 0, 1, ..., unless `set_epoch` sets the number.

    Examples
    --------
    >>> from subsel.defense import EPIC, KeptSampler
    >>> sorted(KeptSampler(EPIC(4, warmup=1, interval=1)))
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        epic: EPIC,
        *,
        seed: int = 0,
        shuffle: bool = True,
        weights: Any = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if not isinstance(epic, EPIC):
            raise TypeError(f"epic must be an EPIC, got {epic!r}")
        n = len(epic.kept)  # refuses an EPIC that does not know its n
        self.epic, self.shuffle = epic, bool(shuffle)
        self.seed = check_count(seed, "seed", 0, 2**64 - 1)
        self.num_replicas = check_count(num_replicas, "num_replicas", 1)
        self.rank = check_count(rank, "rank", 0, self.num_replicas - 1)
        self.epoch, self._told = 0, False
        self.weights: torch.Tensor | None = None
        if weights is not None:
            given = as_host_array(weights, "weights")
            if given.shape != (epic.n,) or given.dtype.kind not in "fiu":
                raise ValueError(f"weights must be numbers ({epic.n},), got {given.shape}")
            if n and not (np.isfinite(given).all() and given.min() >= 0 and given.max() > 0):
                raise ValueError("weights must be finite, none below 0 and one above")
            self.weights = torch.from_numpy(given.astype(np.float64))

    def __len__(self) -> int:
        return math.ceil(len(self.epic.kept) / self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        kept, epoch = torch.from_numpy(self.epic.kept), self.epoch
        if not self._told:
            self.epoch += 1
        generator = order_generator(self.seed, epoch)
        if self.weights is not None:
            kept = kept[torch.multinomial(self.weights[kept], len(kept), True, generator=generator)]
        elif self.shuffle:
            kept = kept[torch.randperm(len(kept), generator=generator)]
        share = len(self)
        repeated = torch.arange(share * self.num_replicas) % len(kept)
        yield from kept[repeated[self.rank :: self.num_replicas]].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass's epoch. A resumed training must do this."""
        self.epoch, self._told = check_count(epoch, "epoch", 0), True


class Rounds:
    """EPIC's rounds in a loop of your own.

    Parameters
    ----------
    epic : EPIC
    data
        The training examples without augmentation, in any form that `last_layer_gradients` takes.
    epochs : int, optional
        The number of epochs of the training, for a warning if fewer than two rounds are due.
    wrt, layer, output, batch
        As for `last_layer_gradients`.
    collate, workers : optional
        How a dataset is read, as in `train`.

    Notes
    -----
    If `torch.distributed` has a default process group, its ranks share the work of a round, and
    each rank must call `before`.

    The state consists of EPIC's state and a hash of the data, in a form that Accelerate's
    ``register_for_checkpointing`` takes.

    Examples
    --------
    >>> import torch
    >>> from subsel.defense import EPIC, KeptSampler, Rounds
    >>> x, y = torch.randn(200, 8), torch.arange(200) % 2
    >>> model, epic = torch.nn.Linear(8, 2), EPIC(200, warmup=1, interval=1)
    >>> rounds, sampler = Rounds(epic, (x, y), epochs=3), KeptSampler(epic)
    >>> loader = torch.utils.data.DataLoader(
    ...     torch.utils.data.TensorDataset(x, y), 32, sampler=sampler)
    >>> for epoch in range(3):
    ...     found = rounds.before(model, epoch)
    ...     for inputs, labels in loader:
    ...         pass  # your training step
    >>> len(epic.history)
    2
    """

    def __init__(
        self,
        epic: EPIC,
        data: Any,
        *,
        epochs: int | None = None,
        wrt: str = "logits",
        layer: str | None = None,
        output: Pick | None = None,
        batch: Split | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
    ) -> None:
        if not isinstance(epic, EPIC):
            raise TypeError(f"epic must be an EPIC, got {epic!r}")
        self.epic, self.data = epic, data
        self._reading = (workers, batch, collate)
        self._taking = {"wrt": wrt, "layer": layer, "output": output}
        self._examples: Examples | None = None
        self._mark: str | None = None  # of the data of earlier rounds
        epic.start(len(Examples(data, torch.device("cpu"))))
        if epochs is not None:
            notice_schedule(epic, epochs)

    def before(self, model: nn.Module, epoch: int) -> Round | None:
        """Make the round that is due before an epoch, if there is one and it was not made yet.

        Parameters
        ----------
        model : nn.Module
        epoch : int
            The next epoch, counted from 0.

        Returns
        -------
        Round or None

        Raises
        ------
        ValueError
            If the data differ from those of earlier rounds, including rounds before the training
            was resumed. All labels and the inputs of eight examples are compared.
        """
        done = bool(self.epic.history) and self.epic.history[-1].epoch >= epoch
        if done or not self.epic.due(epoch):
            return None
        device = device_of(model)
        if self._examples is None or self._examples.device != device:
            self._examples = Examples(self.data, device, *self._reading)
        ranks, mark = parallel.all_ranks(), self._examples.mark()
        ranks.agree(lambda: {"data": mark, "data of the rounds before": self._mark})
        if self._mark not in (None, mark):
            raise ValueError(
                "data are not those of the rounds before: give the same examples in the same "
                "order, or a new EPIC"
            )
        self._mark, group = mark, ranks.group
        found = fresh_gradients(
            model, self._examples, self.epic, epoch, group=group, **self._taking
        )
        return self.epic.prune(*found, epoch, group=group)

    def check_loader(self, loader: Any) -> None:
        """Warn if a training loader does not leave out what EPIC dropped.

        Parameters
        ----------
        loader
            A DataLoader, or an object that a library made from one. Without a known number of
            examples, no warning is issued.
        """
        while (inside := getattr(loader, "batch_sampler", None)) is not None:
            loader = inside
        sampler = getattr(loader, "sampler", None)
        if not isinstance(sampler, Sized):
            return
        replicas = getattr(sampler, "num_replicas", 1)
        given, kept = len(sampler) * replicas, len(self.epic.kept)
        if given >= kept + replicas:  # shares have one size, so some examples occur twice
            notice_loader(given, kept)

    def state_dict(self) -> dict[str, Any]:
        """EPIC's state and a hash of the data. ``torch.load(..., weights_only=True)`` loads it."""
        return self.epic.state_dict() | {"data": self._mark}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` saved."""
        self.epic.load_state_dict(state)
        self._mark = state.get("data")


def fresh_gradients(
    model: nn.Module,
    examples: Examples,
    epic: EPIC,
    epoch: int,
    *,
    group: Any = None,
    **taking: Any,
) -> tuple[Any, Any]:
    """The gradients that EPIC uses before an epoch, from a forward pass over those examples."""
    return last_layer_gradients(
        model,
        examples.subset(epic.looks_at(epoch)),
        batch=examples.how,
        group=group,
        tensors=examples.device.type == "cuda",
        **taking,
    )
