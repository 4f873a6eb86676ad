"""Checks of numbers that come from a file."""

from typing import Any

import numpy as np

__all__ = ["check_one_size", "numbers", "whole_numbers"]


def numbers(value: Any, name: str) -> np.ndarray:
    """An array of numbers from an array, a number, or lists of these.

    Raises
    ------
    ValueError
        If it contains anything else, or rows of different lengths.
    """
    # Checked before NumPy reads it, which would allocate, for each text, the size of the longest.
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
    """Integers as int64, (n,). Nothing is rounded, and nothing overflows.

    Raises
    ------
    ValueError
        If they do not have an integer type, or do not fit into int64.
    """
    array = numbers(value, name)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be below 2**63, got {array.max()}")
    return array.astype(np.int64).reshape(-1)


def check_one_size(images: np.ndarray, others: np.ndarray, name: str, other_name: str) -> None:
    """Check that two stacks of images (n, ...) are not empty and have images of one shape.

    Raises
    ------
    ValueError
        If a stack is empty, or the shapes differ.
    """
    for stack, its_name in ((images, name), (others, other_name)):
        if stack.size == 0:
            raise ValueError(f"{its_name} must not be empty, but have shape {stack.shape}")
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"{name} and {other_name} must have images of one shape, not {images.shape[1:]} and "
            f"{others.shape[1:]}"
        )
