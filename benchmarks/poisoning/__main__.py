"""python -m benchmarks.poisoning: poison a victim, defend it, see what happened."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.poisoning.attacks import ATTACKS
from benchmarks.poisoning.defenses import known, possible
from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.figures import FIGURES, success_and_time
from benchmarks.poisoning.lab import Lab
from benchmarks.poisoning.measure import study
from benchmarks.poisoning.plots import draw_all, save
from benchmarks.poisoning.published import PublishedLab
from benchmarks.poisoning.records import claim, present_name, read_records
from benchmarks.poisoning.report import by_defense, markdown, results_table, targets_table
from benchmarks.poisoning.research import FOLDER, README, write_pages
from benchmarks.poisoning.settings import BACKBONES, BASE_CLASSES, BASES, BLOCK, DIGITS, Settings
from benchmarks.poisoning.tables import (
    BEYOND,
    BLOCK_DEFENSES,
    SCALES,
    TABLES,
    Experiment,
    experiments,
    table_of,
    title_of,
)
from subsel.defense import PRESETS, datasets
from subsel.defense.models import MODELS
from subsel.files import write_whole

PACKAGE = "dataset-fashion-mnist"
DEMO = {"subset_sizes": (0.2, 0.3), "ground_sets": ("active",)}
DEMO_TARGETS, DEMO_STEPS = 5, 600
DATASETS = ("fashion-mnist", "cifar10", "tiny-imagenet", "digits")

LEGEND = """\
Attack success: the share of targets that were given the class the attacker wanted. Accuracy (on
all test images), kept and poisons left are means over the targets. Controls drop as many examples
in the same rounds. "Fresh head" and "re-admission" are not in the paper.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parser().parse_args(argv)
    try:
        for part in by_backbone(args):
            part.command(part)
    except KeyboardInterrupt:
        print("\nStopped. What is done is kept: the same command goes on from there.")
        return 130
    except (FileNotFoundError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def by_backbone(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The command for each backbone that it names."""
    if getattr(args, "backbone", None) != "both":
        return [args]
    out = args.out or out_of(args)
    return [
        argparse.Namespace(**{**vars(args), "backbone": backbone, "out": out / backbone})
        for backbone in BACKBONES
    ]


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.poisoning", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", type=Path, help="folder with the data set's files")
    common.add_argument("--download", action="store_true", help="fetch the data if need be")
    common.add_argument(
        "--cache",
        type=Path,
        default=Path("data/poisoning"),
        help="folder for backbones and crafted poisons (default: %(default)s)",
    )
    common.add_argument(
        "--threads",
        type=count,
        default=1,
        help="of torch (default: %(default)s: the nets are small, and any machine's results alike)",
    )
    common.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    chosen = common.add_argument_group("settings (default: those of docs/research/earlier.md)")
    chosen.add_argument("--model", choices=[*MODELS, BLOCK], help="of backbone and victim")
    chosen.add_argument(
        "--augment", action=argparse.BooleanOptionalAction, help="flip and crop in training"
    )
    chosen.add_argument(
        "--base-class", choices=BASE_CLASSES, help="that targets shall be taken for"
    )
    chosen.add_argument(
        "--bases", choices=BASES, help="nearest: images of the base class most like the target"
    )
    chosen.add_argument(
        "--backbone",
        choices=[*BACKBONES, "both"],
        help="trained on the victim's own images, before they were poisoned (the paper's transfer "
        "setting), or on other images; both: one after the other, in folders of their names",
    )
    chosen.add_argument(
        "--drops", type=int, nargs="*", help="of the learning rate, in the preset's epochs"
    )
    for name, kind, text in (
        ("pretrain", int, "images that are not the victim's, for another backbone"),
        ("pretrain-epochs", int, "of the backbone"),
        ("victim", int, "images that the victim is trained on, poisons included"),
        ("poisons", int, "how many of them are poisons"),
        ("epsilon", int, "largest change of a pixel, of 255"),
        ("steps", int, "of Adam, in crafting"),
        ("lr", float, "of Adam, in crafting"),
        ("watermark", float, "opacity of the target laid over the bases at the start"),
        ("seed", int, "of everything"),
        ("epochs", int, "of the victim; EPIC's schedule is stretched to them"),
        ("victim-lr", float, "of the victim (default: 0.1, in fine-tuning 1e-4)"),
        ("weight-decay", float, "of the victim (default: 5e-4, of a block 1.5e-3)"),
        ("restarts", int, "of attacks that start at random"),
    ):
        chosen.add_argument(f"--{name}", type=kind, help=text)

    single = argparse.ArgumentParser(add_help=False)
    single.add_argument("--dataset", choices=list(DATASETS), default="fashion-mnist")
    single.add_argument("--attack", choices=list(ATTACKS))
    single.add_argument("--preset", choices=list(PRESETS), help="scenario and schedules")
    single.add_argument("--subset-sizes", type=float, nargs="+", help="of EPIC")
    single.add_argument("--ground-sets", choices=["active", "full"], nargs="+", help="of EPIC")

    demo = commands.add_parser(
        "demo", parents=[common, single], help="a handful of targets, start to end"
    )
    top.set_defaults(obtain=False)
    demo.set_defaults(command=demo_command)
    craft = commands.add_parser(
        "craft", parents=[common, single], help="only craft the poisons, and keep"
    )
    craft.set_defaults(command=craft_command)
    full = commands.add_parser("run", parents=[common, single], help="the experiment")
    full.set_defaults(command=run_command)
    for command, targets in ((demo, DEMO_TARGETS), (craft, 24), (full, 24)):
        command.add_argument("--targets", type=count, default=targets, help="default: %(default)s")
    for command, out in ((demo, "runs/demo"), (full, "runs/poisoning")):
        text = f"folder for results (default: {out}, with digits {out}-digits)"
        command.add_argument("--out", type=Path, help=text)
        command.set_defaults(usual_out=out)
    full.add_argument(
        "--defenses",
        nargs="+",
        type=present_name,
        metavar="NAME",
        help="in place of the usual ones",
    )
    full.add_argument(
        "--scale",
        choices=["small", "block"],
        default="small",
        help=f"small: the usual settings; block: {SCALES['block'].about}",
    )
    full.add_argument("--first", type=int, default=0, help="number of the first target (0)")
    paper = argparse.ArgumentParser(add_help=False)
    of_tables = [name for name in SCALES if name != "block"]
    paper.add_argument("--scale", choices=of_tables, default="small", help=scales_described())
    paper.add_argument("--targets", type=count, help="default: by the scale")
    paper.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="not all of its experiments")
    paper.add_argument("--out", type=Path, default=Path("runs"), help="default: %(default)s")
    table = commands.add_parser("table", parents=[common, paper], help="a table of the paper's")
    table.add_argument("number", type=int, choices=TABLES)
    table.add_argument(
        "--defenses",
        nargs="+",
        type=present_name,
        metavar="NAME",
        help="in place of the paper's",
    )
    table.add_argument("--beyond", action="store_true", help="later defenses and controls too")
    table.add_argument(
        "--published",
        type=Path,
        metavar="FOLDER",
        help="a published poisoned set in each of its folders, in place of sets crafted here",
    )
    table.set_defaults(command=table_command)
    figure = commands.add_parser("figure", parents=[common, paper], help="a figure of the paper's")
    figure.add_argument("number", type=int, choices=[*FIGURES, 6])
    figure.add_argument(
        "--trainings",
        type=count,
        default=24,
        help="at most, in the search for each target's effective poisons (default: %(default)s)",
    )
    figure.set_defaults(command=figure_command, published=None)
    listing = commands.add_parser("defenses", help="list all defenses")
    listing.set_defaults(command=list_defenses)
    pages = commands.add_parser("pages", help="bring docs/research up to date with its records")
    pages.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="(docs/research)")
    pages.set_defaults(command=pages_command)
    report = commands.add_parser("report", help="tables and plots of what a run has so far")
    report.add_argument("out", type=Path, help="the run's folder")
    report.set_defaults(command=lambda args: report_on(args.out))
    return top


def scales_described() -> str:
    return "; ".join(f"{name}: {scale.about}" for name, scale in SCALES.items() if name != "block")


def count(text: str) -> int:
    """A number from 1, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def list_defenses(args: argparse.Namespace) -> None:
    rows = [[d.template, ", ".join(d.told), ", ".join(d.scenarios)] for d in known()]
    print(markdown(["defense", "is given", "works in"], rows), end="")


def craft_command(args: argparse.Namespace) -> None:
    lab = prepared(args, usual_settings(args))
    for number in tqdm(range(args.targets), desc="targets"):
        lab.poisons(lab.target(number))
    print(f"{args.targets} poisoned sets in {lab.poison_folder}")


def run_command(args: argparse.Namespace) -> None:
    lab = prepared(args, usual_settings(args))
    wanted = args.defenses
    if wanted is None and args.scale == "block":
        wanted = BLOCK_DEFENSES
    if wanted is None:
        run_and_report(args, lab)
    else:
        out = out_of(args)
        asked = [
            record
            for record in run(lab, out, range(args.first, args.targets), wanted)
            if args.first <= record["target"] < args.targets and record["defense"] in wanted
        ]
        print(f"\n{results_table(asked)}")


def demo_command(args: argparse.Namespace) -> None:
    full = usual_settings(args)
    args.obtain = args.data_dir is None
    lab = prepared(args, replace(full, steps=min(DEMO_STEPS, full.steps), **DEMO))
    run_and_report(args, lab)


def usual_settings(args: argparse.Namespace) -> Settings:
    if getattr(args, "scale", "small") == "block":
        return replace(SCALES["block"].settings, dataset=args.dataset)
    return DIGITS if args.dataset == "digits" else Settings(args.dataset)


def out_of(args: argparse.Namespace) -> Path:
    usual = args.usual_out
    if args.dataset != "fashion-mnist":
        usual = f"{usual}-{args.dataset}"
    return args.out or Path(usual)


def run_and_report(args: argparse.Namespace, lab: Lab) -> None:
    out = out_of(args)
    first = getattr(args, "first", 0)
    run(lab, out, range(first, args.targets), lab.settings.defenses(), traces=True)
    report_on(out)


def table_command(args: argparse.Namespace) -> None:
    folder = args.out / f"table-{args.number}-{args.scale}"
    parts = []
    for entry in chosen_experiments(experiments(args.number, args.scale), args.only):
        lab = prepared(args, entry.settings, args.published)
        title = title_of(lab.settings)
        defenses = args.defenses or entry.defenses
        if args.beyond:
            defenses = [*defenses, *possible(BEYOND, lab.settings.scenario)]
        out = folder / entry.name
        targets = args.targets or SCALES[args.scale].targets
        run(lab, out, range(targets), defenses)
        parts.append(f"### {title}\n\n{table_of(entry, out)}")
        write_whole(folder / "table.md", "\n".join(parts))
    print("\n" + "\n".join(parts))


def figure_command(args: argparse.Namespace) -> None:
    folder = args.out / f"figures-{args.scale}"
    targets = range(args.targets or SCALES[args.scale].targets)
    if args.number == 6:
        entry = experiments(2, args.scale)[0]
        out = args.out / f"table-2-{args.scale}" / entry.name
        run(prepared(args, entry.settings), out, targets, entry.defenses)
        drawn = success_and_time(read_records(out), read_records(out, "times.jsonl"))
    else:
        wanted, studies = FIGURES[args.number], {}
        for entry in chosen_experiments(wanted.experiments(args.scale), args.only):
            lab = prepared(args, entry.settings)
            out = folder / entry.name
            claim(lab, out)
            studies[title_of(lab.settings)] = study(lab, out, targets, wanted.parts, args.trainings)
        drawn = wanted.draw(studies)
    path = folder / f"figure-{args.number}.png"
    save(drawn, path)
    print(f"\n{path}")


def chosen_experiments(entries: list[Experiment], only: list[str] | None) -> list[Experiment]:
    names = [entry.name for entry in entries]
    if unknown := set(only or []) - set(names):
        raise ValueError(f"--only: {', '.join(unknown)} is none of {', '.join(names)}")
    return [entry for entry in entries if only is None or entry.name in only]


def prepared(args: argparse.Namespace, defaults: Settings, published: Path | None = None) -> Lab:
    """Data, net and clean victim, for the defaults with what the command line says."""
    torch.set_num_threads(args.threads)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch sees no such GPU")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key in vars(defaults)
        if (value := getattr(args, key, None)) is not None
    }
    settings = replace(defaults, **given)
    args.dataset = settings.dataset
    try:
        data = obtained(args) if args.obtain else loaded(args)
    except FileNotFoundError as error:
        small = "--scale toy" if "only" in args else "--dataset digits"
        hint = f"Or try the small embedded set: {small}."
        raise FileNotFoundError(f"{error} {hint}") from None
    if published is None:
        lab = Lab(settings, data, args.cache, args.device)
    else:
        lab = PublishedLab(settings, data, args.cache, args.device, published)
    print(
        f"\n{title_of(lab.settings)}\n"
        f"{data.name}: {lab.settings.victim} images, clean test accuracy {lab.clean_accuracy:.3f}"
    )
    return lab


def loaded(args: argparse.Namespace) -> datasets.ImageData:
    return datasets.load(args.dataset, args.data_dir, download=args.download)


def obtained(args: argparse.Namespace) -> datasets.ImageData:
    """The data, if need be from the system's package (where this user can) or the network."""
    try:
        return loaded(args)
    except FileNotFoundError:
        if shutil.which("apt-get") and os.geteuid() == 0:
            print(f"Installing {PACKAGE} with apt-get ...", flush=True)
            install = ["apt-get", "install", "-y", "-qq", PACKAGE]
            if subprocess.run(install, check=False).returncode:
                subprocess.run(["apt-get", "update", "-qq"], check=False)
                subprocess.run(install, check=False)
        args.download = True
        return loaded(args)


def pages_command(args: argparse.Namespace) -> None:
    readme = README if args.folder == FOLDER else None
    print("\n".join(str(path) for path in write_pages(args.folder, readme)))


def report_on(out: Path) -> None:
    """Print the tables, and write them and the plots into the run's folder."""
    records = read_records(out)
    if not records:
        raise FileNotFoundError(f"{out} holds no results: run first")
    settings = json.loads((out / "settings.json").read_text())
    epics = [
        f"EPIC {size} {ground}"
        for ground in settings["ground_sets"]
        for size in settings["subset_sizes"]
    ]
    restarted = [
        name for name in by_defense(records) if name.startswith("EPIC") and "fresh head" in name
    ]
    summary = (
        f"{settings['attack']} on {settings['dataset']}: {settings['poisons']} poisons among "
        f"{settings['victim']} images, epsilon {settings['epsilon']}/255, "
        f"{settings['steps']} steps; accuracy without poisons {settings['clean_accuracy']:.3f}\n\n"
        f"{results_table(records)}\n{LEGEND}"
    )
    detail = targets_table(records, ["none", *epics[:3], *restarted])
    write_whole(out / "results.md", f"{summary}\n{detail}")
    traces = [np.load(path) for path in sorted((out / "traces").glob("target-*.npz"))]
    plots = draw_all(records, traces, out)
    print(f"\n{summary}")
    print(f"Each target is in {out / 'results.md'}; plots: {', '.join(map(str, plots))}")


if __name__ == "__main__":
    sys.exit(main())
