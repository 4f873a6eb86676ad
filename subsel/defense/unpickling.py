"""Pickles from strangers: plain data is read, and nothing else happens.

A pickle is a program for a small stack machine, which can call any function of any module.  The
machine here knows only the instructions that plain data needs.  It calls nothing by name: where a
pickle names a function, the name stands for one of the few builders at the end of this file, and
each builder makes one harmless thing out of checked arguments.

Neither NumPy's own unpickling nor torch's nor Pillow's is used.  NumPy believes a forged type,
torch runs a second unpickler inside, and Pillow allocates any size that is claimed.  Python's
`pickle.Unpickler` is not used either: it allocates what a length field claims, and it neither
counts what it does nor hears Ctrl-C meanwhile.
"""

import codecs
import io
import math
import operator
import os
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

from subsel.defense.allowance import Allowance, TooLargeError

__all__ = ["PickledImage", "restricted_load"]

MAX_STEPS = 1_000_000  # instructions in one file: a second or two
MAX_DEPTH = 16  # lists in lists
MAX_KEYS = 1000  # entries of a dict: more could be chosen to collide
MAX_DIMENSIONS = 8

ONLY = "only NumPy arrays, torch tensors and PIL images are read"


class PickledImage:
    """A PIL image that was in a pickle.

    Attributes
    ----------
    pixels : ndarray of uint8, (height, width, channels)
        Of one channel or three.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


def restricted_load(
    file: BinaryIO, *, name: str = "the pickle", encoding: str = "ASCII", errors: str = "strict"
) -> Any:
    """Unpickle plain containers, numeric NumPy arrays, torch tensors and PIL images.

    Arrays and tensors come as `numpy.ndarray`, images as `PickledImage`.  The containers are lists,
    tuples and dicts with text, bytes, numbers and ``None`` in them.

    Parameters
    ----------
    file : binary file
        It must be seekable, so that sizes can be checked against its own.
    name : str
        What to call it in an error message.
    encoding, errors : str
        As in `pickle.load`, for files from Python 2.

    Raises
    ------
    ValueError
        The pickle asks for something else, which the message names; is damaged; contains itself;
        or would take more memory than `subsel.defense.allowance` grants to a file of its size.
    """
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if other := _other_format(file.read(32)):
        raise ValueError(f"{name} is damaged or no pickle: {other}")
    file.seek(start)
    allowance = Allowance(size, name)
    machine = _Machine(
        _Source(file, size), _NAMES, allowance, iter(range(MAX_STEPS)), encoding, errors
    )
    try:
        return _unfold(machine.run(), allowance)
    except TooLargeError:
        raise
    except _RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except MemoryError as error:
        raise ValueError(f"{name} needs more memory than this machine has") from error
    except Exception as error:  # a damaged pickle fails in any way there is
        raise ValueError(
            f"{name} is damaged or no pickle: it makes no sense before byte {machine.source.place}"
        ) from error


_OTHER_FORMATS = {
    b"PK\x03\x04": "it is a zip archive, as torch.save and numpy.savez write them. Load it with "
    "torch.load(path, weights_only=True), and write what it holds with pickle.dump",
    b"\x93NUMPY": "it is a file of numpy.save. Load it with numpy.load, and write the array with "
    "pickle.dump",
    b"\x1f\x8b": "it is compressed by gzip. Unpack it first",
    b"\x89PNG": "it is a PNG image. A list of (PIL image, label), written with pickle.dump, is "
    "wanted",
    b"\xff\xd8\xff": "it is a JPEG image. A list of (PIL image, label), written with pickle.dump, "
    "is wanted",
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


class _RefusedError(Exception):
    """A pickle wants what it may not have."""


# The stack machine


class _Source:
    """A file that is never asked for more than it has.

    Python's files allocate what `read` is asked for before they look.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._left = file, size, size

    @property
    def place(self) -> int:
        return self._size - self._left

    def read(self, n: int) -> bytes:
        if n > self._left:
            raise EOFError(f"{n} bytes are announced, {self._left} are left")
        self._left -= n
        return self._file.read(n)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


