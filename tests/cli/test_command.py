"""The command `subsel`, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subsel.cli import main

ROOT = Path(__file__).parent.parent.parent


def subsel(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "subsel", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("warm-up", "info", "train"))


@pytest.mark.parametrize("wrong", [[], ["nothing"], ["info", "--loud"]])
def test_what_is_not_understood_says_so_in_a_line(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert "subsel: error:" in capsys.readouterr().err.replace("subsel info", "subsel")


def test_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "numba" in said
    assert "kernels in" in said


def test_after_warming_up_nothing_is_compiled(tmp_path):
    run = subsel("warm-up", "--quick", NUMBA_CACHE_DIR=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert str(tmp_path) in run.stdout
    before = set(tmp_path.rglob("*.nbc"))
    code = (
        "import numpy as np, subsel\n"
        "for dtype in (np.float32, np.float64):\n"
        "    X = np.ones((80, 40), dtype) * np.arange(80)[:, None].astype(dtype)\n"
        "    for memory in (0, None):\n"
        "        subsel.select(X, 4, memory=memory)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert set(tmp_path.rglob("*.nbc")) == before
