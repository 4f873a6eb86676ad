"""Warnings about a defense that does little or nothing.

Nothing here changes a training. In the code that calls it, a defense that is never due, or that
sees ten examples of a class, looks like any other; only a warning can tell them apart.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    from subsel.defense.epic import EPIC

__all__ = [
    "SMALL_CLASS",
    "DefenseWarning",
    "notice_core",
    "notice_late_rounds",
    "notice_loader",
    "notice_outputs",
    "notice_preset",
    "notice_round",
    "notice_schedule",
    "notice_small_classes",
    "schedule_line",
    "warnings_in_a_line",
]

SMALL_CLASS = 50  # examples; the experiments had a thousand of a class, and with 80 EPIC did little


class DefenseWarning(UserWarning):
    """The defense does nothing, almost nothing, or more than it should."""


def notice_schedule(epic: "EPIC", epochs: int) -> None:
    """Warn if fewer than two rounds take place in a training, or nothing can come back in it.

    Parameters
    ----------
    epic : EPIC
    epochs : int
        The epochs of the training.
    """
    rounds = epic.schedule(epochs)
    if epic.readmit is not None and epic.readmit >= epochs:
        _warn(
            f"nothing that EPIC drops comes back: readmit={epic.readmit} is after the last of "
            f"{_epochs(epochs)}; choose a smaller one",
            stacklevel=5,
        )
    if not rounds:
        _warn(
            f"this training is not defended: no round of EPIC is due in its {_epochs(epochs)}, the "
            f"first would come before epoch {epic.warmup} (epochs count from 0); choose a smaller "
            "warmup",
            stacklevel=5,
        )
    elif len(rounds) == 1:
        _warn(
            f"only one round of EPIC is due in {_epochs(epochs)}, before epoch {rounds[0]}; the "
            "method drops a few examples in each of many rounds: choose a smaller warmup or "
            "interval",
            stacklevel=5,
        )


def notice_late_rounds(rounds: Sequence[int], drops: Sequence[int], epochs: int) -> None:
    """Warn if the first round comes after the first drop of the learning rate, or just before it.

    A model forgets dropped poisons while the rate is high (docs/research/from-scratch.md), so an
    eighth of the epochs at the first rate should follow the first round.

    Parameters
    ----------
    rounds : sequence of int
        As `EPIC.schedule` returns it.
    drops : sequence of int
        Epochs before which the learning rate drops.
    epochs : int
    """
    first_drop = min((drop for drop in drops if drop < epochs), default=None)
    if not rounds or first_drop is None:
        return
    wanted, left = max(1, epochs // 8), first_drop - rounds[0]
    if left < wanted:
        when = (
            "after the learning rate's first drop"
            if left <= 0
            else f"{_epochs(left)} before the learning rate's first drop"
        )
        _warn(
            f"EPIC's first round comes before epoch {rounds[0]}, {when} (epoch {first_drop}): a "
            "model hardly forgets what it has learned from poisons by then; choose a warmup of at "
            f"most {max(0, first_drop - wanted)}, or a later drop",
            stacklevel=5,
        )


def notice_preset(preset: str) -> None:
    """Warn if the schedule of a preset is used without the preset's defense."""
    _warn(
        f"this training is not defended: preset={preset!r} gives epochs, scenario and drops, and "
        f"no defense; add defense=PRESETS[{preset!r}].epic(), or, if an undefended training is "
        f"wanted, write **PRESETS[{preset!r}].training in place of the preset",
        stacklevel=5,
    )


def notice_core(core: int, n: int) -> None:
    """Warn if the core of a fresh start is all of the data."""
    if core == n:
        _warn(
            f"EPIC dropped nothing: the core is all {n} examples, poisons included, and a fresh "
            "start from it defends against nothing; let EPIC prune harder or more often"
        )


def notice_outputs(outputs: int, labels: np.ndarray) -> None:
    """Warn if a model has far more outputs than there are classes in the data."""
    classes = len(np.unique(labels))
    if outputs >= 2 * classes + 8:
        _warn(
            f"the model has {outputs} outputs and the data {classes} "
            f"{'class' if classes == 1 else 'classes'}: gradients of outputs that no example has "
            "as its label say little; give the model a head for the data's classes"
        )


def notice_small_classes(sizes: Mapping[int, int]) -> None:
    """Warn about classes with so few examples that hardly any can stand alone."""
    small = {label: size for label, size in sizes.items() if size < SMALL_CLASS}
    if small:
        _warn(
            f"{len(small)} of {len(sizes)} classes have fewer than {SMALL_CLASS} examples "
            f"({_listed(small)}): among so few hardly anything can be said to stand alone"
        )


def notice_round(epoch: int, before: Mapping[int, int], after: Mapping[int, int]) -> None:
    """Warn if a round dropped nothing, or more than half of a class.

    Parameters
    ----------
    epoch : int
        The epoch before which the round took place.
    before, after : dict of int to int
        The number of examples of each class.
    """
    lost = {label: size - after.get(label, 0) for label, size in before.items()}
    if not any(lost.values()):
        _warn(f"EPIC's round before epoch {epoch} dropped nothing")
    most = {label: n for label, n in lost.items() if 2 * n > before[label]}
    if most:
        _warn(
            f"EPIC's round before epoch {epoch} dropped more than half of "
            f"{len(most)} of {len(before)} classes ({_listed(most)}): gradients that are nearly "
            "all alone, as of a model that has learned nothing yet, say nothing about poisons; a "
            "smaller subset_size or a longer warmup drops less"
        )


def notice_loader(given: int, kept: int) -> None:
    """Warn if a training loader yields more examples than EPIC keeps."""
    _warn(
        f"EPIC keeps {kept} examples, and the training loader gives {given}: what was dropped is "
        "still trained on; give the loader sampler=KeptSampler(epic)"
    )


@contextmanager
def warnings_in_a_line(program: str) -> Iterator[None]:
    """Context in which warnings about the defense are printed without file, line and category."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DefenseWarning)
        as_before = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DefenseWarning):
                tqdm.write(f"{program}: warning: {message}", file=sys.stderr)
            else:
                as_before(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def schedule_line(rounds: Sequence[int], epochs: int, readmit: int | None = None) -> str:
    """One line that says when EPIC's rounds take place, and when examples come back."""
    if not rounds:
        return f"EPIC: no round in {_epochs(epochs)}"
    some = [str(epoch) for epoch in rounds]
    if len(some) > 6:
        some = [*some[:3], "...", some[-1]]
    count = "1 round, before epoch" if len(rounds) == 1 else f"{len(rounds)} rounds, before epochs"
    back = "" if readmit is None else f", re-admission before epoch {readmit}"
    return f"EPIC: {count} {', '.join(some)} of {epochs}{back} (epochs count from 0)"


def _epochs(count: int) -> str:
    return f"{count} epoch" + ("s" if count != 1 else "")


def _listed(classes: Mapping[int, int]) -> str:
    some = [f"class {label}: {n}" for label, n in list(classes.items())[:5]]
    return ", ".join(some) + (", ..." if len(classes) > 5 else "")


def _warn(text: str, stacklevel: int = 4) -> None:
    warnings.warn(text, DefenseWarning, stacklevel=stacklevel)
