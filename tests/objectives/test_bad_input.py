"""Every argument of every constructor, spoiled: refused by name, with what came.

What is spoiled depends on what the argument is, not on the objective. So a new objective is tested
once it is in `GOOD`; and a test fails as long as it, or an argument of it, is missing there.
"""

import inspect
import warnings

import numpy as np
import pytest
import scipy.sparse

import subsel
from subsel.objectives.coverage import Coverage

N = 5
S = np.eye(N) + 1 / (1 + np.abs(np.subtract.outer(np.arange(N), np.arange(N))))
"""Symmetric and positive definite."""
X = np.array([[1.0, 0, 2], [0, 3, 1], [2, 2, 0], [1, 1, 1], [0, 0, 4]])
D = np.abs(np.subtract.outer(X[:, 0], X[:, 0]))
B = (X > 0).astype(float)
W, EACH = np.arange(1.0, 4), np.arange(1.0, N + 1)
ITEMS, OWN = S[:, :2] / 4, np.eye(2)
NEIGHBORS = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [4, 3]])
GUIDED = {"query": X[:2], "private": X[3:], "eta": 0.5, "nu": 0.5}
PLACE = {"backend": "cpu"}

fl, ld = subsel.FacilityLocation, subsel.LogDeterminant
GOOD = [
    (fl, {"similarity": S, "weights": EACH, **PLACE}),
    (fl, {"similarity": S, "query": ITEMS, "private": ITEMS, "eta": 1.0, "nu": 0.5}),
    (fl.from_features, {"X": X, "metric": "rbf", "gamma": 0.5, "memory": 1e6, **PLACE}),
    (fl.from_features, {"X": X, "weights": EACH, **GUIDED}),
    (fl.from_distances, {"D": D, **PLACE}),
    (fl.from_neighbors, {"indices": NEIGHBORS, "similarities": B[:, :2], **PLACE}),
    (fl.from_neighbors, {"indices": NEIGHBORS, "distances": B[:, :2], "n_candidates": N}),
    (subsel.SaturatedCoverage, {"similarity": S, "fraction": 0.5, **PLACE}),
    (subsel.SaturatedCoverage.from_features,
     {"X": X, "metric": "rbf", "gamma": 0.5, "memory": 1e6, "fraction": 0.5, **PLACE}),
    (subsel.GraphCut, {
        "similarity": S, "lam": 0.5, "redundancy": S, "private": ITEMS, "nu": 1.0, **PLACE
    }),
    (subsel.GraphCut.from_features, {
        "X": X, "metric": "rbf", "lam": 0.5, "gamma": 0.5, "private": X[:2], "nu": 1.0, **PLACE
    }),
    (subsel.SumRedundancy, {"similarity": S, **PLACE}),
    (subsel.SumRedundancy.from_features, {"X": X, "metric": "rbf", "gamma": 0.5, **PLACE}),
    (subsel.DisparitySum, {"distances": D, **PLACE}),
    (subsel.DisparitySum.from_features, {"X": X, "metric": "euclidean", **PLACE}),
    (subsel.DisparityMin, {"distances": D, **PLACE}),
    (subsel.DisparityMin.from_features, {"X": X, "metric": "euclidean", **PLACE}),
    (ld, {"kernel": S, "ridge": 0.5, "quality": EACH, **PLACE}),
    (ld, {"kernel": S, "query": (ITEMS, OWN), "private": (ITEMS, OWN, 0 * OWN),
          "eta": 0.5, "nu": 0.5}),
    (ld.from_features,
     {"X": X, "scale": 1.0, "metric": "rbf", "gamma": 0.5, "quality": EACH, **PLACE}),
    (ld.from_features, {"X": X, **GUIDED}),
    (subsel.FeatureBased, {"X": X, "concave": "min", "weights": W, "cap": W, **PLACE}),
    (subsel.SetCover,
     {"membership": B, "weights": W, "times": 2, "query": B[0], "private": B[1], **PLACE}),
    (subsel.ProbabilisticSetCover,
     {"probabilities": B / 2, "weights": W, "query": B[0] / 2, "private": B[1] / 2, **PLACE}),
    (subsel.Modular, {"values": EACH}),
    (subsel.Mixture, {"objectives": [subsel.Modular(EACH)] * 2, "weights": np.ones(2)}),
]  # fmt: skip
"""Constructors, and arguments that they take together."""

MAY_BE_NEGATIVE = {
    "GraphCut", "SumRedundancy", "LogDeterminant", "Modular", "Mixture", "X",
    "indices",  # of faiss, where -1 stands for no neighbour
}  # fmt: skip
"""Objectives and arguments of which numbers may be negative; others are refused."""


