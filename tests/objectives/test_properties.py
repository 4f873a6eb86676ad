"""What every objective promises, on small parts of its data that Hypothesis draws.

A part is so small that all of its sets are enumerated: F of the part, made by `restrict`, must be
the formula's; gains must not rise and not be negative where the objective says so; and greedy must
keep its guarantee beside the best set there is.
"""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import MEMBERS, N

import subsel

made = functools.cache(lambda member: member.make())


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
@settings(max_examples=3)
@given(
    part=st.lists(st.integers(0, N - 1), min_size=2, max_size=5, unique=True),
    k=st.integers(1, 3),
)
def test_small_parts(member, part, k):
    f = made(member).restrict(part)
    everything = range(len(part))
    F = {
        chosen: f.value([*chosen])
        for size in range(len(part) + 1)
        for chosen in itertools.combinations(everything, size)
    }
    assert F[()] == 0
    for chosen, value in F.items():
        wanted = member.value([part[j] for j in chosen])
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-12)
    slack = 1e-9 * max(1.0, *map(abs, F.values()))

    def gain(chosen, j):
        return F[tuple(sorted({*chosen, j}))] - F[chosen]

    for chosen in F:
        others = [j for j in everything if j not in chosen]
        for j in others:
            assert not f.monotone or gain(chosen, j) >= -slack
        for i, j in itertools.permutations(others, 2) if f.submodular else ():
            assert gain(tuple(sorted({*chosen, i})), j) <= gain(chosen, j) + slack

    k = min(k, len(part))
    for search in (subsel.greedy, subsel.lazy_greedy)[: 1 + f.submodular]:
        found = search(f, k)
        np.testing.assert_allclose(found.value, F[tuple(sorted(found.indices))], atol=slack)
        if f.submodular and f.monotone:
            optimum = max(value for chosen, value in F.items() if len(chosen) <= k)
            assert found.value >= (1 - 1 / math.e) * optimum - slack
            assert found.bound >= optimum - slack
