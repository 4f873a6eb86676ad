"""Figures, and what is measured for them."""

import numpy as np
import pytest

from benchmarks.poisoning import __main__ as cli
from benchmarks.poisoning import measure, tables
from benchmarks.poisoning.defenses import (
    registry,
)
from benchmarks.poisoning.lab import Lab


@pytest.mark.parametrize("figure", [1, 2, 3, 4, 5, 6])
def test_a_figure_at_toy_scale_and_again_for_nothing(toy, figure, monkeypatch):
    out, tiny = toy
    arguments = ["figure", str(figure), *tiny, "--trainings", "3"]
    assert cli.main(arguments) == 0
    path = out / "figures-toy" / f"figure-{figure}.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    monkeypatch.setattr(registry.Trial, "outcome", None)
    for part in ("effective", "dropped", "rounds"):
        monkeypatch.setattr(measure, part, None)
    assert cli.main(arguments) == 0
    assert path.exists()


def test_the_smallest_subset_that_carries():
    tried = []

    def carries(some):
        tried.append(set(some.tolist()))
        return {3, 11, 12} <= tried[-1]

    order = np.random.default_rng(0).permutation(40)
    assert set(measure.smallest_subset(order, carries, 200)) == {3, 11, 12}
    assert len(tried) < 40
    tried.clear()
    rough = measure.smallest_subset(order, carries, 8)
    assert len(tried) == 8
    assert {3, 11, 12} <= set(rough.tolist())
    assert len(measure.smallest_subset(order, lambda some: False, 9)) == 0


def test_effective_poisons_alone_carry_the_attack(data, cache):
    lab = Lab(tables.SCALES["toy"].settings, data, cache)
    target = lab.target(0)
    trial = lab.trial(target)
    found = measure.effective(lab, target, trial, 30)
    assert 0 < found["effective"].sum() < 30
    assert found["trainings"] <= 30
    images = lab.images.copy()
    some = target.bases[found["effective"]]
    images[some] = trial.victim.images[some]
    model = trial.victim.with_images(images).train()
    assert measure.hit_share(lab, target, model) == 1
    assert found["poisons"].shape == (30, 2)


def test_watching_changes_nothing_and_sees_every_epoch(labs, trials):
    lab, trial = labs["scratch"], trials["scratch"]
    target = lab.target(0)
    everyone = np.ones(len(target.bases), bool)
    seen = measure.rounds(lab, target, trial, everyone, 0.2)
    outcome = trial.outcome("EPIC 0.2 active")
    assert [(row == 1).sum() for row in seen["cluster_sizes"]] == [
        len(entry.dropped) for entry in outcome.rounds
    ]
    assert seen["left"].shape == (4, 3)
    first = outcome.rounds[0].epoch
    np.testing.assert_array_equal(seen["left"][: first + 1], 1)
    np.testing.assert_allclose(seen["kept_error"][: first + 1], 0, atol=1e-6)
    assert (seen["random_error"][first + 1 :] > 0).all()
    assert (np.abs(seen["mutual"]) <= 1 + 1e-6).all()


def test_cosines():
    vectors = np.array([[1.0, 0], [0, 2], [-3, 0]])
    assert measure.mutual_cosine(vectors) == pytest.approx(-1 / 3)
    assert measure.mean_cosine(vectors, np.array([2.0, 0])) == pytest.approx(0)
    assert np.isnan(measure.mutual_cosine(vectors[:1]))
    assert np.isnan(measure.mean_cosine(vectors[:0], vectors[0]))
