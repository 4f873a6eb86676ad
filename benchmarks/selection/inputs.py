"""Inputs of the benchmarks: gradients and embeddings of a small network on Fashion-MNIST.

    python -m benchmarks.selection.inputs

trains it (about two minutes) and saves data/selection/fashion-mnist.npz: `gradients` (60000, 10),
`embeddings` (60000, 512) float32 and `labels`, in the order of the training set.
"""

from pathlib import Path

import numpy as np

FILE = Path("data/selection/fashion-mnist.npz")


def load():
    """Real inputs where they were made, synthetic ones of the same shape otherwise."""
    if FILE.exists():
        with np.load(FILE) as saved:
            return {**saved}
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 6000)
    # Like real ones after a few epochs: nearly all tiny, a few large.
    scores = random.normal(size=(60000, 10)) + 8 * np.eye(10)[labels] * random.random((60000, 1))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradients = (p - np.eye(10)[labels]).astype(np.float32)
    embeddings = random.normal(size=(60000, 512)).astype(np.float32)
    return {"gradients": gradients, "embeddings": embeddings, "labels": labels}


def main():
    import torch

    from subsel.defense import datasets, last_layer_gradients, train
    from subsel.defense.files import written_whole
    from subsel.defense.models import small_cnn

    data = datasets.load("fashion-mnist")
    dataset = torch.utils.data.TensorDataset(
        torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    )
    torch.manual_seed(0)
    model = small_cnn(10, data.train_images.shape[1:], data.mean, data.std)
    result = train(model, dataset, epochs=5, lr=0.05, drops=(), weight_decay=0.0, seed=0)
    print(f"accuracy while training: {result.history[-1]['train_accuracy']:.3f}")
    gradients, labels = last_layer_gradients(model, dataset)
    model[-1] = torch.nn.Identity()
    model.eval()
    with torch.inference_mode():
        embeddings = torch.cat([model(x) for x in dataset.tensors[0].split(1000)]).numpy()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(FILE) as part:
        np.savez(part, gradients=gradients, labels=labels, embeddings=embeddings)


if __name__ == "__main__":
    main()
