"""Kill trainings with SIGKILL at random moments, and resume them until they are through.

    python tests/trust/killed.py --kills 1000 --seed 7

Each run, with `train`, `train_afresh` or the command, is killed again and again: at a random
moment, or at a random file operation, in the middle of a write for one.  In the end it must have
given the bits of a run that nothing happened to, and have left nothing behind.  The processes are
forked from one that has everything imported, so that a kill costs no more than the training.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import tiny  # noqa: E402
import torch  # noqa: E402
from faults import Faults  # noqa: E402

import subsel.defense.train as command  # noqa: E402

CHECKPOINTS = {"checkpoint.pt", "checkpoint-core.pt", "checkpoint-judge.pt"}
FILES = CHECKPOINTS | {"metrics.jsonl", "kept.npy", "dropped.png", "result.json"}


def train(folder):
    """Start or go on with a run of `train`; what it comes to."""
    return tiny.fingerprint(tiny.continued(folder / "checkpoint.pt"))


def train_afresh(folder):
    """The same with `train_afresh`."""
    return tiny.fingerprint(tiny.continued_afresh(folder / "checkpoint.pt"))


def shell(folder):
    """The same with the command."""
    resume = ["--resume"] if (folder / "checkpoint.pt").exists() else []
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        status = command.main([*tiny.COMMAND, *tiny.ROUNDS, "--out", str(folder), *resume])
    return status, tiny.command_files(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    few = tiny.few_digits()
    command.load = lambda *_, **__: few
    command.plot_dropped = lambda *_: b"a plot"
    draw = random.Random(args.seed)
    wanted, lasted, steps = {}, {}, {}
    for run in (train, train_afresh, shell):
        for _ in range(2):  # the first one also compiles what the selection needs
            folder = Path(tempfile.mkdtemp())
            with Faults(folder).injected() as counted:
                began = time.perf_counter()
                wanted[run] = run(folder)
                lasted[run], steps[run] = time.perf_counter() - began, counted.count
            shutil.rmtree(folder)
    kills = runs = 0
    while kills < args.kills:
        run, folder = draw.choice(list(wanted)), Path(tempfile.mkdtemp())
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            limit = draw.random() * lasted[run] if draw.random() < 0.5 else None
            status = attempt(run, folder, wanted[run], limit, draw.randint(1, steps[run]))
            kills += status == -signal.SIGKILL
        left = {path.name for path in folder.iterdir()} - FILES
        if status != 0 or left:
            sys.stdout.write(
                f"{run.__name__} went wrong after {kills} kills (seed {args.seed}): "
                f"status {status}, left over {sorted(left)}; see {folder}\n"
            )
            return 1
        runs += 1
        shutil.rmtree(folder)
    sys.stdout.write(f"{kills} kills; {runs} runs, all bit for bit as without\n")
    return 0


def attempt(run, folder, wanted, seconds, at):
    """Go on with a run in a process of its own; 0, or minus the signal that ended it.

    It is killed after so many seconds, or, if that is None, at its file operation number `at`.
    """
    child = os.fork()
    if child == 0:
        try:
            kill = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            with Faults(folder, at if seconds is None else None, kill).injected():
                os._exit(0 if run(folder) == wanted else 3)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(4)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
