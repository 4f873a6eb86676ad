"""A fresh start: EPIC drops much, a new model judges what was dropped, and training starts again.

This is not the published EPIC. docs/research/fresh-start.md has its purpose and its results.
"""

import copy
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from subsel.defense import parallel, scores
from subsel.defense.checkpoint import (
    Checkpoint,
    CheckpointError,
    read_checkpoint,
    retire,
    weights_digest,
)
from subsel.defense.data import Examples, check_labels
from subsel.defense.epic import EPIC, checked_arrays
from subsel.defense.evidence import label_probabilities
from subsel.defense.gradients import check_device, last_layer_gradients, softmax_residual
from subsel.defense.looking import look
from subsel.defense.notices import notice_core
from subsel.defense.result import TrainResult
from subsel.defense.settings import check_cutmix, from_preset
from subsel.defense.training import train
from subsel.validation import check_count, check_fraction, check_indices

__all__ = ["AfreshResult", "readmitted", "train_afresh"]

PHASES = ("core", "judge", "final")


@dataclass(repr=False)
class AfreshResult(TrainResult):
    """The result of training with a fresh start.

    Attributes
    ----------
    model, kept, history, defense
        As in `TrainResult`. The ``phase`` of each entry of the history says to which training it
        belongs: ``"core"``, ``"judge"`` or ``"final"``.
    core : ndarray of int64
        The examples that EPIC kept, ascending. The judge was trained on these.
    """

    core: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def readmitted(
    gradients: Any, labels: Any, core: Any, threshold: float = 0.05, *, features: Any = None
) -> np.ndarray:
    """The core, and the examples to whose label the judge gives at least the `threshold`.

    With `features`, a second condition must hold: at least half of an example's nearest neighbours
    have its label. The number of neighbours is a quarter of the size of the class. This is Deep
    k-NN, but without knowing the number of poisons.

    Parameters
    ----------
    gradients : array_like or Tensor (n, C) of float32 or float64
        The `last_layer_gradients` of the judge, a model trained on the core alone, with respect to
        the logits. The entry at an example's label is the probability of that label, less 1.
    labels : array_like or Tensor of int (n,)
        In 0..C-1.
    core : array_like of int
        Indices of the examples that are trusted.
    threshold : float, default 0.05
        In (0, 1): the smallest probability that the label of a readmitted example may have.
    features : Tensor (n, d), optional
        The inputs of the judge's last layer.

    Returns
    -------
    ndarray of int64
        Ascending.

    Notes
    -----
    The second condition takes O(n² d) time, and O(1000 n) memory beside the features.

    Raises
    ------
    TypeError, ValueError
        If the threshold is outside (0, 1), gradients are not finite or not with respect to the
        logits, or labels or indices are out of range.
    """
    check_fraction(threshold, "threshold")
    gradients, labels = checked_arrays(gradients, labels)
    check_labels(torch.from_numpy(labels), gradients.shape[1])
    core = check_indices(core, len(labels), "core")
    accepted = label_probabilities(gradients, labels) >= threshold
    if features is not None:
        accepted &= scores.deep_knn(features, labels) <= 0.5
    return np.union1d(core, np.flatnonzero(accepted))


