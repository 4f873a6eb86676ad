"""Checkpoints: the state of a training run in a file. A file that is not whole is refused.

A checkpoint is a file of `torch.save` with a checksum of all its bytes in the comment at the end of
the zip archive. So ``torch.load(path, weights_only=True)`` reads it like any other file, and damage
is found before PyTorch reads it.
"""

import copy
import hashlib
import io
import logging
import os
import shutil
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subsel.defense.data import Examples
from subsel.defense.forms import bare_state, tensors_of, unwrapped
from subsel.defense.gradients import EpochLogits
from subsel.defense.parallel import Ranks, digest
from subsel.defense.result import TrainResult
from subsel.files import locked, remove_parts, write_whole, written_whole

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "check_fit",
    "packed",
    "read_checkpoint",
    "read_weights",
    "retire",
    "weights_digest",
]

_LOG = logging.getLogger("subsel")
_MARK = b"subsel checkpoint, SHA-256 "
_COMMENT = len(_MARK) + 64
_KEYS = (
    *("settings", "start", "data", "model", "optimizer", "scheduler", "scaler"),
    *("defense", "history", "logits"),
)


class CheckpointError(ValueError):
    """A file is not a whole checkpoint, or does not belong to the run."""


class Checkpoint:
    """The file to which a run writes its state, and the file from which it resumes.

    Call the methods in this order: `held` around all others, `read` and `compare` before anything
    is changed, `restore` once model and optimizer exist, and then `save` after each epoch.

    Parameters
    ----------
    path : path or None
        With None, nothing is written.
    resume : path or None
        With None, the run starts from the beginning.
    ranks : Ranks
        The first rank writes, and all ranks read.
    settings : dict, optional
        The settings that `checked_settings` returned.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        resume: str | os.PathLike[str] | None,
        ranks: Ranks,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.resume = None if resume is None else Path(resume)
        self.ranks, self.settings = ranks, settings
        self.ours = False  # whether the file at `path` belongs to this run
        self.start: str | None = None
        self.data: str | None = None
        self._state: dict[str, Any] | None = None
        if self.path is not None and not self.path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint {path} is in a folder that does not exist")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the file against other runs, and remove half-written files of killed runs."""
        with ExitStack() as stack:
            with self.ranks.together():
                if self.path is not None and self.ranks.rank == 0:
                    stack.enter_context(locked(self.path))
                    remove_parts(self.path)
            yield

    def read(self, epochs: int, result: TrainResult, device: torch.device) -> None:
        """Read the file to resume from, if there is one, and check that it fits the run.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CheckpointError
            If the file is damaged, is not a checkpoint, or belongs to another run.
        """
        with self.ranks.together():
            if self.resume is None:
                return
            state, name = read_checkpoint(self.resume, device), f"resume: {self.resume}"
            assert self.settings is not None
            changed = [
                f"{setting}={state['settings'].get(setting)!r}, now {value!r}"
                for setting, value in self.settings.items()
                if value != state["settings"].get(setting)
            ]
            if (state["defense"] is None) != (result.defense is None):
                changed.append(f"{'no' if state['defense'] is None else 'a'} defense")
            if changed:
                raise CheckpointError(f"{name} was made with {'; '.join(changed)}")
            done = len(state["history"])
            if epochs < done:
                raise CheckpointError(
                    f"{name} has {done} epochs done already: epochs must be at least {done}, "
                    f"not {epochs}"
                )
            bare = unwrapped(result.model)
            check_fit(bare, state["model"], f"{name} belongs to another model")
            if result.defense is not None:
                try:
                    copy.deepcopy(result.defense).load_state_dict(state["defense"])
                except ValueError as error:
                    raise CheckpointError(f"{name} has another defense: {error}") from None
            self._state = state

    def compare(self, model: nn.Module, data: Examples) -> None:
        """Hash the initial weights and the data. Refuse other data than those of the checkpoint."""
        if not any(self.ranks.gather(self.path is not None or self.resume is not None)):
            return
        self.start, self.data = weights_digest(model.state_dict()), _data_digest(data, self.ranks)
        with self.ranks.together():
            if self._state is None:
                return
            if self._state["data"] != self.data:
                raise CheckpointError(
                    f"resume: {self.resume} was made with other training data: inputs, labels, "
                    "poisons or their order differ (a dataset must give the same examples each "
                    "time)"
                )
            self.start = self._state["start"]

    def restore(self, result: TrainResult, parts: Mapping[str, Any], seen: EpochLogits) -> None:
        """Continue from the state that was read, if there is one."""
        if self._state is None:
            return
        state, self._state = self._state, None
        unwrapped(result.model).load_state_dict(state["model"])
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        result.history = state["history"]
        if result.defense is not None:
            result.defense.load_state_dict(state["defense"])
            result.kept = result.defense.kept
        if state["logits"] is not None:
            seen.logits, seen.labels = state["logits"]
        assert self.resume is not None
        self.ours = self.path is not None and self.path.resolve() == self.resume.resolve()

    def save(self, result: TrainResult, parts: Mapping[str, Any], seen: EpochLogits) -> None:
        """Write the state after the epochs in ``result.history``. Does nothing without a `path`.

        `parts` maps names to the optimizer and other objects with a ``state_dict()``, or to None.
        """
        if self.path is None:
            return
        state = {
            "settings": self.settings,
            # Hashes of the weights that the model came with, and of the training data.
            "start": self.start,
            "data": self.data,
            "model": unwrapped(result.model).state_dict(),
            **{name: part and part.state_dict() for name, part in parts.items()},
            "defense": None if result.defense is None else result.defense.state_dict(),
            "history": result.history,
            # The next round needs these if it uses the logits of the last epoch.
            "logits": None if seen.logits is None else (seen.logits, seen.labels),
        }
        with self.ranks.together():
            if self.ranks.rank == 0:
                self._write(packed(state))
        self.ours = True

    def _write(self, content: bytes) -> None:
        assert self.path is not None
        if not self.ours:
            # Objects that could not be read again are refused now, not when the run is resumed.
            unpacked(content, f"checkpoint {self.path}", torch.device("cpu"))
        try:
            if not self.ours:
                set_aside(self.path)
            write_whole(self.path, content)
        except OSError as error:
            explained = type(error)(f"{error}; {self.how_to_resume()}")
            explained.errno = error.errno
            raise explained from error

    def how_to_resume(self) -> str:
        """How to continue after the run has stopped, for a message."""
        if self.path is None or not self.ours or not self.path.is_file():
            return "stopped; there is no checkpoint to resume from"
        return f"stopped; to continue after the last whole epoch, use resume={str(self.path)!r}"


