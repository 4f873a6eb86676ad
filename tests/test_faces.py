"""What people see of objects, and what editors see of arguments."""

import inspect
import math
from typing import get_args, get_overloads

import numpy as np
import pytest

import subsel
from subsel import coreset, objectives, sources, types
from subsel.selection import Selection

X = np.abs(np.random.default_rng(0).normal(size=(40, 3)))


def made(k, value, **more):
    return Selection(np.arange(k), np.ones(k), value, 0, **more)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (made(3, 2.0), "Selection(k=3, F=2)"),
        (made(3, 2.0, bound=3.0, assignment=np.zeros(90)), "Selection(k=3, F=2, proven=0.666)"),
        (made(1, 0.0, bound=math.inf, cost=4.5), "Selection(k=1, F=0, cost=4.5)"),
        (made(2, 1.0, stopped="target"), "Selection(k=2, F=1, stopped='target')"),
        (
            made(9, 1.0, per_class=dict.fromkeys("abcdefgh", 1)),
            "Selection(k=9, F=1, per_class={'a': 1, 'b': 1, 'c': 1, 'd': 1, 'e': 1, 'f': 1, and 2 "
            "more})",
        ),
    ],
)
def test_a_selection_in_words(selection, words):
    assert repr(selection) == words


def test_how_many_of_each_class():
    labels = np.repeat(["b", "a"], [30, 10])
    chosen = subsel.select(X, 0.1, labels=labels)
    assert chosen.per_class == {"a": 1, "b": 3}
    assert "per_class={'a': 1, 'b': 3}" in repr(chosen)
    refined = subsel.select(X, 6, labels=labels == "a", refine=True)
    assert refined.per_class == {False: 5, True: 1}
    assert subsel.select(X, 3).per_class is None


def test_objectives_and_results_in_a_short_line():
    objectives = subsel.FacilityLocation.from_features(X) + 2 * subsel.Modular(X[:, 0])
    stream = subsel.StreamSelector(3, points=X, metric="rbf").partial_fit(X)
    for thing, words in (
        (objectives, "Mixture(1 * FacilityLocation(n=40, path='features') + 2 * Modular(n=40))"),
        (stream, "StreamSelector(budget=3, n_rows=40, metric='rbf')"),
    ):
        assert repr(thing) == words
    assert repr(stream.result()).startswith("StreamSelection(k=3, F=")


def test_results_of_the_defense_in_a_short_line():
    pytest.importorskip("torch")
    from subsel.defense import EPIC, AfreshResult, PoisonedSet, Round, TrainResult

    history = [{"test_accuracy": 0.91234}]
    epic = EPIC(100, subset_size=0.2, warmup=1, interval=1)
    assert repr(TrainResult(None, np.arange(70), history, epic)) == (
        "TrainResult(epochs=1, kept=70 of 100, accuracy=0.9123)"
    )
    assert repr(AfreshResult(None, np.arange(70))) == "AfreshResult(epochs=0, kept=70)"
    nothing = np.empty(0, np.int64)
    assert repr(Round(2, np.arange(5), 95, nothing, nothing, {})) == (
        "Round(epoch=2, dropped=5, kept=95, medoids=0)"
    )
    images = np.zeros((2, 3, 4, 4), np.uint8)
    poisons = PoisonedSet(np.arange(2), images, np.ones(2, int), images[:1], np.zeros(1, int), 1)
    assert repr(poisons) == "PoisonedSet(2 poisons, 1 targets, adversarial_label=1)"


def test_types_name_every_choice_and_no_other():
    assert get_args(types.Method) == coreset.METHODS
    assert get_args(types.ObjectiveName) == tuple(objectives.BY_NAME)
    named, called = get_args(types.Metric)
    assert callable(called)
    assert get_args(named) == (*sources.METRICS, "manhattan", "correlation", "hamming", "jaccard",
                               "tanimoto", "precomputed")  # fmt: skip
    assert get_args(types.EpicMetric) == tuple(sources.METRICS)


def test_the_overloads_of_select_have_the_arguments_of_select():
    own = inspect.signature(subsel.select).parameters
    options = {name for name, p in own.items() if p.kind is p.KEYWORD_ONLY} - {"objective"}
    assert set(types.SelectOptions.__annotations__) == options
    returned = [overload.__annotations__["return"] for overload in get_overloads(subsel.select)]
    assert returned == ["Representation", Selection]


def test_modules_are_attributes_and_dir_shows_public_names():
    assert {"constraints", "defense", "estimators", "plots", "select", "testing"} <= {*dir(subsel)}
    assert not [name for name in dir(subsel) if name in ("Any", "TYPE_CHECKING", "import_module")]
    assert subsel.plots.curve


def test_help_names_arrays_by_one_name():
    for function in (subsel.select, subsel.greedy, subsel.assign, subsel.constraints.Knapsack):
        shown = str(inspect.signature(function))
        assert "subsel.types.ArrayLike" in shown
        assert "numpy._typing" not in shown
