"""How much memory this process may still take, by the machine, its container and its own limits."""

import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

UNKNOWN = 4 * 2**30
"""Bytes that are assumed where the system says nothing."""

_FRESH = 0.1
"""Seconds for which a measurement holds."""


def available_memory(root: str | os.PathLike = "/") -> int:
    """Bytes that this process can still allocate without swapping or being killed.

    The smallest of what the machine has free, what each control group around the process leaves
    (containers and batch systems limit memory by these, versions 1 and 2), and what the process's
    own limits leave (``ulimit -v`` and ``ulimit -d``). 4 GiB if the system reports none of them.

    Parameters
    ----------
    root : path, default "/"
        Where ``proc`` and ``sys`` are; another folder for tests.
    """
    root = Path(root)
    left = [*_machine(root), *_control_groups(root), *_own_limits(root)]
    return max(0, min(left, default=UNKNOWN))


def recently_available() -> int:
    """`available_memory`, at most a tenth of a second old: it has to read about thirty files."""
    return _measured_in(int(time.monotonic() / _FRESH))


@lru_cache(maxsize=1)
def _measured_in(period: int) -> int:
    return available_memory()


def _machine(root: Path) -> Iterator[int]:
    """The free memory of the machine; half of its memory if it does not report what is free."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
            return
    try:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return


def _control_groups(root: Path) -> Iterator[int]:
    """What each group leaves, from the process's own up to the outermost that can be seen."""
    mounted = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        unified = controllers == ""
        if not unified and "memory" not in controllers.split(","):
            continue
        for version, base, point in mounted:
            if (version == 2) != unified:
                continue
            # A container may see its own group as the outermost, under a name from outside of it.
            inside = Path(path).relative_to(base) if Path(path).is_relative_to(base) else Path()
            outermost = root / point.lstrip("/")
            own = outermost / inside
            for group in (own, *own.parents):
                yield from _left_in(group, version)
                if group == outermost:
                    break


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """Version, outermost group and folder of each tree of control groups that limits memory."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        fields, (name, _, options) = place.split(), kind.split(maxsplit=2)
        if name == "cgroup2" or (name == "cgroup" and "memory" in options.split(",")):
            base, point = (field.replace(r"\040", " ") for field in fields[3:5])
            yield 2 if name == "cgroup2" else 1, base, point


def _left_in(group: Path, version: int) -> Iterator[int]:
    """What a group may still take: its limit less its use, without files that can be let go."""
    limits, use, files = {
        1: (["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file"),
        2: (["memory.max", "memory.high"], "memory.current", "inactive_file"),
    }[version]
    used = _number(group / use) or 0
    for line in _lines(group / "memory.stat"):
        name, _, size = line.partition(" ")
        if name == files:
            used -= int(size)
    for limit in limits:
        if (most := _number(group / limit)) is not None:
            yield most - max(0, used)


def _own_limits(root: Path) -> Iterator[int]:
    """What the process's limits leave of its address space and of its data."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    for line in _lines(root / "proc/self/statm"):
        sizes, page = line.split(), os.sysconf("SC_PAGE_SIZE")
        for limit, used in ((resource.RLIMIT_AS, sizes[0]), (resource.RLIMIT_DATA, sizes[5])):
            most, _ = resource.getrlimit(limit)
            if most != resource.RLIM_INFINITY:
                yield most - int(used) * page


def _number(file: Path) -> int | None:
    """The number in a file; None if there is no such file, or it says that there is no limit."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _lines(file: Path) -> list[str]:
    """The lines of a file, none if it cannot be read."""
    try:
        return os.fsdecode(file.read_bytes()).splitlines()
    except (OSError, ValueError):
        return []