def title(make):
    cls = getattr(make, "__self__", None)
    return f"{cls.__name__}.{make.__name__}" if cls else make.__name__


def constructors(cls):
    """The class, and what else makes one; similarities are not of features for all."""
    named = [name for name in dir(cls) if name.startswith("from_")]
    if not issubclass(cls, Coverage) or hasattr(cls, "_of"):
        return [cls, *(getattr(cls, name) for name in named)]
    return [cls]


OBJECTIVES = [
    thing for thing in vars(subsel.objectives).values()
    if inspect.isclass(thing) and issubclass(thing, subsel.Objective)
    and thing not in (subsel.Objective, Coverage)
]  # fmt: skip


@pytest.mark.parametrize("cls", OBJECTIVES, ids=lambda cls: cls.__name__)
def test_every_argument_of_every_constructor_is_tried(cls):
    for make in constructors(cls):
        wanted = {*inspect.signature(make).parameters} - {"options"}
        tried = {name for other, good in GOOD if other == make for name in good}
        assert wanted <= tried, f"{title(make)}: put {wanted - tried} into GOOD"
        for other, good in GOOD:
            if other == make:
                chosen = subsel.greedy(make(**good), 2)
                assert len({*chosen.indices.tolist()}) == 2


def changed(array, entry, where=None):
    array = array.copy()
    array[(1, 0)[: array.ndim] if where is None else where] = entry
    return array


def refused(make, good, name, wrong, said):
    with pytest.raises((TypeError, ValueError)) as raised:
        subsel.greedy(make(**{**good, name: wrong}), 2)
    assert said in str(raised.value), f"{name}={wrong!r}: {raised.value}"


def arrays():
    """All arguments that are arrays, also those within tuples."""
    for make, good in GOOD:
        for name, value in good.items():
            parts = value if isinstance(value, tuple) else [value]
            for at, part in enumerate(parts):
                if isinstance(part, np.ndarray):
                    called = f"{name}[{at}]" if isinstance(value, tuple) else name

                    def put(wrong, value=value, at=at):
                        if not isinstance(value, tuple):
                            return wrong
                        return (*value[:at], wrong, *value[at + 1 :])

                    yield pytest.param(
                        make, good, name, part, called, put, id=f"{title(make)}, {called}"
                    )


every_array = pytest.mark.parametrize(
    ("make", "good", "name", "array", "called", "put"), [*arrays()]
)


@every_array
def test_numbers_that_are_none(make, good, name, array, called, put):
    if array.dtype.kind == "i":
        refused(make, good, name, changed(array, 99), name)
        refused(make, good, name, array.astype(float), name)
        return
    at = "[1, 0]" if array.ndim == 2 else "[1]"
    for entry in (np.nan, np.inf, -np.inf):
        exact = name not in ("query", "private") or title(make) != "SetCover"
        said = f"{called}{at} is {entry}" if exact else name  # which must be 0 or 1
        refused(make, good, name, put(changed(array, entry)), said)
    refused(make, good, name, put(array + 0j), called)
    refused(make, good, name, put(np.full(array.shape, "1")), called)


@every_array
def test_negative_numbers(make, good, name, array, called, put):
    kind = title(make).split(".")[0]
    may_be = {kind, name} & MAY_BE_NEGATIVE and (kind, name) != ("FeatureBased", "X")
    if name in ("quality", "distances") or (name == "weights" and kind != "Mixture"):
        may_be = False
    if name in ("query", "private") and "from_features" in title(make):
        may_be = True
    lower = put(changed(array, -0.25) if array.dtype.kind == "f" else changed(array, -1))
    if not may_be:
        refused(make, good, name, lower, called)
        return
    try:
        f = make(**{**good, name: lower})
    except ValueError as error:
        assert "symmetric" in str(error)  # noqa: PT017
        return
    assert np.isfinite(subsel.greedy(f, 3).gains).all()


@every_array
def test_wrong_shapes(make, good, name, array, called, put):
    first = name == next(iter(good))
    for wrong in (array[None], array[:0], 1j if name == "cap" else array.ravel()[0]):
        refused(make, good, name, put(wrong), called)
    if array.ndim == 2:
        refused(make, good, name, put(array[0]), called)
        refused(make, good, name, put(array[:, :0]), called)
    square = array.ndim == 2 and title(make) not in ("FacilityLocation", "SaturatedCoverage")
    of_features = name in ("query", "private") and "from_features" in title(make)
    if of_features:  # of which there may be any number
        refused(make, good, name, array[:, :-1], called)
    elif not first or (square and array.shape == (N, N) and name != "D"):
        if (make, name) == (subsel.GraphCut, "similarity"):
            name = "redundancy"  # of which the columns are as many
        refused(make, good, name, put(array[:-1]), name)


