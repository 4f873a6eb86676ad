"""Arguments of all objectives and constraints, in every form and wrong ones; see test_inputs.py."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.constraints import Groups, Knapsack, MinDistance
from tests.trust.test_inputs import (
    AS_FLOAT32,
    AS_FLOAT64,
    NO_NUMBERS,
    WHOLE,
    WORDS,
    WRONG_NUMBERS,
    assert_same,
)

N = 12
LINE = np.arange(N, dtype=np.float32)
MATRIX = np.random.default_rng(0).integers(0, 9, (N, N)).astype(np.float32)
SQUARE = MATRIX + MATRIX.T
APART = np.abs(LINE[:, None] - LINE)
CHANCES = np.random.default_rng(1).integers(0, 2, (N, N)).astype(np.float32)
ROWS = np.random.default_rng(2).integers(-6, 7, (N, 3)).astype(np.float32)
"""Small numbers that floats of 8 bits hold."""


def searched(f, budget=4):
    chosen = subsel.greedy(f, budget)
    return [chosen.indices, chosen.gains, [chosen.value, f.value(chosen.indices)]]


def of_features(cls):
    return "X", ROWS, lambda X: searched(cls.from_features(X))


def beside(**arguments):
    """Facility location with another argument beside a matrix."""
    ((name, rows),) = arguments.items()
    return name, rows, lambda rows: searched(subsel.FacilityLocation(MATRIX, **{name: rows}))


TWO_AXES = {
    "FacilityLocation, query": beside(query=MATRIX),
    "FacilityLocation, private": beside(private=CHANCES),
    "SaturatedCoverage": (
        "similarity", MATRIX, lambda S: searched(subsel.SaturatedCoverage(S, fraction=0.25)),
    ),
    "GraphCut": ("similarity", SQUARE, lambda S: searched(subsel.GraphCut(S))),
    "GraphCut, redundancy": (
        "redundancy", SQUARE, lambda R: searched(subsel.GraphCut(MATRIX, redundancy=R)),
    ),
    "GraphCut, private": (
        "private", MATRIX, lambda P: searched(subsel.GraphCut(SQUARE, private=P)),
    ),
    "SumRedundancy": ("similarity", SQUARE, lambda S: searched(subsel.SumRedundancy(S))),
    "FeatureBased": ("X", MATRIX, lambda X: searched(subsel.FeatureBased(X))),
    "SetCover": ("membership", MATRIX > 4, lambda M: searched(subsel.SetCover(M))),
    "ProbabilisticSetCover": (
        "probabilities", CHANCES, lambda P: searched(subsel.ProbabilisticSetCover(P)),
    ),
    "LogDeterminant": (
        "kernel", 8 * np.eye(N, dtype=np.float32) + 1, lambda K: searched(subsel.LogDeterminant(K)),
    ),
    **{
        f"{cls.__name__}, features": of_features(cls)
        for cls in (subsel.GraphCut, subsel.SumRedundancy, subsel.LogDeterminant)
    },
}  # fmt: skip
DENSE_ONLY = {
    "DisparitySum": ("distances", APART, lambda D: searched(subsel.DisparitySum(D))),
    "DisparityMin": ("distances", APART, lambda D: searched(subsel.DisparityMin(D))),
    "MinDistance": (
        "X", ROWS, lambda X: searched(subsel.FacilityLocation(MATRIX), MinDistance(X, 4.0)),
    ),
    **{
        f"{cls.__name__}, features": of_features(cls)
        for cls in (
            subsel.SaturatedCoverage, subsel.DisparitySum, subsel.DisparityMin,
        )
    },
}  # fmt: skip


def mixed(weights):
    return searched(subsel.Mixture([subsel.Modular(LINE)] * N, weights))


ONE_AXIS = {
    "Modular": ("values", LINE, lambda values: searched(subsel.Modular(values))),
    "Mixture": ("weights", LINE, mixed),
    "FacilityLocation, weights": beside(weights=LINE),
    "FeatureBased, weights": (
        "weights", LINE, lambda w: searched(subsel.FeatureBased(MATRIX, weights=w)),
    ),
    "FeatureBased, cap": (
        "cap", LINE, lambda cap: searched(subsel.FeatureBased(MATRIX, concave="min", cap=cap)),
    ),
    "SetCover, weights": (
        "weights", LINE, lambda w: searched(subsel.SetCover(MATRIX > 4, weights=w)),
    ),
    "SetCover, query": (
        "query", LINE > 4, lambda q: searched(subsel.SetCover(MATRIX > 4, query=q)),
    ),
    "ProbabilisticSetCover, private": (
        "private", CHANCES[0], lambda p: searched(subsel.ProbabilisticSetCover(CHANCES, private=p)),
    ),
    "LogDeterminant, quality": (
        "quality", 1 + LINE,
        lambda q: searched(subsel.LogDeterminant(8 * np.eye(N) + 1, quality=q)),
    ),
    "Knapsack": (
        "costs", 1 + LINE,
        lambda costs: searched(subsel.FacilityLocation(MATRIX), Knapsack(costs, 9)),
    ),
}  # fmt: skip

# Forms that are for two axes alone, or of which NumPy itself would drop something.
ONLY_TWO_AXES = {
    "columns of a wider array", "reversed", "DataFrame", "DataFrame of polars", "list of arrays",
    "list of lists of tensors", "tuple of tuples", "tensor, transposed", "list of buffers",
    "matrix", "dask",
    "DataFrame of objects", "DataFrame, nullable integers", "DataFrame, nullable floats",
    "DataFrame of pyarrow", "Table of pyarrow", "polars, whole numbers",
}  # fmt: skip


def cases(calls, skipped=()):
    return [
        pytest.param(call, rows, form, number, id=f"{where}-{title}")
        for where, (_, rows, call) in calls.items()
        for number, forms in ((np.float32, AS_FLOAT32), (np.float64, AS_FLOAT64))
        for title, form in forms.items()
        if title not in skipped
    ]


@pytest.mark.parametrize(
    ("call", "rows", "form", "number"),
    [*cases({**TWO_AXES, **DENSE_ONLY}), *cases(ONE_AXIS, ONLY_TWO_AXES)],
)
def test_numbers_in_every_form(call, rows, form, number):
    assert_same(call, form(rows.astype(np.float32)), rows.astype(number))


@pytest.mark.parametrize(
    ("name", "rows", "call"), [pytest.param(*c, id=w) for w, c in TWO_AXES.items()]
)
def test_sparse_matrices_of_every_format(name, rows, call):
    for fmt in ("csr", "csc", "coo", "bsr", "dia", "lil", "dok"):
        for number in (np.float32, np.float64, np.int16):
            if (rows != rows.astype(number)).any():
                continue
            given = getattr(sp, f"{fmt}_array")(rows.astype(number))
            for ours, wanted in zip(call(given), call(rows.astype(float)), strict=True):
                np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "rows", "call"), [pytest.param(*c, id=w) for w, c in DENSE_ONLY.items()]
)
def test_sparse_matrices_where_only_dense_ones_are_taken(name, rows, call):
    with pytest.raises((TypeError, ValueError), match=f"{name}.*sparse|sparse.*{name}"):
        call(sp.csr_array(rows))


@pytest.mark.parametrize("wrong", WRONG_NUMBERS)
@pytest.mark.parametrize(
    ("name", "rows", "call"),
    [pytest.param(*c, id=w) for w, c in {**TWO_AXES, **DENSE_ONLY}.items()],
)
def test_wrong_numbers(name, rows, call, wrong):
    given, _ = WRONG_NUMBERS[wrong]
    if given is None and name in ("query", "private", "redundancy"):
        pytest.skip("none is meant")
    with pytest.raises((TypeError, ValueError), match=name):
        call(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {0: 1.0}, {1.0}, "abc", ["1"] * N, np.ones((N, 1)), np.ones(N - 1), [], 3j,
        np.ones(N, complex), np.ones(N, "m8[s]"), [None] * N, [1.0] * (N - 1) + [np.nan],
        [1.0] * (N - 1) + [np.inf], np.ma.masked_array(np.ones(N)), sp.csr_array(np.ones((1, N))),
        [[1.0], [2.0, 3.0]], [10**400] * N,
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "rows", "call"), [pytest.param(*c, id=w) for w, c in ONE_AXIS.items()]
)
def test_wrong_vectors(name, rows, call, wrong):
    if name == "values" and isinstance(wrong, np.ndarray) and wrong.shape == (N - 1,):
        pytest.skip("of any length")
    with pytest.raises((TypeError, ValueError), match=name):
        call(wrong)


def grouped(labels):
    return searched(subsel.FacilityLocation(MATRIX), Groups(labels, at_most=1))


@pytest.mark.parametrize("form", WHOLE)
def test_labels_of_groups_in_every_form(form):
    labels = np.arange(N) % 5
    assert_same(grouped, WHOLE[form](labels), labels)


@pytest.mark.parametrize("form", WORDS)
def test_names_of_groups_in_every_form(form):
    names = [["b", "a", "cc"][i % 3] for i in range(N)]
    assert_same(grouped, WORDS[form](names), names)


NUMBERS = {
    "fraction": lambda x: subsel.SaturatedCoverage(MATRIX, fraction=x),
    "lam": lambda x: subsel.GraphCut(SQUARE, lam=x),
    "nu": lambda x: subsel.GraphCut(SQUARE, nu=x),
    "eta": lambda x: subsel.FacilityLocation(MATRIX, query=MATRIX, eta=x),
    "cap": lambda x: subsel.FeatureBased(MATRIX, concave="min", cap=x),
    "times": lambda x: subsel.SetCover(MATRIX > 4, times=x),
    "ridge": lambda x: subsel.LogDeterminant(8 * np.eye(N), ridge=x),
    "scale": lambda x: subsel.LogDeterminant.from_features(ROWS, scale=x),
    "least": lambda x: MinDistance(ROWS, x),
    "at_most": lambda x: Groups([0, 1] * 6, at_most=x),
    "budget": lambda x: Knapsack(1 + LINE, x),
    "weight": lambda x: x * subsel.Modular(LINE),
    "target": lambda x: subsel.greedy(SQUARE, 2, target=x),
    "coverage": lambda x: subsel.greedy(SQUARE, 2, coverage=x),
    "min_gain": lambda x: subsel.greedy(SQUARE, 2, min_gain=x),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number(name):
    for wrong in [*NO_NUMBERS, np.nan]:
        optional = {"at_most", "target", "coverage", "min_gain"}
        if (wrong is None and name in optional) or (name == "weight" and isinstance(wrong, list)):
            continue
        with pytest.raises((TypeError, ValueError), match=None if name == "weight" else name):
            NUMBERS[name](wrong)


MALFORMED = {
    "an index beyond the end": (
        "indices",
        lambda values: np.where(values == values[2], 99, values),
    ),
    "a negative index": ("indices", lambda values: np.where(values == values[2], -1, values)),
    "starts beyond the end": ("indptr", lambda values: np.where(values == values[-1], 999, values)),
    "a missing start": ("indptr", lambda values: values[:-1]),
    "missing data": ("data", lambda values: values[:-1]),
}

RUN_MALFORMED = """
import scipy.sparse as sp
from tests.trust.test_inputs_of_objectives import MALFORMED, TWO_AXES
done = 0
for where, (name, rows, call) in TWO_AXES.items():
    for what, (part, change) in MALFORMED.items():
        S = sp.csr_array(rows.astype(float))
        setattr(S, part, change(getattr(S, part).copy()))
        try:
            call(S)
        except ValueError as error:
            assert name in str(error), (where, what, error)
        else:
            raise AssertionError((where, what))
        done += 1
print(done)
"""


def test_malformed_sparse_matrices():
    """In a process of its own, because kernels that read foreign memory could end it."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", RUN_MALFORMED], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout == f"{len(TWO_AXES) * len(MALFORMED)}\n", done.stderr


def test_one_candidate():
    one = np.ones((1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (
            subsel.SaturatedCoverage(one), subsel.GraphCut(one), subsel.SumRedundancy(one),
            subsel.DisparitySum(0 * one), subsel.DisparityMin(0 * one), subsel.FeatureBased(one),
            subsel.SetCover(one), subsel.ProbabilisticSetCover(one), subsel.LogDeterminant(2 * one),
            subsel.Modular([1.0]), subsel.FacilityLocation(one) + subsel.Modular([1.0]),
            subsel.GraphCut.from_features(one), subsel.DisparityMin.from_features(one),
            subsel.LogDeterminant.from_features(one), subsel.SumRedundancy.from_features(0 * one),
        ):  # fmt: skip
            chosen = subsel.greedy(f, 1)
            assert chosen.indices.tolist() == [0]
            assert chosen.value == f.value([0])
            with pytest.raises(ValueError, match=r"budget must be a count in 1\.\.1"):
                subsel.greedy(f, 2)
