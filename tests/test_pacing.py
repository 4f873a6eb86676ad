"""Ctrl-C is heard within long searches, and what was interrupted can be used again."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import subsel
from subsel import pacing
from subsel.distributed.engines import Task, Threads
from subsel.kernels import cpu
from subsel.kernels.cpu import capped, columns, coverage
from subsel.objectives.disjoint import side_by_side
from subsel.pacing import Pace, interruptible, portions
from subsel.sources import base, levels
from subsel.sources import columns as pairs


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
    monkeypatch.setattr(pacing, "PORTION", 64)
    monkeypatch.setattr("subsel.sources.base.threads", lambda: threads)
    monkeypatch.setattr(cpu, "threads", lambda: threads)
    X = np.random.default_rng(0).normal(size=(500, 40))
    memory = 2**30 if kernel == "tile_matrix" else 0
    wanted = subsel.select(X, 20, memory=memory).indices
    name = {"settle": ("advance", "settle_parallel")}.get(kernel, (kernel, f"{kernel}_parallel"))
    name = name[threads > 1]
    with monkeypatch.context() as patch:
        patch.setattr(cpu, name, pressed_at(call, getattr(cpu, name)))
        with pytest.raises(KeyboardInterrupt):
            subsel.select(X, 20, memory=memory)
    np.testing.assert_array_equal(subsel.select(X, 20, memory=memory).indices, wanted)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("module", "kernel", "search"),
    [
        (coverage, "row_sums", lambda X: subsel.SaturatedCoverage(np.abs(X @ X.T))),
        (
            coverage,
            "gains",
            lambda X: subsel.greedy(subsel.SaturatedCoverage.from_features(X, fraction=1e-3), 5),
        ),
        (
            capped,
            "follow",
            lambda X: subsel.greedy(subsel.SaturatedCoverage.from_features(X, fraction=0.2), 99),
        ),
        (columns, "sums", lambda X: subsel.GraphCut.from_features(X, "rbf")),
        (cpu, "represent", lambda X: subsel.FacilityLocation.from_features(X).assign(range(500))),
        (cpu, "represent", lambda X: subsel.select(X, coverage=0.5)),
        (cpu, "represent", lambda X: subsel.assign(X, X)),
    ],
)
def test_long_passes_are_interrupted(module, kernel, search, threads, monkeypatch):
    """Each is one kernel, which hears nothing: it has to be run in parts."""
    for place in (base, levels, pairs):
        monkeypatch.setattr(place, "threads", lambda: threads)
    monkeypatch.setattr(base, "PARALLEL_WORK", 0)
    monkeypatch.setattr(levels, "_PARALLEL_WORK", 0)
    monkeypatch.setattr(pairs, "PARALLEL_WORK", 0)
    monkeypatch.setattr(pacing, "PORTION", 64)
    if kernel != "represent":
        kernel += "_parallel" if threads > 1 else "_serial"
    X = np.random.default_rng(0).normal(size=(500, 3))
    calls = pressed_at(2, getattr(module, kernel))
    monkeypatch.setattr(module, kernel, calls)
    with pytest.raises(KeyboardInterrupt):
        search(X)


def heedful(pressed, ended):
    """What a thread does for five seconds, in portions; it may press Ctrl-C first."""
    if pressed:
        ctrl_c()
    pace = Pace()
    for _ in range(500):
        pace.size()
        time.sleep(0.01)
    ended.append(pressed)


def test_ctrl_c_stops_the_threads_that_search_classes():
    ended = []
    with pytest.raises(KeyboardInterrupt):
        side_by_side(heedful, [(False, ended), (True, ended)], 2, False)
    assert not ended


def test_an_error_in_one_class_stops_the_others():
    ended = []

    def fails(pressed, ended):
        if pressed:
            raise MemoryError
        heedful(pressed, ended)

    with pytest.raises(MemoryError):
        side_by_side(fails, [(True, ended), (False, ended)], 2, False)
    assert not ended


def test_ctrl_c_stops_the_threads_of_greedi():
    ended, engine = [], Threads(2)

    def run():
        with engine:
            running = [engine.start(Task((i,), heedful, (i > 0, ended)), []) for i in range(2)]
            while running:
                engine.finished(running)

    with pytest.raises(KeyboardInterrupt):
        run()
    engine._pool.shutdown(wait=True)
    assert not ended


def test_an_interrupted_objective_is_searched_again(monkeypatch):
    monkeypatch.setattr(pacing, "PORTION", 64)
    f = subsel.FacilityLocation.from_features(np.random.default_rng(0).normal(size=(500, 3)))
    wanted = subsel.greedy(f, 20)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "advance", pressed_at(2, cpu.advance))
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
