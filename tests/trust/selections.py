"""A differential fuzzer of selection: random inputs in random disguises against the specification.

Each trial draws one input from a seed and selects from it. Three things are then checked:

- The selection is the one of `subsel.kernels.reference`: exactly, where the input was drawn such
  that float64 holds all sums without rounding; otherwise within the stated error of similarities.
- It has the same bits in every disguise: another dtype, byte order, layout, container or sparse
  format, with and without a matrix in memory, on one thread or two, by greedy or lazy greedy.
- What it says of itself agrees: `value`, `assign`, `assignment`, `sizes`, gains that never rise.

That is facility location; `tests.trust.objectives` has the trials of all other objectives, of
constraints, and of stops.

Run it for as long as you like, from the repository's root:

    python -m tests.trust.selections --minutes 60            counts, and the seed of each failure
    python -m tests.trust.selections --minutes 60 --first 0  the same trials again
    python -m tests.trust.selections --only 1234             one trial, by its seed
"""

import argparse
import math
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import ExitStack
from fractions import Fraction
from unittest import mock

import numba
import numpy as np

import subsel
from subsel.kernels import reference
from tests.trust.drawing import (
    FORMATS,
    budget,
    clean,
    disguised,
    in_format,
    numbers,
    repeated,
    shape,
    typed,
)
from tests.trust.objectives import objective_trial

METRICS = ["euclidean", "cosine", "dot", "rbf"]


def same(ours, wanted, what):
    """All arrays and numbers of two selections have the same bits."""
    for name in ("indices", "gains", "value", "assignment", "sizes"):
        one, other = getattr(ours, name), getattr(wanted, name)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other, err_msg=f"{name}, {what}")


def on_threads(random, call):
    """What a call gives on a random number of threads."""
    most = numba.get_num_threads()
    numba.set_num_threads(int(random.integers(1, most + 1)))
    try:
        return call()
    finally:
        numba.set_num_threads(most)


