"""Split long searches into portions, so that a progress bar moves and Ctrl-C works."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS = 0.1
"""Seconds that a portion should take."""

PORTION = 2**26
"""Similarities that are looked at in about as long."""


_obeyed = threading.local()


def obey(stop: threading.Event) -> None:
    """Make the portions of this thread stop soon after an event is set.

    Only the main thread receives Ctrl-C. It tells the other threads by such an event.
    """
    _obeyed.stop = stop


def heed() -> None:
    """Raise KeyboardInterrupt in a thread that was told to stop."""
    stop = getattr(_obeyed, "stop", None)
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt


class Pace:
    """Chooses the size of the next portion, so that it takes about a tenth of a second."""

    def __init__(self, first: int = 1) -> None:
        self._size = first
        self._began: float | None = None

    def size(self) -> int:
        """The size of the next portion: twice the last one, or half of it if that took long."""
        heed()
        now = time.perf_counter()
        if self._began is not None:
            soon = now - self._began < _SECONDS
            self._size = 2 * self._size if soon else max(1, self._size // 2)
        self._began = now
        return self._size


def portion(work: int, count: int) -> int:
    """How many of the `count` equal parts of some work, in similarities, make one portion."""
    return max(1, count if work <= PORTION else count * PORTION // work)


def portions(count: int, first: int = 1) -> Iterator[slice]:
    """Parts of ``range(count)`` in turn, the first of size `first`."""
    pace, done = Pace(first), 0
    while done < count:
        part = slice(done, min(done + pace.size(), count))
        yield part
        done = part.stop


def interruptible(function: Callable, *arguments: Any) -> Any:
    """Call a function that releases the GIL, such as a kernel, in a way that Ctrl-C can interrupt.

    After Ctrl-C the function runs on to its end in the background, so nothing else may use its
    data.
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
