"""EPIC in Lightning's Trainer: a callback, beside `subsel.defense.KeptSampler` in the loader."""

from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    raise ImportError(
        'subsel.defense.lightning needs Lightning: pip install "subsel[lightning]"'
    ) from None

from subsel.defense.epic import EPIC
from subsel.defense.notices import notice_schedule
from subsel.defense.rounds import Rounds

__all__ = ["EPICCallback"]


class EPICCallback(Callback):
    """EPIC's rounds between the epochs of Lightning's Trainer.

    The training loader needs ``sampler=KeptSampler(epic)``; without it nothing is left out. A
    warning is issued if a loader yields more examples than are kept. The kept examples are saved in
    Lightning's checkpoints, and ``trainer.fit(..., ckpt_path=...)`` continues with them, given a
    fresh EPIC. The continuation is exact if the checkpoint was written at the end of an epoch.

    With several processes, Lightning gives each one its share of the sampler's examples, which it
    shuffles once more. All processes make the rounds together and keep the same examples.

    Parameters
    ----------
    epic : EPIC
    data
        The training examples without augmentation, in any form that `last_layer_gradients` takes.
    **options
        `wrt`, `layer`, `output`, `batch`, `collate` and `workers`, as for `Rounds`. The model is
        the LightningModule, whose `forward` must return the logits.
    """

    def __init__(self, epic: EPIC, data: Any, **options: Any) -> None:
        self.rounds = Rounds(epic, data, **options)
        self._begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if fewer than two rounds are due."""
        self._begun = False
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and trainer.is_global_zero:
            epic, epochs = self.rounds.epic, trainer.max_epochs
            notice_schedule(epic, epochs)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the round that is due, and restart the loader with the kept examples."""
        epoch, loop = trainer.current_epoch, trainer.fit_loop
        made = self.rounds.before(pl_module, epoch)
        if made is None and self._begun:
            return
        # Lightning has already asked the loader for its length. If the loader has workers, it has
        # also asked for examples of an epoch 0 before its first epoch.
        self._begun = True
        loop._combined_loader = None
        loop.setup_data()
        for loader in loop._combined_loader.flattened:
            if hasattr(loader.sampler, "set_epoch"):  # with several processes it is a new one
                loader.sampler.set_epoch(epoch)
            if trainer.is_global_zero:
                self.rounds.check_loader(loader)
        iter(loop._data_fetcher)

    def state_dict(self) -> dict[str, Any]:
        """The state for Lightning's checkpoint."""
        return self.rounds.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from Lightning's checkpoint."""
        self.rounds.load_state_dict(state_dict)
