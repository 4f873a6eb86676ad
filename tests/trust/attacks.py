"""Attacks on the readers of files, made by code; each must be refused."""

import collections
import copyreg
import gzip
import io
import pickle
import struct
import tarfile
import zlib
from functools import cache

import numpy as np
import torch
from PIL import Image

from tests.trust.corpus import (
    Case,
    arrays,
    cifar,
    cifar_members,
    dumped,
    fashion,
    folder,
    idx,
    jpeg,
    metapoison,
    setups,
    tiny,
)

__all__ = ["attacks"]

FROMBUFFER = np.empty(1).__reduce_ex__(5)[0]
REBUILD = torch.zeros(1).__reduce_ex__(2)[0]
RECONSTRUCT = np.empty(0).__reduce__()[0]


class Call:
    """Pickles as a call of anything with anything, and then a state."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


# Raw instructions: the pieces below push what their names say.


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def of(function):
    return name(function.__module__, function.__name__)


def value(thing):
    return pickle.dumps(thing, 2)[2:-1]


def put(i):
    return b"r" + struct.pack("<I", 1000 + i)


def get(i):
    return b"j" + struct.pack("<I", 1000 + i)


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def whole(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def array(content):
    """An array of bytes, filled by a first state."""
    dtype = value(np.dtype("u1"))
    state = b"(" + b"".join([value(1), value((len(content),)), dtype, b"\x89", value(content)])
    made = call(of(RECONSTRUCT), name("numpy", "ndarray"), value((0,)), value(b"b"))
    return made + put(1) + state + b"tb"


def second_state(content):
    state = b"(" + b"".join(
        [value(1), value((len(content),)), value(np.dtype("u1")), b"\x89", value(content)]
    )
    return get(1) + state + b"tb0"


def doubled(start, pair, times=60):
    """Each level holds the one below twice: small in the file, 2**times when unfolded."""
    return start + b"".join(put(i) + get(i) + pair for i in range(times))


def tensor(size, stride, offset=0, storage=None):
    storage = torch.zeros(150, dtype=torch.uint8) if storage is None else storage
    return Call(
        REBUILD,
        storage.__reduce_ex__(2)[1][0],
        offset,
        size,
        stride,
        False,
        collections.OrderedDict(),
    )


def legacy_storage(count, content, count_after=None, kind="FloatStorage", key="0", keys=None):
    """A file of torch.save's old kind with one storage in it."""
    stand_in = b"(" + b"".join(
        [value("storage"), name("torch", kind), value(key), value("cpu"), value(count), b"N"]
    )
    parts = [
        dumped(0x1950A86A20F9469CFC6C, 2),
        dumped(1001, 2),
        dumped({"little_endian": True}, 2),
        whole(stand_in, b"tQ"),
        dumped([key], 2) if keys is None else keys,
    ]
    return b"".join(parts) + struct.pack("<q", count_after or count) + content


def image(mode, size, data):
    return Call(Image.Image, state=[{}, mode, size, None, data])


