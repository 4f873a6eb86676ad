"""Some seconds of the fuzzer of selections; python -m tests.trust.selections runs it for longer."""

import time

import numpy as np
import pytest

import subsel
from subsel.sources.scale import grid
from tests.trust.selections import trial


@pytest.mark.parametrize("part", range(5))
def test_selections_are_those_of_the_specification(part):
    began = time.monotonic()
    for seed in range(1000 * part, 1000 * part + 300):
        trial(seed)
        if time.monotonic() - began > 5:  # a slow machine tries fewer
            break


def test_partial_sums_of_few_points_are_exact_too():
    """Three points that filled up the last four took a sum beyond the digits that it had."""
    X = np.zeros((21, 1))
    X[14] = float.fromhex("-0x1.7098064dfa777p+0")
    f = subsel.FacilityLocation.from_features(X, memory=0)
    assert subsel.greedy(f, 21).value == f.value(np.arange(21))


def test_the_grid_is_as_fine_as_is_stated():
    """With few points it was up to 16 times as coarse as docs/numerics.md said."""
    random = np.random.default_rng(0)
    for n in (*range(1, 40), 1000, 10**6):
        for span in (*random.uniform(0.5, 1, 20), 0.5, np.nextafter(1, 0)):
            up, step = grid(n, span)
            assert up * step == 1
            assert step <= 2.0**-52 * max(n, 16) * span  # what FacilityLocation states
            largest = max(n, 16) * span
            assert largest < 2.0**53 * step <= 2 * largest  # what docs/numerics.md states


@pytest.mark.parametrize(("number", "far"), [("f4", 1e20), ("f8", 1e155)])
def test_rows_too_far_apart_for_rbf(number, far):
    """Rows that are not far from one another counted as equal, and were not selected."""
    X = np.array([[far], [1.0], [2.0], [100.0]], number)
    for call in (subsel.select, subsel.greedi):
        with pytest.raises(ValueError, match=r"X spreads over .*, too far for rbf.*rescale"):
            call(X, 1, metric="rbf")
    wanted = subsel.select(X[1:], 2, metric="rbf")
    near = subsel.select(np.where(far == X, X.dtype.type(1e10), X), 3, metric="rbf")
    assert set(wanted.indices + 1) < set(near.indices)
