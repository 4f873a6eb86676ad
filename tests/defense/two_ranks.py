"""What each of two processes does for test_parallel.py: run by torchrun, with a folder to write to.

Every case is a function; what it returns on each rank, or the exception that it raises, is saved.
"""

import contextlib
import gc
import io
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pairs import Pairs
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset

import subsel.defense.checkpoint as checkpoint
from subsel.defense import EPIC, EpochLogits, last_layer_gradients, train

C = 3
# An odd last batch of 3: a part for one of two ranks only.
N = 1 + 10 * 32 + 2


def make_data(seed=0, n=N):
    """In float64, so that another order of summation is far below every difference in gains."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (n,), generator=generator)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x + y[:, None, None, None], y


def make_net(seed=0, norm=nn.Identity):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), norm(12), nn.ReLU(), nn.Linear(12, C)
        ).double()


def make_epic(**changes):
    return EPIC(**{"subset_size": 0.3, "warmup": 1, "interval": 1, "stop": 4, **changes})


def run(model=None, data=None, **changes):
    settings = {"epochs": 5, "lr": 0.05, "batch_size": 32, "progress": False}
    if "defense" not in changes:
        settings["defense"] = make_epic()
    return train(model or make_net(), data or make_data(), **{**settings, **changes})


def outcome(result):
    """What a run came to, without its times."""
    return {
        "state": {name: value.clone() for name, value in result.model.state_dict().items()},
        "kept": result.kept,
        "history": [
            {name: value for name, value in record.items() if not name.endswith("seconds")}
            for record in result.history
        ],
    }


# By name: what one process has to come to as well, up to rounding.
SAME_AS_ONE = {
    "fresh": lambda: run(augment=True, test=make_data(1, 600)),
    "input": lambda: run(wrt="input", defense=make_epic(ground_set="full")),
    "training": lambda: run(gradients="training", augment=True),
    "dataset": lambda: run(data=Pairs(*make_data()), test=Pairs(*make_data(1, 300))),
    "transfer": lambda: run(scenario="transfer", test=make_data(1, 300)),
    "tiny batches": lambda: run(data=make_data(n=60), batch_size=3, epochs=3),
    "undefended": lambda: run(defense=None),
}


def gradients_and_labels():
    """Classes 0 and 5, of which ranks 1 and 0 select, are twins: their gains tie."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([9, 0, 3, 5, 7, 2], [100, 80, 80, 80, 20, 1]))
    gradients = rng.standard_normal((len(labels), 4)).astype(np.float32)
    gradients[labels == 5] = gradients[labels == 0]
    return gradients, labels


def rounds(group):
    epic = EPIC(subset_size=0.2, warmup=0, interval=1)
    gradients, labels = gradients_and_labels()
    for epoch in range(3):
        epic.prune(gradients * (1 + epoch), labels, epoch, group=group)
    return epic.state_dict()


def extracted(group):
    """For one batch, for a batch size that leaves a rest, for fewer batches than ranks."""
    net = make_net()
    return [
        last_layer_gradients(net, data, batch_size=size, group=group)
        for data in (make_data(), Pairs(*make_data()), DataLoader(Pairs(*make_data()), 7))
        for size in (None, 10, 1000)
    ]


