"""The victim: a linear head on frozen features, trained with EPIC, with a control, or with nothing.

Anything with `due`, `prune` and `kept` can defend `train_head`; `subsel.defense.EPIC` is one.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsel.defense import last_layer_gradients

EPOCHS = 40
MILESTONES = (15, 25, 35)
BATCH = 128


OnRound = Callable[[int, nn.Linear], None]  # epoch, head as it is before the round


class Dropping(Protocol):
    """A round of a defense: who left before which epoch."""

    @property
    def epoch(self) -> int: ...
    @property
    def dropped(self) -> np.ndarray: ...


class Defense(Protocol):
    """What `train_head` asks for."""

    @property
    def kept(self) -> np.ndarray: ...
    def due(self, epoch: int) -> bool: ...
    def prune(self, gradients: np.ndarray, labels: np.ndarray, epoch: int) -> object: ...


class Drop(NamedTuple):
    """A round of `MatchedDrop`."""

    epoch: int
    dropped: np.ndarray


class MatchedDrop:
    """A control that drops as many examples as another defense did, in the same rounds.

    Parameters
    ----------
    n : int
        Size of the training set.
    counts : dict of epoch to number of examples to drop
    rule : {"random", "loss"}
        Who goes: anybody, or the examples of highest loss.
    """

    def __init__(self, n: int, counts: dict[int, int], *, rule: str, seed: int) -> None:
        self.kept = np.arange(n)
        self.history: list[Drop] = []
        self._counts, self._rule = counts, rule
        self._rng = np.random.default_rng(seed)

    def due(self, epoch: int) -> bool:
        return epoch in self._counts

    def prune(self, gradients: np.ndarray, labels: np.ndarray, epoch: int) -> None:
        if self._rule == "random":
            score = self._rng.random(len(self.kept))
        else:  # the gradient's entry at the label is p - 1: the lower, the higher the loss
            score = gradients[self.kept, labels[self.kept]]
        leaving = np.argsort(score, kind="stable")[: self._counts[epoch]]
        self.history.append(Drop(epoch, np.sort(self.kept[leaving])))
        self.kept = np.delete(self.kept, leaving)


def train_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int,
    defense: Defense | None = None,
    on_round: OnRound | None = None,
) -> nn.Linear:
    """Train a linear head: EPIC's transfer setting (Yang et al. 2022, section 5).

    40 epochs of SGD, lr 0.1 divided by ten at epochs 15, 25 and 35, Nesterov momentum 0.9,
    weight decay 5e-4 on the weights, batches of 128. `on_round(epoch, head)` is called before
    each round of the defense.
    """
    generator = torch.Generator().manual_seed(seed)
    head = nn.utils.skip_init(nn.Linear, features.shape[1], classes)
    bound = features.shape[1] ** -0.5
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    optimizer = torch.optim.SGD(
        [{"params": [head.weight], "weight_decay": 5e-4}, {"params": [head.bias]}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, MILESTONES)
    kept = torch.arange(len(labels))
    for epoch in range(EPOCHS):
        if defense is not None and defense.due(epoch):
            if on_round:
                on_round(epoch, head)
            defense.prune(*last_layer_gradients(head, (features, labels)), epoch)
            kept = torch.from_numpy(defense.kept)
        for batch in kept[torch.randperm(len(kept), generator=generator)].split(BATCH):
            loss = F.cross_entropy(head(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return head


def deep_knn(features: Tensor, labels: Tensor, *, neighbours: int) -> np.ndarray:
    """Who is kept by Deep k-NN: at least half of the nearest in feature space share the label.

    Peri et al., ECCV 2020 workshops. Time O(n^2 d), memory O(1000 n).
    """
    shares = []
    for part, own in zip(features.split(1000), labels.split(1000), strict=True):
        nearest = torch.cdist(part, features).topk(neighbours + 1, largest=False).indices
        same = (labels[nearest] == own[:, None]).sum(1) - 1  # itself is among them
        shares.append(same / neighbours)
    return np.flatnonzero(torch.cat(shares).numpy() >= 0.5)
