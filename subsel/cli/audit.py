"""`subsel audit`: list the training images that a trained model finds suspicious."""

import argparse
from pathlib import Path
from typing import Any

from subsel.progress import say

SHOWN = 10
WRITES = ("html", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="a folder with a folder of images for each class, or a table (CSV, Parquet) with the "
        "columns path and label; the images that `subsel train` would train on are examined",
    )
    which.add_argument(
        "--dataset",
        choices=("fashion-mnist", "cifar10", "tiny-imagenet", "digits"),
        help="a public data set",
    )
    parser.add_argument("--data-dir", type=Path, help="folder with the data set's files")
    parser.add_argument("--size", type=int, default=32, metavar="N", help="pixels of a side (32)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="with --data: processes that decode (threads)"
    )
    parser.add_argument(
        "--model", default="small-cnn", metavar="NAME", help="as for `subsel train` (small-cnn)"
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="a checkpoint.pt or a state dict of the model"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    for kind in WRITES:
        parser.add_argument(
            f"--{kind}", type=Path, metavar="FILE", help=f"write the findings as {kind.upper()}"
        )


def check(args: argparse.Namespace) -> str | None:
    """An error message if the options are wrong, else None."""
    if not args.weights.is_file():
        return f"--weights: there is no file {args.weights}"
    for kind in WRITES:
        path = getattr(args, kind)
        if path is not None and not path.parent.is_dir():
            return f"--{kind}: there is no folder {path.parent}"
    if args.data is None and args.workers is not None:
        return "--workers only works together with --data"
    return None


def run(args: argparse.Namespace) -> int:
    """Audit the images, write the files, and print the most suspicious images."""
    from torch import nn

    from subsel.defense import audit
    from subsel.defense.checkpoint import check_fit, read_weights
    from subsel.defense.datasets import load
    from subsel.defense.folders import load_folder, split_folder
    from subsel.defense.gradients import check_device
    from subsel.defense.models import build

    device = check_device(args.device, nn.Module())
    weights = read_weights(args.weights, f"--weights {args.weights}")
    ids: Any = None
    if args.data is None:
        data = load(args.dataset, args.data_dir)
        images, labels = data.train_images, data.train_labels
    else:
        data = load_folder(args.data, size=args.size, workers=args.workers or 0)
        images, labels = data.train_images, data.train_labels
        ids = [str(path) for path in split_folder(args.data)[0].paths]
    size = images.shape[1:]
    model = build(args.model, len(data.classes), size, data.mean.tolist(), data.std.tolist())
    check_fit(model, weights, f"--weights {args.weights} does not fit {args.model}")
    model.load_state_dict(weights)
    model.to(device)
    found = audit(model, (images, labels), classes=data.classes, ids=ids)
    for kind in WRITES:
        if (path := getattr(args, kind)) is not None:
            getattr(found, f"to_{kind}")(path)
            say(f"written: {path}\n")
    say("the most suspicious:\n")
    for row in found.rows()[:SHOWN]:
        say(
            f"{row['suspicion']:.3f}  {row['id']}  labelled {row['class']}, the model says "
            f"{row['predicted']}\n"
        )
    return 0
