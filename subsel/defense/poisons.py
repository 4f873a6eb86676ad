"""Poisoned sets that others have published, read without running what is in their pickles.

The formats are those of the poisoning benchmark (Schwarzschild et al. 2021) and of the attacks
evaluated on it, and MetaPoison's.  All of them are pickles from the internet.
"""

import io
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

__all__ = ["BenchmarkSetup", "PoisonedSet", "read_poisons", "read_setups", "restricted_load"]


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """Poisons, where they go in the training set, and what they are aimed at.

    Attributes
    ----------
    indices : ndarray of int64, (m,)
        Positions in the training set.
    images : ndarray of uint8, (m, channels, height, width)
    labels : ndarray of int64, (m,)
    targets : ndarray of uint8, (t, channels, height, width)
        The test images to be misclassified; those of a hidden trigger without their patch.
    target_labels : ndarray of int64, (t,)
        Their true classes.
    adversarial_label : int or None
        The class that the attack wants for them: where the file does not say, the one that all
        poisons are labelled with.
    patch : ndarray of float32, (channels, p, p), or None
        A trigger's patch, in [0, 1].
    patch_position : (row, column) or None
        Where its upper left corner goes, if that is fixed.
    training_set : (images, labels) or None
        The whole training set, poisons included, where the file brings its own, as MetaPoison's
        do; `indices` count that one.
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
        if self.adversarial_label is None and len(np.unique(self.labels)) == 1:
            object.__setattr__(self, "adversarial_label", int(self.labels[0]))

    def apply(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A copy of the training set with the poisons in their places.

        A set that brings its own training set replaces this one altogether.

        Parameters
        ----------
        images : ndarray of uint8, (n, channels, height, width)
        labels : ndarray of int, (n,)

        Raises
        ------
        ValueError
            Images of another shape or type, or an index outside the training set.
        """
        if self.training_set is not None:
            images, labels = self.training_set
        images, labels = np.array(images), np.array(labels)
        self._check_inside(len(labels))
        if images.dtype != np.uint8 or images.shape != (len(labels), *self.images.shape[1:]):
            raise ValueError(
                f"images must be uint8 {(len(labels), *self.images.shape[1:])} like the poisons, "
                f"got {images.dtype} {images.shape}"
            )
        images[self.indices], labels[self.indices] = self.images, self.labels
        return images, labels

    def perturbation(self, images: np.ndarray) -> int:
        """Largest change of a pixel, of 255, from the clean training images.

        The benchmark admits 9 for attacks bounded by 8 (poisons are rounded to 8 bits).  Far
        more means that the indices count another training set, or another order of it.
        """
        self._check_inside(len(images))
        clean = np.asarray(images)[self.indices].astype(int)
        return int(np.abs(self.images - clean).max(initial=0))

    def _check_inside(self, n: int) -> None:
        outside = self.indices[self.indices >= n]
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(self.indices)} poisons lie outside a training set of "
                f"{n} examples, index {outside[0]} the first"
            )

    def triggered_targets(self) -> np.ndarray:
        """The targets with the patch at its fixed position; without a patch, as they are."""
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
    """One of the benchmark's setups: which target, and which examples may be poisoned.

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
        A folder as the poisoning benchmark wants it: ``poisons.pickle``, a list of (PIL image,
        label); ``base_indices.pickle``, their positions in the training set; and
        ``target.pickle``, (PIL image, label) or (PIL image, label, patch, (row, column)), or
        Sleeper Agent's ``source.pickle``, a list of (PIL image, label).  Or a file of
        MetaPoison's: a dict with ``xtrain, ytrain, xtarget, ytarget, ytargetadv``.

    Raises
    ------
    FileNotFoundError
        The path, or one of the folder's files, is not there.
    ValueError
        A pickle asks for something else than NumPy arrays, torch tensors and PIL images (the
        message names it), is damaged, or does not hold what its format says.

    Notes
    -----
    MetaPoison's files hold a whole training set, sorted by class, and do not say which examples
    are poisons.  As in EPIC's published code, numbers 5000 y_adv to 5000 y_adv + 499 are taken to
    be.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: a folder or a file of poisons is wanted")
    try:
        return _read_folder(path) if path.is_dir() else _read_metapoison(path)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_setups(path: str | os.PathLike[str]) -> list[BenchmarkSetup]:
    """Read the benchmark's file of setups, a list of dicts.

    Raises
    ------
    ValueError
        As for `read_poisons`.
    """
    setups = _load(Path(path))
    keys = {"target class", "target index", "base class", "base indices"}
    if not isinstance(setups, list) or not all(
        isinstance(setup, dict) and keys <= setup.keys() for setup in setups
    ):
        raise ValueError(f"{path}: a list of dicts with {', '.join(sorted(keys))} is wanted")
    return [
        BenchmarkSetup(
            target_class=_indices(setup["target class"]).item(),
            target_index=_indices(setup["target index"]).item(),
            base_class=_indices(setup["base class"]).item(),
            base_indices=_indices(setup["base indices"]),
        )
        for setup in setups
    ]


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
            patch = _array(target[2], "the patch").astype(np.float32)
            if patch.ndim != 3 or not (patch.min() >= 0 and patch.max() <= 1):
                raise ValueError(f"the patch must be (channels, p, p) in [0, 1], got {patch.shape}")
            row, column = _indices(target[3]).tolist()
            position = row, column
    else:
        targets, target_labels = _labelled_images(_load(folder / "source.pickle"), "source.pickle")
    return PoisonedSet(
        indices=_indices(_load(folder / "base_indices.pickle")),
        images=images,
        labels=labels,
        targets=targets,
        target_labels=target_labels,
        patch=patch,
        patch_position=position,
    )


def _read_metapoison(path: Path, class_size: int = 5000, n_poisons: int = 500) -> PoisonedSet:
    parts = _load(path)
    keys = ("xtrain", "ytrain", "xtarget", "ytarget", "ytargetadv")
    if not isinstance(parts, dict) or not parts.keys() >= set(keys):
        raise ValueError(f"not a file of MetaPoison's: a dict with {', '.join(keys)} is wanted")
    adversarial = np.unique(_indices(parts["ytargetadv"]))
    if len(adversarial) != 1:
        raise ValueError(f"ytargetadv must be one class, got {adversarial}")
    images, labels = _pixels(parts["xtrain"], "xtrain"), _indices(parts["ytrain"])
    indices = class_size * adversarial[0] + np.arange(n_poisons)
    if not len(images) == len(labels) > indices.max():
        raise ValueError(
            f"xtrain and ytrain must be the whole class-sorted training set, of {indices.max() + 1}"
            f" examples or more, got {len(images)} and {len(labels)}"
        )
    return PoisonedSet(
        indices=indices,
        images=images[indices],
        labels=labels[indices],
        targets=_pixels(parts["xtarget"], "xtarget"),
        target_labels=_indices(parts["ytarget"]),
        adversarial_label=int(adversarial[0]),
        training_set=(images, labels),
    )


def _labelled_images(pairs: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(f"{name} must hold a list of (image, label)")
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{name} must hold pairs (image, label)")
    images = [image.pixels if isinstance(image, _Image) else image for image, _ in pairs]
    if len({np.shape(image) for image in images}) > 1:
        raise ValueError(f"{name} holds images of different sizes")
    labels = _indices([label for _, label in pairs])
    return _pixels(np.stack([_array(image, name) for image in images]), name), labels


def _array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got {array.dtype}")
    return array


def _indices(value: Any) -> np.ndarray:
    array = _array(value, "indices and labels")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"indices and labels must be integers, got {array.dtype}")
    return array.astype(np.int64).reshape(-1)


def _pixels(value: Any, name: str) -> np.ndarray:
    """Images of either layout as uint8 (n, channels, height, width).

    Floats up to 1 are of full scale 1, others of 255.
    """
    images = _array(value, name)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        raise ValueError(f"{name} must hold images, got an array of {images.shape}")
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got images of {images.shape[1:]}")
    if images.dtype != np.uint8:
        if not (images.min(initial=0) >= 0 and images.max(initial=0) <= 255):
            raise ValueError(f"{name} must lie in [0, 1] or [0, 255]; these look standardized")
        scale = 255 if images.dtype.kind == "f" and images.max(initial=0) <= 1 else 1
        images = np.rint(images * scale).astype(np.uint8)
    return np.ascontiguousarray(images)


# A pickle is a program.  This one may name nothing but the entries of _ALLOWED, and those are
# ours: each builds one harmless thing out of checked arguments, and holds no state that a
# pickle's BUILD could change.  So even NumPy's own unpickling, which believes a forged dtype,
# and torch's, which unpickles without limits inside, are never reached.


def restricted_load(
    file: BinaryIO, *, name: str = "the pickle", encoding: str = "ASCII", errors: str = "strict"
) -> Any:
    """Unpickle plain containers, numeric NumPy arrays, torch tensors and PIL images.

    Arrays and tensors come as (a subclass of) ndarray; images as objects whose ``.pixels`` are
    uint8, (height, width, channels).

    Parameters
    ----------
    file : binary file
    name : str
        What to call it in an error message.
    encoding, errors : str
        As in `pickle.load`, for files from Python 2.

    Raises
    ------
    ValueError
        It asks for something else, which the message names, or is damaged.
    """
    unpickler = _RestrictedUnpickler(file, encoding=encoding, errors=errors)
    try:
        return unpickler.load()
    except _RefusedError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle fails in any way there is
        raise ValueError(
            f"{name} is damaged or no pickle ({type(error).__name__}: {error})"
        ) from error


def _load(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; the set is incomplete without it")
    with path.open("rb") as file:
        return restricted_load(file, name=str(path))


class _RefusedError(Exception):
    """A pickle wants what it may not have."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(
                f"refused {module}.{name}: only NumPy arrays, torch tensors and PIL images are read"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("refused a persistent id: only self-contained pickles are read")


