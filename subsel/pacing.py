"""Long searches in portions, so that a progress bar moves and Ctrl-C is heard."""

import time
from collections.abc import Iterator


def portions(count: int, first: int = 1) -> Iterator[slice]:
    """Parts of ``range(count)`` in turn, the first of size `first`, that take some 0.1 s each.

    Between them there is time for a progress bar and for Ctrl-C.
    """
    done, size = 0, first
    while done < count:
        began = time.perf_counter()
        part = slice(done, min(done + size, count))
        yield part
        done = part.stop
        size = 2 * size if time.perf_counter() - began < 0.1 else max(1, size // 2)
