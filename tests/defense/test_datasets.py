"""The readers of image sets, on tiny files made here."""

import gzip
import hashlib
import http.client
import io
import pickle
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("torch")
from subsel.defense import datasets


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion():
    """Content of the four files: 6 training and 3 test images of 4 x 5 pixels."""
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (6, 4, 5)),
        "train-labels-idx1-ubyte": np.arange(6),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 4, 5)),
        "t10k-labels-idx1-ubyte": np.array([9, 8, 7]),
    }


def write_fashion(folder, arrays, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        raw = idx(array)
        path = folder / (f"{name}.gz" if gz else name)
        path.write_bytes(gzip.compress(raw) if gz else raw)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No system package, an empty cache, and no network."""
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(url, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("gz", [False, True])
def test_fashion_mnist_reads_what_the_files_hold(tmp_path, fashion, gz):
    write_fashion(tmp_path, fashion, gz)
    data = datasets.load("fashion-mnist", tmp_path)
    assert data.train_images.dtype == np.uint8
    assert data.train_images.flags.writeable
    np.testing.assert_array_equal(data.train_images[:, 0], fashion["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_images[:, 0], fashion["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_labels, [9, 8, 7])
    assert data.train_labels.dtype == np.int64
    assert data.classes[9] == "Ankle boot"
    scaled = data.train_images / 255
    np.testing.assert_allclose(data.mean, scaled.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, scaled.std((0, 2, 3)), rtol=1e-6)


def test_the_system_package_comes_before_the_cache(tmp_path, fashion):
    write_fashion(tmp_path / "cache" / "subsel" / "fashion-mnist", fashion)
    assert datasets.load("fashion-mnist").train_labels[0] == 0
    fashion["train-labels-idx1-ubyte"] = np.full(6, 5)
    write_fashion(tmp_path / "debian", fashion, gz=True)
    assert datasets.load("fashion-mnist").train_labels[0] == 5


def test_a_machine_without_a_home(tmp_path, fashion, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(datasets.Path, "home", home)
    with pytest.raises(FileNotFoundError, match=r"no home folder.*data_dir"):
        datasets.load("cifar10")
    write_fashion(tmp_path / "debian", fashion)
    assert datasets.load("fashion-mnist").train_labels[0] == 0


def test_a_given_folder_is_the_only_one_looked_in(tmp_path, fashion):
    write_fashion(tmp_path / "debian", fashion)
    with pytest.raises(FileNotFoundError, match=r"elsewhere: .*apt-get install"):
        datasets.load("fashion-mnist", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"\0", "truncated"),
        (lambda raw: b"PNG!" + raw, "not an IDX"),
        (lambda raw: b"", "not an IDX"),
        (lambda raw: b"\0\0\x08\x03", "not an IDX"),
    ],
)
def test_damaged_idx(tmp_path, fashion, damage, message):
    write_fashion(tmp_path, fashion)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        datasets.load("fashion-mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: b"xx" + raw])
def test_damaged_gzip(tmp_path, fashion, damage):
    write_fashion(tmp_path, fashion, gz=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"t10k-images.*corrupt or truncated"):
        datasets.load("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"), [(np.arange(5), "do not fit"), (np.full(6, 10), "label 10 is outside")]
)
def test_labels_that_do_not_fit(tmp_path, fashion, labels, message):
    fashion["train-labels-idx1-ubyte"] = labels
    write_fashion(tmp_path, fashion)
    with pytest.raises(ValueError, match=message):
        datasets.load("fashion-mnist", tmp_path)


class Response(io.BytesIO):
    def __init__(self, raw):
        super().__init__(raw)
        self.headers = {"Content-Length": str(len(raw))}


def test_download_checks_and_caches(tmp_path, fashion, monkeypatch):
    files = {f"{name}.gz": gzip.compress(idx(array)) for name, array in fashion.items()}
    sums = {name[:-3]: hashlib.md5(raw).hexdigest() for name, raw in files.items()}
    monkeypatch.setattr(datasets, "FASHION_FILES", sums)
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return Response(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    data = datasets.load("fashion-mnist", download=True)
    np.testing.assert_array_equal(data.train_images[:, 0], fashion["train-images-idx3-ubyte"])
    assert datasets.load("fashion-mnist", download=True).test_labels[0] == 9
    assert len(asked) == 4


def test_a_download_with_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Response(b"a login page"))
    with pytest.raises(FileNotFoundError, match=r"MD5.*apt-get install"):
        datasets.load("fashion-mnist", tmp_path / "here", download=True)
    assert list((tmp_path / "here").iterdir()) == []


class Endless(Response):
    """A server that never stops sending."""

    def __init__(self):
        super().__init__(b"")
        self.headers = {"Content-Length": "some"}

    def read(self, n):
        return bytes(n)


class Broken(Response):
    def read(self, n):
        raise http.client.IncompleteRead(b"")


@pytest.mark.parametrize(
    ("response", "message"),
    [(Endless(), "larger than 1000000 bytes"), (Broken(b"x"), "IncompleteRead")],
)
def test_a_download_that_does_not_end_well(tmp_path, monkeypatch, response, message):
    monkeypatch.setattr(datasets, "LARGEST_DOWNLOAD", 1_000_000)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: response)
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("cifar10", tmp_path / "here", download=True)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_no_network_is_said_in_one_sentence(name):
    with pytest.raises(FileNotFoundError, match=r"no network in tests.*--data-dir") as caught:
        datasets.load(name, download=True)
    assert "\n" not in str(caught.value)


def test_without_download_the_network_is_not_asked():
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .*download=True"):
        datasets.load("cifar10")


@pytest.fixture
def cifar(monkeypatch):
    """Images and labels of six batches of two records."""
    monkeypatch.setattr(datasets, "CIFAR_BATCH_SIZE", 2)
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (12, 3072), dtype=np.uint8), rng.integers(0, 10, 12)


def cifar_batches(cifar, kind):
    images, labels = cifar
    for i, stem in enumerate(datasets.CIFAR_BATCHES):
        pixels, own = images[2 * i : 2 * i + 2], labels[2 * i : 2 * i + 2]
        if kind == "bin":
            records = np.concatenate([own[:, None].astype(np.uint8), pixels], axis=1)
            yield f"{stem}.bin", records.tobytes()
        else:
            batch = {b"data": pixels, b"labels": own.tolist(), b"filenames": [b"a.png", b"b.png"]}
            yield stem, pickle.dumps(batch, protocol=2)


def write_cifar(folder, cifar, kind, packed):
    folder.mkdir(parents=True, exist_ok=True)
    inner = {"bin": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}[kind]
    if not packed:
        (folder / inner).mkdir()
        for name, raw in cifar_batches(cifar, kind):
            (folder / inner / name).write_bytes(raw)
        return
    archive = {"bin": "cifar-10-binary.tar.gz", "python": "cifar-10-python.tar.gz"}[kind]
    with tarfile.open(folder / archive, "w:gz") as tar:
        for name, raw in cifar_batches(cifar, kind):
            member = tarfile.TarInfo(f"{inner}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))


@pytest.mark.parametrize("kind", ["bin", "python"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_reads_what_the_batches_hold(tmp_path, cifar, kind, packed):
    write_cifar(tmp_path, cifar, kind, packed)
    data = datasets.load("cifar10", tmp_path)
    images, labels = cifar
    assert data.train_images.shape == (10, 3, 32, 32)
    np.testing.assert_array_equal(data.train_images.reshape(10, -1), images[:10])
    np.testing.assert_array_equal(data.test_images.reshape(2, -1), images[10:])
    np.testing.assert_array_equal(data.train_labels, labels[:10])
    np.testing.assert_array_equal(data.test_labels, labels[10:])
    assert data.mean.shape == (3,)


def test_cifar10_may_be_the_folder_itself(tmp_path, cifar):
    write_cifar(tmp_path, cifar, "bin", packed=False)
    data = datasets.load("cifar10", tmp_path / "cifar-10-batches-bin")
    np.testing.assert_array_equal(data.test_labels, cifar[1][10:])


def test_truncated_cifar10_batch(tmp_path, cifar):
    write_cifar(tmp_path, cifar, "bin", packed=False)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is corrupt or truncated"):
        datasets.load("cifar10", tmp_path)


def test_missing_cifar10_batch(tmp_path, cifar):
    write_cifar(tmp_path, cifar, "bin", packed=False)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks test_batch\.bin"):
        datasets.load("cifar10", tmp_path)


def test_truncated_cifar10_archive(tmp_path, cifar):
    write_cifar(tmp_path, cifar, "bin", packed=True)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="corrupt or truncated"):
        datasets.load("cifar10", tmp_path)


class Hostile:
    def __reduce__(self):
        return (print, ("this pickle ran code",))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Hostile(), "print"),
        ([1, 2], "not a CIFAR-10 batch"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, "float64"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
            r"labels must have shape \(2,\), not \(1,\)",
        ),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, -1]}, "label -1 is outside"),
    ],
)
def test_bad_cifar10_pickle(tmp_path, cifar, capsys, batch, message):
    write_cifar(tmp_path, cifar, "python", packed=False)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(ValueError, match=message):
        datasets.load("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


def test_digits_are_split_once_and_for_all():
    pytest.importorskip("sklearn")
    data, again = datasets.load("digits"), datasets.load("digits")
    assert data.train_images.shape == (1397, 1, 8, 8)
    assert data.test_images.shape == (400, 1, 8, 8)
    assert data.train_images.max() == 255
    np.testing.assert_array_equal(data.test_labels, again.test_labels)
    assert np.bincount(data.test_labels).min() > 20


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of .*got \['digits'\]"):
        datasets.load(["digits"])
    with pytest.raises(ValueError, match="digits, fashion-mnist, tiny-imagenet; got 'mnist'"):
        datasets.load("mnist")


# Tiny ImageNet


@pytest.fixture
def tiny(tmp_path):
    """Two classes of two training images, and two validation images; one image is grey."""
    from PIL import Image

    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, carp\nn02\tbullfrog\nn03\tunused\n")
    (root / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    )
    shade = iter(range(0, 240, 40))
    for number in ("n01", "n02"):
        (root / "train" / number / "images").mkdir(parents=True)
        for i in range(2):
            mode = "L" if (number, i) == ("n02", 1) else "RGB"
            colour = next(shade)
            image = Image.new(mode, (64, 64), colour if mode == "L" else (colour, 0, 0))
            image.save(root / "train" / number / "images" / f"{number}_{i}.JPEG")
    for i in range(2):
        Image.new("RGB", (64, 64), (0, next(shade), 0)).save(root / "val/images" / f"val_{i}.JPEG")
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_tiny_imagenet(tiny, inside):
    data = datasets.load("tiny-imagenet", tiny / "tiny-imagenet-200" if inside else tiny)
    assert data.classes == ("goldfish", "bullfrog")
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert data.test_labels.tolist() == [1, 0]
    assert data.train_images.shape == (4, 3, 64, 64)
    np.testing.assert_allclose(data.train_images[:, 0, 5, 5], [0, 40, 80, 120], atol=3)
    np.testing.assert_allclose(data.train_images[3, :, 5, 5], 120, atol=3)
    np.testing.assert_allclose(data.test_images[:, 1, 5, 5], [160, 200], atol=3)


def test_tiny_imagenet_absent_or_broken(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="unpack tiny-imagenet-200"):
        datasets.load("tiny-imagenet", tmp_path / "nowhere")
    (tiny / "tiny-imagenet-200/val/images/val_1.JPEG").write_bytes(b"no image")
    with pytest.raises(ValueError, match="is not an image of 64 x 64"):
        datasets.load("tiny-imagenet", tiny)
