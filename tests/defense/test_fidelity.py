"""What a round records of the mean gradient."""

import math

import numpy as np
import pytest

from subsel.defense import EPIC
from subsel.defense.epic import Round
from subsel.defense.fidelity import RANDOM_SUBSETS


@pytest.mark.parametrize("ground_set", ["active", "full"])
def test_a_round_records_how_far_the_mean_gradient_went(ground_set):
    rng = np.random.default_rng(0)
    epic = EPIC(subset_size=0.4, warmup=0, interval=1, ground_set=ground_set)
    labels = np.arange(160) % 2
    for epoch in (0, 3):
        gradients = rng.normal(size=(160, 3)) + 1
        before = np.arange(160) if epoch == 0 else epic.kept
        found = epic.prune(gradients, labels, epoch)
        whole, mean = gradients[before].mean(0), gradients[epic.kept].mean(0)
        length = np.linalg.norm(whole)
        assert 0 < len(found.dropped) < len(before)
        assert found.rho == pytest.approx(abs(np.linalg.norm(mean) - length))
        assert found.error == pytest.approx(np.linalg.norm(mean - whole) / length)
        draws = np.random.default_rng([epoch, len(before)])
        expected = []
        for _ in range(RANDOM_SUBSETS):
            rows = before[draws.choice(len(before), len(epic.kept), replace=False)]
            expected.append(np.linalg.norm(gradients[rows].mean(0) - whole) / length)
        assert found.random_error == pytest.approx(np.mean(expected))


def test_a_history_from_before_loads_without_these_numbers():
    epic = EPIC(subset_size=0.4, warmup=0, interval=1)
    epic.prune(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2, 0)
    state = epic.state_dict()
    for name in ("rho", "error", "random_error"):
        assert math.isfinite(state["history"][0].pop(name))
    again = EPIC(40, subset_size=0.4, warmup=0, interval=1)
    again.load_state_dict(state)
    assert isinstance(again.history[0], Round)
    assert math.isnan(again.history[0].rho)
