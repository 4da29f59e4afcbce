"""What room the elements take up under pressure: the yardstick of a result that no model can bend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Array

#: Atoms of different electronegativity pull each other together: in a compound an element is as dense as it would be
#: alone under this much more pressure, GPa, and this much more for each unit that the electronegativities differ by.
INTERNAL, PER_UNIT = 10.0, 10.0
#: A crystal fills at least this share of the expected volume, an element and a compound.
SMALLEST_ELEMENT, SMALLEST = 0.75, 0.7
#: Volumes relative to that without pressure at which the equations of state are tabulated.
_RELATIVE = np.linspace(1.0, 0.012, 2000)
#: Å³ per atom and electronegativity of an element that is not tabulated: that of dense metals.
_UNKNOWN = (15.0, 200.0, 5.0, 1.9)


def vinet_pressure(relative: Array, bulk_modulus: float, derivative: float) -> Array:
    """Return the pressure of Vinet's equation of state, in the unit of ``bulk_modulus``.

    Args:
        relative: volumes over that without pressure.
        bulk_modulus: at zero pressure.
        derivative: of the bulk modulus by pressure.
    """
    x = np.cbrt(relative)
    return np.asarray(3.0 * bulk_modulus * (1.0 - x) / x**2 * np.exp(1.5 * (derivative - 1.0) * (1.0 - x)))


def element_volume(symbol: str, pressure_gpa: float) -> float:
    """Return the volume of an element's dense phase at a pressure (negative counts as none), Å³/atom."""
    volume, pressures = _curve(symbol)
    return volume * float(np.interp(max(pressure_gpa, 0.0), pressures, _RELATIVE))


def dense_radius(symbol: str, pressure_gpa: float) -> float:
    """Return half the distance of neighbours in a close packing of an element at a pressure, Å."""
    return float(0.5 * np.sqrt(2.0) ** (1 / 3) * element_volume(symbol, pressure_gpa) ** (1 / 3))


def expected_volume(symbols: Sequence[str], pressure_gpa: float) -> float:
    """Return about the smallest volume at a pressure of a crystal of these atoms, Å³/atom.

    The sum of the elements' own dense phases at that pressure; of a compound, at the pressure that its atoms exert on
    each other besides (real crystals lie at 0.74 of it or above: docs/trust.md).
    """
    present = set(symbols)
    if len(present) > 1:
        scale = [_table().get(symbol, _UNKNOWN)[3] for symbol in present]
        pressure_gpa = max(pressure_gpa, 0.0) + INTERNAL + PER_UNIT * (max(scale) - min(scale))
    total = sum(element_volume(symbol, pressure_gpa) * list(symbols).count(symbol) for symbol in present)
    return total / len(symbols)


def smallest_share(symbols: Sequence[str]) -> float:
    """Return the share of the expected volume that a crystal of these atoms fills at least."""
    return SMALLEST if len(set(symbols)) > 1 else SMALLEST_ELEMENT


@cache
def _curve(symbol: str) -> tuple[float, Array]:
    volume, bulk_modulus, derivative, _ = _table().get(symbol, _UNKNOWN)
    return volume, vinet_pressure(_RELATIVE, bulk_modulus, derivative)


@cache
def _table() -> dict[str, tuple[float, float, float, float]]:
    """Return volume, bulk modulus, its derivative and electronegativity by element (volumes.json says how made)."""
    table = json.loads(Path(__file__).with_name("volumes.json").read_text(encoding="utf-8"))["elements"]
    return {symbol: tuple(values) for symbol, values in table.items()}
