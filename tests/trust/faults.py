"""A fault at the n-th file operation below a folder: for tests of what is then left.

File operations are opening a file, writing to it, fsync, and renaming: whatever can fail because
the disk is full, broken or gone, and the moments between which a process can be killed.
"""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


class Faults:
    """Counts file operations below `folder`, and calls `fail(path)` instead of the n-th."""

    def __init__(self, folder, at=None, fail=None):
        self.folder, self.at = str(folder), at
        self.fail = fail or disk_full
        self.count = 0

    def step(self, path):
        if not str(path).startswith(self.folder):
            return
        self.count += 1
        if self.count == self.at:
            self.fail(path)

    @contextmanager
    def injected(self):
        """Inside, the operations are counted, and one fails."""
        real_open, real_replace, real_fsync, os_open = Path.open, os.replace, os.fsync, os.open

        def opened(path, mode="r", *args, **settings):
            self.step(path)
            file = real_open(path, mode, *args, **settings)
            return file if mode.startswith("r") else Halfway(file, path, self)

        def replaced(source, target):
            self.step(target)
            real_replace(source, target)

        def synced(descriptor):
            self.step(os.readlink(f"/proc/self/fd/{descriptor}"))
            real_fsync(descriptor)

        def opened_below(path, *args, **settings):
            self.step(path)
            return os_open(path, *args, **settings)

        with (
            mock.patch.object(Path, "open", opened),
            mock.patch.object(os, "replace", replaced),
            mock.patch.object(os, "fsync", synced),
            mock.patch.object(os, "open", opened_below),
        ):
            yield self


class Halfway:
    """A file of which a write that fails has written the first half."""

    def __init__(self, file, path, faults):
        self.file, self.path, self.faults = file, path, faults

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.faults.step(self.path)
        self.file.write(content[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)


def disk_full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def disk_broken(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
