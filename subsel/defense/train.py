"""`subsel train`: train an image classifier with EPIC from the shell."""

import argparse
import io
import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from subsel.defense import parallel
from subsel.defense.afresh import AfreshResult, train_afresh
from subsel.defense.checkpoint import Checkpoint, CheckpointError, check_fit, read_weights
from subsel.defense.datasets import ImageData, load
from subsel.defense.epic import EPIC
from subsel.defense.folders import load_folder, split_folder
from subsel.defense.gradients import WRT, check_device
from subsel.defense.models import MODELS, build
from subsel.defense.notices import warnings_in_a_line
from subsel.defense.poisons import PoisonedSet, read_poisons
from subsel.defense.presets import PRESETS, Preset
from subsel.defense.randomness import seeded
from subsel.defense.reporting import report
from subsel.defense.result import TrainResult
from subsel.defense.training import train
from subsel.files import remove_parts, write_whole
from subsel.progress import say
from subsel.sources import METRICS
from subsel.validation import check_count

CHECKPOINT = "checkpoint.pt"
CHECKPOINTS = (CHECKPOINT, "checkpoint-core.pt", "checkpoint-judge.pt")
WRITTEN = ("metrics.jsonl", "kept.npy", "dropped.png", "result.json")
STOPPED = 130  # the exit status after Ctrl-C, as in shells
EPIC_CHANGES = ("warmup", "interval", "stop", "ground_set", "metric", "min_cluster_size")
EPIC_OPTIONS = ("subset_size", *EPIC_CHANGES, "gradients", "wrt")


