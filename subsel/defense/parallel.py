"""The processes that train one model together, and all that they say to each other.

For a process on its own every operation here is the identity, so that what uses them has no
second path.
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
    # DistributedDataParallel imports it when it is first made, and the defaults of its functions
    # then hold the group of that moment for good: destroy_process_group() would leave gloo's
    # threads running into the end of the interpreter, where they can abort the process.
    import torch.distributed.nn

__all__ = ["ALONE", "Part", "Ranks", "all_ranks", "digest", "process_group"]


class Part(NamedTuple):
    """What of a batch goes through the model on this rank.

    Attributes
    ----------
    rows : slice
        Places in the batch.
    own : int
        How many of them are this rank's own: all, or none where there was nothing left for it.
        It then goes along with another's examples, for all ranks have to.
    total : int
        Examples in the batch.
    weight : float
        By which the mean loss of the part is to be multiplied, so that the mean over the ranks,
        which DistributedDataParallel takes of the gradients, is that over the batch.
    """

    rows: slice
    own: int
    total: int
    weight: float


class Ranks:
    """The processes of a `torch.distributed` group, or this one alone.

    All of them have to call the same methods in the same order.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        None: this process alone.

    Attributes
    ----------
    rank, size : int
        This process's number in the group, and how many there are.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.rank, self.size = 0, 1
        if group is not None:
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
            if self.rank < 0:
                raise ValueError("group must contain this process, which is not in it")

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, on every rank.  It is pickled: nothing on a GPU."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def joined(self, tensors: list[Tensor], device: torch.device) -> Tensor:
        """The tensors of rank 0, then those of rank 1, ... concatenated, on every rank."""
        if self.size == 1:
            return torch.cat(tensors)
        parts = self.gather(torch.cat(tensors).cpu() if tensors else None)
        return torch.cat([part for part in parts if part is not None]).to(device)

    def first(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        return self.gather(value if self.rank == 0 else None)[0]

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Make these tensors everywhere what they are on rank 0."""
        if self.size == 1:
            return
        tensors = list(tensors)
        for tensor, value in zip(tensors, self.first([t.cpu() for t in tensors]), strict=True):
            tensor.copy_(value)

    def agree(self, values: Callable[[], Mapping[str, Any]]) -> None:
        """Raise a ValueError, on every rank, that names what is not the same on all of them."""
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
                f"the ranks have to be given the same, but differ in {'; '.join(differing)}"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """An exception in the body on one rank is raised on all, so that none waits for it.

        Nothing in the body may communicate.
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
        """Of a batch of n, this rank's part: neighbours, two or more, as BatchNorm wants."""
        busy = max(1, min(self.size, n // 2))
        if self.rank >= busy:
            return Part(slice(0, min(n, 2)), 0, n, 0.0)
        start, stop = (n * rank // busy for rank in (self.rank, self.rank + 1))
        return Part(slice(start, stop), stop - start, n, (stop - start) * self.size / n)

    def block(self, n: int) -> slice:
        """Of n things in a row, this rank's; perhaps none."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def dealt(self, sizes: Mapping[int, int]) -> list[int]:
        """The classes that this rank selects from, given the size of each.

        The largest first, each to the rank with the least work so far; work is size squared.
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
        """A look-alike whose gradients are means over the ranks."""
        return net if self.size == 1 else DistributedDataParallel(net)


ALONE = Ranks()


def all_ranks() -> Ranks:
    """Those of torch.distributed's default process group if there is one, else this process."""
    if dist.is_available() and dist.is_initialized():
        world = dist.group.WORLD
        return Ranks(_gloo_beside(world) if dist.get_backend() == "nccl" else world)
    if dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        warnings.warn(
            "launched by torchrun without a process group: every rank trains the whole on its own; "
            "call torch.distributed.init_process_group() before",
            RuntimeWarning,
            stacklevel=3,
        )
    return ALONE


@cache
def _gloo_beside(world: Any) -> Any:
    """A group of the same ranks, made once, that exchanges what lies in main memory."""
    return dist.new_group(backend="gloo")


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """The group that torchrun's environment describes, and the device of this rank in it.

    Nothing happens without torchrun, or if there is a group already.
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
    """A short hash of what arrays hold."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(f"{array.dtype} {tuple(array.shape)}".encode())
        if isinstance(array, Tensor):  # as bytes, for NumPy lacks some of torch's dtypes
            array = array.detach().cpu().flatten().view(torch.uint8).numpy()
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _portable(error: Exception) -> Exception:
    """The exception, or what can be said of it if it does not survive pickling."""
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
