"""Ctrl-C is heard within long searches, and what was interrupted can be used again."""

import os
import signal
import threading

import numpy as np
import pytest

import subsel
from subsel.kernels import cpu
from subsel.pacing import interruptible, portions
from subsel.sources import base


def ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)


def pressed_at(call, function):
    """The same function, during whose n-th call Ctrl-C is pressed."""
    calls = []

    def run(*arguments):
        calls.append(1)
        if len(calls) == call:
            ctrl_c()
        return function(*arguments)

    return run


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "call"), [("sum_pairs", 2), ("settle", 1), ("settle", 3), ("tile_matrix", 2)]
)
def test_a_search_is_interrupted_in_any_of_its_passes(kernel, call, threads, monkeypatch):
    monkeypatch.setattr(base, "PARALLEL_WORK", 0)
    monkeypatch.setattr(base, "_PORTION", 64)
    monkeypatch.setattr("subsel.sources.base.threads", lambda: threads)
    monkeypatch.setattr(cpu, "threads", lambda: threads)
    X = np.random.default_rng(0).normal(size=(500, 40))
    memory = 2**30 if kernel == "tile_matrix" else 0
    wanted = subsel.select(X, 20, memory=memory).indices
    name = {"settle": ("settle_serial", "settle_parallel")}.get(
        kernel, (kernel, f"{kernel}_parallel")
    )
    name = name[threads > 1]
    with monkeypatch.context() as patch:
        patch.setattr(cpu, name, pressed_at(call, getattr(cpu, name)))
        with pytest.raises(KeyboardInterrupt):
            subsel.select(X, 20, memory=memory)
    np.testing.assert_array_equal(subsel.select(X, 20, memory=memory).indices, wanted)


def test_an_interrupted_objective_is_searched_again(monkeypatch):
    monkeypatch.setattr(base, "_PORTION", 64)
    f = subsel.FacilityLocation.from_features(np.random.default_rng(0).normal(size=(500, 3)))
    wanted = subsel.greedy(f, 20)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "advance", pressed_at(4, cpu.advance))
        with pytest.raises(KeyboardInterrupt):
            subsel.greedy(f, 20)
    found = subsel.greedy(f, 20)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


def test_a_function_that_runs_long_is_left_to_its_end_unseen():
    goes_on, ended = threading.Event(), threading.Event()

    def long():
        threading.Timer(0.05, ctrl_c).start()
        goes_on.wait()
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(long)
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(10)


def test_what_an_interruptible_function_returns_and_raises():
    assert interruptible(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        interruptible(divmod, 7, 0)


def test_portions_are_everything_in_order():
    parts = list(portions(1000, 7))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(1000))
