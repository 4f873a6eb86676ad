"""All random numbers of a training run depend only on the seed, the epoch and the rank."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from subsel.defense.augment import flip_and_crop
from subsel.defense.parallel import Part

__all__ = ["Augment", "augmentation", "numpy_generator", "order_generator", "seeded"]

Augment = Callable[[Tensor, torch.Generator], Tensor]


@contextmanager
def seeded(
    seed: int, epoch: int | None, device: torch.device, rank: int = 0
) -> Iterator[torch.Generator]:
    """Context of an epoch's random numbers (None: those before training), set by the arguments.

    Inside, torch's global state is set, for random numbers that the model draws itself, such as
    dropout; afterwards it is restored. The generator, on the CPU, is for order and augmentation,
    and is the same on every rank.
    """
    words = _words(seed, epoch, 2 + rank)
    own = words[0] if rank == 0 else words[-1]
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(own)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        yield order_generator(seed, epoch)


def order_generator(seed: int, epoch: int | None) -> torch.Generator:
    """A generator for the order of an epoch's examples, before it is used for anything else."""
    return torch.Generator().manual_seed(_words(seed, epoch, 2)[1])


def _words(seed: int, epoch: int | None, count: int) -> list[int]:
    key = () if epoch is None else (epoch,)
    return np.random.SeedSequence(seed, spawn_key=key).generate_state(count).tolist()


def numpy_generator(generator: torch.Generator, part: Part) -> np.random.Generator:
    """A NumPy generator for each part of a batch; `generator` stays the same on all ranks."""
    draw = int(torch.randint(2**62, (), generator=generator))
    return np.random.default_rng(draw + part.rows.start)


def augmentation(augment: bool | Augment) -> Callable[[Tensor, torch.Generator, Part], Tensor]:
    """`augment` as a function of this rank's part of a batch, a generator, and the `Part`."""

    def flipped_and_cropped(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        return flip_and_crop(x, generator, batch=(part.rows.start, part.total))

    def augmented(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        assert callable(augment)
        if len(x) < part.total:
            # The random numbers for a part must differ from those for the other ranks' parts.
            draw = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator().manual_seed(draw + part.rows.start)
        return augment(x, generator)

    if augment is True:
        return flipped_and_cropped
    return augmented if augment else lambda x, generator, part: x
