"""The types of arguments, as editors and type checkers see them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class SparseMatrix(Protocol):
    """A sparse matrix of scipy."""

    def tocsr(self) -> Any:
        """The same in compressed rows."""


class Exchangeable(Protocol):
    """An array of another library, on the CPU or a GPU, that can be exchanged by DLPack."""

    def __dlpack__(self, **options: Any) -> Any: ...


class Table(Protocol):
    """A table, or a column of one, of a library that speaks Arrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


if TYPE_CHECKING:
    ArrayLike = npt.ArrayLike | SparseMatrix | Exchangeable | Table
else:

    class ArrayLike:
        """What can be read as an array: NumPy's, lists, tensors, tables, sparse matrices.

        At run time it is only a name, so that `help` shows this name and not twenty types.
        """


MetricName = Literal[
    "euclidean", "cosine", "dot", "rbf",
    "manhattan", "correlation", "hamming", "jaccard", "tanimoto", "precomputed",
]  # fmt: skip

Metric = MetricName | Callable[[np.ndarray, np.ndarray], Any]
"""A metric by name, or a function of two blocks of rows (a, d) and (b, d): numbers (a, b)."""

EpicMetric = Literal["euclidean", "cosine", "dot", "rbf"]

GroundSet = Literal["active", "full"]

Method = Literal["lazy", "greedy", "stochastic", "auto"]

Backend = Literal["auto", "cpu", "cuda"]

ObjectiveName = Literal[
    "facility_location", "saturated_coverage", "graph_cut", "sum_redundancy", "log_determinant",
    "disparity_sum", "disparity_min", "feature_based", "set_cover", "probabilistic_set_cover",
]  # fmt: skip


class SelectOptions(TypedDict, total=False):
    """The keyword arguments of `subsel.select`, but for the objective."""

    labels: ArrayLike | None
    weights: ArrayLike | None
    given: ArrayLike | None
    given_features: ArrayLike | None
    exclude: ArrayLike | None
    candidates: ArrayLike | None
    costs: ArrayLike | None
    groups: ArrayLike | None
    at_most: int | Mapping[Any, int] | None
    at_least: int | Mapping[Any, int] | None
    min_distance: float | None
    target: float | None
    coverage: float | None
    refine: bool
    metric: Metric | None
    method: Method
    backend: Backend
    random_state: int | np.random.Generator | None
    memory: float | None
    progress: bool
