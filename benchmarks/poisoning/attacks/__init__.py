"""Attacks by name: functions from a lab and a target to uint8 poisons and the losses on the way."""

from collections.abc import Callable

import numpy as np

from benchmarks.poisoning.attacks.adaptive import (
    agreeing_polytope,
    gradient_matching_alike,
    gradient_matching_in_mixtures,
    in_copies,
)
from benchmarks.poisoning.attacks.backdoor import sleeper_agent, sleeper_agent_ensemble
from benchmarks.poisoning.attacks.features import (
    bullseye_polytope,
    convex_polytope,
    feature_collision,
    on_features,
    soft_feature_collision,
    watermark,
)
from benchmarks.poisoning.attacks.gradients import (
    gradient_matching,
    gradient_matching_ensemble,
    gradient_matching_late,
)
from benchmarks.poisoning.attacks.independent import art_gradient_matching, art_sleeper_agent

__all__ = ["ATTACKS", "BACKDOORS"]

ATTACKS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "bullseye-polytope": on_features(bullseye_polytope),
    "bullseye-agreeing": agreeing_polytope,
    "bullseye-copies": in_copies(on_features(bullseye_polytope)),
    "bullseye-agreeing-copies": in_copies(agreeing_polytope),
    "convex-polytope": on_features(convex_polytope),
    "feature-collision": on_features(feature_collision),
    "feature-collision-l2": soft_feature_collision,
    "gradient-matching": gradient_matching,
    "gradient-matching-art": art_gradient_matching,
    "gradient-matching-ensemble": gradient_matching_ensemble,
    "gradient-matching-late": gradient_matching_late,
    "gradient-matching-late-alike": gradient_matching_alike,
    "gradient-matching-mixtures": gradient_matching_in_mixtures,
    "sleeper-agent": sleeper_agent,
    "sleeper-agent-art": art_sleeper_agent,
    "sleeper-agent-ensemble": sleeper_agent_ensemble,
    "watermark": watermark,
}
BACKDOORS = {name for name in ATTACKS if name.startswith("sleeper-agent")}
