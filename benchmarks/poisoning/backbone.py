"""The feature extractor that attacker and victim share: trained once, then frozen."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from subsel.defense.datasets import ImageData
from subsel.defense.gradients import device_of
from subsel.defense.models import MODELS
from subsel.files import written_whole

CPU = torch.device("cpu")


def build(name: str, data: ImageData) -> nn.Sequential:
    """A net for the images, from torch's global random state; its last layer is a linear head."""
    return MODELS[name](len(data.classes), data.train_images.shape[1:], data.mean, data.std)


def pretrain(
    data: ImageData,
    indices: np.ndarray,
    *,
    epochs: int,
    seed: int,
    lr: float = 0.05,
    model_name: str = "small-cnn",
    device: torch.device = CPU,
) -> nn.Sequential:
    """Train an extractor (with a linear head, thrown away) on some of the training images."""
    images = torch.from_numpy(data.train_images[indices])
    labels = torch.from_numpy(data.train_labels[indices])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(model_name, data).to(device, memory_format=torch.channels_last)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    model.train()
    with tqdm(total=epochs * len(images), desc="pretrain backbone", unit="img") as bar:
        for _ in range(epochs):
            right = 0
            for batch in torch.randperm(len(images), generator=order).split(128):
                x, y = to_pixels(images[batch]).to(device), labels[batch].to(device)
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                right += int((logits.argmax(1) == y).sum())
                bar.update(len(batch))
            bar.set_postfix(train_accuracy=f"{right / len(images):.3f}")
    return model[:-1]


def frozen(extractor: nn.Sequential) -> nn.Sequential:
    """Put the extractor in eval mode for good: BatchNorm folded into the convolutions."""
    layers: list[nn.Module] = []
    for layer in extractor.eval():
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).requires_grad_(False).eval()


def load_or_train(
    path: Path, train: Callable[[], nn.Module], empty: Callable[[], nn.Module]
) -> tuple[nn.Module, str]:
    """Return the model kept at `path`, trained if it is not there, and a digest of its state."""
    if not path.exists():
        trained = train()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            torch.save(trained.state_dict(), part)
    state = torch.load(path, weights_only=True, map_location=CPU)
    with torch.random.fork_rng(devices=[]):
        model = empty()
    model.load_state_dict(state)
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values()))
    return model, digest.hexdigest()[:8]


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1], laid out for fast convolutions."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to uint8, on the CPU."""
    return (images.detach() * 255).round().to(torch.uint8).contiguous().cpu()


@torch.no_grad()
def extract(extractor: nn.Module, images: np.ndarray) -> Tensor:
    """Features (n, d) float32, on the CPU, of uint8 images (n, channels, height, width)."""
    device = device_of(extractor)
    parts = torch.from_numpy(images).split(1000)
    return torch.cat([extractor(to_pixels(part).to(device)).cpu() for part in parts])
