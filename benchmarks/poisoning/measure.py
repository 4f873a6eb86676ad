"""What the figures show: which poisons carry an attack, who is dropped, how gradients move."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.poisoning.defenses import Trial
from benchmarks.poisoning.lab import Lab, Target
from benchmarks.poisoning.traces import cluster_sizes
from benchmarks.poisoning.training import outputs
from subsel.defense import EPIC, last_layer_gradients
from subsel.files import written_whole

CURVES = tuple(
    name
    for size in (0.1, 0.2, 0.3)
    for epic in (f"EPIC {size} active",)
    for name in (epic, f"highest-loss drop, as {epic}", f"lowest-confidence drop, as {epic}")
)
DRAWS = 5  # random subsets that the kept examples' gradient is compared with
SHOWN = 300  # clean examples of a class in the embedding

Arrays = dict[str, np.ndarray]


def measured(path: Path, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays kept at `path`, computed if they are not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            np.savez_compressed(part, **compute())
    with np.load(path) as stored:
        return dict(stored)


def effective(lab: Lab, target: Target, trial: Trial, trainings: int) -> Arrays:
    """The smallest subset of the poisons that was found to carry the attack, and where all lie.

    The victim is trained with some poisons in place and the others' clean bases; a subset carries
    the attack if the target still is given the base class (of a backdoor: half of the images).

    Returns
    -------
    effective : bool (m,)
        All false if the attack does not succeed with all of them.
    distance : (m,)
        In the last-layer gradient space of the clean model, to the target labelled as the bases.
    poisons (m, 2), base (<= 300, 2), target (<= 300, 2)
        First two principal components of the clean model's features.
    trainings : int
    """
    victim, used = trial.victim, 0

    def carries(some: np.ndarray) -> bool:
        nonlocal used
        used += 1
        inputs = lab.clean_victim.inputs.clone()
        inputs[target.bases[some]] = victim.inputs[target.bases[some]]
        return hit_share(lab, target, replace(victim, inputs=inputs).train()) > 0.5

    gradients, goal = around(lab, target, lab.clean, trial)
    distance = np.linalg.norm(gradients[target.bases] - goal, axis=1)
    chosen = smallest_subset(np.argsort(distance, kind="stable"), carries, trainings)
    features = victim.inputs if victim.inputs.ndim == 2 else outputs(lab.clean[:-1], victim.inputs)
    labels = victim.labels.numpy()
    clean = ~trial.poisoned
    groups = {
        "poisons": target.bases,
        "base": np.flatnonzero(clean & (labels == target.base))[:SHOWN],
        "target": np.flatnonzero(clean & (labels == target.label))[:SHOWN],
    }
    shown = features[np.concatenate(list(groups.values()))].double()
    centre = shown.mean(0)
    plane = torch.linalg.svd(shown - centre, full_matrices=False).Vh[:2].T
    return {
        "effective": np.isin(np.arange(len(target.bases)), chosen),
        "distance": distance,
        "trainings": np.array(used),
        **{key: ((features[rows] - centre) @ plane).numpy() for key, rows in groups.items()},
    }


def smallest_subset(
    order: np.ndarray, carries: Callable[[np.ndarray], bool], budget: int
) -> np.ndarray:
    """A small subset of `order` that `carries`, found in at most `budget` trials.

    By bisection the shortest beginning of `order` that does, then by leaving out blocks of it, ever
    smaller ones, wherever what remains still does. Whether a subset does need not be monotonic, so
    a smaller one may exist; none that lacks a single element, if the budget lasts.
    """
    spent = 1
    if not carries(order):
        return order[:0]
    low, high = 0, len(order)  # the first `high` carry, the first `low` were seen not to
    while high - low > 1 and spent < budget:
        middle = (low + high) // 2
        spent += 1
        if carries(order[:middle]):
            high = middle
        else:
            low = middle
    chosen, size = order[:high], max(1, high // 2)
    while len(chosen) > 1:
        before, start = len(chosen), 0
        while start < len(chosen) and spent < budget:
            rest = np.delete(chosen, slice(start, start + size))
            spent += 1
            if len(rest) and carries(rest):
                chosen = rest
            else:
                start += size
        if spent >= budget or (size == 1 and len(chosen) == before):
            break
        size = max(1, size // 2)
    return chosen


def hit_share(lab: Lab, target: Target, model: nn.Module) -> float:
    """The share of the attacked images that the model takes for the base class."""
    predicted = outputs(model, lab.scenario.inputs(lab.aims(target))).argmax(1)
    return float((predicted == target.base).float().mean())


def around(
    lab: Lab, target: Target, model: nn.Module, trial: Trial
) -> tuple[np.ndarray, np.ndarray]:
    """Logit gradients of all examples (n, C), and the mean of the targets', were they poisoned."""
    gradients, _ = last_layer_gradients(model, (trial.victim.inputs, trial.victim.labels))
    aims = lab.scenario.inputs(lab.aims(target))
    wanted, _ = last_layer_gradients(model, (aims, torch.full((len(aims),), target.base)))
    return gradients, wanted.mean(0)


