"""Selection as an estimator of scikit-learn, and as a sampler of imbalanced-learn."""

from typing import Any, Self

import numpy as np

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        TransformerMixin,
    )
    from sklearn.metrics import pairwise_distances
    from sklearn.utils import _safe_indexing, check_random_state
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise ImportError(
        "subsel.estimators needs scikit-learn 1.6 or later: "
        'pip install "scikit-learn>=1.6" (or "subsel[sklearn]")'
    ) from error

from subsel.assignment import assign
from subsel.coreset import _OF_FEATURES, select
from subsel.sources.scale import centred, directions
from subsel.sources.sparse_features import unit_rows
from subsel.types import ArrayLike, Backend, Method, Metric, ObjectiveName
from subsel.validation import check_budget

__all__ = ["SubsetSampler", "SubsetSelector"]

_SPARSE_METRICS = ("cosine", "dot")


class _Selecting(ClusterMixin, BaseEstimator):
    """The common part of both estimators; `SubsetSelector` documents the parameters."""

    def __init__(
        self,
        budget: Any = 8,
        *,
        objective: ObjectiveName = "facility_location",
        metric: Metric = "euclidean",
        method: Method = "lazy",
        refine: bool = False,
        by_class: bool = False,
        backend: Backend = "auto",
        memory: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.budget = budget
        self.objective = objective
        self.metric = metric
        self.method = method
        self.refine = refine
        self.by_class = by_class
        self.backend = backend
        self.memory = memory
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Select rows of X.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, d)
        y : array_like, shape (n,), optional
            Class of each row. Used only with `by_class`.
        sample_weight : array_like, shape (n,), optional
            Weights of the rows in the objective, at least 0. A row of weight 0 is not selected. For
            facility location only.

        Returns
        -------
        Self

        Raises
        ------
        ValueError, TypeError
            If scikit-learn's `check_array` refuses X, if there are fewer rows than the budget, or
            if `subsel.select` raises.
        """
        features = self._checked(X, reset=True)
        n = features.shape[0]
        labels, budget = self._classes_and_budget(y, n)
        if isinstance(budget, int | np.integer) and budget > n:
            raise ValueError(f"n_samples={n} must be at least the budget, which is {budget}")
        options: dict[str, Any] = {}
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
            options["weights"] = weights
            if not weights.all():
                options["candidates"] = np.flatnonzero(weights)
        if self.objective not in _OF_FEATURES:
            options["metric"] = self.metric
        if self.method == "stochastic":
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            options["random_state"] = seed
        self.selection_ = select(
            features, budget, objective=self.objective, labels=labels, method=self.method,
            refine=self.refine, backend=self.backend, memory=self.memory, **options,
        )  # fmt: skip
        self.sample_indices_ = self.selection_.indices
        self.cluster_centers_ = features[self.sample_indices_]
        assignment = self.selection_.assignment
        if assignment is None:
            assignment, _ = assign(features, self.cluster_centers_, self.metric)
        self.labels_ = assignment
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The position in `sample_indices_` of the representative that is nearest to each row.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (m, d)

        Returns
        -------
        ndarray of int64, shape (m,)
        """
        check_is_fitted(self)
        return assign(self._checked(X, reset=False), self.cluster_centers_, self.metric)[0]

    def fit_resample(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Any, Any]:
        """Select rows, and return those of X and y.

        Parameters
        ----------
        X : array_like, DataFrame or sparse matrix, shape (n, d)
        y : array_like, shape (n,)
        sample_weight : array_like, shape (n,), optional
            As for `fit`.

        Returns
        -------
        X, y : the selected k rows, of the types that were given
            In order of selection.
        """
        check_consistent_length(X, y)
        chosen = self.fit(X, y, sample_weight).sample_indices_
        return _safe_indexing(X, chosen), _safe_indexing(y, chosen)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.metric in _SPARSE_METRICS
        tags.target_tags.required = self.by_class
        return tags

    def _checked(self, X: ArrayLike, reset: bool) -> Any:
        sparse = "csr" if self.metric in _SPARSE_METRICS else False
        numbers = [np.float64, np.float32]
        return validate_data(self, X, accept_sparse=sparse, dtype=numbers, reset=reset)

    def _classes_and_budget(self, y: Any, n: int) -> tuple[np.ndarray | None, Any]:
        """The class of each row as a number (or None), and the budget in terms of these numbers."""
        if not self.by_class:
            if isinstance(self.budget, str):
                raise ValueError(f"budget={self.budget!r} needs by_class=True")
            check_budget(self.budget, max(n, 2**31), fraction=True)
            return None, self.budget
        if y is None:
            raise ValueError("by_class=True selects within the classes of y, but y is None")
        y = column_or_1d(y)
        check_consistent_length(y, np.empty(n))
        classes, labels, sizes = np.unique(y, return_inverse=True, return_counts=True)
        names = classes.tolist()
        if self.budget == "balanced":
            return labels, dict.fromkeys(range(len(names)), int(sizes.min()))
        if not hasattr(self.budget, "keys"):
            return labels, self.budget
        if set(self.budget) != set(names):
            raise ValueError(f"budget must have a count for each class of y, {names[:5]}")
        return labels, {at: self.budget[name] for at, name in enumerate(names)}


