"""Checks at the API's edge: each names the argument, what came and what is wanted."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

ArrayLike = Any

BACKENDS = ("auto", "cpu", "cuda")

_EXACT_IN_FLOAT32 = "?bBhHe"
_DLPACK_CUDA = 2


def as_float_array(array: ArrayLike, name: str) -> np.ndarray:
    """A NumPy array of float32 or float64 with the same values, without a copy where possible.

    bool, 8 and 16 bit integers and float16 become float32, which holds them exactly; other integers
    and extended floats are rounded to float64. CUDA and sparse tensors are refused.
    """
    if hasattr(array, "tocsr"):
        raise TypeError(f"{name} is sparse; it must be a dense array ({name}.toarray())")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill or drop the masked entries first")
    if type(array).__module__.split(".")[0] == "torch":
        if in_gpu_memory(array):
            array = array.cpu()
        if array.device.type != "cpu":
            raise TypeError(f"{name} is a tensor on {array.device}; pass its .cpu()")
        if str(array.layout) != "torch.strided":
            raise TypeError(f"{name} is a {array.layout} tensor; it must be a dense one")
        array = array.detach().resolve_conj()
        array = (array.float() if array.dtype.itemsize == 2 and array.is_floating_point()
                 else array).numpy()  # fmt: skip
    elif in_gpu_memory(array):
        from numba import cuda

        own = hasattr(array, "__cuda_ndarray__")
        array = (array if own else cuda.as_cuda_array(array)).copy_to_host()
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular numeric array: {error}") from None
    return array.astype(float_type(array.dtype, name), copy=False)


def float_type(dtype: np.dtype, name: str) -> type[np.floating]:
    """What numbers of a type are computed in."""
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric (real), not of dtype {dtype}")
    exact = dtype.char in _EXACT_IN_FLOAT32 or dtype == np.float32
    return np.float32 if exact else np.float64


def in_gpu_memory(array: ArrayLike) -> bool:
    """Whether an array lies in the memory of an NVIDIA GPU."""
    if type(array).__module__.split(".")[0] == "torch":
        return bool(array.is_cuda)
    if hasattr(array, "__cuda_ndarray__") or hasattr(array, "__cuda_array_interface__"):
        return True
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return False
    return array.__dlpack_device__()[0] == _DLPACK_CUDA


def check_backend(backend: Any, array: ArrayLike) -> str:
    """Where to compute, "cpu" or "cuda"; "auto" means where the array is."""
    check_choice(backend, BACKENDS, "backend")
    if backend == "auto":
        return "cuda" if in_gpu_memory(array) else "cpu"
    return backend


def check_matrix_shape(shape: tuple[int, ...], name: str, axes: str) -> None:
    """Refuse what is not two-dimensional or has an empty axis."""
    if len(shape) != 2:
        raise ValueError(f"{name} must be 2-D {axes}, not of shape {shape}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, but has shape {shape}")


def read_only(array: np.ndarray) -> np.ndarray:
    """A C-contiguous, aligned, read-only view (a copy only if it must be).

    One layout and one flag for every input mean one compiled kernel for every input.
    """
    array = np.require(array, requirements=["C", "A"])
    if type(array) is not np.ndarray or array.flags.writeable:
        array = array.view(np.ndarray)
        array.flags.writeable = False
    return array


def check_entries(array: np.ndarray, name: str, *, non_negative: bool = False) -> float:
    """Refuse NaN and inf, and negative entries if asked; says where the first one is.

    Returns the largest entry. Goes over the array once, a few rows at a time.
    """
    limit = 0.0 if non_negative else -np.finfo(np.float64).max
    largest = limit
    step = max(1, 2**18 // (array.shape[1] * array.itemsize))
    if not array.flags.c_contiguous:
        step = len(array)
    for start in range(0, len(array), step):
        rows = array[start : start + step]
        high = float(rows.max())
        if not (limit <= rows.min() and high < np.inf):
            good = (limit <= rows) & (rows < np.inf)
            i, j = divmod(int(np.argmin(good)), array.shape[1])
            raise bad_entry(float(rows[i, j]), f"{name}[{start + i}, {j}]")
        largest = max(largest, high)
    return largest


def bad_entry(entry: float, where: str, place: str = "") -> ValueError:
    """What is wrong with an entry: it is not finite, or it is a negative similarity."""
    if math.isfinite(entry):
        wanted = "similarities must not be negative (shift them, or clip them)"
    else:
        wanted = "every entry must be finite"
    return ValueError(f"{where} is {entry}{place}; {wanted}")


def check_budget(budget: Any, n: int, *, fraction: bool = False, name: str = "budget") -> int:
    """A count in 1..n; with `fraction`, also a float in (0, 1), meaning ``ceil(budget * n)``."""
    wanted = f"a count in 1..{n}" + (" or a fraction in (0, 1)" if fraction else "")
    if isinstance(budget, np.ndarray) and budget.ndim == 0:
        budget = budget.item()
    if isinstance(budget, int | np.integer) and not isinstance(budget, bool | np.bool_):
        if not 1 <= budget <= n:
            raise ValueError(f"{name} must be {wanted}, not {budget}")
        return int(budget)
    if (
        fraction
        and isinstance(budget, float | np.floating)
        and not isinstance(budget, bool | np.bool_)
    ):
        if not 0 < budget < 1:
            raise ValueError(f"{name} must be {wanted}, not {budget}")
        return portion(budget, n)
    raise TypeError(f"{name} must be {wanted}, not {budget!r}")


def portion(fraction: float | np.floating, n: int) -> int:
    """``ceil(fraction * n)`` as written: 0.1 of 30 is 3, though in floats ``0.1 * 30 > 3``."""
    return math.ceil(Fraction(str(fraction)) * n)


def check_indices(indices: ArrayLike, n: int, name: str = "indices") -> np.ndarray:
    """A 1-D int64 array of positions in 0..n-1."""
    array = np.asarray(indices)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, not of shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not of dtype {array.dtype}")
    bad = np.flatnonzero((array < 0) | (array >= n))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}; must be in 0..{n - 1}")
    return array.astype(np.int64)


def check_labels(labels: ArrayLike, n: int) -> np.ndarray:
    """One label per row: a 1-D array of integers, booleans or strings."""
    if isinstance(labels, np.ma.MaskedArray):
        raise TypeError("labels is a masked array; fill or drop the masked entries first")
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    elif isinstance(labels, np.ndarray) and labels.dtype.kind in "OT":
        labels = labels.tolist()
    elif isinstance(labels, Iterable) and not isinstance(labels, np.ndarray | str | bytes):
        labels = list(labels)
    kinds = {type(label) for label in labels} if isinstance(labels, list) else set()
    if len(kinds) > 1 and kinds & {str, bytes}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"labels must be of one kind, not a mixture of {names}")
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"labels must have one entry per row of X: ({n},), not {array.shape}")
    if array.dtype.kind not in "iubUS":
        raise TypeError(f"labels must be integers, booleans or strings, not {array.dtype}")
    return array


def check_choice(value: Any, choices: Iterable[str], name: str) -> str:
    """One of a few names."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def check_count(value: Any, name: str, low: int, high: int | None = None) -> int:
    """A whole number of at least `low`, and at most `high`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a count, not {value!r}")
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {wanted}, not {value}")
    return int(value)


def check_random_state(random_state: Any) -> np.random.Generator:
    """A NumPy generator from None, a seed, or a generator (used as it is)."""
    if isinstance(random_state, np.random.RandomState):
        raise TypeError("random_state must be None, an int or a numpy.random.Generator")
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"random_state must be None, a non-negative int or a numpy.random.Generator, "
            f"not {random_state!r}"
        ) from None


def check_memory(memory: Any) -> int:
    """A number of bytes; None means a quarter of what the machine has free now."""
    if memory is None:
        return available_memory() // 4
    if (
        isinstance(memory, bool)
        or not isinstance(memory, int | float | np.number)
        or not memory >= 0
    ):
        raise ValueError(f"memory must be a number of bytes >= 0 or None, not {memory!r}")
    return int(min(memory, 2**62))


def available_memory() -> int:
    """Bytes of memory that can be had without swapping; 4 GiB where the system does not say."""
    import os

    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30
