"""The stack machine for which a pickle is a program, with only the instructions of plain data.

It limits the number of instructions and the memory, never reads beyond the end of a file, and stops
at Ctrl-C. The caller decides what a pickle may name and what is built for each name.
"""

import codecs
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from subsel.defense.allowance import Allowance

__all__ = ["MAX_STEPS", "ONLY", "Fillable", "Machine", "Name", "RefusedError", "Source"]

MAX_STEPS = 500_000  # instructions in one file: about a second, and 100 MB of containers
MAX_KEYS = 1000  # entries of a dict; more keys could be chosen so that their hashes collide

ONLY = "only NumPy arrays, torch tensors and PIL images are read"


class RefusedError(Exception):
    """A pickle asks for something that is not allowed."""


class Source:
    """A file that is never asked for more bytes than it has.

    Python's files allocate the number of bytes that `read` is asked for before they read.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._left = file, size, size

    @property
    def place(self) -> int:
        """The number of bytes read so far."""
        return self._size - self._left

    def read(self, n: int) -> bytes:
        """Read exactly n bytes (fewer only if the file was cut short meanwhile)."""
        if n > self._left:
            raise EOFError(f"{n} bytes are announced, but only {self._left} are left")
        self._left -= n
        return self._file.read(n)

    def readline(self) -> bytes:
        """Read up to and including the next newline, or to the end."""
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


class Name:
    """Something that a pickle names: one of our builders, or a name that is only passed on."""

    def __init__(self, build: Callable[..., Any] | None = None) -> None:
        self.build = build


class Fillable:
    """An object that a pickle makes first, and fills with a state later, once."""

    filled = False

    def fill(self, machine: "Machine", state: Any) -> None:
        """Take the state. It comes from the file and must not be trusted."""
        raise NotImplementedError


class Machine:
    """Runs one pickle.

    Parameters
    ----------
    source : Source
    names : dict
        The names that a pickle may use, by (module, name).
    allowance : Allowance
    steps : iterator
        It ends when no more instructions may run. Pickles inside pickles share it.
    encoding, errors : str
        How to decode strings of Python 2.
    persistent : callable, optional
        Makes an object from its persistent id, which only torch's storages have.
    """

    def __init__(
        self,
        source: Source,
        names: dict[tuple[str, str], Name],
        allowance: Allowance,
        steps: Iterator[int],
        encoding: str = "ASCII",
        errors: str = "strict",
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source, self.names, self.allowance, self.steps = source, names, allowance, steps
        self.encoding, self.errors, self.persistent = encoding, errors, persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run the instructions up to STOP, and return the top of the stack."""
        for _ in self.steps:
            code = self.source.read(1)
            if code == b".":
                return self.stack.pop()
            if code not in _STEPS:
                raise RefusedError(f"refused the instruction {code!r}: {ONLY}")
            read, step = _STEPS[code]
            step(self, None if read is None else read(self.source))
        raise RefusedError(f"refused to follow more than {MAX_STEPS} instructions of a pickle")

    def push(self, value: Any) -> None:
        """Push a number, text or bytes, or a constant without an argument."""
        self.stack.append(value)

    def push_string(self, value: bytes | str) -> None:
        """Push a string of Python 2: bytes that may be text."""
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.push(raw if self.encoding == "bytes" else raw.decode(self.encoding, self.errors))

    def mark(self, _: None) -> None:
        """MARK: everything that is pushed from here on is popped together."""
        self.outer.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Pop and return everything that was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def pop(self, _: None) -> None:
        """POP, which may also remove a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark(self, _: None) -> None:
        """POP_MARK."""
        self.to_mark()

    def put(self, index: int | None) -> None:
        """PUT and its variants: store the top of the stack in the memo."""
        # The index is a key, not a place in a table: a large one costs no memory.
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        """GET and its variants: push an entry of the memo."""
        self.push(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        """APPEND and APPENDS."""
        target = self.stack[-1]
        if type(target) is not list:
            raise RefusedError("refused to append to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """SETITEM and SETITEMS: alternating keys and values."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise RefusedError("refused to set an entry of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only keys with a fast hash: that of a tuple of tuples could take for ever.
            if type(key) not in (str, bytes, int):
                raise RefusedError("refused a dict whose keys are neither text nor numbers")
            target[key] = value
        if len(target) > MAX_KEYS:
            raise RefusedError(f"refused a dict with more than {MAX_KEYS} entries")

    def push_dict(self, items: list[Any]) -> None:
        """DICT."""
        self.push({})
        self.set_items(items)

    def push_tuple(self, length: int) -> None:
        """TUPLE1 to TUPLE3."""
        if len(self.stack) < length:
            raise IndexError("the stack is too short")
        self.stack[len(self.stack) - length :] = [tuple(self.stack[len(self.stack) - length :])]

    def look_up(self, module: Any, name: Any) -> None:
        """GLOBAL and STACK_GLOBAL: the only way to a name."""
        if type(module) is not str or type(name) is not str:
            raise RefusedError("refused a name that is not text")
        if (module, name) not in self.names:
            raise RefusedError(_why_refused(ascii(f"{module}.{name}"[:100])[1:-1]))
        self.push(self.names[module, name])

    def call(self, _: None) -> None:
        """REDUCE, and NEWOBJ, which is the call of a class."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or function.build is None or type(arguments) is not tuple:
            raise RefusedError("refused a call of something that is not a function")
        self.push(function.build(self, *arguments))

    def build(self, _: None) -> None:
        """BUILD: fill an object that was made before, once."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Fillable):
            raise RefusedError("refused to change the state of an object")
        if target.filled:
            raise RefusedError("refused a second state for one object")
        target.fill(self, state)
        target.filled = True

    def load_persistent(self, pid: Any) -> None:
        """PERSID and BINPERSID, which only torch's storages have."""
        if self.persistent is None:
            raise RefusedError("refused a persistent id: only self-contained pickles are read")
        self.push(self.persistent(pid))


def _read_string(source: Source) -> bytes:
    """Read a quoted line; the function of pickletools accepts only ASCII."""
    line = source.readline()
    if not line.endswith(b"\n") or len(line) < 3 or line[:1] not in b"'\"" or line[-2] != line[0]:
        raise ValueError("a string has no quotes")
    return codecs.escape_decode(line[1:-2])[0]


def _steps() -> dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[Machine, Any], None]]]:
    """For each instruction, how to read its argument, and the step to run."""
    machine = Machine
    steps: dict[str, Callable[[Machine, Any], None]] = {
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


def _why_refused(name: str) -> str:
    """Why a name was refused, and what to do about it if that is known."""
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