def header(name, size, kind=b"0", extra=b""):
    """A tar header with its size field as given, octal digits or raw bytes."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    raw[156:157] = kind
    raw[345 : 345 + len(extra)] = extra
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def opened(kind):
    """An image as Image.open gives it."""
    result = Image.open(io.BytesIO(jpeg(Image.new("RGB", (8, 8)), kind)))
    result.load()
    return result


@cache
def attacks() -> dict[str, Case]:
    """Cases that must be refused, in one plain sentence and within the bounds."""
    return {
        f"{group}: {what}": case
        for group, cases in (
            ("freed memory", _freed()),
            ("beyond the end", _beyond()),
            ("endless", _endless()),
            ("amplified", _amplified()),
            ("image formats", _image_formats()),
            ("values", _values()),
            ("near misses", _near_misses()),
        )
        for what, case in cases.items()
    }


# Each attack stands where the rest of the set is whole, so that a reader that takes it goes on.


def indices(*parts):
    """Setups whose base indices are what raw instructions push."""
    setup = [value("target class"), value(3), value("target index"), value(17)]
    setup += [value("base class"), value(5), value("base indices"), *parts]
    return Case("setups", {"setups.pickle": whole(b"](}(", *setup, b"ue")})


def indices_of(thing):
    """Setups whose base indices are an object."""
    return setups(**{"base indices": thing})


def poisons(*pairs):
    """A folder with these pairs as poisons, and the first as the target."""
    return folder(poisons=list(pairs), base_indices=list(range(len(pairs))), target=pairs[0])


def poison(*parts, side=2):
    """A folder with one poison, a list of one pair that raw instructions push."""
    target = (Image.new("L", (side, side)), 2)
    return folder(poisons=whole(*parts), base_indices=[0], target=target)


def _freed():
    u1 = value(np.dtype("u1"))
    old, new = b"\1" * 4096, b"\2" * 8
    shape = value((4096,))
    from_array = call(of(FROMBUFFER), get(1), u1, shape, value("C"))
    image_of_array = name("PIL.Image", "Image") + b")\x81" + put(2)
    state = b"(" + value({}) + value("L") + value((64, 64)) + b"N" + get(1) + b"lb"
    filled = b"(" + value({}) + value("L") + value((2, 2)) + b"N" + value(b"abcd") + b"lb"
    return {
        "frombuffer of an array with a second state": indices(
            array(old), b"0", from_array, put(3), second_state(new)
        ),
        "an array with a second state": indices(array(old), second_state(new)),
        "an image of an array with a second state": poison(
            array(old),
            b"0](",
            image_of_array,
            state,
            value(6),
            b"\x86",
            second_state(new),
            b"e",
            side=64,
        ),
        "an image with a second state": poison(
            b"](", image_of_array, filled, filled, value(6), b"\x86e"
        ),
        "an array without its state": indices(
            call(of(RECONSTRUCT), name("numpy", "ndarray"), value((0,)), value(b"b"))
        ),
    }


def _beyond():
    u8, forged = np.uint8, np.int64
    meta = dumped(metapoison())  # an object that is not known: refused by name
    return {
        "sizes that wrap round": indices_of(tensor((u8(200),), (u8(2),))),
        "an offset that wraps round": indices_of(tensor((2,), (1,), forged(2**63 - 1))),
        "strides that wrap round": indices_of(tensor((forged(3), 2), (forged(2**62), 1))),
        "a negative stride": indices_of(tensor((2,), (-1,), 1)),
        "a float as a size": indices_of(tensor((2.0,), (1,))),
        "an array as a size": indices_of(tensor((np.array([2]),), (1,))),
        "a storage shorter than it says": indices_of(
            Call(torch.storage._load_from_bytes, legacy_storage(10**9, b"\0" * 8)),
        ),
        "a storage of a negative count": indices_of(
            Call(torch.storage._load_from_bytes, legacy_storage(-1, b"\0" * 8))
        ),
        "an array shorter than it says": indices_of(
            Call(
                RECONSTRUCT,
                np.ndarray,
                (0,),
                b"b",
                state=(1, (10**6, 10**6), np.dtype("u1"), False, b"abc"),
            )
        ),
        "an image shorter than it says": poisons((image("RGB", (10**5, 10**5), b"abc"), 6)),
        "an image of wrapping size": poisons((image("L", (u8(16), u8(16)), b""), 6)),
        "an image of negative size": poisons((image("L", (-2, -2), b"abcd"), 6)),
        "bytes beyond the file": indices(b"\x8e" + struct.pack("<Q", 1 << 40), b"abc"),
        "a bytearray beyond the file": indices(b"\x96" + struct.pack("<Q", 1 << 62), b"abc"),
        "text beyond the file": indices(b"\x8d" + struct.pack("<Q", 1 << 33), b"abc"),
        "an integer beyond the file": indices(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        "a memo of four billion": indices(b"K\1r" + struct.pack("<I", 2**32 - 1), b"0"),
        "an unknown object": Case("metapoison", {"meta.pickle": meta}),
    }


def _endless():
    storage = name("torch.storage", "_load_from_bytes")
    deep_tuple = doubled(b")", b"\x86")
    other = doubled(b")", b"\x86")
    big = b"\x8b" + struct.pack("<i", 3_000_000) + b"\x7f" * 3_000_000
    return {
        "a list that contains itself": indices(b"]", put(0), get(0), b"a"),
        "a list that contains itself as an image": poison(
            b"](]", put(0), get(0), b"a", value(6), b"\x86e"
        ),
        "a list that contains itself twice": indices(b"]", put(0), b"(", get(0), get(0), b"e"),
        "a list that contains itself twice as an image": poison(
            b"](]", put(0), b"(", get(0), get(0), b"e", value(6), b"\x86e"
        ),
        "a list that contains itself as poisons": poison(b"]", put(0), get(0), b"a"),
        "a dict that contains itself": indices(b"}", put(0), value("a"), get(0), b"s"),
        "lists a hundred thousand deep": indices(b"]" * 100_000, b"a" * 99_999),
        "tuples a hundred thousand deep": indices(b")", b"\x85" * 100_000),
        "dicts a thousand deep": indices(b"}K\1" * 1000, b"}", b"s" * 1000),
        "two to the power of sixty": indices(doubled(b"]", b"\x86")),
        "two to the power of sixty as an image": poison(
            b"](", doubled(b"]", b"\x86"), value(6), b"\x86e"
        ),
        "a key that is hashed for ever": indices(b"}", deep_tuple, b"Ns"),
        "a name that is hashed for ever": indices(deep_tuple, value("a"), b"\x93"),
        "a mode that is printed for ever": poison(
            b"](",
            name("PIL.Image", "Image"),
            b")\x81(N",
            deep_tuple,
            value((2, 2)),
            b"N",
            value(b"abcd"),
            b"tb",
            value(6),
            b"\x86e",
        ),
        "a label that is printed for ever": poison(
            b"](", value(np.zeros((1, 2, 2))), deep_tuple, b"\x86e"
        ),
        "a storage's key that is compared for ever": indices(
            call(
                storage,
                value(
                    b"".join(
                        [
                            dumped(0x1950A86A20F9469CFC6C, 2),
                            dumped(1001, 2),
                            dumped({"little_endian": True}, 2),
                            whole(
                                b"(",
                                value("storage"),
                                name("torch", "FloatStorage"),
                                deep_tuple,
                                value("cpu"),
                                value(0),
                                b"NtQ",
                            ),
                            whole(b"]", other, b"a"),
                            struct.pack("<q", 0),
                        ]
                    )
                ),
            )
        ),
        "sizes of millions of digits": indices(
            call(of(RECONSTRUCT), name("numpy", "ndarray"), value((0,)), value(b"b")),
            b"(K\1(",
            big + put(5) + get(5) * 6,
            b"t",
            value(np.dtype("u1")),
            b"\x89",
            value(b"a"),
            b"tb",
        ),
        "keys that collide": indices(b"}(", *(value(k << 40) + b"N" for k in range(20_000)), b"u"),
        "a million instructions": indices(b"N0" * 600_000, b"]"),
        "a million marks": indices(b"(" * 1_000_001, b"]"),
        "a number of a million digits": indices(b"L" + b"9" * 1_000_000 + b"L\n"),
    }


def _amplified():
    big = image("L", (64, 64), bytes(4096))
    pixel = np.zeros((1, 1, 1), np.uint8)
    zeros = torch.zeros(1, dtype=torch.uint8)
    text = ["x" * 100_000] + ["y"] * 20_000
    data = value(bytes(65536)) + put(1) + b"0"
    dtype = value(np.dtype("u1")) + put(2) + b"0"
    again = call(of(FROMBUFFER), get(1), get(2), value((65536,)), value("C"))
    encode = call(name("_codecs", "encode"), get(1), value("latin1"))
    one = torch.zeros(1, dtype=torch.uint8)
    images = "train_images"
    zero_header = bytes([0, 0, 8, 3]) + struct.pack(">III", 1000, 1000, 500)
    bomb = inflating(zero_header)
    hidden = inflating(idx(arrays()["fashion"][:6]))
    short = {"cifar-10-binary.tar.gz": b""}

    def tar(*parts, zeros=1024):
        content = inflating(b"".join(parts), zeros)
        return Case("cifar10", short | {"cifar-10-binary.tar.gz": content})

    member = "cifar-10-batches-bin/data_batch_1.bin"
    batch = next(cifar_members("bin"))[1]
    padded = batch + bytes(-len(batch) % 512)
    rest = b"".join(
        header(name, len(content)) + content + bytes(-len(content) % 512)
        for name, content in list(cifar_members("bin"))[1:]
    )
    # GNU's fields of a sparse member: one piece of the batch's length, and the size it stands for.
    fields = struct.pack("41x12s12s73x12s", b"0" * 11, b"%011o" % len(batch), b"7" * 11)
    cases = {
        "a tensor without strides": indices_of(tensor((1 << 40,), (0,))),
        "images without strides": poisons((tensor((3, 20_000, 20_000), (0,) * 3), 6)),
        "one small tensor as ten thousand": poisons(
            *[(tensor((3, 64, 64), (0, 0, 0), 0, zeros), 6)] * 10_000
        ),
        "one image ten thousand times": poisons(*[(big, 6)] * 10_000),
        "one array's bytes ten thousand times": indices(data, dtype, b"(", again * 10_000, b"l"),
        "one text encoded ten thousand times": indices(
            value("a" * 65536), put(1), b"0(", encode * 10_000, b"l"
        ),
        "one storage twenty thousand times": indices_of(
            [one.expand(30_000)] * 1 + [tensor((30_000,), (0,), 0, one)] * 20_000
        ),
        "one empty list a million times": indices(
            b"]", put(1), b"0(", get(1) * 1000, b"l", put(2), b"0(", get(2) * 1000, b"l"
        ),
        "one long text beside short ones": indices_of(text),
        "one long text as a label": poisons(*[(pixel, t) for t in text]),
        "an IDX file that inflates": _gz(images, bomb),
        "an IDX file that goes on": _gz(images, hidden),
        "an IDX file of four billion": fashion(
            train_images=bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"abc"
        ),
        "a member that inflates": tar(header("other", 300_000_000), zeros=300_000_000),
        "a batch that inflates": tar(header(member, 300_000_000), zeros=300_000_000),
        "a batch of eight gigabytes": tar(header(member, (1 << 33) - 1), padded),
        "a batch of ten to the eighteen": tar(
            header(member, b"\x80\0\0\0" + struct.pack(">q", 10**18)), padded
        ),
        "another member of ten to the eighteen": tar(
            header("other", b"\x80" + (10**18).to_bytes(11, "big")), padded
        ),
        "a batch of a negative size": tar(
            header(member, b"\xff\xff\xff\xff" + struct.pack(">q", -512)), padded
        ),
        "a sparse batch": tar(header(member, len(batch), b"S", fields), padded, rest),
        "ten thousand members": tar(*[header("other", 0)] * 10_000),
        "extended headers in a row": tar(*[header("other", 0, b"x")] * 3000),
        "a long name of gigabytes": tar(header("other", (1 << 33) - 1, b"L"), padded),
    }
    return cases


def inflating(start, zeros=300_000_000):
    """A gzip file of `start` and of zeros."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)]
    return b"".join([*parts, packer.compress(bytes(zeros % (1 << 20))), packer.flush()])