def packed(state: dict[str, Any]) -> bytes:
    """The content of the file: `state` as `torch.save` writes it, and the checksum."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with buffer.getbuffer() as content:
        content[-2:] = struct.pack("<H", _COMMENT)  # the length of the comment
        checksum = hashlib.sha256(content).hexdigest()
    buffer.seek(0, os.SEEK_END)
    buffer.write(_MARK + checksum.encode())
    return buffer.getvalue()


def unpacked(content: bytes, name: str, device: torch.device) -> dict[str, Any]:
    """The state that was packed. Errors call the file `name`."""
    if content[-_COMMENT:-64] != _MARK:
        raise CheckpointError(
            f"{name} is not a checkpoint of subsel.defense.train, or not the whole of one: it does "
            "not end with a checksum"
        )
    with memoryview(content) as view:
        checksum = hashlib.sha256(view[:-_COMMENT]).hexdigest().encode()
    if content[-64:] != checksum:
        raise CheckpointError(f"{name} is damaged: its content does not match its checksum")
    state = _loaded(content, device)
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{name} holds objects that cannot be read without running their code: the state of "
            "the model, the optimizer and the defense must be tensors and plain values"
        )
    return state


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state in a file to resume from, checked to be complete."""
    name = f"resume: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"resume: there is no checkpoint {path}")
    state = unpacked(_content(path, name), name, device)
    lacking = [key for key in _KEYS if key not in state]
    if lacking:
        raise CheckpointError(
            f"{name} is not a checkpoint of subsel.defense.train: it lacks {', '.join(lacking)}"
        )
    return state


def weights_digest(state: Mapping[str, Any]) -> str:
    """A hash of the tensors in a state dict."""
    return digest(*(value for value in state.values() if isinstance(value, Tensor)))


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Read a state dict from a checkpoint, or from a file to which `torch.save` wrote a state dict.

    Raises
    ------
    FileNotFoundError, CheckpointError
        The message is one sentence that begins with `name`.
    """
    content = _content(path, name)
    if content[-_COMMENT:-64] == _MARK:
        state: Any = unpacked(content, name, torch.device("cpu"))
    else:
        state = _loaded(content, torch.device("cpu"))
    if isinstance(state, Mapping):
        state = state.get("model", state)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{name} is damaged, or holds something else than a model's state_dict() as torch.save "
            "writes it (whole models are not read: to open them would run their code)"
        )
    return bare_state(state)


def check_fit(model: nn.Module, state: Any, problem: str) -> None:
    """Refuse a state dict that does not belong to this model, and name the differences."""
    wanted = model.state_dict()
    if not isinstance(state, Mapping):
        raise CheckpointError(problem)
    differences = [
        f"it {verb} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for verb, names in (
            ("lacks", [name for name in wanted if name not in state]),
            ("has also", [str(name) for name in state if name not in wanted]),
        )
        if names
    ]
    differences += [
        f"its {name} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if isinstance(value, Tensor)
        and name in state
        and getattr(state[name], "shape", None) != value.shape
    ][:1]
    if differences:
        raise CheckpointError(f"{problem}: {'; '.join(differences)}")


def _data_digest(data: Examples, ranks: Ranks) -> str:
    """A hash of all inputs and labels. Each rank reads its share."""
    parts: list[str] = []
    with ranks.together():
        for _, x, y in data.batches(ranks=ranks):
            parts.append(digest(*tensors_of(x), y))
    whole = "".join(part for of_rank in ranks.gather(parts) for part in of_rank)
    return hashlib.sha256(whole.encode()).hexdigest()


def set_aside(path: Path) -> None:
    """Keep a copy of a file that is about to be overwritten, and say so in the log."""
    if not path.is_file():
        return
    kept = path.with_name(f"{path.stem}-before{path.suffix}")
    with written_whole(kept) as part:
        shutil.copyfile(path, part)
    _LOG.warning(
        "%s exists already and will be overwritten; its content was kept as %s "
        "(to continue that run, give resume=)",
        path,
        kept,
    )


def retire(path: Path) -> None:
    """Set a file aside and remove it, so that no run resumes from it."""
    set_aside(path)
    path.unlink(missing_ok=True)


def _content(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise type(error)(f"{name} cannot be read: {error.strerror}") from None


def _loaded(content: bytes, device: torch.device) -> Any:
    """What `torch.load` reads, or None if it fails; its own messages would not help the user."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
    except Exception:
        return None
