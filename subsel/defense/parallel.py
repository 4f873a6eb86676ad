"""The processes that train one model together, and all communication between them.

For a single process every operation here is the identity, so callers need no second code path.
"""

import hashlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if dist.is_available():
    # DistributedDataParallel imports this module when it is first used, and the defaults of its
    # functions then keep the group of that moment for ever. After destroy_process_group(), gloo's
    # threads would still run at the end of the interpreter, where they can abort the process.
    import torch.distributed.nn

__all__ = ["ALONE", "Part", "Ranks", "all_ranks", "digest", "process_group"]


class Part(NamedTuple):
    """The part of a batch that goes through the model on this rank.

    Attributes
    ----------
    rows : slice
        Positions in the batch.
    own : int
        The number of examples that count for this rank: all of them, or none if the batch has no
        part left for it. The rank then computes another rank's examples, because all ranks must
        take part.
    total : int
        The number of examples in the batch.
    weight : float
        The factor for the mean loss of the part. DistributedDataParallel takes the mean of the
        gradients over the ranks, and with this factor it is the mean over the batch.
    """

    rows: slice
    own: int
    total: int
    weight: float


class Ranks:
    """The processes of a `torch.distributed` group, or this process alone.

    All processes must call the same methods in the same order.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        With None, this process alone.

    Attributes
    ----------
    rank, size : int
        The number of this process in the group, and the number of processes.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.rank, self.size = 0, 1
        if group is not None:
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
            if self.rank < 0:
                raise ValueError("group must contain this process, which is not in it")

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank. They are pickled, and must not lie on a GPU."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def joined(self, tensors: list[Tensor], device: torch.device) -> Tensor:
        """The tensors of all ranks, concatenated in the order of ranks, on every rank."""
        if self.size == 1:
            return torch.cat(tensors)
        parts = self.gather(torch.cat(tensors).cpu() if tensors else None)
        return torch.cat([part for part in parts if part is not None]).to(device)

    def first(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        return self.gather(value if self.rank == 0 else None)[0]

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of these tensors from rank 0 to all ranks."""
        if self.size == 1:
            return
        tensors = list(tensors)
        for tensor, value in zip(tensors, self.first([t.cpu() for t in tensors]), strict=True):
            tensor.copy_(value)

    def agree(self, values: Callable[[], Mapping[str, Any]]) -> None:
        """Raise a ValueError on every rank if values differ between ranks. It names them."""
        if self.size == 1:
            return
        first, *others = self.gather(dict(values()))
        differing = [
            f"{name} ({first[name]!r} on rank 0, {other[name]!r} on rank {rank})"
            for name in first
            for rank, other in enumerate(others, 1)
            if first[name] != other[name]
        ]
        if differing:
            raise ValueError(
                f"all ranks must be given the same, but they differ in {'; '.join(differing)}"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context that raises an exception of one rank on all ranks, so that none waits for ever.

        The body must not communicate.
        """
        if self.size == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        errors = self.gather(error and _portable(error))
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                other.add_note(f"(on rank {rank})")
                raise other

    def part(self, n: int) -> Part:
        """The part of a batch of n for this rank: neighbours, at least two, as BatchNorm needs."""
        busy = max(1, min(self.size, n // 2))
        if self.rank >= busy:
            return Part(slice(0, min(n, 2)), 0, n, 0.0)
        start, stop = (n * rank // busy for rank in (self.rank, self.rank + 1))
        return Part(slice(start, stop), stop - start, n, (stop - start) * self.size / n)

    def block(self, n: int) -> slice:
        """The slice of n things for this rank; it may be empty."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def dealt(self, sizes: Mapping[int, int]) -> list[int]:
        """The classes from which this rank selects, given the size of each class.

        The largest class comes first. Each goes to the rank with the least work so far, where the
        work of a class is its size squared.
        """
        work = [0] * self.size
        mine = []
        for label in sorted(sizes, key=lambda label: -sizes[label]):
            rank = work.index(min(work))
            work[rank] += sizes[label] ** 2
            if rank == self.rank:
                mine.append(label)
        return mine

    def data_parallel(self, net: nn.Module) -> nn.Module:
        """The module in a DistributedDataParallel, whose gradients are means over the ranks."""
        return net if self.size == 1 else DistributedDataParallel(net)


ALONE = Ranks()


def all_ranks() -> Ranks:
    """The ranks of torch.distributed's default process group if there is one, else this process."""
    if dist.is_available() and dist.is_initialized():
        world = dist.group.WORLD
        return Ranks(_gloo_beside(world) if dist.get_backend() == "nccl" else world)
    if dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        warnings.warn(
            "torchrun launched this process, but there is no process group, so every rank trains "
            "the whole model on its own: call torch.distributed.init_process_group() first",
            RuntimeWarning,
            stacklevel=3,
        )
    return ALONE


@cache
def _gloo_beside(world: Any) -> Any:
    """A gloo group of the same ranks, created once, which exchanges objects in main memory."""
    return dist.new_group(backend="gloo")


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Context of the group that torchrun's environment describes; yields this rank's device.

    It does nothing without torchrun, or if there is a group already.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()) or dist.is_initialized():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def digest(*arrays: Tensor | np.ndarray) -> str:
    """A short hash of the contents of arrays."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(f"{array.dtype} {tuple(array.shape)}".encode())
        if isinstance(array, Tensor):  # as bytes, because NumPy lacks some of torch's dtypes
            array = array.detach().cpu().flatten().view(torch.uint8).numpy()
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _portable(error: Exception) -> Exception:
    """The exception, or another one with its message if it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
