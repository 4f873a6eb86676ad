"""EPIC in Hugging Face's Trainer: a callback with a sampler, and a Trainer with both."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers import TrainingArguments as Arguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(
        'subsel.defense.transformers needs transformers: pip install "subsel[transformers]"'
    ) from None

from subsel.defense.epic import EPIC
from subsel.defense.notices import notice_schedule
from subsel.defense.rounds import KeptSampler, Rounds
from subsel.files import written_whole

__all__ = ["EPICCallback", "EPICTrainer"]

FILE = "epic.pt"


class EPICCallback(TrainerCallback):
    """EPIC's rounds between the epochs of Hugging Face's Trainer.

    The training loader needs ``sampler=callback.sampler``; without it nothing is left out. A
    warning is issued if a loader yields more examples than are kept. `EPICTrainer` makes the right
    loader. The kept examples are saved in each checkpoint's folder as ``epic.pt``, and
    ``trainer.train(resume_from_checkpoint=...)`` continues with them, given a fresh EPIC.

    With several processes, each one gets its share of the batches. All processes make the rounds
    together and keep the same examples.

    Parameters
    ----------
    epic : EPIC
    data
        The training examples without augmentation, in any form that `last_layer_gradients` takes.
    seed : int, default 0
        Seed of the order of examples, as for `KeptSampler`.
    **options
        `wrt`, `layer`, `output`, `batch`, `collate` and `workers`, as for `Rounds`.

    Attributes
    ----------
    sampler : KeptSampler

    Notes
    -----
    The Trainer divides the number of its steps by that of the first epoch to count epochs. So at
    the end of an epoch, the steps that dropped examples would have taken are counted as done, for
    the Trainer and for its learning rate schedule. With gradient accumulation, batches at the end
    of a shortened epoch that do not fill a step are left out.
    """

    def __init__(self, epic: EPIC, data: Any, *, seed: int = 0, **options: Any) -> None:
        self.rounds = Rounds(epic, data, **options)
        self.sampler = KeptSampler(epic, seed=seed)
        self._steps = 0

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Continue from the checkpoint from which the Trainer continues, if there is one."""
        epic = self.rounds.epic
        if epic.history:
            raise ValueError("epic has already pruned; give a fresh EPIC, also to resume")
        batches = len(given["train_dataloader"])
        self._steps = max(1, -(-batches // args.gradient_accumulation_steps))
        epochs = -(-state.max_steps // self._steps)
        if state.is_world_process_zero:
            notice_schedule(epic, epochs)
        if state.global_step > 0:
            path = _folder(args, state) / FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f"there is no {path}, which says what EPIC kept: resume from a checkpoint in "
                    "output_dir that was written with this callback"
                )
            self.rounds.load_state_dict(torch.load(path, weights_only=True))

    def on_epoch_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Make the round that is due."""
        epoch = state.global_step // self._steps
        made = self.rounds.before(given["model"], epoch)
        self.sampler.set_epoch(epoch)
        if made is not None and state.is_world_process_zero:
            self.rounds.check_loader(given["train_dataloader"])

    def on_epoch_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Count the steps that the dropped examples would have taken."""
        if control.should_training_stop or not state.global_step % self._steps:
            return
        missed = -state.global_step % self._steps
        state.global_step += missed
        state.epoch = float(state.global_step // self._steps)
        given["model"].zero_grad()
        if not isinstance(given["lr_scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
            for _ in range(missed):
                given["lr_scheduler"].step()

    def on_save(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Save the kept examples in the checkpoint's folder."""
        if state.is_world_process_zero:
            with written_whole(_folder(args, state) / FILE) as part:
                torch.save(self.rounds.state_dict(), part)


class EPICTrainer(Trainer):
    """Hugging Face's Trainer on what EPIC keeps.

    Parameters
    ----------
    epic : EPIC
    clean_view : optional
        The examples of `train_dataset` in the same order without augmentation. Needed if
        `train_dataset` augments.
    *args, **arguments
        Arguments of the Trainer.

    Attributes
    ----------
    defense : EPICCallback
    """

    def __init__(self, *args: Any, epic: EPIC, clean_view: Any = None, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.defense = EPICCallback(
            epic,
            self.train_dataset if clean_view is None else clean_view,
            seed=self.args.seed,
            collate=self.data_collator,
        )
        self.add_callback(self.defense)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of what EPIC keeps."""
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_size=self._train_batch_size,
                sampler=self.defense.sampler,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
                drop_last=self.args.dataloader_drop_last,
            )
        )


def _folder(args: Arguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
