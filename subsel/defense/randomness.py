"""All randomness of a training run: a function of the seed, the epoch and the rank alone."""

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
    """Randomness of one epoch (None: of what comes before), a function of the arguments alone.

    Inside, torch's global state is set, for the model's own draws such as dropout; afterwards it
    is put back.  The generator, on the CPU, is for order and augmentation, and the same on every
    rank.
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
    """What decides the order of the examples of an epoch, before it is used for anything else."""
    return torch.Generator().manual_seed(_words(seed, epoch, 2)[1])


def _words(seed: int, epoch: int | None, count: int) -> list[int]:
    key = () if epoch is None else (epoch,)
    return np.random.SeedSequence(seed, spawn_key=key).generate_state(count).tolist()


def numpy_generator(generator: torch.Generator, part: Part) -> np.random.Generator:
    """Of a batch, one for each part; `generator` stays the same on all ranks."""
    draw = int(torch.randint(2**62, (), generator=generator))
    return np.random.default_rng(draw + part.rows.start)


def augmentation(augment: bool | Augment) -> Callable[[Tensor, torch.Generator, Part], Tensor]:
    """`augment` as a function of (this rank's part of a batch, generator, which part it is)."""

    def flipped_and_cropped(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        return flip_and_crop(x, generator, batch=(part.rows.start, part.total))

    def augmented(x: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        assert callable(augment)
        if len(x) < part.total:
            # What is drawn for a part may not be what is drawn for the other ranks' parts.
            draw = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator().manual_seed(draw + part.rows.start)
        return augment(x, generator)

    if augment is True:
        return flipped_and_cropped
    return augmented if augment else lambda x, generator, part: x
