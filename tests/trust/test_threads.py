"""One objective, several threads: a second search is refused, and the first one is undisturbed."""

import os
import threading

import numpy as np
import pytest

import subsel

S = np.random.default_rng(0).integers(0, 9, (40, 30)).astype(float)


class Watched(subsel.Objective):
    """Facility location that calls `during` in the middle of each search."""

    def __init__(self, during):
        self.inner, self.n, self.during = subsel.FacilityLocation(S), S.shape[1], during

    def reset(self):
        self.inner.reset()

    def gains(self, candidates):
        self.during()
        return self.inner.gains(candidates)

    def add(self, element):
        self.inner.add(element)

    def value(self, indices):
        return self.inner.value(indices)


def in_a_thread(call):
    """What a call raises in another thread; None if nothing."""
    caught = [None]

    def run():
        try:
            call()
        except Exception as error:
            caught[0] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0]


def drawn(f, budget):
    return subsel.stochastic_greedy(f, budget, random_state=0)


SEARCHES = [subsel.greedy, subsel.lazy_greedy, drawn]
SHARED = {
    "itself": lambda f: f,
    "in a mixture": lambda f: f + subsel.Modular(np.ones(30)),
    "in a mixture of mixtures": lambda f: 2.0 * (0.5 * f) + subsel.FacilityLocation(S),
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("second", SHARED)
@pytest.mark.parametrize("first", SHARED)
def test_a_second_search_of_one_objective_is_refused(search, first, second):
    """Both searches added to the same selection, and values were 23 times too large."""
    refused = []

    def disturb():
        refused.append(in_a_thread(lambda: search(other, 3)))

    f = Watched(disturb)
    one, other = SHARED[first](f), SHARED[second](f)
    found = search(one, 5)
    assert refused
    for error in refused:
        assert isinstance(error, RuntimeError)
        assert "searched already" in str(error)
        assert "Watched" in str(error) or "Mixture" in str(error)
    assert found.value == one.value(found.indices)
    f.during = lambda: None
    np.testing.assert_array_equal(search(one, 5).indices, found.indices)  # it is free again


def test_an_objective_that_searches_itself_is_refused():
    f = Watched(lambda: subsel.greedy(f, 1))
    with pytest.raises(RuntimeError, match="this Watched is being searched already"):
        subsel.greedy(f, 3)
    f.during = lambda: None
    assert len(subsel.greedy(f, 3)) == 3


def test_objectives_of_one_matrix_are_searched_side_by_side():
    wanted = subsel.greedy(S, 5).indices.tolist()
    meanwhile = []
    f = Watched(lambda: meanwhile.append(subsel.greedy(S, 5).indices.tolist()))
    assert subsel.greedy(f, 5).indices.tolist() == wanted
    assert meanwhile
    assert all(found == wanted for found in meanwhile)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_in_the_middle_of_a_search_may_search():
    ended = []

    def fork():
        f.during = lambda: None
        child = os.fork()
        if not child:
            try:
                os._exit(len(subsel.greedy(f, 3)) != 3)
            finally:
                os._exit(9)
        ended.append(os.waitpid(child, 0)[1])

    f = Watched(fork)
    assert len(subsel.greedy(f, 3)) == 3
    assert ended == [0]
