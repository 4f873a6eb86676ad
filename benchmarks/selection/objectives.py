"""Every objective beside the peers that have it: time, peak memory, and whether they agree.

    pip install ".[bench]"
    python -m benchmarks.selection.objectives --n 3000 --k 300

Each goes from n rows of 64 features to indices, in a process of its own, on one thread, as the
peers have no more. Seconds are the processor's, which other work on the machine disturbs least: the
median of nine runs of subsel, and one run of a peer. The input is drawn, and modules and kernels
are loaded, before time and memory are taken: subsel warms up with a whole run, and the peers with
three elements of 200 rows. submodlib compiles nothing; apricot compiles at every call, which is
part of its time. Greedy is lazy where the objective is submodular and the peer can do it. After
timing, F of the peer's selection is computed by subsel's objective, and printed as a part of F of
subsel's own. A peer is stopped once it has taken 60 times subsel's time, but not before
`--patience` seconds.

Records are added to runs/selection/objectives.jsonl, and the last ones make
docs/speed/objectives.md, with those of `benchmarks.selection.objectives_large`. PEERS_PYTHON names
the interpreter that has the peers, if it is another one.
"""

import argparse
import json
import math
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.poisoning.report import markdown
from benchmarks.selection.measure import RUNS, append, conditions, in_process, read, timed
from subsel.files import written_whole

PAGE = Path("docs/speed/objectives.md")
RECORDS = RUNS / "objectives.jsonl"
NOTES = "## Limits and misses\n"
D = 64
ENOUGH = 60
RUNS_EACH = 9


def rows(n):
    """Rows around forty centres, of non-negative numbers."""
    rng = np.random.default_rng(0)
    X = rng.gamma(1.0, size=(40, D))[rng.integers(40, size=n)] * rng.gamma(2.0, size=(n, D))
    return X.astype(np.float32)


def queries():
    """Twenty rows of a query."""
    return rows(20)


def concepts(n):
    """Which of 500 concepts each element has: five in the mean."""
    return np.random.default_rng(1).random((n, 500)) < 0.01


def data(name, n):
    """The input of an objective, which is drawn before time is taken."""
    if name == "set cover":
        return concepts(n)
    return (rows(n), queries()) if "FLVMI" in name else rows(n)


def cosine(X):
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    return X @ X.T


def distances(X):
    from scipy.spatial.distance import cdist

    return cdist(X, X)


def objective(name, X):
    """subsel's objective of this name."""
    import subsel

    return {
        "facility location": lambda: subsel.FacilityLocation.from_features(X, "cosine"),
        "… with a query (FLVMI)": lambda: subsel.FacilityLocation.from_features(
            X[0], "cosine", query=X[1]
        ),
        "saturated coverage": lambda: subsel.SaturatedCoverage.from_features(
            X, "cosine", fraction=0.1
        ),
        "graph cut": lambda: subsel.GraphCut.from_features(X, "cosine", lam=0.4),
        "sum redundancy": lambda: subsel.SumRedundancy.from_features(X, "cosine"),
        "log-determinant": lambda: subsel.LogDeterminant.from_features(X, metric="cosine"),
        "disparity sum": lambda: subsel.DisparitySum.from_features(X),
        "disparity min": lambda: subsel.DisparityMin.from_features(X),
        "feature based": lambda: subsel.FeatureBased(X, concave="sqrt"),
        "set cover": lambda: subsel.SetCover(X),
    }[name]()


NAMES = [
    "facility location",
    "… with a query (FLVMI)",
    "saturated coverage",
    "graph cut",
    "sum redundancy",
    "log-determinant",
    "disparity sum",
    "disparity min",
    "feature based",
    "set cover",
]


def subsel(name, X, k):
    """Greedy, or lazy greedy."""
    import subsel as library

    f = objective(name, X)
    search = library.lazy_greedy if f.submodular else library.greedy
    return search(f, k).indices


