"""Label one percent: which 18 of 1797 images to label first.

Without any label, select the images that stand for all others, and ask for the labels of these.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import subsel

X, y = load_digits(return_X_y=True)
embeddings = PCA(20, random_state=0).fit_transform(X)

chosen = subsel.select(embeddings, 0.01)


def accuracy(rows):
    """Of a classifier that knows the labels of these rows alone."""
    return LogisticRegression(max_iter=1000).fit(embeddings[rows], y[rows]).score(embeddings, y)


random = [np.random.default_rng(seed).permutation(len(X))[: len(chosen)] for seed in range(20)]
print(f"{len(chosen)} selected: accuracy {accuracy(chosen.indices):.2f}")
print(f"{len(chosen)} at random: accuracy {np.mean([accuracy(rows) for rows in random]):.2f}")

ax = subsel.plots.map(embeddings, chosen, plt.figure(figsize=(6.4, 4.6)).add_subplot(), labels=y)
ax.set_title(f"{len(chosen)} of {len(X)} digits, as large as what they stand for", fontsize=10)
