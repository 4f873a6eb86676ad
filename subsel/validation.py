"""Checks of arguments: each error names the argument, what it was, and what it must be."""

import math
import numbers
import operator
import reprlib
import sys
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from subsel.memory import recently_available
from subsel.tables import as_array, is_table
from subsel.types import ArrayLike
from subsel.types import Metric as Metric

BACKENDS = ("auto", "cpu", "cuda")

_EXACT_IN_FLOAT32 = "?bBhHef"
_DLPACK_CUDA = 2
_LARGEST_COUNT = 2**63 - 1  # of an integer of 64 bits
_FLOATS_OF_NUMPY = {"torch.float16", "torch.float32", "torch.float64"}


def as_float_array(array: ArrayLike, name: str) -> np.ndarray:
    """A NumPy array of float32 or float64 with the same values, without a copy where possible.

    bool, 8 and 16 bit integers and float16 become float32, which holds them exactly; other
    integers, extended floats and objects that are real numbers are rounded to float64. A tensor on
    a GPU is copied; sparse and masked arrays are refused.
    """
    array, number = as_held_array(array, name)
    return array.astype(number, copy=False)


def as_held_array(array: ArrayLike, name: str) -> tuple[np.ndarray, np.dtype]:
    """The same, but numbers narrower than the type that `as_float_array` gives stay as they are.

    Returns the array, and that type.
    """
    array = as_host_array(array, name)
    if array.dtype.kind == "O":
        array = _real_numbers(array, name)
    number = np.dtype(float_type(array.dtype, name))
    if array.dtype.itemsize < number.itemsize or array.dtype == number:
        return array, number
    with np.errstate(over="ignore"):  # numbers that overflow become inf, which is refused
        return array.astype(number), number


def as_host_array(array: Any, name: str) -> np.ndarray:
    """An array-like as a NumPy array of any dtype, without a copy if possible."""
    if type(array) is np.ndarray:
        return array
    if is_table(array):
        return as_array(array, name)
    if hasattr(array, "tocsr"):
        raise TypeError(f"{name} is sparse; it must be a dense array ({name}.toarray())")
    if isinstance(array, Mapping | Set):
        raise TypeError(f"{name} must be an array or a list, not a {type(array).__name__}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill or drop the masked entries first")
    if isinstance(array, _tensor_type()):
        return _array_of_tensor(array, name)
    if in_gpu_memory(array):
        from numba import cuda

        own = hasattr(array, "__cuda_ndarray__")
        return np.asarray((array if own else cuda.as_cuda_array(array)).copy_to_host())
    if isinstance(array, list | tuple):
        array = _readable(array, name)
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        return np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular numeric array: {error}") from None
    except Exception as error:  # errors of the library that made the array
        raise TypeError(f"{name} cannot be read as an array: {error}") from error


def _readable(rows: list | tuple, name: str, levels: int = 2) -> Any:
    """Nested lists with arrays in place of torch tensors, which NumPy cannot always read."""
    kinds = set(map(type, rows))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        raise TypeError(f"{name} has masked entries; fill or drop them first")
    if not any(issubclass(kind, (list, tuple, _tensor_type())) for kind in kinds):
        return rows
    if levels == 0:
        raise ValueError(f"{name} must be an array or a list of lists, not lists nested deeper")

    def row(entry: Any) -> Any:
        if isinstance(entry, list | tuple):
            return _readable(entry, name, levels - 1)
        return _array_of_tensor(entry, name) if isinstance(entry, _tensor_type()) else entry

    return [row(entry) for entry in rows]


def _tensor_type() -> Any:
    """The type of torch's tensors, or no type where torch has not been imported."""
    return getattr(sys.modules.get("torch"), "Tensor", ())


def _array_of_tensor(tensor: Any, name: str) -> np.ndarray:
    """A dense real tensor as an array, without a copy if it lies in main memory."""
    if tensor.is_cuda:
        tensor = tensor.cpu()
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} is a tensor on {tensor.device}; pass its .cpu()")
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        layout = "nested" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} is a {layout} tensor; it must be a dense one")
    if tensor.is_quantized:
        raise TypeError(f"{name} is a quantized tensor; pass its .dequantize()")
    if tensor.is_complex():
        raise TypeError(f"{name} must be numeric (real), not of dtype {tensor.dtype}")
    try:
        # torch may delay a change of sign and only mark the tensor. NumPy does not know this mark.
        tensor = tensor.detach().resolve_neg()
        # NumPy lacks bfloat16 and floats of 8 bits. float32 can represent all their values.
        unknown = tensor.is_floating_point() and str(tensor.dtype) not in _FLOATS_OF_NUMPY
        return (tensor.float() if unknown else tensor).numpy()
    except (TypeError, RuntimeError):
        raise TypeError(
            f"{name} is a tensor of {tensor.dtype}, which NumPy cannot read; convert it first, "
            f"for instance by {name}.to(torch.float32)"
        ) from None


