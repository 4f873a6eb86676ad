"""Which bounds lazy optimizers evaluate first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from subsel.optimizers.bounds import largest


@given(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1), st.data())
def test_the_largest_and_among_equals_the_first(values, data):
    values = np.array(values)
    count = data.draw(st.integers(1, len(values)))
    wanted = np.sort(np.argsort(-values, kind="stable")[:count])
    np.testing.assert_array_equal(largest(values, count), wanted)
