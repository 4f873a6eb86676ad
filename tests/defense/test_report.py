"""The report: its numbers against plain NumPy, and a page that is whole, escaped and closed."""

import csv
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

from subsel.defense import EPIC, distinct, last_layer_gradients, report, train, train_afresh
from subsel.defense.duplicates import duplicate_groups
from subsel.defense.evidence import label_probabilities, of_logits
from subsel.defense.train import main

N, C = 150, 3


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    x = torch.rand(N, 1, 5, 5, generator=generator) / 2 + y[:, None, None, None] / 4
    x[30] = x[0] + 1e-4  # a near-duplicate of its class
    return x, y


DATA = make_data()


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 6), nn.ReLU(), nn.Linear(6, C))


@pytest.fixture(scope="module")
def result():
    epic = EPIC(subset_size=0.3, warmup=1, interval=1)
    settings = {"epochs": 4, "lr": 0.05, "batch_size": 32, "progress": False}
    return train(make_net(), DATA, defense=epic, **settings)


@pytest.fixture(scope="module")
def found(result):
    return report(result, DATA, classes=["cat", "<b>dog", "owl"], known=[3, 4])


class TestEvidence:
    def test_against_numpy(self):
        g, y = last_layer_gradients(make_net(), DATA)
        epic = EPIC(N, subset_size=0.3, warmup=0, interval=1, min_cluster_size=4)
        entry = epic.prune(g, y, 0)
        assert len(entry.dropped) > 10
        sizes = dict(zip(entry.medoids.tolist(), entry.sizes.tolist(), strict=True))
        for place, i in enumerate(entry.dropped.tolist()):
            facts = {name: values[place] for name, values in entry.evidence.items()}
            distances = np.where(y == y[i], np.linalg.norm(g - g[i], axis=1), np.inf)
            distances[i] = np.inf
            assert facts["neighbour"] == distances.argmin()
            assert facts["neighbour_distance"] == pytest.approx(distances.min(), abs=1e-6)
            assert facts["probability"] == pytest.approx(1 + g[i, y[i]], abs=1e-6)
            own = min(sizes, key=lambda m: np.linalg.norm(g[m] - g[i]) if y[m] == y[i] else 9e9)
            assert facts["cluster_size"] == sizes[own] < 4
            assert facts["medoid_distance"] == pytest.approx(
                np.linalg.norm(g[own] - g[i]), abs=1e-6
            )

    @pytest.mark.parametrize("spoil", ["scaled", "moved", "mirrored", "no such class"])
    def test_probabilities_only_of_gradients_of_logits(self, spoil):
        p = np.random.default_rng(0).dirichlet(np.ones(4), 9)
        y = np.arange(9) % 4
        g = p - np.eye(4)[y]
        for kind in (np.float64, np.float32, np.float16):  # half precision, given as float32
            rounded = (p.astype(kind) - np.eye(4, dtype=kind)[y]).astype(np.float32)
            np.testing.assert_allclose(label_probabilities(rounded, y), p[range(9), y], atol=1e-3)
        if spoil == "scaled":
            g = 4 * g
        elif spoil == "moved":
            g = g + 0.02
        elif spoil == "mirrored":
            g = -g
        else:
            y = y + 1
        assert not of_logits(torch.tensor(g), y)
        with pytest.raises(ValueError, match=r"logits|must be in 0\.\.3"):
            label_probabilities(g, y)

    def test_is_saved_and_goes_to_json(self):
        epic = EPIC(N, subset_size=0.3, warmup=0, interval=1)
        wrt_input = last_layer_gradients(make_net(), DATA, wrt="input")
        entry = epic.prune(*wrt_input, 0)
        assert np.isnan(entry.evidence["probability"]).all()
        again = EPIC(N, subset_size=0.3, warmup=0, interval=1)
        again.load_state_dict(epic.state_dict())
        plain = json.loads(json.dumps(entry.to_dict(), allow_nan=False))
        assert plain == json.loads(json.dumps(again.history[0].to_dict()))
        assert plain["evidence"]["probability"] == [None] * len(entry.dropped)
        assert plain["dropped"] == entry.dropped.tolist()


def test_the_loss_of_a_sure_label_is_0_and_not_minus_0():
    epic = EPIC(N, subset_size=0.3, warmup=0, interval=1)
    epic.prune(*last_layer_gradients(make_net(), DATA), 0)
    epic.history[0].evidence["probability"][:] = 1
    losses = [row["loss"] for row in report(epic, DATA).rows() if row["loss"] is not None]
    assert losses
    assert {str(loss) for loss in losses} == {"0.0"}


