"""Facility location in every storage and with every optimizer, against the NumPy specification."""

import itertools
import time
from copy import deepcopy
from math import e

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import subsel
from subsel.kernels import reference
from subsel.sources.dense import _on_threads
from subsel.sources.scale import grid

STORAGES = {
    "C float32": lambda S: np.ascontiguousarray(S, np.float32),
    "C float64": lambda S: np.ascontiguousarray(S, np.float64),
    "F float32": lambda S: np.asfortranarray(S, np.float32),
    "int64": lambda S: S.astype(np.int64),
    "uint8": lambda S: S.astype(np.uint8),
    "float16": lambda S: S.astype(np.float16),
    "big-endian": lambda S: S.astype(">f8"),
    "list": lambda S: S.tolist(),
    "strided": lambda S: np.repeat(np.repeat(S, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda S: np.ascontiguousarray(S[::-1, ::-1])[::-1, ::-1],
    "csr_matrix": lambda S: sp.csr_matrix(S, dtype=np.float32),
    "csr_array": lambda S: sp.csr_array(S, dtype=np.float64),
    "csc_array": lambda S: sp.csc_array(S, dtype=np.float32),
    "coo int64": lambda S: sp.coo_array(S.astype(np.int64)),
}


@pytest.fixture(params=STORAGES)
def store(request):
    return STORAGES[request.param]


@pytest.fixture(params=[subsel.greedy, subsel.lazy_greedy], ids=lambda f: f.__name__)
def optimizer(request):
    return request.param


class Recomputed(subsel.Objective):
    """Facility location as a user would write it: every gain from scratch, in NumPy."""

    def __init__(self, S):
        self.S, self.n, self.asked = S, S.shape[1], 0

    def reset(self):
        self.chosen = []

    def gains(self, candidates):
        self.asked += len(candidates)
        return reference.gains(self.S, self.chosen)[candidates]

    def add(self, element):
        self.chosen.append(element)

    def value(self, indices):
        return reference.value(self.S, indices)


def tied(seed, n_points=60, n_candidates=70, levels=4):
    """Small integers: many equal gains, many zeros, repeated columns."""
    random = np.random.default_rng(seed)
    S = random.integers(0, levels, (n_points, n_candidates)).astype(float)
    S[:, random.integers(n_candidates, size=10)] = S[:, random.integers(n_candidates, size=10)]
    return S


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (60, 70), (130, 64), (200, 200)])
def test_selects_what_the_specification_selects(store, optimizer, shape):
    S = tied(sum(shape), *shape)
    selection = optimizer(store(S), shape[1])
    indices, gains = reference.greedy(S, shape[1])
    np.testing.assert_array_equal(selection.indices, indices)
    np.testing.assert_array_equal(selection.gains, gains)
    assert selection.value == reference.value(S, indices)
    assert selection.indices.dtype == np.int64
    assert selection.gains.dtype == np.float64


@pytest.mark.parametrize("seed", range(3))
def test_any_objective_is_searched_alike(optimizer, seed):
    S = tied(seed)
    own = Recomputed(S)
    selection = optimizer(own, 40)
    indices, gains = reference.greedy(S, 40)
    np.testing.assert_array_equal(selection.indices, indices)
    np.testing.assert_array_equal(selection.gains, gains)
    assert selection.n_evaluations == own.asked


def test_lazy_greedy_evaluates_fewer_gains_than_greedy():
    S = np.random.default_rng(0).random((200, 200))
    lazy, naive = subsel.lazy_greedy(Recomputed(S), 50), subsel.greedy(Recomputed(S), 50)
    np.testing.assert_array_equal(lazy.indices, naive.indices)
    assert lazy.n_evaluations < naive.n_evaluations / 3


@pytest.fixture(params=["dense", "thinned", "sparse", "features"])
def several_blocks(request, monkeypatch):
    """An objective whose candidates fill several blocks, with many ties, and its similarities."""
    monkeypatch.setattr("subsel.sources.dense._WIDEST", 650)
    if request.param == "thinned":
        monkeypatch.setattr("subsel.sources.dense._THIN_AT", 4)
        monkeypatch.setattr("subsel.sources.dense._THIN_FROM", 0)
    random = np.random.default_rng(7)
    if request.param == "features":
        X = random.integers(0, 30, (300, 1))
        f = subsel.FacilityLocation.from_features(X)
        return f, reference.similarity(X, c0=f.offset)
    shape = {"dense": (90, 2600), "thinned": (200, 1300), "sparse": (200, 1300)}[request.param]
    S = random.integers(0, 5, shape) * (random.random(shape) < 0.3)
    f = subsel.FacilityLocation(sp.csr_array(S) if request.param == "sparse" else S)
    return f, S.astype(float)


