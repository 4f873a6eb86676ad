"""Progress bars and output that cannot make the work itself fail."""

import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm


class Progress(tqdm):
    """tqdm's bar on standard error, without two ways in which it can end or hang a long run.

    If standard error cannot be written (a full disk, a pipe that nobody reads), the bar is not seen
    and the run goes on. And if an exception such as Ctrl-C comes while the bar is drawn, the lock
    that all bars of a process share is released; tqdm itself keeps it, and the next bar on another
    thread then waits forever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if sys.stderr is not None:
            options = {"file": _Unfailing(sys.stderr), **options}
        super().__init__(*args, **options)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
        """Draw the bar."""
        if nolock:
            return super().refresh(nolock=True)
        with self.get_lock():
            return super().refresh(nolock=True)


class _Unfailing:
    """A stream whose errors are ignored when it is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write, and ignore errors."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, and ignore errors."""
        with suppress(OSError):
            self._stream.flush()


def say(text: str) -> None:
    """Write to standard output; characters that its encoding lacks are written as escapes.

    If standard output cannot be written, nothing is raised, because the work is done already.
    """
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