class TestDuplicates:
    def test_groups_and_what_is_left(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(40, 3)), np.arange(40) % 2
        x[[10, 20]] = x[4] + 1e-6
        x[7] = x[4]  # of the other class
        x[31] = x[1]
        groups = [group.tolist() for group in duplicate_groups(x, y)]
        assert groups == [[4, 10, 20], [1, 31]]
        assert np.setdiff1d(np.arange(40), distinct(x, y)).tolist() == [10, 20, 31]
        assert distinct(torch.tensor(x), torch.tensor(y)).tolist() == distinct(x, y).tolist()

    def test_blocks_change_nothing(self, monkeypatch):
        x = np.random.default_rng(0).normal(size=(60, 2))
        whole = distinct(x, np.zeros(60, int), near=2.0)
        monkeypatch.setattr("subsel.defense.duplicates.BLOCK", 70)
        monkeypatch.setattr("subsel.defense.evidence.BLOCK", 70)
        assert distinct(x, np.zeros(60, int), near=2.0).tolist() == whole.tolist()
        assert 1 < len(whole) < 50

    def test_refuses(self):
        with pytest.raises(ValueError, match="near must be greater than 0"):
            distinct(np.zeros((3, 1)), np.zeros(3, int), near=0)
        with pytest.raises(ValueError, match=r"labels must be \(3,\) as inputs"):
            distinct(np.zeros((3, 1)), np.zeros(2, int))
        with pytest.raises(ValueError, match=r"at least 2-D, got \(3,\)"):
            distinct(np.zeros(3), np.zeros(3, int))
        with pytest.raises(ValueError, match="inputs must be finite"):
            distinct(np.full((3, 1), np.nan), np.zeros(3, int))
        assert distinct(np.zeros((3, 1)), np.arange(3)).tolist() == [0, 1, 2]


