#!/usr/bin/env python3
"""Set up subsel in a virtual environment of its own, and run its demonstration or its tests.

    python3 run.py demo    a poisoning attack on real images, undefended and against EPIC
    python3 run.py test    everything that must hold: style, types, tests, documentation

Needs nothing but Python 3.11 or later. The environment is made in .venv, once. Arguments after the
command are passed on: `python3 run.py demo --help`, `python3 run.py test -k select`.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EXTRAS = {"demo": "poisoning", "test": "dev"}

CUDA_NOTE = """
The torch that pip finds here is probably the CUDA build, several gigabytes. Either point pip at
PyTorch's CPU builds (pytorch.org, "Get started", CPU) and repeat, or allow the CUDA build with
    python3 run.py --cuda {command}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuda", action="store_true", help="allow a CUDA build of torch")
    parser.add_argument("command", choices=EXTRAS)
    args, rest = parser.parse_known_args()
    if sys.version_info < (3, 11):
        sys.exit(f"subsel needs Python 3.11 or later; this is {sys.version.split()[0]}")
    set_up(args.command, args.cuda)
    if args.command == "demo":
        return run("-m", "benchmarks.poisoning", "demo", *rest)
    steps = [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "codespell_lib"],
        ["-m", "mypy"],
        ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"],
        # Several processes, as most of a test is one thread's work. Without the option that is set
        # here, their threads for OpenMP would hold the processors while they wait for each other.
        ["-m", "pytest", "-n", "logical", "--maxprocesses", "4", "--dist", "worksteal", *rest],
    ]
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for step in steps:
        if status := run(*step):
            return status
    return 0


def set_up(command: str, cuda: bool) -> None:
    """Install the package and what the command needs, unless that was done before."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = ENVIRONMENT / f"ready-{EXTRAS[command]}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    if not PYTHON.exists():
        print(f"Making {ENVIRONMENT.name} ...", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT]).returncode:
            sys.exit("No virtual environment could be made; on Debian: apt install python3-venv")
    print(f"Installing subsel[{EXTRAS[command]}], once; about a minute ...", flush=True)
    if not install(command, cuda):
        print(CUDA_NOTE.format(command=command), file=sys.stderr)
        asked = not cuda and sys.stdin is not None and sys.stdin.isatty()
        if not (asked and input("Allow it now? [y/N] ").lower().startswith("y")):
            sys.exit(1)
        if not install(command, cuda=True):
            sys.exit(1)
    stamp.write_text(digest)


def install(command: str, cuda: bool) -> bool:
    """Install with pip, within the constraints; whether it went well."""
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    constraints = ENVIRONMENT / "constraints.txt"
    constraints.write_text("".join(x for x in lines if not (cuda and x.startswith("triton"))))
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return run(*pip, "-c", str(constraints), "-e", f"{ROOT}[{EXTRAS[command]}]") == 0


def run(*arguments: str) -> int:
    """Run the environment's Python at the repository's root; its exit status."""
    try:
        return subprocess.run([PYTHON, *arguments], cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
