"""Scores of other defenses against plain loops, and the audit that is made of them."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from subsel.defense import EPIC, DefenseWarning, audit, last_layer_gradients, scores, train

N, C = 120, 3


def make_data():
    rng = np.random.default_rng(0)
    y = np.arange(N) % C
    x = rng.normal(size=(N, 1, 4, 4)) * 0.3
    x += (np.eye(C)[y] @ rng.normal(size=(C, 16))).reshape(N, 1, 4, 4)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


DATA = make_data()
WRONG = [7, 50, 93]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, C))
    return train(net, DATA, epochs=8, lr=0.1, batch_size=32, progress=False).model


@pytest.fixture(scope="module")
def mislabelled():
    labels = DATA[1].clone()
    labels[WRONG] = (labels[WRONG] + 1) % C
    return DATA[0], labels


class TestScores:
    def test_deep_knn(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(30, 2)), rng.integers(0, 3, 30)
        found = scores.deep_knn(x, y, neighbours=4)
        for i in range(30):
            distances = np.linalg.norm(x - x[i], axis=1)
            nearest = np.delete(np.argsort(distances, kind="stable"), 0)[:4]
            assert found[i] == np.mean(y[nearest] != y[i])
        assert scores.deep_knn(x, y, neighbours=99).tolist() == [
            np.sum(y != label) / 29 for label in y
        ]
        assert scores.deep_knn(x[:1], y[:1], neighbours=3).tolist() == [0]

    def test_deep_knn_of_copies(self):
        """An example is not its own neighbour, also where copies of it are as near as itself."""
        copies = np.zeros((40, 3))
        assert (scores.deep_knn(copies, np.arange(40), neighbours=3) == 1).all()
        assert (scores.deep_knn(copies, np.zeros(40, int), neighbours=3) == 0).all()

    def test_deep_knn_without_a_number_takes_a_quarter_of_the_class(self):
        rng = np.random.default_rng(3)
        y = np.repeat([0, 1, 2], [40, 20, 3])
        x = rng.normal(size=(63, 4)) + y[:, None]
        distances = np.linalg.norm(x[:, None] - x, axis=2)
        np.fill_diagonal(distances, np.inf)
        for found, label, own in zip(scores.deep_knn(x, y), y, distances, strict=True):
            nearest = np.argsort(own)[: {0: 10, 1: 5, 2: 1}[label]]
            assert found == pytest.approx((y[nearest] != label).mean())

    def test_spectral_signatures(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
        found = scores.spectral_signatures(x, y)
        for label in (0, 1):
            own = x[y == label] - x[y == label].mean(0)
            first = np.linalg.eigh(own.T @ own)[1][:, -1]
            np.testing.assert_allclose(found[y == label], (own @ first) ** 2, rtol=1e-9, atol=1e-12)

    def test_activation_clustering(self):
        pytest.importorskip("sklearn")
        rng = np.random.default_rng(0)
        x, y = rng.normal(0, 0.1, (41, 4)), np.append(np.arange(40) % 2, 2)
        x[[1, 3, 5, 10]] += 5
        found = scores.activation_clustering(x, y)
        assert set(np.flatnonzero(found * (y == 1)).tolist()) == {1, 3, 5}
        assert found[10] == 1
        assert found[40] == 0  # a class of its own

    def test_refuse(self):
        for of in (
            lambda x, y: scores.deep_knn(x, y, neighbours=1),
            scores.spectral_signatures,
            scores.activation_clustering,
        ):
            if of is scores.activation_clustering:
                pytest.importorskip("sklearn")
            with pytest.raises(ValueError, match=r"features must be \(n, e\), got \(3,\)"):
                of(np.zeros(3), np.zeros(3, int))
            with pytest.raises(ValueError, match="features must be finite floats"):
                of(np.full((3, 1), np.nan), np.zeros(3, int))
            with pytest.raises(ValueError, match=r"labels must be integers \(3,\)"):
                of(np.zeros((3, 1)), np.zeros(2, int))


class TestAudit:
    def test_finds_wrong_labels(self, model, mislabelled):
        found = audit(model, mislabelled, classes=["a", "b", "c"], known=WRONG)
        rows = found.rows()
        assert {row["index"] for row in rows[:3]} == set(WRONG)
        assert all(row["known"] for row in rows[:3])
        assert all(row["deep_knn"] > 0.5 for row in rows[:3])
        values = found.columns["suspicion"]
        assert values == sorted(values, reverse=True)
        assert 0 <= min(values) <= max(values) <= 1

    def test_isolated_is_what_a_round_would_drop(self, model, mislabelled):
        epic = EPIC(N, subset_size=0.2, warmup=0, interval=1)
        dropped = epic.prune(*last_layer_gradients(model, mislabelled), 0).dropped
        rows = audit(model, mislabelled, subset_size=0.2).rows()
        isolated = {row["index"] for row in rows if row["isolated"]}
        assert isolated == set(dropped.tolist())
        for row in rows:
            assert (row["neighbour_distance"] is not None) == row["isolated"]

    def test_trains_and_drops_nothing(self, model, mislabelled):
        before = [p.clone() for p in model.parameters()]
        found = audit(model, mislabelled)
        assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
        assert found.kept() == [True] * N
        assert not {"kept", "round", "probability"} & set(found.columns)

    def test_is_the_same_again_and_without_scikit_learn(self, model, mislabelled, monkeypatch):
        assert audit(model, mislabelled).columns == audit(model, mislabelled).columns
        monkeypatch.setattr("subsel.defense.auditing.find_spec", lambda name: None)
        assert "clustering" not in audit(model, mislabelled).columns

    def test_says_of_small_classes_and_of_no_round(self):
        x, y = DATA[0][:60].repeat(2, 1, 1, 1).flatten(1), DATA[1][:60].repeat(2)
        with warnings.catch_warnings(record=True) as got:
            warnings.simplefilter("always", DefenseWarning)
            audit(nn.Linear(16, C), (x, y))
        (one,) = got
        assert str(one.message).startswith("3 of 3 classes have fewer than 50 examples")

    def test_files(self, model, mislabelled, tmp_path):
        found = audit(model, mislabelled, known=WRONG)
        found.to_html(tmp_path / "audit.html")
        text = (tmp_path / "audit.html").read_text()
        assert "What the audit found" in text
        assert "data:image/png;base64," in text
        assert "ropped before epoch" not in text
        found.to_json(tmp_path / "audit.json")
        assert json.loads((tmp_path / "audit.json").read_text())["examples"] == found.rows()
        found.to_csv(tmp_path / "audit.csv")
        assert repr(found) == f"Report({N} examples, {sum(found.flagged())} isolated)"
