"""What was dropped, when, and how isolated it was: as a table, and as a page for a browser."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor, nn

from subsel.defense.duplicates import duplicate_groups
from subsel.defense.epic import EPIC, Round
from subsel.defense.evidence import FIELDS, nearest
from subsel.defense.looking import Looking, Seen, look
from subsel.defense.page import page
from subsel.defense.result import TrainResult
from subsel.files import write_whole
from subsel.validation import check_indices

__all__ = ["Report", "report"]


@dataclass(repr=False)
class Report:
    """A table with a row for each example, the most suspicious first, and pictures for a page.

    Attributes
    ----------
    columns : dict of str to list
        The columns that `report` describes.
    rounds : list of Round
    classes : list of str
        The names of the classes, by number.
    groups : list of ndarray
        Near-duplicates, the largest group first.
    images : Tensor (n, channels, height, width) or None
        The inputs in the order of the data, if they are images.
    beside : dict of int to dict
        For the most suspicious examples, the nearest kept example of any class, and of their own
        class.
    """

    columns: dict[str, list[Any]]
    rounds: list[Round]
    classes: list[str]
    groups: list[np.ndarray] = field(default_factory=list)
    images: Tensor | None = None
    beside: dict[int, dict[str, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def audited(self) -> bool:
        """Whether the report comes from `audit`, so that nothing was dropped."""
        return "suspicion" in self.columns

    def flagged(self) -> list[bool]:
        """For each row whether EPIC dropped it or, in an audit, would drop it."""
        if self.audited:
            return self.columns["isolated"]
        return [when is not None for when in self.columns["round"]]

    def kept(self) -> list[bool]:
        """For each row whether it was kept in the end; in an audit all are."""
        return self.columns.get("kept", [True] * len(self))

    def __repr__(self) -> str:
        if self.audited:
            return f"Report({len(self)} examples, {sum(self.flagged())} isolated)"
        dropped = len(self) - sum(self.columns["kept"])
        return f"Report({len(self)} examples, {dropped} dropped, {len(self.rounds)} rounds)"

    def rows(self) -> list[dict[str, Any]]:
        """The table as a list of dicts, the most suspicious first."""
        names = list(self.columns)
        return [dict(zip(names, row, strict=True)) for row in self._lines()]

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.columns)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, completely or not at all. Unknown values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self._lines())
        write_whole(Path(path), text.getvalue())

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dicts, as `json.dumps` takes them."""
        return {
            "examples": self.rows(),
            "rounds": [entry.to_dict() for entry in self.rounds],
            "classes": self.classes,
            "near_duplicates": [group.tolist() for group in self.groups],
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON, completely or not at all."""
        write_whole(Path(path), json.dumps(self.to_dict(), allow_nan=False) + "\n")

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one page for a browser, completely or not at all.

        The page needs no other file and no network, and runs no script. Names and ids are escaped,
        so they appear as text even if they contain HTML.
        """
        write_whole(Path(path), page(self))

    def _lines(self) -> list[tuple[Any, ...]]:
        return list(zip(*self.columns.values(), strict=True))


def report(
    source: TrainResult | EPIC,
    data: Any = None,
    *,
    model: nn.Module | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    known: Any = None,
    shown: int = 24,
    **looking: Unpack[Looking],
) -> Report:
    """Report what EPIC dropped and why, for a person to look through.

    Parameters
    ----------
    source : TrainResult or EPIC
        The result of `train` or `train_afresh`, or the EPIC of a loop of your own.
    data : optional
        The training examples without augmentation, in any form that `last_layer_gradients` takes.
        With them the report has the predictions of the trained model, near-duplicates and, for
        images, pictures.
    model : nn.Module, optional
        The trained model; by default that of a TrainResult.
    classes : sequence of str, optional
        Names of the classes, by number.
    ids : sequence, optional
        Names of the examples, such as paths. By default their numbers.
    known : array_like of int, optional
        Examples that are known to be poisons, as in an experiment. They are marked.
    shown : int, default 24
        The number of most suspicious examples that the page shows as pictures.
    **looking
        `layer`, `output`, `batch`, `collate`, `workers` and `device`, as in `train` and
        `last_layer_gradients`.

    Returns
    -------
    Report
        It has these columns. For all examples: ``rank`` (from 1), ``index``, ``id``, ``label``,
        ``class`` and ``kept``. For dropped examples: ``round`` (the epoch before which it was
        dropped), ``cluster_size``, ``medoid_distance``, ``neighbour``, ``neighbour_distance``, and
        ``probability`` and ``loss`` of the label at that time. With data and a model:
        ``predicted``, ``probability_now`` and ``loss_now``. With data: ``copies``, the number of
        its near-duplicates, itself included. With `known`: ``known``. A value that is not known is
        None.

        Dropped examples come first: with a model in the order of how much their loss has risen
        since they were dropped, otherwise of the distance to the nearest other example of their
        class. Then come the other examples, with a model in the order of their loss.

    Raises
    ------
    TypeError, ValueError
        If the source has no defense, or classes, ids or data have another size.

    Notes
    -----
    Takes one forward pass over the data, and O(n^2 values / classes) time for near-duplicates.

    If the model is no longer trained on an example, its loss stays low as long as similar examples
    are still trained on. The loss of a poison rises, because only poisons taught the model its
    label.
    """
    epic = source.defense if isinstance(source, TrainResult) else source
    if not isinstance(epic, EPIC):
        raise TypeError(
            "report needs a result of training with a defense, or an EPIC, got "
            + ("a result without a defense" if epic is None else type(epic).__name__)
        )
    kept = source.kept
    n = len(epic.labels)
    if model is None and isinstance(source, TrainResult):
        model = source.model
    seen = None
    if data is not None and model is not None:
        seen = look(model, data, **looking)
        if len(seen.labels) != n:
            raise ValueError(f"data must have the {n} examples of the run, got {len(seen.labels)}")
    labels = epic.labels if seen is None else seen.labels.numpy()
    return table(
        epic.history, labels, kept, seen, classes=classes, ids=ids, known=known, shown=shown
    )


def table(
    rounds: list[Round],
    labels: np.ndarray,
    kept: np.ndarray,
    seen: Seen | None,
    *,
    classes: Sequence[str] | None,
    ids: Sequence[Any] | None,
    known: Any,
    shown: int,
    scores: dict[str, np.ndarray] | None = None,
) -> Report:
    """Make the report of rounds or, with `scores`, of an audit, in which nothing is dropped."""
    n = len(labels)
    names = _names(classes, labels)
    if ids is not None and len(ids) != n:
        raise ValueError(f"ids must be {n}, one for each example, got {len(ids)}")
    inputs = None if seen is None else seen.inputs
    groups = [] if inputs is None else duplicate_groups(inputs, labels)
    columns = _columns(rounds, labels, names, ids, kept, seen, groups, inputs is not None)
    if scores is not None:
        isolated = [when is not None for when in columns["round"]]
        same_as_now = ("kept", "round", "probability", "loss")
        columns = {name: values for name, values in columns.items() if name not in same_as_now}
        columns |= {"isolated": isolated, **{name: x.tolist() for name, x in scores.items()}}
    if known is not None:
        columns["known"] = np.isin(np.arange(n), check_indices(known, n, "known")).tolist()
    order = _ranking(columns)
    ranked = {"rank": list(range(1, n + 1))}
    ranked |= {name: [values[i] for i in order] for name, values in columns.items()}
    images = None
    if inputs is not None and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        images = inputs
    top = [i for i in order[:shown] if scores is not None or columns["round"][i] is not None]
    beside = {} if seen is None else _beside(seen, np.array(top, np.int64), kept, labels)
    return Report(ranked, list(rounds), names, groups, images, beside)


def _names(classes: Sequence[str] | None, labels: np.ndarray) -> list[str]:
    wanted = int(labels.max()) + 1 if len(labels) else 0
    if classes is None:
        return [str(label) for label in range(wanted)]
    if len(classes) < wanted:
        raise ValueError(f"classes must name the {wanted} classes of the data, got {len(classes)}")
    return [str(name) for name in classes]


def _columns(
    rounds: list[Round],
    labels: np.ndarray,
    names: list[str],
    ids: Sequence[Any] | None,
    kept: np.ndarray,
    seen: Seen | None,
    groups: list[np.ndarray],
    compared: bool,
) -> dict[str, list[Any]]:
    """The table's columns in the order of the data."""
    n = len(labels)
    columns: dict[str, list[Any]] = {
        "index": list(range(n)),
        "id": list(range(n)) if ids is None else list(ids),
        "label": labels.tolist(),
        "class": [names[label] if label >= 0 else None for label in labels],
        "kept": np.isin(np.arange(n), kept).tolist(),
        **{name: [None] * n for name in ("round", *FIELDS, "loss")},
    }
    for entry in rounds:
        facts = entry.to_dict()["evidence"]
        for place, i in enumerate(entry.dropped.tolist()):
            columns["round"][i] = entry.epoch
            for name in facts:
                columns[name][i] = facts[name][place]
            if (p := columns["probability"][i]) is not None:
                columns["loss"][i] = abs(float(np.log(max(p, 1e-30))))  # 0, and not -0
    if seen is not None:
        predicted = seen.logits.argmax(dim=1).tolist()
        columns["predicted"] = [names[c] if c < len(names) else str(c) for c in predicted]
        columns["probability_now"] = seen.probabilities.tolist()
        columns["loss_now"] = [x if np.isfinite(x) else None for x in seen.losses.tolist()]
    if compared:
        columns["copies"] = [1] * n
        for group in groups:
            for i in group.tolist():
                columns["copies"][i] = len(group)
    return columns


def _ranking(columns: dict[str, list[Any]]) -> list[int]:
    """The order of the rows: dropped examples, the most suspicious first, then the others."""
    if "suspicion" in columns:
        return sorted(columns["index"], key=lambda i: (-columns["suspicion"][i], i))
    alone, losses, now = columns["neighbour_distance"], columns["loss"], columns.get("loss_now")

    def key(i: int) -> tuple[bool, float, int]:
        dropped = columns["round"][i] is not None
        if now is None:
            value = alone[i] or 0.0
        else:  # None stands for infinity, for a class that the model masks
            value = np.inf if now[i] is None else now[i]
            value -= (losses[i] or 0.0) * dropped
        return not dropped, -value, i

    return sorted(columns["index"], key=key)


def _beside(
    seen: Seen, rows: np.ndarray, kept: np.ndarray, labels: np.ndarray
) -> dict[int, dict[str, int]]:
    """For some examples the nearest kept ones, by the features of the model."""
    found: dict[int, dict[str, int]] = {int(i): {} for i in rows}
    any_class, _ = nearest(seen.features, rows, kept)
    for i, at in zip(rows.tolist(), any_class.tolist(), strict=True):
        own, _ = nearest(seen.features, np.array([i]), kept[labels[kept] == labels[i]])
        found[i] = {name: j for name, j in (("any", at), ("own", int(own[0]))) if j >= 0}
    return found
