"""A budget of tokens: which texts to train on, if training may see 5000 words.

Long texts cost more. The rule "best" weighs what a text adds against what it costs.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer

import subsel

names = [name for name in sorted(dir(np)) if callable(getattr(np, name)) and name[0].islower()]
texts = [getattr(np, name).__doc__ or name for name in names]  # in place of instruction data
words = np.array([len(text.split()) for text in texts])
X = TfidfVectorizer(stop_words="english", min_df=2).fit_transform(texts)

chosen = subsel.select(X, 5000, costs=words, metric="cosine")

print(f"{len(chosen)} of {len(texts)} texts, {chosen.cost:.0f} of {words.sum()} words")
ax = plt.figure(figsize=(5.2, 3.4), layout="constrained").add_subplot()
subsel.plots.curve(chosen, ax, enough=0.9)
