"""Training that resists targeted data poisoning: EPIC on top of subsel's selection core.

Every few epochs, EPIC (Yang, Liu and Mirzasoleiman, ICML 2022) drops the examples that stand alone
in gradient space. In a training loop of your own it takes five lines::

    epic = EPIC(len(data), subset_size=0.2, warmup=1, interval=1, stop=10)
    for epoch in range(epochs):
        if epic.due(epoch):
            epic.prune(*last_layer_gradients(model, data), epoch)
        for x, y in DataLoader(Subset(data, epic.kept), batch_size=128, shuffle=True):
            ...

`train` is such a loop, complete with checkpoints, and ``subsel train`` is the same from the shell.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        'subsel.defense needs PyTorch, which is not installed: pip install "subsel[defense]"'
    ) from None

from subsel.defense.afresh import AfreshResult, readmitted, train_afresh
from subsel.defense.auditing import audit
from subsel.defense.duplicates import distinct
from subsel.defense.epic import EPIC, Round
from subsel.defense.gradients import EpochLogits, last_layer_gradients
from subsel.defense.notices import DefenseWarning
from subsel.defense.poisons import PoisonedSet, read_poisons
from subsel.defense.presets import PRESETS
from subsel.defense.reporting import Report, report
from subsel.defense.result import TrainResult
from subsel.defense.rounds import KeptSampler, Rounds
from subsel.defense.training import train

__all__ = [
    "EPIC",
    "PRESETS",
    "AfreshResult",
    "DefenseWarning",
    "EpochLogits",
    "KeptSampler",
    "PoisonedSet",
    "Report",
    "Round",
    "Rounds",
    "TrainResult",
    "audit",
    "distinct",
    "last_layer_gradients",
    "read_poisons",
    "readmitted",
    "report",
    "train",
    "train_afresh",
]
