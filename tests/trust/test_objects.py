"""Objectives under any order of calls, against a plain model of what they should hold.

A machine of Hypothesis draws an objective, dense, sparse, from features, restricted, pickled or
copied, and calls its methods in any order. After each step the objective must be what the model,
a matrix of whole numbers and a list of what was added, says that it is.
"""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

import subsel
from subsel.kernels import reference


class Recomputed(subsel.Objective):
    """Facility location as a user would write it; `extend` is that of the base class."""

    def __init__(self, S):
        self.S, self.n = S, S.shape[1]
        self.reset()

    def reset(self):
        self.chosen = []

    def gains(self, candidates):
        return reference.gains(self.S, self.chosen)[candidates]

    def add(self, element):
        self.chosen.append(element)

    def value(self, indices):
        return reference.value(self.S, indices)


def dense(S):
    return subsel.FacilityLocation(S)


def dense_float32(S):
    return subsel.FacilityLocation(S.astype(np.float32))


def sparse(S):
    return subsel.FacilityLocation(sp.coo_array(S))


MATRICES = [dense, dense_float32, sparse, Recomputed]


class Model:
    """An objective, the similarities that it should have, and what should have been added to it."""

    def __init__(self, f, S, added=(), *, of_features=False):
        self.f, self.S, self.added, self.of_features = f, S, list(added), of_features
        self.blocked = np.zeros(S.shape[1], bool)

    def assigned(self, indices):
        """Who represents each point; from features, each has a nearest."""
        if self.of_features:
            return self.S[:, indices].argmax(axis=1)
        return reference.assign(self.S, indices)[0]

    def copied(self, f):
        twin = Model(f, self.S, self.added, of_features=self.of_features)
        twin.blocked = self.blocked.copy()
        return twin

    @property
    def own(self):
        """Whether it is one of the library's, which knows more than an objective must."""
        return isinstance(self.f, subsel.FacilityLocation)


