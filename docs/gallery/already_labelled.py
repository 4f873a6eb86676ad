"""Some rows are labelled already: select what they leave unrepresented.

Rows that are `given` represent others from the start. They are neither selected nor counted.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import make_blobs

import subsel

X, group = make_blobs(400, centers=6, cluster_std=0.8, random_state=3)
labelled = np.flatnonzero(group < 3)[::8]  # three of the six groups are known

chosen = subsel.select(X, 6, given=labelled)

fresh = [int((group[chosen.indices] == name).sum()) for name in range(6)]
print(f"selected from each group: {fresh}; the first three were labelled")

ax = subsel.plots.map(X, chosen, plt.figure(figsize=(5.2, 3.8)).add_subplot())
ax.plot(*X[labelled].T, "x", color="black", ms=5, label="labelled already")
ax.legend(fontsize="small")
