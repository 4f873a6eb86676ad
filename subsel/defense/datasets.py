"""The image sets that the defense and its benchmarks run on, read without torchvision."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import math
import os
import re
import tarfile
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from subsel.defense.allowance import Allowance, TooLargeError
from subsel.defense.fields import check_one_size, whole_numbers
from subsel.defense.unpickling import restricted_load

__all__ = ["ImageData", "image_data", "load"]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

# MD5 sums as the authors publish them, on the pages of the data sets.
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
FASHION_FILES = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR_BINARY = ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
CIFAR_PYTHON = "cifar-10-python.tar.gz"
CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_BATCH_SIZE = 10_000
CIFAR_IMAGE = (3, 32, 32)
TINY_FOLDER, TINY_SIDE = "tiny-imagenet-200", 64

_WORDNET, _FILE_NAME = re.compile("n[0-9]{1,12}"), re.compile(r"[A-Za-z0-9_-]{1,64}\.JPEG")

LARGEST_DOWNLOAD = 1 << 30
LARGEST_TEXT = 4 << 20
LARGEST_ARCHIVE = 100  # members; CIFAR-10's have nine


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image set, split into training and test.

    Attributes
    ----------
    name : str
    train_images, test_images : uint8 arrays (n, channels, height, width)
    train_labels, test_labels : int64 arrays (n,), 0 .. len(classes) - 1
    classes : tuple of str
    mean, std : float32 arrays (channels,), of the training images scaled to [0, 1]
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray


def load(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, download: bool = False
) -> ImageData:
    """Read an image set by name.

    Parameters
    ----------
    name : {"fashion-mnist", "cifar10", "tiny-imagenet", "digits"}
        ``digits`` is scikit-learn's embedded set: 1797 images of 8 x 8, split once and for all
        into 1397 for training and 400 for testing.
    data_dir : path, optional
        The folder with the files: for ``fashion-mnist`` the four IDX files, gzipped or not; for
        ``cifar10`` the binary or the python archive, packed (``.tar.gz``) or unpacked; for
        ``tiny-imagenet`` the unpacked folder ``tiny-imagenet-200``, or the folder that contains it.
        If given, no other folder is searched. By default, ``fashion-mnist`` is searched where the
        Debian and Ubuntu package ``dataset-fashion-mnist`` puts it; then it, and ``cifar10``, in
        the user's cache, ``$XDG_CACHE_HOME/subsel/<name>`` (``~/.cache/subsel/<name>``).
    download : bool, default False
        Download missing files from their authors into ``data_dir`` or the cache. Each file is
        checked against its published MD5 sum before it gets its name. Not for ``tiny-imagenet``.

    Returns
    -------
    ImageData

    Raises
    ------
    FileNotFoundError
        If the data are missing (and could not be downloaded). The message says which folders were
        searched, and how to get the data.
    ValueError
        If the name is unknown; if a file is corrupt, truncated, of another kind, or expands to far
        more than its size explains; or if there are no images, or images of different sizes.
    ImportError
        If scikit-learn is missing for ``digits``, or Pillow for ``tiny-imagenet``.

    Notes
    -----
    The training images of ``tiny-imagenet`` are in the order of their classes' WordNet numbers, and
    of file names within each class. Its validation images, which have labels, are the test set.
    """
    if not isinstance(name, str) or name not in _READERS:
        raise ValueError(f"name must be one of {', '.join(sorted(_READERS))}; got {name!r}")
    try:
        return _READERS[name](None if data_dir is None else Path(data_dir), download)
    except ValueError as error:
        where = name if data_dir is None else os.fspath(data_dir)
        raise ValueError(str(error) if where in str(error) else f"{where}: {error}") from error


def _load_fashion_mnist(data_dir: Path | None, download: bool) -> ImageData:
    folders = [data_dir or DEBIAN_FOLDER]
    found = _idx_files(folders[0])
    if found is None and not data_dir:
        folders.append(_cache("fashion-mnist"))
        found = _idx_files(folders[1])
    if found is None:
        cure = "install it (Debian, Ubuntu: apt-get install dataset-fashion-mnist), " + _CURE
        if not download:
            raise _missing("Fashion-MNIST", folders, cure)
        for stem, md5 in FASHION_FILES.items():
            _download(FASHION_URL, f"{stem}.gz", md5, folders[-1], cure)
        found = _idx_files(folders[-1])
    assert found is not None
    train_images, train_labels, test_images, test_labels = map(_read_idx, found)
    for images, labels, path in (
        (train_images, train_labels, found[1]),
        (test_images, test_labels, found[3]),
    ):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(f"{path}: {labels.shape} labels do not fit {images.shape} images")
        _check_labels(labels, len(FASHION_CLASSES), path)
    return image_data(
        "fashion-mnist",
        train_images[:, None],
        train_labels,
        test_images[:, None],
        test_labels,
        FASHION_CLASSES,
    )


def _load_cifar10(data_dir: Path | None, download: bool) -> ImageData:
    folders = [data_dir] if data_dir else [_cache("cifar10")]
    found = next(filter(None, map(_cifar_source, folders)), None)
    if found is None:
        if not download:
            raise _missing("CIFAR-10", folders, _CURE)
        found = _download(CIFAR_URL, *CIFAR_BINARY, folders[-1], _CURE)
    batches = [_read_cifar_batch(name, raw) for name, raw in _cifar_files(found)]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    n_train = 5 * CIFAR_BATCH_SIZE
    return image_data(
        "cifar10",
        images[:n_train],
        labels[:n_train],
        images[n_train:],
        labels[n_train:],
        CIFAR_CLASSES,
    )


def _load_tiny_imagenet(data_dir: Path | None, download: bool) -> ImageData:
    folders = [data_dir or _cache("tiny-imagenet")]
    inside = [folders[0], folders[0] / TINY_FOLDER]
    root = next((folder for folder in inside if (folder / "wnids.txt").is_file()), None)
    if root is None:
        cure = "unpack tiny-imagenet-200.zip, and say where it is (data_dir, --data-dir)"
        raise _missing("Tiny ImageNet", folders, cure)
    numbers = sorted(_read_text(root / "wnids.txt").split())
    if len(set(numbers)) != len(numbers) or not all(map(_WORDNET.fullmatch, numbers)):
        raise ValueError(
            f"{root / 'wnids.txt'} must hold distinct WordNet numbers, such as n01443537"
        )
    classes = {number: label for label, number in enumerate(numbers)}
    train = [
        (path, label)
        for number, label in classes.items()
        for path in sorted((root / "train" / number / "images").glob("*.JPEG"))
    ]
    annotations = root / "val" / "val_annotations.txt"
    test = {}
    for file, number in _read_table(annotations):
        if number not in classes or not _FILE_NAME.fullmatch(file) or file in test:
            raise ValueError(f"{annotations} must name distinct files and known WordNet numbers")
        test[file] = (root / "val" / "images" / file, classes[number])
    words = {n: names for n, names in _read_table(root / "words.txt") if n in classes}
    if absent := [number for number in numbers if number not in words]:
        raise ValueError(f"{root / 'words.txt'} lacks {', '.join(absent[:5])}")
    names = tuple(words[number].split(",")[0] for number in numbers)
    return image_data("tiny-imagenet", *_decoded(train), *_decoded(list(test.values())), names)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the data set is incomplete without it")
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} has more than {LARGEST_TEXT} bytes; the original is smaller")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8") from error


def _read_table(path: Path) -> Iterator[list[str]]:
    """The first two columns of each line; tabs separate them."""
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        columns = line.split("\t", 2)[:2]
        if len(columns) < 2:
            raise ValueError(f"{path}, line {number} must have two columns, separated by a tab")
        yield columns


def _decoded(files: list[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3, 64, 64), grey images in three channels, and labels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("tiny-imagenet is read by Pillow: pip install pillow") from error
    for path, _ in files:  # before memory is allocated for all of them
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; the data set is incomplete without it")
    images = np.empty((len(files), 3, TINY_SIDE, TINY_SIDE), np.uint8)
    bar = tqdm(files, desc="decode", unit="image", disable=None)  # shown on a terminal only
    for place, (path, _) in zip(images, bar, strict=True):
        why = "it is damaged, or not a JPEG"
        try:
            # Only JPEG: by default, Pillow tries every format that it knows, and runs Ghostscript
            # for one.
            with warnings.catch_warnings(action="ignore"), Image.open(path, "r", ["JPEG"]) as image:
                if image.size != (TINY_SIDE, TINY_SIDE):
                    why = f"it is a JPEG of {image.size[0]} x {image.size[1]}"
                    raise ValueError(why)
                place[:] = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
        except Exception as error:  # a damaged image can raise any error
            raise ValueError(f"{path} is not an image of 64 x 64: {why}") from error
    return images, np.array([label for _, label in files], np.int64)


def _load_digits(data_dir: Path | None, download: bool) -> ImageData:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:400], order[400:]
    return image_data(
        "digits",
        images[train],
        bunch.target[train],
        images[test],
        bunch.target[test],
        tuple(map(str, range(10))),
    )


_READERS: dict[str, Callable[[Path | None, bool], ImageData]] = {
    "fashion-mnist": _load_fashion_mnist,
    "cifar10": _load_cifar10,
    "tiny-imagenet": _load_tiny_imagenet,
    "digits": _load_digits,
}


def image_data(
    name: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    classes: tuple[str, ...],
) -> ImageData:
    """An image set of these arrays, with mean and standard deviation of its channels."""
    check_one_size(train_images, test_images, "training images", "test images")
    # Moments from counts of the 256 levels are exact, and need no float copy of the set.
    levels = np.arange(256) / 255
    counts = np.stack(
        [np.bincount(channel.ravel(), minlength=256) for channel in train_images.swapaxes(0, 1)]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt(shares @ levels**2 - mean**2)
    return ImageData(
        name,
        np.array(train_images, order="C"),
        train_labels.astype(np.int64),
        np.array(test_images, order="C"),
        test_labels.astype(np.int64),
        classes,
        mean.astype(np.float32),
        std.astype(np.float32),
    )


# Finding and fetching


_CURE = "say where it is (data_dir, --data-dir), or allow the download (download=True, --download)"


def _cache(name: str) -> Path:
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(
            f"There is no home folder in which {name} could be: {_CURE}, or set XDG_CACHE_HOME."
        ) from error
    return Path(root) / "subsel" / name


def _missing(title: str, folders: list[Path], cure: str) -> FileNotFoundError:
    return FileNotFoundError(f"{title} is not in {' or '.join(map(str, folders))}: {cure}.")


def _download(base: str, filename: str, md5: str, folder: Path, cure: str) -> Path:
    """Fetch one file into `folder`, under its name only once its checksum is right."""
    path, part = folder / filename, folder / f".{filename}.{os.getpid()}.part"
    digest = hashlib.md5(usedforsecurity=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(base + filename, timeout=30) as response,
            part.open("wb") as out,
        ):
            length = response.headers.get("Content-Length") or ""
            size = int(length) if re.fullmatch(r"[1-9]\d{0,18}", length) else None
            received = 0
            with tqdm(total=size, desc=filename, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := response.read(1 << 16):
                    received += len(chunk)
                    if received > LARGEST_DOWNLOAD:
                        raise OSError(f"it is larger than {LARGEST_DOWNLOAD} bytes")
                    out.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
        if digest.hexdigest() != md5:
            raise OSError(f"its MD5 sum is {digest.hexdigest()}, not the published {md5}")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        what = f"{base}{filename} could not be downloaded ({error})"
        raise FileNotFoundError(f"{what}: {cure}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path


# Fashion-MNIST: IDX files


def _idx_files(folder: Path) -> list[Path] | None:
    """The four files in `FASHION_FILES`' order, plain before gzipped, or None if one is missing."""
    found = []
    for stem in FASHION_FILES:
        path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)
        if path is None:
            return None
        found.append(path)
    return found


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes: 0, 0, 8, ndim, big-endian sizes, then the values."""
    allowance = Allowance(path.stat().st_size, str(path))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _idx_values(file, allowance)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt or truncated") from error


def _idx_values(file: io.BufferedIOBase, allowance: Allowance) -> np.ndarray:
    start = file.read(4)
    n_sizes = start[3] if len(start) == 4 else 0
    sizes = file.read(4 * n_sizes)
    if start[:3] != b"\0\0\x08" or not 0 < len(sizes) == 4 * n_sizes or n_sizes > 3:
        raise ValueError(f"{allowance.name} is not an IDX file of unsigned bytes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    n_values = math.prod(shape)
    allowance.take(n_values)
    raw = file.read(n_values + 1)  # one byte more, to find out whether the file is too long
    if len(raw) != n_values:
        more = "more" if len(raw) > n_values else len(raw)
        raise ValueError(
            f"{allowance.name} is corrupt or truncated: its header says {shape}, "
            f"but {more} values follow"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _check_labels(labels: np.ndarray, n_classes: int, path: Path | str) -> None:
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.size:
        raise ValueError(f"{path}: label {outside[0]} is outside 0..{n_classes - 1}")


# CIFAR-10: binary or pickled batches, in a folder or a tar archive


def _cifar_source(folder: Path) -> Path | None:
    inside = [
        folder,
        folder / "cifar-10-batches-bin",
        folder / "cifar-10-batches-py",
        folder / CIFAR_BINARY[0],
        folder / CIFAR_PYTHON,
    ]
    return next((path for path in inside if path.is_file() or _holds_batches(path)), None)


def _holds_batches(folder: Path) -> bool:
    return any((folder / f"{CIFAR_BATCHES[0]}{suffix}").is_file() for suffix in (".bin", ""))


def _cifar_files(source: Path) -> list[tuple[str, bytes]]:
    """The names and contents of the six batches. An archive is never unpacked to disk."""
    names = {f"{stem}{suffix}" for stem in CIFAR_BATCHES for suffix in (".bin", "")}
    if source.is_dir():
        paths = {path.name: path for path in source.iterdir() if path.name in names}
        chosen = _batches_of({name for name, path in paths.items() if path.is_file()}, source)
        for name in chosen:
            _check_batch_size(paths[name].stat().st_size, str(paths[name]))
        return [(str(paths[name]), paths[name].read_bytes()) for name in chosen]
    try:
        with source.open("rb") as packed:
            files = _unpacked(packed, names, Allowance(source.stat().st_size, str(source)))
    except TooLargeError:
        raise
    except Exception as error:  # tarfile raises other errors than its own, too
        raise ValueError(f"{source} is corrupt or truncated") from error
    return [(str(source / name), files[name]) for name in _batches_of(set(files), source)]


def _unpacked(packed: io.BufferedReader, names: set[str], allowance: Allowance) -> dict[str, bytes]:
    """The files of these names in an archive, which is read once from front to back."""
    is_gzip = packed.peek(2)[:2] == b"\x1f\x8b"
    plain = _Counted(gzip.GzipFile(fileobj=packed) if is_gzip else packed, allowance)
    files = {}
    with tarfile.open(fileobj=plain, mode="r|") as archive:
        for number, member in enumerate(archive):
            if number == LARGEST_ARCHIVE:
                raise TooLargeError(f"{allowance.name} has more than {LARGEST_ARCHIVE} members")
            name = Path(member.name).name
            if member.isfile() and not member.issparse() and name in names:
                _check_batch_size(member.size, f"{allowance.name}, {name}")
                stream = archive.extractfile(member)
                assert stream is not None
                files[name] = stream.read()
    return files


class _Counted(io.RawIOBase):
    """A stream that counts every byte, including those of members that are skipped.

    It may be read beyond its end only a few times. To skip a member, tarfile reads as many blocks
    as the member claims to have, even if the archive has ended.
    """

    def __init__(self, stream: io.BufferedIOBase, allowance: Allowance) -> None:
        self.stream, self.allowance, self.beyond = stream, allowance, 0

    def read(self, n: int = -1) -> bytes:
        chunk = self.stream.read(n)
        self.allowance.take(len(chunk))
        self.beyond += not chunk
        if self.beyond > 1000:
            raise EOFError("the archive ends before one of its members")
        return chunk


def _batches_of(names: set[str], source: Path) -> list[str]:
    suffix = ".bin" if f"{CIFAR_BATCHES[0]}.bin" in names else ""
    wanted = [f"{stem}{suffix}" for stem in CIFAR_BATCHES]
    if absent := [name for name in wanted if name not in names]:
        raise ValueError(f"{source} lacks {', '.join(absent)}")
    return wanted


def _check_batch_size(size: int, name: str) -> None:
    """Check a batch's size before it is read. A pickled one has more in it than pixels."""
    if size > 2 * CIFAR_BATCH_SIZE * (1 + math.prod(CIFAR_IMAGE)) + (1 << 20):
        raise TooLargeError(f"{name} is corrupt: it has {size} bytes, far more than a batch")


