"""Numbers from what a file held, checked before anything is made of them."""

from typing import Any

import numpy as np

__all__ = ["check_one_size", "numbers", "whole_numbers"]


def numbers(value: Any, name: str) -> np.ndarray:
    """An array of numbers from an array, a number, or lists of these.

    Raises
    ------
    ValueError
        There is something else in it, or rows of different lengths.
    """
    # Looked at before NumPy sees it: it would make room for the longest of many texts in each.
    if other := _other_than_numbers(value):
        raise ValueError(f"{name} must be numbers, got {other}")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} must be numbers in rows of one length") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got {array.dtype}")
    return array


def _other_than_numbers(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return next(filter(None, map(_other_than_numbers, value)), None)
    if isinstance(value, np.ndarray | np.generic | int | float):
        return None
    return "text" if isinstance(value, str | bytes) else type(value).__name__


def whole_numbers(value: Any, name: str) -> np.ndarray:
    """Integers as int64, (n,); nothing is rounded, and nothing wraps round.

    Raises
    ------
    ValueError
        They are not of an integer type, or beyond int64.
    """
    array = numbers(value, name)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be below 2**63, got {array.max()}")
    return array.astype(np.int64).reshape(-1)


def check_one_size(images: np.ndarray, others: np.ndarray, name: str, other_name: str) -> None:
    """Two stacks of images (n, ...) must not be empty, and their images of one shape.

    Raises
    ------
    ValueError
        They are empty, or differ.
    """
    for stack, its_name in ((images, name), (others, other_name)):
        if stack.size == 0:
            raise ValueError(f"{its_name} are empty: an array of {stack.shape}")
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"{name} are of {images.shape[1:]} and {other_name} of {others.shape[1:]}: "
            "one size is wanted"
        )
