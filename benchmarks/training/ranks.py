"""How alike training by two processes and by one are, round after round of EPIC.

    python -m benchmarks.training.ranks

As a measure of what rounding alone does, one process also trains with two threads instead of one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from tqdm import tqdm

from benchmarks.poisoning.report import markdown
from subsel.defense import EPIC, TrainResult, datasets, train
from subsel.defense.models import small_cnn
from subsel.defense.randomness import seeded

ROUNDS = (1, 5, 10)
WARMUP = 2
# Name: scenario, and whether BatchNorm is in the network (else GroupNorm, which sees one example).
NETWORKS = {
    "linear head": ("transfer", False),
    "`small_cnn`, GroupNorm": ("scratch", False),
    "`small_cnn`": ("scratch", True),
}
Task = tuple[str, int, str]  # data set, images, network


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="fashion-mnist", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="all")
    args = parser.parse_args(argv)
    rows = []
    for network in tqdm(args.networks):
        task = (args.dataset, args.images, network)
        alone = on_threads(task, 1)
        for name, run in {
            "one process": alone,
            "on two threads": on_threads(task, 2),
            "two ranks": on_two_ranks(task),
        }.items():
            rows.append([network, name, *described(run, alone)])
    after = [f"kept after {n}, differing" for n in ROUNDS]
    print(markdown(["network", "run", *after], rows))
    return 0


def described(run: TrainResult, alone: TrainResult) -> list[str]:
    kept = [(kept_after(run, n), kept_after(alone, n)) for n in ROUNDS]
    return [f"{len(own)}, {len(np.setxor1d(own, other))}" for own, other in kept]


def kept_after(run: TrainResult, rounds: int) -> np.ndarray:
    dropped = [r.dropped for r in run.defense.history[:rounds]]
    return np.setdiff1d(np.arange(run.defense.n), np.concatenate(dropped))


def on_threads(task: Task, threads: int) -> TrainResult:
    torch.set_num_threads(threads)
    return trained(*task)


def on_two_ranks(task: Task) -> TrainResult:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_of_two, (Path(folder), task), nprocs=2)
        return torch.load(Path(folder) / "result.pt", weights_only=False)


def rank_of_two(rank: int, folder: Path, task: Task) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    result = on_threads(task, 1)
    if rank == 0:
        torch.save(result, folder / "result.pt")
    dist.destroy_process_group()


def trained(dataset: str, images: int, network: str) -> TrainResult:
    data = datasets.load(dataset)
    scenario, batchnorm = NETWORKS[network]
    with seeded(0, None, torch.device("cpu")):
        net = small_cnn(10, data.train_images.shape[1:], data.mean.tolist(), data.std.tolist())
    if not batchnorm:
        for i, layer in enumerate(net):
            if isinstance(layer, nn.BatchNorm2d):
                net[i] = nn.GroupNorm(4, layer.num_features)
    return train(
        net,
        (data.train_images[:images], data.train_labels[:images]),
        epochs=WARMUP + max(ROUNDS),
        scenario=scenario,
        defense=EPIC(subset_size=0.1, warmup=WARMUP, interval=1),
        progress=False,
    )


if __name__ == "__main__":
    sys.exit(main())