class _CallableModule(types.ModuleType):
    """A module that can be called like the function of the same name.

    Once this module is imported, it replaces the function `subsel.defense.train` in the package. So
    it must behave like the function.
    """

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallableModule


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    _check_usage(parser, args)
    with warnings_in_a_line(parser.prog), parallel.process_group(args.device) as args.device:
        return _run(parser, args, parallel.all_ranks())


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that cannot be combined, and paths and devices that do not exist."""
    if args.quick and not args.afresh:
        parser.error("--quick only works together with --afresh")
    if not args.afresh and (args.judge_epochs is not None or args.final_epochs is not None):
        parser.error("--judge-epochs and --final-epochs only work together with --afresh")
    if args.afresh and args.readmission:
        parser.error("--readmission and --afresh are two ways to get images back: choose one")
    if not (args.afresh or args.readmission) and args.threshold is not None:
        parser.error("--threshold only works together with --afresh or --readmission")
    if not args.afresh and args.witnesses is not None:
        parser.error("--witnesses only works together with --afresh")
    if args.report is not None and args.no_defense:
        parser.error("--report shows what EPIC dropped, so it does not go with --no-defense")
    if args.report is not None and not args.report.parent.is_dir():
        parser.error(f"--report: there is no folder {args.report.parent}")
    if args.readmission and args.no_defense:
        parser.error("--readmission is EPIC's, so it does not go with --no-defense")
    if args.afresh and args.no_defense:
        parser.error("--afresh starts from what EPIC leaves, so it does not go with --no-defense")
    if args.no_defense and (unused := [name for name in EPIC_OPTIONS if _given(args, name)]):
        names = ", ".join("--" + name.replace("_", "-") for name in unused)
        parser.error(f"EPIC's options have no effect with --no-defense: leave out {names}")
    if args.data is not None and (args.data_dir is not None or args.download):
        parser.error("--data-dir and --download only work together with --dataset")
    if args.data is None and args.size is not None:
        parser.error("--size only works together with --data")
    if args.data is None and args.workers is not None:
        parser.error("--workers only works together with --data")
    if args.dataset == "digits" and args.data_dir is not None:
        parser.error("--data-dir has no effect on digits, which come with scikit-learn")
    if PRESETS[args.preset].training.get("scenario", "scratch") != "scratch" and not args.weights:
        parser.error(
            f"--preset {args.preset} starts from a trained network: name it with --weights"
        )
    if args.weights is not None and not args.weights.is_file():
        parser.error(f"--weights: there is no file {args.weights}")
    try:
        check_device(args.device, nn.Module())
    except ValueError as error:
        parser.error(f"--{error}")
    out = args.out
    if out.exists() and not out.is_dir():
        parser.error(f"--out: {out} is a file, not a folder")
    first = out / _first_checkpoint(args)
    if args.resume and not first.is_file():
        parser.error(f"--resume: there is no {first}")
    if not args.resume and any((out / name).exists() for name in CHECKPOINTS):
        parser.error(
            f"{out} holds a run already: continue it with --resume, or choose another --out"
        )


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace, ranks: parallel.Ranks) -> int:
    out, started = args.out, False
    try:
        defense = None if args.no_defense else _defense(args)
        weights = args.weights and read_weights(args.weights, f"--weights {args.weights}")
        if args.data is None:
            data = load(args.dataset, args.data_dir, download=args.download)
        else:
            data = load_folder(args.data, size=args.size or 32, workers=args.workers or 0)
        poisoned = None if args.poisons is None else read_poisons(args.poisons)
        images, labels = data.train_images, data.train_labels
        if poisoned is not None:
            images, labels = poisoned.apply(images, labels)
        model = _model(args, data, weights)
        run = _training(args, model, defense, images, labels, data)
        out.mkdir(parents=True, exist_ok=True)
        with Checkpoint(out / CHECKPOINT, None, ranks).held():
            started = True
            if ranks.rank == 0:
                for name in WRITTEN:
                    remove_parts(out / name)
            result = run()
            if ranks.rank > 0:
                return 0
            _write(out, result)
            write_whole(out / "dropped.png", plot_dropped(result, labels, data.classes))
            summary = summarize(result, poisoned, labels)
            write_whole(out / "result.json", json.dumps(summary, indent=1) + "\n")
            if args.report is not None:
                found = report(
                    result,
                    (images, labels),
                    classes=data.classes,
                    ids=args.data and [str(path) for path in split_folder(args.data)[0].paths],
                    known=None if poisoned is None else poisoned.indices,
                )
                found.to_html(args.report)
    except (KeyboardInterrupt, Exception) as error:
        again = started and ranks.rank == 0 and (out / _first_checkpoint(args)).is_file()
        status, text = _explained(error, again)
        rank = "" if ranks.size == 1 else f"rank {ranks.rank}: "
        if status == STOPPED:
            if ranks.rank == 0:
                sys.stderr.write(f"\n{text}\n")
        else:
            sys.stderr.write(f"{parser.prog}: error: {rank}{text}\n")
        return status
    say("".join(f"{key}: {value}\n" for key, value in summary.items()))
    say(f"written to {out}: metrics.jsonl kept.npy checkpoint.pt dropped.png\n")
    if args.report is not None:
        say(f"written: {args.report}\n")
    return 0


def _defense(args: argparse.Namespace) -> EPIC:
    """EPIC with the preset's settings, or those of re-admission, and what the options change."""
    changes = {name: getattr(args, name) for name in EPIC_CHANGES if _given(args, name)}
    if not args.readmission:
        return PRESETS[args.preset].epic(args.subset_size, **changes)
    changes |= {n: getattr(args, n) for n in ("subset_size", "threshold") if _given(args, n)}
    schedule = _schedule(args)
    return EPIC.with_readmission(schedule["epochs"], schedule["drops"], **changes)


def _schedule(args: argparse.Namespace) -> dict[str, Any]:
    """The preset's arguments of `train`, with the epochs and drops that are given."""
    given = {name: getattr(args, name) for name in ("epochs", "drops") if _given(args, name)}
    return PRESETS[args.preset].training | given


