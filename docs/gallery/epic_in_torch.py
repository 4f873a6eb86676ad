"""EPIC in plain PyTorch: drop what stands alone in gradient space while you train.

Here 40 digits with a wrong label stand in for poisons: their gradients, too, are unlike those of
their class.
"""

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset, TensorDataset

from subsel.defense import EPIC, last_layer_gradients

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
poisons = rng.choice(len(y), 40, replace=False)
y[poisons] = (y[poisons] + rng.integers(1, 10, 40)) % 10
data = TensorDataset(torch.tensor(X / 16).float(), torch.tensor(y))

model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
epic = EPIC(len(data), subset_size=0.2, warmup=3, interval=2, stop=12)
left = []
for epoch in range(12):
    if epic.due(epoch):
        epic.prune(*last_layer_gradients(model, data), epoch)
    for inputs, labels in DataLoader(Subset(data, epic.kept), batch_size=64, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    left.append([np.isin(poisons, epic.kept).mean(), len(epic.kept) / len(data)])

print(f"left: {left[-1][0]:.0%} of the poisons, {left[-1][1]:.0%} of all examples")
ax = plt.figure(figsize=(5.2, 3.4), layout="constrained").add_subplot()
for share, name in zip(np.transpose(left), ("poisons", "all examples"), strict=True):
    ax.plot(share, label=name)
ax.set(xlabel="epoch", ylabel="part that is left", ylim=(0, 1.05))
ax.legend()
