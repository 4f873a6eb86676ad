"""Objectives under any order of calls, against a plain model of what they should hold.

A machine of Hypothesis draws objectives, restricts, pickles and copies them, and calls their
methods in any order. After each step an objective must be what its model, a formula and a list of
what was added, says that it is. One machine draws objectives of every kind, as the fuzzer does
(`tests.trust.objectives`); the other facility location of whole numbers, which is known bit by bit.
"""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import subsel
from subsel.kernels import reference
from tests.trust.drawing import clean
from tests.trust.objectives import KINDS, mixture, near
from tests.trust.selections import Recomputed


class Model:
    """An objective, its formula over elements of its own, and what should have been added."""

    def __init__(self, f, value, slack, added=()):
        self.f, self.value, self.slack, self.added = f, value, slack, list(added)

    def copied(self, f):
        return Model(f, self.value, self.slack, self.added)

    def restricted(self, part):
        value = self.value
        inside = self.f.restrict(part)
        return Model(inside, lambda chosen: value([part[j] for j in chosen]), self.slack)

    def gains(self):
        """Of all elements, by the formula."""
        before = self.value(self.added)
        beside = ([*self.added, j] for j in range(self.f.n))
        return np.array([self.value(c) - before if c[-1] not in c[:-1] else 0.0 for c in beside])

    def is_as_told(self):
        gains = self.f.gains(np.arange(self.f.n))
        for j, wanted in enumerate(self.gains()):
            near(gains[j], wanted, self.slack, f"the gain of {j} beside {self.added}")
        gains[:] = np.nan  # the caller's own


class Exact(Model):
    """Facility location of similarities whose sums are exact.

    From features, each point has a nearest element; of a matrix, some may have none.
    """

    def __init__(self, f, S, added=(), *, of_features=False):
        super().__init__(f, lambda chosen: reference.value(S, chosen), 0.0, added)
        self.S, self.of_features = S, of_features

    def copied(self, f):
        return Exact(f, self.S, self.added, of_features=self.of_features)

    def restricted(self, part):
        if isinstance(self.f, Recomputed):
            with pytest.raises(NotImplementedError, match="Recomputed cannot be restricted"):
                self.f.restrict(part)
            return Exact(Recomputed(self.S), self.S)
        return Exact(self.f.restrict(part), self.S[:, part], of_features=self.of_features)

    def gains(self):
        return reference.gains(self.S, self.added)

    def assigned(self, indices):
        """Who represents each point."""
        if self.of_features:
            return self.S[:, indices].argmax(axis=1)
        return reference.assign(self.S, indices)[0]

    def is_as_told(self):
        super().is_as_told()
        if self.added and not isinstance(self.f, Recomputed):
            assignment = self.f.assignment
            np.testing.assert_array_equal(assignment, self.assigned(self.added))
            assignment[:] = -1


