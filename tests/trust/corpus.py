"""Files for the readers: valid sets of every format, made by code.

A case is a folder's files by name, and the reader that is to read them.
"""

import gzip
import io
import pickle
import tarfile
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["CIFAR_BATCH_SIZE", "Case", "valid"]

CIFAR_BATCH_SIZE = 2  # instead of 10 000
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@dataclass
class Case:
    """Files of a folder, and who reads them; for a valid case also what must come out."""

    reader: str
    files: dict[str, bytes]
    expected: dict[str, Any] = field(default_factory=dict)


def dumped(value, protocol=4):
    return pickle.dumps(value, protocol=protocol)


def planes(images):
    return np.moveaxis(np.asarray(images), -1, -3)


def idx(array):
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + np.asarray(array, np.uint8).tobytes()


def jpeg(image, kind="JPEG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def archive(members, mode="w:gz"):
    """A tar archive of (name, content) or of whole TarInfo objects."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


# Valid sets


@cache
def arrays():
    rng = np.random.default_rng(0)
    return {
        "poisons": rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
        "target": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "indices": np.array([40, 3, 17, 8, 25]),
        "patch": rng.random((3, 2, 2)).astype(np.float32),
        "cifar": rng.integers(0, 256, (12, 3072), dtype=np.uint8),
        "cifar labels": rng.integers(0, 10, 12),
        "fashion": rng.integers(0, 256, (9, 4, 5), dtype=np.uint8),
    }


def folder(protocol=4, **changes):
    """A folder of the benchmark's; a change of None leaves the file out."""
    a = arrays()
    contents = {
        "poisons": [(Image.fromarray(image), 6) for image in a["poisons"]],
        "base_indices": a["indices"],
        "target": (Image.fromarray(a["target"]), 2),
    } | changes
    files = {
        f"{name}.pickle": value if isinstance(value, bytes) else dumped(value, protocol)
        for name, value in contents.items()
        if value is not None
    }
    return Case("poisons", files)


def metapoison(**changes):
    parts = {
        "xtrain": np.arange(500 * 12, dtype=np.uint8).reshape(500, 2, 2, 3),
        "ytrain": np.zeros(500, int),
        "xtarget": arrays()["target"][None, :2, :2],
        "ytarget": np.array([1]),
        "ytargetadv": [0],
    } | changes
    return Case("metapoison", {"meta.pickle": dumped(parts)})


def setups(**changes):
    setup = {"target class": 3, "target index": 17, "base class": 5}
    return Case("setups", {"setups.pickle": dumped([setup | {"base indices": [1, 2]} | changes])})


def fashion(gz=False, **changes):
    images = arrays()["fashion"]
    contents = {
        "train-images-idx3-ubyte": idx(images[:6]),
        "train-labels-idx1-ubyte": idx(np.arange(6)),
        "t10k-images-idx3-ubyte": idx(images[6:]),
        "t10k-labels-idx1-ubyte": idx(np.array([9, 8, 7])),
    }
    for name, content in changes.items():
        contents[next(key for key in contents if key.startswith(name.replace("_", "-")))] = content
    if not gz:
        return Case("fashion-mnist", contents)
    return Case("fashion-mnist", {f"{k}.gz": gzip.compress(v) for k, v in contents.items()})


def cifar_members(kind, **changes):
    a = arrays()
    inner = {"bin": "cifar-10-batches-bin", "py": "cifar-10-batches-py"}[kind]
    for i, stem in enumerate(BATCHES):
        rows = slice(2 * i, 2 * i + 2)
        pixels, labels = a["cifar"][rows], a["cifar labels"][rows]
        if kind == "bin":
            yield f"{inner}/{stem}.bin", np.c_[labels.astype(np.uint8), pixels].tobytes()
            continue
        batch = {"data": pixels, "labels": labels.tolist(), "filenames": [b"a", b"b"]}
        batch = {key.encode(): value for key, value in (batch | changes).items()}
        yield f"{inner}/{stem}", dumped(batch, 2)


def cifar(kind, packed, mode="w:gz", **changes):
    members = list(cifar_members(kind, **changes))
    name = {"bin": "cifar-10-binary.tar.gz", "py": "cifar-10-python.tar.gz"}[kind]
    return Case("cifar10", {name: archive(members, mode)} if packed else dict(members))


def tiny(changes=None):
    files = {
        "wnids.txt": b"n02\nn01\n",
        "words.txt": b"n01\tgoldfish, carp\nn02\tbullfrog\n",
        "val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t9\t9\n",
        "val/images/val_0.JPEG": jpeg(Image.new("RGB", (64, 64), (9, 200, 0))),
        "train/n01/images/n01_0.JPEG": jpeg(Image.new("RGB", (64, 64), (40, 0, 0))),
        "train/n02/images/n02_0.JPEG": jpeg(Image.new("L", (64, 64), 90)),
    } | (changes or {})
    return Case("tiny-imagenet", {k: v for k, v in files.items() if v is not None})


@cache
def valid() -> dict[str, Case]:
    """Cases that must be read, with some of what must come out."""
    a = arrays()
    poisoned = {"indices": a["indices"], "images": planes(a["poisons"]), "labels": [6] * 5}
    cases = {f"folder, protocol {p}": folder(p) for p in range(6)}
    for name, value in (
        ("tensor", torch.tensor(a["indices"])),
        ("view", torch.arange(100)[3:53].reshape(5, 10).T[2][:5] * 0 + torch.tensor(a["indices"])),
        ("list", a["indices"].tolist()),
        ("big-endian array", a["indices"].astype(">i4")),
    ):
        cases[f"folder, indices as {name}"] = folder(2, base_indices=value)
    tensors = [(torch.tensor(planes(image) / np.float32(255)), 6) for image in a["poisons"]]
    cases["folder, tensors as images"] = folder(poisons=tensors)
    arrays_c = [(np.ascontiguousarray(planes(image)), np.int64(6)) for image in a["poisons"]]
    cases["folder, arrays as images"] = folder(poisons=arrays_c)
    transposed = [(planes(image), 6) for image in a["poisons"]]
    cases["folder, transposed arrays of protocol 5"] = folder(5, poisons=transposed)
    for case in cases.values():
        case.expected = poisoned
    triggered = (Image.fromarray(a["target"]), np.int64(2), torch.tensor(a["patch"]), (1, 5))
    cases["folder, a patch"] = folder(target=triggered)
    cases["folder, a patch"].expected = poisoned | {"patch": a["patch"], "patch_position": (1, 5)}
    source = [(Image.fromarray(image), i) for i, image in enumerate(a["poisons"])]
    cases["folder, sources"] = folder(target=None, source=source)
    cases["folder, sources"].expected = poisoned | {"targets": planes(a["poisons"])}
    cases["metapoison"] = metapoison()
    cases["metapoison"].expected = {"indices": np.arange(500), "adversarial_label": 0}
    cases["setups"] = setups(**{"base indices": np.array([4, 5])})
    for gz in (False, True):
        cases[f"fashion, gz {gz}"] = fashion(gz)
        cases[f"fashion, gz {gz}"].expected = {"train_images": a["fashion"][:6, None]}
    for kind in ("bin", "py"):
        for packed, mode in ((False, ""), (True, "w:gz"), (True, "w:")):
            cases[f"cifar, {kind} {packed} {mode}"] = case = cifar(kind, packed, mode)
            case.expected = {"test_images": a["cifar"][10:].reshape(2, 3, 32, 32)}
    cases["tiny"] = tiny()
    cases["tiny"].expected = {"train_labels": [0, 1], "test_labels": [1]}
    return cases
