"""`train` with an optimizer, a schedule, a loss, a precision or an end of one's own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subsel.defense import EPIC, train
from subsel.defense.data import batch_sizes

N, C = 97, 3


def make_data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    return torch.randn(N, 5, generator=generator) + y[:, None], y


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, C))


def quick(**changes):
    settings = {"epochs": 4, "batch_size": 16, "progress": False}
    settings |= {"defense": EPIC(subset_size=0.3, warmup=1, interval=1)}
    return train(make_net(), make_data(), **{**settings, **changes})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def same(a, b, **tolerance):
    np.testing.assert_array_equal(a.kept, b.kept)
    assert len(a.kept) < N
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(tolerance or {"rtol": 0, "atol": 0}))


PLAIN = {"lr": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


def test_an_optimizer():
    same(quick(optimizer=sgd), quick(**PLAIN))
    result = quick(optimizer=sgd, drops=(2,))
    same(result, quick(**PLAIN, drops=(2,)))
    assert [r["lr"] for r in result.history] == pytest.approx([0.05, 0.05, 0.005, 0.005])
    assert len(quick(optimizer=torch.optim.AdamW).kept) < N


def test_a_schedule():
    def step(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 2)

    same(quick(**PLAIN, scheduler=step), quick(**PLAIN, drops=(2,)))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    rates = quick(**PLAIN, scheduler=lambda o: plateau(o, "max", patience=0)).history
    assert rates[-1]["lr"] < rates[0]["lr"]  # the loss falls, which is no improvement of a maximum


@pytest.mark.parametrize("amp", [False, True, "float16"])
def test_resumes_exactly_with_all_of_them(tmp_path, amp):
    settings = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4),
        "loss": nn.CrossEntropyLoss(label_smoothing=0.1),
        "accumulate": 3,
        "amp": amp,
    }
    quick(**settings, epochs=2, checkpoint=tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert bool(state["scaler"]) == (amp == "float16")
    same(quick(**settings), quick(**settings, resume=tmp_path / "run.pt"))
    with pytest.raises(ValueError, match="own_loss=True, now False"):
        quick(**settings | {"loss": None}, resume=tmp_path / "run.pt")


def test_a_loss():
    same(quick(**PLAIN, loss=F.cross_entropy), quick(**PLAIN))
    smooth = quick(**PLAIN, loss=nn.CrossEntropyLoss(label_smoothing=0.3))
    assert smooth.history[0]["loss"] > quick(**PLAIN).history[0]["loss"] + 0.01
    with pytest.raises(ValueError, match=r"loss must return one number as a tensor, got \(16,\)"):
        quick(loss=nn.CrossEntropyLoss(reduction="none"))


def test_mixed_precision_rounds():
    usual, mixed = quick(**PLAIN, epochs=1), quick(**PLAIN, epochs=1, amp=True)
    differ = usual.model[0].weight - mixed.model[0].weight
    assert 0 < differ.abs().max() < 0.01
    assert mixed.model[0].weight.dtype == torch.float32


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_steps_are_those_of_larger_batches(accumulate):
    """A last batch of one joins the one before, in both."""
    settings = {**PLAIN, "defense": None, "epochs": 2}
    small = quick(**settings, accumulate=accumulate)
    large = quick(**settings, batch_size=16 * accumulate)
    for p, q in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 18, 32, 33, 79, 80, 89, 90, 97, 169, 170])
@pytest.mark.parametrize(("batch", "least"), [(16, 2), (80, 10)])
def test_sizes_of_batches(n, batch, least):
    sizes = batch_sizes(n, batch)
    assert sum(sizes) == n
    assert all(size == batch for size in sizes[:-1])
    assert n < least or least <= sizes[-1] < batch + least


def test_a_callback_ends_the_training(tmp_path):
    path = tmp_path / "run.pt"
    ended = quick(**PLAIN, checkpoint=path, callback=lambda result: len(result.history) == 2)
    assert len(ended.history) == 2
    assert not ended.model.training
    same(quick(**PLAIN, resume=path), quick(**PLAIN))
    assert len(quick(**PLAIN, callback=lambda result: "true, but not True").history) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": sgd(make_net().parameters())}, "optimizer must be a function of the param"),
        ({"optimizer": lambda parameters: None}, "optimizer must make an optimizer, got NoneType"),
        ({"optimizer": sgd, "lr": 0.1}, "lr cannot be combined with optimizer="),
        ({"scheduler": print, "drops": (1,)}, "give drops or scheduler="),
        ({"loss": "mse"}, "loss must be a function of logits and labels, got str"),
        ({"amp": "int8"}, "amp must be True, False"),
        ({"accumulate": 0}, "accumulate"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quick(**changes)