def _real_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """An array of Python objects as float64, if every one of them is a real number."""
    if array.ndim == 0:
        raise TypeError(f"{name} must be a numeric array, not {reprlib.repr(array.item())}")
    wrong = {kind for kind in set(map(type, array.flat)) if not _is_real(kind)}
    if not wrong:
        try:
            return array.astype(np.float64)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"{name} has a number that float64 cannot hold: {error}") from None
    at = next(i for i, entry in enumerate(array.flat) if type(entry) in wrong)
    entry = array.flat[at]
    where = ", ".join(map(str, np.unravel_index(at, array.shape)))
    missing = entry is None or type(entry).__name__ in ("NAType", "NaTType")
    cure = "fill or drop missing entries first" if missing else "convert them first"
    raise TypeError(
        f"{name}[{where}] is {reprlib.repr(entry)}; entries must be real numbers ({cure})"
    )


def _is_real(kind: type) -> bool:
    """Whether a type is one of real numbers or truth values. Durations are neither."""
    if issubclass(kind, np.timedelta64):  # which NumPy lists among the integers
        return False
    return issubclass(kind, (numbers.Real, Decimal, np.bool_))


def float_type(dtype: np.dtype, name: str) -> type[np.floating]:
    """The type, float32 or float64, in which numbers of a type are computed."""
    if dtype.type.__module__.split(".")[0] == "ml_dtypes" and "complex" not in dtype.name:
        return np.float32  # float32 can represent all values of these types
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric (real), not of dtype {dtype}")
    return np.float32 if dtype.char in _EXACT_IN_FLOAT32 else np.float64


def in_gpu_memory(array: Any) -> bool:
    """Whether an array lies in the memory of an NVIDIA GPU."""
    if isinstance(array, _tensor_type()):
        return bool(array.is_cuda)
    if hasattr(array, "__cuda_ndarray__") or hasattr(array, "__cuda_array_interface__"):
        return True
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return False
    try:
        return array.__dlpack_device__()[0] == _DLPACK_CUDA
    except TypeError:  # of older pyarrow, for an array of vectors
        return False


def check_backend(backend: Any, array: ArrayLike) -> str:
    """Where to compute, "cpu" or "cuda". For "auto" it is the place of the array."""
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
    """A C-contiguous, aligned, read-only view, or a copy if a view is impossible.

    One layout and one flag for every input mean one compiled kernel for every input.
    """
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, requirements=["C", "A"])
    if type(array) is not np.ndarray or array.flags.writeable:
        array = array.view(np.ndarray)
        array.flags.writeable = False
    return array