def test_candidates_in_several_blocks(several_blocks, optimizer):
    f, S = several_blocks
    indices, gains = reference.greedy(S, 100)
    selection = optimizer(f, 100)
    np.testing.assert_array_equal(selection.indices, indices)
    np.testing.assert_array_equal(selection.gains, gains)


def test_a_full_log_starts_anew(several_blocks, monkeypatch):
    f, _ = several_blocks
    wanted = subsel.greedy(f, 100)
    monkeypatch.setattr("subsel.sources.base._LOG", 1)
    selection = subsel.greedy(f, 100)
    np.testing.assert_array_equal(selection.indices, wanted.indices)
    np.testing.assert_array_equal(selection.gains, wanted.gains)


@pytest.mark.parametrize("features", [False, True])
def test_a_matrix_is_thinned_out_once_little_of_it_counts(monkeypatch, features):
    X = np.random.default_rng(2).normal(size=(300, 40))
    make = subsel.FacilityLocation.from_features if features else subsel.FacilityLocation
    f = make(X if features else X @ X.T - (X @ X.T).min())
    wanted, assignment = subsel.greedy(f, 150), f.assignment
    assert f._source is f._similarity
    monkeypatch.setattr("subsel.sources.dense._THIN_FROM", 0)
    monkeypatch.setattr("subsel.sources.dense._THIN_TO", 250)
    at = []
    for size in (64, 65, 128, 150):
        selection = subsel.greedy(f, size)
        at.append(f._source.path)
        np.testing.assert_array_equal(selection.indices, wanted.indices[:size])
        np.testing.assert_array_equal(selection.gains, wanted.gains[:size])
    assert at == ["dense", "dense", "dense", "sparse"]  # at 64 elements too much counts yet
    np.testing.assert_array_equal(f.assignment, assignment)
    assert f.value(selection.indices) == pytest.approx(selection.value, rel=1e-12)
    np.testing.assert_array_equal(f.gains(selection.indices), 0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_threads_that_share_a_dense_matrix(monkeypatch, threads, weighted):
    random = np.random.default_rng(5)
    S = random.random((200, 150)).astype(np.float32)
    form = {"weights": random.random(200)} if weighted else {}
    wanted = subsel.greedy(subsel.FacilityLocation(S, **form), 80)
    monkeypatch.setattr("subsel.sources.base.PARALLEL_WORK", 0)
    monkeypatch.setattr("subsel.sources.base.threads", lambda: threads)
    monkeypatch.setattr("subsel.kernels.cpu.threads", lambda: threads)
    for name, value in {"_PIECE": 1000, "_WIDEST": 100, "_THIN_FROM": 0, "_THIN_AT": 16}.items():
        monkeypatch.setattr(f"subsel.sources.dense.{name}", value)
    f = subsel.FacilityLocation(S, **form)
    found = subsel.greedy(f, 80)
    assert f._source.path == "sparse"
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)
    if not weighted:
        np.testing.assert_array_equal(f.assignment, f.assign(found.indices)[0])


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_the_largest_entry_may_be_anywhere(monkeypatch, shape, scale):
    """The first sums are on the grid that a few entries suggest, and may have to be repeated."""
    monkeypatch.setattr("subsel.sources.dense._PIECE", 4)
    S = np.random.default_rng(6).random(shape) * scale
    S[-1, 0] = 1000 * scale
    indices, gains = reference.greedy(S, 10)
    found = subsel.greedy(S, 10)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.gains, gains, rtol=1e-9)
    up, down = grid(len(S), S.max())
    first = subsel.FacilityLocation(S).gains(range(shape[1]))
    np.testing.assert_array_equal(first, (np.rint(S * up) * down).sum(axis=0))


def test_an_error_on_another_thread_is_raised():
    def fails(part, room):
        time.sleep(0.01)
        if room == 1:
            raise MemoryError

    with pytest.raises(MemoryError):
        _on_threads(fails, 20, range(2))
    assert sorted(_on_threads(lambda part, room: part, 20, range(3))) == list(range(20))


