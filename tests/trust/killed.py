"""Stop trainings at random moments, mostly with SIGKILL, and resume them until they are through.

    python tests/trust/killed.py --kills 1000 --seed 7

Each run, with `train`, `train_afresh` or the command, is stopped again and again, by SIGKILL or by
Ctrl-C (SIGINT): at a random moment, or at a random file operation, such as in the middle of a
write.  In the end it must have given the bits of a run that nothing happened to, and have left
nothing behind.  The processes are forked from one that has everything imported, so that a stop
costs no more time than the training.
"""

import argparse
import contextlib
import faulthandler
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import tiny  # noqa: E402
import torch  # noqa: E402
from faults import Faults  # noqa: E402
from tqdm import tqdm  # noqa: E402

import subsel.defense.train as command  # noqa: E402

STOPPED = command.STOPPED
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
    if status == STOPPED:
        raise KeyboardInterrupt
    return status, tiny.command_files(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many stops (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # A process that is killed must not take a lock along that the others share, and no thread may
    # hold one at a fork: tqdm has such a lock and such a thread.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
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
        status = None
        while status is None:
            moments = draw.random() * lasted[run], draw.randint(1, steps[run])
            stop = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
            status = attempt(run, folder, wanted[run], draw.choice(moments), stop)
            kills += status is None
        left = {path.name for path in folder.iterdir()} - FILES
        if status != 0 or left:
            sys.stdout.write(
                f"{run.__name__} went wrong after {kills} stops (seed {args.seed}): "
                f"status {status}, left over {sorted(left)}; see {folder}\n"
            )
            return 1
        runs += 1
        shutil.rmtree(folder)
    sys.stdout.write(f"{kills} stops; {runs} runs, all bit for bit as without\n")
    return 0


def attempt(run, folder, wanted, moment, stop):
    """Go on with a run in a process of its own; None if that was stopped, else its exit status.

    A `moment` is a number of seconds (float), or a file operation by its number (int).
    """
    at = moment if isinstance(moment, int) else None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            faulthandler.dump_traceback_later(120, exit=True)  # what hangs is a fault too
            with Faults(folder, at, lambda path: os.kill(os.getpid(), stop)).injected():
                os._exit(0 if run(folder) == wanted else 3)
        except KeyboardInterrupt:
            os._exit(STOPPED)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(4)
    signal.signal(signal.SIGINT, before)
    if at is None:
        time.sleep(moment)
        os.kill(child, stop)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if status in (-signal.SIGKILL, STOPPED) else status


if __name__ == "__main__":
    sys.exit(main())
