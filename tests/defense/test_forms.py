"""Models and batches of every form give what the plain form of the same gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from subsel.defense import EPIC, EpochLogits, last_layer_gradients, train, train_afresh
from subsel.defense.checkpoint import read_weights
from subsel.defense.forms import bare_state, unwrapped

N, C = 60, 3


def make_data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % C
    return torch.randn(N, 5, generator=generator) + y[:, None], y


DATA = make_data()


class Net(nn.Module):
    """A plain classifier, whose output a subclass puts into another form."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(5, 4), nn.Linear(4, C)

    def logits(self, x):
        return self.head(self.body(x).relu())

    def forward(self, x):
        return self.logits(x)


class Items(Dataset):
    """The examples in a form of one's choice."""

    def __init__(self, form=lambda x, y, i: (x, int(y)), data=DATA):
        self.form, self.data = form, data

    def __len__(self):
        return len(self.data[1])

    def __getitem__(self, i):
        return self.form(self.data[0][i], self.data[1][i], i)


def model_with(forward):
    return type("Other", (Net,), {"forward": forward})()


def quick(model, data=DATA, **changes):
    settings = {"epochs": 3, "lr": 0.1, "batch_size": 16, "seed": 4, "progress": False}
    settings |= {"defense": EPIC(subset_size=0.3, warmup=1, interval=1)}
    return train(model, data, **{**settings, **changes})