class TestTable:
    def test_a_row_for_each_example(self, result, found):
        rows = sorted(found.rows(), key=lambda row: row["index"])
        assert [row["index"] for row in rows] == list(range(N))
        assert [row["kept"] for row in rows] == np.isin(np.arange(N), result.kept).tolist()
        when = {int(i): r.epoch for r in result.defense.history for i in r.dropped}
        assert [row["round"] for row in rows] == [when.get(i) for i in range(N)]
        with torch.no_grad():
            logits = result.model(DATA[0])
        losses = nn.functional.cross_entropy(logits, DATA[1], reduction="none")
        np.testing.assert_allclose([row["loss_now"] for row in rows], losses, rtol=1e-5)
        assert [row["predicted"] for row in rows] == [
            ["cat", "<b>dog", "owl"][c] for c in logits.argmax(1)
        ]
        assert [row["class"] for row in rows[:3]] == ["cat", "<b>dog", "owl"]
        assert [row["known"] for row in rows[:5]] == [False, False, False, True, True]
        assert rows[0]["copies"] == rows[30]["copies"] == 2

    def test_the_most_suspicious_come_first(self, found):
        rows = found.rows()
        dropped = [row for row in rows if row["round"] is not None]
        assert rows[: len(dropped)] == dropped
        risen = [row["loss_now"] - row["loss"] for row in dropped]
        assert risen == sorted(risen, reverse=True)
        assert risen[0] > risen[-1]
        losses = [row["loss_now"] for row in rows[len(dropped) :]]
        assert losses == sorted(losses, reverse=True)
        assert [row["rank"] for row in rows] == list(range(1, N + 1))
        for row in dropped:
            assert row["loss"] == pytest.approx(-np.log(row["probability"]), rel=1e-6)

    def test_of_an_epic_alone(self, result):
        bare = report(result.defense)
        assert "loss_now" not in bare.columns
        alone = [row["neighbour_distance"] for row in bare.rows() if not row["kept"]]
        assert alone == sorted(alone, reverse=True)
        assert "copies" not in bare.columns
        assert len(bare) == N
        assert repr(bare) == f"Report({N} examples, {N - len(result.kept)} dropped, 3 rounds)"

    def test_what_came_back_is_kept(self):
        epic = EPIC(subset_size=0.4, warmup=1, interval=1, stop=3)
        afresh = train_afresh(make_net(), DATA, defense=epic, epochs=3, lr=0.05, progress=False)
        rows = report(afresh, DATA).rows()
        assert any(row["kept"] and row["round"] is not None for row in rows)
        assert sum(row["kept"] for row in rows) == len(afresh.kept)

    def test_files(self, found, tmp_path):
        found.to_csv(tmp_path / "report.csv")
        with (tmp_path / "report.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(found.columns)
        assert [int(row["index"]) for row in rows] == found.columns["index"]
        assert rows[-1]["round"] == ""
        found.to_json(tmp_path / "report.json")
        plain = json.loads((tmp_path / "report.json").read_text())
        assert plain["examples"][0] == found.rows()[0]
        assert plain["near_duplicates"] == [[0, 30]]

    def test_a_frame(self, found, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="needs pandas"):
            found.to_frame()
        monkeypatch.undo()
        pytest.importorskip("pandas")
        frame = found.to_frame()
        assert frame.shape == (N, len(found.columns))
        assert frame["index"].tolist() == found.columns["index"]

    def test_refuses(self, result):
        undefended = train(make_net(), DATA, epochs=1, progress=False)
        with pytest.raises(TypeError, match="got a result without a defense"):
            report(undefended)
        with pytest.raises(TypeError, match="got str"):
            report("run.pt")
        with pytest.raises(ValueError, match="classes must name the 3 classes"):
            report(result, classes=["cat"])
        with pytest.raises(ValueError, match="ids must be 150"):
            report(result, ids=["a"])
        with pytest.raises(ValueError, match="data must have the 150 examples of the run, got 9"):
            report(result, (DATA[0][:9], DATA[1][:9]))


class Page(HTMLParser):
    """What a browser would make of it: open elements, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag


class TestPage:
    def test_is_whole_and_needs_nothing_else(self, found, tmp_path):
        found.to_html(tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text()
        page = Page(text)
        assert page.open == []
        assert "script" not in page.tags
        assert page.links
        assert all(link.startswith("data:image/png;base64,") for link in page.links)
        assert "http" not in re.sub(r"base64,[^\"]*", "", text)
        assert "most of what EPIC drops is harmless" in " ".join(text.split())

    def test_names_are_text(self, result, tmp_path):
        ids = [f'"><script>alert({i})</script>.png' for i in range(N)]
        found = report(result, DATA, ids=ids, classes=["<img src=x>", "b", "c"])
        found.to_html(tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text()
        assert "<script" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(" in text

    def test_without_images_rounds_or_data(self, result, tmp_path):
        flat = DATA[0].flatten(1)
        net = nn.Sequential(nn.Unflatten(1, (1, 5, 5)), result.model)
        for found in (
            report(result.defense),
            report(EPIC(4, warmup=1, interval=1)),
            report(result.defense, (flat, DATA[1]), model=net),
        ):
            found.to_html(tmp_path / "report.html")
            page = Page((tmp_path / "report.html").read_text())
            assert page.open == []
            assert "img" not in page.tags

    @pytest.mark.parametrize("kind", ["uint8", "standardized", "colour"])
    def test_pictures_of_any_kind(self, result, kind, tmp_path):
        x = DATA[0]
        if kind == "uint8":
            x = (x * 200).to(torch.uint8)
        elif kind == "standardized":
            x = (x - 0.5) * 4
        else:
            x = x.repeat(1, 3, 1, 1)

        class Grey(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = result.model

            def forward(self, x):
                return self.net(x.float()[:, :1])

        found = report(result.defense, (x, DATA[1]), model=Grey())
        found.to_html(tmp_path / "report.html")
        assert "img" in Page((tmp_path / "report.html").read_text()).tags


def test_from_the_shell(tmp_path, capsys):
    pytest.importorskip("sklearn")
    arguments = ["--dataset", "digits", "--epochs", "3", "--warmup", "1", "--interval", "1"]
    arguments += ["--device", "cpu", "--batch-size", "256", "--out", str(tmp_path / "run")]
    path = tmp_path / "report.html"
    with pytest.raises(SystemExit):
        main([*arguments, "--no-defense", "--report", str(path)])
    with pytest.raises(SystemExit):
        main([*arguments, "--report", str(tmp_path / "nowhere" / "report.html")])
    assert "there is no folder" in capsys.readouterr().err
    assert main([*arguments, "--report", str(path)]) == 0
    assert f"written: {path}" in capsys.readouterr().out
    assert "img" in Page(path.read_text()).tags
