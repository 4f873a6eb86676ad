"""Reads plain data from untrusted pickles, and executes nothing.

A pickle is a program for a small stack machine, which can call any function of any module.  The
machine in `subsel.defense.pickle_machine` knows only the instructions that plain data needs, and it
calls nothing by name. If a pickle names a function, the name stands for one of the few builders at
the end of this file. Each builder makes one harmless object from checked arguments.

Neither NumPy's own unpickling nor torch's nor Pillow's is used.  NumPy trusts a forged type, torch
runs a second unpickler, and Pillow allocates any size that a file claims. Python's
`pickle.Unpickler` is not used either: it allocates what a length field claims, does not count its
instructions, and cannot be interrupted by Ctrl-C.
"""

import io
import math
import operator
import os
import re
from collections.abc import Callable
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

from subsel.defense.allowance import Allowance, TooLargeError
from subsel.defense.pickle_machine import (
    MAX_STEPS,
    ONLY,
    Fillable,
    Machine,
    Name,
    RefusedError,
    Source,
)

__all__ = ["PickledImage", "restricted_load"]

MAX_DEPTH = 16  # lists in lists
MAX_DIMENSIONS = 8


class PickledImage:
    """A PIL image that was in a pickle.

    Attributes
    ----------
    pixels : ndarray of uint8, (height, width, channels)
        With one channel or three.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


def restricted_load(
    file: BinaryIO, *, name: str = "the pickle", encoding: str = "ASCII", errors: str = "strict"
) -> Any:
    """Unpickle plain containers, numeric NumPy arrays, torch tensors and PIL images.

    Arrays and tensors become `numpy.ndarray`, images become `PickledImage`. Containers are lists,
    tuples and dicts of text, bytes, numbers and ``None``.

    Parameters
    ----------
    file : binary file
        It must be seekable, so that sizes can be checked against the size of the file.
    name : str
        What to call it in an error message.
    encoding, errors : str
        As in `pickle.load`, for files from Python 2.

    Raises
    ------
    ValueError
        If the pickle asks for anything else (the message names it), is damaged, contains itself, or
        would take more memory than `subsel.defense.allowance` grants to a file of its size.
    """
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if other := _other_format(file.read(32)):
        raise ValueError(f"{name} is damaged or not a pickle: {other}")
    file.seek(start)
    allowance = Allowance(size, name)
    machine = Machine(
        Source(file, size), _NAMES, allowance, iter(range(MAX_STEPS)), encoding, errors
    )
    try:
        return _unfold(machine.run(), allowance)
    except TooLargeError:
        raise
    except RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except MemoryError as error:
        raise ValueError(f"{name} needs more memory than this machine has") from error
    except Exception as error:  # a damaged pickle can raise any error
        raise ValueError(
            f"{name} is damaged or not a pickle: it cannot be read beyond byte "
            f"{machine.source.place}"
        ) from error


_OTHER_FORMATS = {
    b"PK\x03\x04": "it is a zip archive, as torch.save and numpy.savez write them. Load it with "
    "torch.load(path, weights_only=True), and write what it holds with pickle.dump",
    b"\x93NUMPY": "it is a file of numpy.save. Load it with numpy.load, and write the array with "
    "pickle.dump",
    b"\x1f\x8b": "it is compressed by gzip. Unpack it first",
    b"\x89PNG": "it is a PNG image. It must be a list of (PIL image, label), written with "
    "pickle.dump",
    b"\xff\xd8\xff": "it is a JPEG image. It must be a list of (PIL image, label), written with "
    "pickle.dump",
    b"<!DOCTYPE": "it is a web page. Download the file itself",
    b"<html": "it is a web page. Download the file itself",
    b"version https://git": "it is a pointer of Git LFS. Fetch the file itself with git lfs pull",
    # A pickle of torch's magic number, in protocol 2: files of torch.save before torch 1.6.
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "it is a file of torch.save. Load it with "
    "torch.load(path, weights_only=True), and write what it holds with pickle.dump",
}


def _other_format(head: bytes) -> str | None:
    if not head:
        return "it is empty"
    return next((what for start, what in _OTHER_FORMATS.items() if head.startswith(start)), None)


_PLAIN = frozenset([type(None), bool, int, float, str, bytes])


def _unfold(value: Any, allowance: Allowance, depth: int = 0) -> Any:
    """Plain data from the objects of a pickle; each object is repeated as often as it is listed.

    A list that contains itself is infinitely deep, and a list whose parts are listed repeatedly is
    large. Both are refused here.
    """
    kind = type(value)
    allowance.take(8 if kind in _PLAIN else 72)  # bytes of a list entry, and of an empty list
    if kind is _Array or kind is _Image:
        if not value.filled:
            raise RefusedError("refused an array or image without its content")
        allowance.take(value.array.nbytes)
        return value.array if kind is _Array else PickledImage(value.array)
    if kind in (list, tuple, dict):
        if depth == MAX_DEPTH:
            raise RefusedError(
                f"refused a list that contains itself, or lists more than {MAX_DEPTH} deep"
            )
        if kind is dict:
            return {key: _unfold(item, allowance, depth + 1) for key, item in value.items()}
        return kind([_unfold(item, allowance, depth + 1) for item in value])
    if kind in _PLAIN or isinstance(value, np.generic):
        return value
    raise RefusedError(f"refused a part that is not data: {ONLY}")


# The builders


class _Dtype(Fillable):
    """A plain number type. A pickle gives its code first, and its byte order later, as a state."""

    def __init__(self, machine: Machine, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"[<>|=]?(\?|b1|[iu][1248]|f[248])", code):
            raise RefusedError(f"refused an array of {code[:40]!r}: only plain numbers are read")
        self.dtype = np.dtype(code)

    def fill(self, machine: Machine, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if not (subarray is None and names is None and fields is None):
            raise RefusedError("refused an array of records: only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(">" if order in (">", b">") else "<")


class _Array(Fillable):
    """An array, which a pickle makes first and fills later."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array, self.filled = array, array is not None

    def fill(self, machine: Machine, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        data = _encode(machine, data, "latin1") if type(data) is str else data
        self.array = _array(machine, data, dtype, shape, "F" if fortran is True else "C")


class _Image(Fillable):
    """A PIL image, which a pickle also makes first and fills later."""

    def __init__(self) -> None:
        self.array = np.empty((0, 0, 1), np.uint8)

    def fill(self, machine: Machine, state: Any) -> None:
        _, mode, (width, height), _, data = state[:5]
        if mode not in ("L", "RGB"):
            shown = repr(mode[:20]) if type(mode) is str else "that is not text"
            raise RefusedError(
                f"refused an image of mode {shown}: only L and RGB are read. Write "
                'image.convert("RGB") in its place'
            )
        self.array = _array(machine, data, _UINT8, (height, width, len(mode)), "C")


def _sizes(values: Any) -> tuple[int, ...]:
    """Sizes from a file as Python's own integers, which cannot overflow."""
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:
        raise RefusedError(f"refused an array of more than {MAX_DIMENSIONS} dimensions")
    sizes = tuple(operator.index(value) for value in values)
    if not all(0 <= size < 1 << 62 for size in sizes):
        raise RefusedError("refused an array with a size that is negative or impossible")
    return sizes


def _array(
    machine: Machine, data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]
) -> np.ndarray:
    """An array that copies `data`, so that later instructions of a pickle cannot change it."""
    sizes = _sizes(shape)
    if type(data) is not bytes or type(dtype) is not _Dtype:
        raise RefusedError("refused an array whose content is not bytes")
    kind = dtype.dtype
    if math.prod(sizes) * kind.itemsize != len(data):
        raise RefusedError(
            f"refused an array of shape {sizes}, which needs {math.prod(sizes) * kind.itemsize} "
            f"bytes: the file has {len(data)} bytes for it"
        )
    machine.allowance.take(len(data))
    return _clean(np.ndarray(sizes, kind, data, order=order).astype(kind.newbyteorder("="), order))


