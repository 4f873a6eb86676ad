"""last_layer_gradients against autograd, and every input it must refuse."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from pairs import Pairs
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from subsel.defense import EpochLogits, last_layer_gradients

N, C = 37, 4


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 3, 3),
            bn=nn.BatchNorm2d(3),
            relu=nn.ReLU(),
            flat=nn.Flatten(),
            hidden=nn.Linear(48, 8),
            drop=nn.Dropout(0.5),
            head=nn.Linear(8, C),
        )
    )


@pytest.fixture
def net():
    with torch.random.fork_rng():
        return make_net()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 1, 6, 6, generator=generator)
    return x, torch.randint(0, C, (N,), generator=generator)


def autograd(net, x, y, wrt):
    """Per example, by hand: the gradient of the loss at the head's output or input."""
    net = net.eval()
    embedding = net[:-1](x).detach()
    point = (net.head(embedding) if wrt == "logits" else embedding).detach().requires_grad_()
    loss = F.cross_entropy(point if wrt == "logits" else net.head(point), y, reduction="sum")
    return torch.autograd.grad(loss, point)[0].numpy()


@pytest.mark.parametrize("wrt", ["logits", "input"])
@pytest.mark.parametrize("layer", [None, "head"])
def test_equals_autograd(net, data, wrt, layer):
    gradients, labels = last_layer_gradients(net, data, wrt=wrt, layer=layer, batch_size=10)
    assert gradients.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(gradients, autograd(net, *data, wrt), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(labels, data[1])


def test_keeps_the_digits_of_a_confident_prediction():
    """p_y - 1 in float32 would be 0 here; the true value is -2e-9."""
    net = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[20.0], [0.0], [0.0]]))
    gradients, _ = last_layer_gradients(net, (torch.ones(1, 1), torch.tensor([0])))
    tail = np.exp(-20.0) / (1 + 2 * np.exp(-20.0))
    np.testing.assert_allclose(gradients, [[-2 * tail, tail, tail]], rtol=1e-5)


def test_tensors_on_request(net, data):
    arrays, tensors = (last_layer_gradients(net, data, tensors=t) for t in (False, True))
    epoch = EpochLogits(N)
    epoch.record(np.arange(N), torch.ones(N, C), tensors[1])
    for ours, wanted in ((tensors, arrays), (epoch.gradients([3, 1], tensors=True),
                                             epoch.gradients([3, 1]))):  # fmt: skip
        assert all(isinstance(part, torch.Tensor) for part in ours)
        for part, array in zip(ours, wanted, strict=True):
            np.testing.assert_array_equal(part.numpy(), array)


