"""Ten million rows on one machine, by `select` with ``method="auto"``: quality, time and memory.

    python -m benchmarks.selection.inputs           # the rows
    python -m benchmarks.scaling.many quality       # beside greedy on all of 100 000 rows
    python -m benchmarks.scaling.many run           # 10 000 of 10 000 000 rows
    python -m benchmarks.scaling.many report        # writes docs/speed/many.md

Rows are embeddings with noise (`benchmarks.selection.inputs.noisy_embeddings`). Records are added
to runs/scaling/many.jsonl; the report takes the last of each.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

import subsel
from benchmarks.poisoning.report import markdown
from benchmarks.selection.inputs import noisy_embeddings
from benchmarks.selection.measure import append, conditions, read
from subsel.files import written_whole
from subsel.kernels import cpu

RECORDS = Path("runs/scaling/many.jsonl")
PAGE = Path("docs/speed/many.md")
STEP = 100_000
SEEDS = 3


def rows(n):
    """Rows to select from, in one array."""
    X = np.empty((n, 64), np.float32)
    for start, block in zip(range(0, n, STEP), noisy_embeddings(n, 64, STEP), strict=True):
        X[start : start + STEP] = block
    return X


def record(command, **figures):
    """Keep what a command found."""
    told = conditions(cpu.threads(), "numpy", "numba")
    append(RECORDS, {"command": command, "conditions": told, **figures})


def timed(run):
    """What a function returns, and how many seconds of the processor and of the clock it took."""
    begun, clock = time.process_time(), time.perf_counter()
    result = run()
    return result, time.process_time() - begun, time.perf_counter() - clock


def quality(n, k):
    """What samples and partitions gain after the first pick, beside greedy on all rows."""
    X = rows(n)
    whole, seconds, _ = timed(lambda: subsel.select(X, k, memory=0))
    first, best = whole.gains[0], whole.value

    def found(chosen):
        return (chosen.value - first) / (best - first)

    record("quality", way="all rows", n=n, k=k, seconds=seconds, coverage=1.0, seed=0)
    print(f"all rows: {seconds:.1f} s", flush=True)
    ways = {f"a sample of {m} k rows": {"sample": m * k, "partitions": 1} for m in (8, 16, 32, 64)}
    ways["partitions of 32 k rows"] = {"max_rows": 32 * k}
    for way, options in ways.items():
        for seed in range(SEEDS):
            chosen, seconds, _ = timed(
                lambda options=options, seed=seed: subsel.greedi(X, k, random_state=seed, **options)
            )
            kept = found(chosen)
            record("quality", way=way, n=n, k=k, seconds=seconds, coverage=kept, seed=seed)
            print(f"{way}, seed {seed}: {kept:.4f}, {seconds:.1f} s", flush=True)


def run(n, k):
    """Select from very many rows; seconds, and memory beside the rows."""
    X = rows(n)
    subsel.select(X[:2000], 5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen, seconds, clock = timed(lambda: subsel.select(X, k, method="auto", progress=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record(
        "run", n=n, k=k, seconds=seconds, clock=clock, value=chosen.value, path=chosen.path,
        megabytes=(peak - before) / 1000, rows_megabytes=X.nbytes / 1e6,
    )  # fmt: skip
    print(chosen, chosen.path, f"{clock:.0f} s, {(peak - before) / 1000:.0f} MB beside X")


def report():
    """Write the page."""
    entries = read(RECORDS)
    found = {}
    for entry in entries:
        if entry["command"] == "quality":
            found[entry["way"], entry["seed"]] = entry
    ways = list(dict.fromkeys(way for way, _ in found))
    table = []
    for way in ways:
        own = [entry for (name, _), entry in found.items() if name == way]
        kept = [entry["coverage"] for entry in own]
        spent = np.median([entry["seconds"] for entry in own])
        table.append([way, f"{np.mean(kept):.4f}", f"{min(kept):.4f}", f"{spent:.0f}"])
    one = next(iter(found.values()))
    text = f"""# Many rows on one machine, measured

    python -m benchmarks.scaling.many report

{one["conditions"]}

## Quality

{one["n"]} × 64 embeddings with noise, k = {one["k"]}, {SEEDS} seeds. Coverage compares what is
gained after the first pick with what greedy on all rows gains: (F − F₁) / (F* − F₁), F over all
rows. Seconds are processor time.

{markdown(["searched", "coverage, mean", "worst", "seconds"], table).rstrip()}"""
    runs = [entry for entry in entries if entry["command"] == "run"]
    if runs:
        last = runs[-1]
        text += f"""

## {last["n"]} rows

{last["conditions"]}

`subsel.select(X, {last["k"]}, method="auto")` on {last["n"]} × 64 embeddings with noise
({last["rows_megabytes"]:.0f} MB) took {last["clock"]:.0f} s, of which {last["seconds"]:.0f} s
were processor time, and at the peak {last["megabytes"]:.0f} MB of memory beside X. Its `path` is
"{last["path"]}".
The machine's two cores did other work as well. No bound is known for the result, because the bound
of a search holds only for the rows that were searched.
"""
    with written_whole(PAGE) as part:
        part.write_text(text.rstrip() + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["quality", "run", "report"])
    parser.add_argument("-n", type=int, help="rows (quality: 100 000; run: 10 000 000)")
    parser.add_argument("-k", type=int, help="to select (quality: 1000; run: 10 000)")
    args = parser.parse_args()
    if args.command == "quality":
        quality(args.n or 100_000, args.k or 1000)
    elif args.command == "run":
        run(args.n or 10_000_000, args.k or 10_000)
    else:
        report()


if __name__ == "__main__":
    main()
