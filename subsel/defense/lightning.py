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

    The training loader needs ``sampler=KeptSampler(epic)``, without which nothing is left out; a
    loader that gives more than what is kept is warned of.  What is kept goes into Lightning's
    checkpoints, and ``trainer.fit(..., ckpt_path=...)`` goes on with it, given a fresh EPIC:
    exactly, if the checkpoint is of the end of an epoch.

    Of several processes Lightning gives each its share of the sampler's examples, which it shuffles
    once more.  All of them make the rounds together and keep the same examples.

    Parameters
    ----------
    epic : EPIC
    data
        The training examples without augmentation, in any form that `last_layer_gradients` takes.
    **options
        `wrt`, `layer`, `output`, `batch`, `collate`, `workers`, as of `Rounds`.  The model is the
        LightningModule: what its `forward` returns are the logits.
    """

    def __init__(self, epic: EPIC, data: Any, **options: Any) -> None:
        self.rounds = Rounds(epic, data, **options)
        self._begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if fewer than two rounds are due."""
        self._begun = False
        if trainer.max_epochs is not None and trainer.max_epochs > 0 and trainer.is_global_zero:
            epic = self.rounds.epic
            notice_schedule(epic.schedule(trainer.max_epochs), trainer.max_epochs, epic.warmup)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the round that is due, and have the loader begin anew with what is kept."""
        epoch, loop = trainer.current_epoch, trainer.fit_loop
        made = self.rounds.before(pl_module, epoch)
        if made is None and self._begun:
            return
        # Lightning has asked the loader for its length already, and before its first epoch also
        # for examples, if it has workers, which then are those of an epoch 0.
        self._begun = True
        loop._combined_loader = None
        loop.setup_data()
        for loader in loop._combined_loader.flattened:
            if hasattr(loader.sampler, "set_epoch"):  # of several processes it is a new one
                loader.sampler.set_epoch(epoch)
            if trainer.is_global_zero:
                self.rounds.check_loader(loader)
        iter(loop._data_fetcher)

    def state_dict(self) -> dict[str, Any]:
        """What goes into Lightning's checkpoint."""
        return self.rounds.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from Lightning's checkpoint."""
        self.rounds.load_state_dict(state_dict)
