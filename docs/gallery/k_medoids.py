"""K-medoids: a clusterer whose centers are rows of the data.

`SubsetSelector` is an estimator of scikit-learn, and works in its pipelines and searches.
"""

from matplotlib import pyplot as plt
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

import subsel
from subsel.estimators import SubsetSelector

X, groups = make_blobs(600, centers=5, random_state=8)

clusterer = SubsetSelector(5, refine=True).fit(X)

print(f"medoids: rows {clusterer.sample_indices_.tolist()}")
print(f"adjusted Rand index {adjusted_rand_score(groups, clusterer.labels_):.2f}")
ax = plt.figure(figsize=(5.2, 3.8)).add_subplot()
subsel.plots.map(X, clusterer.selection_, ax, labels=clusterer.labels_)