class _Name:
    """What a pickle names: a builder of ours, or something that is only passed on."""

    def __init__(self, build: Callable[..., Any] | None = None) -> None:
        self.build = build


class _Machine:
    """Runs one pickle.

    Parameters
    ----------
    source : _Source
    names : dict
        What a pickle may name, by (module, name).
    allowance : Allowance
    steps : iterator
        It ends with the last instruction that may be run; pickles inside pickles share it.
    encoding, errors : str
        For Python 2's strings.
    persistent : callable, optional
        Makes an object of what stands for it in a storage of torch's.
    """

    def __init__(
        self,
        source: _Source,
        names: dict[tuple[str, str], _Name],
        allowance: Allowance,
        steps: Iterator[int],
        encoding: str = "ASCII",
        errors: str = "strict",
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source, self.names, self.allowance, self.steps = source, names, allowance, steps
        self.encoding, self.errors, self.persistent = encoding, errors, persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the instructions up to STOP; what is then on top of the stack."""
        for _ in self.steps:
            code = self.source.read(1)
            if code == b".":
                return self.stack.pop()
            if code not in _STEPS:
                raise _RefusedError(f"refused the instruction {code!r}: {ONLY}")
            read, step = _STEPS[code]
            step(self, None if read is None else read(self.source))
        raise _RefusedError(f"refused to follow more than {MAX_STEPS} instructions of a pickle")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_string(self, value: bytes | str) -> None:
        """A string of Python 2: bytes that may be text."""
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.push(raw if self.encoding == "bytes" else raw.decode(self.encoding, self.errors))

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark(self, _: None) -> None:
        self.to_mark()

    def put(self, index: int | None) -> None:
        # The index is a key, not a place in a table: a large one costs no memory.
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _RefusedError("refused to append to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise _RefusedError("refused to set an entry of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only keys whose hash is quick: a tuple of tuples may take for ever.
            if type(key) not in (str, bytes, int):
                raise _RefusedError("refused a dict whose keys are neither text nor numbers")
            target[key] = value
        if len(target) > MAX_KEYS:
            raise _RefusedError(f"refused a dict with more than {MAX_KEYS} entries")

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("the stack is too short")
        self.stack[len(self.stack) - length :] = [tuple(self.stack[len(self.stack) - length :])]

    def look_up(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _RefusedError("refused a name that is no text")
        if (module, name) not in self.names:
            raise _RefusedError(_why_refused(f"{module}.{name}"[:100]))
        self.push(self.names[module, name])

    def call(self, _: None) -> None:
        """REDUCE, and NEWOBJ, which is the call of a class."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Name or function.build is None or type(arguments) is not tuple:
            raise _RefusedError("refused a call of what is no function")
        self.push(function.build(self, *arguments))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (_Dtype, _Array, _Image):
            raise _RefusedError("refused to change the state of an object")
        if target.filled:
            raise _RefusedError("refused a second state for one object")
        target.fill(self, state)
        target.filled = True

    def load_persistent(self, pid: Any) -> None:
        if self.persistent is None:
            raise _RefusedError("refused a persistent id: only self-contained pickles are read")
        self.push(self.persistent(pid))


def _read_string(source: _Source) -> bytes:
    """A quoted line; that of pickletools takes only ASCII."""
    line = source.readline()
    if not line.endswith(b"\n") or len(line) < 3 or line[:1] not in b"'\"" or line[-2] != line[0]:
        raise ValueError("a string without its quotes")
    return codecs.escape_decode(line[1:-2])[0]


def _steps() -> dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[_Machine, Any], None]]]:
    """What to do at each instruction: how to read its argument, and the step to take."""
    machine = _Machine
    steps: dict[str, Callable[[_Machine, Any], None]] = {
        **dict.fromkeys(["PROTO", "FRAME"], lambda m, _: None),
        **dict.fromkeys(["INT", "BININT", "BININT1", "BININT2"], machine.push),
        **dict.fromkeys(["LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"], machine.push),
        **dict.fromkeys(["UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"], machine.push),
        **dict.fromkeys(["SHORT_BINBYTES", "BINBYTES", "BINBYTES8"], machine.push),
        **dict.fromkeys(["STRING", "BINSTRING", "SHORT_BINSTRING"], machine.push_string),
        **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], machine.put),
        **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], machine.get),
        **dict.fromkeys(["REDUCE", "NEWOBJ"], machine.call),
        "BYTEARRAY8": lambda m, value: m.push(bytes(value)),
        "NONE": lambda m, _: m.push(None),
        "NEWTRUE": lambda m, _: m.push(True),
        "NEWFALSE": lambda m, _: m.push(False),
        "EMPTY_LIST": lambda m, _: m.push([]),
        "EMPTY_DICT": lambda m, _: m.push({}),
        "EMPTY_TUPLE": lambda m, _: m.push(()),
        "MARK": machine.mark,
        "POP": machine.pop,
        "POP_MARK": machine.pop_mark,
        "DUP": lambda m, _: m.push(m.stack[-1]),
        "LIST": lambda m, _: m.push(m.to_mark()),
        "DICT": lambda m, _: m.push_dict(m.to_mark()),
        "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
        "TUPLE1": lambda m, _: m.push_tuple(1),
        "TUPLE2": lambda m, _: m.push_tuple(2),
        "TUPLE3": lambda m, _: m.push_tuple(3),
        "APPEND": lambda m, _: m.extend([m.stack.pop()]),
        "APPENDS": lambda m, _: m.extend(m.to_mark()),
        "SETITEM": lambda m, _: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
        "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
        "GLOBAL": lambda m, names: m.look_up(*names.split(" ", 1)),
        "STACK_GLOBAL": lambda m, _: m.look_up(*[m.stack.pop(), m.stack.pop()][::-1]),
        "BUILD": machine.build,
        "PERSID": machine.load_persistent,
        "BINPERSID": lambda m, _: m.load_persistent(m.stack.pop()),
    }
    readers: dict[str, Any] = {
        op.name: op.arg.reader if op.arg else None for op in pickletools.opcodes
    }
    readers["STRING"] = _read_string
    codes = {op.name: op.code.encode("latin1") for op in pickletools.opcodes}
    return {codes[name]: (readers[name], step) for name, step in steps.items()}


