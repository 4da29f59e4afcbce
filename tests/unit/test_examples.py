"""The loops in examples/ are what the commands read."""

from pathlib import Path

import pytest

from uspex_bridge.learn.cycle.settings import read_cycle_settings
from uspex_bridge.learn.label.settings import read_label_settings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["cycle_cafeni", "dft_cafeni"])
def test_a_loop_finds_what_it_names(name):
    folder = EXAMPLES / name
    settings = read_cycle_settings(folder)
    files = [model.start for model in settings.models.values()]
    files += [model.settings for model in settings.models.values()]
    files += [*settings.search.places, settings.label.settings]
    assert [file for file in files if not (folder / file).exists()] == []


def test_gpaw_labels_have_enough_k_points():
    settings = read_label_settings(EXAMPLES / "dft_cafeni" / "gpaw.toml", "gpaw")
    assert settings.kpoint_distance >= 25