def own_loop(rank):
    """What docs/epic.md shows."""
    data, group = Pairs(*make_data()), dist.group.WORLD
    model = DistributedDataParallel(make_net(norm=nn.BatchNorm1d))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    epic = make_epic(n=len(data))
    for epoch in range(5):
        if epic.due(epoch):
            found = last_layer_gradients(model, data, group=group)
            epic.prune(*found, epoch, group=group)
        model.train()
        kept = Subset(data, epic.kept.tolist())
        sampler = DistributedSampler(kept)
        sampler.set_epoch(epoch)
        for x, y in DataLoader(kept, 16, sampler=sampler, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return epic.kept, found[0]


def gathered_logits(rank):
    seen = EpochLogits(5)
    rows = [[0, 4], [1, 2, 3]][rank]
    seen.record(rows, torch.eye(5)[rows], torch.tensor(rows))
    seen.gather(dist.group.WORLD)
    return seen.logits, seen.labels


def not_finite(rank):
    """In the last batch, which rank 1 has."""
    x, y = make_data()
    x[-2] = torch.nan
    last_layer_gradients(make_net(), (x, y), group=dist.group.WORLD)


def fails_on_rank_0(result):
    raise OSError("the disk is full")


def counted_callback(rank):
    calls = []
    run(epochs=2, callback=lambda result: calls.append(1))
    return len(calls)


def progress(rank):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        run(epochs=2, progress=True)
    return err.getvalue()


def files_written(out):
    write, files = checkpoint.write_whole, []
    checkpoint.write_whole = lambda path, content: files.append(path) or write(path, content)
    try:
        run(checkpoint=out / "c.pt")
    finally:
        checkpoint.write_whole = write
    return len(files)


def resumed(rank, out):
    """From two ranks' checkpoint of three epochs, right before a round."""
    path = out / "part.pt"
    run(epochs=3, checkpoint=path, gradients="training")
    return outcome(run(make_net(9), checkpoint=path, resume=path, gradients="training"))


def trained_alone_afterwards(rank):
    """Nothing of the training's communication may stay with the model."""
    model = run(epochs=1).model
    if rank == 0:
        model(make_data()[0]).sum().backward()
    return rank


def different_draws(rank):
    """What an augmentation of one's own draws, and what dropout would."""
    draws = []

    def augment(x, generator):
        draws.append((torch.rand((), generator=generator).item(), torch.rand(()).item()))
        return x

    run(epochs=1, augment=augment)
    return draws


def cases(rank, out):
    group = dist.group.WORLD
    for name, settings in SAME_AS_ONE.items():
        yield name, lambda settings=settings: outcome(settings())
    yield "cutmix", lambda: outcome(run(cutmix=True))
    yield "rounds", lambda: rounds(group)
    yield "extracted", lambda: extracted(group)
    yield "own loop", lambda: own_loop(rank)
    yield "gathered logits", lambda: gathered_logits(rank)
    yield "other weights", lambda: outcome(run(make_net(rank), epochs=1))
    yield "BatchNorm", lambda: outcome(run(make_net(norm=nn.BatchNorm1d), test=make_data(1, 600)))
    yield "callback", lambda: counted_callback(rank)
    yield "progress", lambda: progress(rank)
    yield "saves", lambda: files_written(out)
    yield "whole", lambda: outcome(run(gradients="training"))
    yield "resumed", lambda: resumed(rank, out)
    yield "from one", lambda: outcome(run(make_net(9), resume=out / "one.pt"))
    yield "afterwards", lambda: trained_alone_afterwards(rank)
    yield "draws", lambda: different_draws(rank)
    # Errors, each on both ranks.
    yield "seed", lambda: run(seed=rank, batch_size=32 + rank)
    yield "data", lambda: run(data=make_data(seed=rank))
    yield "length", lambda: run(data=make_data(n=N + rank))
    yield "epic", lambda: run(defense=make_epic(subset_size=[0.2, 0.3][rank]))
    yield "no test", lambda: run(test=[None, make_data(1)][rank])
    yield "model", lambda: run([make_net(), nn.Sequential(nn.Flatten(), nn.Linear(64, C))][rank])
    yield "resume", lambda: run(resume=[None, out / "one.pt"][rank])
    yield (
        "given gradients",
        lambda: make_epic().prune(
            torch.rand(9, 2, generator=torch.Generator().manual_seed(rank)),
            torch.zeros(9).long(),
            1,
            group=group,
        ),
    )
    yield "not finite", lambda: not_finite(rank)
    yield "loss", lambda: run(lr=1e300)
    yield "callback fails", lambda: run(epochs=1, callback=fails_on_rank_0)
    yield "wrapped", lambda: run(DistributedDataParallel(make_net()))


def main(out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for name, case in cases(rank, out):
        try:
            results[name] = case()
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    dist.destroy_process_group()
    gc.collect()
    results["threads"] = {
        path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")
    }
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
