"""The same points, and twelve of them selected by each objective: docs/figures/objectives.png."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import subsel

FIGURE = Path(__file__).parent.parent / "figures" / "objectives.png"
CROSS = np.array([1.0, -3.0])


def points():
    """Two large groups, a small one, and some points that lie alone."""
    rng = np.random.default_rng(4)
    groups = [
        rng.normal([-2, 0], 0.6, (220, 2)),
        rng.normal([2.2, 1], 0.9, (160, 2)),
        rng.normal([1, -3], 0.3, (40, 2)),
        rng.uniform([-5, -5], [5, 5], (20, 2)),
    ]
    return np.concatenate(groups)


def objectives(X):
    """Titles and objectives."""
    cells, of_cell = np.unique(np.floor(X), axis=0, return_inverse=True)
    concepts = np.zeros((len(X), len(cells)), bool)
    concepts[np.arange(len(X)), of_cell.ravel()] = True
    near = np.exp(-((X[:, None] - cells - 0.5) ** 2).sum(axis=2))  # of points to cells
    to_query = np.exp(-((X - CROSS) ** 2).sum(axis=1) / 2)[:, None]
    make = subsel.FacilityLocation.from_features
    return {
        "FacilityLocation\none of each kind": make(X),
        "SaturatedCoverage\nmore where there is more": subsel.SaturatedCoverage.from_features(
            X, "rbf", fraction=0.05
        ),
        "GraphCut\ncentral, but not alike": subsel.GraphCut.from_features(X, "rbf", lam=12),
        "LogDeterminant\nno two alike": subsel.LogDeterminant.from_features(
            X, metric="rbf", scale=100.0
        ),
        "DisparityMin\nfarthest first": subsel.DisparityMin.from_features(X),
        "DisparitySum\nfar in sum: the rim": subsel.DisparitySum.from_features(X),
        "SetCover\ncells of a grid, by their points": subsel.SetCover(
            concepts, weights=concepts.sum(axis=0)
        ),
        "ProbabilisticSetCover\nnear cells as well, perhaps": subsel.ProbabilisticSetCover(
            near, weights=concepts.sum(axis=0)
        ),
        "FeatureBased\na little of every cell": subsel.FeatureBased(near),
        "FLQMI, a mixture\nlike the cross": subsel.FacilityLocation(to_query.T)
        + subsel.Modular(to_query.max(axis=1)),
        "FacilityLocation, private\nunlike the cross": make(
            X, "rbf", gamma=0.05, private=CROSS[None]
        ),
        "Mixture with Modular\none of each kind, rather left": make(X)
        - 25.0 * subsel.Modular(X[:, 0]),
    }


def main():
    """Draw."""
    X = points()
    figure, axes = plt.subplots(3, 4, figsize=(10, 8.1), layout="constrained")
    for axis, (title, f) in zip(axes.flat, objectives(X).items(), strict=True):
        chosen = subsel.greedy(f, 12)
        axis.scatter(*X.T, s=5, color="0.75", linewidths=0)
        axis.scatter(*X[chosen.indices].T, s=26, color="#c03a2b")
        if "cross" in title:
            axis.plot(*CROSS, "x", color="black", ms=9)
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-5.3, 5.3), ylim=(-5.3, 5.3))
    figure.savefig(FIGURE, dpi=130)
    print(f"{FIGURE.name}: {len(X)} points, 12 of them by {axes.size} objectives")


if __name__ == "__main__":
    main()
