"""The net that attacks look at."""

import numpy as np
import pytest
import torch
from toys import TRANSFER

from benchmarks.poisoning import backbone
from benchmarks.poisoning.lab import Lab
from subsel.defense import datasets


def test_folding_batchnorm_changes_nothing(data):
    extractor = backbone.pretrain(data, np.arange(200), epochs=1, seed=0)
    images = data.test_images[:20]
    folded = backbone.extract(backbone.frozen(extractor), images)
    with torch.no_grad():
        plain = extractor.eval()(backbone.to_pixels(torch.from_numpy(images)))
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)


def test_pretraining_is_reproducible_and_leaves_the_global_state_alone(data):
    before = torch.random.get_rng_state()
    first, second = (backbone.pretrain(data, np.arange(150), epochs=1, seed=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_backbone_is_useful_and_kept(lab, data, cache):
    assert lab.clean_accuracy > 0.9
    before = torch.random.get_rng_state()
    again = Lab(TRANSFER, data, cache)
    assert torch.equal(before, torch.random.get_rng_state())
    assert again.digest == lab.digest
    assert len(list(cache.glob("backbone-*"))) == 1
    assert not any(parameter.requires_grad for parameter in lab.extractor.parameters())


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
@pytest.mark.parametrize("side", [28, 32])
def test_larger_nets_can_be_victims_and_extractors(name, side):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, side, side), np.uint8)
    labels, half = np.arange(4) % 3, np.full(3, 0.5, np.float32)
    colour = datasets.ImageData("noise", images, labels, images, labels, tuple("abc"), half, half)
    torch.manual_seed(0)
    net = backbone.build(name, colour).eval()
    with torch.no_grad():
        features = net[:-1](torch.from_numpy(images))
        assert net[-1](features).shape == (4, 3)
    found = backbone.extract(backbone.frozen(net[:-1]), images)
    torch.testing.assert_close(found, features, rtol=1e-3, atol=1e-4)
