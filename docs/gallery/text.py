"""Text: ten descriptions that stand for all functions of NumPy.

TF-IDF makes a sparse matrix of the texts. It is searched as it is, and never made dense.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer

import subsel

names = [name for name in sorted(dir(np)) if callable(getattr(np, name)) and name[0].islower()]
texts = [getattr(np, name).__doc__ or "" for name in names]
X = TfidfVectorizer(stop_words="english", min_df=2).fit_transform(texts)

chosen = subsel.select(X, 10, metric="cosine")

for index, size in zip(chosen.indices, chosen.sizes, strict=True):
    print(f"{names[index]:20} stands for {size} of {len(texts)}")

ax = plt.figure(figsize=(5.2, 3.4), layout="constrained").add_subplot()
ax.barh([names[index] for index in chosen.indices], chosen.sizes, color="#c03a2b")
ax.invert_yaxis()
ax.set_xlabel("functions that it stands for")