def test_thinning_out_with_blocks_that_never_had_to_be_settled(monkeypatch):
    monkeypatch.setattr("subsel.sources.dense._WIDEST", 650)
    monkeypatch.setattr("subsel.sources.dense._THIN_AT", 4)
    monkeypatch.setattr("subsel.sources.dense._THIN_FROM", 0)
    S = np.random.default_rng(0).random((90, 2600))
    S[:, 650:] *= 0.02
    f = subsel.FacilityLocation(S)
    elements, gains = f.extend(np.zeros(f.n, bool), 60)
    assert f._source.path == "sparse"
    wanted, wanted_gains = reference.greedy(S, 60)
    np.testing.assert_array_equal(elements, wanted)
    np.testing.assert_allclose(gains, wanted_gains, rtol=1e-9)


def test_adding_in_any_portions(several_blocks):
    f, S = several_blocks
    wanted = reference.greedy(S, 60)[0]
    taken = np.zeros(f.n, bool)
    f.reset()
    added = []
    for count in (1, 2, 0, 17, 20):
        added += f.extend(taken, count)[0].tolist()
        np.testing.assert_array_equal(np.flatnonzero(taken), np.sort(added))
        some = np.arange(len(added), f.n, 7)
        np.testing.assert_array_equal(f.gains(some), reference.gains(S, added)[some])
    for element in wanted[40:50]:
        f.add(element)
        taken[element] = True
    added = wanted[:50].tolist() + f.extend(taken, 10)[0].tolist()
    np.testing.assert_array_equal(added, wanted)
    np.testing.assert_array_equal(f.assignment, reference.assign(S, wanted)[0])


def test_candidates_that_must_not_be_added(several_blocks):
    f, S = several_blocks
    allowed = np.arange(5, f.n, 3)
    taken = np.ones(f.n, bool)
    taken[allowed] = False
    f.reset()
    np.testing.assert_array_equal(
        f.extend(taken, 30)[0], allowed[reference.greedy(S[:, allowed], 30)[0]]
    )


def test_value_assign_and_gains(store):
    S = tied(5)
    f = subsel.FacilityLocation(store(S))
    assert f.value([]) == 0
    for indices in ([3], [5, 5], [60, 2, 7, 9], list(range(70))):
        assert f.value(indices) == reference.value(S, indices)
        for ours, wanted in zip(f.assign(indices), reference.assign(S, indices), strict=True):
            np.testing.assert_array_equal(ours, wanted)
    chosen = []
    for element in (11, 4, 4, 60):
        np.testing.assert_array_equal(f.gains(np.arange(70)), reference.gains(S, chosen))
        f.add(element)
        chosen.append(element)
    np.testing.assert_array_equal(f.gains([60, 0]), reference.gains(S, chosen)[[60, 0]])
    assert f.value([3]) == reference.value(S, [3])
    np.testing.assert_array_equal(f.assignment, reference.assign(S, chosen)[0])


def test_restrict_is_the_objective_of_those_columns(store):
    S = tied(6)
    part = np.array([50, 3, 4, 60, 12])
    f = subsel.FacilityLocation(store(S)).restrict(part)
    assert f.n == 5
    np.testing.assert_array_equal(
        subsel.greedy(f, 5).indices, reference.greedy(S[:, part], 5)[0]
    )  # fmt: skip


