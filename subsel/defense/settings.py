"""The settings of a training run: presets, defaults, and checks before the training starts."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subsel.defense.data import Examples
from subsel.defense.epic import EPIC
from subsel.defense.forms import shape_of
from subsel.defense.gradients import WRT
from subsel.defense.presets import PRESETS
from subsel.validation import check_choice, check_count, check_epochs

__all__ = ["check_cutmix", "check_defense", "checked_settings", "from_preset"]

CHOICES = {
    "scenario": ("scratch", "transfer", "finetune"),
    "gradients": ("fresh", "training"),
    "wrt": WRT,
}


def checked_settings(preset: str | None, given: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """All settings that decide the outcome, checked. Those that are not given come from the preset.

    All values have Python's own types, which can be read back from a checkpoint.
    """
    settings |= from_preset(preset, given)
    settings.setdefault("lr", 1e-4 if settings["scenario"] == "finetune" else 0.1)
    for name, choices in CHOICES.items():
        check_choice(settings[name], choices, name)
    settings["batch_size"] = check_count(settings["batch_size"], "batch_size", 1)
    settings["seed"] = check_count(settings["seed"], "seed", 0, 2**64 - 1)
    for name in ("lr", "drop_factor", "momentum", "weight_decay"):
        settings[name] = _number(settings[name], name, zero=name in ("momentum", "weight_decay"))
    settings["accumulate"] = check_count(settings["accumulate"], "accumulate", 1)
    amp = settings["amp"]
    if not isinstance(amp, bool) and amp not in ("bfloat16", "float16"):
        raise ValueError(f'amp must be True, False, "bfloat16" or "float16", not {amp!r}')
    settings["amp"] = ("bfloat16" if amp else None) if isinstance(amp, bool) else amp
    for name in ("nesterov", "fresh_head"):
        settings[name] = bool(settings[name])
    return settings


def from_preset(preset: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The given settings, completed by those of the preset. The schedule is checked."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    found = {"scenario": "scratch", "drops": ()} | (PRESETS[preset].training if preset else {})
    found |= {name: value for name, value in given.items() if value is not None}
    if "epochs" not in found:
        raise ValueError("epochs must be given, or a preset that says how many")
    found["epochs"] = check_count(found["epochs"], "epochs", 1)
    found["drops"] = check_epochs(found["drops"], "drops")
    return found


def check_cutmix(cutmix: bool, data: Examples) -> None:
    """Check that cutmix is True or False, and that the inputs are images if it is True."""
    if not isinstance(cutmix, bool):
        raise TypeError(f"cutmix must be True or False, got {cutmix!r}")
    if cutmix:
        _, x, _ = next(data.batches(np.arange(1)))
        if not isinstance(x, Tensor) or x.ndim != 4:
            shape = "".join(f", {size}" for size in x.shape[1:]) if isinstance(x, Tensor) else ""
            got = f"(n{shape})" if isinstance(x, Tensor) else shape_of(x)
            raise ValueError(f"cutmix needs images (n, channels, height, width), got {got}")


def check_own(given: dict[str, Any], drops: Any, lr: Any) -> dict[str, bool]:
    """Refuse settings that do nothing beside an optimizer, a schedule or a loss of the user's."""
    for name, value in given.items():
        if value is not None and not callable(value):
            wants = {"optimizer": "the parameters", "scheduler": "the optimizer"}
            raise TypeError(
                f"{name} must be a function of {wants.get(name, 'logits and labels')}, got "
                f"{type(value).__name__}"
            )
        if isinstance(value, type) and issubclass(value, nn.Module):
            raise TypeError(
                f"{name} must be a function of logits and labels, got the class: "
                f"make one, {value.__name__}()"
            )
    if given["optimizer"] is not None and lr is not None:
        raise ValueError(
            "lr cannot be combined with optimizer=, which sets its own learning rate: leave lr out"
        )
    if given["scheduler"] is not None and drops is not None:
        raise ValueError("give drops or scheduler=, not both: each decides the learning rate")
    return {f"own_{name}": value is not None for name, value in given.items()}


def check_view(data: Examples, view: Examples) -> None:
    """Refuse a clean view whose examples or order differ from those of the training data."""
    if view is data:
        return
    if len(view) != len(data):
        raise ValueError(
            f"clean_view must have the {len(data)} examples of the dataset, got {len(view)}"
        )
    some = np.unique(np.linspace(0, len(data) - 1, 8, dtype=int))
    labels = [
        torch.cat([y for _, _, y in part.batches(some, check=False)]) for part in (data, view)
    ]
    differ = some[(labels[0] != labels[1]).numpy()]
    if len(differ):
        raise ValueError(
            f"clean_view must have the examples of the dataset in the same order: the labels of "
            f"example {differ[0]} are {labels[0][some == differ[0]].item()} there and "
            f"{labels[1][some == differ[0]].item()} in the view"
        )


def check_defense(defense: EPIC, settings: dict[str, Any]) -> None:
    """Refuse an EPIC that was used before, or that cannot be combined with the settings."""
    if not isinstance(defense, EPIC):
        raise TypeError(f"defense must be an EPIC, such as EPIC(subset_size=0.2), got {defense!r}")
    if defense.history:
        raise ValueError("defense has already pruned; give a fresh EPIC, also to resume")
    if defense.readmit is not None and settings["wrt"] != "logits":
        raise ValueError(
            f'readmit needs wrt="logits", not {settings["wrt"]!r}: other gradients do not tell how '
            "likely a label is"
        )
    if settings["gradients"] == "fresh":
        return
    if defense.ground_set != "active":
        raise ValueError(
            f'gradients="training" needs ground_set="active", not {defense.ground_set!r}: '
            "dropped examples are not trained on and have no gradients; take fresh ones"
        )
    if settings["cutmix"]:
        raise ValueError(
            'cutmix needs gradients="fresh", because it trains on mixtures and not on the examples '
            "themselves"
        )


def _number(value: Any, name: str, *, zero: bool) -> float:
    """Check a finite number: above 0, or at least 0 if `zero` is true."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (value > 0 or (zero and value == 0)) or value == math.inf:
        wanted = "0 or greater, and finite" if zero else "positive and finite"
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return float(value)