def check_greedy(S, selection, slack, exact):
    """It is what the specification selects from similarities S, in units of S."""
    k = len(selection)
    assert len(set(selection.indices.tolist())) == k, "an element was selected twice"
    assert (np.diff(selection.gains) <= 0).all(), "a gain is larger than the one before"
    assert selection.value == math.fsum(selection.gains)
    if exact:
        indices, gains = reference.greedy(S, k)
        np.testing.assert_array_equal(selection.indices, indices)
        np.testing.assert_array_equal(selection.gains, gains)
        return
    for step in range(0, k, max(1, k // 12)):
        chosen = selection.indices[:step].tolist()
        gains = reference.gains(S, chosen)
        gains[chosen] = -np.inf
        at = selection.indices[step]
        assert gains[at] >= gains.max() - slack, f"step {step}: another gain is larger"
        assert abs(selection.gains[step] - gains[at]) <= slack, f"step {step}: the gain is wrong"


def check_assignment(S, f, selection, slack, exact):
    """Every point is represented by what is most similar to it, the first of equals.

    In a matrix, a point that is similar to nothing selected is represented by nothing.
    """
    assignment, sizes = f.assign(selection.indices)
    held = assignment >= 0
    np.testing.assert_array_equal(f.assignment, assignment)
    np.testing.assert_array_equal(sizes, np.bincount(assignment[held], minlength=len(selection)))
    assert f.value(selection.indices) == selection.value
    mine = np.where(held, S[np.arange(len(S)), selection.indices[assignment]], 0)
    best = S[:, selection.indices].max(axis=1)
    assert (mine >= best - slack).all(), "a point is not represented by the most similar element"
    if f.path == "features":
        assert held.all()
        wanted = S[:, selection.indices].argmax(axis=1)
    else:
        wanted = reference.assign(S, selection.indices)[0]
    if exact:
        np.testing.assert_array_equal(assignment, wanted)


def rescaled(selection, exponent):
    """The same in units of 2**exponent."""
    gains = np.ldexp(selection.gains, -exponent)
    return subsel.Selection(selection.indices, gains, math.ldexp(selection.value, -exponent), 0)


def outcome(call):
    """What a call gives, and the message of the ValueError if it gives that instead."""
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def unless_extreme(call, low=0.0, high=np.inf):
    """What a call gives, or None where it says that magnitudes `low` to `high` are too extreme."""
    result, message = outcome(call)
    if message:
        assert "rescale" in message, message
        assert not 1e-280 < low <= high < 1e290, f"refused without need: {message}"
    return result


def matrix_trial(random, folder):
    """A matrix of similarities, dense and in a sparse format."""
    rows, columns = shape(random)
    values, exact = numbers(random, (rows, columns))
    values = repeated(random, repeated(random, values, 0), 1)
    array, S, exact = typed(random, values, exact)
    plain = clean(array)
    k = budget(random, columns, rows)
    f = unless_extreme(lambda: subsel.FacilityLocation(plain), *([len(S) * S.max()] * 2))
    if f is None:
        return
    wanted = subsel.greedy(f, k)
    exponent = math.frexp(S.max())[1]
    S = np.ldexp(S, -exponent)
    slack = rows * max(rows, 32) * 2.0**-50
    check_greedy(S, rescaled(wanted, exponent), slack, exact)
    f.reset()
    subsel.greedy(f, k)
    check_assignment(S, f, wanted, max(rows, 32) * 2.0**-50, exact)

    search = subsel.lazy_greedy if random.random() < 0.5 else subsel.greedy
    given = disguised(random, array, folder)
    same(on_threads(random, lambda: search(given, k)), wanted, "dense")
    np.testing.assert_array_equal(np.asarray(given, array.dtype), array, err_msg="it was changed")
    fmt = random.choice(FORMATS if plain.size < 10**4 else FORMATS[:4])
    of = array if array.dtype.isnative and array.dtype.char not in "eg" else plain
    sparse = in_format(of, fmt, random.choice(["array", "matrix"]))
    if fmt in ("csr", "csc", "bsr") and random.random() < 0.5:
        sparse.indices, sparse.indptr = (
            part.astype(np.int64) for part in (sparse.indices, sparse.indptr)
        )
    same(on_threads(random, lambda: search(sparse, k)), wanted, fmt)
    part = random.permutation(columns)[: int(random.integers(1, columns + 1))]
    some = min(k, len(part))
    restricted = subsel.greedy(f.restrict(part), some)
    if exact:
        np.testing.assert_array_equal(
            restricted.indices, reference.greedy(S[:, part], some)[0], err_msg="restricted"
        )
        check_given(random, f, sparse, S, k)
    of_sparse = subsel.FacilityLocation(sparse).restrict(part)
    same(subsel.greedy(of_sparse, some), restricted, f"restricted, {fmt}")
    if columns * rows < 10**4:
        drawn = subsel.stochastic_greedy(plain, k, 0.3, int(random.integers(99)))
        check_own(S, rescaled(drawn, exponent), slack)


def check_given(random, f, sparse, S, k):
    """With elements that are given and others that are excluded."""
    n = S.shape[1]
    given, exclude, _ = np.split(random.permutation(n), np.sort(random.integers(0, n + 1, 2)))
    k = min(k, n - len(given) - len(exclude))
    if k == 0:
        return
    chosen = subsel.greedy(f, k, given=given, exclude=exclude)
    same(subsel.lazy_greedy(sparse, k, given=given, exclude=exclude), chosen, "given, excluded")
    held = given.tolist()
    for element in chosen.indices.tolist():
        gains = reference.gains(S, held)
        gains[held] = gains[exclude] = -1
        assert element == int(np.argmax(gains)), "given, excluded: another gain is larger"
        held.append(element)


def check_own(S, selection, slack):
    """Gains are those of the elements selected, whichever they are."""
    assert len(set(selection.indices.tolist())) == len(selection)
    for step in range(0, len(selection), max(1, len(selection) // 5)):
        gain = reference.gains(S, selection.indices[:step].tolist())[selection.indices[step]]
        assert abs(selection.gains[step] - gain) <= slack


def features(random, metric):
    """Features, in some number type and as clean float64, and if similarities are exact."""
    n, _ = shape(random, square=True)
    d = int(random.choice([1, 2, 3, 8, 33, 70, 400], p=[0.25, 0.2, 0.2, 0.15, 0.15, 0.04, 0.01]))
    exact = metric != "rbf" and random.random() < 0.4
    if not exact:
        values, _ = numbers(random, (n, d))
        values *= random.choice([-1, 1], (n, d))
        values += random.choice([0, 0, 0, 1, 1e6])
    elif metric == "euclidean":  # distances along one axis
        values = np.zeros((n, d))
        values[:, random.integers(d)] = random.integers(0, random.choice([2, 20, 120]), n)
    elif metric == "dot":
        values = random.integers(-3, 4, (n, d)).astype(float)
    else:  # along the axes, so that cosines are 0, 1 or -1; some rows are 0
        values = np.zeros((n, d))
        values[np.arange(n), random.integers(0, d, n)] = random.integers(-2, 3, n)
    values = repeated(random, values, 0)
    low, high = (-140, 140) if metric == "dot" else (-280, 280)
    array, X, exact = typed(random, values, exact, low=low, high=high)
    return array, X, exact


def similarities(X, metric, offset, gamma=None):
    """Similarities in units of 2**exponent, the exponent, and the largest that there can be."""
    exponent = math.frexp(abs(X).max())[1]
    if metric == "cosine":  # of which lengths do not matter: none may overflow
        X = np.ldexp(X, -np.frexp(abs(X).max(axis=1, keepdims=True))[1])
        return reference.similarity(X, metric, c0=offset), 0, 2.0
    if metric == "rbf":
        with np.errstate(over="ignore"):
            return reference.similarity(X, metric, gamma=gamma), 0, 1.0
    if metric == "dot":
        exponent *= 2
        S = reference.similarity(np.ldexp(X, -exponent // 2), metric, c0=offset * 2.0**-exponent)
    else:
        S = reference.similarity(np.ldexp(X, -exponent), metric, c0=math.ldexp(offset, -exponent))
    return S, exponent, max(float(abs(S).max()), 1e-300)


def features_trial(random, folder):
    """Features, with and without a matrix in memory."""
    metric = str(random.choice(METRICS))
    array, X, exact = features(random, metric)
    plain = clean(array)
    n, d = plain.shape
    k = budget(random, n, n)
    spread = float(np.ptp(X, axis=0).max()) or 1.0
    size = spread**2 if metric == "dot" else spread
    gamma = 10.0 ** random.uniform(-4, 4) if metric == "rbf" and random.random() < 0.5 else None
    far = 1e17 if plain.dtype == np.float32 else 1e150  # beyond it, rbf is for far rows only
    f = unless_extreme(
        lambda: subsel.FacilityLocation.from_features(plain, metric, gamma=gamma, memory=0),
        *([n * size] * 2 if metric != "rbf" else [1.0, 1e300 if spread > far else 1.0]),
    )
    if f is None or (gamma and abs(X).max() * math.sqrt(gamma) > far):
        return
    wanted = subsel.greedy(f, k)
    S, exponent, largest = similarities(X, metric, f.offset, gamma)
    error = (d + 64) * 2 * float(np.finfo(plain.dtype).eps) * largest
    scaled = rescaled(wanted, exponent)
    # Rows that differ by numbers next to 0 alone: c0 is as small, and no float64 holds it exactly.
    rounding = math.ldexp(5e-324, -exponent)
    check_greedy(S, scaled, n * (error + max(n, 32) * largest * 2.0**-50 + rounding), exact)
    check_assignment(S, f, wanted, error + max(n, 32) * largest * 2.0**-50, exact)

    given = disguised(random, array, folder)
    method = str(random.choice(["greedy", "lazy"]))
    memory = random.choice([0, 1e9])
    chosen = on_threads(
        random, lambda: subsel.select(given, k, metric=metric, method=method, memory=memory)
    )
    if gamma is None:
        same(chosen, wanted, f"select, {method}, memory {memory}")
        np.testing.assert_array_equal(chosen.assignment, f.assignment)
    np.testing.assert_array_equal(np.asarray(given, array.dtype), array, err_msg="it was changed")
    matrix = subsel.FacilityLocation.from_features(given, metric, gamma=gamma, memory=1e9)
    same(on_threads(random, lambda: subsel.lazy_greedy(matrix, k)), wanted, matrix.path)
    part = random.permutation(n)[: int(random.integers(1, n + 1))]
    some = min(k, len(part))
    restricted = subsel.greedy(f.restrict(part), some)
    same(subsel.greedy(matrix.restrict(part), some), restricted, "restricted")
    if exact:
        np.testing.assert_array_equal(
            restricted.indices, reference.greedy(S[:, part], some)[0], err_msg="restricted"
        )


def labels_trial(random, folder):
    """Features of several classes: what each class by itself gives, merged by gain."""
    metric = str(random.choice(METRICS))
    array, _, _ = features(random, metric)
    plain = clean(array)
    n = len(plain)
    classes = int(random.integers(1, min(n, 12) + 1))
    labels = random.integers(0, classes, n) ** 2 - 3
    names, sizes = np.unique(labels, return_counts=True)
    count = int(random.integers(len(names), n + 1))
    share = round(random.uniform(0.001, 0.999), 3)
    each = {int(name): int(random.integers(1, size + 1)) for name, size in zip(names, sizes)}  # noqa: B905
    asked = [count, share, each][random.integers(3)]
    forms = [labels, labels.tolist(), labels.astype(">i2"), labels.astype(object)]
    given, form = disguised(random, array, folder), forms[random.integers(4)]
    memory = random.choice([0, 1e9])
    chosen = unless_extreme(
        lambda: subsel.select(given, asked, labels=form, metric=metric, memory=memory)
    )
    if chosen is None:
        return
    assert (np.diff(chosen.gains) <= 0).all()
    assert chosen.value == math.fsum(chosen.gains)
    assert chosen.sizes.sum() == n
    np.testing.assert_array_equal(labels[chosen.indices[chosen.assignment]], labels)
    if asked is count:
        assert len(chosen) == count
    for name, size in zip(names, sizes, strict=True):
        rows = np.flatnonzero(labels == name)
        mine = labels[chosen.indices] == name
        if asked is each:
            assert mine.sum() == each[int(name)]
        elif asked is share:
            assert mine.sum() == math.ceil(Fraction(str(share)) * int(size))
        else:
            exact = count * size / n
            assert 1 <= mine.sum() <= size
            assert (
                math.floor(exact) <= mine.sum() <= math.ceil(exact)
                or count < 2 * len(names)
                or (abs(mine.sum() - exact) < len(names))
            )
        alone = subsel.select(plain[rows], int(mine.sum()), metric=metric, memory=0)
        np.testing.assert_array_equal(chosen.indices[mine], rows[alone.indices])
        np.testing.assert_array_equal(chosen.gains[mine], alone.gains)
        np.testing.assert_array_equal(chosen.sizes[mine], alone.sizes)


def own_objective_trial(random, folder):
    """An objective that a user wrote, which computes every gain anew."""
    rows, columns = (int(x) for x in random.integers(1, 40, 2))
    values, _ = numbers(random, (rows, columns))
    S = repeated(random, values, 1)
    k = int(random.integers(1, columns + 1))
    indices, gains = reference.greedy(S, k)
    for search in (subsel.greedy, subsel.lazy_greedy):
        chosen = search(Recomputed(S), k)
        if search is subsel.greedy:
            np.testing.assert_array_equal(chosen.indices, indices)
        np.testing.assert_allclose(chosen.gains, gains, rtol=0, atol=rows * S.max() * 1e-14)
    drawn = subsel.stochastic_greedy(Recomputed(S), k, 1e-9, int(random.integers(99)))
    assert len(set(drawn.indices.tolist())) == k


class Recomputed(subsel.Objective):
    """Facility location as a user would write it."""

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


def greedi_trial(random, folder):
    """Selection in partitions, which says of all rows what holds of them."""
    metric = str(random.choice(METRICS))
    array, _, _ = features(random, metric)
    plain = clean(array)
    n = len(plain)
    k = int(random.integers(1, max(1, min(n, 40) // 8) + 1))
    options = {
        "partitions": int(random.integers(1, min(n, 9) + 1)),
        "spread": int(random.choice([1, 3, 16])),
        "metric": metric,
        "random_state": int(random.integers(99)),
    }
    chosen = unless_extreme(lambda: on_threads(random, lambda: subsel.greedi(plain, k, **options)))
    if chosen is None:
        return
    again = subsel.greedi(disguised(random, array, folder), k, **options)
    same(again, chosen, "greedi")
    f = subsel.FacilityLocation.from_features(plain, metric, memory=0)
    assert f.value(chosen.indices) == chosen.value == math.fsum(chosen.gains)
    assignment, sizes = f.assign(chosen.indices)
    np.testing.assert_array_equal(chosen.assignment, assignment)
    np.testing.assert_array_equal(chosen.sizes, sizes)


def refusal_trial(random, folder):
    """An entry that cannot be: it is refused, and the first one is named with its place."""
    rows, columns = (int(x) for x in random.integers(1, 60, 2))
    array = random.random((rows, columns)).astype(random.choice(["f4", "f8", ">f4", "f2"]))
    bad = random.choice([np.nan, np.inf, -np.inf, -1.0])
    places = np.sort(random.choice(array.size, min(2, array.size), replace=False))
    array.flat[places] = bad
    i, j = divmod(int(places[0]), columns)
    given, sparse = (
        disguised(random, array, folder),
        in_format(clean(array), random.choice(FORMATS)),
    )
    calls = [("similarity", lambda S=S: subsel.greedy(S, 1)) for S in (given, sparse)]
    if bad != -1:  # features may be negative
        calls += [("X", lambda: subsel.select(given, 1)), ("X", lambda: subsel.greedi(given, 1))]
    for name, call in calls:
        _, message = outcome(call)
        assert f"{name}[{i}, {j}] is {bad}" in message, message or "it was accepted"


TRIALS = {
    matrix_trial: 0.29,
    features_trial: 0.27,
    labels_trial: 0.08,
    objective_trial: 0.22,
    own_objective_trial: 0.04,
    greedi_trial: 0.06,
    refusal_trial: 0.04,
}


EARLIER = {
    "subsel.sources.base.PARALLEL_WORK": [0, 2**12],
    "subsel.sources.base._LOG": [1, 2],
    "subsel.sources.dense._WIDEST": [16, 100],
    "subsel.sources.dense._THIN_AT": [2, 4],
    "subsel.sources.dense._THIN_FROM": [0],
    "subsel.sources.dense._THIN_TO": [2, 32],
    "subsel.sources.scale.DENSE_FROM_DIMENSION": [1],
    "subsel.sources.scale.FEW_ROWS": [0, 1024],
}
"""Sizes at which another way is taken, and smaller ones, so that few rows take both."""


def trial(seed):
    """One trial, of whatever kind its seed draws; the kind's name."""
    random = np.random.default_rng(seed)
    kinds = list(TRIALS)
    kind = kinds[random.choice(len(kinds), p=list(TRIALS.values()))]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as earlier:
        earlier.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "similarity has zeros on its diagonal")  # it may have
        for name, values in EARLIER.items() if random.random() < 0.4 else ():
            if random.random() < 0.7:
                earlier.enter_context(mock.patch(name, int(random.choice(values))))
        try:
            kind(random, folder)
        except Exception as error:
            raise AssertionError(f"trial {seed} ({kind.__name__}) failed: {error}") from error
    return kind.__name__


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, help="the first seed (default: drawn)")
    parser.add_argument("--only", type=int, help="run the trial of this seed and no other")
    args = parser.parse_args()
    warnings.simplefilter("error")
    if args.only is not None:
        print(trial(args.only), "passed")
        return 0
    first = time.time_ns() % 10**12 if args.first is None else args.first
    done, failed, began, said = Counter(), [], time.monotonic(), 0.0
    print(f"Trials from seed {first} on, for {args.minutes:g} minutes.", flush=True)
    seed = first
    while time.monotonic() - began < 60 * args.minutes and len(failed) < 10:
        try:
            done[trial(seed)] += 1
        except AssertionError:
            failed.append(seed)
            traceback.print_exc()
            print(f"\nAgain: python -m tests.trust.selections --only {seed}\n", flush=True)
        seed += 1
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{sum(done.values())} passed, {len(failed)} failed", flush=True)
    for kind, count in sorted(done.items()):
        print(f"{kind:20} {count:8}")
    print(f"{sum(done.values())} trials passed, {len(failed)} failed: {failed}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
