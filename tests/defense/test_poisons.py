"""Reading poisoned sets: each public format, and each trick of a hostile pickle."""

import collections
import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from subsel.defense.poisons import read_poisons, read_setups
from subsel.defense.unpickling import restricted_load

RNG = np.random.default_rng(0)
POISONS = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
TARGET = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
INDICES = np.array([40, 3, 17, 8, 25])


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))


def make_folder(folder, *, protocol=4, indices=INDICES, **files):
    contents = {
        "poisons": [(Image.fromarray(image), 6) for image in POISONS],
        "base_indices": indices,
        "target": (Image.fromarray(TARGET), 2),
    } | files
    for name, value in contents.items():
        if value is not None:
            write(folder / f"{name}.pickle", value, protocol)
    return folder


def planes(images):
    return np.moveaxis(images, -1, -3)


class TestFolder:
    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("indices", [INDICES, torch.tensor(INDICES), INDICES.tolist()])
    def test_every_protocol(self, tmp_path, protocol, indices):
        poisoned = read_poisons(make_folder(tmp_path, protocol=protocol, indices=indices))
        np.testing.assert_array_equal(poisoned.indices, INDICES)
        np.testing.assert_array_equal(poisoned.images, planes(POISONS))
        np.testing.assert_array_equal(poisoned.labels, np.full(5, 6))
        np.testing.assert_array_equal(poisoned.targets, planes(TARGET)[None])
        np.testing.assert_array_equal(poisoned.target_labels, [2])
        assert poisoned.adversarial_label == 6
        assert poisoned.patch is None

    @pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
    def test_a_triggered_target(self, tmp_path, kind):
        patch = RNG.random((3, 5, 5)).astype(np.float32)
        target = (Image.fromarray(TARGET), np.int64(2), kind(patch), (10, 20))
        poisoned = read_poisons(make_folder(tmp_path, target=target))
        expected = planes(TARGET).copy()
        expected[:, 10:15, 20:25] = np.rint(patch * 255)
        np.testing.assert_array_equal(poisoned.triggered_targets()[0], expected)
        np.testing.assert_array_equal(poisoned.targets[0], planes(TARGET))

    def test_sleeper_agents_sources(self, tmp_path):
        source = [(Image.fromarray(image), i) for i, image in enumerate(POISONS)]
        poisoned = read_poisons(make_folder(tmp_path, target=None, source=source))
        np.testing.assert_array_equal(poisoned.targets, planes(POISONS))
        np.testing.assert_array_equal(poisoned.target_labels, range(5))

    def test_grey_images(self, tmp_path):
        grey = [(Image.fromarray(image[..., 0]), 6) for image in POISONS]
        target = (Image.fromarray(TARGET[..., 0]), 2)
        poisoned = read_poisons(make_folder(tmp_path, poisons=grey, target=target))
        np.testing.assert_array_equal(poisoned.images, POISONS[:, None, :, :, 0])

    def test_tensors_in_place_of_images(self, tmp_path):
        poisons = [(torch.tensor(planes(image)) / 255, 6) for image in POISONS]
        poisoned = read_poisons(make_folder(tmp_path, poisons=poisons))
        np.testing.assert_array_equal(poisoned.images, planes(POISONS))

    def test_a_tensor_that_is_a_view(self, tmp_path):
        view = torch.arange(100)[3:53].reshape(5, 10).T[2]
        poisoned = read_poisons(make_folder(tmp_path, indices=view))
        np.testing.assert_array_equal(poisoned.indices, view.numpy())


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_from_numpy_1_and_python_2(dtype, order):
    array = np.asarray(RNG.integers(0, 2, (3, 4)), dtype=dtype, order=order)
    new = pickle.dumps([array, array[0, 0], array[:, 1]], protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for content, encoding in ((new, "ASCII"), (old, "ASCII"), (old, "bytes"), (old, "latin1")):
        ours = restricted_load(io.BytesIO(content), encoding=encoding)
        for a, b in zip(ours, pickle.loads(new), strict=True):  # noqa: S301
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


class TestMetaPoison:
    def write(self, path, n=10_000, kind="u1"):
        x = np.zeros((n, 2, 2, 3), np.uint8)
        x[:, 0, 0, 0], x[:, 0, 0, 1] = np.divmod(np.arange(n), 256)
        parts = {
            "xtrain": x.astype(kind),
            "ytrain": np.repeat([0, 1], 5000)[:n],
            "xtarget": TARGET[None, :2, :2].astype(np.float32),
            "ytarget": np.array([2]),
            "ytargetadv": [1],
        }
        write(path, parts)
        return x

    @pytest.mark.parametrize("kind", ["u1", "f4"])
    def test_the_poisons_are_the_first_of_their_class(self, tmp_path, kind):
        x = self.write(tmp_path / "meta.pkl", kind=kind)
        poisoned = read_poisons(tmp_path / "meta.pkl")
        np.testing.assert_array_equal(poisoned.indices, np.arange(5000, 5500))
        np.testing.assert_array_equal(poisoned.images, planes(x[5000:5500]))
        np.testing.assert_array_equal(poisoned.targets, planes(TARGET[:2, :2])[None])
        assert poisoned.adversarial_label == 1

    def test_its_training_set_takes_the_place_of_ours(self, tmp_path):
        x = self.write(tmp_path / "meta.pkl")
        images, labels = read_poisons(tmp_path / "meta.pkl").apply(np.zeros((3, 3, 2, 2)), [0] * 3)
        np.testing.assert_array_equal(images, planes(x))
        np.testing.assert_array_equal(labels, np.repeat([0, 1], 5000))

    def test_a_part_of_a_training_set(self, tmp_path):
        self.write(tmp_path / "meta.pkl", n=5499)
        with pytest.raises(ValueError, match="whole class-sorted training set, of 5500"):
            read_poisons(tmp_path / "meta.pkl")


def test_benchmark_setups(tmp_path):
    setup = {"target class": 3, "target index": 17, "base class": 5, "base indices": INDICES}
    write(tmp_path / "setups.pickle", [setup] * 2)
    first, second = read_setups(tmp_path / "setups.pickle")
    assert (first.target_class, first.target_index, second.base_class) == (3, 17, 5)
    np.testing.assert_array_equal(first.base_indices, INDICES)
    with pytest.raises(ValueError, match="not a file of MetaPoison's"):
        read_poisons(tmp_path / "setups.pickle")
    write(tmp_path / "setups.pickle", [{"target class": 3}])
    with pytest.raises(ValueError, match="a list of dicts with base class"):
        read_setups(tmp_path / "setups.pickle")


class TestApply:
    def test_puts_the_poisons_in_and_changes_nothing_else(self, tmp_path):
        poisoned = read_poisons(make_folder(tmp_path))
        clean = np.zeros((50, 3, 32, 32), np.uint8)
        images, labels = poisoned.apply(clean, np.full(50, 6))
        np.testing.assert_array_equal(images[INDICES], poisoned.images)
        assert not clean.any()
        assert not np.delete(images, INDICES, axis=0).any()
        np.testing.assert_array_equal(labels, np.full(50, 6))

    def test_perturbation(self, tmp_path):
        poisoned = read_poisons(make_folder(tmp_path))
        clean = np.zeros((50, 3, 32, 32), np.uint8)
        clean[INDICES] = np.where(poisoned.images >= 8, poisoned.images - 8, 8)
        assert poisoned.perturbation(clean) == 8

    def test_indices_outside_the_data(self, tmp_path):
        poisoned = read_poisons(make_folder(tmp_path))
        with pytest.raises(ValueError, match=r"2 of 5 poisons lie outside .* of 20 examples; .*40"):
            poisoned.apply(np.zeros((20, 3, 32, 32), np.uint8), np.zeros(20, int))

    @pytest.mark.parametrize(
        "labels", [np.zeros(50), np.zeros((50, 1), int), np.full(50, "a"), np.zeros(50, bool)]
    )
    def test_labels_that_are_not_integers(self, tmp_path, labels):
        poisoned = read_poisons(make_folder(tmp_path))
        with pytest.raises(ValueError, match="labels must be integers"):
            poisoned.apply(np.zeros((50, 3, 32, 32), np.uint8), labels)

    def test_a_label_for_which_the_type_has_no_room(self, tmp_path):
        poisons = [(Image.fromarray(image), 300) for image in POISONS]
        poisoned = read_poisons(make_folder(tmp_path, poisons=poisons))
        with pytest.raises(ValueError, match="no room for a poison's 300"):
            poisoned.apply(np.zeros((50, 3, 32, 32), np.uint8), np.zeros(50, np.uint8))

    @pytest.mark.parametrize(
        "images", [np.zeros((50, 1, 1, 1), np.uint8), np.zeros((50, 3, 32, 32), np.float32)]
    )
    def test_perturbation_from_images_of_another_shape_or_type(self, tmp_path, images):
        poisoned = read_poisons(make_folder(tmp_path))
        with pytest.raises(ValueError, match="images must be uint8"):
            poisoned.perturbation(images)

    def test_images_of_another_shape_or_type(self, tmp_path):
        poisoned = read_poisons(make_folder(tmp_path))
        with pytest.raises(ValueError, match="images must be uint8"):
            poisoned.apply(np.zeros((50, 3, 28, 28), np.uint8), np.zeros(50, int))
        with pytest.raises(ValueError, match="images must be uint8"):
            poisoned.apply(np.zeros((50, 3, 32, 32)), np.zeros(50, int))


class TestDamaged:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read_poisons(tmp_path / "nowhere")
        make_folder(tmp_path, base_indices=None)
        with pytest.raises(FileNotFoundError, match=r"base_indices\.pickle"):
            read_poisons(tmp_path)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"indices": INDICES[:4]}, "4 indices do not fit 5 images"),
            ({"indices": [1, 2, 3, 4, -5]}, "indices must be 0 or greater, got -5"),
            ({"indices": [1, 2, 3, 4, 4]}, "distinct"),
            ({"indices": INDICES / 2}, "must be integers, got float64"),
            ({"indices": "abc"}, "must be numbers"),
            ({"poisons": []}, "poisons.pickle must hold a list"),
            ({"poisons": [1, 2]}, "poisons.pickle must hold pairs"),
            ({"poisons": [(Image.fromarray(TARGET), "cat")]}, "must be numbers"),
            ({"poisons": [(torch.randn(3, 4, 4), 1)]}, "look standardized"),
            ({"poisons": [(np.zeros((5, 4, 4)), 1)]}, "must have 1 or 3 channels"),
            ({"target": (Image.fromarray(TARGET), 2, 3)}, r"target.pickle must hold"),
        ],
    )
    def test_contents(self, tmp_path, files, message):
        with pytest.raises(ValueError, match=message):
            read_poisons(make_folder(tmp_path, **files))

    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="is not a file"):
            read_poisons(tmp_path / "pipe")
        with pytest.raises(ValueError, match="is not a file"):
            read_setups(tmp_path)

    def test_images_of_different_sizes(self, tmp_path):
        poisons = [(Image.new("RGB", (n, n)), 6) for n in (4, 4, 4, 4, 5)]
        with pytest.raises(ValueError, match="different sizes"):
            read_poisons(make_folder(tmp_path, poisons=poisons))

    def test_a_truncated_or_foreign_file(self, tmp_path):
        for content in (pickle.dumps(INDICES)[:-20], b"", b"PK\x03\x04", b"\x80\x04K\x01"):
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(ValueError, match="damaged or not a pickle"):
                read_poisons(tmp_path / "x")