def test_sparse_duplicates_are_summed():
    S = sp.coo_array(([1.0, 2.0, 1.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2))
    np.testing.assert_array_equal(subsel.greedy(S, 2).gains, [3, 1])


def test_a_sparse_matrix_with_duplicates_is_not_changed():
    S = sp.csr_array((np.array([1.0, 2.0, 1.0]), np.array([0, 0, 1]), np.array([0, 2, 3])))
    np.testing.assert_array_equal(subsel.greedy(S, 2).gains, [3, 1])
    np.testing.assert_array_equal(S.data, [1, 2, 1])


def test_sparse_without_entries():
    selection = subsel.greedy(sp.csr_array((3, 4)), 3)
    np.testing.assert_array_equal(selection.indices, [0, 1, 2])
    assert selection.value == 0


def test_sparse_with_int64_indices():
    S = sp.csr_array(tied(1))
    S.indices, S.indptr = S.indices.astype(np.int64), S.indptr.astype(np.int64)
    np.testing.assert_array_equal(
        subsel.greedy(S, 9).indices, reference.greedy(tied(1), 9)[0]
    )  # fmt: skip


def test_read_only_memory_map(tmp_path):
    S = tied(2).astype(np.float32)
    np.save(tmp_path / "S.npy", S)
    mapped = np.load(tmp_path / "S.npy", mmap_mode="r")
    np.testing.assert_array_equal(subsel.greedy(mapped, 20).indices, reference.greedy(S, 20)[0])


def test_the_matrix_is_not_changed(store):
    S = store(tied(3))
    before = deepcopy(S)
    subsel.greedy(S, 20)
    difference = before != S
    assert not (difference.nnz if sp.issparse(difference) else np.any(difference))


def test_f_order_symmetric_matrix_is_used_in_place():
    S = tied(4, 40, 40)
    S = np.asfortranarray(S + S.T)
    f = subsel.FacilityLocation(S)
    assert np.shares_memory(f._similarity.matrix, S)
    np.testing.assert_array_equal(subsel.greedy(f, 40).indices, reference.greedy(S, 40)[0])


def test_repeated_points_do_not_stop_the_selection_early():
    """Apricot's lazy greedy stops here, or selects an element twice."""
    X = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 10, axis=0)
    S = 50 - np.linalg.norm(X[:, None] - X[None], axis=2).round(3)
    selection = subsel.lazy_greedy(S, 12)
    assert len(set(selection.indices)) == 12
    assert (selection.gains[5:] == 0).all()
    assert selection.value == pytest.approx(reference.value(S, reference.greedy(S, 5)[0]))


def test_gains_far_below_the_largest_similarity_still_count():
    S = np.full((50, 6), 1e6)
    S[:, 1:] = np.random.default_rng(0).random((50, 5)) * 1e-3
    S[25:, 0] = 0
    np.testing.assert_array_equal(subsel.greedy(S, 6).indices, reference.greedy(S, 6)[0])


@pytest.mark.parametrize("scale", [1e-280, 1e-30, 1e30, 1e290])
def test_any_magnitude(scale):
    S = tied(7) * scale
    np.testing.assert_array_equal(subsel.greedy(S, 30).indices, reference.greedy(tied(7), 30)[0])


similarities = arrays(
    np.float64,
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    elements=st.floats(0, 100, width=32),
)


@given(similarities)
def test_greedy_is_within_one_minus_one_over_e_of_the_best(S):
    n = S.shape[1]
    for k in range(1, n + 1):
        selection = subsel.lazy_greedy(S, k)
        best = max(reference.value(S, c) for c in itertools.combinations(range(n), k))
        assert selection.value >= (1 - 1 / e) * best - 1e-9
        assert selection.value == pytest.approx(reference.value(S, selection.indices))


@given(similarities, st.data())
def test_monotone_and_submodular(S, data):
    n = S.shape[1]
    f = subsel.FacilityLocation(S)
    larger = data.draw(st.lists(st.integers(0, n - 1), unique=True))
    smaller = data.draw(st.lists(st.sampled_from(larger), unique=True)) if larger else []
    element = data.draw(st.integers(0, n - 1))
    gain_small = f.value([*smaller, element]) - f.value(smaller)
    gain_large = f.value([*larger, element]) - f.value(larger)
    assert gain_small >= gain_large >= 0


@given(similarities)
def test_gains_never_rise_and_sum_to_the_value(S):
    selection = subsel.greedy(S, S.shape[1])
    assert (np.diff(selection.gains) <= 0).all()
    assert sorted(selection.indices) == list(range(S.shape[1]))
    assert subsel.FacilityLocation(S).value(selection.indices) == selection.value


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.ones(3), ValueError, r"similarity must be 2-D.*\(3,\)"),
        (np.ones((2, 2, 2)), ValueError, "2-D"),
        (5.0, ValueError, "2-D"),
        (None, TypeError, "numeric"),
        (np.ones((0, 3)), ValueError, r"empty.*\(0, 3\)"),
        ([[1, 2], [3]], ValueError, "rectangular"),
        ([["a"]], TypeError, "numeric"),
        (np.ones((2, 2), complex), TypeError, "complex"),
        (np.ma.masked_array(np.ones((2, 2)), np.eye(2)), TypeError, "masked"),
        ([[1, np.nan]], ValueError, r"similarity\[0, 1\] is nan"),
        ([[1, 2], [np.inf, 0]], ValueError, r"similarity\[1, 0\] is inf"),
        (np.asfortranarray([[1, 2, 0], [3, -4, 1.0]]), ValueError, r"similarity\[1, 1\] is -4.0"),
        (np.eye(700) - 2 * np.eye(700, k=-650), ValueError, r"similarity\[650, 0\] is -2.0"),
        (sp.csr_array([[0, 1], [-2.0, 0]]), ValueError, r"similarity\[1, 0\] is -2.0"),
        (sp.csc_array([[0, 1], [np.nan, 0]]), ValueError, r"similarity\[1, 0\] is nan"),
        (sp.csr_array(np.eye(2, dtype=complex)), TypeError, "complex"),
        (sp.csr_array((0, 3)), ValueError, "empty"),
        (np.full((2, 2), 1e308), ValueError, "rescale"),
    ],
)
def test_refused_matrices(matrix, error, message, optimizer):
    with pytest.raises(error, match=message):
        optimizer(matrix, 1)


