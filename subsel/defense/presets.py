"""Named settings: those of the paper's experiments, and of the authors' code where it differs."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from subsel.defense.epic import EPIC

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """The settings of one experiment.

    Attributes
    ----------
    about : str
        The experiment, and the source of the settings.
    training : dict
        Arguments of `train`.
    interval, stop : int
        Of EPIC.
    subset_size : float
        EPIC's default here.
    warmup : int or dict of float to int
        The warmup of EPIC, which depends on the subset size in the paper.
    """

    about: str
    training: dict[str, Any]
    interval: int
    stop: int
    warmup: int | dict[float, int] = field(default_factory=lambda: {0.1: 10, 0.2: 20, 0.3: 30})
    subset_size: float = 0.1

    def epic(self, subset_size: float | None = None, **changes: Any) -> EPIC:
        """An EPIC with these settings, after `changes`.

        Raises
        ------
        ValueError
            If the experiment has no warmup for the subset size, and `changes` has none.
        """
        settings = {
            "subset_size": self.subset_size if subset_size is None else subset_size,
            "interval": self.interval,
            "stop": self.stop,
            **changes,
        }
        if "warmup" not in settings:
            settings["warmup"] = self._warmup(settings["subset_size"])
        return EPIC(**settings)

    def _warmup(self, subset_size: float) -> int:
        if isinstance(self.warmup, int):
            return self.warmup
        if subset_size not in self.warmup:
            raise ValueError(
                f"the paper gives a warmup for subset sizes {', '.join(map(str, self.warmup))} "
                f"only; give your own for {subset_size}"
            )
        return self.warmup[subset_size]


_40 = {"epochs": 40, "drops": (25, 35)}
_40_code = {"epochs": 40, "drops": (15, 25, 35)}
_200 = {"epochs": 200, "drops": (100, 150)}

# Yang, Liu and Mirzasoleiman, ICML 2022.  Section 4.1 has the drops of the learning rate, the
# warmups K and the intervals T.  The paper does not say when rounds stop. Here no round comes after
# the last drop of the learning rate, as in the authors' code.
PRESETS = MappingProxyType(
    {
        "paper-40": Preset("from scratch, 40 epochs (section 4.1, table 2)", _40, 2, stop=36),
        "paper-200": Preset(
            "from scratch, 200 epochs (section 4.1, tables 1 and 2)", _200, 10, stop=151
        ),
        "code-40": Preset(
            "from scratch, 40 epochs, with the authors' code's drops and warmup",
            _40_code,
            2,
            stop=36,
            warmup=10,
        ),
        "code-200": Preset(
            "from scratch, 200 epochs, with the authors' code's warmup",
            _200,
            10,
            stop=151,
            warmup=30,
        ),
        "paper-40-strong": Preset(
            "from scratch, 40 epochs, attack of eps 16/255 (table 4); EPIC's from the code",
            _40,
            5,
            stop=36,
            warmup=5,
        ),
        "paper-transfer": Preset(
            "linear head on fixed features, 40 epochs (section 4.1.2); EPIC's from the code",
            _40 | {"scenario": "transfer"},
            1,
            stop=10,
            warmup=1,
            subset_size=0.2,
        ),
        "paper-finetune": Preset(
            "fine-tuning, 40 epochs at a rate of 1e-4 (section 4.1.3); EPIC's from the code",
            _40 | {"scenario": "finetune"},
            1,
            stop=36,
            warmup=5,
            subset_size=0.6,
        ),
    }
)
