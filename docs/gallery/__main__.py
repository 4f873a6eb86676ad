"""Run the examples of the gallery, and write their pictures beside them: python docs/gallery."""

import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    """Run all."""
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        print(f"-- {path.name}", flush=True)
        runpy.run_path(str(path))
        plt.savefig(path.with_suffix(".png"), dpi=100)
        plt.close("all")


if __name__ == "__main__":
    main()