def same(a, b):
    assert len(a.kept) < N
    np.testing.assert_array_equal(a.kept, b.kept)
    for p, q in zip(unwrapped(a.model).parameters(), unwrapped(b.model).parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.fixture(scope="module")
def usual():
    return quick(Net())


OUTPUTS = {
    "object": (lambda self, x: SimpleNamespace(logits=self.logits(x)), None),
    "dict": (lambda self, x: {"hidden": x, "logits": self.logits(x)}, None),
    "tuple": (lambda self, x: (self.logits(x), x[:, :, None]), None),
    "chosen": (lambda self, x: [x, self.logits(x)], lambda found: found[1]),
}


@pytest.mark.parametrize("form", OUTPUTS)
@pytest.mark.parametrize("wrt", ["logits", "input"])
def test_what_a_model_returns(form, wrt, usual):
    forward, output = OUTPUTS[form]
    model = model_with(forward)
    found = last_layer_gradients(model, DATA, output=output, wrt=wrt)
    np.testing.assert_array_equal(found[0], last_layer_gradients(Net(), DATA, wrt=wrt)[0])
    if wrt == "logits":
        same(quick(model, output=output, test=DATA), usual)


def test_an_epochs_logits_in_what_a_model_returns():
    seen, plain = EpochLogits(N), EpochLogits(N)
    model = model_with(OUTPUTS["object"][0])
    seen.record(np.arange(N), model(DATA[0]), DATA[1])
    plain.record(np.arange(N), Net()(DATA[0]), DATA[1])
    assert torch.equal(seen.logits, plain.logits)


BATCHES = {
    "labels": (lambda x, y, i: {"x": x, "labels": y}, None),
    "label": (lambda x, y, i: {"label": int(y), "x": x}, None),
    "place last": (lambda x, y, i: (x, int(y), i), None),
    "place first": (lambda x, y, i: (i, x, y), None),
    "inputs in a dict": (lambda x, y, i: ({"x": x}, y), None),
    "chosen": (
        lambda x, y, i: {"id": f"image {i}", "pixels": x, "class": y},
        lambda batch: (batch["pixels"], batch["class"]),
    ),
}


@pytest.mark.parametrize("form", BATCHES)
def test_what_a_loader_yields(form, usual):
    of, batch = BATCHES[form]
    data = Items(of)
    found = last_layer_gradients(Net(), DataLoader(data, 7, shuffle=True), batch=batch)
    np.testing.assert_allclose(found[0], last_layer_gradients(Net(), DATA)[0], atol=1e-6)
    same(quick(Net(), data, batch=batch, test=data), usual)


def test_padding_by_a_collate_function():
    def pad(items):
        longest = max(len(x) for x, _ in items)
        padded = [nn.functional.pad(x, (0, longest - len(x))) for x, _ in items]
        return {"tokens": torch.stack(padded), "labels": torch.tensor([y for _, y in items])}

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(2, 2)

        def forward(self, tokens):
            return self.head(torch.stack([tokens.sum(1), tokens.amax(1)], 1))

    data = [(torch.full((1 + i % 5,), float(i % 7)), i % 2) for i in range(N)]
    fresh = last_layer_gradients(Bag(), DataLoader(data, 8, collate_fn=pad))
    assert fresh[0].shape == (N, 2)
    result = quick(Bag(), data, collate=pad, test=data)
    assert len(result.kept) < N
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        quick(Bag(), data)


class Conv(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, C, 1)
        self.conv.weight.data, self.conv.bias.data = self.head.weight[:, :, None], self.head.bias

    def logits(self, x):
        return self.conv(self.body(x).relu()[:, :, None])[:, :, 0]


class Functional(Net):
    def logits(self, x):
        return nn.functional.linear(self.body(x).relu(), self.head.weight, self.head.bias)


class Temperature(Net):
    def logits(self, x):
        return super().logits(x) / 2


class Cosine(Net):
    def logits(self, x):
        weight = nn.functional.normalize(self.head.weight, dim=1)
        return 9 * nn.functional.normalize(self.body(x).relu(), dim=1) @ weight.T


class LowRank(Net):
    """LoRA: what a pair of small layers adds to the head."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, C, bias=False)
        for layer in (self.down, self.up):
            nn.init.eye_(layer.weight)

    def logits(self, x):
        hidden = self.body(x).relu()
        return self.head(hidden) + self.up(self.down(hidden))


@pytest.mark.parametrize("kind", [Conv, Functional, Temperature, Cosine, LowRank])
def test_heads_that_are_not_the_last_linear_layer(kind):
    with pytest.raises(ValueError, match='give wrt="output"'):
        last_layer_gradients(kind(), DATA)
    found, labels = last_layer_gradients(kind(), DATA, wrt="output")
    expected = kind()(DATA[0]).softmax(1) - nn.functional.one_hot(DATA[1], C)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)
    np.testing.assert_array_equal(labels, DATA[1])
    assert len(quick(kind(), wrt="output").kept) < N


def test_probabilities_are_no_output():
    model = model_with(lambda self, x: self.logits(x).softmax(1))
    with pytest.raises(ValueError, match="returns probabilities, not logits"):
        last_layer_gradients(model, DATA, wrt="output")
    with pytest.raises(ValueError, match=r"must return \(60, C\) logits, got list \(Tensor, Tens"):
        last_layer_gradients(model_with(lambda self, x: [x, x]), DATA, wrt="output")


def test_called_by_keyword():
    model = model_with(lambda self, x: self.head(input=self.body(input=x).relu()))
    found = last_layer_gradients(model, DATA, wrt="input")[0]
    np.testing.assert_array_equal(found, last_layer_gradients(Net(), DATA, wrt="input")[0])


def test_lazy_layers():
    def lazy():
        return nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(C))

    state = torch.get_rng_state()
    a, b = quick(lazy()), quick(lazy())
    same(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_wrapped_models(tmp_path, usual):
    compiled = torch.compile(Net(), backend="eager")
    same(quick(compiled, checkpoint=tmp_path / "compiled.pt"), usual)
    parallel = quick(nn.DataParallel(Net()), checkpoint=tmp_path / "parallel.pt", epochs=2)
    assert isinstance(parallel.model, nn.DataParallel)
    for name in ("compiled.pt", "parallel.pt"):
        Net().load_state_dict(torch.load(tmp_path / name, weights_only=True)["model"])
    same(quick(Net(), resume=tmp_path / "parallel.pt"), usual)


def test_prefixes_of_wrapped_models_are_taken_off(tmp_path):
    state = Net().state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    assert list(bare_state(wrapped)) == list(state)
    torch.save(wrapped, tmp_path / "weights.pt")
    assert list(read_weights(tmp_path / "weights.pt", "weights")) == list(state)
    odd = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert bare_state(odd) == odd
    assert bare_state({}) == {}


class Noisy(Items):
    """Augments by itself."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + torch.randn(5), y


def test_a_clean_view_of_data_that_augment(tmp_path, usual):
    with pytest.raises(ValueError, match="came back different"):
        quick(Net(), Noisy())
    path = tmp_path / "run.pt"
    result = quick(Net(), Noisy(), clean_view=DATA, checkpoint=path)
    quick(Net(), Noisy(), clean_view=DATA, checkpoint=tmp_path / "half.pt", epochs=2)
    same(result, quick(Net(), Noisy(), clean_view=Items(), resume=tmp_path / "half.pt"))
    assert not torch.equal(result.model.head.weight, usual.model.head.weight)
    same(quick(Net(), Items(), clean_view=DATA), usual)


def test_a_clean_view_of_other_data():
    with pytest.raises(ValueError, match="must have the 60 examples of the dataset, got 59"):
        quick(Net(), DATA, clean_view=(DATA[0][1:], DATA[1][1:]))
    with pytest.raises(ValueError, match=r"same order: .* example 0 are 0 there and 1 in the view"):
        quick(Net(), DATA, clean_view=(DATA[0], (DATA[1] + 1) % C))


@pytest.mark.parametrize("witnesses", [1, 2])
def test_a_fresh_start_of_another_form(witnesses):
    settings = {"epochs": 3, "lr": 0.1, "progress": False, "witnesses": witnesses}
    results = [
        train_afresh(
            model,
            data,
            defense=EPIC(subset_size=0.3, warmup=1, interval=1, stop=3),
            **settings,
            **more,
        )
        for model, data, more in (
            (Net(), DATA, {}),
            (model_with(OUTPUTS["object"][0]), Items(BATCHES["labels"][0]), {"clean_view": None}),
            (Net(), Items(), {"clean_view": Items()}),
            (
                model_with(OUTPUTS["chosen"][0]),
                Items(BATCHES["chosen"][0]),
                {"batch": BATCHES["chosen"][1], "output": OUTPUTS["chosen"][1], "wrt": "output"},
            ),
        )
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].core, other.core)
        np.testing.assert_array_equal(results[0].kept, other.kept)


