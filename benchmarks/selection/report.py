"""Every workload against its target, and against what the machine can do.

    python -m benchmarks.selection.inputs fashion augmented imagenet
    python -m benchmarks.selection.peers      # for the comparison with peers
    python -m benchmarks.selection.report     # some twenty minutes
    python -m benchmarks.selection.report --only c-600 d-cosine --repeats 7

Each workload has a process of its own: one run to warm up, then `--repeats` runs, in turn with what
it is compared with; medians; the answer is checked afterwards. Records are added to
runs/selection/workloads.jsonl. What was measured in this state of the source is not measured again
(but with --again), so an interrupted report goes on where it was. Writes docs/speed/workloads.md
from the last record of each workload. PEERS_PYTHON names the interpreter that has apricot, if it is
another one.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.poisoning.report import markdown
from benchmarks.selection import ceilings
from benchmarks.selection.inputs import made
from benchmarks.selection.measure import (
    RUNS,
    append,
    conditions,
    in_process,
    read,
    source,
    timed,
)
from benchmarks.selection.workloads import WORKLOADS
from subsel.files import written_whole

PAGE = Path("docs/speed/workloads.md")


def measure(workload, scale, repeats):
    """In a process of its own: the record of one workload."""
    problem = workload.make(scale)
    rival = workload.rival and workload.rival[1](problem)
    runs, rivals = [], []
    for _ in range(repeats + 1):
        chosen, *cost = timed(problem.run)
        runs.append(cost)
        if rival:
            rivals.append(timed(rival)[1])
    problem.check(chosen)
    seconds, memory = zip(*runs[1:], strict=True)
    record = {
        "seconds": float(np.median(seconds)), "fastest": min(seconds), "slowest": max(seconds),
        "memory": max(memory, default=None),
    }  # fmt: skip
    if rival:
        record["rival_seconds"] = float(np.median(rivals[1:]))
    if chosen is not None:
        record["path"] = chosen.path
        record["pairs_of_all"] = problem.seen(chosen) / problem.pairs()
        record["bytes"], record["flops"] = problem.needs()
    if hasattr(problem, "quality"):
        record |= problem.quality()
    return record


def page(records, machine, peers, notes):
    """The report, from the last record of each workload."""
    rows, targets, limits = [], [], []
    for w in WORKLOADS:
        if w.name not in records:
            continue
        r = records[w.name]
        r["peers"] = peers.get(w.name, {})
        targets += judged(w, r)
        rows.append([
            w.name + (" (older)" if r["source"] != machine["source"] else ""), w.what,
            f"{r['seconds']:.3g}", f"{r['memory'] / 1e6:.0f}" if r["memory"] else "",
            figure(r.get("pairs_of_all")), r.get("path", ""),
            w.rival[0] if "rival_seconds" in r else "", figure(r.get("rival_seconds")),
        ])  # fmt: skip
        if "flops" in r:
            least = max(r["bytes"] / machine["bandwidth"], r["flops"] / machine["flops"])
            limits.append([
                w.name, figure(r["bytes"], 1e9), figure(r["flops"], 1e9), f"{least:.3g}",
                f"{least / r['seconds']:.2g}",
            ])  # fmt: skip
    head = ["", "workload", "seconds", "MB", "pairs", "path", "compared with", "seconds"]
    targets_head = ["", "target", "at", "measured", "met"]
    limits_head = ["", "GB", "Gflop", "seconds", "part of our time"]
    return f"""# Workloads

{notes}

    python -m benchmarks.selection.report

Seconds are medians. MB is the peak of memory beyond the input. *Pairs* is the number of computed
similarities, divided by the number of all of them (n², or the non-zeros). *Path* says how they were
obtained. A row that is marked as older was measured with another version of the source than the
figures of the machine below.

{markdown(head, rows)}
## Targets

{markdown(targets_head, targets)}
## The machine, and the least time

A copy moves {machine["bandwidth"] / 1e9:.1f} GB a second (bytes read and written, all threads);
sgemm does {machine["flops"] / 1e9:.0f} Gflop a second (a multiply-add is two).

A selection must at least read the input once, and compute one inner product for each unordered
pair of rows. (For a given matrix it must do one operation for each entry. For a sample it must
compute the inner products of all rows with those selected.) The table has the seconds that this
takes at the rates above, and which part of our time they are. Where bounds leave out tiles of rows,
these seconds are no lower bound. Exact differences take twice the operations of inner products.

{markdown(limits_head, limits)}"""


def judged(workload, record):
    """Rows of the table of targets, one for each target of a workload."""
    rows = []
    for target in workload.targets:
        value = target.value(record)
        rows.append([
            workload.name, target.words, f"{'≥' if target.at_least else '≤'} {target.bound:g}",
            figure(value), "open" if value is None else "yes" if target.met(value) else "**no**",
        ])  # fmt: skip
    if "coverage" in record:
        rows.append([workload.name, "part of an exact gain after the first pick", "",
                     f"{record['coverage']:.4f}", ""])  # fmt: skip
    return rows


def figure(value, unit=1):
    return "" if value is None else f"{value / unit:.3g}"


def last(path, key):
    """The last record of each name."""
    return {record[key]: record for record in read(path)}


def peers_seconds():
    """What each library takes for the workloads that peers.py measures too."""
    times = {}
    for record in read(RUNS / "peers.jsonl"):
        times.setdefault(record["problem"], {})[record["name"]] = record["seconds"]
    return times


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [w.name for w in WORKLOADS]
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME",
                        help=f"of {', '.join(names)}, or the beginnings of such")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    scale_help = "part of the rows (or classes), for a quick look; writes no page"
    parser.add_argument("--scale", type=float, default=1.0, help=scale_help)
    parser.add_argument("--again", action="store_true", help="measure also what was measured")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure == "machine":
        return print(json.dumps(ceilings.measure()))
    if args.measure:
        workload = next(w for w in WORKLOADS if w.name == args.measure)
        return print(json.dumps(measure(workload, args.scale, args.repeats)))

    path = RUNS / ("workloads.jsonl" if args.scale == 1 else f"workloads-{args.scale:g}.jsonl")
    state = source()
    done = {} if args.again else last(path, "workload")
    wanted = ["machine"] + [w.name for w in WORKLOADS if w.name.startswith(tuple(args.only))]
    todo = [name for name in wanted if done.get(name, {}).get("source") != state]
    files = {w.name: w.file for w in WORKLOADS}
    for name in (bar := tqdm(todo, unit="workload")):
        bar.set_postfix_str(name)
        if args.scale == 1 and files.get(name) and not made(files[name]):
            tqdm.write(f"{name} left out: its input was not made, see --help", file=sys.stderr)
            continue
        record, error = in_process(
            "benchmarks.selection.report",
            ["--measure", name, "--scale", args.scale, "--repeats", args.repeats], args.threads,
        )  # fmt: skip
        if record is None:
            tqdm.write(f"{name} left out: {error}", file=sys.stderr)
            continue
        notes = conditions(args.threads, "numpy", "numba")
        append(path, {"workload": name, "source": state, "conditions": notes, **record})
    records = last(path, "workload")
    machine = records["machine"]
    text = page(
        records, machine, peers_seconds(), "\n".join({r["conditions"] for r in records.values()})
    )
    if args.scale == 1:
        with written_whole(PAGE) as part:
            part.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