def check_entries(
    array: np.ndarray, name: str, *, non_negative: bool = False, what: str = "similarities",
    dtype: Any = None,
) -> float:  # fmt: skip
    """Refuse NaN and inf and, if asked, negative entries. The error says where the first one is.

    Returns the largest entry. Reads the array once, a few rows at a time, as numbers of `dtype`.
    """
    dtype = array.dtype if dtype is None else dtype
    limit = 0.0 if non_negative else -np.finfo(np.float64).max
    largest = limit
    step = max(1, 2**18 // (array.shape[1] * array.itemsize))
    if not array.flags.c_contiguous and array.dtype == dtype:
        step = len(array)
    for start in range(0, len(array), step):
        rows = array[start : start + step].astype(dtype, copy=False)
        high = float(rows.max())
        if not (limit <= rows.min() and high < np.inf):
            good = (limit <= rows) & (rows < np.inf)
            i, j = divmod(int(np.argmin(good)), array.shape[1])
            raise bad_entry(float(rows[i, j]), f"{name}[{start + i}, {j}]", what=what)
        largest = max(largest, high)
    return largest


def check_stored(
    matrix: Any, name: str, what: str = "similarities", *, non_negative: bool = True
) -> float:
    """`check_entries` for the stored entries of compressed rows."""
    good = np.isfinite(matrix.data)
    if non_negative:
        good &= matrix.data >= 0
    for at in np.flatnonzero(~good)[:1]:
        i, j = position(matrix, at)
        wanted = "finite and not negative" if non_negative else "finite"
        raise ValueError(f"{name}[{i}, {j}] is {matrix.data[at]}; {what} must be {wanted}")
    return float(matrix.data.max(initial=0.0))


def position(matrix: Any, at: int) -> tuple[int, int]:
    """The row and the column of an entry of compressed rows."""
    return int(np.searchsorted(matrix.indptr, at, side="right")) - 1, int(matrix.indices[at])


def bad_entry(entry: float, where: str, place: str = "", what: str = "similarities") -> ValueError:
    """The error for an entry that is not finite, or is negative."""
    if math.isfinite(entry):
        wanted = f"{what} must not be negative (shift them, or clip them)"
        if where.startswith("similarity["):  # a matrix that a user gave
            wanted += "; for features, use from_features"
    else:
        wanted = "every entry must be finite"
    return ValueError(f"{where} is {entry}{place}; {wanted}")


def as_csr(matrix: Any, name: str, *, truth: bool = False) -> Any:
    """A sparse matrix in compressed rows of float32 or float64, without duplicate entries.

    A matrix that has this form already is not copied. Duplicate numbers are summed, and duplicate
    truth values are combined by "or". With `truth`, truth values are not made numbers. A malformed
    matrix is refused, because compiled code would read memory outside of it. O(nnz).
    """
    from scipy.sparse import csr_array, issparse  # takes longer to import than subsel

    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric (real), not of dtype {matrix.dtype}")
    if not issparse(matrix):
        raise TypeError(f"{name} must be a scipy sparse matrix, not a {type(matrix).__name__}")
    _check_sparse(matrix, name)
    number: Any = np.float32 if matrix.dtype.char == "f" else np.float64
    if truth and matrix.dtype == bool:
        number = bool
    with np.errstate(over="ignore"):
        rows = (matrix if matrix.dtype == number else matrix.astype(number)).tocsr()
    stored = _check_compressed(rows, name)
    # Created again, because a matrix remembers whether it was in order before its arrays changed.
    parts = rows.data[:stored], rows.indices[:stored], rows.indptr
    result = csr_array(parts, shape=rows.shape)
    if not result.has_canonical_format:
        result = result.copy()
        result.sum_duplicates()
    if matrix.dtype.kind == "b" and number is not bool:  # a duplicate of true is still true
        np.minimum(result.data, 1, out=result.data)
    return result


def _check_sparse(matrix: Any, name: str) -> None:
    """Refuse a matrix whose parts do not fit together. Compressed rows are checked later."""
    if matrix.format in ("csc", "bsr"):
        _check_compressed(matrix, name)
    elif matrix.format == "coo":
        for axis, at in enumerate(matrix.coords):
            if np.shape(at) != np.shape(matrix.data):
                raise _malformed(matrix, name, f"{len(at)} indices for {len(matrix.data)} entries")
            _check_within(matrix, name, at, matrix.shape[axis])
    elif matrix.format == "dia" and len(matrix.data) != len(matrix.offsets):
        what = f"{len(matrix.offsets)} offsets for {len(matrix.data)} diagonals"
        raise _malformed(matrix, name, what)
    elif matrix.format == "lil" and [*map(len, matrix.rows)] != [*map(len, matrix.data)]:
        raise _malformed(matrix, name, "its rows have other lengths than its data")


def _check_compressed(matrix: Any, name: str) -> int:
    """Refuse compressed rows or columns that are malformed; the number of entries (or blocks)."""
    block = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    lines, across = (size // step for size, step in zip(matrix.shape, block, strict=True))
    if matrix.format == "csc":
        lines, across = across, lines
    starts, indices = matrix.indptr, matrix.indices
    if np.shape(starts) != (lines + 1,):
        what = f"indptr has shape {np.shape(starts)}, not ({lines + 1},)"
        raise _malformed(matrix, name, what)
    if starts[0] != 0 or (starts[1:] < starts[:-1]).any():
        raise _malformed(matrix, name, "indptr must start at 0 and never fall")
    stored, held = int(starts[-1]), min(len(indices), len(matrix.data))
    if stored > held:
        raise _malformed(matrix, name, f"indptr ends at {stored}, beyond its {held} entries")
    _check_within(matrix, name, indices[:stored], across)
    return stored


def _check_within(matrix: Any, name: str, indices: np.ndarray, size: int) -> None:
    if indices.dtype.kind not in "iu":
        raise _malformed(matrix, name, f"its indices are of dtype {indices.dtype}")
    if len(indices) and not (indices.min() >= 0 and indices.max() < size):
        bad = indices[(indices < 0) | (indices >= size)][0]
        raise _malformed(matrix, name, f"it has an index {bad}, not in 0..{size - 1}")


def _malformed(matrix: Any, name: str, what: str) -> ValueError:
    shape = f"{matrix.format} matrix of shape {matrix.shape}"
    return ValueError(f"{name} is a malformed {shape}: {what}")


def as_scalar(value: Any) -> Any:
    """An array or tensor without axes as a NumPy scalar; anything else unchanged."""
    if isinstance(value, _tensor_type()) and value.ndim == 0:
        value = _array_of_tensor(value, "a number")
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def whole_number(value: Any) -> int | None:
    """An integer of any library as an int; None for anything else, also for truth values."""
    value = as_scalar(value)
    if isinstance(value, (bool, np.bool_, np.timedelta64, np.ndarray, _tensor_type())):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_number(
    value: Any, name: str, low: float, high: float = math.inf, ends: str = "()"
) -> Any:
    """Check a real number between `low` and `high`; a square bracket in `ends` includes a limit."""
    value = as_scalar(value)
    wanted = f"a number in {ends[0]}{low}, {high}{ends[1]}"
    if isinstance(value, bool | np.bool_) or not _is_real(type(value)):
        raise TypeError(f"{name} must be {wanted}, not {reprlib.repr(value)}")
    at_end = (value == low and ends[0] == "[") or (value == high and ends[1] == "]")
    if not (low < value < high or at_end):
        raise ValueError(f"{name} must be {wanted}, not {value}")
    return value


def check_count(value: Any, name: str, low: int, high: int | None = None) -> int:
    """Check a whole number of at least `low` and at most `high`."""
    wanted = f"at least {low}" if high is None else f"in {low}..{high}"
    count = whole_number(value)
    if count is None:
        raise TypeError(f"{name} must be a count {wanted}, not {_as_came(value)}")
    if count < low or count > (_LARGEST_COUNT if high is None else high):
        most = f" and at most {_LARGEST_COUNT}" if high is None and count > low else ""
        raise ValueError(f"{name} must be {wanted}{most}, not {count}")
    return count


def check_budget(budget: Any, n: int, *, fraction: bool = False, name: str = "budget") -> int:
    """Check a count in 1..n or, with `fraction`, a float in (0, 1): ``ceil(budget * n)``."""
    wanted = f"a count in 1..{n}" + (" or a fraction in (0, 1)" if fraction else "")
    count = whole_number(budget)
    if count is not None:
        if not 1 <= count <= n:
            raise ValueError(f"{name} must be {wanted}, not {count}")
        return count
    budget = as_scalar(budget)
    if not isinstance(budget, float | np.floating):
        raise TypeError(f"{name} must be {wanted}, not {reprlib.repr(budget)}")
    if 0 < budget < 1:
        if fraction:
            return portion(budget, n)
        cure = f" (that fraction of {n} is the count {portion(budget, n)})"
    elif budget == 1:
        cure = f" (for all, pass {n}; for one, the integer 1)"
    else:
        cure = _cure(budget) if 1 <= budget <= n else ""
    raise ValueError(f"{name} must be {wanted}, not {budget}{cure}")


def _as_came(value: Any) -> str:
    """The value that was passed for a count, and what to pass instead if that is clear."""
    value = as_scalar(value)
    return reprlib.repr(value) + (_cure(value) if isinstance(value, float | np.floating) else "")


def _cure(number: Any) -> str:
    whole = math.isfinite(number) and number == int(number)
    return f" (pass the integer {int(number)})" if whole else ""


def portion(fraction: float | np.floating, n: int) -> int:
    """``ceil(fraction * n)`` as written: 0.1 of 30 is 3, though in floats ``0.1 * 30 > 3``."""
    return math.ceil(Fraction(str(fraction)) * n)


def check_indices(indices: ArrayLike, n: int, name: str = "indices") -> np.ndarray:
    """A 1-D int64 array of positions in 0..n-1."""
    array = as_host_array(indices, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, not of shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind == "O" and all(whole_number(index) is not None for index in array):
        array = np.array([whole_number(index) for index in array])
    if array.dtype.kind not in "iu":
        cure = f" (for whole numbers, pass {name}.astype(int))" if array.dtype.kind == "f" else ""
        cure = f" (a mask must have shape ({n},))" if array.dtype.kind == "b" else cure
        raise TypeError(f"{name} must be integers, not of dtype {array.dtype}{cure}")
    bad = np.flatnonzero((array < 0) | (array >= n))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}; it must be in 0..{n - 1}")
    return array.astype(np.int64)


def check_distinct(indices: ArrayLike | None, n: int, name: str) -> np.ndarray:
    """Checked indices without duplicates. A mask of n booleans means its true positions."""
    if indices is None:
        return np.empty(0, np.int64)
    array = as_host_array(indices, name)
    if array.dtype == bool and array.shape == (n,):
        return np.flatnonzero(array)
    array = check_indices(array, n, name)
    if len(array) and (counts := np.bincount(array)).max() > 1:
        raise ValueError(f"{name} contains {np.argmax(counts > 1)} more than once")
    return array


def check_values(
    values: ArrayLike, name: str, n: int, low: float = -math.inf, ends: str = "(",
    of: str = "candidate", high: float = math.inf,
) -> np.ndarray:  # fmt: skip
    """Check one finite number for each of n candidates (or other things); float64.

    Each must be above `low` (with ``ends="["``, at least `low`) and at most `high`.
    """
    array = as_float_array(values, name).astype(np.float64)
    if array.shape != (n,):
        raise ValueError(
            f"{name} must have one number for each {of}, ({n},); got the shape "
            f"{array.shape}{flatter(array.shape, name)}"
        )
    enough = (array >= low if ends == "[" else array > low) & (array <= high)
    bad = np.flatnonzero(~(np.isfinite(array) & enough))
    if len(bad):
        above = "of at least" if ends == "[" else "above"
        wanted = "a finite number" + (f" {above} {low:g}" if low > -math.inf else "")
        wanted += f" and at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}; it must be {wanted}")
    return array


def flatter(shape: tuple[int, ...], name: str) -> str:
    """What to pass instead of a matrix of one column or one row, for an error."""
    return f" (pass np.ravel({name}))" if len(shape) == 2 and 1 in shape else ""


def check_candidates(candidates: ArrayLike, n: int) -> np.ndarray:
    """Check the candidates to which an objective is restricted, at least one, int64."""
    candidates = check_indices(candidates, n, "candidates")
    if not len(candidates):
        raise ValueError("candidates must not be empty")
    return candidates


def check_extension(taken: Any, count: Any, n: int) -> int:
    """Check how many candidates to add, of those that are not taken; see `Objective.extend`."""
    usable = isinstance(taken, np.ndarray) and taken.dtype.kind == "b"
    if not usable or taken.shape != (n,):
        raise ValueError(f"taken must be a bool array of shape ({n},), not {taken!r}")
    if not taken.flags.writeable:
        raise ValueError("taken is read-only; it must be writeable, to mark what is added")
    left = n - int(np.count_nonzero(taken))
    count = check_count(count, "count", 0, n)
    if count > left:
        raise ValueError(
            f"count must be in 0..{left}, because {left} candidates are not taken; not {count}"
        )
    return count


def check_labels(labels: Any, n: int | None = None, name: str = "labels") -> np.ndarray:
    """Check labels: a 1-D array of integers, booleans or strings, of length n unless n is None."""
    if isinstance(labels, Mapping | Set):
        raise TypeError(
            f"{name} must be an array or a list with one label per row, in the order of the rows, "
            f"not a {type(labels).__name__}"
        )
    if isinstance(labels, Iterable) and not _has_array(labels) and not isinstance(labels, str):
        labels = list(labels)
    array = labels if isinstance(labels, list) else as_host_array(labels, name)
    if isinstance(array, list) or (array.dtype.kind in "OT" and array.ndim == 1):
        array = _array_of_labels(list(array), name)
    if n is None and (array.ndim != 1 or not array.size):
        cure = flatter(array.shape, name)
        raise ValueError(f"{name} must be 1-D and not empty, not of shape {array.shape}{cure}")
    if n is not None and (array.ndim != 1 or len(array) != n):
        raise ValueError(
            f"{name} must have shape ({n},), one entry per row of X, not "
            f"{array.shape}{flatter(array.shape, name)}"
        )
    if array.dtype.kind not in "iubUS":
        cure = f" (for whole numbers, pass {name}.astype(int))" if array.dtype.kind == "f" else ""
        raise TypeError(
            f"{name} must be integers, booleans or strings, not of dtype {array.dtype}{cure}"
        )
    return array


def _has_array(values: Any) -> bool:
    """Whether an object has a protocol by which it can be read as an array."""
    known = ("__array__", "__dlpack__", "__cuda_array_interface__", "tocsr")
    if isinstance(values, bytes | memoryview) or is_table(values):
        return True
    return any(hasattr(values, name) for name in known)


def _array_of_labels(labels: list, name: str) -> np.ndarray:
    """A list of labels as an array, after a check that all are of one kind."""
    kinds = set(map(type, labels))
    texts = {kind for kind in kinds if issubclass(kind, str | bytes)}
    if not texts:
        array = as_host_array(labels, name)
        if array.dtype.kind == "O" and array.ndim == 1:
            at = next((i for i, x in enumerate(labels) if whole_number(x) is None), 0)
            raise TypeError(
                f"{name}[{at}] is {reprlib.repr(labels[at])}; {name} must be integers of at most "
                f"64 bits, booleans or strings"
            )
        return array
    of_one_kind = any(all(issubclass(kind, text) for kind in kinds) for text in (str, bytes))
    if not of_one_kind:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{name} must be of one kind, not a mixture of {names}")
    for at, label in enumerate(labels):
        if label[-1:] == ("\0" if isinstance(label, str) else b"\0"):
            raise ValueError(
                f"{name}[{at}] is {label!r}; strings must not end in a null character, which NumPy "
                "drops (use integers, or other names)"
            )
    return np.array(labels)


def check_choice(value: Any, choices: Iterable[str], name: str) -> str:
    """Check that a value is one of a few names."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def check_epochs(epochs: Any, name: str) -> list[int]:
    """A sequence of epochs, counted from 0."""
    if isinstance(epochs, str) or not isinstance(epochs, Iterable):
        raise TypeError(f"{name} must be a sequence of epochs, not {epochs!r}")
    return [check_count(epoch, f"{name}: each epoch", 0) for epoch in epochs]


def check_fraction(value: Any, name: str) -> float:
    """A float in (0, 1)."""
    if not isinstance(value, float | np.floating) or not 0 < value < 1:
        raise ValueError(f"{name} must be a fraction in (0, 1), got {value!r}")
    return float(value)


def check_gains(gains: Any, candidates: np.ndarray, name: str) -> np.ndarray:
    """An objective's gains in float64, checked to be one finite number for each candidate."""
    values = as_float_array(gains, f"{name}.gains").astype(np.float64, copy=False)
    if values.shape != candidates.shape:
        raise ValueError(
            f"{name}.gains returned an array of shape {values.shape} for {len(candidates)} "
            f"candidates; the shape must be {candidates.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{name}.gains returned {values[bad[0]]} for candidate {candidates[bad[0]]}; "
            "gains must be finite"
        )
    return values


def check_random_state(random_state: Any) -> np.random.Generator:
    """A NumPy generator from None, a seed, or a generator (used as it is)."""
    wanted = "None, a non-negative int or a numpy.random.Generator"
    seed = whole_number(random_state)
    seed = random_state if seed is None else seed
    if isinstance(seed, bool | np.bool_ | np.timedelta64 | np.random.RandomState):
        raise TypeError(f"random_state must be {wanted}, not {random_state!r}")
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"random_state must be {wanted}, not {random_state!r}") from None


def check_memory(memory: Any) -> int:
    """Check a number of bytes. None means a quarter of the memory available to this process."""
    if memory is None:
        return recently_available() // 4
    value = as_scalar(memory)
    if isinstance(value, bool | np.bool_) or not _is_real(type(value)) or not value >= 0:
        raise ValueError(f"memory must be a number of bytes >= 0 or None, not {memory!r}")
    return int(min(value, 2**62))
