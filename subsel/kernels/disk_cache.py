"""Compiled kernels on disk: a cache that notices every change and never stops a program.

Numba's own disk cache looks only at the file in which a function stands, so it goes stale when a
function called from another file changes; it raises where no folder can be written to and where a
file is damaged; and two processes that fill it at the same time can mix up each other's files. The
cache in this module is stamped with all sources of kernels and objectives, and has its own file for
each kernel and each kind of arguments.

It builds on classes of Numba that are not public. Where a version of Numba lacks them, this module
cannot be imported, and `subsel.kernels.compiling` goes back to Numba's cache.
"""

import contextlib
import functools
import getpass
import hashlib
import inspect
import logging
import os
import pickle
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

_log = logging.getLogger("subsel")
_PACKAGE = Path(__file__).parent.parent
_LEFT_OVER = 3600
"""Seconds after which a file that is not whole belongs to no process any more."""

_SHIPPED = _PACKAGE / "kernels" / "__pycache__"
"""The package's own folder. What is there is also read by users who cannot write to it."""


@functools.cache
def _stamp() -> str:
    """A digest of Numba's version and of all sources that kernels are compiled from."""
    digest = hashlib.sha256(numba.__version__.encode())
    for folder in ("kernels", "objectives"):
        for path in sorted((_PACKAGE / folder).rglob("*.py")):
            digest.update(str(path.relative_to(_PACKAGE)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where nothing can be written.

    ``NUMBA_CACHE_DIR`` if it is set; else the first that can be written of the package's own
    folder, the user's cache folder, and a folder in the temporary directory. The files in there are
    executed, so the last folder is used only if it belongs to this user and nobody else can write
    to it. The folder of the package is read even if it cannot be written.
    """
    own = f"subsel-{hashlib.sha256(str(_PACKAGE).encode()).hexdigest()[:16]}"
    if config.CACHE_DIR:
        places = [Path(config.CACHE_DIR).absolute() / own]
    else:
        places = [
            _SHIPPED,
            Path(AppDirs("numba", appauthor=False).user_cache_dir) / own,
        ]
    for place in places:
        if _can_be_written(place):
            return place
    if not config.CACHE_DIR:
        user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
        shared = Path(tempfile.gettempdir()) / f"subsel-{user}"
        written = _can_be_written(shared) and _can_be_written(shared / own)
        if written and _is_ours(shared) and _is_ours(shared / own):
            _log.info("compiled kernels are kept in %s", shared / own)
            return shared / own
    _log.warning(
        "no folder can be written to, so kernels are compiled anew in every process; set "
        "NUMBA_CACHE_DIR to a folder that can"
    )
    return None


def _folders() -> list[Path]:
    """Where compiled kernels may be found; the package's own folder may have been filled ahead."""
    shipped = _SHIPPED if not config.CACHE_DIR and _SHIPPED.is_dir() else None
    return list(dict.fromkeys(place for place in (cache_folder(), shipped) if place))


def _can_be_written(folder: Path) -> bool:
    if not folder.is_absolute():  # of a user without a home, or an empty XDG_CACHE_HOME
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can write to a folder in the shared temporary directory."""
    if not hasattr(os, "getuid"):
        return True  # on Windows everybody has a temporary directory of their own
    info = folder.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022


def keep_on_disk(compiled: Any) -> None:
    """Let a function of Numba's keep what it compiles, where there is a folder for it."""
    if _folders():
        compiled._cache = _KernelCache(compiled.py_func)


class _Files:
    """One file for each kernel and each kind of arguments, written whole or not at all."""

    def __init__(self, folder: Path | None, name: str, *more: Path) -> None:
        self._folder, self._name = folder, name
        self._all = [place for place in (folder, *more) if place]

    def _file(self, key: Any) -> str:
        digest = hashlib.sha256(repr((_stamp(), key)).encode()).hexdigest()
        return f"{self._name}.{_stamp()[:12]}.{digest[:24]}.nbc"

    def load(self, key: Any) -> Any:
        """The data stored under this key; None if there is none, or if it cannot be read."""
        found = (self._read(place / self._file(key), key) for place in self._all)
        return next((data for data in found if data is not None), None)

    def _read(self, path: Path, key: Any) -> Any:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                return None  # damaged machine code must not run
            stamp, kept, data = pickle.loads(content[32:])  # noqa: S301
        except Exception:
            return None
        return data if (stamp, kept) == (_stamp(), key) else None

    def save(self, key: Any, data: Any) -> None:
        """Store data, and remove files of other states of the sources."""
        if self._folder is None:
            return
        path = self._folder / self._file(key)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.part")
        try:
            for old in self._folder.glob(f"{self._name}.*.nbc"):
                if old.name.split(".")[-3] != _stamp()[:12]:
                    old.unlink(missing_ok=True)
            for left in self._folder.glob(f"{self._name}.*.part"):  # by a process that was killed
                if time.time() - left.stat().st_mtime > _LEFT_OVER:
                    left.unlink(missing_ok=True)
            content = dumps((_stamp(), key, data))
            part.write_bytes(hashlib.sha256(content).digest() + content)
            part.replace(path)
        except OSError as error:  # a full disk, a quota: the kernel runs all the same
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            _say_once(f"compiled kernels could not be kept in {self._folder}: {error.strerror}")

    def flush(self) -> None:
        """Remove all that was kept of this kernel."""
        if self._folder is None:
            return
        for old in self._folder.glob(f"{self._name}.*.nbc"):
            old.unlink(missing_ok=True)


@functools.cache
def _say_once(what: str) -> None:
    _log.warning(what)


class _Locator(_CacheLocator):
    """Tells Numba where the files are, and what they depend on."""

    def __init__(self, folder: Path, function: Callable) -> None:
        self._folder, self._py_file = folder, inspect.getfile(function)
        self._line = function.__code__.co_firstlineno

    def ensure_cache_path(self) -> None:
        """Do nothing: Numba would raise an error for a full folder; `_Files` does not."""

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What the files depend on."""
        return _stamp()

    def get_disambiguator(self) -> str:
        """Tells kernels of one name apart."""
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> "_Locator":
        """The locator of a function. There is a folder, because otherwise no cache is made."""
        return cls(_folders()[0], py_func)


class _KernelCacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _KernelCache(FunctionCache):
    """Numba's cache of a function, with the stamp and the files above."""

    _impl_class = _KernelCacheImpl

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        module = function.__module__.removeprefix("subsel.kernels.")
        version = f"py{sys.version_info[0]}{sys.version_info[1]}"
        name = f"{module}.{function.__name__}-{version}"
        self._cache_file = _Files(cache_folder(), name, *_folders())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The stored kernel; None if it is damaged, so that the kernel is compiled again."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None
