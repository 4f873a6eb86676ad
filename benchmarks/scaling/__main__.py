"""Distributed selection against its targets.

    python -m benchmarks.selection.inputs       # the rows
    python -m benchmarks.scaling quality        # against selection on one machine
    python -m benchmarks.scaling objectives     # every objective, under every kind of constraint
    python -m benchmarks.scaling speed          # 1 and 2 workers, and a plain loop
    python -m benchmarks.scaling memory         # data four times the memory of all workers
    python -m benchmarks.scaling faults         # workers killed at random moments
    python -m benchmarks.scaling model          # time of each step against the cost model
    python -m benchmarks.scaling.example        # 2 000 000 rows on `dask scheduler`, `dask worker`
    python -m benchmarks.scaling report         # writes docs/speed/scaling.md

`--scale` makes a command's problem smaller. Records are added to runs/scaling/records.jsonl; the
report takes the last of each.
"""

import argparse
import hashlib
import multiprocessing
import os
import signal
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dask
import distributed
import numpy as np

import subsel
from benchmarks.poisoning.report import markdown
from benchmarks.scaling.rows import open_rows
from benchmarks.selection.inputs import load, made
from benchmarks.selection.measure import append, conditions, read, source
from subsel.distributed import engines
from subsel.distributed.plan import layout
from subsel.files import written_whole

RECORDS = Path("runs/scaling/records.jsonl")
PAGE = Path("docs/speed/scaling.md")
PACKAGES = ("numpy", "numba", "dask", "distributed", "zarr")
FULL = 1.0


def record(command, scale, **figures):
    """Keep what a command found."""
    entry = {
        "command": command, "scale": scale, "source": source(), "load": os.getloadavg()[0],
        "conditions": conditions(os.cpu_count(), *PACKAGES), **figures,
    }  # fmt: skip
    append(RECORDS, entry)
    print(entry)


@contextmanager
def workers(count, *, trim=False, **options):
    """A cluster of processes on loopback, each of one thread, with kernels compiled.

    Without `trim`, not with the MALLOC_TRIM_THRESHOLD_ that Dask sets for workers: with it every
    allocation of 128 kB or more goes through the system, and reading Zarr takes twice as long; but
    freed memory is given back.
    """
    environment = {"OMP_NUM_THREADS": 1} | ({"MALLOC_TRIM_THRESHOLD_": 65536} if trim else {})
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", **options,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        client.run(warm_up)
        yield cluster


def warm_up():
    """Compile, or load, what the tasks need, here and outside of any client."""
    open_rows(4096, 64)[:1].compute(scheduler="synchronous")
    X = np.random.default_rng(0).random((400, 4), np.float32)
    with engine(engines.Threads):
        subsel.greedi(X, 5, partitions=4)


@contextmanager
def engine(kind):
    """With one thread of this process in place of the engine that `greedi` would choose."""
    usual, engines.choose = engines.choose, lambda backend: kind(1)
    try:
        yield
    finally:
        engines.choose = usual


def timed(run):
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def digest(chosen):
    """Of all that is in a selection, so that two can be told apart."""
    state = hashlib.sha256()
    for part in (chosen.indices, chosen.gains, chosen.sizes, np.asarray(chosen.assignment)):
        state.update(np.ascontiguousarray(part).tobytes())
    return state.hexdigest()[:12]


# Quality

WAYS = {
    "defaults": {},
    "GreeDi: consecutive partitions": {"spread": 1},
    "at most 20 000 rows in a task": {"max_rows": 20_000},
    "at most 10 000 rows, two levels": {"max_rows": 10_000},
    "selected from 30 000 rows": {"sample": 30_000},
}


