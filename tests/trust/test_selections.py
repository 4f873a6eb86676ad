"""Some seconds of the fuzzer of selections; python -m tests.trust.selections runs it for longer."""

import time

import numpy as np
import pytest

import subsel
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