def train_afresh(
    model: nn.Module,
    data: Any,
    *,
    defense: EPIC | None = None,
    threshold: float = 0.05,
    judge_epochs: int | None = None,
    final_epochs: int | None = None,
    quick: bool = False,
    witnesses: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[AfreshResult], object] | None = None,
    **training: Any,
) -> AfreshResult:
    """Train a classifier three times, so that what poisons did to it early on is undone.

    The first training uses EPIC. It ends with EPIC's last round, or earlier if the epochs end. The
    examples that are kept then are the core; the model is discarded, because it has seen the
    poisons. The second training starts from the initial weights, sees the core alone, and produces
    the judge. The third one starts from the initial weights too (with `quick`, from those of the
    judge), and sees the core and all examples to whose label the judge gives a probability of at
    least `threshold`.

    Parameters
    ----------
    model, data
        As in `train`.
    defense : EPIC, optional
        It needs a `stop`. It may drop many more examples than usual, because most of them are
        readmitted. The default is that of the experiments: a round before each epoch of the first
        quarter except the first epoch, with a `subset_size` of 0.2 from scratch and 0.4 otherwise.
    threshold : float, default 0.05
        In (0, 1). A higher threshold readmits fewer poisons, and fewer difficult examples.
    judge_epochs, final_epochs : int, optional
        By default `epochs`; with `quick`, half and three quarters of `epochs`. The drops of the
        learning rate are moved in proportion, so each training has the whole schedule.
    quick : bool, default False
        Train the judge itself further, on all readmitted examples, in place of a new model. If EPIC
        stops at a quarter of the epochs, everything together takes about as long as one training.
    witnesses : {1, 2}, default 1
        With 1, the judge alone decides. With 2, the nearest neighbours of an example, among the
        inputs of the judge's last layer, have to agree too (see `readmitted`).
    checkpoint : path, optional
        The checkpoint of the final training. Those of the two trainings before it are written to
        the same folder, with "-core" and "-judge" in their names.
    resume : bool, default False
        Continue from these checkpoints, if they exist. The model must have the same initial
        weights, which is checked.
    progress, callback
        As in `train`. The indices in `kept` of the callback's result refer to all of the data.
    **training
        Other arguments of `train`: `epochs`, `test`, `scenario`, `preset`, `lr`, `drops`, `seed`...
        The first training is the beginning of a training with these settings, but without `cutmix`,
        because fewer poisons stand alone for nets that are trained on mixtures.

    Returns
    -------
    AfreshResult

    Raises
    ------
    TypeError, ValueError
        As `train` does, and if the EPIC has no `stop` or the threshold is outside (0, 1).

    Notes
    -----
    Besides the final training, which sees nearly all examples, this costs ``defense.stop`` epochs
    on shrinking data, `judge_epochs` on the core, and a forward pass. In experiments it helped for
    heads on fixed features and, with `cutmix`, for nets trained from scratch (docs/epic.md, "A
    fresh start"). With ``scenario="transfer"``, the features of the fixed part are computed again
    for each training.
    """
    if not isinstance(defense, EPIC | None):
        raise TypeError(f"defense must be an EPIC, got {defense!r}")
    if defense is not None and defense.stop is None:
        raise ValueError(
            f"defense must have a stop, not {defense!r}: the core is what its last round leaves"
        )
    if defense is not None and defense.readmit is not None:
        raise ValueError(
            f"defense must not let examples back in, not {defense!r}: a fresh start leaves that to "
            "its judge"
        )
    check_fraction(threshold, "threshold")
    if check_count(witnesses, "witnesses", 1) > 2:
        raise ValueError(f"witnesses must be 1 or 2, got {witnesses}")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint, the file to continue from")
    named = ("epochs", "drops", "scenario")
    schedule = from_preset(
        training.pop("preset", None), {name: training.get(name) for name in named}
    )
    training["scenario"] = schedule["scenario"]
    epochs = schedule["epochs"]
    if defense is None:
        size = 0.2 if schedule["scenario"] == "scratch" else 0.4
        defense = EPIC(subset_size=size, warmup=1, interval=1, stop=max(2, epochs // 4))
    half, three_quarters = (max(1, round(share * epochs)) for share in (0.5, 0.75))
    if judge_epochs is None:
        judge_epochs = half if quick else epochs
    if final_epochs is None:
        final_epochs = three_quarters if quick else epochs
    judge_epochs = check_count(judge_epochs, "judge_epochs", 1)
    final_epochs = check_count(final_epochs, "final_epochs", 1)
    where, view = check_device(training.get("device"), model), training.pop("clean_view", None)
    reading = (where, training.get("workers", 0), training.get("batch"), training.get("collate"))
    data, looked_at = (
        Examples(data, where),
        Examples(data if view is None else view, *reading),
    )
    check_cutmix(training.get("cutmix", False), looked_at)
    ranks = parallel.all_ranks()
    initial = copy.deepcopy(model.state_dict())
    paths = {phase: _beside(checkpoint, phase) for phase in PHASES}
    done: list[dict[str, Any]] = []
    core = np.empty(0, np.int64)

    def run(phase: str, rows: np.ndarray | None, **settings: Any) -> np.ndarray:
        """Train from the initial weights on some of the data; return the indices that were kept."""
        nonlocal resume
        path = paths[phase]
        resume = resume and path is not None and path.is_file()
        if not resume:  # then files of the later phases belong to another run
            with ranks.together():
                for later in list(paths.values())[PHASES.index(phase) :]:
                    if later is not None and ranks.rank == 0:
                        retire(later)
        if progress and ranks.rank == 0:
            some = "all" if rows is None else len(rows)
            tqdm.write(f"{phase} training: {some} examples", file=sys.stderr)
        if settings.get("fresh_head", True):
            model.load_state_dict(initial)

        def so_far(part: TrainResult) -> AfreshResult:
            kept = part.kept if rows is None else rows[part.kept]
            history = [*done, *({"phase": phase, **entry} for entry in part.history)]
            return AfreshResult(model, kept, history, defense, core)

        result = so_far(
            train(
                model,
                data.subset(rows),
                checkpoint=path,
                resume=path if resume else None,
                progress=progress,
                clean_view=None if view is None else Examples(view, where).subset(rows),
                callback=None if callback is None else lambda part: callback(so_far(part)),
                **training | settings,
            )
        )
        done[:] = result.history
        return result.kept

    with Checkpoint(checkpoint, None, ranks).held():
        with ranks.together():
            first = paths["core"]
            if resume and ranks.rank == 0 and first is not None and first.is_file():
                _check_start(first, initial)
        core = run("core", None, epochs=min(defense.stop, epochs), defense=defense, cutmix=False)
        if ranks.rank == 0:
            notice_core(len(core), len(data))
        run("judge", core, **_paced(schedule, judge_epochs))
        at: dict[str, Any] = {name: training.get(name) for name in ("layer", "output")}
        seen = None
        if witnesses == 2:
            seen = look(model, looked_at, keep_inputs=False, ranks=ranks, **at)
            found = softmax_residual(seen.logits, seen.labels), seen.labels
        else:
            found = last_layer_gradients(
                model,
                looked_at.subset(),
                wrt="output" if training.get("wrt") == "output" else "logits",
                batch=training.get("batch"),
                group=ranks.group,
                **at,
            )
        back = readmitted(*found, core, threshold, features=seen and seen.features)
        finishing = _paced(schedule, final_epochs)
        kept = run("final", back, fresh_head=not quick, **finishing)
    return AfreshResult(model, kept, done, defense, core)


def _paced(schedule: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The whole schedule, compressed to this many epochs, with its own first learning rate."""
    share = epochs / schedule["epochs"]
    drops = [max(min(1, drop), round(share * drop)) for drop in schedule["drops"]]
    return {"epochs": epochs, "drops": drops}


def _check_start(first: Path, initial: dict[str, Any]) -> None:
    """Refuse other weights than those the run began with, because later phases start from them."""
    if read_checkpoint(first, torch.device("cpu"))["start"] != weights_digest(initial):
        raise CheckpointError(
            f"resume: {first} belongs to a run that began with other weights: give the model with "
            "its initial weights"
        )


def _beside(checkpoint: str | os.PathLike[str] | None, phase: str) -> Path | None:
    """The path of the checkpoint of a phase."""
    if checkpoint is None:
        return None
    final = Path(checkpoint)
    return final if phase == "final" else final.with_stem(f"{final.stem}-{phase}")