def _clean(array: np.ndarray) -> np.ndarray:
    """The array, after a check that truth values are 0 or 1."""
    return array.view(np.uint8) != 0 if array.dtype == bool else array


def _scalar(machine: Machine, dtype: Any, data: Any) -> Any:
    data = _encode(machine, data, "latin1") if type(data) is str else data
    return _array(machine, data, dtype, (1,), "C")[0]


def _frombuffer(
    machine: Machine, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> _Array:
    """An array of protocol 5. Order "K" is that of a transposed array."""
    if order not in ("C", "F", "K"):
        raise RefusedError("refused an array of an unknown order")
    array = _array(machine, data, dtype, shape, "F" if order == "F" else "C")
    return _Array(array.transpose(_sizes(axes)) if order == "K" and axes is not None else array)


def _encode(machine: Machine, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise RefusedError("refused an encoding other than latin1")
    machine.allowance.take(len(text))
    return text.encode("latin1")


def _reconstruct(machine: Machine, kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _image(machine: Machine) -> _Image:
    return _Image()


def _reconstructor(machine: Machine, kind: Any, base: Any, state: Any) -> _Image:
    if kind is not _IMAGE:
        raise RefusedError("refused copyreg._reconstructor of anything but an image")
    return _Image()


def _empty_dict(machine: Machine) -> dict:
    """The hooks of a tensor, which must be empty."""
    return {}


# torch's storages.  `torch.load` would allocate the size that the file claims, and versions before
# 2.6 could be made to run code even with weights_only=True.

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}


class _Storage:
    """The numbers of a torch storage, as a flat read-only array."""

    def __init__(self, flat: np.ndarray) -> None:
        self.flat = flat


class _StorageType(Name):
    def __init__(self, code: str) -> None:
        super().__init__()
        self.dtype = np.dtype(code)


def _storage(machine: Machine, data: Any) -> _Storage:
    """Read what ``torch.save`` wrote for one storage, in its old format.

    This format has five pickles (a magic number, a version, the byte order, a reference to the
    storage, and the key of the storage's numbers), then the count of numbers in 8 bytes, then the
    numbers.
    """
    if type(data) is not bytes:
        raise RefusedError("refused a tensor whose content is not bytes")
    source = Source(io.BytesIO(data), len(data))

    def load() -> Any:
        nested = Machine(
            source, names, machine.allowance, machine.steps, persistent=lambda pid: pid
        )
        return nested.run()

    names: dict[tuple[str, str], Name] = {
        ("torch", name): _StorageType(code) for name, code in _STORAGES.items()
    }
    magic, version, system, stand_in, keys = (load() for _ in range(5))
    if (magic, version) != (_MAGIC, 1001) or system.get("little_endian") is not True:
        raise RefusedError("refused what should be a tensor's storage and is not")
    what, kind, key, _, count, view = stand_in
    if type(key) is not str or type(keys) is not list or [type(k) for k in keys] != [str]:
        raise RefusedError("refused a tensor's storage without its key")
    if what != "storage" or type(kind) is not _StorageType or keys != [key] or view is not None:
        raise RefusedError("refused what should be a tensor's storage and is not")
    if int.from_bytes(source.read(8), "little") != operator.index(count):
        raise RefusedError("refused a tensor's storage that is not as long as it says")
    place = source.place
    if len(data) - place != count * kind.dtype.itemsize:
        raise RefusedError(
            f"refused a tensor's storage of {count} numbers: {len(data) - place} bytes are there"
        )
    return _Storage(np.ndarray((count,), kind.dtype, data, place))


def _tensor(machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Array:
    if type(storage) is not _Storage:
        raise RefusedError("refused a tensor without a storage")
    flat, sizes, steps = storage.flat, _sizes(size), _sizes(stride)
    (first,) = _sizes((offset,))
    last = first + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if 0 not in sizes and last >= len(flat):
        raise RefusedError(f"refused a tensor of {sizes} that its storage does not hold")
    machine.allowance.take(math.prod(sizes) * flat.itemsize)
    if 0 in sizes:
        return _Array(np.empty(sizes, flat.dtype))
    strides = [step * flat.itemsize for step in steps]
    return _Array(_clean(as_strided(flat[first:], sizes, strides).copy()))


def _names() -> dict[tuple[str, str], Name]:
    builders: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): _empty_dict,
        ("PIL.Image", "Image"): _image,
    }
    for core in ("numpy.core", "numpy._core"):  # before NumPy 2 and since
        builders[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        builders[f"{core}.multiarray", "scalar"] = _scalar
        builders[f"{core}.numeric", "_frombuffer"] = _frombuffer
    for module in ("copyreg", "copy_reg"):  # the second is Python 2's
        builders[module, "_reconstructor"] = _reconstructor
    # Names that are only passed on as arguments.
    bare = [("numpy", "ndarray"), ("builtins", "object"), ("__builtin__", "object")]
    return {key: Name(build) for key, build in builders.items()} | {key: Name() for key in bare}


_NAMES = _names()
_IMAGE = _NAMES["PIL.Image", "Image"]
_UINT8 = _Dtype(None, "u1")  # type: ignore[arg-type]