class Reduced:
    """Pickles as a call of anything with anything, and then a state."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def hostile_dtype(code):
    """Bytes that NumPy would take for object pointers: a record type that hides its objects."""
    return Reduced(
        np.dtype, code, state=(3, "|", None, ("o",), {"o": (np.dtype("u8"), 0)}, 8, 1, 0)
    )


def op(module, name):
    return b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"


CALLS = {
    "posix.system": Reduced(os.system, "touch owned"),
    "builtins.eval": Reduced(eval, "open('owned', 'w')"),
    "builtins.exec": Reduced(exec, "open('owned', 'w')"),
    "builtins.getattr": Reduced(getattr, [], "append"),
    "builtins.__import__": Reduced(__import__, "os"),
    "subprocess.Popen": Reduced(subprocess.Popen, ["touch", "owned"]),
    "numpy.load": Reduced(np.load, "owned.npy", None, True),
    "numpy.fromfile": Reduced(np.fromfile, "/etc/passwd"),
    "torch.serialization.load": Reduced(torch.load, "owned.pt"),
    "pickle.loads": Reduced(pickle.loads, b""),
    "io.open": Reduced(open, "owned", "w"),
    "PIL.Image.open": Reduced(Image.open, "owned"),
    "collections.defaultdict": collections.defaultdict(list),
    "copyreg._reconstructor": Reduced(
        __import__("copyreg")._reconstructor, np.ndarray, object, None
    ),
    "builtins.bytearray": Reduced(bytearray, 10**13),
}


class TestHostile:
    @pytest.mark.parametrize("refused", CALLS)
    def test_calls_are_refused_by_name(self, tmp_path, monkeypatch, refused):
        monkeypatch.chdir(tmp_path)
        make_folder(tmp_path, indices=CALLS[refused])
        with pytest.raises(ValueError, match="refused") as caught:
            read_poisons(tmp_path)
        assert refused in str(caught.value)
        assert "base_indices.pickle" in str(caught.value)
        assert not list(tmp_path.glob("owned*"))

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            (b"PIL.Image", b"Image.__init__.__globals__"),
            (b"numpy", b"dtype.__class__"),
            (b"collections", b"OrderedDict.__init_subclass__"),
            (b"torch.storage", b"io.open"),
        ],
    )
    def test_dotted_names_reach_nothing(self, module, name):
        with pytest.raises(ValueError, match="refused " + module.decode()):
            restricted_load(io.BytesIO(b"\x80\x04" + op(module, name) + b"."))

    def test_a_storage_is_not_a_way_around(self):
        inner = pickle.dumps(Reduced(os.system, "touch owned"))
        for inside in (inner, legacy(Reduced(os.system, "touch owned"))):
            with pytest.raises(ValueError, match=r"damaged|refused"):
                restricted_load(
                    io.BytesIO(pickle.dumps(Reduced(torch.storage._load_from_bytes, inside)))
                )
        assert not os.path.exists("owned")

    @pytest.mark.parametrize("target", [b"numpy\ndtype", b"numpy\nndarray", b"PIL.Image\nImage"])
    def test_a_state_cannot_change_what_is_allowed(self, target):
        """BUILD on a name itself, with a dict of attributes, plain and as slots."""
        for state in ({"_function": 1, "__setstate__": 2}, (None, {"_function": 1})):
            built = b"\x80\x02c" + target + b"\n" + pickle.dumps(state, 2)[2:-1] + b"b."
            with pytest.raises(ValueError, match=r"refused|damaged"):
                restricted_load(io.BytesIO(built))
        image = pickle.dumps([np.arange(3), Image.new("L", (2, 2))])
        array, image = restricted_load(io.BytesIO(image))
        assert array.sum() == 3
        assert image.pixels.shape == (2, 2, 1)

    def test_arrays_of_objects_and_records(self):
        for dtype in ("O", "i4,f4", "U3", "M8[s]"):
            with pytest.raises(ValueError, match="only plain numbers"):
                restricted_load(io.BytesIO(pickle.dumps(np.zeros(2, dtype))))

    @pytest.mark.parametrize("code", ["V8", "u8"])
    def test_a_forged_dtype(self, code):
        array = Reduced(
            np.empty(0).__reduce__()[0],
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1,), hostile_dtype(code), False, b"\x41" * 8),
        )
        with pytest.raises(ValueError, match="only plain numbers"):
            restricted_load(io.BytesIO(pickle.dumps(array)))

    def test_sizes_that_the_file_does_not_hold(self):
        huge = (10**6, 10**6)
        reconstruct = np.empty(0).__reduce__()[0]
        state = (1, huge, np.dtype("u1"), False, b"abc")
        image = Reduced(Image.Image, state=[{}, "RGB", huge, None, b"abc"])
        tensor = torch.zeros(3).__reduce_ex__(2)
        forged = (tensor[1][0], 0, huge, (1, 1), *tensor[1][4:])
        for value in (
            Reduced(reconstruct, np.ndarray, (0,), b"b", state=state),
            image,
            Reduced(tensor[0], *forged),
            Reduced(tensor[0], tensor[1][0], 2**40, (1,), (1,), *tensor[1][4:]),
            Reduced(tensor[0], tensor[1][0], 1, (2,), (-1,), *tensor[1][4:]),
        ):
            with pytest.raises(ValueError, match=r"damaged|refused"):
                restricted_load(io.BytesIO(pickle.dumps(value)))

    def test_a_memo_that_is_too_large(self):
        with pytest.raises(ValueError, match="damaged"):
            restricted_load(io.BytesIO(b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1)))

    def test_persistent_ids(self):
        with pytest.raises(ValueError, match="persistent id"):
            restricted_load(io.BytesIO(b"Px\n."))


def legacy(value):
    """A file of torch.save's old kind whose object is `value`."""
    out = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, []):
        pickle.dump(part, out, protocol=2)
    return out.getvalue()