class _Call:
    """A function that a pickle may call but not change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError(f"refused to set {name}")

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Dtype:
    """A plain number type.  A pickle gives its code first, and its byte order as a state."""

    def __init__(self, code: str | bytes) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not re.fullmatch(r"[<>|=]?[biuf?]\d{0,2}", code):
            raise _RefusedError(f"refused an array of {code[:40]!r}: only plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, subarray, names, fields = state[1:5]
        if (subarray, names, fields) != (None, None, None):
            raise _RefusedError("refused an array of records: only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(">" if order in (">", b">") else "<")


class _Array(np.ndarray):
    """An array that a pickle fills in."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.dtype, fortran, data))


class _Image:
    """A PIL image's pixels, without PIL: it would believe any size a pickle claims."""

    pixels = np.empty((0, 0, 1), np.uint8)

    def __setstate__(self, state: list[Any]) -> None:
        _, mode, (width, height), _, data = state[:5]
        if mode not in ("L", "RGB"):
            raise _RefusedError(f"refused an image of mode {mode!r}: only L and RGB are read")
        self.pixels = np.frombuffer(data, np.uint8).reshape(height, width, len(mode))


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.empty(0, np.int8).view(_Array)


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _frombuffer(data: bytes, dtype: _Dtype, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"refused the encoding {encoding[:40]!r}")
    return text.encode("latin1")