def apricot(name, X, k):
    """Lazy greedy, on similarities computed by NumPy."""
    import apricot as library

    kind, options, offset = {
        "facility location": ("FacilityLocationSelection", {}, 1),
        "saturated coverage": ("SaturatedCoverageSelection", {"alpha": 0.1}, 1),
        "graph cut": ("GraphCutSelection", {"alpha": 1 / 0.4}, 0),
        "sum redundancy": ("SumRedundancySelection", {}, 0),
        "feature based": ("FeatureBasedSelection", {"concave_func": "sqrt"}, None),
        "set cover": ("MaxCoverageSelection", {"threshold": 1.0}, None),
    }[name]
    if offset is not None:
        options["metric"], X = "precomputed", offset + cosine(X)
    selector = getattr(library, kind)(k, optimizer="lazy", **options)
    return selector.fit(np.asarray(X, np.float64)).ranking


def submodlib(name, X, k):
    """Lazy greedy, naive greedy for dispersion."""
    import submodlib as library

    n = len(X[0]) if "FLVMI" in name else len(X)
    if name == "set cover":
        sets = [set(np.flatnonzero(row).tolist()) for row in X]
        f = library.SetCoverFunction(n=n, cover_set=sets, num_concepts=500)
    elif name == "facility location":
        f = library.FacilityLocationFunction(n=n, mode="dense", data=X, metric="cosine")
    elif "FLVMI" in name:
        f = library.FacilityLocationMutualInformationFunction(
            n=n, num_queries=20, data=X[0], queryData=X[1], metric="cosine"
        )
    elif name == "graph cut":
        f = library.GraphCutFunction(
            n=n, mode="dense", data=X, metric="cosine", lambdaVal=0.4
        )  # fmt: skip
    elif name == "log-determinant":
        L = np.eye(n, dtype=np.float32) + cosine(X)
        f = library.LogDeterminantFunction(n=n, mode="dense", sijs=L, lambdaVal=0)
    else:
        kind = {"disparity sum": "DisparitySumFunction", "disparity min": "DisparityMinFunction"}
        similarity = (1 - distances(X)).astype(np.float32)  # it takes 1 - similarity for a distance
        f = getattr(library, kind[name])(n=n, mode="dense", sijs=similarity)
    lazy = "NaiveGreedy" if name.startswith("disparity") else "LazyGreedy"
    found = f.maximize(
        budget=k, optimizer=lazy, stopIfZeroGain=False, stopIfNegativeGain=False,
        show_progress=False,
    )  # fmt: skip
    return [index for index, _ in found]


LIBRARIES = {"subsel": subsel, "apricot": apricot, "submodlib": submodlib}
HAVE = {
    "subsel": NAMES,
    "apricot": [name for name in NAMES if name[:3] not in ("log", "dis", "… w")],
    "submodlib": [name for name in NAMES if name[:3] not in ("sat", "sum", "fea")],
}


def child(name, library, n, k, patience):
    """One measurement, as JSON: processor seconds, bytes beyond the input, indices."""
    run = LIBRARIES[library]
    X = data(name, n)
    if library == "subsel":
        run(name, X, k)
    else:
        run(name, data(name, 200), 3)
    start = time.process_time()
    if library != "subsel" and patience:  # the system ends it then
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(start + patience),) * 2)
    taken = []

    def once():
        start = time.process_time()
        found = run(name, X, k)
        taken.append(time.process_time() - start)
        return found

    for _ in range(RUNS_EACH if library == "subsel" else 1):
        indices, elapsed, memory = timed(once)
    seconds = float(np.median(taken))
    found = [int(i) for i in indices]
    print(json.dumps({"seconds": seconds, "elapsed": elapsed, "memory": memory, "indices": found}))


