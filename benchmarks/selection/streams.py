"""Selection in one pass beside greedy: F, over many orders of the stream.

    python -m benchmarks.selection.streams

`sieve_streaming` and `StreamSelector` (whose points are the first 1000 rows of the stream) see the
rows in ten random orders, and once class by class. F of what they select, over all rows, as a part
of F of greedy's selection. Writes docs/speed/streams.md, in some ten minutes.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import subsel
from benchmarks.poisoning.report import markdown
from benchmarks.selection.inputs import load, made
from benchmarks.selection.measure import conditions
from subsel.files import written_whole

PAGE = Path("docs/speed/streams.md")
METRICS = ("euclidean", "rbf", "cosine")
COUNTS = (10, 100)


def rows(name, n):
    """Rows and their classes."""
    if name == "digits":
        from sklearn.datasets import load_digits

        X, labels = load_digits(return_X_y=True)
        return X.astype(np.float32), labels
    return np.array(load(name)[:n]), np.array(load("labels")[:n])


def streamed(X, order, k, metric):
    """Rows that `StreamSelector` selects."""
    selector = subsel.StreamSelector(k, metric=metric)
    for start in range(0, len(X), 700):
        selector.partial_fit(X[order[start : start + 700]])
    return order[selector.result().indices]


def line(name, n, metric, k, seeds):
    """A line of the table."""
    X, labels = rows(name, n)
    f = subsel.FacilityLocation.from_features(X, metric)
    best = subsel.greedy(f, k).value
    orders = [np.random.default_rng(seed).permutation(len(X)) for seed in range(seeds)]
    orders.append(np.argsort(labels, kind="stable"))
    cells = [f"{name}, n = {len(X)}", metric, str(k)]
    for select in (
        lambda order: subsel.sieve_streaming(f, k, order=order).indices,
        lambda order: streamed(X, order, k, metric),
    ):
        *shuffled, sorted_ = [f.value(select(order)) / best for order in orders]
        cells += [f"{min(shuffled):.4f}", f"{np.mean(shuffled):.4f}", f"{sorted_:.4f}"]
    return cells


HEAD = ["rows", "metric", "k", "sieve, worst", "mean", "by class", "StreamSelector, worst", "mean",
        "by class"]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=3000, help="rows of each input but digits")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    problems = [
        (name, args.n, metric, k, args.seeds)
        for name in ("embeddings_64", "gradients", "digits") for metric in METRICS for k in COUNTS
    ]  # fmt: skip
    lines = [line(*problem) for problem in tqdm(problems)]
    real = "real" if made("gradients") else "synthetic"
    with written_whole(args.out) as part:
        part.write_text(f"""# Streams beside greedy

{conditions(1, "numpy", "numba")}; {real} inputs

    python -m benchmarks.selection.streams

The numbers are F of a selection in one pass, divided by F of greedy's selection, over all rows.
The stream comes in {args.seeds} random orders, of which the table has the worst and the mean,
and once class by class. `StreamSelector` represents the first 1000 rows of the stream, which are no
random sample if the rows come class by class.

{markdown(HEAD, lines)}""")


if __name__ == "__main__":
    main()
