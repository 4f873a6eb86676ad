"""Defenses by name. Another one is another file here: a function from a victim to an outcome.

    from benchmarks.poisoning.defenses.registry import defense
    from benchmarks.poisoning.victim import Outcome, Victim

    @defense("half {side}")
    def half(victim: Victim, side: str) -> Outcome:
        kept = victim.everyone[:: 1 if side == "left" else -1][: len(victim.labels) // 2]
        return Outcome(victim.train(kept), kept)

makes "half left" and "half right". A defense that needs to know more than the victim
declares it (`told=("budget",)`) and says so in its name. See `registry.defense`.
"""

from importlib import import_module
from pkgutil import iter_modules

from benchmarks.poisoning.defenses.registry import Defense, Trial, find, known, possible

__all__ = ["Defense", "Trial", "find", "known", "possible"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
