"""A model's range: its elements must hold under compression to the pressure of the search."""

from functools import cache

import numpy as np
import pytest
from ase.units import GPa

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.relaxation import reach
from uspex_bridge.relaxation.reach import curves, limits
from uspex_bridge.relaxation.volumes import element_volume

ELEMENTS = ("Si", "Ca", "Fe", "C", "H", "O", "La")


def model(change=lambda symbol, relative, pressure: pressure, fails=lambda volume: False):
    """Return a model with the elements' own equations of state, or pressures (GPa) changed by volume over V(0)."""

    def evaluate_many(cells):
        answers = []
        for atoms in cells:
            (symbol,) = set(atoms.symbols)
            volume, free = atoms.get_volume() / len(atoms), element_volume(symbol, 0.0)
            grid = np.geomspace(free, volume, 100)
            known = zip(grid, pressures_at(symbol, grid), strict=True)
            pressures = [change(symbol, v / free, p) for v, p in known]
            energy = -np.trapezoid(pressures, grid) * GPa
            stress = -pressures[-1] * GPa * np.array([1.0, 1, 1, 0, 0, 0])
            found = {"energy": energy * len(atoms), "stress": stress}
            answers.append(CalculationError("no") if fails(volume) else found)
        return answers

    return evaluate_many


@cache
def table(symbol: str) -> tuple[list[float], list[float]]:
    pressures = [0.0, *np.geomspace(0.1, 5000.0, 200).tolist()]
    return [element_volume(symbol, p) for p in pressures][::-1], pressures[::-1]


def pressures_at(symbol: str, volumes: np.ndarray) -> np.ndarray:
    return np.interp(volumes, *table(symbol))


@pytest.mark.parametrize("pressure", [0.0, 50.0, 300.0])
def test_elements_as_they_are_hold(pressure):
    assert limits(ELEMENTS, pressure, model()) == []


@pytest.mark.parametrize("symbol", ELEMENTS)
def test_a_pressure_that_falls_on_compression_is_said_with_where_it_stops(symbol):
    def soft(_, relative, pressure):
        return pressure if relative > 0.85 else pressure * (relative / 0.85) ** 12

    (limit, *_) = limits([symbol], 200.0, model(soft))
    assert limit.element == symbol
    assert limit.pressure < 200.0
    assert "falls on further compression" in limit.why or "does not rise beyond" in limit.why
    assert limits([symbol], 0.0, model(soft)) == []


def test_a_dense_packing_of_lower_enthalpy_is_a_hole_beyond_a_sound_range():
    """As CHGNet's silicon at 50 GPa, whose pressure is right down to 10 Å³/atom."""

    def holed(symbol, relative, pressure):
        return pressure if relative > 0.6 else -150.0

    found = limits(["Si"], 50.0, model(holed))
    assert {limit.packing for limit in found} == {"fcc", "bcc"}
    assert all("eV/atom in H below that of" in limit.why for limit in found)
    assert limits(["Si"], 0.0, model(lambda s, relative, p: p if relative > 0.6 else p / 2)) == []


def test_a_model_that_fails_on_the_way_does_not_hold():
    (limit, *_) = limits(["Fe"], 100.0, model(fails=lambda volume: volume < 9.5))
    assert "the model fails on fcc Fe of" in limit.why


def test_packings_are_of_the_element_and_cover_the_search():
    for (symbol, packing), path in curves(ELEMENTS, 150.0).items():
        volumes = np.array([atoms.get_volume() / len(atoms) for atoms in path])
        assert (np.diff(volumes) > 0).all()
        assert volumes[-1] == pytest.approx(element_volume(symbol, 0.0))
        assert volumes[0] < 0.5 * element_volume(symbol, 150.0)
        if packing == "molecules":
            distances = path[-1].get_all_distances(mic=True)
            assert np.sort(distances + 9 * np.eye(8), axis=1)[:, 0] == pytest.approx(reach._BONDS[symbol], abs=1e-6)
