"""Reads poisoned data sets that others have published.

The formats are those of the poisoning benchmark (Schwarzschild et al. 2021), of the attacks
evaluated on it, and of MetaPoison. All files are pickles from the internet, which
`subsel.defense.unpickling` reads without executing them.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subsel.defense.fields import check_one_size, numbers, whole_numbers
from subsel.defense.unpickling import PickledImage, restricted_load

__all__ = ["BenchmarkSetup", "PoisonedSet", "read_poisons", "read_setups"]

FOLDER_FILES = ("poisons.pickle", "base_indices.pickle", "target.pickle", "source.pickle")


@dataclass(frozen=True, eq=False, repr=False)
class PoisonedSet:
    """Poisons, their positions in the training set, and the targets of the attack.

    Attributes
    ----------
    indices : ndarray of int64, (m,)
        Positions in the training set.
    images : ndarray of uint8, (m, channels, height, width)
    labels : ndarray of int64, (m,)
    targets : ndarray of uint8, (t, channels, height, width)
        The test images to be misclassified; for a hidden trigger, without their patch.
    target_labels : ndarray of int64, (t,)
        Their true classes.
    adversarial_label : int or None
        The class that the attack wants for the targets. If the file does not name it, the label of
        all poisons.
    patch : ndarray of float32, (channels, p, p), or None
        The patch of a trigger, in [0, 1].
    patch_position : (row, column) or None
        The position of the patch's upper left corner, if it is fixed.
    training_set : (images, labels) or None
        The whole training set including poisons, if the file has one, as those of MetaPoison have.
        `indices` then refer to it.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    target_labels: np.ndarray
    adversarial_label: int | None = None
    patch: np.ndarray | None = None
    patch_position: tuple[int, int] | None = None
    training_set: tuple[np.ndarray, np.ndarray] | None = None

    def __repr__(self) -> str:
        wanted = f", adversarial_label={self.adversarial_label}"
        return f"PoisonedSet({len(self.indices)} poisons, {len(self.targets)} targets{wanted})"

    def __post_init__(self) -> None:
        m = len(self.indices)
        if not len(self.images) == len(self.labels) == m:
            raise ValueError(
                f"{m} indices do not fit {len(self.images)} images and {len(self.labels)} labels"
            )
        if m and self.indices.min() < 0:
            raise ValueError(f"indices must be 0 or greater, got {self.indices.min()}")
        if len(np.unique(self.indices)) != m:
            raise ValueError("indices must be distinct: two poisons claim the same place")
        check_one_size(self.images, self.targets, "poisons", "targets")
        if len(self.targets) != len(self.target_labels):
            raise ValueError(
                f"{len(self.targets)} targets do not fit {len(self.target_labels)} target_labels"
            )
        for labels, name in ((self.labels, "poisons"), (self.target_labels, "targets")):
            if labels.min() < 0:
                raise ValueError(f"labels of {name} must be 0 or greater, got {labels.min()}")
        if self.adversarial_label is None and len(np.unique(self.labels)) == 1:
            object.__setattr__(self, "adversarial_label", int(self.labels[0]))

    def apply(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put the poisons into a copy of the training set.

        If this set has its own training set, it replaces the given one.

        Parameters
        ----------
        images : ndarray of uint8, (n, channels, height, width)
        labels : ndarray of int, (n,)

        Raises
        ------
        ValueError
            If images have another shape or type, or an index is outside the training set.
        """
        if self.training_set is not None:
            images, labels = self.training_set
        images, labels = np.array(images), np.array(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers (n,), got {labels.dtype} {labels.shape}")
        if self.labels.max() > np.iinfo(labels.dtype).max:
            raise ValueError(
                f"labels are {labels.dtype}, which has no room for a poison's {self.labels.max()}"
            )
        self._check_images(images, len(labels))
        images[self.indices], labels[self.indices] = self.images, self.labels
        return images, labels

    def perturbation(self, images: np.ndarray) -> int:
        """The largest change of a pixel (0..255) from the clean training images.

        The benchmark allows 9 for attacks that are bounded by 8, because poisons are rounded to 8
        bits. A much larger number means that the indices refer to another training set or order.

        Raises
        ------
        ValueError
            As for `apply`.
        """
        images = np.asarray(images)
        self._check_images(images, len(images))
        clean = images[self.indices].astype(int)
        return int(np.abs(self.images - clean).max(initial=0))

    def _check_images(self, images: np.ndarray, n: int) -> None:
        outside = self.indices[self.indices >= n]
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(self.indices)} poisons lie outside a training set of "
                f"{n} examples; the first has index {outside[0]}"
            )
        if images.dtype != np.uint8 or images.shape != (n, *self.images.shape[1:]):
            raise ValueError(
                f"images must be uint8 {(n, *self.images.shape[1:])} like the poisons, "
                f"got {images.dtype} {images.shape}"
            )

    def triggered_targets(self) -> np.ndarray:
        """The targets with the patch at its fixed position; unchanged if there is no patch."""
        targets = self.targets.copy()
        if self.patch is not None and self.patch_position is not None:
            row, column = self.patch_position
            height, width = self.patch.shape[1:]
            window = targets[:, :, row : row + height, column : column + width]
            if row < 0 or column < 0 or window.shape[1:] != self.patch.shape:
                raise ValueError(
                    f"a patch of {self.patch.shape} at {self.patch_position} does not fit into "
                    f"targets of {targets.shape[1:]}"
                )
            window[:] = np.rint(self.patch * 255)
        return targets


@dataclass(frozen=True, eq=False)
class BenchmarkSetup:
    """A setup of the benchmark: the target, and the examples that may be poisoned.

    Attributes
    ----------
    target_class, base_class : int
    target_index : int
        Position in the test set.
    base_indices : ndarray of int64
        Positions in the training set.
    """

    target_class: int
    target_index: int
    base_class: int
    base_indices: np.ndarray


def read_poisons(path: str | os.PathLike[str]) -> PoisonedSet:
    """Read a published poisoned set.

    Parameters
    ----------
    path
        Either a folder in the format of the poisoning benchmark: ``poisons.pickle``, a list of (PIL
        image, label); ``base_indices.pickle``, their positions in the training set; and
        ``target.pickle``, (PIL image, label) or (PIL image, label, patch, (row, column)), or the
        ``source.pickle`` of Sleeper Agent, a list of (PIL image, label). Or a file of MetaPoison: a
        dict with ``xtrain, ytrain, xtarget, ytarget, ytargetadv``.

    Raises
    ------
    FileNotFoundError
        If the path or a file of the folder does not exist.
    ValueError
        If a pickle asks for anything other than NumPy arrays, torch tensors and PIL images (the
        message names it), is damaged, expands to far more than its size explains, or does not have
        the contents of its format: for instance if labels are not integers, images differ in size,
        or there are none.

    Notes
    -----
    Files of MetaPoison contain a whole training set, sorted by class, and do not say which examples
    are poisons. As in EPIC's published code, the examples 5000 y_adv to 5000 y_adv + 499 are
    assumed to be poisons.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a folder or a file of poisons")
    if path.name in FOLDER_FILES and path.is_file():
        raise ValueError(f"{path} is one file of a poisoned set: give its folder, {path.parent}")
    try:
        return _read_folder(path) if path.is_dir() else _read_metapoison(path)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_setups(path: str | os.PathLike[str]) -> list[BenchmarkSetup]:
    """Read the benchmark's file of setups, a list of dicts.

    Raises
    ------
    ValueError
        As in `read_poisons`.
    """
    setups = _load(Path(path))
    keys = {"target class", "target index", "base class", "base indices"}
    if (
        not isinstance(setups, list)
        or not setups
        or not all(isinstance(setup, dict) and keys <= setup.keys() for setup in setups)
    ):
        raise ValueError(f"{path} must hold a list of dicts with {', '.join(sorted(keys))}")
    return [_setup(setup, f"{path}, setup {i}") for i, setup in enumerate(setups)]


def _setup(setup: dict[str, Any], name: str) -> BenchmarkSetup:
    def counts(key: str, n: int | None = None) -> np.ndarray:
        values = whole_numbers(setup[key], f"{name}: {key}")
        if len(values) != (n or len(values)) or values.min(initial=0) < 0 or not len(values):
            wanted = "one integer" if n else "integers"
            raise ValueError(f"{name}: {key} must be {wanted}, 0 or greater; got {values}")
        return values

    return BenchmarkSetup(
        target_class=counts("target class", 1).item(),
        target_index=counts("target index", 1).item(),
        base_class=counts("base class", 1).item(),
        base_indices=counts("base indices"),
    )


def _read_folder(folder: Path) -> PoisonedSet:
    images, labels = _labelled_images(_load(folder / "poisons.pickle"), "poisons.pickle")
    patch, position = None, None
    if (folder / "target.pickle").exists() or not (folder / "source.pickle").exists():
        target = _load(folder / "target.pickle")
        if not isinstance(target, tuple | list) or len(target) not in (2, 4):
            raise ValueError(
                "target.pickle must hold (image, label) or (image, label, patch, (row, column))"
            )
        targets, target_labels = _labelled_images([target[:2]], "target.pickle")
        if len(target) == 4:
            patch = _patch(target[2], targets.shape[1:])
            position = _position(target[3], patch, targets.shape[1:])
    else:
        targets, target_labels = _labelled_images(_load(folder / "source.pickle"), "source.pickle")
    return PoisonedSet(
        indices=whole_numbers(_load(folder / "base_indices.pickle"), "base_indices.pickle"),
        images=images,
        labels=labels,
        targets=targets,
        target_labels=target_labels,
        patch=patch,
        patch_position=position,
    )


def _patch(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Check a trigger's patch, which must fit into images of `shape`."""
    patch = numbers(value, "the patch").astype(np.float32)
    if patch.ndim != 3 or not (patch.size and patch.min() >= 0 and patch.max() <= 1):
        raise ValueError(f"the patch must be (channels, p, p) in [0, 1], got {patch.shape}")
    if patch.shape[0] != shape[0] or patch.shape[1] > shape[1] or patch.shape[2] > shape[2]:
        raise ValueError(f"a patch of {patch.shape} does not fit into targets of {shape}")
    return patch


def _position(value: Any, patch: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    position = whole_numbers(value, "the patch's position")
    room = np.subtract(shape[1:], patch.shape[1:])
    if position.shape != (2,) or (position < 0).any() or (position > room).any():
        raise ValueError(
            f"the patch's position must be (row, column) from (0, 0) to {tuple(room.tolist())}, "
            f"got {position.tolist()[:5]}"
        )
    return int(position[0]), int(position[1])


def _read_metapoison(path: Path, class_size: int = 5000, n_poisons: int = 500) -> PoisonedSet:
    parts = _load(path)
    keys = ("xtrain", "ytrain", "xtarget", "ytarget", "ytargetadv")
    if not isinstance(parts, dict) or not parts.keys() >= set(keys):
        raise ValueError(
            f"this is not a file of MetaPoison's, which is a dict with {', '.join(keys)}. For a "
            "set in several files, give the folder; for a list of setups, use read_setups"
        )
    adversarial = np.unique(whole_numbers(parts["ytargetadv"], "ytargetadv"))
    if len(adversarial) != 1 or adversarial[0] < 0:
        raise ValueError(f"ytargetadv must be one class, got {adversarial}")
    images, labels = _pixels(parts["xtrain"], "xtrain"), whole_numbers(parts["ytrain"], "ytrain")
    if labels.min(initial=0) < 0:
        raise ValueError(f"ytrain must be 0 or greater, got {labels.min()}")
    first = class_size * int(adversarial[0])
    if not len(images) == len(labels) >= first + n_poisons:
        raise ValueError(
            "xtrain and ytrain must be the whole class-sorted training set, of "
            f"{first + n_poisons} examples or more, got {len(images)} and {len(labels)}"
        )
    indices = np.arange(first, first + n_poisons)
    return PoisonedSet(
        indices=indices,
        images=images[indices],
        labels=labels[indices],
        targets=_pixels(parts["xtarget"], "xtarget"),
        target_labels=whole_numbers(parts["ytarget"], "ytarget"),
        adversarial_label=int(adversarial[0]),
        training_set=(images, labels),
    )


def _labelled_images(pairs: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(f"{name} must hold a list of (image, label)")
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{name} must hold pairs (image, label)")
    images = [
        image.pixels if isinstance(image, PickledImage) else numbers(image, f"images of {name}")
        for image, _ in pairs
    ]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"{name} holds images of different sizes")
    labels = whole_numbers([label for _, label in pairs], f"labels of {name}")
    if len(labels) != len(pairs):
        raise ValueError(f"{name} must hold one label for each image")
    return _pixels(np.stack(images), name), labels


def _pixels(value: Any, name: str) -> np.ndarray:
    """Images of either layout as uint8 (n, channels, height, width).

    Floats of at most 1 have the full scale 1, others 255.
    """
    images = numbers(value, name)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        raise ValueError(f"{name} must hold images, got an array of {images.shape}")
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got images of {images.shape[1:]}")
    if images.size == 0:
        raise ValueError(f"{name} holds no image, but an array of {images.shape}")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype == bool:
        raise ValueError(f"{name} must hold pixels, got truth values")
    if not np.isfinite([images.min(), images.max()]).all():
        raise ValueError(f"{name} holds pixels that are not finite")
    if not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"{name} must lie in [0, 1] or [0, 255]; these look standardized")
    scale = 255 if images.dtype.kind == "f" and images.max() <= 1 else 1
    pixels = np.empty(images.shape, np.uint8)
    for place, image in zip(pixels, images, strict=True):  # one by one, to save memory
        place[:] = np.rint(image * scale)
    return pixels


def _load(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; the poisoned set is incomplete without it")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open("rb") as file:
        return restricted_load(file, name=str(path))
