"""Feature-based coverage, beyond what `test_members` tests of every objective."""

import tracemalloc
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.sparse as sp

import subsel
from subsel.kernels import reference

EXACT = {
    "sqrt": lambda x: x.sqrt(),
    "log1p": lambda x: (1 + x).ln(),
    "ratio": lambda x: x / (1 + x),
    "min": lambda x: min(x, Decimal("1e5")),
}


@pytest.mark.parametrize("concave", EXACT)
@pytest.mark.parametrize("store", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_gains_are_exact_beside_large_amounts(concave, store):
    X = np.array([[99.0, 100.0], [0.001, 0.0], [3.0, 2.0]])
    all_rows = np.concatenate([np.repeat(X[:1], 1000, axis=0), X])
    f = subsel.FeatureBased(store(all_rows), concave=concave, cap=1e5 if concave == "min" else None)
    for element in range(1000):
        f.add(element)
    gains = f.gains(np.arange(1000, 1003))
    with localcontext() as context:
        context.prec = 60
        had = [1000 * Decimal(x) for x in X[0]]
        before = sum(map(EXACT[concave], had))
        for row, gain in zip(X, gains, strict=True):
            after = sum(EXACT[concave](x + Decimal(more)) for x, more in zip(had, row, strict=True))
            # The grid of terms, and the rounding of F in float64, are all that may be missing.
            allowed = Decimal(f.rounding) + before * Decimal(2.0**-51)
            assert abs(Decimal(gain) - (after - before)) <= allowed


def test_sparse_features_never_become_dense():
    X = sp.random_array((3000, 40_000), density=1e-3, rng=np.random.default_rng(0), format="csr")
    f = subsel.FeatureBased(X)  # compiles
    subsel.lazy_greedy(f, 2)
    tracemalloc.start()
    try:
        chosen = subsel.lazy_greedy(subsel.FeatureBased(X), 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6  # 960 MB as a dense matrix
    np.testing.assert_allclose(chosen.value, reference.feature_based(X, chosen.indices), rtol=1e-9)


@pytest.mark.parametrize(
    "layout",
    [
        list,
        np.asfortranarray,
        lambda X: X.astype(">f8"),
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: X.astype(np.uint8),
        sp.csc_array,
        sp.coo_matrix,
        lambda X: sp.csr_array(X.astype(np.int64)),
    ],
)
def test_every_layout_selects_the_same(layout):
    X = np.random.default_rng(0).integers(0, 5, (40, 30)).astype(float)
    wanted = subsel.greedy(subsel.FeatureBased(X), 12)
    found = subsel.greedy(subsel.FeatureBased(layout(X)), 12)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_array_equal(found.gains, wanted.gains)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (130, 3)])
def test_small_shapes_and_zeros(shape):
    for X in (np.ones(shape), np.zeros(shape), sp.csr_array(shape), sp.csr_array(np.ones(shape))):
        chosen = subsel.lazy_greedy(subsel.FeatureBased(X), shape[0])
        np.testing.assert_array_equal(chosen.indices, np.arange(shape[0]))
        wanted = reference.feature_based(X, range(shape[0]))
        np.testing.assert_allclose(chosen.value, wanted, rtol=1e-12)


def test_one_thread_or_many():
    X = np.random.default_rng(0).random((3000, 200))
    import numba

    f = subsel.FeatureBased(X)
    wanted = f.gains(np.arange(3000))
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(f.gains(np.arange(3000)), wanted)
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        ([[1e308], [1e308]], {}, "X has features up to 1e.308, whose sum may overflow"),
        ([[1.0, np.nan]], {}, r"X\[0, 1\] is nan; every entry must be finite"),
        ([[1.0, np.inf]], {}, r"X\[0, 1\] is inf"),
        ([[1.0, -1.0]], {}, r"X\[0, 1\] is -1.0; features must not be negative"),
        (sp.csr_array([[1.0, -1.0]]), {}, r"X\[0, 1\] is -1.0; features must be finite and not"),
        (sp.csr_array([[1.0, np.nan]]), {}, r"X\[0, 1\] is nan; features must be finite"),
        ([1.0], {}, r"X must be 2-D \(n, d\)"),
        (np.empty((0, 2)), {}, "X must not be empty"),
        ([["a"]], {}, "X must be numeric"),
        ([[1.0]], {"concave": "log"}, "concave must be one of 'sqrt', 'log1p', 'ratio', 'min'"),
        ([[1.0]], {"concave": "min"}, "concave='min' needs cap"),
        ([[1.0]], {"cap": 1}, "cap needs concave='min', not 'sqrt'"),
        ([[1.0]], {"concave": "min", "cap": 0}, r"cap must be a number in \(0, inf\)"),
        ([[1.0]], {"concave": "min", "cap": np.nan}, r"cap must be a number"),
        ([[1.0]], {"concave": "min", "cap": [1, 2]}, r"cap must have one number for each feature"),
        ([[1.0]], {"weights": [1, 2]}, r"weights must .* \(1,\); got the shape \(2,\)"),
        ([[1.0]], {"weights": 1.0}, r"weights must have one number"),
        (
            [[1.0]],
            {"weights": [-1]},
            r"weights\[0\] is -1.0; it must be a finite number of at least 0",
        ),
        ([[1.0]], {"weights": [np.nan]}, r"weights\[0\] is nan"),
        ([[1.0]], {"weights": ["a"]}, r"weights must be numeric"),
        ([[1.0]], {"backend": "cuda"}, r"features work on the CPU only"),
        ([[1.0]], {"backend": "gpu"}, r"backend must be one of"),
    ],
)
def test_refused(X, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        subsel.FeatureBased(X, **options)


def test_a_repr_says_the_function():
    f = subsel.FeatureBased(np.ones((3, 2)), concave="log1p")
    assert repr(f) == repr(f.restrict([0, 1])).replace("n=2", "n=3")
    assert repr(f) == "FeatureBased(n=3, d=2, concave='log1p')"
