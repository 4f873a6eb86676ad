"""Poison a victim, defend it, count: one record for each target and defense."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.poisoning.attacks import ATTACKS, BACKDOORS
from benchmarks.poisoning.attacks.backdoor import gradient_norms, patch_for, patched
from benchmarks.poisoning.backbone import build, extract, frozen, load_or_train, pretrain
from benchmarks.poisoning.defenses import Trial, find
from benchmarks.poisoning.defenses.mixing import mixing
from benchmarks.poisoning.training import Recipe, Steps, outputs, plain
from benchmarks.poisoning.victim import (
    FineTuning,
    FromScratch,
    Outcome,
    Scenario,
    Transfer,
    Victim,
)
from subsel.defense import EPIC, PRESETS, Round, last_layer_gradients
from subsel.defense.augment import cutmix
from subsel.defense.datasets import ImageData
from subsel.defense.presets import Preset
from subsel.defense.train import MODELS
from subsel.files import written_whole

# Settings that came after results had been recorded. Where they are as they were then they are
# not told, so that what was kept and published goes on.
LATER = ("preset", "model", "epochs", "augment", "restarts", "victim_lr", "base_class")

BASE_CLASSES = ("random", "runner-up")
AGES = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)  # of an ensemble's nets, in trainings


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome; the defaults are those of docs/experiments.md."""

    dataset: str = "fashion-mnist"
    pretrain: int = 30_000  # images that the backbone sees
    pretrain_epochs: int = 5
    victim: int = 10_000  # other images, that the victim is trained on
    poisons: int = 100
    attack: str = "bullseye-polytope"
    epsilon: int = 51  # of 255
    steps: int = 1000
    lr: float = 0.01
    watermark: float = 0.0
    subset_sizes: tuple[float, ...] = (0.1, 0.2, 0.3)
    ground_sets: tuple[str, ...] = ("active", "full")
    seed: int = 0
    preset: str = "paper-transfer"  # the scenario, how it trains, and EPIC's schedule
    model: str = "small-cnn"
    epochs: int | None = None  # by default the preset's; else all of its schedules are stretched
    augment: bool = False  # not in transfer: its features are computed once
    victim_lr: float | None = None  # by default 0.1, in fine-tuning 1e-4
    restarts: int = 1  # of those attacks that start at random
    base_class: str = "random"  # or "runner-up": what the clean victim takes for second likeliest

    def __post_init__(self) -> None:
        for name, choices in (
            ("preset", PRESETS),
            ("model", MODELS),
            ("attack", ATTACKS),
            ("base_class", BASE_CLASSES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        for name in ("pretrain", "pretrain_epochs", "victim", "poisons", "steps", "restarts"):
            least = 0 if name == "pretrain" and self.scenario == "scratch" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1; got {self.epochs}")
        if not 0 <= self.epsilon <= 255:
            raise ValueError(f"epsilon must be in 0..255; got {self.epsilon}")
        for ground_set, subset_size in product(self.ground_sets, self.subset_sizes):
            # which objects to what it cannot do
            EPIC(subset_size=subset_size, ground_set=ground_set, warmup=0, interval=1)

    @property
    def published(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def scenario(self) -> str:
        """scratch, transfer or finetune."""
        return self.published.training.get("scenario", "scratch")

    def recipe(self) -> Recipe:
        """How the victim trains."""
        training = self.published.training
        epochs = self.epochs or training["epochs"]
        return Recipe(
            epochs=epochs,
            drops=tuple(round(epoch * epochs / training["epochs"]) for epoch in training["drops"]),
            lr=self.victim_lr or (1e-4 if self.scenario == "finetune" else 0.1),
            augment=self.augment and self.scenario != "transfer",
        )

    def told(self) -> dict[str, object]:
        """All settings, but of the later ones those that are not as they were."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in LATER or getattr(self, field.name) != field.default
        }

    def crafting(self) -> dict[str, object]:
        """The settings that decide the poisons, given the net that they are crafted on."""
        skipped = {"subset_sizes", "ground_sets"}
        if self.scenario != "scratch":  # there the backbone alone decides
            skipped |= {"preset", "epochs", "augment", "model", "victim_lr"}
        return {key: value for key, value in self.told().items() if key not in skipped}

    def defenses(self) -> list[str]:
        """Every EPIC with its controls, what is made of some of them, and a baseline."""
        names = ["none"]
        for ground_set, subset_size in product(self.ground_sets, self.subset_sizes):
            epic = f"EPIC {subset_size} {ground_set}"
            highest = f"highest-loss drop, as {epic}"
            names += [epic, f"random drop, as {epic}", highest]
            if ground_set == "active":
                for trusted in (epic, highest):
                    names.append(f"{trusted}, fresh head")
                    if subset_size == max(self.subset_sizes):
                        names.append(f"{trusted}, re-admission, fresh head")
        return [*names, "Deep k-NN, told the budget", "all poisons removed, oracle"]


# A stand-in where Fashion-MNIST cannot be had: too small for EPIC to shine (80 images a class),
# and an attack that succeeds on it is easily seen.
DIGITS = Settings(
    "digits", pretrain=600, pretrain_epochs=20, victim=790, poisons=32, epsilon=128, steps=600
)


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
            if settings.scenario == "transfer":
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
        return order[:first], order[first : first + second]

    def _kept_backbone(self, seen: np.ndarray) -> tuple[nn.Sequential, str]:
        s = self.settings
        other = "" if s.model == "small-cnn" else f"{s.model}-"
        name = f"{other}{self.data.name}-{s.pretrain}x{s.pretrain_epochs}-seed{s.seed}"
        return load_or_train(
            self.cache / f"backbone-{name}.pt",
            lambda: pretrain(
                self.data,
                seen,
                epochs=s.pretrain_epochs,
                seed=s.seed,
                model_name=s.model,
                device=self.device,
            ),
            lambda: build(s.model, self.data)[:-1],
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
            self.settings.published,
        )

    def target(self, number: int) -> Target:
        """The number-th target, whatever the others: the rule is fixed before any is tried.

        The first test image, in an order drawn for this number, that the cleanly trained victim
        gets right; another class at random, or the one that this victim would take next; bases at
        random in that class, or, for a backdoor, those of the largest gradients.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        order = rng.permutation(len(self.correct))
        index = int(order[self.correct[order]][0])
        label = int(self.test_labels[index])
        base = int(rng.choice(np.delete(np.arange(self.classes), label)))
        if self.settings.base_class == "runner-up":
            base = int(outputs(self.clean, self.test_inputs[index][None])[0].topk(2).indices[1])
        members = np.flatnonzero(self.labels.numpy() == base)
        bases = np.sort(rng.choice(members, self.settings.poisons, replace=False))
        if self.settings.attack in BACKDOORS:
            norms = gradient_norms(self.clean, self.images[members], base)
            bases = np.sort(members[np.argsort(-norms, kind="stable")[: self.settings.poisons]])
        return Target(number, index, label, base, bases)

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
        return Trial(
            self._victim(images, int(seed[0]), inputs),
            self.settings.scenario,
            budget=len(target.bases),
            epsilon=self.settings.epsilon,
            poisoned=poisoned,
        )


def record(
    lab: Lab, target: Target, poisoned: np.ndarray, defense: str, outcome: Outcome
) -> dict[str, object]:
    """One line of results.jsonl; of a backdoor `success` is the share of patched images."""
    classes = lab.data.classes
    logits = outputs(outcome.model, lab.test_inputs)
    predicted = logits.argmax(1)
    backdoor = lab.settings.attack in BACKDOORS
    if backdoor or target.index < 0:
        aimed = outputs(outcome.model, lab.scenario.inputs(lab.aims(target)))
    else:
        aimed = logits[target.index][None]
    hits = aimed.argmax(1)
    successes = (hits == target.base).tolist()
    confidence = torch.stack([row.softmax(0)[target.base] for row in aimed]).mean()
    return {
        "target": target.number,
        "test_index": target.index,
        "label": classes[target.label],
        "base": classes[target.base],
        "defense": defense,
        "predicted": classes[int(hits.mode().values)],
        "success": float(np.mean(successes)) if backdoor else successes[0],
        "confidence_in_base": float(confidence),
        "accuracy": float((predicted == lab.test_labels).float().mean()),
        "kept": len(outcome.kept),
        "poisons_left": int(poisoned[outcome.kept].sum()),
        "rounds": [
            {
                "epoch": entry.epoch,
                "dropped": len(entry.dropped),
                "poisons_dropped": int(poisoned[entry.dropped].sum()),
            }
            for entry in outcome.rounds
        ],
    }


def trace(lab: Lab, target: Target, trial: Trial, subset_size: float = 0.2) -> dict:
    """What happens in gradient space, for the plots: arrays over the victim's examples.

    The distance is that of the logit gradients to the target's, were the target labelled as the
    bases: after the warmup, after undefended training and after EPIC. The cluster sizes are those
    of EPIC's medoids in each round, 0 for what had been dropped before.
    """
    victim = trial.victim
    goal = lab.test_inputs[target.index][None]

    def gradients(model: nn.Module) -> np.ndarray:
        return last_layer_gradients(model, (victim.inputs, victim.labels))[0]

    def distances(model: nn.Module) -> np.ndarray:
        wanted, _ = last_layer_gradients(model, (goal, torch.tensor([target.base])))
        return np.linalg.norm(gradients(model) - wanted, axis=1)

    epic = victim.epic(subset_size, "active")
    seen, after_warmup = [], []

    def watch(epoch: int, model: nn.Module) -> None:
        seen.append(gradients(model))
        if len(seen) == 1:
            after_warmup.append(distances(model))

    defended = victim.train(dropping=epic, on_round=watch)
    return {
        "poisoned": trial.poisoned,
        "base": (victim.labels == target.base).numpy(),
        "kept": np.isin(victim.everyone, epic.kept),
        "cluster_sizes": cluster_sizes(epic.history, seen, victim.labels.numpy()),
        "after_warmup": after_warmup[0],
        "after_undefended": distances(trial.outcome("none").model),
        "after_epic": distances(defended),
    }


def cluster_sizes(
    rounds: Sequence[Round], gradients: Sequence[np.ndarray], labels: np.ndarray
) -> np.ndarray:
    """Size of each example's cluster in each round (rounds, n), 0 for what was dropped before."""
    sizes = np.zeros((len(rounds), len(labels)), np.uint16)
    kept = np.arange(len(labels))
    for row, entry, gradient in zip(sizes, rounds, gradients, strict=True):
        for label in np.unique(labels[entry.medoids]):
            members = kept[labels[kept] == label]
            medoids = entry.medoids[labels[entry.medoids] == label]
            nearest = cdist(gradient[members], gradient[medoids]).argmin(1)
            row[members] = np.bincount(nearest)[nearest]
        kept = np.setdiff1d(kept, entry.dropped)
    return sizes


def run(
    lab: Lab, out: Path, targets: Iterable[int], defenses: Sequence[str], *, traces: bool = False
) -> list[dict]:
    """Attack and defend these targets; what is in `out` already is not done again.

    Writes settings.json and, after each defense, results.jsonl, and times.jsonl with the seconds
    that training with each defense took, those of its reference included; with `traces` also
    traces/target-*.npz.
    """
    for name in defenses:
        find(name, lab.settings.scenario)  # objects before any long work
    claim(lab, out)
    records, times = read_records(out), read_records(out, "times.jsonl")
    done = {(line["target"], line["defense"]) for line in records}
    bar = tqdm(targets, desc="targets")
    for number in bar:
        path = out / "traces" / f"target-{number:03d}.npz"
        wanted = [name for name in dict.fromkeys(defenses) if (number, name) not in done]
        if not wanted and (path.exists() or not traces):
            continue
        target = lab.target(number)
        names = f"{lab.data.classes[target.label]} -> {lab.data.classes[target.base]}"
        bar.set_postfix_str(f"{names}: crafting")
        trial = lab.trial(target)
        for name in wanted:
            bar.set_postfix_str(f"{names}: {name}")
            records.append(record(lab, target, trial.poisoned, name, trial.outcome(name)))
            times.append({"target": number, "defense": name, "seconds": trial.seconds[name]})
            write_records(out / "times.jsonl", times)
            write_records(out / "results.jsonl", records)
        if traces and not path.exists():
            path.parent.mkdir(exist_ok=True)
            with written_whole(path) as part:
                np.savez_compressed(part, **trace(lab, target, trial))
    return records


def claim(lab: Lab, out: Path) -> None:
    """Write the settings into `out`, or see that it holds results of the same."""
    settings = lab.settings.told()
    about = {**settings, "backbone": lab.digest, "clean_accuracy": lab.clean_accuracy}
    about = json.loads(json.dumps(about))
    out.mkdir(parents=True, exist_ok=True)
    if (out / "settings.json").exists():
        before = json.loads((out / "settings.json").read_text())
        if before != about:
            changed = [k for k in {**before, **about} if before.get(k) != about.get(k)]
            raise ValueError(
                f"{out} holds results of another {', '.join(changed)}: choose another --out"
            )
    write_text(out / "settings.json", json.dumps(about, indent=1) + "\n")


def read_records(out: Path, name: str = "results.jsonl") -> list[dict]:
    """The records of what has been done so far."""
    path = out / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_records(path: Path, records: Iterable[dict]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in records))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text)
