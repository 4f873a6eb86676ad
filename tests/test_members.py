"""Every objective with every optimizer, constraint and stop, beside the oracle (`members`)."""

import copy
import pickle

import numpy as np
import pytest
from members import CONSTRAINTS, MEMBERS, N, greedy

import subsel

OPTIMIZERS = {"greedy": subsel.greedy, "lazy_greedy": subsel.lazy_greedy}


@pytest.fixture(scope="module", params=MEMBERS, ids=lambda member: member.name)
def member(request):
    return request.param


@pytest.fixture(scope="module")
def f(member):
    return member.make()


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request, member):
    if request.param == "lazy_greedy" and not member.submodular:
        pytest.skip("not submodular")
    return OPTIMIZERS[request.param]


@pytest.fixture(params=CONSTRAINTS, ids=lambda rule: rule.name)
def rule(request):
    return request.param


def agree(selection, wanted, f):
    """The oracle's elements, gains and value."""
    indices, gains = wanted
    np.testing.assert_array_equal(selection.indices, indices)
    scale = 1e-9 * max([1.0, *map(abs, gains)])
    np.testing.assert_allclose(selection.gains, gains, rtol=1e-9, atol=scale)
    assert len(selection.values) == len(indices)
    np.testing.assert_allclose(np.diff(selection.values), gains[1:], rtol=1e-9, atol=10 * scale)


def test_value_is_the_formula(member, f):
    random = np.random.default_rng(0)
    for size in (0, 1, 2, 5, N):
        chosen = random.permutation(N)[:size].tolist()
        np.testing.assert_allclose(f.value(chosen), member.value(chosen), rtol=1e-9, atol=1e-12)


def test_it_keeps_what_an_objective_promises(member, f):
    assert (f.submodular, f.monotone) == (member.submodular, member.monotone)
    assert f.n == N
    subsel.testing.check_objective(f)


def test_it_selects_what_the_oracle_selects(member, f, optimizer, rule):
    agree(optimizer(f, rule.make()), greedy(member, rule), f)


def test_given_and_excluded(member, f, optimizer, rule):
    first = greedy(member, rule._replace(singles=False))[0]
    others = [j for j in range(N) if j not in first]
    given, exclude = (first[0], others[3]), (first[1], others[9])
    selection = optimizer(f, rule.make(), given=given, exclude=exclude)
    agree(selection, greedy(member, rule, given=given, exclude=exclude), f)
    assert not {*given, *exclude} & set(selection.indices.tolist())
    np.testing.assert_allclose(
        selection.value, member.value([*given, *selection.indices]), rtol=1e-9, atol=1e-12
    )


def test_stops(member, f, optimizer, rule):
    _, gains = greedy(member, rule._replace(singles=False))  # a stop ends it before singles
    if len(gains) < 3:
        pytest.skip("too few picks")
    target = float(np.sum(gains[:2])) - 1e-6 * abs(float(np.sum(gains[:2])))
    if max(0.0, gains[0]) < target:
        selection = optimizer(f, rule.make(), target=target)
        assert (len(selection), selection.stopped) == (2, "target")
        # The objective holds what was selected, also where the search had gone on beyond the stop.
        after = member.value([*selection.indices, 0]) - member.value(selection.indices.tolist())
        np.testing.assert_allclose(f.gains(np.array([0]))[0], after, rtol=1e-9, atol=1e-9)
    if gains[2] < min(gains[:2]):
        selection = optimizer(f, rule.make(), min_gain=gains[2] * (1 + 1e-6 * np.sign(gains[2])))
        assert (len(selection), selection.stopped) == (2, "min_gain")
    if member.monotone:
        enough = 1e-9 * member.value([*range(N)])
        selection = optimizer(f, rule.make(), coverage=1e-9)
        wanted = 1 + int(np.argmax(np.cumsum(gains) >= enough))
        assert (len(selection), selection.stopped) == (wanted, "coverage")
    selection = optimizer(f, rule.make(), target=1e300)
    assert selection.stopped in ("budget", "exhausted")


def test_copies_and_pickles_go_on_alike(f, optimizer):
    wanted = optimizer(f, 5)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):  # noqa: S301
        found = optimizer(other, 5)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.gains, wanted.gains)


def test_a_part_of_the_candidates(member, f, optimizer):
    part = np.random.default_rng(3).permutation(N)[:12]
    try:
        restricted = f.restrict(part)
    except NotImplementedError:
        pytest.skip("cannot be restricted")
    selection = optimizer(restricted, 4)
    chosen: list[int] = []
    for element, gain in zip(part[selection.indices].tolist(), selection.gains, strict=True):
        own = member.value([*chosen, element]) - member.value(chosen)
        np.testing.assert_allclose(gain, own, rtol=1e-9, atol=1e-9)
        chosen.append(element)


def test_the_same_seed_selects_the_same(f):
    one, other = (subsel.stochastic_greedy(f, 5, 0.3, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(one.indices, other.indices)
    assert len(set(one.indices.tolist())) == 5


def test_a_repr_names_the_objective(f):
    assert type(f).__name__ in repr(f)


def test_what_extend_refuses_it_leaves_as_it_was(f):
    f.reset()
    f.add(2)
    before = f.gains(np.arange(N))
    free, read_only = np.zeros(N, bool), np.zeros(N, bool)
    read_only.flags.writeable = False
    for taken, count, costs, name in [
        ([False] * N, 1, None, "taken"),
        (np.zeros(N), 1, None, "taken"),
        (np.zeros(N + 1, bool), 1, None, "taken"),
        (read_only, 1, None, "taken"),
        (free, N + 1, None, "count"),
        (~free, 1, None, "count"),
        (free, 1.0, None, "count"),
        (free, -1, None, "count"),
        (free, 1, np.ones(N - 1), "costs"),
        (free, 1, np.zeros(N), "costs"),
        (free, 1, np.full(N, np.nan), "costs"),
    ]:
        with pytest.raises((TypeError, ValueError), match=name):
            f.extend(taken, count, costs)
    assert not free.any()
    np.testing.assert_array_equal(f.gains(np.arange(N)), before)
    elements, _ = f.extend(free, 0)
    assert not len(elements)


def test_an_element_counts_once(member, f):
    """Coverage by sums counted what was added or listed twice two times."""
    np.testing.assert_allclose(f.value([3, 5, 3]), member.value([3, 5]), rtol=1e-9, atol=1e-12)
    f.reset()
    f.add(3)
    before = f.gains(np.arange(N))
    np.testing.assert_allclose(before[3], 0, atol=1e-12 * np.abs(before).max())
    f.add(3)
    np.testing.assert_array_equal(f.gains(np.arange(N)), before)