@pytest.mark.parametrize("budget", [0, -1, 8, 10**30, True, 1.0, 0.5, "3", None, [1], np.nan])
def test_refused_budgets(budget, optimizer):
    for search in (optimizer, subsel.stochastic_greedy):
        with pytest.raises((TypeError, ValueError), match=r"budget must be a count in 1\.\.7"):
            search(np.ones((7, 7)), budget)


@pytest.mark.parametrize("budget", [np.int32(3), np.uint8(3), np.array(3)])
def test_budget_of_a_numpy_type(budget, optimizer):
    assert len(optimizer(np.eye(5), budget)) == 3


@pytest.mark.parametrize(
    ("indices", "message"),
    [([7], r"indices\[0\] is 7"), ([0, -1], r"\[1\] is -1"), ([0.5], "integers"), ([[0]], "1-D")],
)
def test_refused_indices(indices, message):
    f = subsel.FacilityLocation(np.eye(7))
    with pytest.raises((TypeError, ValueError), match=message):
        f.value(indices)
    with pytest.raises((TypeError, ValueError), match=message):
        f.assign(indices)


def test_assigning_to_nothing_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        subsel.FacilityLocation(np.eye(3)).assign([])


def test_an_objective_that_lacks_a_method_is_refused():
    class Half(subsel.Objective):
        def gains(self, candidates):
            return np.ones(len(candidates))

    with pytest.raises(TypeError, match="abstract"):
        Half()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("search", [subsel.greedy, subsel.lazy_greedy, subsel.stochastic_greedy])
def test_gains_that_are_not_finite_are_refused(search, wrong):
    """Apricot's lazy greedy never ends on a NaN."""
    S = np.random.default_rng(0).random((20, 6))
    objective = Recomputed(S)
    inner = objective.gains
    objective.gains = lambda c: np.where(c == 3, wrong, inner(c)) if objective.chosen else inner(c)
    with pytest.raises(
        ValueError, match=r"gains returned .* for candidate 3; gains must be finite"
    ):
        search(objective, 5)
    objective.gains = lambda candidates: np.ones(2)
    with pytest.raises(ValueError, match=r"gains returned an array of shape \(2,\) for"):
        search(objective, 5)


@pytest.mark.parametrize("element", [1.0, True, "1", None, 7, -1])
def test_refused_elements(element):
    for f in (
        subsel.FacilityLocation(np.eye(7)),
        subsel.FacilityLocation.from_features(np.eye(7)),
    ):
        with pytest.raises((TypeError, ValueError), match="element must be"):
            f.add(element)


def test_nothing_to_add_where_all_is_taken():
    for f in (subsel.FacilityLocation(np.eye(3)), Recomputed(np.eye(3))):
        f.reset()
        with pytest.raises(ValueError, match=r"taken|empty"):
            f.extend(np.ones(3, bool), 1)


@pytest.mark.parametrize(
    ("taken", "count", "message"),
    [
        ([False] * 3, 1, r"taken must be a bool array of shape \(3,\)"),
        (np.zeros(3), 1, "taken must be a bool array"),
        (np.zeros(2, bool), 1, "taken must be a bool array"),
        (np.zeros((3, 1), bool), 1, "taken must be a bool array"),
        (np.zeros(3, bool), 4, r"count must be in 0\.\.3"),
        (np.zeros(3, bool), -1, r"count must be in 0\.\.3"),
    ],
)
def test_refused_extensions(taken, count, message):
    with pytest.raises(ValueError, match=message):
        subsel.FacilityLocation(np.eye(3)).extend(taken, count)


