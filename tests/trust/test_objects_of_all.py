"""Every objective under any order of calls, against its formula and a list of what was added.

A machine of Hypothesis draws objectives as the fuzzer does (`tests.trust.objectives`), adds,
extends, restricts, pickles and copies them, searches them and is refused, in any order. After each
step the gains must be those of the formula.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import subsel
from tests.trust.drawing import clean
from tests.trust.objectives import KINDS, mixture, near


class Model:
    """An objective, its formula over elements of its own, and what should have been added."""

    def __init__(self, f, value, slack, added=()):
        self.f, self.value, self.slack, self.added = f, value, slack, list(added)

    def copied(self, f):
        return Model(f, self.value, self.slack, self.added)

    def is_as_told(self):
        before = self.value(self.added)
        gains = self.f.gains(np.arange(self.f.n))
        for j in range(self.f.n):
            now = self.value([*self.added, j]) if j not in self.added else before
            near(gains[j], now - before, self.slack, f"the gain of {j} beside {self.added}")
        gains[:] = np.nan  # the caller's own


class Objectives(RuleBasedStateMachine):
    """Several objectives at a time, as what is done to one must leave the others alone."""

    models = Bundle("models")

    def __init__(self):
        super().__init__()
        self.all = []

    def kept(self, model):
        self.all.append(model)
        return model

    @initialize(target=models, data=st.data())
    def first(self, data):
        return self.drawn(data)

    @rule(target=models, data=st.data())
    def another(self, data):
        return self.drawn(data)

    def drawn(self, data):
        seed = data.draw(st.integers(0, 2**32))
        kind = data.draw(st.sampled_from([*KINDS, mixture]))
        n = data.draw(st.integers(2, 12))
        drawn = kind(np.random.default_rng(seed), n)
        try:
            f = drawn.make(clean(drawn.data))
        except ValueError as error:
            assume("rescale" not in str(error))
            raise
        return self.kept(Model(f, drawn.value, 4 * drawn.slack))

    @rule(target=models, model=models, data=st.data())
    def restrict(self, model, data):
        n = model.f.n
        part = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
        value = model.value
        inside = model.f.restrict(part)
        return self.kept(
            Model(inside, lambda chosen: value([part[j] for j in chosen]), model.slack)
        )

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
        taken[data.draw(st.lists(st.integers(0, n - 1), max_size=5))] = True
        before = taken.copy()
        count = data.draw(st.integers(0, int((~taken).sum())))
        costs = np.arange(1.0, n + 1) if priced else None
        elements, gains = model.f.extend(taken, count, costs)
        assert len(elements) == len(gains) == count
        for element, gain in zip(elements.tolist(), gains.tolist(), strict=True):
            assert not before[element]
            before[element] = True
            now = model.value([*model.added, element]) - model.value(model.added)
            near(gain, now, model.slack, f"extend says what {element} gained")
            model.added.append(element)
        np.testing.assert_array_equal(taken, before)

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
        search = subsel.lazy_greedy if model.f.submodular else subsel.greedy
        model.added = [*given, *search(model.f, k, given=given).indices.tolist()]

    @rule(model=models)
    def reset(self, model):
        model.f.reset()
        model.added = []

    @rule(model=models, data=st.data())
    def refused(self, model, data):
        """What is refused changes nothing."""
        f, n = model.f, model.f.n
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


TestObjectives = Objectives.TestCase
TestObjectives.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
