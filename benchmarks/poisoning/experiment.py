"""Poison a victim, defend it, count: one record for each target and defense."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.poisoning.attacks import craft
from benchmarks.poisoning.backbone import extract, load_or_pretrain
from benchmarks.poisoning.defenses import (
    Defense,
    Dropping,
    MatchedDrop,
    OnRound,
    deep_knn,
    train_head,
)
from subsel.defense import EPIC, Round, last_layer_gradients
from subsel.defense.datasets import ImageData
from subsel.files import written_whole


def new_epic(n: int, subset_size: float, ground_set: str) -> EPIC:
    """EPIC in the transfer setting: rounds before epochs 1 to 9 (Yang et al. 2022, section 5)."""
    return EPIC(n, subset_size=subset_size, ground_set=ground_set, warmup=1, interval=1, stop=10)


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome; the defaults are those of docs/experiments.md."""

    dataset: str = "fashion-mnist"
    pretrain: int = 30_000  # images that the backbone sees
    pretrain_epochs: int = 5
    victim: int = 10_000  # other images, that the head is trained on
    poisons: int = 100
    attack: str = "bullseye-polytope"
    epsilon: int = 51  # of 255
    steps: int = 1000
    lr: float = 0.01
    watermark: float = 0.0
    subset_sizes: tuple[float, ...] = (0.1, 0.2, 0.3)
    ground_sets: tuple[str, ...] = ("active", "full")
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pretrain", "pretrain_epochs", "victim", "poisons", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.epsilon <= 255:
            raise ValueError(f"epsilon must be in 0..255; got {self.epsilon}")
        for ground_set, subset_size in product(self.ground_sets, self.subset_sizes):
            new_epic(self.victim, subset_size, ground_set)  # which objects to what it cannot do

    def crafting(self) -> dict[str, object]:
        """The settings that decide the poisons, given the backbone."""
        return {k: v for k, v in asdict(self).items() if k not in ("subset_sizes", "ground_sets")}


# A stand-in where Fashion-MNIST cannot be had: too small for EPIC to shine (80 images a class),
# and an attack that succeeds on it is easily seen.
DIGITS = Settings(
    "digits", pretrain=600, pretrain_epochs=20, victim=790, poisons=32, epsilon=128, steps=600
)


@dataclass(frozen=True)
class Target:
    """A test image to be misclassified, and the victim's images that become poisons."""

    number: int
    index: int  # among the test images
    label: int
    base: int  # the class it shall be taken for
    bases: np.ndarray  # positions in the victim's training set


class Lab:
    """What the experiments on all targets share: images, backbone, features, a clean head."""

    def __init__(self, settings: Settings, data: ImageData, cache: Path) -> None:
        n_train = len(data.train_images)
        if settings.pretrain + settings.victim > n_train:
            raise ValueError(
                f"pretrain + victim must be at most {n_train}, the training images of "
                f"{data.name}; got {settings.pretrain} + {settings.victim}"
            )
        self.settings, self.data = settings, data
        order = np.random.default_rng(settings.seed).permutation(n_train)
        seen, self.victim = np.split(
            order[: settings.pretrain + settings.victim], [settings.pretrain]
        )
        self.images = data.train_images[self.victim]
        self.labels = torch.from_numpy(data.train_labels[self.victim])
        self.classes = len(data.classes)
        smallest = int(torch.bincount(self.labels, minlength=self.classes).min())
        if settings.poisons > smallest:
            raise ValueError(
                f"poisons must be at most {smallest}, the victim's smallest class; "
                f"got {settings.poisons}"
            )
        name = f"{data.name}-{settings.pretrain}x{settings.pretrain_epochs}-seed{settings.seed}"
        self.extractor, self.digest = load_or_pretrain(
            cache / f"backbone-{name}.pt",
            data,
            seen,
            epochs=settings.pretrain_epochs,
            seed=settings.seed,
        )
        key = json.dumps([settings.crafting(), self.digest]).encode()
        name = f"{data.name}-{settings.attack}-{hashlib.sha256(key).hexdigest()[:8]}"
        self.poison_folder = cache / name
        self.features = extract(self.extractor, self.images)
        self.test_features = extract(self.extractor, data.test_images)
        self.test_labels = torch.from_numpy(data.test_labels)
        clean = train_head(self.features, self.labels, self.classes, seed=settings.seed)
        with torch.no_grad():
            predicted = clean(self.test_features).argmax(1)
        self.correct = (predicted == self.test_labels).numpy()
        self.clean_accuracy = float(self.correct.mean())

    def target(self, number: int) -> Target:
        """The number-th target, whatever the others: the rule is fixed before any is tried.

        The first test image, in an order drawn for this number, that the cleanly trained victim
        gets right; another class at random; bases at random in that class.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        order = rng.permutation(len(self.correct))
        index = int(order[self.correct[order]][0])
        label = int(self.test_labels[index])
        base = int(rng.choice(np.delete(np.arange(self.classes), label)))
        members = np.flatnonzero(self.labels.numpy() == base)
        bases = np.sort(rng.choice(members, self.settings.poisons, replace=False))
        return Target(number, index, label, base, bases)

    def poisons(self, target: Target) -> np.ndarray:
        """The target's poisons, uint8 (poisons, channels, height, width), crafted only once."""
        path = self.poison_folder / f"target-{target.number:03d}.npz"
        if not self._crafted(path, target):
            poisons, losses = craft(
                self.extractor,
                self.images[target.bases],
                self.data.test_images[target.index],
                attack=self.settings.attack,
                epsilon=self.settings.epsilon,
                steps=self.settings.steps,
                lr=self.settings.lr,
                watermark=self.settings.watermark,
            )
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