def dropped(trial: Trial, target: Target, effective: np.ndarray) -> Arrays:
    """For each of `CURVES`, cumulated shares (2, rounds + 1): of all and of effective poisons."""
    positions = target.bases[effective]
    curves = {}
    for number, name in enumerate(CURVES):
        counts = [(0, 0)] + [
            (len(entry.dropped), np.isin(entry.dropped, positions).sum())
            for entry in trial.outcome(name).rounds
        ]
        totals = [len(trial.poisoned), max(1, len(positions))]
        curves[f"curve-{number}"] = (np.cumsum(counts, axis=0) / totals).T
    return curves


class Watch:
    """Passes an EPIC's rounds on, and asks for all examples' gradients before every epoch."""

    ground_set = "full"

    def __init__(self, epic: EPIC, see: Callable[[int, np.ndarray, bool], None]) -> None:
        self.epic, self._see = epic, see

    @property
    def kept(self) -> np.ndarray:
        return self.epic.kept

    def due(self, epoch: int) -> bool:
        return True

    def prune(self, gradients: np.ndarray, labels: np.ndarray, epoch: int) -> None:
        due = self.epic.due(epoch)
        self._see(epoch, gradients, due)
        if due:
            self.epic.prune(gradients, labels, epoch)


def rounds(
    lab: Lab, target: Target, trial: Trial, effective: np.ndarray, subset_size: float
) -> Arrays:
    """What happens in gradient space while EPIC trains, before every epoch.

    Returns
    -------
    mutual, to_target : (epochs,)
        Mean cosine of the effective poisons' gradients with one another, and with the target's.
    kept_error, random_error : (epochs,)
        Distance of the mean gradient of what is kept, and of random subsets as large, to that of
        all, relative to its norm.
    left : (epochs, 3)
        Shares of effective poisons, of poisons and of clean examples that are still in.
    cluster_sizes : (rounds, n)
        0 for what had been dropped before.
    poisoned : bool (n,)
    """
    victim = trial.victim
    members = target.bases[effective]
    rng = np.random.default_rng(victim.seed)
    epic = victim.epic(subset_size, "active")
    goals: list[np.ndarray] = []
    at_rounds: list[np.ndarray] = []
    rows: dict[str, list] = {
        key: [] for key in ("mutual", "to_target", "kept_error", "random_error", "left")
    }

    def see_model(epoch: int, model: nn.Module) -> None:
        aims = lab.scenario.inputs(lab.aims(target))
        labels = torch.full((len(aims),), target.base)
        goals.append(last_layer_gradients(model, (aims, labels))[0].mean(0))

    def see(epoch: int, gradients: np.ndarray, due: bool) -> None:
        if due:
            at_rounds.append(gradients)
        kept, whole = epic.kept, gradients.mean(0)

        def error(some: np.ndarray) -> float:
            return float(np.linalg.norm(gradients[some].mean(0) - whole) / np.linalg.norm(whole))

        draws = [rng.choice(len(gradients), len(kept), replace=False) for _ in range(DRAWS)]
        rows["kept_error"].append(error(kept))
        rows["random_error"].append(np.mean([error(draw) for draw in draws]))
        rows["mutual"].append(mutual_cosine(gradients[members]))
        rows["to_target"].append(mean_cosine(gradients[members], goals[-1]))
        groups = (members, target.bases, np.flatnonzero(~trial.poisoned))
        rows["left"].append([np.isin(g, kept).mean() if len(g) else np.nan for g in groups])

    victim.train(dropping=Watch(epic, see), on_round=see_model)
    return {
        **{key: np.array(values) for key, values in rows.items()},
        "cluster_sizes": cluster_sizes(epic.history, at_rounds, victim.labels.numpy()),
        "poisoned": trial.poisoned,
    }


def mutual_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of all pairs; nan of fewer than two."""
    if (n := len(vectors)) < 2:
        return float("nan")
    units = unit(vectors)
    return float(((units.sum(0) ** 2).sum() - (units**2).sum()) / (n * (n - 1)))


def mean_cosine(vectors: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine with `other`; nan of none."""
    return float((unit(vectors) @ unit(other[None])[0]).mean()) if len(vectors) else float("nan")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def study(
    lab: Lab, folder: Path, targets: Sequence[int], parts: Sequence[str], trainings: int
) -> dict[str, list[Arrays]]:
    """Measure these parts ("effective", "dropped", "rounds") for each target, or read them back.

    Where the attack does not succeed there are no effective poisons, and "dropped" is left out.
    """
    each = [measure(lab, folder, number, parts, trainings) for number in tqdm(targets)]
    return {part: [own[part] for own in each if part in own] for part in parts}


def measure(
    lab: Lab, folder: Path, number: int, parts: Sequence[str], trainings: int
) -> dict[str, Arrays]:
    """The parts of one target."""
    target = lab.target(number)
    trial = lab.trial(target)
    found: dict[str, Arrays] = {}
    mask = np.zeros(len(target.bases), bool)

    def add(part: str, stem: str, compute: Callable[[], Arrays]) -> None:
        found[part] = measured(folder / f"{stem}-{number:03d}.npz", compute)

    if "effective" in parts:
        add("effective", "effective", lambda: effective(lab, target, trial, trainings))
        mask = found["effective"]["effective"]
    if "dropped" in parts and mask.any():
        add("dropped", "dropped", lambda: dropped(trial, target, mask))
    if "rounds" in parts:
        stem = "rounds-of-effective" if "effective" in parts else "rounds"
        add("rounds", stem, lambda: rounds(lab, target, trial, mask, 0.2))
    return found
