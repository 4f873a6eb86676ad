"""No defense, the best that there can be, and controls that drop as many as another defense."""

from typing import NamedTuple

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim


@defense("none")
def none(victim: Victim) -> Outcome:
    return Outcome(victim.train(), victim.everyone)


@defense("all poisons removed, oracle", told=("poisoned",))
def oracle(victim: Victim, poisoned: np.ndarray) -> Outcome:
    """What no defense can beat: hits that are left here are the victim's own mistakes."""
    kept = np.flatnonzero(~poisoned)
    return Outcome(victim.train(kept), kept)


@defense("random drop, as {reference}")
def random_drop(victim: Victim, reference: Outcome) -> Outcome:
    return matched(victim, reference, "random")


@defense("highest-loss drop, as {reference}")
def highest_loss_drop(victim: Victim, reference: Outcome) -> Outcome:
    return matched(victim, reference, "loss")


@defense("lowest-confidence drop, as {reference}")
def lowest_confidence_drop(victim: Victim, reference: Outcome) -> Outcome:
    return matched(victim, reference, "confidence")


def matched(victim: Victim, reference: Outcome, rule: str) -> Outcome:
    counts = {entry.epoch: len(entry.dropped) for entry in reference.rounds}
    control = MatchedDrop(len(victim.labels), counts, rule=rule, seed=victim.seed)
    return Outcome(victim.train(dropping=control), control.kept, control.history)


class Drop(NamedTuple):
    """A round of `MatchedDrop`."""

    epoch: int
    dropped: np.ndarray


class MatchedDrop:
    """A control that drops as many examples as another defense did, in the same rounds.

    Parameters
    ----------
    n : int
        Size of the training set.
    counts : dict of epoch to number of examples to drop
    rule : {"random", "loss", "confidence"}
        Who goes: anybody, the examples of highest loss, or those of which the model is least sure
        in what it predicts, whatever that is.
    """

    def __init__(self, n: int, counts: dict[int, int], *, rule: str, seed: int) -> None:
        self.kept = np.arange(n)
        self.history: list[Drop] = []
        self._counts, self._rule = counts, rule
        self._rng = np.random.default_rng(seed)

    def due(self, epoch: int) -> bool:
        return epoch in self._counts

    def prune(self, gradients: np.ndarray, labels: np.ndarray, epoch: int) -> None:
        gradients, labels = gradients[self.kept], labels[self.kept]
        own = np.arange(len(labels)), labels
        if self._rule == "random":
            score = self._rng.random(len(labels))
        elif self._rule == "loss":  # the entry at the label is p - 1: the lower, the higher
            score = gradients[own]
        else:
            confidences = gradients.copy()
            confidences[own] += 1
            score = confidences.max(axis=1)
        leaving = np.argsort(score, kind="stable")[: self._counts[epoch]]
        self.history.append(Drop(epoch, np.sort(self.kept[leaving])))
        self.kept = np.delete(self.kept, leaving)
