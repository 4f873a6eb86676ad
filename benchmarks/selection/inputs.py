"""Inputs of the benchmarks: gradients and embeddings of a small network on Fashion-MNIST.

    python -m benchmarks.selection.inputs

trains it (about two minutes) and saves data/selection/fashion-mnist.npz: `gradients` (60000, 10),
`embeddings` (60000, 512) float32 and `labels`, in the order of the training set.
"""

import io
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
    from subsel.defense.files import write_whole
    from subsel.defense.models import SmallCNN

    data = datasets.load("fashion-mnist")
    images = torch.from_numpy(data.train_images).float().reshape(-1, 1, 28, 28) / 255
    dataset = torch.utils.data.TensorDataset(images, torch.from_numpy(data.train_labels).long())
    torch.manual_seed(0)
    model = SmallCNN(1, 28, 10)
    result = train(model, dataset, epochs=4, lr=0.05, batch_size=128, seed=0)
    print(f"training accuracy {result.history[-1]}")
    gradients, labels = last_layer_gradients(model, dataset)
    embeddings = []
    hook = list(model.modules())[-1].register_forward_pre_hook(
        lambda module, inputs: embeddings.append(inputs[0])
    )
    model.eval()
    with torch.inference_mode():
        for part in images.split(1000):
            model(part)
    hook.remove()
    buffer = io.BytesIO()
    np.savez(buffer, gradients=gradients, labels=labels, embeddings=torch.cat(embeddings).numpy())
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_whole(FILE, buffer.getvalue())


if __name__ == "__main__":
    main()