_STEPS = _steps()


def _unfold(value: Any, allowance: Allowance, depth: int = 0) -> Any:
    """Plain data from what a pickle made, each thing as often as it is listed.

    A list that contains itself is infinitely deep, and one whose parts are listed again and again
    is large; so both end here.
    """
    allowance.take(8)
    kind = type(value)
    if kind is _Array or kind is _Image:
        if not value.filled:
            raise _RefusedError("refused an array or image without its content")
        allowance.take(value.array.nbytes)
        return value.array if kind is _Array else PickledImage(value.array)
    if kind in (list, tuple, dict):
        if depth == MAX_DEPTH:
            raise _RefusedError(
                f"refused a list that contains itself, or lists more than {MAX_DEPTH} deep"
            )
        if kind is dict:
            return {key: _unfold(item, allowance, depth + 1) for key, item in value.items()}
        return kind([_unfold(item, allowance, depth + 1) for item in value])
    if value is None or kind in (bool, int, float, str, bytes) or isinstance(value, np.generic):
        return value
    raise _RefusedError(f"refused a part that is no data: {ONLY}")


# What a pickle can build


class _Dtype:
    """A plain number type.  A pickle gives its code first, and its byte order as a state."""

    def __init__(self, machine: _Machine, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"[<>|=]?(\?|b1|[iu][1248]|f[248])", code):
            raise _RefusedError(f"refused an array of {code[:40]!r}: only plain numbers are read")
        self.dtype, self.filled = np.dtype(code), False

    def fill(self, machine: _Machine, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if not (subarray is None and names is None and fields is None):
            raise _RefusedError("refused an array of records: only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(">" if order in (">", b">") else "<")


class _Array:
    """An array, which a pickle makes first and fills later."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array, self.filled = array, array is not None

    def fill(self, machine: _Machine, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        data = _encode(machine, data, "latin1") if type(data) is str else data
        self.array = _array(machine, data, dtype, shape, "F" if fortran is True else "C")


class _Image:
    """A PIL image, likewise."""

    def __init__(self) -> None:
        self.array, self.filled = np.empty((0, 0, 1), np.uint8), False

    def fill(self, machine: _Machine, state: Any) -> None:
        _, mode, (width, height), _, data = state[:5]
        if mode not in ("L", "RGB"):
            shown = repr(mode[:20]) if type(mode) is str else "that is no text"
            raise _RefusedError(
                f"refused an image of mode {shown}: only L and RGB are read. Write "
                'image.convert("RGB") in its place'
            )
        self.array = _array(machine, data, _UINT8, (height, width, len(mode)), "C")


def _sizes(values: Any) -> tuple[int, ...]:
    """Python's own integers, which do not wrap round, from what a file gives as sizes."""
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:
        raise _RefusedError(f"refused an array of more than {MAX_DIMENSIONS} dimensions")
    sizes = tuple(operator.index(value) for value in values)
    if not all(0 <= size < 1 << 62 for size in sizes):
        raise _RefusedError("refused an array with a size that is negative or impossible")
    return sizes


def _array(
    machine: _Machine, data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]
) -> np.ndarray:
    """A copy of `data`, so that no array depends on what a pickle does with it later."""
    sizes = _sizes(shape)
    if type(data) is not bytes or type(dtype) is not _Dtype:
        raise _RefusedError("refused an array whose content is not bytes")
    kind = dtype.dtype
    if math.prod(sizes) * kind.itemsize != len(data):
        raise _RefusedError(
            f"refused an array of {sizes}: {len(data)} bytes are there for it, and "
            f"{math.prod(sizes) * kind.itemsize} are needed"
        )
    machine.allowance.take(len(data))
    return _clean(np.ndarray(sizes, kind, data, order=order).astype(kind.newbyteorder("="), order))


def _clean(array: np.ndarray) -> np.ndarray:
    """The array itself; of truth values, only those that are 0 or 1."""
    return array.view(np.uint8) != 0 if array.dtype == bool else array


def _scalar(machine: _Machine, dtype: Any, data: Any) -> Any:
    data = _encode(machine, data, "latin1") if type(data) is str else data
    return _array(machine, data, dtype, (1,), "C")[0]


def _frombuffer(
    machine: _Machine, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> _Array:
    """An array of protocol 5; order "K" is that of a transposed one."""
    if order not in ("C", "F", "K"):
        raise _RefusedError("refused an array of an unknown order")
    array = _array(machine, data, dtype, shape, "F" if order == "F" else "C")
    return _Array(array.transpose(_sizes(axes)) if order == "K" and axes is not None else array)


def _encode(machine: _Machine, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise _RefusedError("refused an encoding other than latin1")
    machine.allowance.take(len(text))
    return text.encode("latin1")


def _reconstruct(machine: _Machine, kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _image(machine: _Machine) -> _Image:
    return _Image()


def _reconstructor(machine: _Machine, kind: Any, base: Any, state: Any) -> _Image:
    if kind is not _IMAGE:
        raise _RefusedError("refused copyreg._reconstructor of anything but an image")
    return _Image()


def _empty_dict(machine: _Machine) -> dict:
    """A tensor's hooks, of which there are none."""
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
    """The numbers of a torch storage, as a flat array that nothing can change."""

    def __init__(self, flat: np.ndarray) -> None:
        self.flat = flat


class _StorageType(_Name):
    def __init__(self, code: str) -> None:
        super().__init__()
        self.dtype = np.dtype(code)


def _storage(machine: _Machine, data: Any) -> _Storage:
    """Read what ``torch.save`` writes of one storage, in its old format.

    That is five pickles (a magic number, a version, the byte order, what stands for the storage,
    and the key under which its numbers follow), then their count in 8 bytes, then the numbers.
    """
    if type(data) is not bytes:
        raise _RefusedError("refused a tensor whose content is not bytes")
    source = _Source(io.BytesIO(data), len(data))

    def load() -> Any:
        nested = _Machine(
            source, names, machine.allowance, machine.steps, persistent=lambda pid: pid
        )
        return nested.run()

    names: dict[tuple[str, str], _Name] = {
        ("torch", name): _StorageType(code) for name, code in _STORAGES.items()
    }
    magic, version, system, stand_in, keys = (load() for _ in range(5))
    if (magic, version) != (_MAGIC, 1001) or system.get("little_endian") is not True:
        raise _RefusedError("refused what should be a tensor's storage and is not")
    what, kind, key, _, count, view = stand_in
    if type(key) is not str or type(keys) is not list or [type(k) for k in keys] != [str]:
        raise _RefusedError("refused a tensor's storage without its key")
    if what != "storage" or type(kind) is not _StorageType or keys != [key] or view is not None:
        raise _RefusedError("refused what should be a tensor's storage and is not")
    if int.from_bytes(source.read(8), "little") != operator.index(count):
        raise _RefusedError("refused a tensor's storage that is not as long as it says")
    place = source.place
    if len(data) - place != count * kind.dtype.itemsize:
        raise _RefusedError(
            f"refused a tensor's storage of {count} numbers: {len(data) - place} bytes are there"
        )
    return _Storage(np.ndarray((count,), kind.dtype, data, place))


def _tensor(
    machine: _Machine, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> _Array:
    if type(storage) is not _Storage:
        raise _RefusedError("refused a tensor without a storage")
    flat, sizes, steps = storage.flat, _sizes(size), _sizes(stride)
    (first,) = _sizes((offset,))
    last = first + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if 0 not in sizes and last >= len(flat):
        raise _RefusedError(f"refused a tensor of {sizes} that its storage does not hold")
    machine.allowance.take(math.prod(sizes) * flat.itemsize)
    if 0 in sizes:
        return _Array(np.empty(sizes, flat.dtype))
    strides = [step * flat.itemsize for step in steps]
    return _Array(_clean(as_strided(flat[first:], sizes, strides).copy()))


def _names() -> dict[tuple[str, str], _Name]:
    builders: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): _empty_dict,
        ("PIL.Image", "Image"): _image,
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        builders[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        builders[f"{core}.multiarray", "scalar"] = _scalar
        builders[f"{core}.numeric", "_frombuffer"] = _frombuffer
    for module in ("copyreg", "copy_reg"):  # the second is Python 2's
        builders[module, "_reconstructor"] = _reconstructor
    # Names that are only ever passed on as arguments.
    bare = [("numpy", "ndarray"), ("builtins", "object"), ("__builtin__", "object")]
    return {key: _Name(build) for key, build in builders.items()} | {key: _Name() for key in bare}


def _why_refused(name: str) -> str:
    """A sentence on what a pickle names, with the cure where it is known."""
    if name.startswith("PIL.") and name.endswith("ImageFile"):
        return (
            f"refused {name}: this is an image as PIL.Image.open returns it. Write "
            'image.convert("RGB") in its place, which is a plain image'
        )
    if "BFloat16" in name:
        return (
            f"refused {name}: NumPy has no such numbers as bfloat16. Write tensor.float() in "
            "place of the tensor"
        )
    if name.startswith("torch"):
        return (
            f"refused {name}: {ONLY}, and of tensors only plain ones. Write "
            "tensor.detach().cpu().numpy() in place of the tensor"
        )
    return f"refused {name}: {ONLY}"


_NAMES = _names()
_IMAGE = _NAMES["PIL.Image", "Image"]
_UINT8 = _Dtype(None, "u1")  # type: ignore[arg-type]
