"""Distributed selection when the n-th allocation, read, write or start of a thread fails.

The error has to come out as it was raised, no thread may go on, and the next call has to give the
bits that it would have given. Selection writes nothing but a progress bar, and renames no file.
What a killed worker changes is tested in tests/distributed/test_distributed.py.
"""

import io
import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from tqdm import tqdm

import subsel
from subsel.distributed import chunks

N, K = 40, 3
ALLOCATE = [
    *("arange", "argsort", "bincount", "column_stack", "concatenate", "cumsum", "empty"),
    *("empty_like", "flatnonzero", "full", "ones", "require", "sort", "split", "unique", "zeros"),
]
LAYOUTS = {
    "one merge": {"partitions": 3},
    "by class": {"partitions": 2, "labels": np.arange(N) % 2},
    "of a sample": {"sample": 30, "max_rows": 24, "spread": 2, "metric": "cosine"},
    "from dask": {"partitions": 2},
}


class Fault:
    """Raises `error` when what it wraps is called for the n-th time in all, on any thread."""

    def __init__(self, error):
        self.error = error
        self.arm(None)

    def arm(self, n):
        """Fail at the n-th call from now on; None: at none."""
        self.n, self.calls = n, itertools.count(1)

    def check(self):
        if next(self.calls) == self.n:
            raise self.error

    def around(self, function):
        def wrapped(*args, **kwargs):
            self.check()
            return function(*args, **kwargs)

        return wrapped


class FaultyNumPy:
    """NumPy, but for functions that allocate, which fail where `fault` says."""

    def __init__(self, fault):
        self._own = {name: fault.around(getattr(np, name)) for name in ALLOCATE}

    def __getattr__(self, name):
        return self.__dict__["_own"].get(name) or getattr(np, name)


def allocation(monkeypatch):
    fault = Fault(MemoryError("the test allows no more"))
    faulty = FaultyNumPy(fault)
    for name, module in list(sys.modules.items()):
        # Compiled functions cannot be reached from here, and must not be compiled with this.
        own = name.startswith("subsel.") and not name.startswith("subsel.kernels")
        if own and getattr(module, "np", None) is np:
            monkeypatch.setattr(module, "np", faulty)
    return fault


def reading(monkeypatch):
    fault = Fault(OSError(5, "the test's disk is broken"))
    for load in (chunks.Held, chunks.Graph):
        monkeypatch.setattr(load, "__call__", fault.around(load.__call__))
    return fault


def starting_a_thread(monkeypatch):
    fault = Fault(RuntimeError("the test's system starts no more threads"))
    start = threading.Thread.start
    faulty = fault.around(start)
    monkeypatch.setattr(
        threading.Thread,
        "start",
        lambda thread: (faulty if thread.name.startswith("greedi") else start)(thread),
    )
    return fault


def bits(chosen):
    arrays = (chosen.indices, chosen.gains, chosen.sizes, chosen.assignment)
    return [np.asarray(array).tobytes() for array in arrays] + [chosen.value]


def wait_for_threads():
    """Tasks that were under way when another one failed end by themselves, soon."""
    for _ in range(10_000):
        left = [some for some in threading.enumerate() if some.name.startswith("greedi")]
        if not left:
            return
        time.sleep(0.001)
    raise AssertionError(f"threads are left: {left}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "at_least"), [(allocation, 100), (reading, 5), (starting_a_thread, 1)]
)
def test_a_fault_at_any_moment_spoils_nothing(monkeypatch, layout, kind, at_least):
    # Of the many allocations every single one fails in the first layout, some in the others.
    step = 7 if kind is allocation and layout != "one merge" else 1
    X = np.random.default_rng(0).normal(size=(N, 3))
    if layout == "from dask":
        X = da.from_array(X, chunks=(10, 3))

    def select():
        chosen = subsel.greedi(X, K, random_state=0, **LAYOUTS[layout])
        with da.core.config.set(scheduler="synchronous"):
            return bits(chosen)

    expected = select()
    with monkeypatch.context() as patch:
        fault = kind(patch)
        for n in itertools.count(1, step):
            fault.arm(n)
            try:
                chosen = select()
            except type(fault.error) as error:
                if error is not fault.error:
                    raise
                error.__traceback__ = None
            else:
                break
            wait_for_threads()
            if n % 5 < step:
                fault.arm(None)
                assert select() == expected
    assert chosen == expected  # n is larger than the number of calls
    assert n > at_least


class FaultyStream(io.StringIO):
    def __init__(self, fault):
        super().__init__()
        self._fault = fault

    def write(self, text):
        self._fault.check()
        return super().write(text)


@pytest.mark.parametrize("error", [OSError(28, "the test's disk is full"), BrokenPipeError()])
def test_a_progress_bar_that_cannot_be_written_stops_nothing(monkeypatch, error):
    X = np.random.default_rng(0).normal(size=(N, 3))
    expected = bits(subsel.greedi(X, K, partitions=3, random_state=0))
    fault = Fault(error)
    monkeypatch.setattr(sys, "stderr", FaultyStream(fault))
    for n in itertools.count(1):
        fault.arm(n)
        assert bits(subsel.greedi(X, K, partitions=3, random_state=0, progress=True)) == expected
        if next(fault.calls) <= n:
            break
    assert n > 3


def lock_is_free():
    taken = [lock for lock in tqdm.get_lock().locks if lock.acquire(timeout=2)]
    for lock in taken:
        lock.release()
    return len(taken) == len(tqdm.get_lock().locks)


def test_an_interrupted_progress_bar_lets_the_next_call_go_on(monkeypatch):
    """Ctrl-C comes while the bar is drawn; tqdm itself would keep a lock that all threads need."""
    X = np.random.default_rng(0).normal(size=(N, 3))
    expected = bits(subsel.greedi(X, K, partitions=3, random_state=0))
    fault = Fault(KeyboardInterrupt())
    for n in itertools.count(1):
        fault.arm(n)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", FaultyStream(fault))
            try:
                subsel.greedi(X, K, partitions=3, random_state=0, progress=True)
            except KeyboardInterrupt:
                wait_for_threads()
                with ThreadPoolExecutor(1) as another:
                    assert another.submit(lock_is_free).result()
            else:
                break
        assert bits(subsel.greedi(X, K, partitions=3, random_state=0)) == expected
    assert n > 3