def quality(scale):
    """What is gained after the first pick, as a part of what greedy gains on one machine."""
    X = np.array(load("embeddings_64")[:: max(1, round(1 / scale))])
    k, parts, seeds = int(600 * scale), 16, 5
    f = subsel.FacilityLocation.from_features(X, memory=0)
    whole, seconds = timed(lambda: subsel.greedy(f, k))
    first, best = whole.gains[0], whole.value

    def covered(indices):
        return (f.value(indices) - first) / (best - first)

    found = {"seconds": [seconds, *[0.0] * (seeds - 1)]}
    for seed in range(seeds):
        for name, options in WAYS.items():
            if scale < FULL:
                options = {key: int(value * scale) if value > 1 else value
                           for key, value in options.items()}  # fmt: skip
            chosen, taken = timed(
                lambda seed=seed, options=options: subsel.greedi(
                    X, k, partitions=parts, random_state=seed, **options
                )
            )
            found.setdefault(name, []).append(covered(chosen.indices))
            found.setdefault(f"{name}: seconds", []).append(taken)
        single, union = by_hand(X, k, parts, seed)
        some = subsel.FacilityLocation.from_features(X[union], memory=0)
        alone = union[subsel.greedy(some, k).indices]
        everything = union[subsel.greedy(f.restrict(union), k).indices]
        found.setdefault("one partition alone", []).append(covered(single))
        found.setdefault("merged on the candidates only", []).append(covered(alone))
        found.setdefault("merged for all rows", []).append(covered(everything))
    record("quality", scale, rows=len(X), k=k, partitions=parts, real=made("embeddings_64"),
           found=found)  # fmt: skip


def by_hand(X, k, parts, seed):
    """What one partition of a random deal selects, and what all of them do."""
    deal = np.array_split(np.random.default_rng(seed).permutation(len(X)), parts)
    chosen = [rows[subsel.select(X[rows], min(k, len(rows)), memory=0).indices] for rows in deal]
    return chosen[0], np.sort(np.concatenate(chosen))


