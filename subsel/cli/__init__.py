"""The command `subsel`.

Each subcommand is a module of this package with a docstring, `add_arguments` and `run`.
"""

import argparse
import logging
import sys
from importlib import import_module

COMMANDS = {
    "warm-up": ("subsel.cli.warm_up", "compile all kernels ahead, for instance for a container"),
    "info": ("subsel.cli.info", "print versions, threads, the GPU, and where kernels are kept"),
    "train": ("subsel.defense.train", "train with EPIC, a defense against data poisoning"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        return import_module("subsel.defense.train").main(arguments[1:])  # has its own parser
    parser = argparse.ArgumentParser(
        prog="subsel",
        description="Pick the few items that stand for the many, and train on data that others "
        "made.",
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, summary) in COMMANDS.items():
        known = name == (arguments[0] if arguments else "")
        one = parsers.add_parser(name, help=summary, description=summary)
        if known:
            import_module(module).add_arguments(one)
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    try:
        return import_module(COMMANDS[args.command][0]).run(args)
    except KeyboardInterrupt:
        return 130
