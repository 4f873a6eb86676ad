"""Image classifiers for the command line. They take pixels as they are stored."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subsel.defense.forms import logits_of, shape_of
from subsel.defense.gradients import evaluating

__all__ = ["MODELS", "Normalize", "build", "resnet18", "small_cnn", "tiny_cnn", "vgg16"]


class Normalize(nn.Module):
    """Scale pixels, uint8 or floats in [0, 1], to zero mean and unit variance per channel.

    Parameters
    ----------
    mean, std : sequences of float, (channels,)
        Mean and standard deviation of the training images, scaled to [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Normalize (n, channels, height, width)."""
        images = images / 255 if images.dtype == torch.uint8 else images
        return (images - self.mean) / self.std


def small_cnn(
    n_classes: int, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Three blocks of convolution, BatchNorm and pooling, a layer of 512 and a linear head.

    Parameters
    ----------
    n_classes : int
    size : (channels, height, width)
    mean, std : sequences of float, (channels,)
    """
    channels, height, width = size
    layers: list[nn.Module] = [Normalize(mean, std)]
    for inner in (16, 32, 64):
        layers += [
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, height, width = inner, height // 2, width // 2
    if min(height, width) == 0:
        raise ValueError(f"size must be 8 x 8 pixels or more, got {size[1]} x {size[2]}")
    layers += [nn.Flatten(), nn.Linear(channels * height * width, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, n_classes))


def tiny_cnn(
    n_classes: int, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Three strided convolutions with BatchNorm, a layer of 128 and a linear head.

    It needs a sixth of the operations of `small_cnn`, for many trainings on a CPU. Parameters are
    those of `small_cnn`.
    """
    channels, height, width = size
    layers: list[nn.Module] = [Normalize(mean, std)]
    for outer in (16, 32, 32):
        layers += [*_convolution(channels, outer, stride=2), nn.ReLU()]
        channels, height, width = outer, (height + 1) // 2, (width + 1) // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * width, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, n_classes))


def resnet18(
    n_classes: int, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """ResNet-18 in its form for small images: a 3 x 3 stem and no first pooling.

    Parameters are those of `small_cnn`.
    """
    channels, width = size[0], 64
    layers: list[nn.Module] = [Normalize(mean, std), *_convolution(channels, width), nn.ReLU()]
    for outer, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(width, outer, stride), _Block(outer, outer)]
        width = outer
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes)]
    return nn.Sequential(*layers)


def vgg16(
    n_classes: int, size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """VGG-16 with BatchNorm and, as is usual for small images, a single linear layer.

    Parameters are those of `small_cnn`.
    """
    width = size[0]
    layers: list[nn.Module] = [Normalize(mean, std)]
    for outer, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [*_convolution(width, outer), nn.ReLU()]
            width = outer
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes)]
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inner, outer, stride=stride), nn.ReLU(), *_convolution(outer, outer)
        )
        same = stride == 1 and inner == outer
        self.shortcut = nn.Sequential(
            *([] if same else _convolution(inner, outer, kernel=1, stride=stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _convolution(inner: int, outer: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outer)]


MODELS = {"tiny-cnn": tiny_cnn, "small-cnn": small_cnn, "resnet18": resnet18, "vgg16": vgg16}


def build(
    name: str,
    n_classes: int,
    size: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Module:
    """A model by its name.

    Parameters
    ----------
    name : str
        One of `MODELS`; ``timm:NAME`` or ``torchvision:NAME``, where these are installed, with
        fresh weights and behind a `Normalize`; or ``module:function`` for a function of your own
        with the other parameters, in a module that Python finds or in the current folder.
    n_classes, size, mean, std
        As of `small_cnn`.

    Raises
    ------
    ValueError
        If there is no such model, or it does not return logits (n, n_classes) for such images.
    ImportError
        If the library or the module is not installed.
    """
    if name in MODELS:
        return MODELS[name](n_classes, size, mean, std)
    source, _, which = name.partition(":")
    if not source or not which:
        raise ValueError(
            f"the model must be one of {', '.join(MODELS)}, timm:NAME, torchvision:NAME or "
            f"module:function, not {name!r}"
        )
    if os.getcwd() not in sys.path:  # the folder of `python -m`, but not of a command
        sys.path.append(os.getcwd())
    try:
        module = import_module("torchvision.models" if source == "torchvision" else source)
    except ModuleNotFoundError as error:
        hint = f": pip install {source}" if source in ("timm", "torchvision") else ""
        raise ImportError(f"model {name}: {error.name} is not installed{hint}") from None
    except (ImportError, OSError, RuntimeError) as error:  # e.g. built for another torch
        raise ImportError(f"model {name}: {source} cannot be imported: {error}") from None
    if source in ("timm", "torchvision"):
        classifiers = {} if source == "timm" else {"module": module}  # no detectors
        if which not in module.list_models(**classifiers):
            raise ValueError(f"{source} has no model {which!r}")
        if source == "timm":
            net = module.create_model(which, num_classes=n_classes, in_chans=size[0])
        else:
            net = module.get_model(which, num_classes=n_classes)
        return _tried(name, nn.Sequential(Normalize(mean, std), net), n_classes, size)
    function = getattr(module, which, None)
    if not callable(function):
        raise ValueError(f"model {name}: {source} has no function {which!r}")
    made = function(n_classes, size, mean, std)
    if not isinstance(made, nn.Module):
        raise ValueError(f"model {name} must return an nn.Module, got {type(made).__name__}")
    return _tried(name, made, n_classes, size)


@torch.no_grad()
def _tried(name: str, model: nn.Module, n_classes: int, size: tuple[int, int, int]) -> nn.Module:
    """The model, after a test that it returns logits for images. Many models take only one size."""
    images = torch.zeros(2, *size, dtype=torch.uint8)
    with evaluating(model):
        try:
            made = logits_of(model(images), len(images))
        except Exception as error:  # an unknown model may raise any error
            shape = " x ".join(map(str, size))
            said = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"model {name} cannot take images of {shape} pixels: {said}"
            ) from error
    n = len(images)
    if (
        not isinstance(made, Tensor)
        or made.ndim != 2
        or len(made) != n
        or made.shape[1] < n_classes
    ):
        raise ValueError(
            f"model {name} must make logits ({n}, {n_classes}) of {n} images, got {shape_of(made)}"
        )
    return model
