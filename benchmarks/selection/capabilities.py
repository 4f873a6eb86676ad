"""What goes with what, found by trying: the table of docs/objectives.md.

python -m benchmarks.selection.capabilities
"""

import warnings

import numpy as np
import scipy.sparse

import subsel

S = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]])
D = 1.0 - S
X = np.array([[1.0, 0.0], [0.5, 1.0], [0.25, 0.5]])
B = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]])
YES, NO = "yes", "–"
METRICS = (
    "euclidean", "cosine", "dot", "rbf", "correlation", "manhattan", "hamming", "jaccard",
)  # fmt: skip

GIVEN = {
    "FacilityLocation": S,
    "SaturatedCoverage": S,
    "GraphCut": S,
    "SumRedundancy": S,
    "LogDeterminant": S + np.eye(3),
    "DisparitySum": D,
    "DisparityMin": D,
    "FeatureBased": X,
    "SetCover": S > 0.5,
    "ProbabilisticSetCover": S / 2,
    "Modular": S[0],
}
"""By objective, what its first argument may be."""


def works(make):
    """Whether something can be made and searched."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subsel.greedy(make(), 1)
    except (TypeError, ValueError):
        return False
    except (ImportError, RuntimeError):  # it would, if there were a GPU
        return True
    return True


def row(name):
    """A line of the table."""
    kind, given = getattr(subsel, name), GIVEN[name]
    f = kind(given)
    metrics = []
    if hasattr(kind, "from_features"):
        metrics = [m for m in METRICS if works(lambda m=m: kind.from_features(B, metric=m))]
    sparse = [
        m
        for m in metrics
        if works(lambda m=m: kind.from_features(scipy.sparse.csr_array(B), metric=m))
    ]
    return [
        f"`{name}`",
        YES if works(lambda: kind(scipy.sparse.csr_array(given))) and given.ndim == 2 else NO,
        "all" if len(metrics) == len(METRICS) else ", ".join(metrics) or NO,
        ", ".join(sparse) or NO,
        YES if works(lambda: kind(given, backend="cuda")) else NO,
        YES if f.submodular else NO,
        YES if f.monotone else NO,
        "kept" if f.keeps_gains else "lazy" if f.submodular else "all",
    ]


def table():
    """The table, in Markdown."""
    head = [
        "objective",
        "sparse matrix",
        "features",
        "sparse features",
        "GPU",
        "submodular",
        "monotone",
        "gains",
    ]
    rows = [head, ["---"] * len(head), *(row(name) for name in GIVEN)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


if __name__ == "__main__":
    print(table())
