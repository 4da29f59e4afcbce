"""The loops and labels in examples/ are what the commands read."""

from pathlib import Path

import numpy as np
import pytest

from uspex_bridge.learn.cycle.settings import read_cycle_settings
from uspex_bridge.learn.data.dataset import Dataset

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["cycle_cafeni", "dft_cafeni"])
def test_a_loop_finds_what_it_names(name):
    folder = EXAMPLES / name
    settings = read_cycle_settings(folder)
    files = [model.start for model in settings.models.values()]
    files += [model.settings for model in settings.models.values()]
    files += [*settings.search.places, settings.label.settings]
    assert [file for file in files if not (folder / file).exists()] == []


def test_the_dft_labels_are_whole():
    dataset = Dataset.open(EXAMPLES / "dft_cafeni" / "dataset")
    frames = list(dataset.frames())
    assert len(frames) == len(dataset.labels) == 21
    assert {str(atoms.info["level"]).split()[0] for atoms in frames} == {"gpaw"}
    assert sum("results1:EA" in atoms.info["origin"] for atoms in frames) == 10
    pressures = [-160.2177 * np.trace(atoms.get_stress(voigt=False)) / 3 for atoms in frames]
    squeezed = np.array([atoms.info["pressure_gpa"] == 50 for atoms in frames])
    assert np.mean(np.array(pressures)[squeezed]) > 30 > 15 > np.abs(np.array(pressures)[~squeezed]).max()
