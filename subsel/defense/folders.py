"""Image sets that are folders: a subfolder for each class, or a table of paths and labels."""

import csv
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from subsel.defense.datasets import ImageData, image_data
from subsel.validation import check_count

__all__ = ["ImageFiles", "find_images", "load_folder", "split_folder"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = ("val", "valid", "validation", "test")
EVERY = 10  # without test images, every tenth image of a class is held out


@dataclass
class ImageFiles:
    """Paths of images, and their labels, which are numbers of `classes`."""

    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]

    def only(self, rows: np.ndarray) -> "ImageFiles":
        """The images with these positions."""
        return ImageFiles([self.paths[i] for i in rows], self.labels[rows], self.classes)


def find_images(source: str | os.PathLike[str], classes: Sequence[str] | None = None) -> ImageFiles:
    """Find the images of a folder or a table.

    Parameters
    ----------
    source : path
        A folder with a subfolder for each class, whose images may lie at any depth, or a table,
        CSV or Parquet, with the columns ``path`` and ``label``; paths are relative to its folder.
    classes : sequence of str, optional
        The names of the classes in the order of their numbers. By default the names that are found,
        sorted; if all labels of a table are numbers, they are sorted as numbers.

    Returns
    -------
    ImageFiles
        In the order of classes and paths, or of the table's rows.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no images, or a class is not among `classes`; the message names it.
    ImportError
        If pyarrow, which a Parquet file needs, is not installed.
    """
    source, key = Path(source), None
    if source.is_dir():
        pairs = [
            (path, folder.name)
            for folder in sorted(source.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
    elif source.is_file():
        pairs = _rows(source)
        key = int if all(name.isdecimal() for _, name in pairs) else None
    else:
        raise FileNotFoundError(f"{source} does not exist: give a folder of images, or a table")
    if not pairs:
        raise ValueError(
            f"{source} has no images: it must be a folder that has a folder of images for each "
            "class, or a table (CSV or Parquet) with the columns path and label"
        )
    found = sorted({name for _, name in pairs}, key=key)
    known = tuple(found if classes is None else classes)
    if other := [name for name in found if name not in known]:
        raise ValueError(f"{source} has the class {other[0]!r}, which is not one of {known}")
    number = {name: i for i, name in enumerate(known)}
    labels = np.array([number[name] for _, name in pairs], dtype=np.int64)
    return ImageFiles([path for path, _ in pairs], labels, known)


def load_folder(source: str | os.PathLike[str], *, size: int = 32, workers: int = 0) -> ImageData:
    """Load the images of a folder or a table into memory, as pixels of one size.

    Parameters
    ----------
    source : path
        As for `find_images`. If the folder has subfolders "train" and "val" (or "valid",
        "validation", "test"), these are the training and the test images. Otherwise every tenth
        image of a class is held out for the test.
    size : int, default 32
        Images are scaled so that their shorter side has this many pixels, and are cropped to the
        square in the middle.
    workers : int, default 0
        The number of processes that decode images, as for a DataLoader. With 0, threads of this
        process decode them, which is as fast if decoding is most of the work.

    Returns
    -------
    ImageData
        RGB.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_images` does, and if a file is not an image; the message names the file.
    ImportError
        If Pillow is not installed, or pyarrow for a Parquet file.

    Notes
    -----
    Memory: 3 * size * size bytes for each image.
    """
    size, workers = check_count(size, "size", 8), check_count(workers, "workers", 0)
    training, test = split_folder(source)
    return image_data(
        Path(source).name,
        *(_pixels(training.paths, size, workers), training.labels),
        *(_pixels(test.paths, size, workers), test.labels),
        training.classes,
    )


def split_folder(source: str | os.PathLike[str]) -> tuple[ImageFiles, ImageFiles]:
    """The training and the test images, as `load_folder` takes them."""
    source = Path(source)
    held_out = next((source / name for name in HELD_OUT if (source / name).is_dir()), None)
    if held_out is not None and (source / "train").is_dir():
        training = find_images(source / "train")
        test = find_images(held_out, training.classes)
    else:
        everything = find_images(source)
        place = np.zeros(len(everything.labels), dtype=np.int64)  # within the class
        for label in range(len(everything.classes)):
            own = everything.labels == label
            place[own] = np.arange(own.sum())
        last = place % EVERY == EVERY - 1
        if not last.any():
            raise ValueError(
                f"{source} has no class with {EVERY} images: each tenth is held out for the test"
            )
        training = everything.only(np.flatnonzero(~last))
        test = everything.only(np.flatnonzero(last))
    return training, test


def _rows(table: Path) -> list[tuple[Path, str]]:
    """Paths and labels of a table. A missing one is an error."""
    rows = _parquet(table) if table.suffix.lower() in (".parquet", ".pq") else _csv(table)
    pairs = []
    for number, (path, label) in enumerate(rows, 1):
        if path in (None, "") or label in (None, ""):
            raise ValueError(f"{table} has no path or no label in row {number}")
        pairs.append((table.parent / str(path), str(label)))
        if not pairs[-1][0].is_file():
            raise FileNotFoundError(f"{table} names {pairs[-1][0]}, which is not there")
    return pairs


def _csv(table: Path) -> list[tuple[Any, Any]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(table, reader.fieldnames)
            return [(row["path"], row["label"]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as CSV: {error}") from None


def _parquet(table: Path) -> list[tuple[Any, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise ImportError('Parquet needs pyarrow: pip install "subsel[tables]"') from None
    try:
        with ParquetFile(table) as file:
            _check_columns(table, file.schema_arrow.names)
            found = file.read(columns=["path", "label"])
    except ArrowException as error:
        raise ValueError(f"{table} cannot be read as Parquet: {error}") from None
    columns = (found[name].to_pylist() for name in ("path", "label"))
    return list(zip(*columns, strict=True))


def _check_columns(table: Path, names: Sequence[str] | None) -> None:
    if not {"path", "label"} <= set(names or ()):
        raise ValueError(f"{table} must have the columns path and label, it has {names}")


def _pixels(paths: list[Path], size: int, workers: int) -> np.ndarray:
    """Pixels (n, 3, size, size) as uint8, decoded on several threads or in this many processes."""
    decoded = _Decoded(paths, size)
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:
        found: Iterable[np.ndarray | str] = (
            DataLoader(
                decoded,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                generator=torch.Generator(),  # not the caller's global one
            )
            if workers
            else pool.map(decoded.__getitem__, range(len(paths)))
        )
        for place, image in enumerate(found):
            if isinstance(image, str):
                raise ValueError(image)
            images[place] = image
    return images


class _Decoded(Dataset):
    """Squares of pixels; for a file that is not an image, a sentence that says so.

    An exception from a worker process would have the worker's traceback in its message.
    """

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray | str:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(self.paths[i]) as image:
                square = ImageOps.fit(image.convert("RGB"), (self.size, self.size))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            return f"{self.paths[i]} cannot be read as an image: {error}"
        return np.asarray(square).transpose(2, 0, 1)


def _as_it_is(image: Any) -> Any:
    return image
