"""Select 2000 of 2 000 000 rows on a cluster that starts here; a worker is killed half-way.

    python -m benchmarks.scaling.example                           # some minutes on two cores
    python -m benchmarks.scaling.example --rows 200000 --budget 200 --max-rows 4000
    python -m benchmarks.scaling.example --check                   # and again, without the kill

Starts `dask scheduler` and two `dask worker` processes on loopback, each worker with less memory
than the rows take. The rows are embeddings with noise, in Zarr (`benchmarks.scaling.rows`).
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import distributed

import subsel
from benchmarks.scaling.__main__ import digest, memory_of, record, timed, warm_up
from benchmarks.scaling.rows import open_rows


@contextmanager
def cluster(limit):
    """A client of a scheduler and two workers, each a process that the shell could have started."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "error"}

        def start(*arguments):
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, "--scheduler-file", file],
                env=environment, cwd=folder if arguments[0] == "scheduler" else None,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        while not file.exists():
            time.sleep(0.1)
        for _ in range(2):
            start("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard",
                  "--memory-limit", str(limit), "--local-directory", folder)  # fmt: skip
        client = stack.enter_context(distributed.Client(scheduler_file=str(file)))
        client.wait_for_workers(2, timeout=60)
        client.run(warm_up)
        yield client


class Watch(threading.Thread):
    """Notes the workers' highest memory, and kills one when half of the partitions are done."""

    def __init__(self, client, partitions):
        super().__init__(daemon=True)
        self.client, self.half = client, partitions // 2
        self.killed, self.peak, self.over = None, 0, False

    def run(self):
        while not self.over:
            for pid in self.client.run(os.getpid, on_error="ignore").values():
                try:
                    self.peak = max(self.peak, memory_of(pid)["VmHWM"])
                except (FileNotFoundError, KeyError):
                    continue  # it has just been killed
                if self.half and not self.killed and self.done() >= self.half:
                    self.killed = pid
                    os.kill(pid, signal.SIGKILL)
                    print(f"\nkilled worker {pid}: {self.half} partitions are done", flush=True)
            time.sleep(1)

    def done(self):
        """Partitions that have been selected from."""

        def count(dask_scheduler):
            prefix = dask_scheduler.task_prefixes.get("greedi-partition")
            return prefix.state_counts["memory"] if prefix else 0

        return self.client.run_on_scheduler(count)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000, help="(%(default)s)")
    parser.add_argument("--budget", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--max-rows", type=int, default=40_000, help="in a task (%(default)s)")
    parser.add_argument("--limit", type=float, default=500e6, help="bytes a worker (%(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with a run without the kill")
    args = parser.parse_args()
    X = open_rows(args.rows, 64)
    partitions = -(-args.rows // args.max_rows)

    def select():
        return subsel.greedi(X, args.budget, max_rows=args.max_rows, random_state=0, progress=True)

    def run(kill):
        with cluster(int(args.limit)) as client:
            watch = Watch(client, partitions if kill else 0)
            watch.start()
            try:
                chosen, seconds = timed(select)
            finally:
                watch.over = True
                watch.join()
            label = digest(chosen)
            stored = chosen.assignment.max().compute()
        print(f"F = {chosen.value:.6g}, {seconds:.0f} s; {args.rows} rows, of which the last "
              f"representative is number {stored}; digest {label}")  # fmt: skip
        return label, seconds, watch

    label, seconds, watch = run(kill=True)
    if watch.killed is None:
        sys.exit("it was over before a worker could be killed; take more rows")
    if args.check:
        other, undisturbed, calm = run(kill=False)
        record(
            "example", 1.0, rows=args.rows, bytes=X.nbytes, k=args.budget, max_rows=args.max_rows,
            limit=args.limit, seconds=seconds, undisturbed=undisturbed, same=label == other,
            peak=max(watch.peak, calm.peak),
        )  # fmt: skip


if __name__ == "__main__":
    main()
