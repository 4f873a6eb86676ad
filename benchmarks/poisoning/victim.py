"""The victim of an attack, as a defense sees it: examples, and a way to train on them.

The scenarios differ in what is trained (a head on fixed features, a trained net with a new head, a
new net, a block on fixed convolutions); a defense need not know which it is in.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.poisoning.backbone import CPU, extract
from benchmarks.poisoning.training import (
    Dropping,
    OnEpoch,
    OnRound,
    Recipe,
    Steps,
    fit,
    outputs,
    plain,
)
from subsel.defense import EPIC
from subsel.defense.presets import Preset


class Round(Protocol):
    """Who left before which epoch."""

    @property
    def epoch(self) -> int: ...
    @property
    def dropped(self) -> np.ndarray: ...


class Outcome(NamedTuple):
    """A trained model, the examples it was left with, and the rounds that dropped the others."""

    model: nn.Module
    kept: np.ndarray
    rounds: Sequence[Round] = ()


class Scenario(Protocol):
    """How a victim trains, and on which device."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def device(self) -> torch.device: ...

    def inputs(self, images: np.ndarray) -> Tensor:
        """What is trained on, for uint8 images."""
        ...

    def new_model(self, generator: torch.Generator) -> nn.Module:
        """What is trained, as it is before the first epoch; it ends in a linear layer."""
        ...

    def whole(self, model: nn.Module) -> nn.Module:
        """From pixels to logits, given the model that was trained."""
        ...


@dataclass(frozen=True)
class OnFeatures:
    """What scenarios have in common that train on the `width` features of a fixed extractor."""

    extractor: nn.Module
    width: int
    classes: int
    recipe: Recipe
    device: torch.device = CPU

    def inputs(self, images: np.ndarray) -> Tensor:
        return extract(self.extractor, images)

    def whole(self, model: nn.Module) -> nn.Sequential:
        return nn.Sequential(self.extractor, model)


@dataclass(frozen=True)
class Transfer(OnFeatures):
    """A linear head."""

    def new_model(self, generator: torch.Generator) -> nn.Linear:
        return new_head(self.width, self.classes, generator)


class OnPixels:
    """What scenarios have in common that train a whole net."""

    def inputs(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images)

    def whole(self, model: nn.Module) -> nn.Module:
        return model


@dataclass(frozen=True)
class FineTuning(OnPixels):
    """The whole of a trained net, with a new head."""

    extractor: nn.Sequential
    width: int
    classes: int
    recipe: Recipe
    device: torch.device = CPU

    def new_model(self, generator: torch.Generator) -> nn.Sequential:
        head = new_head(self.width, self.classes, generator)
        return nn.Sequential(*deepcopy(self.extractor), head)


@dataclass(frozen=True)
class FromScratch(OnPixels):
    """A new net; `build` makes it from torch's global random state."""

    build: Callable[[], nn.Sequential]
    recipe: Recipe
    device: torch.device = CPU

    def new_model(self, generator: torch.Generator) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return self.build()


@dataclass(frozen=True)
class Block(OnFeatures):
    """A block of two fully connected layers; the extractor is fixed convolutions.

    Trained at a high learning rate and with strong weight decay, it fits what is rare only after
    the learning rate has dropped.  So poisons act late here, and a training takes seconds.
    """

    def new_model(self, generator: torch.Generator) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            return nn.Sequential(
                nn.Linear(self.width, 128),
                nn.BatchNorm1d(128),
                nn.ReLU(),
                nn.Linear(128, self.classes),
            )


class Watch:
    """Takes down in which epochs of a training the target is given the base class.

    Attributes
    ----------
    epochs : list of int
        Of the last training, ascending: those after which the target is taken for the base class.
    """

    def __init__(self, aim: Tensor, base: int) -> None:
        self.epochs: list[int] = []
        self._aim, self._base, self._trained = aim, base, 0

    def __call__(self, epoch: int, model: nn.Module) -> None:
        if epoch == 0:
            self.epochs = []
        self._trained = epoch + 1
        if int(outputs(model, self._aim)[0].argmax()) == self._base:
            self.epochs.append(epoch)

    @property
    def settled(self) -> int | None:
        """The epoch from which the target is the base class to the end; None where it is not."""
        first, seen = self._trained, set(self.epochs)
        while first - 1 in seen:
            first -= 1
        return None if first == self._trained else first


