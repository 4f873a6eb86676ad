"""EPIC as in the paper, and fresh starts from what it keeps, which are not the paper's."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense import EPIC, AfreshResult, train_afresh
from subsel.defense.augment import flip_and_crop


@defense("EPIC {subset_size} {ground_set}")
def epic(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    return victim.defended(victim.epic(subset_size, ground_set))


@defense("EPIC {subset_size} {ground_set}, to the first drop")
def epic_to_the_first_drop(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    """No rounds once the learning rate has dropped: what goes then is no longer forgotten."""
    usual = victim.epic(subset_size, ground_set)
    dropping = EPIC(
        len(victim.labels),
        subset_size=subset_size,
        warmup=usual.warmup,
        interval=usual.interval,
        stop=min(usual.stop, victim.scenario.recipe.drops[0]),
        ground_set=ground_set,
    )
    return victim.defended(dropping)


@defense("EPIC with re-admission")
def epic_with_readmission(victim: Victim) -> Outcome:
    """Early rounds; after the learning rate has dropped, possible labels come back."""
    return victim.defended(with_readmission(victim))


def with_readmission(victim: Victim) -> EPIC:
    recipe = victim.scenario.recipe
    return EPIC.with_readmission(recipe.epochs, recipe.drops, n=len(victim.labels))


@defense("{reference}, fresh head")
def fresh_head(victim: Victim, reference: Outcome) -> Outcome:
    """Train anew on what a defense kept."""
    return Outcome(victim.train(reference.kept), reference.kept)


@defense("{reference}, re-admission, fresh head")
def readmission(victim: Victim, reference: Outcome) -> Outcome:
    """Who is classified as labelled after a fresh start comes back."""
    trusted = victim.train(reference.kept)
    kept = np.union1d(reference.kept, victim.agreeing(trusted))
    return Outcome(victim.train(kept), kept)


@defense("fresh start {subset_size} {threshold}")
def fresh_start(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return afresh(victim, subset_size, threshold)


@defense("quick fresh start {subset_size} {threshold}")
def quick_fresh_start(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return afresh(victim, subset_size, threshold, quick=True)


@defense("fresh start {subset_size} {threshold}, two witnesses")
def fresh_start_with_witnesses(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return afresh(victim, subset_size, threshold, witnesses=2)


@defense("quick fresh start {subset_size} {threshold}, two witnesses")
def quick_with_witnesses(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return afresh(victim, subset_size, threshold, quick=True, witnesses=2)


def afresh(victim: Victim, subset_size: float, threshold: float, **options: Any) -> Outcome:
    """`subsel.defense.train_afresh`, with rounds before each epoch of the first quarter but one."""
    recipe, epochs = victim.scenario.recipe, victim.scenario.recipe.epochs
    epic = EPIC(subset_size=subset_size, warmup=1, interval=1, stop=max(2, epochs // 4))
    model = victim.scenario.new_model(torch.Generator().manual_seed(victim.seed))

    def watch(result: AfreshResult) -> None:
        last = result.history[-1]
        if victim.watch is not None and last["phase"] == "final":
            victim.watch(last["epoch"], result.model.eval())

    result = train_afresh(
        model,
        (victim.inputs, victim.labels),
        defense=epic,
        threshold=threshold,
        epochs=epochs,
        drops=recipe.drops,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch,
        augment=flipped if recipe.augment else False,
        seed=victim.seed,
        device=victim.scenario.device,
        progress=False,
        callback=watch,
        **options,
    )
    return Outcome(result.model, result.kept, epic.history)


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and crop, as `benchmarks.poisoning.training.fit` has it."""
    return flip_and_crop(images, generator, padding=max(1, images.shape[-1] // 8))
