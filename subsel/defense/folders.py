"""Image sets that are folders: a subfolder for each class, or a table of paths and labels."""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subsel.defense.datasets import ImageData, image_data
from subsel.validation import check_count

__all__ = ["ImageFiles", "find_images", "load_folder", "split_folder"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = ("val", "valid", "validation", "test")
EVERY = 10  # of a class without held-out images each tenth is held out


@dataclass
class ImageFiles:
    """Paths of images, and their labels, which are numbers of `classes`."""

    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]

    def only(self, rows: np.ndarray) -> "ImageFiles":
        """Some of them."""
        return ImageFiles([self.paths[i] for i in rows], self.labels[rows], self.classes)


def find_images(source: str | os.PathLike[str], classes: Sequence[str] | None = None) -> ImageFiles:
    """The images of a folder or a table.

    Parameters
    ----------
    source : path
        A folder with a subfolder for each class, whose images may lie at any depth, or a CSV file
        with the columns ``path`` and ``label``; paths are relative to its folder.
    classes : sequence of str, optional
        The classes' names in the order of their numbers; by default those found, sorted.

    Returns
    -------
    ImageFiles
        In the order of classes and paths, or of the table's rows.

    Raises
    ------
    FileNotFoundError, ValueError
        Nothing is there, or a class is not among `classes`; the message names it.
    """
    source = Path(source)
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
    else:
        raise FileNotFoundError(f"there is no folder and no CSV file {source}")
    if not pairs:
        raise ValueError(
            f"{source} has no images: a folder for each class with images in it is wanted, or a "
            "CSV file with the columns path and label"
        )
    found = sorted({name for _, name in pairs})
    known = tuple(found if classes is None else classes)
    if other := [name for name in found if name not in known]:
        raise ValueError(f"{source} has the class {other[0]!r}, which is not one of {known}")
    number = {name: i for i, name in enumerate(known)}
    labels = np.array([number[name] for _, name in pairs], dtype=np.int64)
    return ImageFiles([path for path, _ in pairs], labels, known)


def load_folder(source: str | os.PathLike[str], *, size: int = 32) -> ImageData:
    """Images of a folder or a table in memory, as pixels of one size.

    Parameters
    ----------
    source : path
        As of `find_images`.  If the folder has subfolders "train" and "val" (or "valid",
        "validation", "test"), these are the training and the test images; else each tenth image
        of a class is held out for the test.
    size : int, default 32
        Images are scaled until their shorter side has this many pixels, and the square in their
        middle is taken.

    Returns
    -------
    ImageData
        RGB.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_images`; a file that is no image is named.
    ImportError
        Pillow is not installed.

    Notes
    -----
    Memory: 3 * size * size bytes for each image.
    """
    size = check_count(size, "size", 8)
    training, test = split_folder(source)
    return image_data(
        Path(source).name,
        *(_pixels(training.paths, size), training.labels),
        *(_pixels(test.paths, size), test.labels),
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
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{table} must have the columns path and label, it has {reader.fieldnames}"
            )
        pairs = [(table.parent / row["path"], row["label"]) for row in reader]
    for path, _ in pairs:
        if not path.is_file():
            raise FileNotFoundError(f"{table} names {path}, which is not there")
    return pairs


def _pixels(paths: list[Path], size: int) -> np.ndarray:
    """uint8 (n, 3, size, size), decoded on several threads."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    def decoded(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                square = ImageOps.fit(image.convert("RGB"), (size, size))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from None
        return np.asarray(square).transpose(2, 0, 1)

    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:
        for place, image in enumerate(pool.map(decoded, paths)):
            images[place] = image
    return images