class SubsetSelector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Selecting):
    """Select the rows that represent all rows; each one, with the rows that it represents, is a
    cluster.

    With the default objective this is a k-medoids clusterer: it minimizes the sum of the distances
    of all rows to the nearest selected row. As a transformer, it computes the distances to each
    selected row. As a sampler, it keeps only the selected rows of X and y.

    Parameters
    ----------
    budget : int, float, mapping or "balanced", default 8
        How many rows to select: a count, or a fraction in (0, 1). With `by_class` also a mapping
        from each class to its count, or ``"balanced"``, which selects as many rows of each class as
        the rarest class has.
    objective : str, default "facility_location"
        What to maximize; see `subsel.select`.
    metric : str or callable, default "euclidean"
        How rows are compared; see `subsel.select`. Sparse features need ``"cosine"`` or ``"dot"``.
        Objectives of the features themselves do not use it; `predict` and `transform` do.
    method : {"lazy", "greedy", "stochastic"}, default "lazy"
        Optimizer; see `subsel.select`.
    refine : bool, default False
        Exchange selected rows until no swap improves the selection.
    by_class : bool, default False
        Select within each class of y. `fit` and `fit_resample` then need y. Facility location only.
    backend : {"auto", "cpu", "cuda"}, default "auto"
        Where to search.
    memory : float, optional
        Bytes that matrices of similarities may take; see `subsel.select`.
    random_state : int, RandomState or None, default None
        Seed of ``method="stochastic"``. The other methods are deterministic.

    Attributes
    ----------
    sample_indices_ : ndarray of int64, shape (k,)
        The selected rows, in order of selection: the most representative first.
    cluster_centers_ : ndarray or sparse matrix, shape (k, d)
        Their features.
    labels_ : ndarray of int64, shape (n,)
        For each row the position in `sample_indices_` of the row that represents it.
    selection_ : Selection
        What `subsel.select` returned.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (d,)
        Only if X had column names that are all strings.

    See Also
    --------
    subsel.select : The same as a function, with constraints and costs.
    SubsetSampler : The same for the pipelines of imbalanced-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from subsel.estimators import SubsetSelector
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> selector = SubsetSelector(2).fit(X)
    >>> selector.sample_indices_, selector.labels_
    (array([2, 3]), array([0, 0, 0, 1, 1]))
    >>> selector.predict([[4.0]])
    array([1])
    >>> SubsetSelector(2).fit_resample(X, ["a", "a", "b", "c", "c"])[1]
    ['b', 'c']
    """

    def transform(self, X: ArrayLike) -> np.ndarray:
        """How far each row is from each representative, or how similar to it.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (m, d)

        Returns
        -------
        ndarray, shape (m, k)
            Distances for the metrics ``"euclidean"``, ``"manhattan"`` and ``"hamming"``;
            similarities for all others, as in `subsel.assign`.
        """
        check_is_fitted(self)
        features = self._checked(X, reset=False)
        distances = _to_each(features, self.cluster_centers_, self.metric)
        return distances.astype(features.dtype, copy=False)

    @property
    def _n_features_out(self) -> int:
        return len(self.sample_indices_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SubsetSampler(_Selecting):
    """`SubsetSelector` without `transform`, for the pipelines of imbalanced-learn.

    These pipelines take a step that transforms or one that resamples, and refuse a step that can do
    both. Parameters, attributes and the other methods are those of `SubsetSelector`.

    Examples
    --------
    >>> from subsel.estimators import SubsetSampler
    >>> sampler = SubsetSampler("balanced", by_class=True)
    >>> sampler.fit_resample([[0.0], [0.1], [0.2], [5.0]], ["a", "a", "a", "b"])
    ([[0.1], [5.0]], ['a', 'b'])
    """


def _to_each(X: Any, centers: Any, metric: Any) -> np.ndarray:
    """The nearness (see `subsel.assign`) of each row to each center."""
    if callable(metric):
        return np.asarray(metric(X, centers))
    if metric in ("jaccard", "tanimoto"):
        return 1 - pairwise_distances(X.astype(bool), centers.astype(bool), "jaccard")
    if metric == "rbf":
        return np.exp(-pairwise_distances(X, centers, "sqeuclidean") / X.shape[1])
    if metric in ("manhattan", "hamming", "euclidean"):
        # The differences themselves: scikit-learn's euclidean_distances would lose digits.
        return pairwise_distances(X, centers, "minkowski" if metric == "euclidean" else metric)
    if metric == "correlation":
        X, centers = centred(X), centred(centers)
    if metric != "dot":
        unit = unit_rows if hasattr(X, "tocsr") else directions
        X, centers = unit(X), unit(centers)
    products = X @ centers.T
    return products.toarray() if hasattr(products, "toarray") else products