class Objectives(RuleBasedStateMachine):
    """Several objectives at a time, as what is done to one must leave the others alone."""

    models = Bundle("models")

    def __init__(self):
        super().__init__()
        self.all = []

    def kept(self, model):
        self.all.append(model)
        return model

    @initialize(
        target=models,
        seed=st.integers(0, 2**32),
        rows=st.integers(1, 70),
        columns=st.integers(1, 70),
        make=st.sampled_from(MATRICES),
    )
    def of_a_matrix(self, seed, rows, columns, make):
        random = np.random.default_rng(seed)
        S = random.integers(0, 4, (rows, columns)).astype(float)
        return self.kept(Model(make(S), S))

    @rule(
        target=models,
        seed=st.integers(0, 2**32),
        rows=st.integers(1, 140),
        d=st.sampled_from([1, 5, 40]),
        metric=st.sampled_from(["euclidean", "dot"]),
        memory=st.sampled_from([0, 1e9]),
    )
    def of_features(self, seed, rows, d, metric, memory):
        """Whole numbers along one axis: their distances and products are exact."""
        X = np.zeros((rows, d))
        X[:, 0] = np.random.default_rng(seed).integers(-5, 6, rows)
        f = subsel.FacilityLocation.from_features(X, metric, memory=memory)
        S = reference.similarity(X, metric, c0=f.offset)
        return self.kept(Model(f, S, of_features=True))

    @rule(target=models, model=models, data=st.data())
    def restrict(self, model, data):
        if not model.own:
            with pytest.raises(NotImplementedError, match="Recomputed cannot be restricted"):
                model.f.restrict(np.arange(1))
            return self.kept(Model(Recomputed(model.S), model.S))
        n = model.f.n
        part = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
        f, S = model.f.restrict(part), model.S[:, part]
        return self.kept(Model(f, S, of_features=model.of_features))

    @rule(target=models, model=models)
    def pickled(self, model):
        return self.kept(model.copied(pickle.loads(pickle.dumps(model.f))))  # noqa: S301

    @rule(target=models, model=models)
    def deeply_copied(self, model):
        return self.kept(model.copied(copy.deepcopy(model.f)))

    @rule(model=models, data=st.data())
    def add(self, model, data):
        element = data.draw(st.integers(0, model.f.n - 1))
        model.f.add(element)
        model.added.append(element)
        model.blocked[element] = True

    @rule(model=models, data=st.data())
    def extend(self, model, data):
        taken = model.blocked.copy()
        taken[data.draw(st.lists(st.integers(0, model.f.n - 1), max_size=9))] = True
        closed = taken.copy()
        count = data.draw(st.integers(0, int((~taken).sum())))
        elements, gains = model.f.extend(taken, count)
        for element, gain in zip(elements.tolist(), gains.tolist(), strict=True):
            wanted = reference.gains(model.S, model.added)
            wanted[closed] = -1
            assert (element, gain) == (int(np.argmax(wanted)), wanted.max())
            model.added.append(element)
            model.blocked[element] = closed[element] = True
        np.testing.assert_array_equal(taken, closed)

    @rule(model=models, data=st.data())
    def gains(self, model, data):
        some = data.draw(st.lists(st.integers(0, model.f.n - 1), max_size=9))
        some = np.array(some, np.int64)
        wanted = reference.gains(model.S, model.added)[some]
        found = model.f.gains(some)
        np.testing.assert_array_equal(found, wanted)
        found[:] = -1  # the caller's own, so that the objective does not change

    @rule(model=models, data=st.data())
    def value(self, model, data):
        some = data.draw(st.lists(st.integers(0, model.f.n - 1), max_size=9))
        assert model.f.value(some) == reference.value(model.S, some)

    @rule(model=models, data=st.data())
    def assign(self, model, data):
        some = data.draw(st.lists(st.integers(0, model.f.n - 1), min_size=1, max_size=9))
        if model.own:
            assignment, sizes = model.f.assign(some)
            np.testing.assert_array_equal(assignment, model.assigned(some))
            np.testing.assert_array_equal(
                sizes, np.bincount(assignment[assignment >= 0], minlength=len(some))
            )

    @rule(model=models, data=st.data())
    def searched(self, model, data):
        """An optimizer begins anew, whatever was added, and leaves its selection behind."""
        k = data.draw(st.integers(1, model.f.n))
        search = data.draw(st.sampled_from([subsel.greedy, subsel.lazy_greedy]))
        chosen = search(model.f, k)
        indices, gains = reference.greedy(model.S, k)
        np.testing.assert_array_equal(chosen.indices, indices)
        np.testing.assert_array_equal(chosen.gains, gains)
        model.added = indices.tolist()
        model.blocked[:] = False
        model.blocked[indices] = True

    @rule(model=models)
    def reset(self, model):
        model.f.reset()
        model.added = []
        model.blocked[:] = False

    @rule(model=models, data=st.data())
    def refused(self, model, data):
        """What is refused changes nothing."""
        if not model.own:
            return
        n = model.f.n
        call = data.draw(
            st.sampled_from(
                [
                    lambda: model.f.add(n),
                    lambda: model.f.add(-1),
                    lambda: model.f.gains([0, n]),
                    lambda: model.f.value([-1]),
                    lambda: model.f.restrict([]),
                    lambda: model.f.extend(model.blocked.copy(), n + 1),
                    lambda: subsel.greedy(model.f, n + 1),
                ]
            )
        )
        with pytest.raises(ValueError, match="must"):
            call()

    @rule(model=consumes(models))
    def forgotten(self, model):
        self.all.remove(model)

    @invariant()
    def all_are_as_their_models(self):
        for model in self.all[-4:]:
            n = model.f.n
            assert n == model.S.shape[1]
            if not model.own:
                continue
            wanted = reference.gains(model.S, model.added)
            np.testing.assert_array_equal(model.f.gains(np.arange(0, n, 3)), wanted[::3])
            if model.added:
                assignment = model.f.assignment
                np.testing.assert_array_equal(assignment, model.assigned(model.added))
                assignment[:] = -1


TestObjectives = Objectives.TestCase
TestObjectives.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_selection_is_pickled_and_copied_whole():
    chosen = subsel.select(np.arange(20.0)[:, None], 4, labels=[0, 1] * 10)
    for twin in (pickle.loads(pickle.dumps(chosen)), copy.deepcopy(chosen)):  # noqa: S301
        for name, value in vars(chosen).items():
            np.testing.assert_array_equal(getattr(twin, name), value)
