"""Members of metrics without kernels of their own, of sparse features and of a user's functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from member import Member, N, never_falls, raw, rows

import subsel
from subsel.kernels import reference


def laplacian(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A similarity of a user's own, of two blocks of rows."""
    return np.exp(-np.abs(A[:, None] - B).sum(axis=2))


def steps(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A distance of a user's own."""
    return np.abs(A[:, None] - B).max(axis=2)


def other_metrics() -> list[Member]:
    """Metrics without kernels of their own, sparse features, and functions of the user's."""
    X, A, B = rows(11, 5), np.abs(rows(11, 5)), (rows(11, 12) > 0).astype(np.uint8)
    H = rows(12)  # of so many columns that shares of them are exact
    T = scipy.sparse.csr_array(np.where(A > 0.3, A, 0))
    members = []

    def add(name: str, f: Any, value: Callable, **promised: Any) -> None:
        members.append(Member(name, f, value, **promised))

    fl, sc = subsel.FacilityLocation, subsel.SaturatedCoverage
    data = {"manhattan": X, "hamming": X, "jaccard": 1.0 * B, "correlation": X}
    for metric, own in data.items():

        def make(own: np.ndarray = own, metric: str = metric) -> Any:
            return fl.from_features(own, metric)

        S = reference.similarity(own, metric, c0=make().offset)
        add(f"FacilityLocation, {metric}", make, lambda c, S=S: reference.value(S, c))
    K, near = laplacian(X, X), laplacian(X, X[:3])
    add("FacilityLocation, callable", lambda: fl.from_features(X, laplacian),
        lambda c: reference.value(K, c))  # fmt: skip
    add("FacilityLocation, query, callable",
        lambda: fl.from_features(X, laplacian, query=X[:3], eta=1.25),
        lambda c: reference.guided_facility_location(K, c, query=near, eta=1.25))  # fmt: skip
    add("SaturatedCoverage, callable",
        lambda: sc.from_features(X, laplacian, fraction=0.125),
        lambda c: reference.saturated_coverage(K, c, 0.125))  # fmt: skip
    similar = {
        "correlation": (X, X, "correlation"), "hamming": (H, H, "hamming"),
        "tanimoto": (B == 1, B, "jaccard"), "sparse cosine": (T, T.toarray(), "cosine"),
        "sparse dot": (T, T.toarray(), "dot"), "callable": (X, X, laplacian),
    }  # fmt: skip
    for name, (given, own, metric) in similar.items():
        S = laplacian(own, own) if callable(metric) else raw(1.0 * own, metric)
        metric = name if name == "tanimoto" else metric
        for cls, formula in (
            (subsel.GraphCut, reference.graph_cut),
            (subsel.SumRedundancy, reference.sum_redundancy),
        ):
            positive = name != "correlation"
            monotone = positive and never_falls(lambda c, S=S, formula=formula: formula(S, c))
            add(
                f"{cls.__name__}, {name}",
                lambda cls=cls, given=given, metric=metric: cls.from_features(given, metric),
                lambda c, S=S, formula=formula: formula(S, c),
                submodular=positive, monotone=monotone,
            )  # fmt: skip
        if name == "hamming":  # shares of few columns tie, but for rounding, in determinants
            continue
        add(
            f"LogDeterminant, {name}",
            lambda given=given, metric=metric: subsel.LogDeterminant.from_features(
                given, metric=metric, scale=0.5
            ),
            lambda c, S=S: reference.log_determinant(np.eye(N) + 0.5 * S, c),
        )
    apart = {
        "manhattan": (X, X, "manhattan"), "hamming": (H, H, "hamming"),
        "jaccard": (B, B, "jaccard"), "correlation": (X, X, "correlation"),
        "sparse cosine": (T, T.toarray(), "cosine"), "callable": (X, X, steps),
    }  # fmt: skip
    for name, (given, own, metric) in apart.items():
        D = steps(own, own) if callable(metric) else -reference.similarity(own, metric, c0=0.0)

        def farthest(chosen: list[int], element: int, D: np.ndarray = D) -> float:
            return round(float(D[element, chosen].min(initial=np.inf)), 9)

        add(
            f"DisparitySum, {name}",
            lambda given=given, metric=metric: subsel.DisparitySum.from_features(given, metric),
            lambda c, D=D: reference.disparity_sum(D, c), submodular=False,
        )  # fmt: skip
        add(
            f"DisparityMin, {name}",
            lambda given=given, metric=metric: subsel.DisparityMin.from_features(given, metric),
            lambda c, D=D: reference.disparity_min(D, c), submodular=False, monotone=False,
            prefer=farthest,
        )  # fmt: skip
    return members
