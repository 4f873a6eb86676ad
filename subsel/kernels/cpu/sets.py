"""Set cover: gains of all items, exact at all times, in O(non-zeros) over all steps together.

When a concept is covered often enough, its weight is taken out of the gains of all items that have
it, which an inverted index lists. That happens once for each concept. Weights are on a grid on
which sums and differences are exact.
"""

import math
from typing import NamedTuple

import numpy as np

from subsel.kernels.compiling import kernel


class Sets(NamedTuple):
    """Which concepts each item has, and which items have each concept, compressed."""

    item_starts: np.ndarray
    item_concepts: np.ndarray
    concept_starts: np.ndarray
    concept_items: np.ndarray


@kernel
def first_gains(sets, weights):
    """Gains of all items while none is selected."""
    gains = np.zeros(sets.item_starts.size - 1)
    for item in range(gains.size):
        for p in range(sets.item_starts[item], sets.item_starts[item + 1]):
            gains[item] += weights[sets.item_concepts[p]]
    return gains


@kernel
def count(sets, items, counts):
    """Add to each concept's count the selected items that have it."""
    for item in items:
        for p in range(sets.item_starts[item], sets.item_starts[item + 1]):
            counts[sets.item_concepts[p]] += 1


@kernel
def add(sets, weights, missing, gains, added, item):
    """Select an item. `missing` is by how many more items each concept wants to be covered.

    The entry of `gains` for an added item has no meaning: its gain is 0.
    """
    if added[item]:
        return
    added[item] = True
    for p in range(sets.item_starts[item], sets.item_starts[item + 1]):
        concept = sets.item_concepts[p]
        if missing[concept] > 0:
            missing[concept] -= 1
            if missing[concept] == 0:
                for q in range(sets.concept_starts[concept], sets.concept_starts[concept + 1]):
                    gains[sets.concept_items[q]] -= weights[concept]


@kernel(error_model="numpy")
def _lead(gains, costs, added, taken, first, worths):
    """The best item of a block that is not taken, the lowest of equals; `worths` is scratch space.

    Passes without a branch compile to vector instructions.
    """
    part = slice(first, first + worths.size)
    gains, added, taken = gains[part], added[part], taken[part]
    for i in range(gains.size):
        worths[i] = 0.0 if added[i] else gains[i]
    if costs.size:
        costs = costs[part]
        for i in range(gains.size):
            worths[i] /= costs[i]
    top = -np.inf
    for i in range(gains.size):
        worth = worths[i] = -np.inf if taken[i] else worths[i]
        top = worth if worth > top else top
    for i in range(gains.size):
        if worths[i] == top and not taken[i]:
            return top, first + i
    return top, -1


@kernel
def extend(sets, weights, missing, gains, added, costs, taken, elements, won):
    """Greedy: add the item of largest gain / cost, until `elements` and their gains `won` are full.

    If `costs` is empty, gains are compared.

    Items are in blocks. Gains only fall, so the best gain that a block once had is an upper bound,
    and only a block that seems to be the best is looked at again.
    """
    width = max(64, int(math.sqrt(gains.size)))
    tops, worths = np.full(-(-gains.size // width), np.inf), np.empty(width)
    for at in range(elements.size):
        while True:
            block = np.argmax(tops)
            top, lead = _lead(gains, costs, added, taken, block * width, worths)
            if top == tops[block]:
                break
            tops[block] = top
        elements[at], won[at] = lead, 0.0 if added[lead] else gains[lead]
        taken[lead] = True
        add(sets, weights, missing, gains, added, lead)
