"""EPIC with fresh gradients, and with those that the training passes computed anyway.

    python -m benchmarks.training time    # does a defended run take longer? From scratch
    python -m benchmarks.training attack  # does it defend as well? Transfer, poisons of
                                          # benchmarks.poisoning
    python -m benchmarks.training report  # both tables

Interrupted, the same command goes on.
"""

import argparse
import sys
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.poisoning.lab import Lab
from benchmarks.poisoning.records import read_records, write_records
from benchmarks.poisoning.report import markdown, results_table
from benchmarks.poisoning.settings import Settings
from subsel.defense import EPIC, PRESETS, datasets, train
from subsel.defense.checkpoint import packed
from subsel.defense.models import small_cnn
from subsel.defense.randomness import seeded
from subsel.files import write_whole

SIZES = (0.1, 0.2, 0.3)
GRADIENTS = ("fresh", "training")
UNDEFENDED = "undefended"
DEFENDED = {f"EPIC {size}, {how}": (size, how) for size, how in product(SIZES, GRADIENTS)}
ATTACKS = {
    "bullseye-polytope": Settings(),
    "feature-collision": Settings(attack="feature-collision", watermark=0.3, steps=600),
}


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        args.command(args)
    except KeyboardInterrupt:
        print("\nStopped. What is done is kept: the same command goes on from there.")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    top.add_argument("--out", type=Path, default=Path("runs/training"), help="(%(default)s)")
    commands = top.add_subparsers(required=True, metavar="command")
    timing = commands.add_parser("time")
    timing.add_argument("--augment", action="store_true", help="random flip and crop")
    timing.add_argument("--sizes", type=float, nargs="+", choices=SIZES, default=SIZES, help="all")
    timing.add_argument("--images", type=int, default=60_000, help="(%(default)s)")
    timing.add_argument("--epochs", type=int, default=40, help="(%(default)s)")
    timing.set_defaults(command=time_command)
    attack = commands.add_parser("attack")
    attack.add_argument("--attack", choices=ATTACKS, default="bullseye-polytope")
    attack.add_argument("--targets", type=int, default=30, help="(%(default)s)")
    attack.set_defaults(command=attack_command)
    commands.add_parser("report").set_defaults(command=report_command)
    return top


def time_command(args: argparse.Namespace) -> None:
    """Train all runs side by side, an epoch of each in turn, so that all share what disturbs.

    Until the epoch before its first round a defended run is the undefended one, bit for bit: it
    starts as a copy of that, and the report counts those epochs for both.  The network lies in
    memory channels last, which takes a third less time: a slow one would hide what EPIC costs.
    """
    preset = PRESETS["paper-40"]
    data = datasets.load("fashion-mnist")
    images, labels = data.train_images[: args.images], data.train_labels[: args.images]
    folder = args.out / f"time-{args.images}x{args.epochs}{'-augmented' * args.augment}"
    folder.mkdir(parents=True, exist_ok=True)

    def one_epoch(name: str, epoch: int, n: int = len(labels)) -> dict:
        size, how = DEFENDED.get(name, (None, "fresh"))
        with seeded(0, None, torch.device("cpu")):
            net = small_cnn(10, images.shape[1:], data.mean.tolist(), data.std.tolist())
        net.to(memory_format=torch.channels_last)
        began = time.process_time()
        result = train(
            net,
            (images[:n], labels[:n]),
            epochs=epoch + 1,
            drops=preset.training["drops"],
            defense=None if size is None else preset.epic(size),
            gradients=how,
            augment=args.augment,
            progress=False,
            checkpoint=checkpoint(name, epoch + 1),
            resume=checkpoint(name, epoch) if epoch else None,
        )
        cpu = time.process_time() - began
        accuracy = None
        if epoch + 1 == args.epochs:
            with torch.inference_mode():
                parts = torch.from_numpy(data.test_images).split(250)
                predicted = torch.cat([net(part).argmax(dim=1) for part in parts]).numpy()
            accuracy = float((predicted == data.test_labels).mean())
        return {"run": name, "cpu_seconds": cpu, "accuracy": accuracy, **result.history[-1]}

    def checkpoint(name: str, epoch: int) -> Path:
        return folder / f"{name.replace(', ', '-').replace(' ', '-')}-{epoch}.pt"

    def fork(name: str, epoch: int) -> None:
        size, how = DEFENDED[name]
        state = torch.load(checkpoint(UNDEFENDED, epoch), weights_only=True)
        epic = preset.epic(size)
        epic.start(len(labels))
        state["defense"] = epic.state_dict()
        state["settings"]["gradients"] = how
        write_whole(checkpoint(name, epoch), packed(state))

    compile_kernels()
    records = read_records(folder)
    done = {(record["run"], record["epoch"]) for record in records}
    first = {UNDEFENDED: 0} | {
        name: preset.epic(size).warmup - 1 for name, (size, _) in DEFENDED.items()
    }
    chosen = [name for name in first if name == UNDEFENDED or DEFENDED[name][0] in args.sizes]
    bar = tqdm(range(args.epochs), desc=folder.name)
    for epoch in bar:
        for name in DEFENDED:  # also those that are to be run another time
            if first[name] == epoch > 0 and (UNDEFENDED, epoch) not in done:
                fork(name, epoch)
        running = [name for name in chosen if first[name] <= epoch]
        turn = epoch % len(running)
        for name in running[turn:] + running[:turn]:
            if (name, epoch) in done:
                continue
            bar.set_postfix_str(name)
            records.append(one_epoch(name, epoch))
            write_records(folder / "results.jsonl", records)
            checkpoint(name, epoch).unlink(missing_ok=True)
    print(time_table(folder))


