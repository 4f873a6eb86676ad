"""Facility location of distances and of graphs of neighbours."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.neighbors import kneighbors_graph

import subsel
from subsel.kernels import reference


def distances(n=120, m=None, seed=0):
    random = np.random.default_rng(seed)
    X = random.random((n, 3))
    Y = X if m is None else random.random((m, 3))
    return np.sqrt(((X[:, None] - Y[None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("m", [None, 50])
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, np.float32, list])
def test_similarity_is_the_largest_less_the_distance(m, layout):
    D = layout(distances(m=m))
    f = subsel.FacilityLocation.from_distances(D)
    assert f.offset == np.asarray(D).max()
    S = np.asarray(D).max() - np.asarray(D, np.float64)
    indices, gains = reference.greedy(S, 30)
    for search in (subsel.greedy, subsel.lazy_greedy):
        chosen = search(f, 30)
        np.testing.assert_array_equal(chosen.indices, indices)
        np.testing.assert_allclose(chosen.gains, gains, rtol=1e-9)
    loss = np.asarray(D, np.float64)[:, indices].min(axis=1).sum()
    np.testing.assert_allclose(f.value(indices), len(S) * f.offset - loss)
    np.testing.assert_array_equal(f.assign(indices)[0], np.asarray(D)[:, indices].argmin(axis=1))


def test_select_from_distances_as_from_features():
    X = np.random.default_rng(1).random((150, 4))
    D = np.sqrt(((X[:, None] - X[None]) ** 2).sum(axis=2))
    for options in ({}, {"labels": np.arange(150) % 4}):
        wanted = subsel.select(X, 20, **options)
        found = subsel.select(D, 20, metric="precomputed", **options)
        assert set(found.indices) == set(wanted.indices)
        if not options:  # the offset of a class decides about its first gain
            np.testing.assert_array_equal(found.indices, wanted.indices)
            np.testing.assert_array_equal(found.assignment, wanted.assignment)


def test_a_graph_of_neighbours():
    X = np.random.default_rng(2).random((200, 3))
    graph = kneighbors_graph(X, 6, mode="distance")
    S = np.where(graph.toarray() > 0, graph.data.max() - graph.toarray(), 0)
    np.fill_diagonal(S, graph.data.max())
    indices, gains = reference.greedy(S, 40)
    at = graph.indices.reshape(200, 6)
    own = np.column_stack([np.arange(200), at])
    far = np.column_stack([np.zeros(200), graph.data.reshape(200, 6)])
    missing = np.column_stack([own, np.full(200, -1)])
    padded = np.column_stack([far, np.full(200, np.finfo(np.float32).max)])
    cls = subsel.FacilityLocation
    for f in (
        cls.from_neighbors(graph),
        cls.from_distances(graph.tocoo()),
        cls.from_neighbors(own, distances=far),
        cls.from_neighbors(at, distances=graph.data.reshape(200, 6)),
        cls.from_neighbors(missing, distances=padded),
        cls.from_neighbors(own, similarities=graph.data.max() - far),
    ):
        chosen = subsel.greedy(f, 40)
        np.testing.assert_array_equal(chosen.indices, indices)
        np.testing.assert_allclose(chosen.gains, gains, rtol=1e-9)
    found = subsel.select(graph, 40, metric="precomputed")
    np.testing.assert_array_equal(found.indices, indices)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pairs_that_are_taken_for_features_are_noticed(dtype):
    D = distances(30).astype(dtype)
    S = np.exp(-D)
    with pytest.warns(UserWarning, match='0 on its diagonal.* distances, use metric="precomputed"'):
        subsel.select(D, 3)
    with pytest.warns(UserWarning, match="1 on its diagonal.* similarities, use subsel.greedy"):
        subsel.select(S, 3)
    lopsided = S.copy()
    lopsided[3, 4] += 0.1
    copies, one_hot, sums = np.ones((30, 30)), np.eye(30), D + np.diag(np.arange(30.0))
    for X in (S[:, :20], lopsided, copies, one_hot, sums, -D, S[:7, :7]):
        subsel.select(X.astype(dtype), 2)
    subsel.select(D, 3, metric="precomputed")


def test_points_without_a_selected_neighbour_are_told_apart():
    f = subsel.FacilityLocation.from_neighbors(
        [[0, 1], [1, 0], [2, -1]], similarities=np.ones((3, 2))
    )
    subsel.greedy(f, 1)
    np.testing.assert_array_equal(f.assignment, [0, 0, -1])


def test_distances_where_similarities_are_expected_are_warned_of():
    indices = (np.arange(9)[:, None] + [0, 1, 2]) % 9
    far = np.tile([0.0, 1.0, 2.0], (9, 1))
    with pytest.warns(UserWarning, match="similarities rise along each row.*pass them as distance"):
        subsel.FacilityLocation.from_neighbors(indices, far)
    # In any other order they may well be similarities.
    near = subsel.FacilityLocation.from_neighbors(indices, 2 - far)
    same = subsel.FacilityLocation.from_neighbors(indices, similarities=2 - far)
    assert subsel.greedy(near, 3).indices.tolist() == subsel.greedy(same, 3).indices.tolist()


def test_neighbours_among_other_candidates():
    f = subsel.FacilityLocation.from_neighbors(
        [[0], [6], [6]], similarities=[[1.0], [1.0], [0.5]], n_candidates=8
    )
    assert (f.n, f.n_points) == (8, 3)
    np.testing.assert_array_equal(subsel.greedy(f, 2).indices, [6, 0])


def test_copies_in_a_graph_are_at_distance_zero():
    graph = sp.csr_array((np.array([0.0, 2.0, 0.0]), [1, 2, 0], [0, 2, 3, 3]), shape=(3, 3))
    f = subsel.FacilityLocation.from_distances(graph)
    np.testing.assert_array_equal(f.gains([0, 1, 2]), [4, 4, 2])


def test_distances_taken_for_similarities_are_noticed():
    D = distances(10)
    with pytest.warns(
        UserWarning, match="zeros on its diagonal .* FacilityLocation.from_distances"
    ):
        subsel.FacilityLocation(D)
    with pytest.warns(UserWarning, match="zeros on its diagonal"):
        subsel.greedy(D.astype(np.float32), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for S in (D.max() - D, D[:, :9], np.zeros((5, 5)), np.eye(4), D + np.eye(10), [[0.0]]):
            subsel.FacilityLocation(S)
        subsel.FacilityLocation.from_distances(D)
        subsel.GraphCut(D, lam=1.0)  # the cut of a graph without loops


@pytest.mark.parametrize(
    "objective", [subsel.SaturatedCoverage, subsel.GraphCut, subsel.SumRedundancy]
)
def test_distances_are_noticed_by_other_objectives(objective):
    with pytest.warns(UserWarning, match="zeros on its diagonal"):
        objective(distances(10))


@pytest.mark.parametrize("D", [np.zeros((1, 1)), np.zeros((4, 4)), sp.csr_array((3, 3))])
def test_zeros(D):
    chosen = subsel.greedy(subsel.FacilityLocation.from_distances(D), D.shape[0])
    np.testing.assert_array_equal(chosen.indices, np.arange(D.shape[0]))
    np.testing.assert_array_equal(chosen.gains, 0)


cls = subsel.FacilityLocation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cls.from_distances([[0, -1.0]]), r"D\[0, 1\] is -1.0; distances must not be neg"),
        (lambda: cls.from_distances([[0, np.nan]]), r"D\[0, 1\] is nan"),
        (lambda: cls.from_distances(sp.csr_array([[0, -1.0]])), r"D\[0, 1\] is -1.0; distances mu"),
        (lambda: cls.from_distances([1.0]), "D must be 2-D"),
        (lambda: cls.from_distances([[1.0]], backend="cuda"), "distances work on the CPU only"),
        (lambda: subsel.select(np.ones((2, 3)), 1, metric="precomputed"), "X must be square"),
        (lambda: cls.from_neighbors([[0]]), "give either similarities or distances"),
        (
            lambda: cls.from_neighbors([[0]], similarities=[[1]], distances=[[1]]),
            "give either similarities or dist",
        ),
        (
            lambda: cls.from_neighbors([[0.0]], similarities=[[1]]),
            r"indices must be integers \(n, k\), or a sp",
        ),
        (lambda: cls.from_neighbors([0], similarities=[1]), "indices must be integers"),
        (
            lambda: cls.from_neighbors([[0], [0, 1]], similarities=[[1]]),
            "indices must be a rectangular",
        ),
        (
            lambda: cls.from_neighbors(np.ma.masked_array([[0]]), similarities=[[1]]),
            "indices is a masked array",
        ),
        (
            lambda: cls.from_neighbors([[1]], similarities=[[1]]),
            r"indices\[0, 0\] is 1; it must be below 1",
        ),
        (
            lambda: cls.from_neighbors([[0, 0]], similarities=[[1, 1]]),
            r"indices\[0\] contains 0 more than once",
        ),
        (
            lambda: cls.from_neighbors([[0]], similarities=[[1, 2]]),
            r"similarities must have the shape of ind",
        ),
        (lambda: cls.from_neighbors([[0]], similarities=[[-1.0]]), r"similarities\[0, 0\] is -1.0"),
        (lambda: cls.from_neighbors([[0]], distances=[[np.inf]]), r"distances\[0, 0\] is inf"),
        (lambda: cls.from_neighbors([[0]], similarities=[["a"]]), "similarities must be numeric"),
        (
            lambda: cls.from_neighbors([[0]], similarities=[[1]], n_candidates=0),
            "n_candidates must be in 1",
        ),
        (
            lambda: cls.from_neighbors(sp.eye_array(2).tocsr(), similarities=[[1]]),
            "a graph has its distances",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
