"""Settings of experiments that take seconds."""

from dataclasses import replace

from benchmarks.poisoning.experiment import run
from benchmarks.poisoning.settings import Settings

TOY = Settings(
    "digits",
    pretrain=300,
    pretrain_epochs=3,
    victim=300,
    poisons=8,
    epsilon=51,
    steps=8,
    epochs=4,
    subset_sizes=(0.2,),
)
"""For every scenario, attack and defense."""

TRANSFER = replace(
    TOY, pretrain=400, pretrain_epochs=4, victim=500, poisons=12, epsilon=102, steps=60, epochs=None
)
"""Large enough for EPIC to find poisons, with the published schedule."""


def run_all(lab, out, targets):
    """Attack and defend the first `targets` targets, with every defense and with traces."""
    return run(lab, out, range(targets), lab.settings.defenses(), traces=True)
