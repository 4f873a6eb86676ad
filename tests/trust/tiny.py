"""The smallest trainings that have everything in them: drops of data, BatchNorm, dropout."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from subsel.defense import EPIC, train, train_afresh
from subsel.defense.datasets import load

N, C, EPOCHS = 48, 3, 3


def make_data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % C
    return torch.randn(N, 6, generator=generator) + 2.0 * y[:, None], y


def make_net(seed=0, inputs=6):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, C)
        )


def make_epic(**changes):
    return EPIC(**{"subset_size": 0.3, "warmup": 1, "interval": 1, "stop": 3, **changes})


def trained(net=None, data=None, **changes):
    settings = {"epochs": EPOCHS, "lr": 0.05, "batch_size": 16, "progress": False}
    if "defense" not in changes:
        settings["defense"] = make_epic()
    return train(net or make_net(), data or make_data(), **settings | changes)


def trained_afresh(net=None, **changes):
    settings = {"epochs": EPOCHS, "lr": 0.05, "batch_size": 16, "progress": False}
    return train_afresh(net or make_net(), make_data(), defense=make_epic(), **settings | changes)


def continued(path):
    """The run of `trained` with the checkpoint `path`, from where it stopped."""
    resume = path if path.exists() else None
    return trained(make_net(9 if resume else 0), checkpoint=path, resume=resume)


def continued_afresh(path):
    """The run of `trained_afresh` with the checkpoint `path`, from where it stopped."""
    return trained_afresh(checkpoint=path, resume=True)


def few_digits():
    """64 images to train on and 20 to test on."""
    data = load("digits")
    few = {
        f"{part}_{what}": getattr(data, f"{part}_{what}")[:n]
        for part, n in (("train", 64), ("test", 20))
        for what in ("images", "labels")
    }
    return replace(data, **few)


COMMAND = ["--dataset", "digits", "--no-augment", "--device", "cpu", "--batch-size", "32"]
COMMAND += ["--model", "tiny-cnn", "--epochs", "2"]
ROUNDS = ["--warmup", "1", "--interval", "1"]


def command_files(out):
    """What the command has written, without times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in lines]
    model = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    weights = [value.numpy().tobytes() for value in model.values()]
    kept = np.load(out / "kept.npy").tolist()
    return metrics, weights, kept, (out / "result.json").read_text()


def fingerprint(result):
    """A hash of everything that two equal runs have the same: all but times."""
    found = hashlib.sha256(result.kept.tobytes())
    for name, value in result.model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    for record in result.history:
        found.update(repr([v for k, v in record.items() if not k.endswith("seconds")]).encode())
    return found.hexdigest()
