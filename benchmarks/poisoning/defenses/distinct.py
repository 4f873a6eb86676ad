"""Near-duplicates leave first, so that poisons in copies stand alone after all."""

from collections.abc import Callable

from benchmarks.poisoning.defenses.epic import epic, fresh_start
from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim
from subsel.defense.duplicates import distinct


@defense("EPIC {subset_size} {ground_set} on distinct images")
def epic_on_distinct(victim: Victim, subset_size: float, ground_set: str) -> Outcome:
    return on_distinct(victim, lambda part: epic(part, subset_size, ground_set))


@defense("fresh start {subset_size} {threshold} on distinct images")
def fresh_start_on_distinct(victim: Victim, subset_size: float, threshold: float) -> Outcome:
    return on_distinct(victim, lambda part: fresh_start(part, subset_size, threshold))


def on_distinct(victim: Victim, run: Callable[[Victim], Outcome]) -> Outcome:
    rows = distinct(victim.images, victim.labels.numpy())
    outcome = run(victim.only(rows))
    return Outcome(outcome.model, rows[outcome.kept])