def _training(
    args: argparse.Namespace,
    model: nn.Module,
    defense: EPIC | None,
    images: Any,
    labels: Any,
    data: ImageData,
) -> Callable[[], TrainResult]:
    """Call `train` or `train_afresh` as the options say."""
    augment = args.augment
    if augment is None:
        augment = PRESETS[args.preset].training.get("scenario") != "transfer"
    settings: dict[str, Any] = {
        **_schedule(args),
        "defense": defense,
        "test": (data.test_images, data.test_labels),
        "lr": args.lr,
        "batch_size": args.batch_size,
        "augment": augment,
        "cutmix": args.cutmix,
        "gradients": args.gradients or "fresh",
        "wrt": args.wrt or "logits",
        "seed": args.seed,
        "device": args.device,
        "checkpoint": args.out / CHECKPOINT,
        "callback": lambda result: _write(args.out, result),
    }
    if not args.afresh:
        settings["resume"] = args.out / CHECKPOINT if args.resume else None
        return lambda: train(model, (images, labels), **settings)
    names = ("resume", "quick", "threshold", "witnesses", "judge_epochs", "final_epochs")
    settings |= {name: getattr(args, name) for name in names if _given(args, name)}
    return lambda: train_afresh(model, (images, labels), **settings)


def _explained(error: BaseException, again: bool) -> tuple[int, str]:
    """The exit status and a line for an error that a user can cause; other errors are raised."""
    hint = "; on the command line: the same command with --resume" if again else ""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, (str(error) or "stopped") + hint
    text = " ".join(str(error).split())
    if isinstance(error, CheckpointError):
        return 2, text
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return 1, f"out of memory; a smaller --batch-size needs less{hint}"
    if isinstance(error, OSError):
        return 1, text + hint
    if isinstance(error, ValueError | TypeError | ImportError | FloatingPointError):
        return 1, text
    raise error


def _given(args: argparse.Namespace, name: str) -> bool:
    return getattr(args, name) is not None


def _first_checkpoint(args: argparse.Namespace) -> str:
    """The name of the first checkpoint of a run."""
    return "checkpoint-core.pt" if args.afresh else CHECKPOINT


def summarize(
    result: TrainResult, poisoned: PoisonedSet | None, labels: np.ndarray
) -> dict[str, Any]:
    """The outcome in a few numbers. With poisons, it includes the fate of poisons and targets."""
    summary: dict[str, Any] = {
        "test accuracy": result.accuracy,
        "kept": len(result.kept),
        "dropped": len(labels) - len(result.kept),
    }
    if isinstance(result, AfreshResult):
        summary["core"] = len(result.core)
    if poisoned is not None:
        left = np.isin(poisoned.indices, result.kept)
        summary["poisons left"] = f"{left.sum()} of {len(left)}"
        device = next(result.model.parameters()).device
        with torch.no_grad():
            targets = torch.from_numpy(poisoned.triggered_targets()).to(device)
            predicted = result.model(targets).argmax(dim=1).cpu().numpy()
        hit = predicted == poisoned.adversarial_label
        summary["targets taken for the attacker's class"] = f"{hit.sum()} of {len(hit)}"
        right = predicted == poisoned.target_labels
        summary["targets classified rightly"] = f"{right.sum()} of {len(right)}"
    return summary


