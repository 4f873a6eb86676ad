"""The examples of docstrings and of the documentation run, and say what they say there."""

import doctest
import importlib
import pkgutil
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

import subsel

ROOT = Path(__file__).parent.parent
ROOMS = ("objectives", "optimizers", "constraints")


def modules():
    for room in ROOMS:
        package = importlib.import_module(f"subsel.{room}")
        yield package.__name__
        for found in pkgutil.iter_modules(package.__path__):
            yield f"subsel.{room}.{found.name}"
    yield from ("subsel.testing", "subsel.coreset", "subsel.selection", "subsel.estimators")
    yield "subsel.plots"
    yield from ("subsel.assignment", "subsel.streaming", "subsel.distributed.greedi")


@pytest.mark.parametrize("name", list(modules()))
def test_examples_of_docstrings(name):
    with np.printoptions(legacy=False):
        result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_public_functions_and_classes_have_an_example():
    without = {"Objective", "Coverage", "Selection", "StreamSelection"}
    for name in set(subsel.__all__) - without:
        assert ">>> " in (getattr(subsel, name).__doc__ or ""), name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_examples_of_pages(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "gallery").glob("[a-z]*.py")), ids=lambda path: path.stem
)
def test_examples_of_the_gallery(path, capsys):
    pyplot.switch_backend("Agg")
    runpy.run_path(str(path))
    assert capsys.readouterr().out
    assert pyplot.get_fignums()
    pyplot.close("all")
    assert path.with_suffix(".png").exists()
    assert f"gallery/{path.stem}" in (ROOT / "docs" / "gallery.md").read_text()


def test_the_table_of_what_goes_with_what_is_true():
    from benchmarks.selection.capabilities import table

    assert table() in (ROOT / "docs" / "objectives.md").read_text()
