"""Some seconds of the fuzzer of selections; python -m tests.trust.selections runs it for longer."""

import time

import pytest

from tests.trust.selections import trial


@pytest.mark.parametrize("part", range(5))
def test_selections_are_those_of_the_specification(part):
    began = time.monotonic()
    for seed in range(1000 * part, 1000 * part + 300):
        trial(seed)
        if time.monotonic() - began > 5:  # a slow machine tries fewer
            break
