"""How kernels are compiled, where the result is kept, and how many threads they may use.

All uses of Numba's compiler for the CPU go through this file:

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
except ImportError:  # a version of Numba with other internals

    def keep_on_disk(compiled: Any) -> None:
        """Numba's own cache, which notices changes in one file only."""
        with contextlib.suppress(RuntimeError):  # no folder that can be written to
            compiled.enable_caching()


_COMPILES = not config.DISABLE_JIT


def _load_without_blas() -> None:
    """Load Numba's arrays without SciPy's linear algebra, which is a third of the time of a first
    call.

    Numba imports it to learn whether SciPy is installed, which subsel requires anyway, and again
    for functions that multiply matrices, which no kernel does.
    """
    from numba.np import linalg

    asks = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = asks


if _COMPILES:
    with contextlib.suppress(ImportError, AttributeError):  # other internals
        _load_without_blas()

_AS_A_PART: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
with contextlib.suppress(ImportError):  # a version of Numba with other internals
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
    """Compile a function that only kernels call: Python cannot call it, and it is not kept on disk.

    Such a function becomes part of each kernel that calls it. A wrapper for Python would unpack the
    arrays of a store and of a search, about a hundred numbers, and would take as long to compile as
    a short kernel.

    The function does not count references to arrays either, because its caller holds them: two
    atomic additions for each array of each store that is passed on took a fifth of a search. So a
    function that makes an array, or that another function returns one to, must say so with
    `makes_arrays`.
    """
    if function is None:
        return functools.partial(inner, makes_arrays=makes_arrays)
    if not _COMPILES:
        return function
    return numba.njit(nogil=True, _nrt=makes_arrays, **_AS_A_PART)(function)


def uncached(compiled: Any) -> Any:
    """The same kernel without the disk cache, for rules outside this package."""
    return _uncached(compiled) if _COMPILES else compiled


@functools.cache
def _uncached(compiled: Any) -> Any:
    options = compiled.targetoptions.items()
    return numba.njit(**{k: v for k, v in options if k not in ("cache", "nopython")})(
        compiled.py_func
    )


def inlined(function: Any) -> Any:
    """Compile a function that is inlined wherever it is called.

    Numba does the inlining. LLVM could do it as well (``forceinline``); that compiles as fast but
    runs a little slower.
    """
    return numba.njit(inline="always")(function)


def intrinsic(in_python: Callable) -> Callable:
    """A function in LLVM's language, and its twin in Python, which replaces it without the JIT."""
    return _intrinsic if _COMPILES else lambda _: in_python


def by_type(stub: Any = None, *, inline: bool = False, makes_arrays: bool = False) -> Any:
    """A function whose body is chosen by the type of its first argument, a named tuple.

    ``stub.of(Type)`` is the decorator that gives the body for a type; its arguments have the names
    of the stub's. Works in compiled kernels, in plain Python and on the CUDA simulator. With
    `inline` the body is inlined, which helps for small functions in loops, and for functions that
    take many arrays, each of which is passed as seven numbers. `makes_arrays` is as in `inner`.
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
    """Tells a waiting user, once, that kernels are being compiled; cached kernels are not."""

    def __init__(self) -> None:
        self._told = False

    def on_start(self, event_: Any) -> None:
        """Write the notice when the first kernel of subsel is compiled."""
        module = event_.data["dispatcher"].py_func.__module__
        if not self._told and module.startswith("subsel.kernels"):
            # It stays registered: Numba would pass over the next listener, somebody else's.
            self._told = True
            said = "compiling for this kind of input, once on this machine; up to half a minute"
            logging.getLogger("subsel").info(said)
            if sys.stderr.isatty():
                sys.stderr.write(f"subsel: {said} ...\n")

    def on_end(self, event_: Any) -> None:
        """Do nothing."""


class _InterruptsKept(event.Listener):
    """Makes sure that Ctrl-C is not lost while kernels are compiled.

    LLVM takes most of the time, and calls Python functions of llvmlite, so Python mostly handles
    Ctrl-C in these. An exception in them is printed and then ignored, and leaves a kernel without
    machine code. An exception while Python cleans up objects is ignored, too.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._again: threading.Timer | None = None

    def on_start(self, _: Any) -> None:
        """Replace Python's own handler of Ctrl-C, if that is in place."""
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
            self._again.cancel()  # it took effect
        self._again = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt outside of calls by LLVM, repeatedly until it takes effect."""
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
event.register("numba:compile", _CompilationNotice())


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


# --- The twins of the intrinsics in plain Python ----------------------------------------------


def fma(x: Any, y: Any, z: Any) -> Any:
    """X * y + z with one rounding, for arrays of one float type, by the C library."""
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
