"""Inputs of the benchmarks: arrays in data/selection/, real ones where they can be.

    python -m benchmarks.selection.inputs                     # about two minutes
    python -m benchmarks.selection.inputs augmented imagenet  # only for the largest workloads

The first trains a small network on Fashion-MNIST and saves what it makes of the training set, in
its order: `gradients` (60000, 10) at the last layer, `embeddings` (60000, 768) and `embeddings_64`
(60000, 64) of the two layers before it, and `labels`. `augmented` (1000000, 64) are embeddings of
training images shifted, flipped and blurred by noise at random. `imagenet` is synthetic: rows like
last-layer gradients in ImageNet's shape, 1000 classes of 1300, one class after the other, in 1000
dimensions (5.2 GB) and projected to 64.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from subsel.files import written_whole

FOLDER = Path("data/selection")
NETWORK = FOLDER / "network.pt"
SMALL = {"gradients": 10, "embeddings": 768, "embeddings_64": 64}  # columns of each
CLASSES, PER_CLASS = 1000, 1300


def load(name):
    """One array, memory-mapped; synthetic of the same shape if no file was made and it is small."""
    if made(name):
        return np.load(FOLDER / f"{name}.npy", mmap_mode="r")
    labels = np.repeat(np.arange(10), 6000)
    if name == "labels":
        return labels
    if name not in SMALL:
        raise FileNotFoundError(f"no {name}.npy in {FOLDER}: python -m benchmarks.selection.inputs")
    random = np.random.default_rng(0)
    if name == "gradients":
        return gradient_like(labels, 10, random)
    centers = random.normal(size=(10, SMALL[name])).astype(np.float32)
    return centers[labels] + random.standard_normal((60000, SMALL[name]), np.float32)


def noisy_embeddings(n, d, step):
    """Any number of rows of 64 or 768 columns, float32, in blocks of `step`; the same at each call.

    They are embeddings of training images, drawn at random, each with a tenth of the columns'
    deviation added as noise.
    """
    source = load({64: "embeddings_64", 768: "embeddings"}[d])
    noise = 0.1 * source[:10_000].std(axis=0)
    random = np.random.default_rng(0)
    for start in range(0, n, step):
        block = source[random.integers(len(source), size=min(step, n - start))]
        block += noise * random.standard_normal(block.shape, np.float32)
        yield block


def made(name):
    """Whether the array lies in its file."""
    return (FOLDER / f"{name}.npy").exists()


def gradient_like(labels, n_classes, random):
    """softmax(z) - onehot(y) of random scores: like real ones, nearly all tiny and a few large."""
    habits = np.random.default_rng(1).standard_normal((n_classes, n_classes), np.float32)
    z = habits[labels] + random.standard_normal((len(labels), n_classes), np.float32)
    rows = np.arange(len(labels))
    z[rows, labels] += np.log(n_classes) + 8 * random.random(len(labels), np.float32)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    z[rows, labels] -= 1
    return z


def make_fashion():
    """Train the network; save it, its gradients and embeddings."""
    import torch

    from subsel.defense import last_layer_gradients, train

    dataset, model = fashion()
    result = train(model, dataset, epochs=5, lr=0.05, drops=(), weight_decay=0.0, seed=0)
    print(f"accuracy while training: {result.history[-1]['train_accuracy']:.3f}")
    gradients, labels = last_layer_gradients(model, dataset)
    model.eval()
    with torch.inference_mode():
        batches = dataset.tensors[0].split(1000)
        wide = torch.cat([model[:-3](x) for x in tqdm(batches, desc="embeddings")])
        narrow = model[-3:-1](wide)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with written_whole(NETWORK) as part:
        torch.save(model.state_dict(), part)
    arrays = {"gradients": gradients, "labels": labels,
              "embeddings": wide.numpy(), "embeddings_64": narrow.numpy()}  # fmt: skip
    for name, array in arrays.items():
        with written_whole(FOLDER / f"{name}.npy") as part:
            np.save(part, array)


def fashion():
    """The data set, as torch's, and the network: small_cnn with layers of 768 and 64 at its end."""
    import torch
    from torch import nn

    from subsel.defense import datasets
    from subsel.defense.models import small_cnn

    data = datasets.load("fashion-mnist")
    dataset = torch.utils.data.TensorDataset(
        torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    )
    torch.manual_seed(0)
    trunk = small_cnn(10, data.train_images.shape[1:], data.mean, data.std)[:-3]
    model = trunk.extend([nn.Linear(576, 768), nn.ReLU(), nn.Linear(768, 64), nn.ReLU()])
    return dataset, model.append(nn.Linear(64, 10))


def make_augmented(n=1_000_000, batch=1000):
    """Embeddings of random variants of the training images, in a random order of images."""
    import torch

    from subsel.defense.augment import flip_and_crop

    if not NETWORK.exists():
        make_fashion()
    dataset, model = fashion()
    model.load_state_dict(torch.load(NETWORK, weights_only=True))
    model.eval()
    images = dataset.tensors[0]
    random = torch.Generator().manual_seed(0)

    def variants(count):
        drawn = images[torch.randint(len(images), (count,), generator=random)]
        moved = flip_and_crop(drawn, random, padding=2) / 255
        return moved + 0.05 * torch.randn(moved.shape, generator=random)

    with torch.inference_mode():
        write("augmented", (n, 64), (model[:-1](variants(batch)) for _ in range(n // batch)))


def make_imagenet():
    """Gradient-like rows, class by class, and their random projection."""
    random = np.random.default_rng(0)
    rows = (gradient_like(np.full(PER_CLASS, c), CLASSES, random) for c in range(CLASSES))
    write("imagenet", (CLASSES * PER_CLASS, CLASSES), rows)
    projection = random.standard_normal((CLASSES, 64), np.float32) / 8
    blocks = np.array_split(load("imagenet"), CLASSES)
    write("imagenet_64", (CLASSES * PER_CLASS, 64), (block @ projection for block in blocks))


def write(name, shape, blocks):
    """A float32 file larger than one likes to hold, block of rows by block of rows."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with written_whole(FOLDER / f"{name}.npy") as part:
        out = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        start = 0
        with tqdm(total=shape[0], desc=name, unit="row", unit_scale=True) as bar:
            for block in blocks:
                out[start : start + len(block)] = block
                start += len(block)
                bar.update(len(block))
        out.flush()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    makers = {"fashion": make_fashion, "augmented": make_augmented, "imagenet": make_imagenet}
    parser.add_argument("what", nargs="*", help=f"of {', '.join(makers)} (default: fashion)")
    args = parser.parse_args()
    if unknown := set(args.what) - set(makers):
        parser.error(f"{', '.join(unknown)} is none of {', '.join(makers)}")
    for what in args.what or ["fashion"]:
        makers[what]()


if __name__ == "__main__":
    main()
