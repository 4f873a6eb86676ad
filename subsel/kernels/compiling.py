"""How kernels are compiled, where the result is kept, and how many threads they may use.

Everything that subsel asks of Numba's compiler for the CPU goes through this file:

- `kernel` compiles a function and keeps the machine code on disk (`subsel.kernels.disk_cache`).
- `by_type` makes a function whose body is chosen by the type of its first argument. One search then
  serves every store and every rule, and the choice costs nothing when it runs.
- With ``NUMBA_DISABLE_JIT=1`` all of it is plain Python: slow, but a debugger can step into it.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import inspect
import logging
import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any

import numba
import numpy as np
from numba import config
from numba.core import event
from numba.extending import intrinsic as _intrinsic
from numba.extending import overload

try:
    from subsel.kernels.disk_cache import keep_on_disk
except ImportError:  # a version of Numba that is made otherwise inside

    def keep_on_disk(compiled: Any) -> None:
        """Numba's own cache, which notices changes in one file only."""
        with contextlib.suppress(RuntimeError):  # no folder that can be written to
            compiled.enable_caching()


_COMPILES = not config.DISABLE_JIT


def _load_without_blas() -> None:
    """Load Numba's arrays without SciPy's linear algebra, a third of what a first call takes.

    Numba imports that to learn whether it is there, which it is, as subsel needs SciPy; and again
    where a function multiplies matrices, which no kernel does.
    """
    from numba.np import linalg

    asks = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = asks


if _COMPILES:
    with contextlib.suppress(ImportError, AttributeError):  # made otherwise inside
        _load_without_blas()

_AS_A_PART: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
with contextlib.suppress(ImportError):  # a version of Numba that is made otherwise inside
    from subsel.kernels.parts import PartCompiler

    _AS_A_PART["pipeline_class"] = PartCompiler


def kernel(function: Any = None, **options: Any) -> Any:
    """Compile a function of arrays; keep what was compiled on disk; run without Python's lock."""
    if function is None:
        return functools.partial(kernel, **options)
    if not _COMPILES:
        return function
    compiled = numba.njit(nogil=True, no_cfunc_wrapper=True, **options)(function)
    keep_on_disk(compiled)
    return compiled


def inner(function: Any = None, *, makes_arrays: bool = False) -> Any:
    """Compile a function that kernels alone call: no way in from Python, nothing kept on disk.

    What kernels call becomes part of them. A way in unpacks the arrays of a store and of a search,
    some hundred numbers, and takes as long to compile as a short kernel itself.

    Nor does it count the references to arrays, for what calls it holds them: two atomic additions
    for every array of every store that is handed on took a fifth of a search. So a function
    that makes an array, or is returned one, must say so.
    """
    if function is None:
        return functools.partial(inner, makes_arrays=makes_arrays)
    if not _COMPILES:
        return function
    return numba.njit(nogil=True, _nrt=makes_arrays, **_AS_A_PART)(function)


def uncached(compiled: Any) -> Any:
    """The same kernel, without the disk cache: for rules that stand outside of this package."""
    return _uncached(compiled) if _COMPILES else compiled


@functools.cache
def _uncached(compiled: Any) -> Any:
    options = compiled.targetoptions.items()
    return numba.njit(**{k: v for k, v in options if k not in ("cache", "nopython")})(
        compiled.py_func
    )


def inlined(function: Any) -> Any:
    """Compile a function into each place where it is called.

    LLVM could do so as well (``forceinline``), which compiles as fast and runs a little slower.
    """
    return numba.njit(inline="always")(function)


def intrinsic(in_python: Callable) -> Callable:
    """A function in LLVM's own language, and what stands for it where nothing is compiled."""
    return _intrinsic if _COMPILES else lambda _: in_python