def _reconstructor(kind: type, base: Any, state: Any) -> "_Image":
    if kind is not _Image:
        raise _RefusedError("refused copyreg._reconstructor of anything but an image")
    return _Image()


class _Storage:
    """A torch storage as a flat array; without a `__dict__`, so that it stays what it is."""

    __slots__ = ("flat",)

    def __init__(self, data: bytes) -> None:
        storage = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        if not isinstance(storage, torch.storage.TypedStorage):
            raise _RefusedError("refused what should be a tensor's storage and is not")
        self.flat = torch.empty(0, dtype=storage.dtype).set_(storage).numpy()


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    flat = storage.flat
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min([offset, *size, *stride]) < 0 or (0 not in size and last >= len(flat)):
        raise _RefusedError(f"refused a tensor of {tuple(size)} that its storage does not hold")
    if 0 in size:
        return np.empty(tuple(size), flat.dtype).view(_Array)
    steps = [step * flat.itemsize for step in stride]
    return as_strided(flat[offset:], tuple(size), steps).copy().view(_Array)


def _allowed() -> dict[tuple[str, str], Any]:
    calls: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): lambda code, *_: _Dtype(code),
        ("_codecs", "encode"): _encode,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _Storage,
        ("collections", "OrderedDict"): dict,  # a tensor's hooks, always empty
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        calls[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        calls[f"{core}.multiarray", "scalar"] = _scalar
        calls[f"{core}.numeric", "_frombuffer"] = _frombuffer
    for module in ("copyreg", "copy_reg"):
        calls[module, "_reconstructor"] = _reconstructor
    # Names that are only ever passed on as arguments.
    names = [("numpy", "ndarray"), ("builtins", "object"), ("__builtin__", "object")]
    return (
        {key: _Call(function) for key, function in calls.items()}
        | {key: _Call(_refuse) for key in names}
        | {("PIL.Image", "Image"): _Image}
    )


def _refuse(*_: Any) -> None:
    raise _RefusedError("refused to make a bare object")


_ALLOWED = _allowed()
