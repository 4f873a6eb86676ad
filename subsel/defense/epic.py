"""EPIC: every few epochs, drop the examples that stand alone in gradient space."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from subsel import select
from subsel.defense.data import named
from subsel.defense.evidence import evidence_of, label_probabilities
from subsel.defense.fidelity import fidelity
from subsel.defense.notices import notice_round, notice_small_classes
from subsel.defense.parallel import Ranks, digest
from subsel.sources import METRICS
from subsel.types import EpicMetric, GroundSet
from subsel.validation import (
    as_host_array,
    check_choice,
    check_count,
    check_epochs,
    check_fraction,
    portion,
)

__all__ = ["EPIC", "Round"]


@dataclass(frozen=True, repr=False)
class Round:
    """The result of one round of EPIC. Indices are those of the training set.

    Attributes
    ----------
    epoch : int
        The epoch before which the round took place, counted from 0.
    dropped : ndarray of int64
        The examples that this round dropped, ascending.
    n_kept : int
        The number of examples that are left.
    medoids, sizes : ndarrays of int64
        The medoids of all classes, in order of selection within each class, and the number of
        examples that are assigned to each, itself included.
    kept_per_class : dict of int to int
        The number of examples of each class that are left.
    skipped : dict of int to str
        Classes from which nothing could be dropped, and the reason.
    rho : float
        By how much the drop changed the norm of the mean gradient, computed from the gradients of
        the round. (The rho of the paper's theorem 3.1 is the largest of all rounds.) This and the
        next two fields are NaN in a history that was saved by a version without them.
    error : float
        The distance between the mean gradients after and before the round, as a fraction of the
        norm of the latter.
    random_error : float
        The same for a random subset of the same size; the mean of five.
    readmitted : ndarray of int64
        The examples that came back, ascending; see `readmit` of `EPIC`. Such a round drops nothing
        and has no medoids, and `rho`, `error` and `random_error` are NaN.
    evidence : dict of str to ndarray
        For each dropped example: the ``cluster_size`` of its cluster and its ``medoid_distance``;
        the nearest other example of its class as ``neighbour``, and its ``neighbour_distance``; and
        the ``probability`` that the model gave to its label (NaN unless gradients are p - y).
        Distances are Euclidean, between gradients, for every metric.
    """

    epoch: int
    dropped: np.ndarray
    n_kept: int
    medoids: np.ndarray
    sizes: np.ndarray
    kept_per_class: dict[int, int]
    skipped: dict[int, str] = field(default_factory=dict)
    rho: float = math.nan
    error: float = math.nan
    random_error: float = math.nan
    readmitted: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    evidence: dict[str, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields as numbers, strings, lists and dicts, as `json.dumps` takes them.

        NaN becomes None.
        """
        plain = _mapped(asdict(self), np.ndarray, lambda array: array.tolist())
        plain["evidence"] = {
            name: [None if value != value else value for value in values]
            for name, values in plain["evidence"].items()
        }
        return {name: None if value != value else value for name, value in plain.items()}

    def __repr__(self) -> str:
        skipped = f", skipped={self.skipped}" if self.skipped else ""
        back = f"readmitted={len(self.readmitted)}, " if len(self.readmitted) else ""
        return (
            f"Round(epoch={self.epoch}, dropped={len(self.dropped)}, {back}kept={self.n_kept}, "
            f"medoids={len(self.medoids)}{skipped})"
        )


class EPIC:
    """Effective Poison Identification (Yang, Liu and Mirzasoleiman, ICML 2022, algorithm 1).

    A round selects medoids of each class in gradient space, assigns every example of the class to
    its nearest medoid, and drops the medoids to which no other example was assigned.

    Parameters
    ----------
    n : int, optional
        Size of the training set. By default it is taken from the gradients of the first round, and
        `train` sets it.
    subset_size : float, default 0.1
        The number of medoids as a fraction of each class, in (0, 1): ceil(subset_size * n_c) for a
        class of n_c examples, but at most n_c - 1.
    warmup : int
        Number of epochs that train on all examples. The first round comes before epoch `warmup`,
        where epochs count from 0.
    interval : int
        Number of epochs from one round to the next.
    stop : int, optional
        The last round comes before an epoch smaller than `stop`. By default, rounds continue to the
        end.
    ground_set : {"active", "full"}
        With "active", medoids and neighbours come from the examples that are still kept, as in the
        paper. With "full", they come from all examples, and the isolated examples that are still
        kept are dropped, as in the authors' code.
    metric : {"euclidean", "cosine", "dot", "rbf"}
        As in `subsel.select`. The paper uses euclidean.
    min_cluster_size : int, default 2
        Clusters with fewer examples than this are dropped completely.
    readmit : int, optional
        Not in the paper. Before this epoch, every dropped example comes back whose label the model
        finds possible, and from then on no round drops anything. By default no example comes back.
        `with_readmission` has settings that go with it.
    threshold : float, default 0.05
        In (0, 1): the smallest probability that the label of an example that comes back may have.

    Attributes
    ----------
    kept : ndarray of int64
        The examples that are still in, ascending.
    history : list of Round

    Notes
    -----
    *Duplicates.* If two medoids have equal gradients, both are assigned to the one that was
    selected first. This is a cluster of two, so neither of them is dropped: an example with a
    duplicate is not isolated.

    *Small classes.*  A class with one example left is skipped.  So is a class that the round
    would empty.  Both are recorded in the round.

    *Re-admission.*  What is dropped at a high learning rate is forgotten within a few epochs.  So
    the model that the kept examples have trained since can judge those that were dropped: poisons
    that work have labels that it finds impossible, most clean examples have not
    (docs/research/late-acting.md).

    A round costs one `subsel.select` with labels, and no memory beyond what that takes.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        subset_size: float = 0.1,
        warmup: int,
        interval: int,
        stop: int | None = None,
        ground_set: GroundSet = "active",
        metric: EpicMetric = "euclidean",
        min_cluster_size: int = 2,
        readmit: int | None = None,
        threshold: float = 0.05,
    ) -> None:
        self.subset_size = check_fraction(subset_size, "subset_size")
        self.warmup = check_count(warmup, "warmup", 0)
        self.interval = check_count(interval, "interval", 1)
        self.stop = None if stop is None else check_count(stop, "stop", self.warmup + 1)
        self.ground_set = check_choice(ground_set, ("active", "full"), "ground_set")
        check_choice(metric, METRICS, "metric")
        self.metric = metric
        self.min_cluster_size = check_count(min_cluster_size, "min_cluster_size", 2)
        self.readmit = None if readmit is None else check_count(readmit, "readmit", warmup + 1)
        self.threshold = check_fraction(threshold, "threshold")
        if self.readmit is not None:
            if self.stop is None:
                self.stop = self.readmit
            elif self.stop > self.readmit:
                raise ValueError(
                    f"stop must be at most readmit, {self.readmit}, or what comes back would be "
                    f"dropped again; got {self.stop}"
                )
        self.history: list[Round] = []
        # One for each example; empty until n is known. The label -1 means: not yet seen.
        self._kept = np.empty(0, np.int64)
        self._labels = np.empty(0, np.int64)
        if n is not None:
            self.start(n)

    @classmethod
    def with_readmission(cls, epochs: int, drops: Sequence[int], **changes: Any) -> "EPIC":
        """EPIC with early rounds, and a late one that lets back in what the model finds possible.

        Not in the paper.  Rounds with a tenth of each class as medoids begin after a tenth of the
        epochs, come every twentieth of them, and end when the learning rate drops; halfway from
        there to its next drop, or to the end, dropped examples come back.

        Parameters
        ----------
        epochs : int
            Of the training, 4 or more.
        drops : sequence of int
            Epochs before which its learning rate drops; one or more.
        **changes
            Settings of `EPIC` to be other than these.

        Returns
        -------
        EPIC

        Raises
        ------
        ValueError
            Too few epochs, no drop, or one that is not between the first round and the end.

        Examples
        --------
        >>> from subsel.defense import EPIC
        >>> epic = EPIC.with_readmission(40, drops=(25, 35))
        >>> epic.warmup, epic.interval, epic.stop, epic.readmit
        (4, 2, 25, 30)
        """
        epochs = check_count(epochs, "epochs", 4)
        warmup, interval = max(1, round(epochs / 10)), max(1, round(epochs / 20))
        drops = sorted(check_epochs(drops, "drops"))
        if not drops or not warmup < drops[0] < epochs:
            raise ValueError(
                f"drops must begin between the first round, before epoch {warmup}, and the end, "
                f"{epochs}; got {drops}"
            )
        following = min([drop for drop in drops if drop > drops[0]] + [epochs])
        usual = {
            "subset_size": 0.1,
            "warmup": warmup,
            "interval": interval,
            "stop": drops[0],
            "readmit": (drops[0] + following) // 2,
        }
        return cls(**usual | changes)

    def start(self, n: int) -> None:
        """Set the size of the training set. Does nothing if the same size is known already.

        Raises
        ------
        ValueError
            If `n` differs from the size that is known.
        """
        n = check_count(n, "n", 1)
        if self.n is None:
            self._kept = np.arange(n)
            self._labels = np.full(n, -1)
        elif n != self.n:
            raise ValueError(f"this EPIC keeps track of {self.n} examples, got n={n}")

    @property
    def n(self) -> int | None:
        """Size of the training set; None until it is known."""
        return len(self._labels) or None

    @property
    def kept(self) -> np.ndarray:
        """The examples that are still in, ascending."""
        if self.n is None:
            raise ValueError("n is not known yet: give it, EPIC(n, ...), or call start(n)")
        return self._kept.copy()

    @property
    def labels(self) -> np.ndarray:
        """The labels that were given to rounds, (n,); -1 for an example without one."""
        return self._labels.copy()

    def due(self, epoch: int) -> bool:
        """Whether a round should take place before `epoch` (counted from 0) is trained."""
        return epoch == self.readmit or (
            epoch >= self.warmup
            and (epoch - self.warmup) % self.interval == 0
            and (self.stop is None or epoch < self.stop)
        )

    def looks_at(self, epoch: int) -> np.ndarray | None:
        """The examples whose gradients the round before `epoch` needs; None: of all examples."""
        return self.kept if self.ground_set == "active" and epoch != self.readmit else None

    def schedule(self, epochs: int) -> list[int]:
        """The epochs before which a round that drops is due, in a training of this many epochs.

        Parameters
        ----------
        epochs : int

        Returns
        -------
        list of int
            Ascending, counted from 0. If it is empty, the training is not defended.

        Examples
        --------
        >>> from subsel.defense import EPIC
        >>> EPIC(warmup=1, interval=2, stop=8).schedule(40)
        [1, 3, 5, 7]
        >>> EPIC(warmup=10, interval=2).schedule(5)
        []
        """
        epochs = check_count(epochs, "epochs", 0)
        stop = epochs if self.stop is None else min(epochs, self.stop)
        return list(range(self.warmup, stop, self.interval))

    def prune(self, gradients: Any, labels: Any, epoch: int, *, group: Any = None) -> Round:
        """Drop the isolated medoids of each class.

        Parameters
        ----------
        gradients : array or tensor, (n, d) or, with the active ground set, (len(kept), d)
            Last-layer gradients of all examples in dataset order, or of the kept ones in the
            order of `kept`. Before epoch `readmit` they must be of all examples, and with respect
            to the logits. A CUDA tensor stays on the GPU, and medoids are found there, if
            numba-cuda is installed.
        labels : array or tensor of integers, (n,) or (len(kept),)
            Their classes: integers of at least 0. Not every number must occur.
        epoch : int
            The next epoch. Rounds must come in the order of their epochs.
        group : torch.distributed.ProcessGroup, optional
            Share the work among the ranks of this group, such as ``torch.distributed.group.WORLD``.
            Each rank must make this call with the same arguments, and selects from some of the
            classes. Without a group, the same arguments give the same result on all ranks, too.

        Returns
        -------
        Round

        Raises
        ------
        TypeError, ValueError
            If shapes, types or values do not fit; if labels differ from those of earlier rounds,
            which means that the dataset's order changed; with a group, if ranks were given
            different arguments.

        Warns
        -----
        DefenseWarning
            If the round dropped nothing, or more than half of a class; in the first round also if
            classes have fewer than 50 examples.
        """
        epoch = check_count(epoch, "epoch", 0)
        if self.history and epoch <= self.history[-1].epoch:
            raise ValueError(
                f"epoch must be after the last round's, {self.history[-1].epoch}; got {epoch}"
            )
        gradients, labels = checked_arrays(gradients, labels)
        if self.n is None:
            self.start(len(labels))
        ranks = Ranks(group)
        ranks.agree(
            lambda: {
                "EPIC": repr(self),
                "epoch": epoch,
                "kept": digest(self._kept),
                "labels": digest(labels),
                "gradients": digest(gradients),
            }
        )
        if epoch == self.readmit:
            return self._readmit(gradients, labels, epoch, ranks)
        ground, gradients, labels = self._ground(gradients, labels)
        everyone, found, kept_before = ground, gradients, np.isin(ground, self._kept)

        classes, counts = (part.tolist() for part in np.unique(labels, return_counts=True))
        budget = {
            label: min(portion(self.subset_size, n), n - 1)
            for label, n in zip(classes, counts, strict=True)
        }
        before = self._left()
        if not self.history and ranks.rank == 0:
            notice_small_classes(before)
        skipped = {label: "one example left" for label, k in budget.items() if k == 0}
        searched = ~np.isin(labels, list(skipped))
        ground, labels = ground[searched], labels[searched]
        gradients = gradients[searched]
        medoids, owner, sizes = _select_medoids(
            gradients,
            labels,
            {label: k for label, k in budget.items() if k > 0},
            self.metric,
            ranks,
        )

        isolated = sizes[owner] < self.min_cluster_size
        kept = np.isin(ground, self._kept)
        for label in np.unique(labels).tolist():
            members = labels == label
            if not (kept & members & ~isolated).any():
                isolated[members] = False
                skipped[label] = "all that is left of it is isolated"

        going = np.flatnonzero(kept & isolated)
        going = going[np.argsort(ground[going])]
        dropped = ground[going]
        evidence = evidence_of(going, gradients, labels, medoids, owner, sizes)
        if len(going):
            evidence["neighbour"] = ground[evidence["neighbour"]]
        self._kept = np.setdiff1d(self._kept, dropped)
        ranks.agree(lambda: {"what they keep": digest(self._kept)})
        left = self._left()
        if ranks.rank == 0:
            notice_round(epoch, before, left)
        self.history.append(
            Round(
                epoch=epoch,
                dropped=dropped,
                n_kept=len(self._kept),
                medoids=ground[medoids],
                sizes=sizes,
                kept_per_class=left,
                skipped=skipped,
                **fidelity(found, kept_before, np.isin(everyone, self._kept), epoch)._asdict(),
                evidence=evidence,
            )
        )
        return self.history[-1]

    def _readmit(self, gradients: Any, labels: np.ndarray, epoch: int, ranks: Ranks) -> Round:
        """The round in which dropped examples come back."""
        if len(labels) != self.n:
            raise ValueError(
                f"gradients must be of all {self.n} examples before epoch {epoch}, when dropped "
                f"ones may come back; got {len(labels)}"
            )
        self._check_labels(np.arange(len(labels)), labels)
        likely = np.flatnonzero(label_probabilities(gradients, labels) >= self.threshold)
        back = np.setdiff1d(likely, self._kept)
        self._kept = np.union1d(self._kept, back)
        ranks.agree(lambda: {"what they keep": digest(self._kept)})
        nobody = np.empty(0, np.int64)
        self.history.append(
            Round(
                epoch=epoch,
                dropped=nobody,
                n_kept=len(self._kept),
                medoids=nobody,
                sizes=nobody,
                kept_per_class=self._left(),
                readmitted=back,
            )
        )
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs for an exact continuation: plain values and tensors."""
        return {
            "settings": self._settings(),
            "kept": torch.tensor(self._kept),
            "labels": torch.tensor(self._labels),
            "history": [_mapped(asdict(r), np.ndarray, torch.tensor) for r in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` saved.

        Raises
        ------
        TypeError, ValueError
            If it is no such state, or was saved with other settings, or for a training set of
            another size.
        """
        if not isinstance(state, Mapping) or not state.keys() >= {"settings", "kept", "labels"}:
            raise TypeError(f"state must be what state_dict returned, not {reprlib.repr(state)}")
        saved, own = state["settings"], self._settings()
        changed = [
            f"{name}={saved.get(name)!r}, now {own.get(name)!r}"
            for name in dict.fromkeys((*own, *saved))
            if own.get(name) != saved.get(name)
        ]
        if changed:
            raise ValueError(f"the state was saved with {'; '.join(changed)}")
        if self.n is not None and len(state["labels"]) != self.n:
            raise ValueError(
                f"the state is of {len(state['labels'])} examples, this EPIC is of {self.n}"
            )
        state = _mapped(dict(state), torch.Tensor, lambda tensor: tensor.numpy().copy())
        self._kept, self._labels = state["kept"], state["labels"]
        self.history = [Round(**saved) for saved in state["history"]]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"EPIC(n={self.n}, {settings})"

    def _left(self) -> dict[int, int]:
        """How many examples of each class are kept."""
        left = np.unique(self._labels[self._kept], return_counts=True)
        return dict(zip(*(part.tolist() for part in left), strict=True))

    def _settings(self) -> dict[str, Any]:
        names = ["subset_size", "warmup", "interval", "stop", "ground_set", "metric"]
        names += ["min_cluster_size"]
        if self.readmit is not None:
            names += ["readmit", "threshold"]
        return {name: getattr(self, name) for name in names}

    def _ground(
        self, gradients: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ground set with its gradients and labels, after a check that they fit this EPIC."""
        n, active = len(self._labels), self.ground_set == "active"
        if len(labels) != n and not (active and len(labels) == len(self._kept)):
            raise ValueError(
                f"gradients must have a row for each of the {n} examples"
                + (f", or for each of the {len(self._kept)} kept" if active else "")
                + f"; got {len(labels)}"
            )
        given = np.arange(n) if len(labels) == n else self._kept
        self._check_labels(given, labels)
        chosen = np.isin(given, self._kept) if active else np.ones(len(given), bool)
        return given[chosen], gradients[chosen], labels[chosen]

    def _check_labels(self, given: np.ndarray, labels: np.ndarray) -> None:
        """Record the labels of these examples, which must be those of earlier rounds."""
        changed = given[(self._labels[given] >= 0) & (self._labels[given] != labels)]
        if len(changed):
            raise ValueError(
                f"labels of {len(changed)} examples (the first is {changed[0]}) differ from those "
                "of earlier rounds: the dataset's order has changed"
            )
        self._labels[given] = labels


def _select_medoids(
    gradients: np.ndarray,
    labels: np.ndarray,
    budget: dict[int, int],
    metric: EpicMetric,
    ranks: Ranks,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The medoids of each class, the position of each example's own medoid, and cluster sizes."""
    classes, counts = np.unique(labels, return_counts=True)
    mine = ranks.dealt(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
    rows = np.flatnonzero(np.isin(labels, mine))
    if len(rows) < len(labels):
        gradients = gradients[rows]
    with ranks.together():
        own = _selected(gradients, labels[rows], {label: budget[label] for label in mine}, metric)
    found = ranks.gather((rows, *own))
    # In the order in which one `select` of all classes has them: by decreasing gain, then by class.
    medoids = np.concatenate([rows[indices] for rows, indices, _, _ in found])
    gains = np.concatenate([gains for _, _, gains, _ in found])
    ranking = np.lexsort((np.arange(len(medoids)), labels[medoids], -gains))
    position = np.empty_like(ranking)
    position[ranking] = np.arange(len(ranking))
    owner = np.empty(len(labels), np.int64)
    start = 0
    for rows, indices, _, assignment in found:
        owner[rows] = position[start + assignment]
        start += len(indices)
    return medoids[ranking], owner, np.bincount(owner, minlength=len(medoids))


def _selected(
    gradients: np.ndarray, labels: np.ndarray, budget: dict[int, int], metric: EpicMetric
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, gains and assignment of a selection from each class."""
    if not budget:
        return np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    threads = torch.get_num_threads()
    try:
        chosen = select(gradients, budget, labels=labels, metric=metric)
    finally:
        # Numba and torch share OpenMP's settings. Undo what Numba's kernels changed; otherwise
        # training would continue with another number of threads, and not bit for bit as before.
        torch.set_num_threads(threads)
    assert chosen.assignment is not None
    return chosen.indices, chosen.gains, chosen.assignment


def checked_arrays(gradients: Any, labels: Any) -> tuple[Any, np.ndarray]:
    """Checked gradients (left on the GPU if selection can run there) and labels."""
    number = str(getattr(gradients, "dtype", ""))
    stays = isinstance(gradients, torch.Tensor) and gradients.is_cuda
    if stays and find_spec("numba_cuda") is not None:
        gradients = gradients.detach()
    else:
        gradients = as_host_array(gradients, "gradients")
        number = number if number.startswith("torch.") else gradients.dtype.name
        # Native byte order and positive strides, which torch can read without a copy or a warning.
        gradients = np.require(gradients, gradients.dtype.newbyteorder("="), ["C", "W"])
    labels = as_host_array(labels, "labels")
    if gradients.ndim != 2 or gradients.shape[1] == 0:
        raise ValueError(f"gradients must be (n, d), got {gradients.shape}")
    if number.removeprefix("torch.") not in ("float32", "float64"):
        raise TypeError(f"gradients must be float32 or float64, got {number}")
    if isinstance(gradients, torch.Tensor):
        finite = gradients.isfinite().all(dim=1).cpu().numpy()
    else:
        finite = np.isfinite(gradients).all(axis=1)
    bad = np.flatnonzero(~finite)
    if len(bad):
        raise ValueError(f"gradients are not finite in {named(bad.tolist(), 'row')}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != gradients.shape[:1]:
        raise ValueError(f"labels must be ({len(gradients)},) as gradients, got {labels.shape}")
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels must be 0 or greater, got {labels.min()}")
    return gradients, labels


def _mapped(value: Any, kind: type, convert: Any) -> Any:
    """`value` with every instance of `kind` in its dicts and lists converted."""
    if isinstance(value, dict):
        return {key: _mapped(part, kind, convert) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, kind, convert) for part in value]
    return convert(value) if isinstance(value, kind) else value
