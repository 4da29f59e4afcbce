"""From a small supercell to a large one."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from vibrating import emt, structure_of

from uspex_bridge.base.errors import Interrupted
from uspex_bridge.vibrations.scha import scha
from uspex_bridge.vibrations.settings import Settings
from uspex_bridge.vibrations.upscale import small_state, upscaled

GOLD = structure_of(bulk("Au", a=4.0))
AT_10_GPA = Settings(300.0, 10.0, min_image=8.0, g_error=5e-4)


def test_the_large_supercell_gives_what_it_gives_alone(tmp_path):
    """And the small one is told, whose G with the mesh correction is nearly the same."""
    path = tmp_path / "state.npz"
    found = upscaled(GOLD, emt, AT_10_GPA, state=path)
    alone = scha(GOLD, emt, AT_10_GPA)
    assert found.converged
    assert found.lattice.repeats == alone.lattice.repeats == (3, 3, 3)
    assert found.g == pytest.approx(alone.g, abs=3.0 * float(np.hypot(found.error, alone.error)))
    assert found.smaller.repeats == (2, 2, 2)
    assert found.smaller.g == pytest.approx(found.g, abs=0.004)
    assert found.summary()["smaller"]["supercell"] == [2, 2, 2]
    assert found.evaluations > len(found.ensemble) + 12
    assert path.is_file()
    assert small_state(path).is_file()
    again = upscaled(GOLD, emt, AT_10_GPA, state=path)  # from the files alone
    assert again.g == found.g


def test_stopped_in_the_small_supercell_there_is_no_free_energy(tmp_path):
    asked = iter([None, *["told to stop"] * 10])
    with pytest.raises(Interrupted, match="told to stop"):
        upscaled(GOLD, emt, AT_10_GPA, state=tmp_path / "state.npz", halt=lambda: next(asked))


def test_one_size_is_computed_once():
    """Half of a short distance is one atom, which has no vibrations: both supercells are the smallest that has."""
    found = upscaled(GOLD, emt, replace(AT_10_GPA, min_image=2.0, g_error=0.01))
    assert found.smaller is None
    assert len(found.lattice) == 8  # the smallest that keeps the point group
    asked = upscaled(GOLD, emt, replace(AT_10_GPA, repeats=(1, 1, 1), g_error=0.01))
    assert asked.lattice.repeats == (2, 2, 2)
    assert asked.g == found.g