class Machine(RuleBasedStateMachine):
    """Several objectives at a time, as what is done to one must leave the others alone."""

    models = Bundle("models")

    def __init__(self):
        super().__init__()
        self.all = []

    def kept(self, model):
        self.all.append(model)
        return model

    def drawn(self, data):
        raise NotImplementedError

    @initialize(target=models, data=st.data())
    def first(self, data):
        return self.kept(self.drawn(data))

    @rule(target=models, data=st.data())
    def another(self, data):
        return self.kept(self.drawn(data))

    @rule(target=models, model=models, data=st.data())
    def restrict(self, model, data):
        n = model.f.n
        part = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
        return self.kept(model.restricted(part))

    @rule(target=models, model=models)
    def pickled(self, model):
        return self.kept(model.copied(pickle.loads(pickle.dumps(model.f))))  # noqa: S301

    @rule(target=models, model=models)
    def deeply_copied(self, model):
        return self.kept(model.copied(copy.deepcopy(model.f)))

    @rule(model=models, data=st.data())
    def add(self, model, data):
        """Also what was added already, which changes nothing."""
        element = data.draw(st.integers(0, model.f.n - 1))
        model.f.add(element)
        if element not in model.added:
            model.added.append(element)

    @rule(model=models, data=st.data(), priced=st.booleans())
    def extend(self, model, data, priced):
        n = model.f.n
        taken = np.zeros(n, bool)
        taken[model.added] = True
        taken[data.draw(st.lists(st.integers(0, n - 1), max_size=9))] = True
        closed = taken.copy()
        count = data.draw(st.integers(0, int((~taken).sum())))
        costs = np.arange(1.0, n + 1) if priced else None
        elements, gains = model.f.extend(taken, count, costs)
        assert len(elements) == len(gains) == count
        for element, gain in zip(elements.tolist(), gains.tolist(), strict=True):
            assert not closed[element]
            wanted = model.gains()
            near(gain, wanted[element], model.slack, f"extend says what {element} gained")
            if isinstance(model, Exact):
                worth = wanted / costs if priced else wanted
                assert element == int(np.argmax(np.where(closed, -1, worth)))
            closed[element] = True
            model.added.append(element)
        np.testing.assert_array_equal(taken, closed)

    @rule(model=models, data=st.data())
    def value(self, model, data):
        """From scratch, of elements in any order, which may repeat."""
        some = data.draw(st.lists(st.integers(0, model.f.n - 1), max_size=9))
        near(model.f.value(some), model.value(some), 9 * model.slack, f"value of {some}")

    @rule(model=models, data=st.data())
    def searched(self, model, data):
        """An optimizer begins anew, whatever was added, and leaves its selection behind."""
        given = data.draw(st.lists(st.integers(0, model.f.n - 1), max_size=2, unique=True))
        assume(len(given) < model.f.n)
        k = data.draw(st.integers(1, model.f.n - len(given)))
        search = data.draw(st.sampled_from([subsel.lazy_greedy, subsel.greedy]))
        if not model.f.submodular:
            search = subsel.greedy
        chosen = search(model.f, k, given=given)
        model.added = [*given, *chosen.indices.tolist()]
        if isinstance(model, Exact) and not given:
            indices, gains = reference.greedy(model.S, k)
            np.testing.assert_array_equal(chosen.indices, indices)
            np.testing.assert_array_equal(chosen.gains, gains)

    @rule(model=models)
    def reset(self, model):
        model.f.reset()
        model.added = []

    @rule(model=models, data=st.data())
    def refused(self, model, data):
        """What is refused changes nothing."""
        f, n = model.f, model.f.n
        assume(not isinstance(f, Recomputed))
        none = np.zeros(n, bool)
        call = data.draw(
            st.sampled_from(
                [
                    lambda: f.add(n),
                    lambda: f.add(-1),
                    lambda: f.add(0.5),
                    lambda: f.gains([0, n]),
                    lambda: f.value([-1]),
                    lambda: f.restrict([]),
                    lambda: f.restrict([n]),
                    lambda: f.extend(none, n + 1),
                    lambda: f.extend(none, 1, np.zeros(n)),
                    lambda: subsel.greedy(f, n + 1),
                    lambda: subsel.greedy(f, 1, given=[n]),
                ]
            )
        )
        with pytest.raises((ValueError, TypeError), match="must"):
            call()

    @rule(model=consumes(models))
    def forgotten(self, model):
        self.all.remove(model)

    @invariant()
    def all_are_as_told(self):
        for model in self.all[-3:]:
            model.is_as_told()


class OfEveryKind(Machine):
    """Objectives as the fuzzer draws them."""

    def drawn(self, data):
        seed = data.draw(st.integers(0, 2**32))
        kind = data.draw(st.sampled_from([*KINDS, mixture]))
        drawn = kind(np.random.default_rng(seed), data.draw(st.integers(2, 12)))
        try:
            f = drawn.make(clean(drawn.data))
        except ValueError as error:
            assume("rescale" not in str(error))
            raise
        return Model(f, drawn.value, 4 * drawn.slack)


def sparse(S):
    return subsel.FacilityLocation(sp.coo_array(S))


def single(S):
    return subsel.FacilityLocation(S.astype(np.float32))


class OfFacilityLocation(Machine):
    """Facility location of whole numbers: matrices, and features along one axis."""

    models = Machine.models

    def drawn(self, data):
        random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        rows = data.draw(st.integers(1, 140))
        if data.draw(st.booleans()):
            make = data.draw(st.sampled_from([subsel.FacilityLocation, single, sparse, Recomputed]))
            S = random.integers(0, 4, (rows, data.draw(st.integers(1, 70)))).astype(float)
            return Exact(make(S), S)
        X = np.zeros((rows, data.draw(st.sampled_from([1, 5, 40]))))
        X[:, 0] = random.integers(-5, 6, rows)
        metric = data.draw(st.sampled_from(["euclidean", "dot"]))
        memory = data.draw(st.sampled_from([0, 1e9]))
        f = subsel.FacilityLocation.from_features(X, metric, memory=memory)
        S = reference.similarity(X, metric, c0=f.offset)
        return Exact(f, S, of_features=True)

    @rule(model=models, data=st.data())
    def assign(self, model, data):
        some = data.draw(st.lists(st.integers(0, model.f.n - 1), min_size=1, max_size=9))
        assume(not isinstance(model.f, Recomputed))
        assignment, sizes = model.f.assign(some)
        np.testing.assert_array_equal(assignment, model.assigned(some))
        np.testing.assert_array_equal(
            sizes, np.bincount(assignment[assignment >= 0], minlength=len(some))
        )


TestOfEveryKind = OfEveryKind.TestCase
TestOfEveryKind.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
TestOfFacilityLocation = OfFacilityLocation.TestCase
TestOfFacilityLocation.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_selection_is_pickled_and_copied_whole():
    chosen = subsel.select(np.arange(20.0)[:, None], 4, labels=[0, 1] * 10)
    for twin in (pickle.loads(pickle.dumps(chosen)), copy.deepcopy(chosen)):  # noqa: S301
        for name, value in vars(chosen).items():
            np.testing.assert_array_equal(getattr(twin, name), value)
