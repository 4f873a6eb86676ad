"""How a defense is declared, found by its name and run."""

import inspect
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.poisoning.victim import Outcome, Victim, Watch

SCENARIOS = ("scratch", "transfer", "finetune", "block")
_DEFENSES: list["Defense"] = []


@dataclass(frozen=True)
class Defense:
    """A defense, or a family of them: see `defense`."""

    template: str
    run: Callable[..., Outcome]
    told: tuple[str, ...]
    scenarios: tuple[str, ...]
    package: str | None

    @cached_property
    def _pattern(self) -> re.Pattern:
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(self.template)))

    def parameters(self, name: str) -> dict[str, Any] | None:
        """What `name` says about the template's parameters; None if it is no such name."""
        if (match := self._pattern.fullmatch(name)) is None:
            return None
        types = inspect.get_annotations(self.run)
        try:
            return {
                key: float(text) if types.get(key) is float else text
                for key, text in match.groupdict().items()
            }
        except ValueError:
            return None


def defense(
    template: str,
    *,
    told: tuple[str, ...] = (),
    scenarios: tuple[str, ...] = SCENARIOS,
    package: str | None = None,
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a function as a defense.

    Parameters
    ----------
    template
        Its name. `{parameter}` stands for what is passed to the function under that name, as a
        float where it is annotated so. `{reference}` is the name of another defense, whose
        outcome on the same victim is passed.
    told
        What it knows that a defender would not, passed by name and said in the template:
        "budget" (how many poisons there are), "epsilon" (the attack's, of 255), "poisoned" (who
        is one, a bool array).
    scenarios
        Where it works: "scratch", "finetune", and where there are features only: "transfer",
        "block".
    package
        An optional package that it needs.
    """

    def register(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
        _DEFENSES.append(Defense(template, run, told, scenarios, package))
        # What is built upon another name binds last: "random drop, as X, fresh head" is a fresh
        # head after the random drop.
        _DEFENSES.sort(key=lambda d: (not d.template.startswith("{"), -len(d.template)))
        return run

    return register


def known() -> list[Defense]:
    """All defenses, by their templates."""
    return sorted(_DEFENSES, key=lambda d: d.template.lower())


def find(name: str, scenario: str) -> tuple[Defense, dict[str, Any]]:
    """The defense of that name and its parameters, once it is clear that it can run.

    Raises
    ------
    ValueError
        There is none, or not in this scenario.
    ImportError
        It needs a package that is not installed.
    """
    for entry in _DEFENSES:
        if (parameters := entry.parameters(name)) is None:
            continue
        if scenario not in entry.scenarios:
            raise ValueError(f"{name!r} does not work in scenario {scenario!r}: it needs images")
        if entry.package and find_spec(entry.package) is None:
            raise ImportError(f"{name!r} needs {entry.package}: pip install {entry.package}")
        if "reference" in parameters:
            find(parameters["reference"], scenario)
        return entry, parameters
    names = "; ".join(entry.template for entry in known())
    raise ValueError(f"no defense is called {name!r}; there are: {names}")


def possible(names: Iterable[str], scenario: str) -> list[str]:
    """Those of the defenses that can run in this scenario, here."""
    found = []
    for name in names:
        with suppress(ValueError, ImportError):
            find(name, scenario)
            found.append(name)
    return found


class Trial:
    """A poisoned victim, and what its defenses came to; each is run once.

    Parameters
    ----------
    victim : Victim
    scenario : str
    budget, epsilon, poisoned
        For those who are told: see `defense`.
    watch : Watch, optional
        What the victim calls after each epoch.
    """

    def __init__(
        self,
        victim: Victim,
        scenario: str,
        *,
        budget: int,
        epsilon: int,
        poisoned: np.ndarray,
        watch: Watch | None = None,
    ) -> None:
        self.victim, self.scenario = victim, scenario
        self.budget, self.epsilon, self.poisoned = budget, epsilon, poisoned
        self.watch = watch
        # With those of the reference, if there is one: by the clock, and of the processor.
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """Run the defense of that name, unless that was done before."""
        if name not in self._outcomes:
            entry, parameters = find(name, self.scenario)
            before = cpu_before = 0.0
            if "reference" in parameters:
                reference = parameters["reference"]
                parameters["reference"] = self.outcome(reference)
                before, cpu_before = self.seconds[reference], self.cpu_seconds[reference]
            told = {key: getattr(self, key) for key in entry.told}
            began, cpu_began = time.perf_counter(), time.process_time()
            self._outcomes[name] = entry.run(self.victim, **parameters, **told)
            self.seconds[name] = before + time.perf_counter() - began
            self.cpu_seconds[name] = cpu_before + time.process_time() - cpu_began
        return self._outcomes[name]
