"""The specification: every objective in plain NumPy float64, slow and obvious.

Everything else in the library is compared with these few lines.
"""

import numpy as np


def similarity(X, metric="euclidean", *, c0=None, gamma=None):
    """All similarities (n, n) of the rows of X; `c0` as in ``FacilityLocation.offset``."""
    X = np.asarray(X, np.float64)
    squares = np.array([((X - x) ** 2).sum(axis=1) for x in X])
    if metric == "euclidean":
        return c0 - np.sqrt(squares)
    if metric == "rbf":
        return np.exp(-(1 / X.shape[1] if gamma is None else gamma) * squares)
    if metric == "dot":
        return c0 + X @ X.T
    if metric in ("manhattan", "hamming", "jaccard"):
        return c0 - np.array([[_distance(x, y, metric) for y in X] for x in X])
    if metric == "correlation":
        X = X - X.mean(axis=1)[:, None]
    zero = ~X.any(axis=1)
    unit = X / np.where(zero, 1, np.linalg.norm(X, axis=1))[:, None]
    return c0 - (1 - np.where(np.outer(zero, zero), 1, unit @ unit.T))


def _distance(x, y, metric):
    """Manhattan, Hamming's share of what differs, or Jaccard's distance of two rows of 0 and 1."""
    if metric == "manhattan":
        return np.abs(x - y).sum()
    if metric == "hamming":
        return (x != y).mean()
    either = ((x > 0) | (y > 0)).sum()
    return (x != y).sum() / either if either else 0.0


def value(S, indices):
    """F = sum over rows of the largest similarity to a selected column; 0 for none."""
    indices = list(indices)
    return float(S[:, indices].max(axis=1).sum()) if indices else 0.0


def gains(S, indices):
    """F(indices + j) - F(indices) for every column j."""
    covered = S[:, list(indices)].max(axis=1) if len(indices) else np.zeros(len(S))
    return np.maximum(S - covered[:, None], 0).sum(axis=0)


def greedy(S, budget):
    """Indices and gains: the largest gain each time, the lowest index among equals."""
    S = np.asarray(S, np.float64)
    chosen, won = [], []
    for _ in range(budget):
        candidates = gains(S, chosen)
        candidates[chosen] = -1
        chosen.append(int(np.argmax(candidates)))
        won.append(candidates[chosen[-1]])
    return np.array(chosen), np.array(won)


def assign(S, indices):
    """For each row the position in `indices` of the most similar column, the first of equals.

    -1 for a row that is similar to none.
    """
    assignment = np.where(S[:, indices].any(axis=1), np.argmax(S[:, indices], axis=1), -1)
    return assignment, np.bincount(assignment[assignment >= 0], minlength=len(indices))


def saturated_coverage(S, indices, fraction=0.1):
    """F = sum over rows of their similarity to the selected columns, at most a part of all."""
    return float(np.minimum(S[:, sorted(set(indices))].sum(axis=1), fraction * S.sum(axis=1)).sum())


CONCAVE = {
    "sqrt": np.sqrt,
    "log1p": np.log1p,
    "ratio": lambda x: x / (1 + x),
}


def feature_based(X, indices, concave="sqrt", weights=1.0, cap=None):
    """F = sum over columns of a concave function of what the selected rows have together."""
    amounts = X[sorted(set(indices))].sum(axis=0)
    worth = np.minimum(amounts, cap) if concave == "min" else CONCAVE[concave](amounts)
    return float((weights * worth).sum())


def graph_cut(S, indices, lam=0.5, redundancy=None, private=None, nu=1.0):
    """F = similarity to all rows, less `lam` times that of the selected columns to one another.

    With `private`, the similarities of the columns to items to be unlike, the conditional gain.
    """
    chosen = sorted(set(indices))
    between = (S if redundancy is None else redundancy)[np.ix_(chosen, chosen)].sum()
    near = 0.0 if private is None else private[chosen].sum()
    return float(S[:, chosen].sum() - lam * between - 2 * lam * nu * near)


def sum_redundancy(S, indices):
    """F = less the similarities of the selected columns to one another and to themselves."""
    chosen = sorted(set(indices))
    return -float(S[np.ix_(chosen, chosen)].sum())


def disparity_sum(D, indices):
    """F = the sum of distances over all pairs."""
    chosen = sorted(set(indices))
    return float(np.triu(D[np.ix_(chosen, chosen)], 1).sum())


def disparity_min(D, indices):
    """F = the smallest distance of a pair; 0 for fewer than two."""
    chosen = sorted(set(indices))
    return float(min((D[a, b] for a in chosen for b in chosen if a < b), default=0.0))


def modular(values, indices):
    """F = the sum of the selected values."""
    return float(values[sorted(set(indices))].sum())


def set_cover(M, indices, weights=1.0, times=1, query=True, private=False):
    """F = sum over concepts of how many of the selected items have them, at most `times`."""
    counts = np.minimum(M[sorted(set(indices))].sum(axis=0), times)
    return float((weights * counts * (np.asarray(query) & ~np.asarray(private))).sum())


def probabilistic_set_cover(P, indices, weights=1.0, query=1.0, private=0.0):
    """F = sum over concepts of the probability that the selected items cover them."""
    covered = 1 - (1 - P[sorted(set(indices))]).prod(axis=0)
    return float((weights * covered * query * (1 - np.asarray(private))).sum())


def log_determinant(L, indices, query=None, private=None, cross=None, eta=1.0, nu=1.0):
    """F = log det of L between the selected elements, or the forms with query and private items.

    `query` and `private` are pairs (kernel to the elements, own kernel); `cross` is the kernel
    between private and query items. With f(A | P) = log det of A and P less that of P, F is
    f(A | P) with private items, and f(A | P) + f(Q | P) - f(A, Q | P) with query items too.
    """
    chosen = sorted(set(indices))
    to_q, own_q = query or (np.zeros((len(L), 0)), np.zeros((0, 0)))
    to_p, own_p = private or (np.zeros((len(L), 0)), np.zeros((0, 0)))
    cross = np.zeros((len(own_p), len(own_q))) if cross is None else cross
    a, q, p = (
        slice(0, len(chosen)),
        slice(len(chosen), len(chosen) + len(own_q)),
        slice(len(chosen) + len(own_q), None),
    )
    joint = np.block([
        [L[np.ix_(chosen, chosen)], eta * to_q[chosen], nu * to_p[chosen]],
        [eta * to_q[chosen].T, own_q, cross.T],
        [nu * to_p[chosen].T, cross, own_p],
    ])  # fmt: skip

    def f(*parts):
        at = np.concatenate([np.arange(len(joint))[part] for part in (*parts, p)])
        return np.linalg.slogdet(joint[np.ix_(at, at)])[1] - np.linalg.slogdet(own_p)[1]

    return float(f(a) if query is None else f(a) + f(q) - f(a, q))


def guided_facility_location(S, indices, weights=1.0, query=None, private=None, eta=1.0, nu=1.0):
    """F = sum over rows of their largest similarity, above and below what bounds it."""
    covered = S[:, list(indices)].max(axis=1, initial=0.0)
    least = nu * private.max(axis=1) if private is not None else np.zeros(len(S))
    most = eta * query.max(axis=1) if query is not None else np.full(len(S), np.inf)
    return float((weights * np.maximum(np.minimum(covered, most) - least, 0)).sum())
