"""Kill trainings with SIGKILL at random moments, and resume them until they are through.

    python tests/trust/killed.py --kills 1000 --seed 7

Each run, with `train` and with `train_afresh`, is killed again and again: at a random moment, or at
a random file operation, in the middle of a write for one.  In the end it must have given the bits
of a run that nothing happened to, and have left nothing behind.  The processes are forked from one
that has everything imported, so that a kill costs no more than the training itself.
"""

import argparse
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

import torch  # noqa: E402
from faults import Faults  # noqa: E402
from tiny import (  # noqa: E402
    continued,
    continued_afresh,
    fingerprint,
    trained,
    trained_afresh,
)

RUNS = {"train": (trained, continued), "train_afresh": (trained_afresh, continued_afresh)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    wanted, lasted, steps = {}, {}, {}
    for name, (whole, _) in RUNS.items():
        wanted[name] = fingerprint(whole())  # also compiles what selection needs
        with tempfile.TemporaryDirectory() as folder, Faults(folder).injected() as counted:
            began = time.perf_counter()
            whole(checkpoint=Path(folder) / "run.pt")
            lasted[name], steps[name] = time.perf_counter() - began, counted.count
    kills = runs = 0
    while kills < args.kills:
        name = draw.choice(list(RUNS))
        folder = Path(tempfile.mkdtemp())
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            limit = draw.random() * lasted[name] if draw.random() < 0.5 else None
            status = attempt(name, folder, wanted[name], limit, draw.randrange(1, steps[name]))
            kills += status == -signal.SIGKILL
        left = {path.name for path in folder.iterdir()} - {"run.pt", "run-core.pt", "run-judge.pt"}
        if status != 0 or left:
            sys.stdout.write(
                f"{name} went wrong after {kills} kills (seed {args.seed}): status {status}, "
                f"left over {sorted(left)}; see {folder}\n"
            )
            return 1
        runs += 1
        shutil.rmtree(folder)
    sys.stdout.write(
        f"{kills} kills, {runs} runs that went on to the end, all bit for bit as without\n"
    )
    return 0


def attempt(name, folder, wanted, seconds, at):
    """Go on with a run in a process of its own; 0, or minus the signal that ended it.

    It is killed after so many seconds, or if that is None at a file operation.
    """
    child = os.fork()
    if child == 0:
        try:
            if seconds is not None:
                at = None
            kill = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            with Faults(folder, at, kill).injected():
                result = RUNS[name][1](folder / "run.pt")
            os._exit(0 if fingerprint(result) == wanted else 3)
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
