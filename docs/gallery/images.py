"""Images: a contact sheet of representatives, and how many images each one stands for."""

from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import subsel

digits = load_digits()

chosen = subsel.select(digits.data, 24)

print(f"the first stands for {chosen.sizes[0]} of {len(digits.images)} images")
ax = plt.figure(figsize=(4.6, 3.8), layout="constrained").add_subplot()
subsel.plots.contact_sheet(digits.images, chosen, ax, columns=6)
