"""Where imaginary modes lead: what counts as another phase."""

from types import SimpleNamespace

import numpy as np
import pytest

from uspex_bridge.base.data import Structure
from uspex_bridge.call import many
from uspex_bridge.call.config import Config
from uspex_bridge.call.thermal import FreeEnergyTask
from uspex_bridge.results.reading.model import Entry
from uspex_bridge.results.thermal.following import FILE, follow

CUBIC = Structure(("Ni",), 2.2 * np.eye(3), np.zeros((1, 3)))
PARENT = Entry("search", 4, (("Ni", 1),), -1.0, 2.2**3, pressure_gpa=0.0, level="toy")


def relaxed(enthalpy: float, flags: list[str]) -> SimpleNamespace:
    """Return what is read of a relaxation of two atoms of a doubled cell, eV."""
    output = {"symbols": ["Ni", "Ni"], "cell": np.diag([4.4, 2.2, 2.2]), "scaled": [[0, 0, 0], [0.5, 0, 0]]}
    fields = {"index": 0, "enthalpy": enthalpy, "volume": 21.3, "pressure_gpa": 0.0, "natoms": 2, "output": output}
    return SimpleNamespace(fields={**fields, "flags": flags}, energy=enthalpy, after="Pm-3m (221)")


@pytest.mark.parametrize(
    ("enthalpy", "flags", "with_holes", "reason"),
    [
        (-2.4, [], False, ""),
        (-2.0003, [], False, "no lower structure along its lowest mode"),
        (-8.0, ["hole"], False, "its lowest mode leads into a hole of the model"),
        (-8.0, ["hole"], True, ""),
    ],
)
def test_a_phase_is_lower_and_lies_in_no_hole(monkeypatch, tmp_path, enthalpy, flags, with_holes, reason):
    monkeypatch.setattr(many, "relax_all", lambda jobs, task: [relaxed(enthalpy, flags) for _ in jobs])
    task = FreeEnergyTask(Config(), tmp_path, 0.0, (300.0,))
    (found,) = follow([(PARENT, CUBIC)], task, 0, lambda _: None, with_holes=with_holes)
    assert found.reason == reason
    assert (found.after is None) == (not (tmp_path / FILE).exists()) == bool(reason)
    if found.after is not None:
        assert found.after.enthalpy == pytest.approx(enthalpy / 2)  # of the primitive cell
        assert found.gain == pytest.approx(-1.0 - enthalpy / 2)