def test_dataset_order_whatever_the_loader_does(net, data):
    expected = last_layer_gradients(net, data)
    sampler = WeightedRandomSampler(torch.ones(N), N)
    for source in (
        TensorDataset(*data),
        Pairs(*data),
        list(Pairs(*data)),
        DataLoader(TensorDataset(*data), batch_size=5, shuffle=True),
        DataLoader(Pairs(*data), batch_size=5, shuffle=True, drop_last=True),
        DataLoader(Pairs(*data), batch_size=None),
        DataLoader(Pairs(*data), batch_size=7, sampler=sampler),
    ):
        gradients, labels = last_layer_gradients(net, source)
        np.testing.assert_allclose(gradients, expected[0], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(labels, expected[1])


def test_a_loaders_collate_fn_and_workers_are_used(net, data):
    def halve(batch):
        x, y = zip(*batch, strict=True)
        return torch.stack(x) / 2, torch.tensor(y)

    loader = DataLoader(Pairs(*data), batch_size=5, collate_fn=halve)
    expected = last_layer_gradients(net, (data[0] / 2, data[1]))[0]
    np.testing.assert_allclose(last_layer_gradients(net, loader)[0], expected, atol=1e-6)


def test_subset_in_its_own_order(net, data):
    index = [5, 3, 30]
    gradients, labels = last_layer_gradients(net, Subset(Pairs(*data), index))
    np.testing.assert_allclose(gradients, last_layer_gradients(net, data)[0][index], atol=1e-6)
    np.testing.assert_array_equal(labels, data[1][index])


def test_leaves_the_model_and_the_random_state_as_they_were(net, data):
    net.train()
    net.bn.eval()
    modes = [module.training for module in net.modules()]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    first = last_layer_gradients(net, Pairs(*data))[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(not module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    np.testing.assert_array_equal(first, last_layer_gradients(net, Pairs(*data))[0])


def test_modes_and_hooks_are_restored_after_an_error(net, data):
    net.train()
    with pytest.raises(ValueError, match="labels must lie in"):
        last_layer_gradients(net, (data[0], data[1] + 2))
    assert all(module.training for module in net.modules())
    assert all(not module._forward_hooks for module in net.modules())


def test_log_softmax_after_the_head_is_fine(net, data):
    wrapped = nn.Sequential(net, nn.LogSoftmax(dim=1))
    np.testing.assert_allclose(
        last_layer_gradients(wrapped, data)[0], last_layer_gradients(net, data)[0], atol=1e-6
    )


def test_bfloat16_model(net, data):
    gradients, _ = last_layer_gradients(net.bfloat16(), (data[0].bfloat16(), data[1]))
    assert gradients.dtype == np.float32
    assert np.isfinite(gradients).all()


class TestRefuses:
    def test_unknown_wrt(self, net, data):
        with pytest.raises(ValueError, match="wrt must be"):
            last_layer_gradients(net, data, wrt="weights")

    def test_an_output_that_is_not_the_last_linear_layers(self, net, data):
        """Probabilities, or a second head executed later: the formula would be wrong."""
        with pytest.raises(ValueError, match="is not that of the linear layer"):
            last_layer_gradients(nn.Sequential(net, nn.Softmax(dim=1)), data)
        named = nn.Sequential(OrderedDict(net=net, softmax=nn.Softmax(dim=1)))
        last_layer_gradients(named, data, layer="net.head")

    def test_outputs_that_are_not_n_by_c(self, net, data):
        with pytest.raises(ValueError, match=r"\(37, C\) logits, got \(37, 1, 6, 4\)"):
            last_layer_gradients(nn.Linear(6, C), data)
        with pytest.raises(ValueError, match="one logit"):
            last_layer_gradients(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), data)

    def test_no_linear_layer(self, data):
        net = nn.Sequential(nn.Conv2d(1, C, 6), nn.Flatten())
        with pytest.raises(ValueError, match=r"no nn\.Linear"):
            last_layer_gradients(net, data)
        assert last_layer_gradients(net, data, layer="1")[0].shape == (N, C)
        with pytest.raises(ValueError, match=r'wrt="input" needs an nn\.Linear'):
            last_layer_gradients(net, data, layer="1", wrt="input")

    def test_an_unknown_layer(self, net, data):
        with pytest.raises(ValueError, match=r"layer 'tail' is not in the model.*'head'"):
            last_layer_gradients(net, data, layer="tail")

    @pytest.mark.parametrize("label", [-1, C, 255])
    def test_labels_out_of_range(self, net, data, label):
        data[1][23] = label
        with pytest.raises(
            ValueError, match=rf"0\.\.3, but they do not for .*\(23\); the first is {label}$"
        ):
            last_layer_gradients(net, data, batch_size=10)

    def test_labels_that_are_not_integers(self, net, data):
        with pytest.raises(TypeError, match=r"integers, got torch\.float32"):
            last_layer_gradients(net, (data[0], data[1].float()))
        with pytest.raises(ValueError, match=r"labels must be \(n,\)"):
            last_layer_gradients(net, (data[0], F.one_hot(data[1])))

    def test_non_finite_logits_by_name(self, net, data):
        data[0][[4, 31]] = torch.nan
        with pytest.raises(ValueError, match=r"not finite for 2 examples \(4, 31\)"):
            last_layer_gradients(net, data, batch_size=10)

    def test_an_empty_dataset(self, net, data):
        for empty in ((data[0][:0], data[1][:0]), Subset(Pairs(*data), []), []):
            with pytest.raises(ValueError, match="empty"):
                last_layer_gradients(net, empty)

    def test_inputs_and_labels_of_different_lengths(self, net, data):
        with pytest.raises(ValueError, match="one for each of 37 inputs"):
            last_layer_gradients(net, (data[0], data[1][:-1]))

    def test_an_iterable_dataset(self, net, data):
        class Stream(IterableDataset):
            def __iter__(self):
                yield from Pairs(*data)

        for stream in (Stream(), DataLoader(Stream())):
            with pytest.raises(TypeError, match="map-style"):
                last_layer_gradients(net, stream)

    def test_a_dataset_without_length(self, net):
        class Endless(Dataset):
            def __getitem__(self, i):
                return torch.zeros(1, 6, 6), 0

        with pytest.raises(TypeError, match="must have a length"):
            last_layer_gradients(net, Endless())

    def test_a_dataset_that_shuffles_or_augments(self, net, data):
        class Restless(Pairs):
            reads = 0

            def __getitem__(self, i):
                self.reads += 1
                return super().__getitem__((i + self.reads // N) % N)

        class Noisy(Pairs):
            reads = 0

            def __getitem__(self, i):
                self.reads += 1
                x, y = super().__getitem__(i)
                return x + self.reads, y

        for kind in (Restless, Noisy):
            with pytest.raises(ValueError, match="came back different"):
                last_layer_gradients(net, kind(*data))

    def test_triples_and_things_that_are_not_tensors(self, net, data):
        with pytest.raises(TypeError, match="pairs"):
            last_layer_gradients(net, [(x, 0, 0, 0) for x in data[0]])
        with pytest.raises(
            TypeError, match=r"labels must be a tensor of integers, got tuple \(str"
        ):
            last_layer_gradients(net, [(x, "cat") for x in data[0]])
        with pytest.raises(TypeError, match="inputs of a batch must be tensors, got tuple"):
            last_layer_gradients(net, [("a text", 0) for x in data[0]])

    def test_a_batch_size_below_one(self, net, data):
        with pytest.raises(ValueError, match="batch_size"):
            last_layer_gradients(net, data, batch_size=-1)


class TestEpochLogits:
    @pytest.mark.parametrize("wrt", ["logits", "input"])
    def test_equal_a_pass_of_their_own_in_any_order(self, net, data, wrt):
        x, y = data
        seen = EpochLogits(N)
        net.eval()
        for rows in torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(10):
            seen.record(rows, net(x[rows]), y[rows])
        indices = np.arange(0, N, 3)
        gradients, labels = seen.gradients(indices, net.head.weight if wrt == "input" else None)
        expected, _ = last_layer_gradients(net, data, wrt=wrt)
        assert gradients.dtype == np.float32
        np.testing.assert_allclose(gradients, expected[indices], rtol=1e-5, atol=1e-7)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, y[indices])

    def test_other_floats_and_integers(self):
        seen = EpochLogits(3)
        logits = torch.randn(3, C, dtype=torch.float64, requires_grad=True)
        seen.record([2, 0, 1], logits, torch.tensor([0, 1, 2], dtype=torch.int32))
        gradients, labels = seen.gradients(np.arange(3))
        assert gradients.dtype == np.float32
        np.testing.assert_array_equal(labels, [1, 2, 0])
        seen.record(np.array([0]), torch.zeros(1, C, dtype=torch.bfloat16), torch.tensor([3]))
        np.testing.assert_array_equal(seen.gradients(np.array([0]))[0], [[0.25] * 3 + [-0.75]])

    def test_names_what_the_epoch_did_not_see(self):
        seen = EpochLogits(5)
        with pytest.raises(ValueError, match="no epoch was trained yet"):
            seen.gradients(np.arange(5))
        seen.record([4, 1], torch.zeros(2, C), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match=r"no logits are recorded for 2 examples \(0, 3\):"):
            seen.gradients(np.array([0, 1, 3, 4]))
        seen.gradients(np.array([1, 4]))

    def test_names_labels_and_logits_that_cannot_be(self):
        seen = EpochLogits(5)
        logits = torch.zeros(5, C)
        logits[2, 1] = -torch.inf  # masks a class
        logits[3, 0] = -torch.inf  # masks the label's own
        seen.record(np.arange(5), logits, torch.tensor([0, 0, C, 0, 0]))
        with pytest.raises(ValueError, match=r"do not for 1 example \(2\); the first is 4$"):
            seen.gradients(np.array([1, 2]))
        with pytest.raises(ValueError, match=r"not finite for 1 example \(3\)$"):
            seen.gradients(np.array([1, 3, 4]))
        logits[3, 0] = torch.nan
        seen.record([3], logits[3:4], torch.tensor([0]))
        with pytest.raises(ValueError, match=r"not finite for 1 example \(3\)$"):
            seen.gradients(np.array([1, 3, 4]))

    @pytest.mark.parametrize("shape", [(2,), (2, 1), (2, C, 1)])
    def test_refuses_what_are_no_logits(self, shape):
        with pytest.raises(ValueError, match=r"logits must be \(b, C\)"):
            EpochLogits(5).record([0, 1], torch.zeros(shape), torch.tensor([0, 1]))

    def test_refuses_batches_of_two_lengths(self):
        with pytest.raises(ValueError, match="of the same examples, got 3, 2 and 2"):
            EpochLogits(5).record([0, 1, 2], torch.zeros(2, C), torch.tensor([0, 1]))
