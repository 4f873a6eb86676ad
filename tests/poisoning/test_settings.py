"""What is refused and told of the settings."""

from dataclasses import replace

import pytest
from toys import TRANSFER

from benchmarks.poisoning import victim
from benchmarks.poisoning.settings import LATER, Settings
from subsel.defense import PRESETS


@pytest.mark.parametrize(
    "wrong",
    [
        {"poisons": 0},
        {"steps": 0},
        {"epsilon": 256},
        {"weight_decay": -1e-4},
        {"subset_size": (1.5,)},
        {"ground_set": ("half",)},
    ],
)
def test_settings_out_of_range_are_refused_at_once(wrong):
    ((name, value),) = wrong.items()
    field = {"subset_size": "subset_sizes", "ground_set": "ground_sets"}.get(name, name)
    with pytest.raises(ValueError, match=name):
        replace(TRANSFER, **{field: value})


def test_later_settings_are_told_only_where_they_differ():
    old = Settings()
    assert not set(LATER) & old.told().keys()
    assert replace(old, model="resnet18").told()["model"] == "resnet18"


@pytest.mark.parametrize(
    ("preset", "size", "epochs", "schedule"),
    [
        ("paper-transfer", 0.2, 40, (1, 1, 10)),
        ("paper-40", 0.2, 40, (20, 2, 36)),
        ("paper-40", 0.1, 4, (1, 1, 4)),
        ("paper-200", 0.1, 100, (5, 5, 76)),
    ],
)
def test_epics_schedule_is_the_presets_stretched(preset, size, epochs, schedule):
    factor = epochs / PRESETS[preset].training["epochs"]
    got = victim.stretched(PRESETS[preset].epic(size), factor)
    assert tuple(got.values()) == schedule


def test_the_papers_and_the_codes_schedules():
    assert Settings(preset="paper-40").recipe().drops == (25, 35)
    assert Settings(preset="paper-transfer").recipe().drops == (25, 35)
    assert Settings(preset="code-40", epochs=20).recipe().drops == (8, 12, 18)
    assert Settings(preset="paper-40", drops=(15, 25, 35)).recipe().drops == (15, 25, 35)


def test_weight_decay_is_the_scenarios_unless_another_is_given():
    assert Settings(preset="paper-40").recipe().weight_decay == 5e-4
    block = Settings(model="block")
    assert block.recipe().weight_decay == 1.5e-3
    assert replace(block, weight_decay=0.0).recipe().weight_decay == 0
    # Another decay makes other nets, and so other poisons where these are crafted on them.
    assert replace(block, weight_decay=3e-3).crafting() != block.crafting()


@pytest.mark.parametrize(
    ("changes", "epochs", "others"),
    [({}, 20, False), ({"backbone": "other"}, 5, True), ({"model": "block"}, 5, True)],
)
def test_who_needs_images_that_the_victim_does_not_have(changes, epochs, others):
    settings = Settings(**changes)
    assert (settings.backbone_epochs, settings.needs_others) == (epochs, others)
    assert settings.told()["backbone"] == changes.get("backbone", "same")
