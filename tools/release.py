"""Build the wheel and the source distribution, check both, and try them in fresh environments.

    python tools/release.py                  build and check what is in this folder
    python tools/release.py --final          also insist on what a release needs
    python tools/release.py --extras plots   install fewer extras (default: all but cuda)

Needs `pip install build twine check-wheel-contents`. The files are in dist/ afterwards. Nothing is
uploaded: `twine upload dist/*` does that.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
EXTRAS = "sklearn,plots,defense,distributed"

SMOKE = """
import sys
import numpy as np
import subsel
import subsel.estimators, subsel.plots
assert "site-packages" in subsel.__file__, subsel.__file__
X = np.random.default_rng(0).normal(size=(500, 5))
chosen = subsel.select(X, 10)
assert chosen.sizes.sum() == 500
print(chosen, "on Python", sys.version.split()[0])
"""
"""What must work in an environment that has nothing but the wheel and its extras."""

TESTS = ["tests/test_layers.py", "tests/test_plots.py"]
"""Tests that are run from the folder of the source distribution."""


def main() -> int:
    """Build, check, install, try."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--final", action="store_true", help="insist on what a release needs")
    parser.add_argument("--extras", default=EXTRAS, help=f"to install (default {EXTRAS})")
    args = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if args.final:
        check_final(project)

    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    wheel, source = next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    run(sys.executable, "-m", "check_wheel_contents", wheel)
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, args.extras, Path(folder) / "wheel")
        try_source(source, Path(folder) / "source")
    print(f"{wheel.name} and {source.name} are in {DIST}")
    return 0


def check_final(project: dict) -> None:
    """Stop unless the address is known and the changelog has this version."""
    if not project.get("urls"):
        sys.exit("pyproject.toml has no [project.urls]: add the project's address")
    heading = f"## [{project['version']}]"
    if heading not in (ROOT / "CHANGELOG.md").read_text():
        sys.exit(f"CHANGELOG.md has no heading {heading!r}")
    if f"version: {project['version']}\n" not in (ROOT / "CITATION.cff").read_text():
        sys.exit(f"CITATION.cff is not of version {project['version']}")


def try_wheel(wheel: Path, extras: str, folder: Path) -> None:
    """Install the wheel with its extras and use it."""
    python = environment(folder)
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[{extras}]" if extras else wheel)
    run(python, "-m", "pip", "check")
    run(python, "-c", SMOKE, cwd=folder)
    run(folder / bin_folder() / "subsel", "info", cwd=folder)


def try_source(source: Path, folder: Path) -> None:
    """Unpack the source distribution, install it, and run tests from its own folder."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    unpacked = next(folder.iterdir())
    python = environment(folder / "environment")
    tools = ["pytest", "pytest-benchmark", "hypothesis"]
    run(python, "-m", "pip", "install", "--quiet", f"{unpacked}[sklearn,plots]", *tools)
    run(python, "-m", "pytest", "-q", *TESTS, cwd=unpacked)


def environment(folder: Path) -> Path:
    """A fresh virtual environment; its Python."""
    venv.create(folder, with_pip=True)
    return folder / bin_folder() / ("python.exe" if os.name == "nt" else "python")


def bin_folder() -> str:
    """Where a virtual environment keeps its programs."""
    return "Scripts" if os.name == "nt" else "bin"


def run(*command: object, cwd: Path = ROOT) -> None:
    """Run a command, and stop if it fails. It sees no packages but its own environment's."""
    print("$", *(str(part).strip().split("\n")[0] for part in command), flush=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if status := subprocess.run([*map(str, command)], cwd=cwd, env=clean).returncode:
        sys.exit(f"{command[0]} ended with status {status}")


if __name__ == "__main__":
    sys.exit(main())