def test_frozen_norms_stay_frozen():
    def net(frozen):
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, C))
        model[1].requires_grad_(not frozen)
        return model

    for frozen in (True, False):
        result = quick(net(frozen))
        assert torch.equal(result.model[1].running_mean, torch.zeros(4)) == frozen


def test_what_follows_the_head_is_trained_with():
    """In transfer a temperature after a named head is not lost to the stored features."""
    model, scaled = Temperature(), Net()
    with torch.no_grad():
        for p in scaled.head.parameters():
            p /= 2
    settings = {"scenario": "transfer", "fresh_head": False, "epochs": 1, "batch_size": N}
    a = quick(model, **settings, layer="head", defense=None)
    b = quick(scaled, **settings, defense=None)
    assert a.history[0]["loss"] == pytest.approx(b.history[0]["loss"], rel=1e-5)


def test_a_head_that_cannot_be_made_fresh():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(C, 4))

        def forward(self, x):
            return x @ self.weight.T

    model = Net()
    model.head = Head()
    with pytest.raises(ValueError, match=r"Head, has no reset_parameters\(\)"):
        quick(model, scenario="transfer", layer="head", wrt="output")
    result = quick(model, scenario="transfer", layer="head", fresh_head=False)
    assert len(result.kept) < N


def test_a_named_layer_beside_an_output_that_cannot_be_trained_on():
    model = model_with(lambda self, x: self.logits(x)[:, :, None])
    last_layer_gradients(model, DATA, layer="head")
    with pytest.raises(ValueError, match=r"the model must return \(2, C\) logits, got \(2, 3, 1"):
        quick(model, layer="head")


def test_inputs_of_another_dtype():
    with pytest.raises(TypeError, match="inputs are float64 and the model's parameters float32"):
        quick(Net(), (DATA[0].double(), DATA[1]))


def test_test_labels_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"test labels must lie in 0..2, but they do not for .* the first is 3"
    ):
        quick(Net(), test=(DATA[0], DATA[1] + 1))


def test_arrays_beside_tensors_and_labels_that_are_names(usual):
    same(quick(Net(), (DATA[0].numpy(), DATA[1])), usual)
    with pytest.raises(TypeError, match=r"labels must be integers, got <U3: .*return_inverse"):
        quick(Net(), (DATA[0], np.array(["cat", "dog", "owl"])[DATA[1]]))


def test_an_epochs_logits_take_integers_only():
    seen = EpochLogits(4)
    with pytest.raises(TypeError, match=r"labels must be integers, got torch\.float32"):
        seen.record([0], torch.zeros(1, 2), torch.tensor([1.7]))
    with pytest.raises(TypeError, match="indices must be integers"):
        seen.record(torch.tensor([0.5]), torch.zeros(1, 2), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"indices must lie in 0\.\.3, got \[-1\]"):
        seen.record([-1], torch.zeros(1, 2), torch.tensor([1]))


def test_augment_wants_one_tensor():
    with pytest.raises(TypeError, match="augment needs inputs that are one tensor, got dict"):
        quick(Net(), Items(BATCHES["labels"][0]), augment=True)


def test_a_loaders_workers_are_set_up_as_it_says():
    def fail(worker):
        raise RuntimeError("set up by the loader")

    loader = DataLoader(Items(), 30, num_workers=1, worker_init_fn=fail)
    with pytest.raises(RuntimeError, match="set up by the loader"):
        last_layer_gradients(Net(), loader)
