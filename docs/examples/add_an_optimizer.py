"""An optimizer of your own, whole: each time any candidate that is nearly the best, at random."""

import numpy as np

import subsel
from subsel.optimizers.run import Run


def nearly_greedy(f, budget, share=0.9, *, random_state=None, **options):
    """Select elements whose gain is at least a share of the largest, drawn at random."""
    random = np.random.default_rng(random_state)
    with Run("nearly_greedy", f, budget, **options) as run:
        while run.room():
            candidates = run.candidates()
            gains = run.f.checked_gains(candidates)
            good = np.flatnonzero(gains >= share * gains.max())
            at = random.choice(good)
            run.pick(int(candidates[at]), float(gains[at]))
        return run.selection()


S = np.random.default_rng(0).random((50, 30))
chosen = nearly_greedy(S, 5, random_state=0, given=[3], exclude=[7])
print(chosen.value / subsel.greedy(S, 5, given=[3], exclude=[7]).value > 0.9)
