"""The command `subsel`.

Each subcommand is a module of this package with a docstring, `add_arguments` and `run`.
"""

import argparse
import logging
import os
import sys
from importlib import import_module

from subsel import __version__

COMMANDS = {
    "select": ("subsel.cli.select", "choose the rows of a file that best stand for all of them"),
    "warm-up": ("subsel.cli.warm_up", "compile all kernels ahead, for instance for a container"),
    "info": ("subsel.cli.info", "print versions, threads, the GPU, and where kernels are kept"),
    "train": ("subsel.defense.train", "train with EPIC, a defense against data poisoning"),
    "audit": ("subsel.cli.audit", "look for poisons and wrong labels with a trained model"),
}


FAILURES = (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)
"""Errors that a file, an option or the machine can cause; they are reported in one line."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # also while modules are imported
        return 130


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:
        return import_module("subsel.defense.train").main(arguments[1:])  # has its own parser
    parser = argparse.ArgumentParser(
        prog="subsel",
        description="Select the few items that represent many, and train safely on data that "
        "others made.",
        epilog="`subsel select --help` has examples. A command ends with status 0 if it succeeded, "
        "2 for options that it does not understand, 1 for any other error, and 130 after Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"subsel {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, summary) in COMMANDS.items():
        one = parsers.add_parser(name, help=summary, description=summary)
        if name == next((a for a in arguments if not a.startswith("-")), ""):
            command = import_module(module)
            command.add_arguments(one)
            usage = one.error
    args = parser.parse_args(arguments)
    if hasattr(command, "check") and (wrong := command.check(args)):
        usage(wrong)
    logging.basicConfig(format="subsel: %(message)s", level=logging.WARNING)
    if not getattr(args, "quiet", False):
        logging.getLogger("subsel.coreset").setLevel(logging.INFO)
    try:
        return command.run(args)
    except FAILURES as error:
        if os.environ.get("SUBSEL_TRACEBACK"):
            raise
        said = str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            said = f"there is not enough memory ({said}); --partitions searches less at a time"
        print(f"subsel: error: {' '.join(said.split())}", file=sys.stderr)  # noqa: T201
        return 1