def compile_kernels() -> None:
    random = np.random.default_rng(0)
    gradients = random.normal(size=(200, 10)).astype(np.float32)
    EPIC(200, warmup=0, interval=1).prune(gradients, np.arange(200) % 2, 0)


def attack_command(args: argparse.Namespace) -> None:
    """Train heads on the victims of benchmarks.poisoning, in the transfer scenario of `train`."""
    preset = PRESETS["paper-transfer"]
    lab = Lab(ATTACKS[args.attack], datasets.load("fashion-mnist"), Path("data/poisoning"))
    folder = args.out / args.attack
    folder.mkdir(parents=True, exist_ok=True)
    records = read_records(folder)
    done = {record["target"] for record in records}
    for number in tqdm(range(args.targets), desc=args.attack):
        if number in done:
            continue
        target = lab.target(number)
        trial = lab.trial(target)
        victim = trial.victim
        for name in (UNDEFENDED, *DEFENDED):
            size, how = DEFENDED.get(name, (None, "fresh"))
            result = train(
                nn.Linear(victim.inputs.shape[1], victim.classes),
                (victim.inputs, victim.labels),
                **preset.training,
                defense=None if size is None else preset.epic(size),
                gradients=how,
                seed=victim.seed,
                progress=False,
            )
            with torch.no_grad():
                predicted = result.model(lab.test_inputs).argmax(dim=1)
            rounds = result.defense.history if result.defense else []
            records.append(
                {
                    "target": number,
                    "defense": name,
                    "success": int(predicted[target.index]) == target.base,
                    "accuracy": float((predicted == lab.test_labels).float().mean()),
                    "kept": len(result.kept),
                    "poisons_left": int(trial.poisoned[result.kept].sum()),
                    "kept_examples": result.kept.tolist(),
                    "poisons_dropped": [int(trial.poisoned[r.dropped].sum()) for r in rounds],
                }
            )
        write_records(folder / "results.jsonl", records)
    print(attack_table(folder))


def report_command(args: argparse.Namespace) -> None:
    for folder in sorted(args.out.iterdir()):
        table = time_table if folder.name.startswith("time-") else attack_table
        print(f"{folder.name}\n\n{table(folder)}")


def time_table(folder: Path) -> str:
    """Sums over the epochs, those before the fork being the undefended run's."""
    epochs = defaultdict(dict)
    for record in read_records(folder):
        epochs[record["run"]][record["epoch"]] = record
    undefended = epochs[UNDEFENDED]
    rows = []
    for name, own in epochs.items():
        # As far as all have come.
        run = [{**undefended, **own}[epoch] for epoch in sorted(undefended)]
        base = list(undefended.values())
        wall, cpu = total(run, "seconds"), total(run, "cpu_seconds")
        last = run[-1]
        rows.append(
            [
                name,
                f"{wall:.0f}",
                f"{cpu:.0f}",
                f"{total(run, 'selection_seconds') / wall:.2%}",
                f"{total(run, 'gradient_seconds') / wall:.2%}",
                f"{wall / total(base, 'seconds'):.3f}",
                f"{cpu / total(base, 'cpu_seconds'):.3f}",
                f"{total(run, 'kept') / total(base, 'kept'):.3f}",
                str(last["kept"]),
                "" if last["accuracy"] is None else f"{last['accuracy']:.4f}",
            ]
        )
    table = markdown(
        [
            "run",
            "wall s",
            "CPU s",
            "selection",
            "gradients",
            "wall, of undefended",
            "CPU, of undefended",
            "examples trained, of undefended",
            "kept",
            "test accuracy",
        ],
        rows,
    )
    return table + "\n" + likeness(folder)


def likeness(folder: Path) -> str:
    """How alike the two ways' choices are: in the first round, the network being the same, and
    at the end."""
    lines = []
    for size in SIZES:
        states = [
            torch.load(path, weights_only=True)["defense"]
            for how in GRADIENTS
            for path in folder.glob(f"EPIC-{size}-{how}-*.pt")
        ]
        if len(states) == 2 and all(state["history"] for state in states):
            first = [state["history"][0]["dropped"].tolist() for state in states]
            kept = [state["kept"].tolist() for state in states]
            lines.append(
                f"EPIC {size}: the first round drops {len(first[0])} (fresh) and {len(first[1])} "
                f"(training), {len({*first[0]} & {*first[1]})} of them the same; "
                f"{shared(*kept):.2f} of what either keeps is kept by both\n"
            )
    return "".join(lines)


def shared(a: list[int], b: list[int]) -> float:
    """Size of the intersection over that of the union."""
    return len({*a} & {*b}) / len({*a} | {*b})


def total(records: list[dict], key: str) -> float:
    return sum(record[key] for record in records)


def attack_table(folder: Path) -> str:
    """Success and means, and how alike the two ways' kept sets are, by size."""
    records = read_records(folder)
    kept = {(r["target"], r["defense"]): r["kept_examples"] for r in records}
    lines = []
    for size in SIZES:
        pairs = [
            (kept[target, f"EPIC {size}, fresh"], kept[target, f"EPIC {size}, training"])
            for target in sorted({r["target"] for r in records})
        ]
        mean = np.mean([shared(*pair) for pair in pairs])
        lines.append(f"EPIC {size}: {mean:.2f} of what either keeps is kept by both\n")
    return results_table(records) + "\n" + "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
