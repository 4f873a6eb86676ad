"""Random flips, crops and mixtures of whole batches, on the device of the batch."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["cutmix", "flip_and_crop"]


def flip_and_crop(
    images: Tensor,
    generator: torch.Generator,
    padding: int = 4,
    *,
    batch: tuple[int, int] | None = None,
) -> Tensor:
    """Flip each image left to right with probability 1/2, then pad and crop it at random.

    Parameters
    ----------
    images : Tensor of any dtype, (n, channels, height, width)
    generator : torch.Generator
        On the CPU, so that every device sees the same draws.
    padding : int, default 4
        Pixels of reflect padding on each side; less than height and width.
    batch : (int, int), optional
        The images are a part of a larger batch: its first position and the batch's size. The images
        and the generator's state are then the same as if the whole batch had been passed.

    Returns
    -------
    Tensor, (n, channels, height, width)

    Raises
    ------
    ValueError
        If the images are not 4-D, or not larger than the padding.
    """
    if images.ndim != 4 or min(images.shape[2:]) <= padding:
        raise ValueError(
            f"images must be (n, channels, height, width), larger than the padding of {padding}, "
            f"got {tuple(images.shape)}"
        )
    n, _, height, width = images.shape
    first, total = batch or (0, n)
    rows = _shifted(total, height, padding, generator)
    columns = _shifted(total, width, padding, generator)
    flip = torch.randint(2, (total, 1), generator=generator, dtype=torch.bool)
    columns = torch.where(flip, width - 1 - columns, columns)
    rows, columns = rows[first : first + n], columns[first : first + n]
    # One gather does padding, crop and flip, for any dtype.
    each = torch.arange(n)[:, None, None].to(images.device)
    rows, columns = rows.to(images.device), columns.to(images.device)
    return images.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def cutmix(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste into each image a rectangle of another image of the batch (Yun et al., ICCV 2019).

    The rectangle has the proportions of the images, lies wholly inside, and is at the same place in
    all of them. The share of an image that it covers is uniform in [0, 1], up to rounding to
    pixels.

    Parameters
    ----------
    images : Tensor of any dtype, (n, channels, height, width)
    rng : numpy.random.Generator

    Returns
    -------
    mixed : Tensor, (n, channels, height, width)
    other : Tensor of int64, (n,)
        The image whose rectangle was pasted into each image, on the images' device.
    share : float
        The share of each image that is left of it. This is the weight of its own label in the loss;
        the other image's label has the rest.

    Raises
    ------
    TypeError
        If the images are not a tensor, or the generator is not NumPy's.
    ValueError
        If the images are not 4-D, or have no pixels.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    if images.ndim != 4 or 0 in images.shape[2:]:
        raise ValueError(f"images must be (n, channels, height, width), got {tuple(images.shape)}")
    n, _, height, width = images.shape
    other = torch.from_numpy(rng.permutation(n)).to(images.device)
    side = np.sqrt(1 - rng.random())
    rows, columns = round(height * side), round(width * side)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    where = (..., slice(top, top + rows), slice(left, left + columns))
    mixed = images.clone()
    mixed[where] = images[where][other]
    return mixed, other, 1 - rows * columns / (height * width)


def _shifted(n: int, length: int, padding: int, generator: torch.Generator) -> Tensor:
    """For each of n images the positions under a randomly shifted window, (n, length)."""
    shift = torch.randint(-padding, padding + 1, (n, 1), generator=generator)
    last = length - 1
    return last - (last - (torch.arange(length) + shift).abs()).abs()