@dataclass(frozen=True)
class Victim:
    """A poisoned training set, as frozen features, and how to train on it."""

    features: Tensor  # (n, 512)
    labels: Tensor  # (n,)
    poisoned: np.ndarray  # (n,) of bool
    classes: int
    seed: int

    def head(self, defense: Defense | None = None, on_round: OnRound | None = None) -> nn.Linear:
        return train_head(
            self.features,
            self.labels,
            self.classes,
            seed=self.seed,
            defense=defense,
            on_round=on_round,
        )

    def fresh_head(self, kept: np.ndarray) -> nn.Linear:
        return replace(self, features=self.features[kept], labels=self.labels[kept]).head()

    def agreeing(self, head: nn.Linear) -> np.ndarray:
        """The examples that `head` classifies as they are labelled."""
        with torch.no_grad():
            return np.flatnonzero((head(self.features).argmax(1) == self.labels).numpy())


def poisoned_victim(lab: Lab, target: Target) -> Victim:
    features = lab.features.clone()
    features[target.bases] = extract(lab.extractor, lab.poisons(target))
    poisoned = np.zeros(len(lab.labels), dtype=bool)
    poisoned[target.bases] = True
    seed = np.random.SeedSequence([lab.settings.seed, target.number]).generate_state(1)
    return Victim(features, lab.labels, poisoned, lab.classes, int(seed[0]))


class Outcome(NamedTuple):
    """A trained head, the examples it was left with, and the rounds that dropped the others."""

    defense: str
    head: nn.Linear
    kept: np.ndarray
    rounds: Sequence[Dropping] = ()


def defend(victim: Victim, settings: Settings) -> Iterator[Outcome]:
    """Train the victim undefended, with every EPIC and its matched controls, and otherwise."""
    n = len(victim.labels)
    yield Outcome("none", victim.head(), np.arange(n))

    for ground_set, subset_size in product(settings.ground_sets, settings.subset_sizes):
        epic = new_epic(n, subset_size, ground_set)
        name = f"EPIC {subset_size} {ground_set}"
        defended = Outcome(name, victim.head(epic), epic.kept, epic.history)
        yield defended

        counts = {entry.epoch: len(entry.dropped) for entry in epic.history}
        for rule, title in (("random", "random drop"), ("loss", "highest-loss drop")):
            control = MatchedDrop(n, counts, rule=rule, seed=victim.seed)
            head = victim.head(control)
            matched = Outcome(f"{title}, as {name}", head, control.kept, control.history)
            yield matched

        if ground_set == "active":
            largest = subset_size == max(settings.subset_sizes)
            for trusted in (defended, matched):  # the latter of highest loss
                yield from restart(victim, trusted, readmit=largest)

    kept = deep_knn(victim.features, victim.labels, neighbours=2 * settings.poisons)
    yield Outcome("Deep k-NN, told the budget", victim.fresh_head(kept), kept)

    # What no defense can beat: hits that are left here are the victim's own mistakes.
    kept = np.flatnonzero(~victim.poisoned)
    yield Outcome("all poisons removed, oracle", victim.fresh_head(kept), kept)


