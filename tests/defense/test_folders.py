"""Images in folders and tables, and models by name."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from libraries import library
from PIL import Image
from torch import nn

from subsel.cli import main as command
from subsel.defense import EPIC, train
from subsel.defense.folders import find_images, load_folder
from subsel.defense.models import Normalize, build
from subsel.defense.train import main


def fill(root, classes=("cat", "dog"), count=10, shape=(12, 9), start=0):
    for c, name in enumerate(classes):
        (root / name / "deep").mkdir(parents=True)
        for i in range(count):
            shade = (100 * c + i + start, 0, 50)
            folder = root / name / ("deep" if i == 3 else "")
            Image.new("RGB", shape, shade).save(folder / f"{i:02}.png")
        (root / name / "notes.txt").write_text("no image")
    return root


class TestFolders:
    def test_each_tenth_of_a_class_is_held_out(self, tmp_path):
        data = load_folder(fill(tmp_path / "animals", count=21), size=8)
        assert data.classes == ("cat", "dog")
        assert data.train_images.shape == (38, 3, 8, 8)
        assert np.bincount(data.test_labels).tolist() == [2, 2]
        assert data.train_labels.tolist() == [0] * 19 + [1] * 19
        reds = data.train_images[:19, 0, 0, 0].tolist()
        held = data.test_images[:2, 0, 0, 0].tolist()
        assert sorted(reds + held) == list(range(21))
        assert held == [10, 20]  # number 3 lies in a folder of its own and comes last
        np.testing.assert_allclose(data.mean[1:], [0, 50 / 255], atol=1e-6)

    @pytest.mark.parametrize("name", ["val", "test"])
    def test_or_is_in_a_folder_of_its_own(self, tmp_path, name):
        fill(tmp_path / "train", count=3)
        fill(tmp_path / name, count=2, start=40)
        data = load_folder(tmp_path, size=8)
        assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.test_images[:, 0, 0, 0].tolist() == [40, 41, 140, 141]

    def test_held_out_images_of_an_unknown_class(self, tmp_path):
        fill(tmp_path / "train", count=3)
        fill(tmp_path / "val", classes=("owl",), count=1)
        with pytest.raises(ValueError, match=r"val has the class 'owl', which is not one of"):
            load_folder(tmp_path)

    def test_a_table_of_paths_and_labels(self, tmp_path):
        fill(tmp_path / "images", count=3)
        table = tmp_path / "images.csv"
        table.write_text("id,label,path\n7,dog,images/dog/01.png\n8,cat,images/cat/00.png\n")
        found = find_images(table)
        assert found.classes == ("cat", "dog")
        assert found.labels.tolist() == [1, 0]
        assert [path.name for path in found.paths] == ["01.png", "00.png"]
        table.write_text("label,path\ncat,images/none.png\n")
        with pytest.raises(FileNotFoundError, match=r"none\.png, which is not there"):
            find_images(table)
        table.write_text("class,file\n")
        with pytest.raises(ValueError, match="must have the columns path and label"):
            find_images(table)
        table.write_text("path,label\nimages/dog/01.png,dog\nimages/cat/00.png\n")
        with pytest.raises(ValueError, match=r"no path or no label in row 2"):
            find_images(table)
        table.write_bytes(b"path,label\n\xff\xfe,1\n")
        with pytest.raises(ValueError, match="cannot be read as CSV"):
            find_images(table)

    def test_a_parquet_file_is_a_table_too(self, tmp_path, monkeypatch):
        parquet = pytest.importorskip("pyarrow.parquet")
        from pyarrow import table as arrow

        fill(tmp_path / "images", count=3)
        path, rows = tmp_path / "images.parquet", ["images/dog/01.png", "images/cat/00.png"]
        parquet.write_table(arrow({"path": rows, "label": ["dog", "cat"], "more": [1, 2]}), path)
        found = find_images(path)
        assert found.classes == ("cat", "dog")
        assert [image.name for image in found.paths] == ["01.png", "00.png"]
        parquet.write_table(arrow({"path": rows, "label": ["dog", None]}), path)
        with pytest.raises(ValueError, match="no path or no label in row 2"):
            find_images(path)
        parquet.write_table(arrow({"file": rows}), path)
        with pytest.raises(ValueError, match=r"must have the columns path and label, .*'file'"):
            find_images(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"images\.parquet cannot be read as Parquet"):
            find_images(path)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"pip install \"subsel\[tables\]\""):
            find_images(path)

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_labels_that_are_numbers_are_in_their_order(self, tmp_path, kind):
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        fill(tmp_path, count=3)
        rows = {"path": ["cat/00.png", "cat/01.png", "dog/00.png"], "label": [10, 2, 9]}
        write = getattr(pandas.DataFrame(rows), f"to_{kind}")
        write(tmp_path / f"t.{kind}", index=False)
        found = find_images(tmp_path / f"t.{kind}")
        assert found.classes == ("2", "9", "10")
        assert found.labels.tolist() == [2, 0, 1]

    def test_decoded_in_processes(self, tmp_path):
        fill(tmp_path / "images", count=11)
        state = torch.get_rng_state()
        usual, other = (load_folder(tmp_path / "images", size=8, workers=w) for w in (0, 2))
        np.testing.assert_array_equal(usual.train_images, other.train_images)
        np.testing.assert_array_equal(usual.test_images, other.test_images)
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(ValueError, match="workers must be"):
            load_folder(tmp_path / "images", workers=-1)

    def test_modes_and_shapes(self, tmp_path):
        folder = tmp_path / "one"
        folder.mkdir()
        for i, mode in enumerate(["L", "RGBA", "P", "1", "RGB", "L", "L", "L", "L", "L"]):
            Image.new(mode, (5 + i, 30 - i)).save(folder / f"{i}.png")
        assert load_folder(tmp_path, size=8).train_images.shape == (9, 3, 8, 8)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_what_is_no_image_is_named(self, tmp_path, workers):
        fill(tmp_path, count=10)
        (tmp_path / "cat" / "00.png").write_bytes(b"\x89PNG broken")
        with pytest.raises(ValueError, match=r"^\S*cat/00\.png cannot be read as an image.*$"):
            load_folder(tmp_path, workers=workers)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match="does not exist: give a folder of images, or a table"
        ):
            load_folder(tmp_path / "none")
        with pytest.raises(ValueError, match="has no images: it must be a folder that has"):
            load_folder(tmp_path)
        fill(tmp_path, count=9)
        with pytest.raises(ValueError, match="has no class with 10 images"):
            load_folder(tmp_path)


SHAPE = (3, (3, 8, 8), [0.5] * 3, [0.2] * 3)


class TestModels:
    def test_a_function_of_ones_own(self, monkeypatch):
        own = types.ModuleType("own_models")
        own.net = lambda n, size, mean, std: nn.Sequential(
            Normalize(mean, std), nn.Flatten(), nn.Linear(192, n)
        )
        own.fewer = lambda n, *given: own.net(n - 1, *given)
        own.other = lambda *given: given
        monkeypatch.setitem(sys.modules, "own_models", own)
        assert build("own_models:net", *SHAPE)(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
        with pytest.raises(ValueError, match=r"must return an nn\.Module, got tuple"):
            build("own_models:other", *SHAPE)
        with pytest.raises(
            ValueError, match=r"must make logits \(2, 3\) of 2 images, got \(2, 2\)"
        ):
            build("own_models:fewer", *SHAPE)
        with pytest.raises(
            ValueError, match=r"cannot take images of 3 x 9 x 9 pixels: RuntimeError"
        ):
            build("own_models:net", 3, (3, 9, 9), *SHAPE[2:])
        with pytest.raises(ValueError, match=r"own_models has no function 'none'"):
            build("own_models:none", *SHAPE)
        with pytest.raises(ImportError, match="no_such_module is not installed"):
            build("no_such_module:net", *SHAPE)
        for name in ("resnet", ":", "timm:", ":net"):
            with pytest.raises(ValueError, match=r"must be one of tiny-cnn, .*module:function"):
                build(name, *SHAPE)

    def test_of_timm(self):
        library("timm")
        net = build("timm:test_resnet", *SHAPE)
        assert isinstance(net[0], Normalize)
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
        with pytest.raises(ValueError, match="timm has no model 'no_such'"):
            build("timm:no_such", *SHAPE)

    def test_a_module_in_the_current_folder(self, tmp_path, monkeypatch):
        (tmp_path / "here.py").write_text("from subsel.defense.models import tiny_cnn as net")
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(tmp_path)
        assert build("here:net", *SHAPE)(torch.zeros(2, 3, 8, 8)).shape == (2, 3)

    def test_a_library_that_does_not_fit(self, monkeypatch):
        def broken(name):
            raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setattr("subsel.defense.models.import_module", broken)
        with pytest.raises(ImportError, match=r"timm:test: timm cannot be imported: operator"):
            build("timm:test", *SHAPE)

    def test_of_torchvision(self):
        library("torchvision")
        net = build("torchvision:shufflenet_v2_x0_5", *SHAPE)
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_timm_and_an_image_folder_that_augments(tmp_path):
    """What docs/training.md shows, and resuming it."""
    timm = library("timm")
    datasets = library("torchvision.datasets")
    from torchvision import transforms

    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * c
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"images/{name}/{i}.png")

    plain = transforms.ToTensor()
    augmenting = transforms.Compose([transforms.RandomHorizontalFlip(), plain])

    def fit(epochs, **changes):
        torch.manual_seed(0)
        return train(
            timm.create_model("test_resnet", num_classes=2),
            datasets.ImageFolder(tmp_path / "images", augmenting),
            clean_view=datasets.ImageFolder(tmp_path / "images", plain),
            defense=EPIC(subset_size=0.4, warmup=1, interval=1),
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
            epochs=epochs,
            batch_size=8,
            progress=False,
            **changes,
        )

    whole = fit(3)
    assert len(whole.defense.history) == 2
    fit(2, checkpoint=tmp_path / "run.pt")
    resumed = fit(3, resume=tmp_path / "run.pt")
    np.testing.assert_array_equal(whole.kept, resumed.kept)
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_from_the_shell(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 100, (8, 8, 3)) + 100 * c
            path = tmp_path / "images" / name / f"{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    arguments = ["--data", str(tmp_path / "images"), "--size", "8", "--model", "tiny-cnn"]
    arguments += ["--epochs", "2", "--warmup", "0", "--interval", "1", "--device", "cpu"]
    arguments += ["--subset-size", "0.4"]
    page = tmp_path / "report.html"
    train = [*arguments, "--workers", "1", "--out", str(tmp_path / "run")]
    assert main([*train, "--report", str(page)]) == 0
    assert str(tmp_path / "images" / "cat") in page.read_text()
    assert len(np.load(tmp_path / "run" / "kept.npy")) <= 36
    assert "dropped: " in capsys.readouterr().out
    audit = ["audit", *arguments[:6], "--weights", str(tmp_path / "run" / "checkpoint.pt")]
    assert (
        command([*audit, "--html", str(tmp_path / "a.html"), "--csv", str(tmp_path / "a.csv")]) == 0
    )
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        f"written: {tmp_path / 'a.html'}",
        f"written: {tmp_path / 'a.csv'}",
        "the most suspicious:",
    ]
    assert len(told) == 13
    assert all(Path(line.split()[1]).is_file() for line in told[3:])
    assert "What the audit found" in (tmp_path / "a.html").read_text()
    with pytest.raises(SystemExit):
        command([*audit, "--html", str(tmp_path / "none" / "a.html")])
    with pytest.raises(SystemExit):
        command([*audit, "--weights", str(tmp_path / "none.pt")])
    capsys.readouterr()
    assert main([*arguments, "--model", "none", "--out", str(tmp_path / "other")]) == 1
    assert "the model must be one of tiny-cnn" in capsys.readouterr().err
    for device, said in (("cuda:99", "is not available"), ("gpu", 'must be "cpu"')):
        assert command([*audit, "--device", device]) == 1
        assert said in capsys.readouterr().err
    for wrong in (["--dataset", "digits"], ["--download"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong, "--out", str(tmp_path / "other")])
    for wrong in ("--size", "--workers"):
        with pytest.raises(SystemExit):
            main(["--dataset", "digits", wrong, "8", "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit):
        command(["audit", "--dataset", "digits", "--workers", "1", *audit[-2:]])
