"""All that decides an experiment's outcome."""

from dataclasses import dataclass, fields
from itertools import product

from benchmarks.poisoning.attacks import ATTACKS
from benchmarks.poisoning.training import Recipe
from subsel.defense import EPIC, PRESETS
from subsel.defense.models import MODELS
from subsel.defense.presets import Preset

# Settings that came after results had been recorded. Where they are as they were then they are
# not told, so that what was kept and published goes on.
LATER = (
    *("preset", "model", "epochs", "drops", "augment", "restarts", "victim_lr", "base_class"),
    *("bases", "weight_decay"),
)

BASE_CLASSES = ("random", "runner-up")
BASES = ("random", "nearest")
BACKBONES = ("same", "other")
BLOCK = "block"  # a model that only this package has: see `victim.Block`


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome; the defaults are the paper's transfer setting, made small."""

    dataset: str = "fashion-mnist"
    pretrain: int = 30_000  # images that are the victim's never; another backbone sees them
    # Of transfer and fine-tuning: "same", as in the paper, is trained on the victim's own images
    # before they were poisoned; "other" on images that the victim does not have.
    backbone: str = "same"
    pretrain_epochs: int | None = None  # of the backbone; by default 20 on the same, 5 on others
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
    drops: tuple[int, ...] | None = None  # of the learning rate, in place of the preset's
    augment: bool = False  # not in transfer: its features are computed once
    victim_lr: float | None = None  # by default 0.1, in fine-tuning 1e-4
    weight_decay: float | None = None  # of the victim; by default 5e-4, of a block 1.5e-3
    restarts: int = 1  # of those attacks that start at random
    base_class: str = "random"  # or "runner-up": what the clean victim takes for second likeliest
    bases: str = "random"  # of the base class; or "nearest": most like the target in features

    def __post_init__(self) -> None:
        for name, choices in (
            ("preset", PRESETS),
            ("model", (*MODELS, BLOCK)),
            ("backbone", BACKBONES),
            ("attack", ATTACKS),
            ("base_class", BASE_CLASSES),
            ("bases", BASES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        for name in ("pretrain", "pretrain_epochs", "victim", "poisons", "steps", "restarts"):
            least = 0 if name == "pretrain" and not self.needs_others else 1
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1; got {self.epochs}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < 1:
            raise ValueError(f"weight_decay must be in [0, 1); got {self.weight_decay}")
        if not 0 <= self.epsilon <= 255:
            raise ValueError(f"epsilon must be in 0..255; got {self.epsilon}")
        for ground_set, subset_size in product(self.ground_sets, self.subset_sizes):
            # which objects to what it cannot do
            EPIC(subset_size=subset_size, ground_set=ground_set, warmup=0, interval=1)

    @property
    def experiment(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def scenario(self) -> str:
        """scratch, transfer, finetune or block."""
        if self.model == BLOCK:
            return BLOCK
        return self.experiment.training.get("scenario", "scratch")

    @property
    def needs_others(self) -> bool:
        """Whether a backbone is trained on images that the victim does not have."""
        return self.scenario == BLOCK or (self.scenario != "scratch" and self.backbone == "other")

    @property
    def backbone_epochs(self) -> int:
        return self.pretrain_epochs or (5 if self.needs_others else 20)

    def recipe(self) -> Recipe:
        """How the victim trains."""
        training = self.experiment.training
        epochs = self.epochs or training["epochs"]
        drops = training["drops"] if self.drops is None else self.drops
        usual = {"finetune": 1e-4, BLOCK: 0.3}.get(self.scenario, 0.1)
        decay = 1.5e-3 if self.scenario == BLOCK else 5e-4
        return Recipe(
            epochs=epochs,
            drops=tuple(round(epoch * epochs / training["epochs"]) for epoch in drops),
            lr=self.victim_lr or usual,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
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
        if self.scenario in ("transfer", "finetune"):  # there the backbone alone decides
            skipped |= {"preset", "model", "epochs", "drops", "augment", "victim_lr"}
            skipped.add("weight_decay")
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
        return [*names, "Deep k-NN, given the number of poisons", "all poisons removed, oracle"]


# A stand-in where Fashion-MNIST is not available: too small for EPIC to shine (80 images a class),
# and an attack that succeeds on it is easily seen.
DIGITS = Settings(
    "digits", pretrain=600, pretrain_epochs=20, victim=790, poisons=32, epsilon=128, steps=600
)