def new_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, initialized as torch does it, but from `generator`."""
    head = nn.utils.skip_init(nn.Linear, width, classes)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=generator)
    return head


@dataclass(frozen=True)
class Victim:
    """A poisoned training set and how to train on it: all that a defense gets to see.

    Attributes
    ----------
    images : uint8 array (n, channels, height, width)
    inputs : Tensor (n, ...)
        What is trained on: the images, or in transfer their features.
    labels : Tensor (n,)
    classes : int
    seed : int
        Of the training; a defense that draws uses it too.
    scenario : Scenario
    preset : Preset
        The experiment of the paper or of its code that this one follows, for EPIC's schedule.
    watch : callable, optional
        Called with epoch and model after each epoch of each training.
    """

    images: np.ndarray
    inputs: Tensor
    labels: Tensor
    classes: int
    seed: int
    scenario: Scenario
    preset: Preset
    watch: OnEpoch | None = None

    @property
    def everyone(self) -> np.ndarray:
        return np.arange(len(self.labels))

    def train(
        self,
        kept: np.ndarray | None = None,
        *,
        dropping: Dropping | None = None,
        steps: Steps = plain,
        convert: Callable[[nn.Module], nn.Module] = lambda model: model,
        on_round: OnRound | None = None,
    ) -> nn.Module:
        """A new model trained on the examples in `kept`, by default on all.

        `dropping`, `steps` and `on_round` are those of `benchmarks.poisoning.training.fit`;
        `convert` may change the model before it is trained.
        """
        generator = torch.Generator().manual_seed(self.seed)
        model = convert(self.scenario.new_model(generator)).to(self.scenario.device)
        rows = slice(None) if kept is None else torch.from_numpy(kept)
        return fit(
            model,
            self.inputs[rows],
            self.labels[rows],
            self.scenario.recipe,
            generator,
            dropping=dropping,
            steps=steps,
            on_round=on_round,
            on_epoch=self.watch,
        )

    def defended(self, dropping: EPIC, **options: Any) -> Outcome:
        """A model trained while EPIC drops, with the other arguments of `train`."""
        model = self.train(dropping=dropping, **options)
        return Outcome(model, dropping.kept, dropping.history)

    def with_images(self, images: np.ndarray) -> "Victim":
        """The same victim with its images replaced, say by preprocessed ones."""
        return replace(self, images=images, inputs=self.scenario.inputs(images))

    def only(self, rows: np.ndarray) -> "Victim":
        """The same victim with some of its examples."""
        parts = self.images[rows], self.inputs[rows], self.labels[rows]
        return replace(self, images=parts[0], inputs=parts[1], labels=parts[2])

    def shortened(self, epochs: int) -> "Victim":
        """The same victim, trained for so many epochs only."""
        return self._following(replace(self.scenario.recipe, epochs=epochs))

    def paced(self, share: float) -> "Victim":
        """The same victim with the whole schedule in a share of the epochs."""
        recipe = self.scenario.recipe
        epochs, *drops = (max(1, round(share * e)) for e in (recipe.epochs, *recipe.drops))
        return self._following(replace(recipe, epochs=epochs, drops=tuple(drops)))

    def _following(self, recipe: Recipe) -> "Victim":
        return replace(self, scenario=replace(self.scenario, recipe=recipe))

    def features(self) -> Tensor:
        """Penultimate features: in transfer the fixed ones, else those of an undefended net.

        Outside of transfer this costs the training of that net.
        """
        return self.inputs if self.inputs.ndim == 2 else outputs(self.train()[:-1], self.inputs)

    def agreeing(self, model: nn.Module) -> np.ndarray:
        """The examples that `model` classifies as they are labelled."""
        return np.flatnonzero((outputs(model, self.inputs).argmax(1) == self.labels).numpy())

    def epic(self, subset_size: float, ground_set: str) -> EPIC:
        """EPIC with the preset's schedule, stretched to this victim's epochs.

        Where the warmup goes with the size, and there is none for this one, the nearest size's.
        """
        warmups = self.preset.warmup
        if isinstance(warmups, int):
            usual = self.preset.epic()
        else:
            usual = self.preset.epic(min(warmups, key=lambda size: abs(size - subset_size)))
        return EPIC(
            len(self.labels),
            subset_size=subset_size,
            ground_set=ground_set,
            **stretched(usual, self.scenario.recipe.epochs / self.preset.training["epochs"]),
        )


def stretched(epic: EPIC, factor: float) -> dict[str, int]:
    """Warmup, interval and stop of `epic` for `factor` times as many epochs."""
    warmup, interval = (max(1, round(factor * x)) for x in (epic.warmup, epic.interval))
    return {
        "warmup": warmup,
        "interval": interval,
        "stop": max(warmup + 1, round(factor * epic.stop)),
    }