def by_type(stub: Any = None, *, inline: bool = False, makes_arrays: bool = False) -> Any:
    """A function whose body is chosen by the type of its first argument, a named tuple.

    ``stub.of(Type)`` is the decorator that gives the body for a type; its arguments have the names
    of the stub's. Works in compiled kernels, in plain Python and on the CUDA simulator. With
    `inline` the body is put where it is called: for small ones in loops, and for those that are
    handed many arrays, each of which is seven numbers to pass on. `makes_arrays` is as in `inner`.
    """
    if stub is None:
        return functools.partial(by_type, inline=inline, makes_arrays=makes_arrays)
    bodies: dict[type, Callable] = {}

    @functools.wraps(stub)
    def chosen(first: Any, *rest: Any) -> Any:
        return bodies[type(first)](first, *rest)

    def of(kind: type) -> Callable:
        def register(body: Callable) -> Callable:
            # Without annotations, for which Numba would compare it with the stub.
            bodies[kind] = FunctionType(body.__code__, body.__globals__, body.__name__)
            return body

        return register

    def choose(first: Any, *_: Any) -> Callable:
        return bodies[first.instance_class]

    chosen.of, chosen.bodies = of, bodies  # type: ignore[attr-defined]
    choose.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]
    # A division by zero gives inf or nan: a branch that raises would keep loops out of vectors.
    how = "always" if inline else "never"
    options = {"error_model": "numpy", "_nrt": makes_arrays, **_AS_A_PART}
    overload(chosen, jit_options=options, inline=how)(choose)
    return chosen


class _CompilationNotice(event.Listener):
    """Tells a person who waits, once, that kernels are being compiled; cached ones are not."""

    def on_start(self, event_: Any) -> None:
        """Say it, at the first of our kernels."""
        if event_.data["dispatcher"].py_func.__module__.startswith("subsel.kernels"):
            event.unregister("numba:compile", self)
            said = "compiling for this kind of input, once on this machine; up to half a minute"
            logging.getLogger("subsel").info(said)
            if sys.stderr.isatty():
                sys.stderr.write(f"subsel: {said} ...\n")

    def on_end(self, event_: Any) -> None:
        """Nothing to say."""


class _InterruptsKept(event.Listener):
    """Sees to it that Ctrl-C is not lost while kernels are compiled.

    LLVM calls Python functions of llvmlite's, and it is mostly there that Python gets round to
    Ctrl-C, for LLVM takes the longest time. What is raised in them is printed and forgotten, and
    leaves a kernel without machine code. What is raised while Python tidies up is forgotten, too.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._again: threading.Timer | None = None

    def on_start(self, _: Any) -> None:
        """Stand in for Python's own handler of Ctrl-C, if it has that."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self._depth or signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._depth += 1
            signal.signal(signal.SIGINT, self._interrupt)

    def on_end(self, _: Any) -> None:
        """Put Python's handler back."""
        if not self._depth or threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth:
            return
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._again and isinstance(sys.exc_info()[1], KeyboardInterrupt):
            self._again.cancel()  # it was heard
        self._again = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but not where LLVM calls; and again, until it is heard."""
        if self._again:
            self._again.cancel()
        self._again = threading.Timer(0.1, interrupt_main)
        self._again.daemon = True
        self._again.start()
        while frame is not None and not frame.f_code.co_name.startswith("_raw_object_cache_"):
            frame = frame.f_back
        if frame is None:
            signal.default_int_handler(number, frame)


event.register("numba:compile", _InterruptsKept())
event.register("numba:compile", _CompilationNotice())  # last, as it takes itself off the list


# --- Threads ----------------------------------------------------------------------------------

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads() -> int:
    """Threads that parallel kernels will use (``numba.set_num_threads``, NUMBA_NUM_THREADS).

    One in a forked child: threads do not survive a fork, and a child that waits for them hangs or
    is killed.
    """
    return 1 if _forked or not _COMPILES else numba.get_num_threads()


def single_thread() -> None:
    """Keep kernels called from this Python thread to one thread."""
    if not _forked:
        numba.set_num_threads(1)


# --- What stands for the intrinsics in plain Python -------------------------------------------


def fma(x: Any, y: Any, z: Any) -> Any:
    """X * y + z, rounded once, of arrays of one float type; the C library's, number by number."""
    single = np.result_type(x, y, z) == np.float32
    function = _c_function(
        "fmaf" if single else "fma", ctypes.c_float if single else ctypes.c_double
    )
    result = np.frompyfunc(function, 3, 1)(x, y, z)
    return np.asarray(result).astype(np.float32 if single else np.float64)


@functools.cache
def _c_function(name: str, number: Any) -> Any:
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else ctypes.util.find_library("m"))
    function = getattr(library, name)
    function.restype, function.argtypes = number, [number] * 3
    return function