def test_evaluations_are_the_rows_that_changed():
    S = tied(10)
    selection = subsel.greedy(S, 20)
    covered, rows = np.zeros(60), 60 + 60  # before the first pick, and after it
    for position, element in enumerate(selection.indices):
        if 0 < position < 19:
            rows += (S[:, element] > covered).sum()
        covered = np.maximum(covered, S[:, element])
    assert selection.n_evaluations == -(-(rows * 70 + 20 * 60) // 60)


def test_stochastic_greedy_is_reproducible_and_good():
    S = np.random.default_rng(0).random((300, 300))
    runs = [subsel.stochastic_greedy(S, 30, random_state=1) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].indices, runs[1].indices)
    assert len(set(runs[0].indices)) == 30
    assert runs[0].value > 0.98 * subsel.greedy(S, 30).value
    assert not np.array_equal(
        runs[0].indices, subsel.stochastic_greedy(S, 30, random_state=2).indices
    )


def test_stochastic_greedy_draws_samples_of_the_stated_size():
    objective = Recomputed(np.random.default_rng(0).random((40, 100)))
    objective.submodular = False  # else samples are evaluated in part, and a certificate is made
    sizes = []
    inner = objective.gains
    objective.gains = lambda candidates: sizes.append(len(candidates)) or inner(candidates)
    subsel.stochastic_greedy(objective, 20, epsilon=0.1, random_state=0)
    assert sizes == [12] * 20  # ceil(100 / 20 * ln 10)


def test_stochastic_greedy_with_samples_of_everything_is_greedy():
    S = tied(8)
    selection = subsel.stochastic_greedy(S, 70, epsilon=1e-30, random_state=0)
    np.testing.assert_array_equal(selection.indices, reference.greedy(S, 70)[0])


def test_stochastic_greedy_with_the_smallest_epsilon():
    assert len(subsel.stochastic_greedy(np.eye(5), 2, epsilon=1e-310)) == 2


def test_stochastic_greedy_accepts_any_objective_and_large_epsilon():
    """submodlib returns -1 again and again, or crashes, when its sample is empty."""
    selection = subsel.stochastic_greedy(Recomputed(tied(9)), 50, epsilon=0.999, random_state=0)
    assert len(set(selection.indices)) == 50


@pytest.mark.parametrize("epsilon", [0, 1, -0.5, np.nan, "a", None, True])
def test_refused_epsilon(epsilon):
    with pytest.raises((TypeError, ValueError), match="epsilon must be"):
        subsel.stochastic_greedy(np.eye(3), 2, epsilon=epsilon)


@pytest.mark.parametrize("random_state", [-1, "a", 0.5, np.random.RandomState(0)])
def test_refused_random_state(random_state):
    with pytest.raises((TypeError, ValueError), match="random_state must be"):
        subsel.stochastic_greedy(np.eye(3), 2, random_state=random_state)


def test_progress_bar(capsys):
    subsel.greedy(np.eye(3), 3, progress=True)
    assert "3/3" in capsys.readouterr().err
    subsel.greedy(np.eye(3), 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_points_that_nothing_represents_are_told_apart(make):
    """A graph of two parts: rows 3 to 5 have no similarity to what was selected."""
    S = np.zeros((6, 4))
    S[:3, :2], S[3:5, 2:] = [[2, 1], [1, 2], [1, 1]], 1
    f = subsel.FacilityLocation(make(S))
    f.add(0)
    np.testing.assert_array_equal(f.assignment, [0, 0, 0, -1, -1, -1])
    assignment, sizes = f.assign([1, 3])
    np.testing.assert_array_equal(assignment, [0, 0, 0, 1, 1, -1])
    np.testing.assert_array_equal(sizes, [3, 2])
    np.testing.assert_array_equal(reference.assign(S, [1, 3])[0], assignment)
    np.testing.assert_array_equal(f.restrict([3, 1]).assign([0])[0], [-1, -1, -1, 0, 0, -1])


def test_from_features_every_point_has_a_nearest():
    """Opposite vectors have a cosine similarity of 0, and equal rows no distance to speak of."""
    f = subsel.FacilityLocation.from_features([[1.0, 0], [-1, 0]], "cosine")
    assert f.assign([0])[0].tolist() == [0, 0]
    chosen = subsel.select(np.ones((4, 2)), 2)
    assert (chosen.sizes.tolist(), chosen.uncovered) == ([4, 0], 0)