def measure(name, n, k, libraries, patience):
    """What each library took, with F of its selection as a part of F of subsel's own."""
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    f, found = objective(name, data(name, n)), {}
    for library in libraries:
        if name not in HAVE[library]:
            continue
        ours = library == "subsel"
        limit = 0 if ours else max(patience, ENOUGH * found["subsel"]["seconds"])
        record, error = in_process(
            "benchmarks.selection.objectives",
            ["--child", name, library, "--n", n, "--k", k, "--patience", limit],
            1, sys.executable if ours else python,
        )  # fmt: skip
        if record is None and error not in ("status -9", "status -24"):
            print(f"{name}, {library}: {error}", file=sys.stderr)
            continue
        if record is None:
            record = {"more than": limit}
        else:
            record["F"] = f.value(record.pop("indices"))
        found[library] = record
    return found


HEAD = ["objective", "subsel, s", "MB", *(
    f"{library}{what}" for library in ("apricot", "submodlib")
    for what in (", s", ", times subsel's", ", MB", ", F")
)]  # fmt: skip


def line(record):
    """A record as a line of the table."""
    own = record["found"]["subsel"]
    cells = [record["name"], f"{own['seconds']:.3g}", f"{own['memory'] / 1e6:.0f}"]
    for library in ("apricot", "submodlib"):
        other = record["found"].get(library)
        if other is None:
            cells += ["–"] * 4
        elif "more than" in other:
            limit = other["more than"]
            cells += [f"> {limit:.0f}", f"> {limit / own['seconds']:.0f}", "–", "–"]
        else:
            cells += [
                f"{other['seconds']:.3g}", f"{other['seconds'] / own['seconds']:.0f}",
                f"{other['memory'] / 1e6:.0f}", f"{other['F'] / own['F']:.4f}",
            ]  # fmt: skip
    return cells


def records(table):
    """The last record of each name, and in what conditions they were taken."""
    found = {r["name"]: r for r in read(RECORDS) if r["table"] == table}
    return list(found.values()), "; and ".join(dict.fromkeys(r["how"] for r in found.values()))


def write_page():
    """Write docs/speed/objectives.md of the last records; what people wrote below it stays."""
    notes = PAGE.read_text().partition(NOTES)[2] if PAGE.exists() else "\n"
    peers, how = records("peers")
    peers.sort(key=lambda record: NAMES.index(record["name"]))
    text = "# Every objective, timed\n"
    if peers:
        text += f"""
## Beside the peers

From {D} features to indices, in a process of its own each; set cover goes from a table of 500
concepts instead, and the query has 20 rows. Seconds are those of the processor, on one thread: the
median of {RUNS_EACH} runs of subsel, and one run of a peer. Drawing the input and importing modules
are no part of it, but what apricot compiles at each call is. MB is memory beyond the input. *F* is
F of the peer's selection as a part of F of subsel's. A peer was stopped once it had taken {ENOUGH}
times subsel's time; then a `>` says how long that was.

{markdown(HEAD, [line(record) for record in peers])}
({how})
"""
    for table, title in (("large", "## At scale"), ("memory", "## Memory")):
        own, how = records(table)
        if own:
            head = list(own[0]["cells"])
            cells = [[r["cells"].get(key, "–") for key in head] for r in own]
            intro = "\n".join(dict.fromkeys(r["intro"] for r in own))
            text += f"\n{title}\n\n{intro}\n\n{markdown(head, cells)}\n({how})\n"
    with written_whole(PAGE) as part:
        part.write_text(f"{text}\n{NOTES}{notes}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, args.n, args.k, args.patience)
        return
    how = (
        f"`python -m benchmarks.selection.objectives --n {args.n} --k {args.k}`; "
        f"{conditions(1, 'numpy', 'numba')}"
    )
    for name in args.only:
        found = measure(name, args.n, args.k, args.libraries, args.patience)
        record = {"table": "peers", "name": name, "found": found, "how": how}
        append(RECORDS, record)
        print(" | ".join(line(record)), flush=True)
    write_page()


if __name__ == "__main__":
    main()