@pytest.mark.parametrize(
    ("make", "good", "name"),
    [
        pytest.param(make, good, name, id=f"{title(make)}, {name}")
        for make, good in GOOD
        for name, value in good.items()
        if isinstance(value, int | float | str)
    ],
)
def test_numbers_and_names(make, good, name):
    wrong = [np.nan, -1, [1.0], "1", b"1", 1j, {}, True]
    if isinstance(good[name], str):
        wrong = ["", "Rbf", "gpu", 1, None, ["rbf"]]
    for value in wrong:
        refused(make, good, name, value, name)


FIRST = {title(make): (make, *next(iter(good.items()))) for make, good in GOOD}
"""By constructor, the name of its first argument and a good one."""


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [pytest.param(*case, id=kind) for kind, case in FIRST.items() if kind != "Mixture"],
)
def test_one_row_one_column_and_zeros(make, name, value):
    """All that there is can be selected, zeros in the order of the indices, without a warning."""
    cases = [value[:1, :1], 0 * value] if value.ndim == 2 else [value[:1], 0 * value]
    if value.shape[-1] == 3:  # rows of features, or of concepts
        cases += [value[:1], value[:, :1]]
    if name == "indices":

        def make(indices):
            return fl.from_neighbors(indices, similarities=0.0 * indices)

        cases = [value, np.zeros((1, 1), int), value - N]
    for case in cases:
        if make == ld and not case.any():
            refused(make, {}, name, case, "kernel[0, 0] is 0 with its ridge")
            assert (subsel.greedy(make(case, ridge=1.0), N).gains == 0).all()
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            f = make(**{name: case})
            chosen = subsel.greedy(f, f.n)
        assert np.isfinite(chosen.gains).all()
        assert sorted(chosen.indices) == [*range(f.n)]
        if not case.any():
            assert chosen.indices.tolist() == [*range(f.n)]


@pytest.mark.parametrize("cls", [subsel.SetCover, subsel.ProbabilisticSetCover])
def test_chances_and_memberships_outside_0_and_1(cls):
    name = next(iter(inspect.signature(cls).parameters))
    good = {name: B}
    for wrong in (2.0, 1 + 2.0**-20, -(2.0**-40)):
        spoiled = changed(B, wrong)
        for form in (np.asarray, scipy.sparse.csr_array, scipy.sparse.coo_array):
            refused(cls, good, name, form(spoiled), f"{name}[1, 0] is {wrong}")
        for other in ("query", "private"):
            refused(cls, good, other, changed(B[0], wrong), other)
    if cls is subsel.SetCover:
        refused(cls, good, name, changed(B, 0.5), "must be 0 or 1")


def test_twice_true_is_true():
    places = [0, 0, 1, 2], [1, 1, 0, 2]
    M = scipy.sparse.coo_array((np.ones(4, bool), places), shape=(3, 3))
    for form in (M, scipy.sparse.csr_array((M.data, M.coords[1], [0, 2, 3, 4]), shape=(3, 3))):
        assert subsel.SetCover(form).value([0, 1, 2]) == 3
    with pytest.raises(ValueError, match=r"membership\[0, 1\] is 2.0"):
        subsel.SetCover(M.astype(int))


@pytest.mark.parametrize(
    ("make", "good"),
    [
        pytest.param(make, good, id=f"{title(make)}, {', '.join(good)}")
        for make, good in GOOD
        if "backend" in inspect.signature(make).parameters
    ],
)
def test_what_a_gpu_does_not_do(make, good, monkeypatch):
    """It is refused before a GPU is looked for, and the sentence says what to do instead."""

    def looked_for():
        raise RuntimeError("a GPU is looked for")

    monkeypatch.setattr("subsel.sources.cuda_sources", looked_for)
    of_matrix = [title(cls) for cls in (fl, subsel.SaturatedCoverage)]
    plain = not {"weights", "query", "private"} & {*good}
    able = plain and title(make) in [*of_matrix, *(f"{name}.from_features" for name in of_matrix)]
    error, said = (RuntimeError, "looked") if able else (ValueError, "backend='cpu'")
    with pytest.raises(error, match=said):
        make(**{**good, "backend": "cuda"})