def _gz(name, content):
    case = fashion(gz=True)
    case.files["train-images-idx3-ubyte.gz"] = content
    return case


def _image_formats():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EOF\n"
    path = "train/n01/images/n01_0.JPEG"
    grey = Image.new("L", (64, 64), 3)
    large = bytearray(jpeg(grey))
    at = large.index(b"\xff\xc0")
    large[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    rgb = Image.new("RGB", (64, 64))
    return {
        "PostScript": tiny({path: postscript}),
        "PNG": tiny({path: jpeg(rgb, "PNG")}),
        "TIFF": tiny({path: jpeg(rgb, "TIFF")}),
        "65500 pixels a side": tiny({path: bytes(large)}),
        "one pixel": tiny({path: jpeg(Image.new("RGB", (1, 1)))}),
        "one row": tiny({path: jpeg(Image.new("RGB", (64, 1)))}),
        "cut": tiny({path: jpeg(rgb)[:-300]}),
        "empty": tiny({path: b""}),
    }


def _values():
    a = arrays()
    small = Image.new("RGB", (1, 1))
    grey = Image.new("L", (8, 8))
    picture = Image.fromarray(a["target"])
    none = np.empty((0, 8, 8, 3), np.uint8)
    patch = a["patch"]
    nan, batch = float("nan"), np.zeros((2, 3072), np.uint8)
    cases = {
        f"label {label!r}": folder(poisons=[(Image.fromarray(p), label) for p in a["poisons"]])
        for label in (nan, 1.7, 1.0, -1, 2**63, 2**64, True, None, "6", [6, 6], [], {}, 1e300)
    }
    cases |= {
        f"target's label {label!r}": folder(target=(picture, label))
        for label in (nan, 1.7, -1, 2**63, [1, 2])
    }
    cases |= {
        f"CIFAR label {label!r}": cifar("py", False, labels=[0, label])
        for label in (nan, 1.7, 1.0, -1, 10, 2**63, "1", None, [1, 2])
    }
    cases |= {
        f"base index {index!r}": folder(base_indices=[1, 2, 3, 4, index])
        for index in (nan, 0.5, -1, 2**64 - 1, 4, "5")
    }
    cases |= {
        f"position {position!r}": folder(target=(picture, 2, patch, position))
        for position in ((1,), (1, 2, 3), (-1, 0), (7, 0), (0.5, 1), "ab", 2**63, (nan, 1))
    }
    cases |= {
        f"patch {what}": folder(target=(picture, 2, given, (0, 0)))
        for what, given in (
            ("of text", "abc"),
            ("not finite", np.full((3, 2, 2), np.nan)),
            ("empty", np.empty((3, 0, 2))),
            ("too large", np.zeros((3, 9, 9))),
            ("of one channel", np.zeros((1, 2, 2))),
            ("beyond 1", np.full((3, 2, 2), 2.0)),
        )
    }
    cases |= {
        "a target of one pixel": folder(target=(small, 2)),
        "a grey target": folder(target=(grey, 2)),
        "images of no size": poisons((image("RGB", (0, 0), b""), 6)),
        "arrays of no size": poisons((np.empty((3, 0, 0)), 6)),
        "no poisons": folder(poisons=[]),
        "no sources": folder(target=None, source=[]),
        "pixels that are not finite": poisons((np.full((3, 4, 4), np.nan), 6)),
        "pixels that are infinite": poisons((np.full((3, 4, 4), np.inf), 6)),
        "truth values as pixels": poisons((np.ones((3, 4, 4), bool), 6)),
        "ragged images": poisons(([[1, 2], [3]], 6)),
        "no train images": metapoison(xtrain=none[:, :2, :2]),
        "no target image": metapoison(xtarget=none[:, :2, :2], ytarget=[]),
        "a target without label": metapoison(ytarget=[]),
        "two classes wanted": metapoison(ytargetadv=[0, 1]),
        "no class wanted": metapoison(ytargetadv=[]),
        "class -1 wanted": metapoison(ytargetadv=[-1]),
        "class 2**62 wanted": metapoison(ytargetadv=[2**62]),
        "a training label of -1": metapoison(ytrain=np.full(500, -1)),
        "training labels that are floats": metapoison(ytrain=np.full(500, nan)),
        "a target of another size": metapoison(xtarget=a["target"][None]),
        "setups: none": Case("setups", {"setups.pickle": dumped([])}),
        "setups: two classes": setups(**{"target class": [1, 2]}),
        "setups: a float": setups(**{"target index": 1.5}),
        "setups: negative": setups(**{"base indices": [-1]}),
        "setups: no indices": setups(**{"base indices": []}),
        "fashion, test of another size": fashion(t10k_images=idx(np.zeros((3, 2, 2)))),
        "fashion, no images": fashion(
            train_images=idx(np.zeros((0, 4, 5))), train_labels=idx(np.zeros(0))
        ),
        "fashion, images of no size": fashion(
            train_images=idx(np.zeros((6, 0, 5))), t10k_images=idx(np.zeros((3, 0, 5)))
        ),
        "fashion, a single label": fashion(train_labels=idx(np.zeros(()))),
        "CIFAR data as a list": cifar("py", False, data=batch.tolist()),
        "CIFAR data as floats": cifar("py", False, data=batch / 2),
        "tiny, no classes": tiny({"wnids.txt": b""}),
        "tiny, a class twice": tiny({"wnids.txt": b"n01\nn01\nn02"}),
        "tiny, a class elsewhere": tiny({"wnids.txt": b"../../n01\nn01\nn02"}),
        "tiny, a class without a name": tiny({"words.txt": b"n01\tfish\n"}),
        "tiny, names without tabs": tiny({"words.txt": b"n01 fish\n"}),
        "tiny, text that is none": tiny({"words.txt": b"\xff\xfe\0"}),
        "tiny, no test images": tiny({"val/val_annotations.txt": b""}),
        "tiny, one column": tiny({"val/val_annotations.txt": b"val_0.JPEG\n"}),
        "tiny, an unknown class": tiny({"val/val_annotations.txt": b"val_0.JPEG\tn09\n"}),
        "tiny, an image elsewhere": tiny(
            {"val/val_annotations.txt": b"../../train/n01/images/n01_0.JPEG\tn01\n"}
        ),
        "tiny, one image a million times": tiny(
            {"val/val_annotations.txt": b"val_0.JPEG\tn01\n" * 500_000}
        ),
        "tiny, an image that is absent": tiny({"val/images/val_0.JPEG": None}),
        "tiny, no annotations": tiny({"val/val_annotations.txt": None}),
        "tiny, no train images": tiny({f"train/n0{i}/images/n0{i}_0.JPEG": None for i in (1, 2)}),
    }
    return cases


def _near_misses():
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save([1], zipped)
    torch.save([1], old, _use_new_zipfile_serialization=False)
    npy = io.BytesIO()
    np.save(npy, arrays()["indices"])
    given = {
        "torch.save": zipped.getvalue(),
        "torch.save of old": old.getvalue(),
        "numpy.save": npy.getvalue(),
        "gzip": gzip.compress(dumped([1])),
        "a web page": b"<!DOCTYPE html><html></html>",
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "nothing": b"",
        "bfloat16": dumped(torch.zeros(3, dtype=torch.bfloat16)),
        "a parameter": dumped(torch.nn.Parameter(torch.zeros(3))),
        "a sparse tensor": dumped(torch.eye(3).to_sparse_coo()),
    }
    cases = {what: folder(base_indices=content) for what, content in given.items()}
    for kind in ("JPEG", "PNG"):
        cases[f"Image.open of {kind}"] = poisons((opened(kind), 6))
    for mode in ("RGBA", "LA", "P", "1", "I", "F", "CMYK"):
        cases[f"mode {mode}"] = poisons((Image.new(mode, (8, 8)), 6))
    cases["a file of the folder"] = Case("one file", {"poisons.pickle": dumped([(1, 2)])})
    cases["setups as poisons"] = Case(
        "metapoison", {"meta.pickle": setups().files["setups.pickle"]}
    )
    cases["a name with a line break"] = indices(value("os"), value("sys\ntem\r\x1b[2J"), b"\x93")
    cases["reconstructor of an array"] = folder(
        base_indices=Call(copyreg._reconstructor, np.ndarray, object, None)
    )
    return cases