def restart(victim: Victim, trusted: Outcome, *, readmit: bool) -> Iterator[Outcome]:
    """Not the paper's: start afresh from what a defense kept, then re-admit by agreement."""
    fresh = victim.fresh_head(trusted.kept)
    yield Outcome(f"{trusted.defense}, fresh head", fresh, trusted.kept)
    if readmit:
        kept = np.union1d(trusted.kept, victim.agreeing(fresh))
        name = f"{trusted.defense}, re-admission, fresh head"
        yield Outcome(name, victim.fresh_head(kept), kept)


def record(lab: Lab, target: Target, victim: Victim, outcome: Outcome) -> dict[str, object]:
    """One line of results.jsonl."""
    classes = lab.data.classes
    with torch.no_grad():
        logits = outcome.head(lab.test_features)
    predicted = logits.argmax(1)
    hit = int(predicted[target.index])
    return {
        "target": target.number,
        "test_index": target.index,
        "label": classes[target.label],
        "base": classes[target.base],
        "defense": outcome.defense,
        "predicted": classes[hit],
        "success": hit == target.base,
        "confidence_in_base": float(logits[target.index].softmax(0)[target.base]),
        "accuracy": float((predicted == lab.test_labels).float().mean()),
        "kept": len(outcome.kept),
        "poisons_left": int(victim.poisoned[outcome.kept].sum()),
        "rounds": [
            {
                "epoch": entry.epoch,
                "dropped": len(entry.dropped),
                "poisons_dropped": int(victim.poisoned[entry.dropped].sum()),
            }
            for entry in outcome.rounds
        ],
    }


def trace(lab: Lab, target: Target, victim: Victim, subset_size: float = 0.2) -> dict:
    """What happens in gradient space, for the plots: arrays over the victim's examples.

    The distance is that of the logit gradients to the target's, were the target labelled as the
    bases: after the warmup, after undefended training and after EPIC. The cluster sizes are those
    of EPIC's medoids in each round, 0 for what had been dropped before.
    """
    goal = lab.test_features[target.index][None]

    def gradients(head: nn.Linear) -> np.ndarray:
        return last_layer_gradients(head, (victim.features, victim.labels))[0]

    def distances(head: nn.Linear) -> np.ndarray:
        wanted, _ = last_layer_gradients(head, (goal, torch.tensor([target.base])))
        return np.linalg.norm(gradients(head) - wanted, axis=1)

    epic = new_epic(len(victim.labels), subset_size, "active")
    seen, after_warmup = [], []

    def watch(epoch: int, head: nn.Linear) -> None:
        seen.append(gradients(head))
        if len(seen) == 1:
            after_warmup.append(distances(head))

    defended = victim.head(epic, on_round=watch)
    return {
        "poisoned": victim.poisoned,
        "base": (victim.labels == target.base).numpy(),
        "kept": np.isin(np.arange(len(victim.labels)), epic.kept),
        "cluster_sizes": cluster_sizes(epic.history, seen, victim.labels.numpy()),
        "after_warmup": after_warmup[0],
        "after_undefended": distances(victim.head()),
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


def run(lab: Lab, out: Path, targets: int) -> list[dict]:
    """Attack and defend the first `targets` targets; what is in `out` already is not done again.

    Writes settings.json, results.jsonl (after each target) and traces/target-*.npz.
    """
    about = {**asdict(lab.settings), "backbone": lab.digest, "clean_accuracy": lab.clean_accuracy}
    about = json.loads(json.dumps(about))
    (out / "traces").mkdir(parents=True, exist_ok=True)
    if (out / "settings.json").exists():
        before = json.loads((out / "settings.json").read_text())
        if before != about:
            changed = [key for key in about if before.get(key) != about[key]]
            raise ValueError(
                f"{out} holds results of another {', '.join(changed)}: choose another --out"
            )
    write_text(out / "settings.json", json.dumps(about, indent=1) + "\n")
    records = read_records(out)
    done = {line["target"] for line in records}
    bar = tqdm(range(targets), desc="targets")
    for number in bar:
        if number in done:
            continue
        target = lab.target(number)
        names = f"{lab.data.classes[target.label]} -> {lab.data.classes[target.base]}"
        bar.set_postfix_str(f"{names}: crafting")
        victim = poisoned_victim(lab, target)
        for outcome in defend(victim, lab.settings):
            records.append(record(lab, target, victim, outcome))
            bar.set_postfix_str(f"{names}: {outcome.defense}")
        with written_whole(out / "traces" / f"target-{number:03d}.npz") as part:
            np.savez_compressed(part, **trace(lab, target, victim))
        write_text(out / "results.jsonl", "".join(json.dumps(line) + "\n" for line in records))
    return records


def read_records(out: Path) -> list[dict]:
    """The records of the targets done so far."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text)