def _read_cifar_batch(name: str, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    size = int(np.prod(CIFAR_IMAGE))
    if name.endswith(".bin"):
        if len(raw) != CIFAR_BATCH_SIZE * (1 + size):
            raise ValueError(
                f"{name} is corrupt or truncated: {len(raw)} bytes instead of "
                f"{CIFAR_BATCH_SIZE} records of {1 + size}"
            )
        records = np.frombuffer(raw, dtype=np.uint8).reshape(CIFAR_BATCH_SIZE, 1 + size)
        labels, pixels = records[:, 0], records[:, 1:]
    else:
        batch = restricted_load(io.BytesIO(raw), name=name, encoding="bytes")
        if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
            raise ValueError(
                f"{name} is not a CIFAR-10 batch, which is a dict with data and labels"
            )
        pixels, labels = batch[b"data"], whole_numbers(batch[b"labels"], f"{name}: labels")
        if not isinstance(pixels, np.ndarray):
            raise ValueError(f"{name}: data must be an array, not {type(pixels).__name__}")
        if pixels.dtype != np.uint8 or pixels.shape != (CIFAR_BATCH_SIZE, size):
            raise ValueError(
                f"{name}: data must be uint8 of shape {(CIFAR_BATCH_SIZE, size)}, "
                f"not {pixels.dtype} of shape {pixels.shape}"
            )
        if labels.shape != (CIFAR_BATCH_SIZE,):
            raise ValueError(
                f"{name}: labels must have shape ({CIFAR_BATCH_SIZE},), not {labels.shape}"
            )
    _check_labels(labels, len(CIFAR_CLASSES), name)
    return pixels.reshape(-1, *CIFAR_IMAGE), labels
