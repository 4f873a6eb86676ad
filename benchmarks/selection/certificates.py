"""Certificates on real rows: what part of the optimum each selection is proven to have.

    python -m benchmarks.selection.certificates

Greedy under a count of a tenth of the rows, for every objective that has a bound, on gradients of
one class and on embeddings; value / bound of the selection, and of that refined by swaps where that
is fast. Writes docs/speed/certificates.md.
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

PAGE = Path("docs/speed/certificates.md")


def rows(name, n):
    """Rows of one class for gradients, the first of all for embeddings."""
    if name == "gradients":
        return np.array(load(name)[np.flatnonzero(load("labels") == 0)[:n]])
    return np.array(load(name)[:n])


def objectives(X):
    """By name; amounts and concepts are made of the features' magnitudes."""
    A = np.abs(X)
    part = A / np.maximum(A.max(axis=0), 1e-30)  # some columns are 0
    return {
        "facility location, euclidean": lambda: subsel.FacilityLocation.from_features(X),
        "facility location, cosine": lambda: subsel.FacilityLocation.from_features(X, "cosine"),
        "facility location, rbf": lambda: subsel.FacilityLocation.from_features(X, "rbf"),
        "saturated coverage, cosine": lambda: subsel.SaturatedCoverage.from_features(X, "cosine"),
        "graph cut, rbf, lam = 0.1": lambda: subsel.GraphCut.from_features(X, "rbf", lam=0.1),
        "log-determinant, rbf": lambda: subsel.LogDeterminant.from_features(X, metric="rbf"),
        "log-determinant, dot": lambda: subsel.LogDeterminant.from_features(X),
        "feature based, sqrt": lambda: subsel.FeatureBased(A),
        "set cover, part > 0.9": lambda: subsel.SetCover(part > 0.9),
        "probabilistic set cover, part / 50": lambda: subsel.ProbabilisticSetCover(part / 50),
        "modular, length": lambda: subsel.Modular(np.linalg.norm(X, axis=1)),
        "mixture": lambda: (
            subsel.FacilityLocation.from_features(X, "rbf")
            + 0.1 * subsel.LogDeterminant.from_features(X, metric="rbf")
        ),
    }


def part_of(chosen):
    return f"{chosen.value / chosen.bound:.4f}" if chosen.bound else "–"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    inputs = {name: rows(name, args.n) for name in ("gradients", "embeddings_64")}
    made_of = {name: objectives(X) for name, X in inputs.items()}
    lines = []
    for objective in tqdm(made_of["gradients"]):
        cells = [objective]
        for name in inputs:
            f = made_of[name][objective]()
            chosen = subsel.lazy_greedy(f, args.n // 10)
            cells.append(part_of(chosen))
            if objective.startswith("facility"):
                cells.append(part_of(subsel.refine(f, chosen)))
            else:
                cells.append("")
        lines.append(cells)
    real = "real" if made("gradients") else "synthetic"
    head = ["objective", *(f"{name}{more}" for name in inputs for more in ("", ", refined"))]
    with written_whole(args.out) as part:
        part.write_text(f"""# Certificates

{conditions(1, "numpy", "numba")}; {real} inputs

    python -m benchmarks.selection.certificates

The numbers are `value / bound` of greedy's selection: at least this part of the largest possible F.
n = {args.n}, k = {args.n // 10}; gradients are of one class. A number far from 1 may mean that
the bound is loose. A dash means that the objective is not monotone for these rows.

{markdown(head, lines)}""")


if __name__ == "__main__":
    main()
