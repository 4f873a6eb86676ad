"""What importing costs, and that the examples in the documentation run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import subsel

ROOT = Path(__file__).parent.parent


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_import_loads_neither_torch_nor_compilers():
    run = python(
        "import subsel, sys\n"
        "heavy = {'torch', 'sklearn', 'numba', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert run.returncode == 0, run.stderr


def test_selecting_does_not_load_torch():
    run = python(
        "import subsel, sys\n"
        "subsel.greedy([[1.0, 0.0], [0.0, 2.0]], 1)\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    assert run.returncode == 0, run.stderr


def test_the_defense_without_torch_says_how_to_get_it():
    run = python("import sys\nsys.modules['torch'] = None\nimport subsel.defense")
    assert run.returncode == 1
    assert run.stderr.strip().endswith('pip install "subsel[defense]"')


def test_compiling_is_announced_once_to_a_terminal_and_not_when_cached(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "sys.stderr.isatty = lambda: {}\n"
        "from subsel.kernels import cpu\n"
        "cpu.is_symmetric(np.eye(2)); cpu.is_symmetric(np.eye(2, dtype=np.float32))\n"
    )
    for terminal, told in ((True, 1), (True, 0), (False, 0)):
        run = python(code.format(terminal), NUMBA_CACHE_DIR=str(tmp_path / str(terminal)))
        assert run.returncode == 0, run.stderr
        assert run.stderr.count("compiling") == told


def test_public_names():
    for name in subsel.__all__:
        assert getattr(subsel, name).__doc__
    assert set(subsel.__all__) <= set(dir(subsel))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        subsel.nothing  # noqa: B018


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    "page", ["docs/getting_started.md", "docs/objectives.md", "docs/constraints.md"]
)
def test_examples_of_a_page_run_in_sequence(page):
    names = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    assert names["chosen"].value > 0


def test_the_readme_s_selection_example_runs():
    names = {}
    exec(compile(blocks("README.md")[0], "README.md", "exec"), names)
    assert len(names["chosen"].indices) == 500
    assert names["chosen"].sizes.sum() == 5000


def test_the_readme_s_example_with_constraints_runs():
    pytest.importorskip("matplotlib").use("Agg")
    rng = np.random.default_rng(0)
    names = {
        "subsel": subsel,
        "X": rng.normal(size=(400, 10)),
        "costs": rng.uniform(50, 2000, 400),
        "sources": rng.integers(3, size=400),
        "labelled": [0, 1],
        "broken": [2],
    }
    exec(compile(blocks("README.md")[1], "README.md", "exec"), names)
    chosen = names["chosen"]
    assert not {0, 1, 2} & set(chosen.indices.tolist())
    assert 0 < chosen.cost <= 10_000
    assert np.bincount(names["sources"][chosen.indices]).max() <= 50


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_pages_that_sphinx_does_not_see_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            file, _, heading = link.partition("#")
            assert (ROOT / file).is_file(), link
            headings = re.findall(r"(?m)^#+ (.*)$", (ROOT / file).read_text()) if heading else []
            assert not heading or heading in {_anchor(text) for text in headings}, link


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_examples_of_partitions_run():
    """But for the first two, which want ten million rows and a cluster."""
    names = {"subsel": subsel}
    exec(compile(blocks("docs/scaling.md")[2], "docs/scaling.md", "exec"), names)
    assert not {*range(3), *range(100, 200)} & set(names["chosen"].indices.tolist())


def test_the_docstring_s_example():
    chosen = subsel.select(np.array([[0.0], [0.1], [0.2], [5.0], [5.1]]), 2)
    np.testing.assert_array_equal(chosen.indices, [2, 3])
    np.testing.assert_array_equal(chosen.sizes, [3, 2])


def test_a_selection_as_tensors():
    torch = pytest.importorskip("torch")
    chosen = subsel.select(np.eye(5), 2)
    tensors = chosen.to_torch()
    assert tensors.indices.dtype == torch.int64
    assert tensors.gains.tolist() == chosen.gains.tolist()
    assert (tensors.value, tensors.path, len(tensors)) == (chosen.value, "features", 2)
    assert subsel.greedy(np.eye(5), 2).to_torch().sizes is None
