"""Long searches in portions, so that a progress bar moves and Ctrl-C is heard."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_PORTION = 0.1
"""Seconds that a portion should take."""


class Pace:
    """How much to do at a time, so that it takes about a tenth of a second."""

    def __init__(self, first: int = 1) -> None:
        self._size = first
        self._began: float | None = None

    def size(self) -> int:
        """Of the portion that begins now; twice the last one, or half of it if that took long."""
        now = time.perf_counter()
        if self._began is not None:
            soon = now - self._began < _PORTION
            self._size = 2 * self._size if soon else max(1, self._size // 2)
        self._began = now
        return self._size


def portions(count: int, first: int = 1) -> Iterator[slice]:
    """Parts of ``range(count)`` in turn, the first of size `first`."""
    pace, done = Pace(first), 0
    while done < count:
        part = slice(done, min(done + pace.size(), count))
        yield part
        done = part.stop


def interruptible(function: Callable, *arguments: Any) -> Any:
    """Call a function that lets other threads run, such as a kernel, so that Ctrl-C is heard.

    After Ctrl-C the function runs on to its end, unseen: what it works on must be its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.extend([function(*arguments), None])
        except BaseException as error:
            outcome.extend([None, error])

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
    result, error = outcome
    if error is not None:
        raise error
    return result
