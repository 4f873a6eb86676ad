"""Write files completely or not at all, and lock them."""

import errno
import glob
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["locked", "remove_parts", "write_whole", "written_whole"]

_LOG = logging.getLogger("subsel")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_SUCH_SYNC = {errno.EINVAL, errno.ENOTSUP}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that at any moment either the whole new file or the former one exists.

    Parameters
    ----------
    path : Path
    content : bytes or str
        A string is written in UTF-8.

    Raises
    ------
    OSError
        The message names the file and the reason, such as "disk full". The file is then the former
        one; or it is the new one, if only the last step failed, which writes its name to the disk.

    Notes
    -----
    When the function returns, the content is on the disk and not only in the system's memory, so
    it also survives a power cut.
    """
    with written_whole(path) as part, part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which takes the name `path` if the body succeeds.

    The promises and errors are those of `write_whole`, for content that must be written to a path.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL or error.filename in (None, str(part), str(path.parent)):
            raise _explained(error, path) from error
        raise
    finally:
        # An error here, such as a folder that no longer exists, would hide the important one.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove files that a process left behind when it was killed while it wrote `path`.

    Call this only if nobody else can be writing the file now: see `locked`.
    """
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file for one run, so that a second run that wants to write it is refused.

    The lock ends with the process, however the process ends.  The thread that holds it may take
    it again.  The file itself need not exist; its folder must.  On a file system without locks a
    warning in the log takes the lock's place.

    Raises
    ------
    BlockingIOError
        Another process or thread holds the file.
    """
    from filelock import FileLock, Timeout

    name = path.parent.resolve() / f".{path.name}.lock"
    lock = FileLock(name, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another run is writing {path}: wait until it has ended, or choose another place"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise _explained(error, path) from error
        _LOG.warning("%s cannot be locked here: see to it that one run at a time writes it", path)
    try:
        yield
    finally:
        if lock.lock_counter < 2 and os.name != "nt":
            # While the lock is held: whoever opened the file meanwhile finds it gone, and opens it
            # again.
            with suppress(OSError):
                name.unlink(missing_ok=True)
        lock.release()


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, if the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_SYNC:
            raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> OSError:
    """The same kind of error, with a sentence that names the file and the reason."""
    if error.errno in _FULL:
        reason = "disk full"
    elif isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        reason = f"the folder {path.parent} does not exist (any more)"
    else:
        reason = error.strerror or str(error)
    explained = type(error)(f"{path} could not be written: {reason}")
    explained.errno = error.errno
    return explained
