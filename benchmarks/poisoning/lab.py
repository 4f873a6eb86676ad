"""What the experiments on all targets share: images, nets, the poisons of each target."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.poisoning.attacks import ATTACKS, BACKDOORS
from benchmarks.poisoning.attacks.backdoor import gradient_norms, patch_for, patched
from benchmarks.poisoning.backbone import build, extract, frozen, load_or_train, pretrain
from benchmarks.poisoning.defenses import Trial
from benchmarks.poisoning.defenses.mixing import mixing
from benchmarks.poisoning.settings import BLOCK, Settings
from benchmarks.poisoning.training import Steps, outputs, plain
from benchmarks.poisoning.victim import (
    Block,
    FineTuning,
    FromScratch,
    Scenario,
    Transfer,
    Victim,
    Watch,
)
from subsel.defense.augment import cutmix
from subsel.defense.datasets import ImageData
from subsel.files import written_whole

AGES = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)  # of an ensemble's nets, in trainings
LATE = (0.75, 1.0)  # of the nets that are attacked where poisons act late
SURE = (0.5, 1.0)  # of those that have to be sure of a target there
SURE_MARGIN = 0.9  # and how sure on average: probability of its class, less the runner-up's
LATE_SEEDS = 3


@dataclass(frozen=True)
class Target:
    """A test image to be misclassified, and the victim's images that become poisons.

    Of a backdoor: any test image of class `label` with the patch on it; `index` is then one of
    that class.
    """

    number: int
    index: int  # among the test images; -1: of a published set, which brings its own
    label: int
    base: int  # the class it shall be taken for
    bases: np.ndarray  # positions in the victim's training set


class Lab:
    """What the experiments on all targets share: images, a net to attack, a clean victim.

    Attributes
    ----------
    images, labels
        The victim's training set, clean.
    extractor : module
        What attacks on features look at, in eval mode, from pixels in [0, 1]: the backbone, and
        where the victim trains from scratch that of `clean`.
    clean : module
        The victim trained without poisons; from scratch it is also what attacks look at.
    digest : str
        Of the net that poisons are crafted on.
    """

    def __init__(
        self, settings: Settings, data: ImageData, cache: Path, device: str = "cpu"
    ) -> None:
        n_train = len(data.train_images)
        if settings.pretrain + settings.victim > n_train:
            raise ValueError(
                f"pretrain + victim must be at most {n_train}, the training images of "
                f"{data.name}; got {settings.pretrain} + {settings.victim}"
            )
        self.settings, self.data, self.cache = settings, data, cache
        seen, self.victim = self._split(n_train)
        self.images = data.train_images[self.victim]
        self.labels = torch.from_numpy(data.train_labels[self.victim])
        self.classes = len(data.classes)
        smallest = int(torch.bincount(self.labels, minlength=self.classes).min())
        if settings.poisons > smallest:
            raise ValueError(
                f"poisons must be at most {smallest}, the victim's smallest class; "
                f"got {settings.poisons}"
            )
        self.device = torch.device(device)
        if settings.scenario == "scratch":
            self.scenario: Scenario = FromScratch(
                partial(build, settings.model, data), settings.recipe(), self.device
            )
            self.clean, self.digest = self._kept_net(self.clean_victim.train)
            self.extractor = frozen(deepcopy(self.clean[:-1]))
        else:
            backbone, self.digest = self._kept_backbone(seen)
            self.extractor = frozen(deepcopy(backbone)).to(self.device)
            width = extract(self.extractor, self.images[:1]).shape[1]
            recipe = settings.recipe()
            if settings.scenario == "block":
                front = Front(self.extractor, self.images)
                width = extract(front, self.images[:1]).shape[1]
                self.extractor = front
                self.scenario = Block(front, width, self.classes, recipe, self.device)
                self.clean, _ = self._kept_net(self.clean_victim.train)
            elif settings.scenario == "transfer":
                self.scenario = Transfer(self.extractor, width, self.classes, recipe, self.device)
                self.clean = self.clean_victim.train()
            else:
                self.scenario = FineTuning(backbone, width, self.classes, recipe, self.device)
                self.clean, _ = self._kept_net(self.clean_victim.train)
        key = json.dumps([settings.crafting(), self.digest]).encode()
        name = f"{data.name}-{settings.attack}-{hashlib.sha256(key).hexdigest()[:8]}"
        self.poison_folder = cache / name
        self.test_inputs = self.scenario.inputs(data.test_images)
        self.test_labels = torch.from_numpy(data.test_labels)
        predicted = outputs(self.clean, self.test_inputs).argmax(1)
        self.correct = (predicted == self.test_labels).numpy()
        self.clean_accuracy = float(self.correct.mean())

    def _split(self, n_train: int) -> tuple[np.ndarray, np.ndarray]:
        """The training images that the backbone sees, and the victim's."""
        first, second = self.settings.pretrain, self.settings.victim
        order = np.random.default_rng(self.settings.seed).permutation(n_train)
        own = order[first : first + second]
        return order[:first] if self.settings.needs_others else own, own

    def _kept_backbone(self, seen: np.ndarray) -> tuple[nn.Sequential, str]:
        s = self.settings
        model = "small-cnn" if s.model == BLOCK else s.model
        prefix = "" if model == "small-cnn" else f"{model}-"
        images = f"{s.pretrain}" if s.needs_others else f"own-{s.pretrain}-{s.victim}"
        name = f"{prefix}{self.data.name}-{images}x{s.backbone_epochs}-seed{s.seed}"
        return load_or_train(
            self.cache / f"backbone-{name}.pt",
            lambda: pretrain(
                self.data,
                seen,
                epochs=s.backbone_epochs,
                seed=s.seed,
                model_name=model,
                device=self.device,
            ),
            lambda: build(model, self.data)[:-1],
        )

    def _kept_net(
        self, train: Callable[[], nn.Module], suffix: str = ""
    ) -> tuple[nn.Sequential, str]:
        """A net of the victim's kind that was trained without poisons."""
        names = ("dataset", "pretrain", "pretrain_epochs", "victim", "seed", "preset", "model")
        decisive = {
            name: getattr(self.settings, name)
            for name in (*names, "epochs", "augment", "victim_lr")
        }
        recipe = self.scenario.recipe
        decisive |= {"drops": recipe.drops, "backbone": self.settings.backbone}
        if self.settings.weight_decay is not None:  # nets that were kept before it came still fit
            decisive["weight_decay"] = self.settings.weight_decay
        key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:8]
        net, digest = load_or_train(
            self.cache / f"clean-{self.data.name}-{self.settings.model}-{key}{suffix}.pt",
            train,
            lambda: self.scenario.new_model(torch.Generator()),
        )
        return net.eval().to(self.device), digest

    @cached_property
    def nets_of_ages(self) -> list[nn.Module]:
        """Clean nets as they are after a part of the training, each from its own seed."""
        return self._of_ages("", plain)

    @cached_property
    def late_nets(self) -> list[nn.Module]:
        """Clean nets of a few seeds as they are after the first drop of the learning rate."""
        return self._of_seeds(LATE)

    def _of_seeds(self, ages: tuple[float, ...]) -> list[nn.Module]:
        nets, epochs = [], self.scenario.recipe.epochs
        for seed, age in product(range(LATE_SEEDS), ages):
            young = self.clean_victim.shortened(max(1, round(age * epochs)))
            young = replace(young, seed=self.settings.seed + 1 + seed)
            nets.append(self._kept_net(young.train, f"-seed{seed}-{age}")[0])
        return nets

    @cached_property
    def mixed_nets_of_ages(self) -> list[nn.Module]:
        """The same, trained with CutMix."""
        return self._of_ages("-cutmix", mixing(cutmix))

    def _of_ages(self, suffix: str, steps: Steps) -> list[nn.Module]:
        nets, epochs = [], self.scenario.recipe.epochs
        for i, age in enumerate(AGES):
            seed = self.settings.seed + 1 + i
            young = replace(self.clean_victim.shortened(max(1, round(age * epochs))), seed=seed)
            net, _ = self._kept_net(partial(young.train, steps=steps), f"{suffix}-age{i}")
            nets.append(net)
        return nets

    @cached_property
    def clean_victim(self) -> Victim:
        return self._victim(self.images, self.settings.seed)

    def _victim(self, images: np.ndarray, seed: int, inputs: Tensor | None = None) -> Victim:
        return Victim(
            images,
            self.scenario.inputs(images) if inputs is None else inputs,
            self.labels,
            self.classes,
            seed,
            self.scenario,
            self.settings.experiment,
        )

    def target(self, number: int) -> Target:
        """The number-th target, whatever the others: the rule is fixed before any is tried.

        The first test image, in an order drawn for this number, that the cleanly trained victim
        gets right (of a block: of which clean nets of several seeds and ages are all sure); another
        class at random, or the one that clean nets would take next; bases at random in that class,
        or those whose features are nearest to the target's, or, for a backdoor, those of the
        largest gradients.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        order = rng.permutation(len(self.correct))
        index = int(order[self.eligible[order]][0])
        label = int(self.test_labels[index])
        base = int(rng.choice(np.delete(np.arange(self.classes), label)))
        if self.settings.base_class == "runner-up":
            base = int(self.likely[index].topk(2).indices[1])
        members = np.flatnonzero(self.labels.numpy() == base)
        bases = np.sort(rng.choice(members, self.settings.poisons, replace=False))
        if self.settings.bases == "nearest":
            own = extract(self.extractor, self.images[members])
            aim = extract(self.extractor, self.data.test_images[index][None])
            away = torch.cdist(own, aim)[:, 0].numpy()
            bases = np.sort(members[np.argsort(away, kind="stable")[: self.settings.poisons]])
        if self.settings.attack in BACKDOORS:
            norms = gradient_norms(self.clean, self.images[members], base)
            bases = np.sort(members[np.argsort(-norms, kind="stable")[: self.settings.poisons]])
        return Target(number, index, label, base, bases)

    @cached_property
    def eligible(self) -> np.ndarray:
        """Which test images may become targets."""
        if self.settings.scenario != BLOCK:
            return self.correct
        everywhere, rows = self._chances, torch.arange(len(self.test_labels))
        own = everywhere[:, rows, self.test_labels]
        others = everywhere.clone()
        others[:, rows, self.test_labels] = 0
        right = (everywhere.argmax(2) == self.test_labels).all(0)
        margin = (own - others.amax(2)).mean(0)
        return (right & (margin >= SURE_MARGIN)).numpy()

    @cached_property
    def likely(self) -> Tensor:
        """How likely clean nets hold each class for each test image, (n, classes)."""
        if self.settings.scenario != BLOCK:
            return outputs(self.clean, self.test_inputs).softmax(1)
        return self._chances.mean(0)

    @cached_property
    def _chances(self) -> Tensor:
        nets = self._of_seeds(SURE)
        return torch.stack([outputs(net, self.test_inputs).double().softmax(1) for net in nets])

    def aims(self, target: Target) -> np.ndarray:
        """The images that shall be taken for the base class, uint8 (m, channels, height, width)."""
        if self.settings.attack not in BACKDOORS:
            return self.data.test_images[target.index][None]
        sources = self.data.test_images[self.data.test_labels == target.label][:1000]
        rng = np.random.default_rng([self.settings.seed, target.number, 1])
        return patched(sources, patch_for(self, target), rng)

    def poisons(self, target: Target) -> np.ndarray:
        """The target's poisons, uint8 (poisons, channels, height, width), crafted only once."""
        path = self.poison_folder / f"target-{target.number:03d}.npz"
        if not self._crafted(path, target):
            poisons, losses = ATTACKS[self.settings.attack](self, target)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as part:
                np.savez_compressed(part, poisons=poisons, losses=losses, **vars(target))
        with np.load(path) as stored:
            return stored["poisons"]

    def _crafted(self, path: Path, target: Target) -> bool:
        if not path.exists():
            return False
        with np.load(path) as stored:
            return stored["index"] == target.index and np.array_equal(stored["bases"], target.bases)

    def trial(self, target: Target) -> Trial:
        """The victim poisoned for this target."""
        images, inputs = self.images.copy(), self.clean_victim.inputs.clone()
        images[target.bases] = self.poisons(target)
        inputs[target.bases] = self.scenario.inputs(images[target.bases])
        poisoned = np.zeros(len(self.labels), dtype=bool)
        poisoned[target.bases] = True
        seed = np.random.SeedSequence([self.settings.seed, target.number]).generate_state(1)
        watch = Watch(self.scenario.inputs(self.aims(target)[:1]), target.base)
        return Trial(
            replace(self._victim(images, int(seed[0]), inputs), watch=watch),
            self.settings.scenario,
            budget=len(target.bases),
            epsilon=self.settings.epsilon,
            poisoned=poisoned,
            watch=watch,
        )


class Front(nn.Sequential):
    """The convolutions of a frozen extractor; its outputs about 0, with one standard deviation.

    Parameters
    ----------
    extractor : Sequential
        That ends in a linear layer and its activation, which are left out.
    images : uint8 array
        Whose outputs have a mean of 0 each and together a standard deviation of 1.
    """

    def __init__(self, extractor: nn.Sequential, images: np.ndarray) -> None:
        super().__init__(*extractor[:-2])
        self.mean, self.scale = torch.zeros(1), torch.ones(1)
        found = extract(self, images)
        self.mean, self.scale = found.mean(0), (found - found.mean(0)).std()

    def forward(self, pixels: Tensor) -> Tensor:
        found = super().forward(pixels)
        return (found - self.mean.to(found.device)) / self.scale.to(found.device)
