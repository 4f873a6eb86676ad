"""The result of a training run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from subsel.defense.epic import EPIC

__all__ = ["TrainResult"]


@dataclass(repr=False)
class TrainResult:
    """The result of training.

    Attributes
    ----------
    model : nn.Module
        The model that was given, trained, in eval mode.
    kept : ndarray of int64
        The examples on which the last epoch was trained, ascending.
    history : list of dict
        For each epoch: ``epoch`` (from 0), ``lr``, ``loss`` and ``train_accuracy`` (means over the
        epoch, in training mode), ``test_accuracy`` (None without a test set), ``kept``, ``dropped``
        (in the round before the epoch), ``gradient_seconds`` and ``selection_seconds`` (of that
        round), and ``seconds`` (of everything).
    defense : EPIC or None
    """

    model: nn.Module
    kept: np.ndarray
    history: list[dict[str, Any]] = field(default_factory=list)
    defense: EPIC | None = None

    def __repr__(self) -> str:
        parts = [f"epochs={len(self.history)}", f"kept={len(self.kept)}"]
        if self.defense is not None:
            parts[1] += f" of {self.defense.n}"
        if self.accuracy is not None:
            parts.append(f"accuracy={self.accuracy:.4g}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def accuracy(self) -> float | None:
        """The test accuracy after the last epoch; None without a test set."""
        return self.history[-1]["test_accuracy"] if self.history else None