def objectives(scale):
    """The same measure for each objective, under a count, costs and groups."""
    step = max(1, round(6 / scale))
    X, labels = np.array(load("embeddings_64")[::step]), np.array(load("labels")[::step])
    k, parts, seeds = max(8, int(100 * scale)), 8, 3
    amounts = np.maximum(X, 0)
    costs = np.random.default_rng(0).integers(50, 2000, len(X))
    data = {
        "facility_location": X, "saturated_coverage": X, "log_determinant": X,
        "feature_based": amounts, "probabilistic_set_cover": amounts / amounts.max(),
        "set_cover": (amounts > np.quantile(amounts, 0.95, axis=0)).astype(np.float32),
    }  # fmt: skip
    limits = {
        "a count": {"budget": k},
        "costs": {"budget": int(k * costs.mean()), "costs": costs},
        "groups": {"budget": k, "groups": labels, "at_most": -(-k // 9), "at_least": k // 12},
    }
    found = {}
    for name, rows in data.items():
        for limit, options in limits.items():
            whole = subsel.select(rows, objective=name, **options)
            first = whole.values[0]
            values = found.setdefault(f"{name}: {limit}", [])
            for seed in range(seeds):
                chosen = subsel.greedi(
                    rows, objective=name, partitions=parts, random_state=seed, **options
                )
                values.append((chosen.value - first) / (whole.value - first))
    record("objectives", scale, rows=len(X), k=k, partitions=parts, seeds=seeds,
           real=made("embeddings_64"), objectives=[*data], limits=[*limits],
           found=found)  # fmt: skip


# Speed


class Loop(engines.Threads):
    """The same tasks one after the other in this thread."""

    def slots(self):
        return 1

    def start(self, task, below):
        return super().start(task._replace(alone=True), below)


def speed(scale):
    """Two workers against one, and one against a plain loop; in turn."""
    from benchmarks.scaling.__main__ import loop  # by a name that other processes know it by

    problem = n, k, max_rows = int(400_000 * scale), 200, 10_000
    seconds, values = {}, set()

    def note(name, value, taken):
        seconds.setdefault(name, []).append(taken)
        values.add(value)

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for _ in range(3):
            note("loop", *pool.submit(loop, *problem).result())
            for future in [pool.submit(loop, *problem) for _ in range(2)]:
                note("two loops at once", *future.result())
            for count in (1, 2):
                with workers(count):
                    note(f"{count} workers", *select(*problem))
    assert len(values) == 1
    record("speed", scale, rows=n, k=k, max_rows=max_rows, seconds=seconds)


def loop(*problem):
    """The value, and the seconds that it takes without an engine."""
    import numba

    numba.set_num_threads(1)
    warm_up()
    with engine(Loop):
        return select(*problem)


def select(n, k, max_rows):
    X = open_rows(n, 64)
    chosen, taken = timed(lambda: subsel.greedi(X, k, max_rows=max_rows, random_state=0))
    return chosen.value, taken


# Memory


def memory(scale):
    """The peak of each worker, beyond what it has before any data."""
    n, d, k, max_rows = int(1_250_000 * scale), 768, 40, 2000
    X = open_rows(n, d)
    limit = max(X.nbytes // 8, 450 * 2**20)  # at full scale a quarter of the data
    with workers(2, trim=True, memory_limit=limit) as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()]
        before = [memory_of(pid)["VmRSS"] for pid in pids]
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        chosen, taken = timed(lambda: subsel.greedi(X, k, max_rows=max_rows, random_state=0))
        peaks = [memory_of(pid)["VmHWM"] for pid in pids]
        assert pids == [nanny.pid for nanny in cluster.workers.values()], "a worker was restarted"
    assert chosen.sizes.sum() == n
    chunk = X.chunks[0][0]
    deal = layout(n, k, None, max_rows, 16, None, chunk)
    levels, nodes = 0, deal["partitions"]
    while nodes > 1:
        levels, nodes = levels + 1, -(-nodes // deal["branches"])
    record("memory", scale, rows=n, columns=d, k=k, max_rows=max_rows, bytes=X.nbytes,
           limit=limit, before=before, peaks=peaks, chunk=chunk, levels=levels,
           seconds=taken)  # fmt: skip


def bound(max_rows, d, chunk, levels):
    """Bytes that a worker may take, as docs/scaling.md states it, for float32."""
    return 48 * 2**20 + max_rows * ((24 + 4 * levels) * d + 400) + 3 * chunk * 4 * d


def memory_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {f[0][:-1]: int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


# Faults


def faults(scale):
    """A worker killed (SIGKILL) at a random moment of each run."""
    n, k, runs = int(40_000 * scale), 100, 20
    X = open_rows(n, 64)
    random = np.random.default_rng()
    digests, killed = [], []

    def select():
        return subsel.greedi(X, k, partitions=12, random_state=0)

    with workers(2):
        expected, usual = timed(select)
    for _ in range(runs):
        when = usual * random.random()
        with workers(2) as cluster:
            pid = cluster.workers[int(random.integers(2))].pid
            killer = threading.Timer(when, os.kill, (pid, signal.SIGKILL))
            killer.start()
            chosen, taken = timed(select)
            killer.join()
            digests.append(digest(chosen))
        killed.append(when)
        print(f"killed after {when:.2f} s, done after {taken:.2f} s: {digests[-1]}")
    record("faults", scale, rows=n, k=k, runs=runs, usual=usual, killed=killed,
           same=sum(d == digest(expected) for d in digests))  # fmt: skip


# The cost model


PROBLEMS = (  # rows, columns, budget, rows in a task
    (40_000, 64, 100, 5000), (80_000, 64, 100, 5000), (40_000, 64, 100, 2500),
    (40_000, 64, 100, 10_000), (40_000, 64, 400, 5000), (40_000, 64, 400, 20_000),
    (10_000, 768, 50, 2500), (10_000, 768, 300, 2500),
)  # fmt: skip


def model(scale):
    """Seconds of each step in one thread, and what the model says of them."""
    import numba

    numba.set_num_threads(1)
    warm_up()
    found = []
    for n, d, k, max_rows in PROBLEMS:
        n = int(n * scale)
        X = np.array(open_rows(n, d))
        found.append({"rows": n, "d": d, "k": k, "max_rows": max_rows, **steps(X, k, max_rows)})
    record("model", scale, found=found)


def steps(X, k, max_rows):
    """Processor seconds of the tasks of each kind, how many there were, and similarities seen."""
    seconds, counts = {}, {}

    class Timed(Loop):
        def start(self, task, below):
            before = time.thread_time()
            future = super().start(task, below)
            name = task.function.__name__.strip("_")
            seconds[name] = seconds.get(name, 0.0) + time.thread_time() - before
            counts[name] = counts.get(name, 0) + 1
            return future

    with engine(Timed):
        chosen = subsel.greedi(X, k, max_rows=max_rows, random_state=0)
    return {"seconds": seconds, "tasks": counts, "evaluations": chosen.n_evaluations}


# The report


def report(scale):
    """The page, from the last record of each command."""
    last = {entry["command"]: entry for entry in read(RECORDS)}
    parts = [SECTIONS[name](last[name]) for name in SECTIONS if name in last]
    text = f"""# Distributed selection, measured

    python -m benchmarks.scaling report

Each section says when and on which machine it was measured, and what the load was at that time: the
number of processes that wanted to run on the machine's {os.cpu_count()} cores.

""" + "\n".join(parts)
    with written_whole(PAGE) as part:
        part.write_text(text)


def made_by(entry):
    smaller = "" if entry["scale"] == FULL else f" --scale {entry['scale']:g}"
    return (
        f"    python -m benchmarks.scaling {entry['command']}{smaller}\n\n"
        f"{entry['conditions']}; load {entry['load']:.1f}\n"
    )


def quality_section(r):
    rows = []
    for name, values in r["found"].items():
        if name == "seconds" or name.endswith(": seconds"):
            continue
        taken = r["found"].get(f"{name}: seconds")
        rows.append([
            name, f"{np.mean(values):.4f}", f"{min(values):.4f}",
            f"{np.median(taken):.1f}" if taken else "",
        ])  # fmt: skip
    head = ["", "coverage, mean", "worst", "seconds"]
    what = "real" if r["real"] else "synthetic"
    return f"""## Quality

{made_by(r)}
{r["rows"]} × 64 {what} embeddings, k = {r["k"]}, {r["partitions"]} partitions, 5 seeds. Coverage
compares what is gained after the first pick with what greedy on all rows gains
({r["found"]["seconds"][0]:.1f} s): (F − F₁) / (F* − F₁). Target: a mean of at least 0.99.

{markdown(head, rows)}"""


def objectives_section(r):
    rows = [
        [name, *(f"{min(r['found'][f'{name}: {limit}']):.4f}" for limit in r["limits"])]
        for name in r["objectives"]
    ]
    what = "real" if r["real"] else "synthetic"
    return f"""## Objectives and constraints

{made_by(r)}
{r["rows"]} × 64 {what} embeddings (their positive parts, for objectives of amounts), k = {r["k"]}
(or costs of as many rows on average), {r["partitions"]} partitions, the worst of {r["seeds"]}
seeds. Coverage, as above, compares with the selection of `select` from all rows.

{markdown(["", *r["limits"]], rows)}"""


def speed_section(r):
    times = {name: statistics.median(values) for name, values in r["seconds"].items()}
    rows = [[name.replace("1 workers", "1 worker"), f"{t:.2f}"] for name, t in times.items()]
    engine = times["1 workers"] / times["loop"] - 1
    return f"""## Speed

{made_by(r)}
{r["rows"]} × 64 from Zarr, k = {r["k"]}, at most {r["max_rows"]} rows in a task; medians of three
runs in turn; workers have one thread. The loop runs the same tasks one after the other in one
process, without an engine. Two such loops at once, each with all of the work, show how much a
second process helps on this machine.

{markdown(["", "seconds"], rows)}
Two workers are {times["1 workers"] / times["2 workers"]:.2f} times as fast as one (target: at least
1.7); two loops do {2 * times["loop"] / times["two loops at once"]:.2f} times what one does in the
same time. The engine adds {100 * engine:.0f} % to the loop (target: at most 15 %).
"""


def memory_section(r):
    grown = max(p - b for p, b in zip(r["peaks"], r["before"], strict=True))
    most = bound(r["max_rows"], r["columns"], r["chunk"], r["levels"])
    return f"""## Memory

{made_by(r)}
{r["rows"]} × {r["columns"]} float32 in Zarr, {r["bytes"] / 1e6:.0f} MB, which is
{r["bytes"] / r["limit"] / 2:.1f} times the two workers' limits of {r["limit"] / 1e6:.0f} MB
together. k = {r["k"]}, at most {r["max_rows"]} rows in a task, chunks of {r["chunk"]}.
A worker has {max(r["before"]) / 1e6:.0f} MB
with its libraries and compiled kernels before any data. At its peak it had
{max(r["peaks"]) / 1e6:.0f} MB, which is {grown / 1e6:.0f} MB more; the bound in
[scaling](../scaling.md) is {most / 1e6:.0f} MB ({r["levels"]} levels of merges). No worker
was restarted. {r["seconds"]:.0f} s.
"""


def faults_section(r):
    return f"""## Faults

{made_by(r)}
{r["rows"]} × 64 from Zarr, k = {r["k"]}, 12 partitions, two workers, {r["usual"]:.1f} s if nothing
happens. In each of {r["runs"]} runs a worker, drawn at random, got SIGKILL at a moment drawn at
random. {r["same"]} of {r["runs"]} results are identical (indices, gains, sizes, assignment) to that
of a run without.
"""


def model_section(r):
    rows = []
    for f in r["found"]:
        s, (n, k, m) = f["seconds"], (f["rows"], f["k"], f["max_rows"])
        merges = f["tasks"].get("merge", 0) * m * m
        rows.append([
            *map(str, (n, f["d"], k, m)),
            *(f"{s.get(name, 0.0):.2f}" for name in ("partition", "merge", "evaluate")),
            f"{1e9 * s['partition'] / (n * m):.1f}",
            f"{1e9 * s['merge'] / merges:.1f}" if merges else "",
            f"{1e9 * s['evaluate'] / (n * k):.1f}",
        ])  # fmt: skip
    head = ["n", "d", "k", "m", "partitions", "merges", "last pass", "a", "b", "c"]
    return f"""## The cost model

{made_by(r)}
Processor seconds of all tasks of a kind in one thread, and nanoseconds for each unit that the model
counts: a for each of n m pairs in partitions of at most m rows, b for each of m² pairs in a merge,
c for each of n k pairs in the last pass.

{markdown(head, rows)}"""


def example_section(r):
    return f"""## The example

    python -m benchmarks.scaling.example{"" if r["rows"] == 2_000_000 else f" --rows {r['rows']}"}

{r["conditions"]}; load {r["load"]:.1f}

{r["rows"]} × 64 float32 in Zarr ({r["bytes"] / 1e6:.0f} MB), k = {r["k"]}, at most {r["max_rows"]}
rows in a task; `dask scheduler` and two `dask worker` processes of one thread and
{r["limit"] / 1e6:.0f} MB each, one of them killed (SIGKILL) half-way. {r["seconds"]:.0f} s;
{"the result is" if r["same"] else "THE RESULT IS NOT"} identical to that of a run without the kill
({r["undisturbed"]:.0f} s). The highest peak of a worker was {r["peak"] / 1e6:.0f} MB.
"""


SECTIONS = {
    "quality": quality_section, "objectives": objectives_section, "speed": speed_section,
    "memory": memory_section, "faults": faults_section, "model": model_section,
    "example": example_section,
}  # fmt: skip
COMMANDS = {
    "quality": quality, "objectives": objectives, "speed": speed, "memory": memory,
    "faults": faults, "model": model, "report": report,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("commands", nargs="+", choices=COMMANDS)
    parser.add_argument("--scale", type=float, default=FULL, help="of the problem (1)")
    args = parser.parse_args()
    for command in args.commands:
        COMMANDS[command](args.scale)


if __name__ == "__main__":
    main()
