"""How many similarities each way of maximizing facility location looks at; no clock involved.

    python -m benchmarks.selection.count

On the gradients of one class (n = 6000, k = 600, euclidean), divided by n^2.
"""

import heapq

import numpy as np

import subsel
from benchmarks.selection.inputs import load


def main():
    X = load("gradients")[load("labels") == 0].astype(np.float64)
    n, k = len(X), len(X) // 10
    D = np.sqrt(np.maximum(0, np.array([((X - x) ** 2).sum(axis=1) for x in X])))
    chosen = subsel.select(X, k)
    rows, near = kept(D, chosen.indices)
    print("| way | similarities / n^2 |\n|---|---|")
    print(f"| greedy, every gain anew | {k - (k - 1) * k / 2 / n:.0f} |")
    print(f"| lazy greedy | {lazy(D, k):.2f} |")
    print(f"| gains kept, rows of the points that changed | {rows:.2f} |")
    print(f"| ... only candidates nearer than the representative | {near:.2f} |")
    print(f"| subsel.select | {chosen.n_evaluations / n:.2f} |")


def kept(D, indices):
    """Rows looked at when gains are kept, and the part of them that can change a gain."""
    n = len(D)
    best = np.full(n, D.max())
    rows, near = n, n * n
    for e in indices:
        changed = np.flatnonzero(D[:, e] < best)
        rows += len(changed)
        near += (D[changed] < best[changed, None]).sum()
        best = np.minimum(best, D[:, e])
    return rows / n, near / n**2


def lazy(D, k):
    """Evaluations of Minoux's algorithm, one candidate at a time."""
    n = len(D)
    best = np.full(n, D.max())
    queue = [(-gain, j, 0) for j, gain in enumerate((D.max() - D).sum(axis=0))]
    heapq.heapify(queue)
    evaluations = n
    for step in range(k):
        while queue[0][2] != step:
            _, j, _ = queue[0]
            gain = np.maximum(best - D[:, j], 0).sum()
            heapq.heapreplace(queue, (-gain, j, step))
            evaluations += 1
        _, j, _ = heapq.heappop(queue)
        best = np.minimum(best, D[:, j])
    return evaluations / n


if __name__ == "__main__":
    main()
