"""Greedy in a kernel beside greedy from every gain, some elements at a time."""

import numpy as np

from subsel.objectives import Objective


def same_in_steps(f, plain, closed, counts=(1, 4, 60, 200)):
    """Extend two copies of an objective of 700 candidates, and compare elements and gains.

    `f` is extended by itself and `plain` from every gain. After each step the last candidate that
    is still open is added by hand. Returns the candidates that are closed in the end.
    """
    closed, open_ = closed.copy(), closed.copy()
    for count in counts:
        found, wanted = f.extend(closed, count), Objective._extend(plain, open_, count, None)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(closed, open_)
        last = int(np.flatnonzero(~closed)[-1])
        closed[last] = open_[last] = True
        f.add(last)
        plain.add(last)
        np.testing.assert_array_equal(f.gains([7, 650]), plain.gains([7, 650]))
    np.testing.assert_array_equal(f.gains(np.arange(700)), plain.gains(np.arange(700)))
    return closed