def plot_dropped(result: TrainResult, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw a PNG of how many examples were dropped before each epoch, by class, and were left."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rounds = [] if result.defense is None else result.defense.history
    epochs = np.array([r.epoch for r in rounds], dtype=int)
    counts = np.array(
        [np.bincount(labels[r.dropped], minlength=len(classes)) for r in rounds], dtype=int
    ).reshape(-1, len(classes))
    bottoms = np.cumsum(counts, axis=1) - counts
    for c, name in enumerate(classes):
        axes.bar(epochs, counts[:, c], bottom=bottoms[:, c], label=name)
    axes.set(xlabel="epoch", ylabel="dropped before the epoch", title="What EPIC dropped, and when")
    kept = axes.twinx()
    kept.plot(
        range(len(result.history)),
        [r["kept"] for r in result.history],
        color="black",
        drawstyle="steps-mid",
        label="kept (right)",
    )
    kept.set(ylabel="kept", ylim=(0, len(labels) * 1.05))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _write(out: Path, result: TrainResult) -> None:
    lines = [json.dumps(record) + "\n" for record in result.history]
    write_whole(out / "metrics.jsonl", "".join(lines))
    kept = io.BytesIO()
    np.save(kept, result.kept)
    write_whole(out / "kept.npy", kept.getvalue())


def _model(
    args: argparse.Namespace, data: ImageData, weights: dict[str, torch.Tensor] | None
) -> nn.Module:
    with seeded(args.seed, None, torch.device("cpu")):
        size = data.train_images.shape[1:]
        model = build(args.model, len(data.classes), size, data.mean.tolist(), data.std.tolist())
    if weights is not None:
        check_fit(model, weights, f"--weights {args.weights} does not fit {args.model}")
        model.load_state_dict(weights)
    return model


def _parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name}\n{_described(preset)}" for name, preset in PRESETS.items())
    parser = argparse.ArgumentParser(
        prog="subsel train",
        usage="%(prog)s (--data PATH | --dataset NAME) --out FOLDER [options]",
        description="Train an image classifier that resists targeted data poisoning: every few "
        "epochs,\nEPIC drops the training images whose gradients stand alone in their class.",
        epilog=f"presets:\n{presets}\n\nexample:\n"
        "  subsel train --data photos --epochs 10 --drops 5 8 --warmup 2 --out runs/photos "
        "--report report.html\n  subsel train --dataset fashion-mnist --epochs 10 --warmup 3 "
        "--out runs/first\n\nAfter Ctrl-C, the same command with --resume continues after the last "
        "epoch that was\nfinished.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    which = data.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--dataset",
        choices=("fashion-mnist", "cifar10", "tiny-imagenet", "digits"),
        help="a public data set; see --data-dir and --download",
    )
    which.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="your own images: a folder with a folder for each class (or such folders train and "
        "val), or a table, CSV or Parquet, with the columns path and label",
    )
    data.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="with --data: images are cut to squares of N x N pixels (32)",
    )
    data.add_argument(
        "--workers", type=_from_0, metavar="N", help="with --data: processes that decode (threads)"
    )
    data.add_argument("--data-dir", type=Path, help="folder with the data set's files")
    data.add_argument(
        "--download", action="store_true", help="download the data set if it is missing"
    )
    data.add_argument(
        "--poisons", type=Path, help="a file of published poisons, which replace training images"
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--preset",
        choices=PRESETS,
        default="paper-40",
        help="the settings to start from; they are listed below (paper-40)",
    )
    training.add_argument(
        "--model",
        default="small-cnn",
        metavar="NAME",
        help=f"{', '.join(MODELS)}, timm:NAME or torchvision:NAME (if that library is installed), "
        "or module:function for a function of your own (small-cnn)",
    )
    training.add_argument(
        "--weights",
        type=Path,
        help="a checkpoint.pt or a state dict with the weights to start from",
    )
    training.add_argument("--epochs", type=int, help="passes over the data (as the preset says)")
    training.add_argument("--lr", type=float, help="the learning rate (0.1; 1e-4 for fine-tuning)")
    training.add_argument(
        "--drops",
        type=_from_0,
        nargs="*",
        metavar="EPOCH",
        help="the learning rate is divided by 10 before these epochs (as the preset says)",
    )
    training.add_argument(
        "--batch-size", type=int, default=128, help="images in a batch (%(default)s)"
    )
    training.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="flip and crop images at random (done by default, except with paper-transfer)",
    )
    training.add_argument(
        "--cutmix",
        action="store_true",
        help="train on mixtures: a rectangle of each image, and the same share of its label, come "
        "from another image",
    )

    epic = parser.add_argument_group("EPIC (defaults come from the preset)")
    epic.add_argument("--no-defense", action="store_true", help="train without EPIC")
    epic.add_argument(
        "--subset-size",
        type=float,
        metavar="F",
        help="the number of medoids, as a fraction of each class",
    )
    epic.add_argument("--warmup", type=int, metavar="N", help="epochs before the first round")
    epic.add_argument("--interval", type=int, metavar="N", help="epochs between rounds")
    epic.add_argument("--stop", type=int, metavar="EPOCH", help="no rounds from this epoch on")
    epic.add_argument(
        "--ground-set",
        choices=("active", "full"),
        help="search medoids and neighbours among the images that are kept, or among all (active)",
    )
    epic.add_argument(
        "--metric", choices=METRICS, help="the distance between gradients (euclidean)"
    )
    epic.add_argument(
        "--min-cluster-size", type=int, metavar="N", help="clusters of fewer images are dropped (2)"
    )
    epic.add_argument(
        "--gradients",
        choices=("fresh", "training"),
        help="fresh: from a forward pass before each round; training: from the epoch that was just "
        "trained, at no further cost (fresh)",
    )
    epic.add_argument(
        "--wrt",
        choices=WRT,
        help="the variable of the gradient: the output of the last layer, its input, or the output "
        "of the whole model (logits)",
    )

    epic.add_argument(
        "--readmission",
        action="store_true",
        help="not in the paper: begin early, and when the learning rate has dropped let those "
        "images back in whose label the model finds possible (see --threshold)",
    )

    afresh = parser.add_argument_group("fresh start (not in the paper)")
    afresh.add_argument(
        "--afresh",
        action="store_true",
        help="after the last round of EPIC, train a new model (the judge) on the images that are "
        "left, and a final one on these and all images that the judge accepts; use "
        "--subset-size 0.4",
    )
    afresh.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="an image comes back if the probability of its label is at least P, by the judge or, "
        "with --readmission, by the model (0.05)",
    )
    afresh.add_argument(
        "--witnesses",
        type=int,
        choices=(1, 2),
        help="2: the nearest neighbours of an image have to agree as well (1)",
    )
    afresh.add_argument(
        "--quick",
        action="store_true",
        help="with --afresh: the judge itself is trained further, in place of a final model; with "
        "--warmup 1 --interval 1 and a --stop at a quarter of the epochs, all of it takes about "
        "as long as one training",
    )
    for phase, share in (("judge", "half"), ("final", "three quarters")):
        afresh.add_argument(
            f"--{phase}-epochs",
            type=int,
            metavar="N",
            help=f"epochs of the {phase} training (as --epochs; with --quick, {share} of them)",
        )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--out", type=Path, required=True, help="the folder for all files that are written"
    )
    run.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page (HTML) that shows what was dropped and when",
    )
    run.add_argument("--resume", action="store_true", help="continue the run in --out")
    run.add_argument(
        "--seed", type=_from_0, default=0, help="seed of all random numbers (%(default)s)"
    )
    run.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ... (on this machine %(default)s)",
    )
    return parser


def _from_0(text: str) -> int:
    """Parse an option that is a whole number of at least 0."""
    try:
        return check_count(int(text), "it", 0, 2**64 - 1)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, not {text}"
        ) from None


def _described(preset: Preset) -> str:
    warmup = str(preset.warmup)
    if isinstance(preset.warmup, dict):
        sizes, epochs = (
            "/".join(map(str, part)) for part in zip(*preset.warmup.items(), strict=True)
        )
        warmup = f"{epochs} for {sizes}"
    drops = ", ".join(map(str, preset.training["drops"]))
    return (
        f"    {preset.about}\n    learning rate / 10 at {drops}; EPIC {preset.subset_size}, "
        f"warmup {warmup}, interval {preset.interval}, stop {preset.stop}"
    )


if __name__ == "__main__":
    sys.exit(main())
