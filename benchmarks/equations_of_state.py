"""Does pressure grow all the way to 300 GPa as crystals are squeezed? 40 elements, MgO, NaCl, FeO and SiO2.

    python benchmarks/equations_of_state.py chgnet chgnet:0.2.0 sevennet --json states.json

Each element in fcc, bcc, hcp and diamond, the compounds in B1, B2, stishovite and quartz: 167 curves in steps of 5 % of
the volume, at fixed fractional coordinates, from a tenth above the volume at 0 GPa. A curve is sound if the pressure
grows with every step from its last zero on until it reaches 300 GPa.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.base.tables import layout
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.base.units import pressure_of
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import settings_for
from uspex_bridge.models import backends

TOP = 300.0
#: Element -> volume at 0 GPa, Å³/atom, in dense structures.
# fmt: off
VOLUMES = {
    "H": 8.5, "Li": 20, "Be": 8, "B": 7.3, "C": 5.7, "N": 12, "O": 11, "Na": 37, "Mg": 23, "Al": 16.5, "Si": 20,
    "P": 16, "S": 18, "Cl": 24, "K": 73, "Ca": 42, "Sc": 25, "Ti": 17.5, "V": 13.5, "Cr": 12, "Mn": 11.5,
    "Fe": 11.5, "Co": 11, "Ni": 11, "Cu": 12, "Zn": 15, "Ga": 19, "Ge": 22.6, "Rb": 90, "Sr": 55, "Y": 33,
    "Zr": 23, "Nb": 18, "Mo": 16, "Ag": 18, "Cs": 115, "Ba": 63, "W": 16, "Au": 18, "Pb": 31,
}
# fmt: on


def crystals() -> Iterator[tuple[str, Atoms, float]]:
    """Yield names, crystals and the volumes that their curves begin with, Å³/atom."""
    for element, volume in VOLUMES.items():
        for kind in ("fcc", "bcc", "hcp", "diamond"):
            axis = {"c": 4.0 * 1.633} if kind == "hcp" else {}
            yield f"{element} {kind}", bulk(element, kind, a=4.0, **axis), volume * (1.45 if kind == "diamond" else 1.1)
    yield "MgO B1", bulk("MgO", "rocksalt", a=4.2), 10.5
    yield "MgO B2", bulk("MgO", "cesiumchloride", a=2.6), 10.0
    yield "NaCl B1", bulk("NaCl", "rocksalt", a=5.6), 24.0
    yield "NaCl B2", bulk("NaCl", "cesiumchloride", a=3.4), 22.0
    yield "FeO B1", bulk("FeO", "rocksalt", a=4.3), 11.0
    sites = [(0, 0, 0), (0.306, 0.306, 0)]
    yield "SiO2 stishovite", crystal(["Si", "O"], sites, spacegroup=136, cellpar=[4.18, 4.18, 2.67, 90, 90, 90]), 8.3
    sites = [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)]
    yield "SiO2 quartz", crystal(["Si", "O"], sites, spacegroup=152, cellpar=[4.913, 4.913, 5.405, 90, 90, 120]), 13.5


def curve(model: backends.Backend, atoms: Atoms, first: float, floor: float) -> list[tuple[float, float]]:
    """Return volumes (Å³/atom) and pressures (GPa), the largest volume first, until some way above 300 GPa."""
    found: list[tuple[float, float]] = []
    volumes = first * 0.95 ** np.arange(int(np.log(floor / first) / np.log(0.95)) + 1)
    for some in np.array_split(volumes, max(1, len(volumes) // 6)):
        squeezed = [atoms.copy() for _ in some]
        for one, volume in zip(squeezed, some, strict=True):
            one.set_cell(atoms.cell * (volume * len(atoms) / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
        for volume, answer in zip(some, model.evaluate_many(squeezed), strict=True):
            if isinstance(answer, CalculationError):
                return found
            found.append((float(volume), pressure_of(answer["stress"])))
        if found[-1][1] > TOP:
            break
    return found


def fault_of(points: Sequence[tuple[float, float]], top: float = TOP) -> str:
    """Say where the pressure falls as the volume does, or that it never reaches ``top``; nothing where it is sound."""
    pressures = np.array([pressure for _, pressure in points])
    end = int(np.argmax(pressures >= top)) if (pressures >= top).any() else len(pressures) - 1
    rising = int(np.argmax(pressures[: end + 1] > 5.0))
    negative = np.flatnonzero(pressures[: rising + 1] < 0)
    for k in range((int(negative[-1]) if len(negative) else 0) + 1, end + 1):
        if pressures[k] <= pressures[k - 1]:
            return f"{points[k][0]:.1f} Å³/atom: {pressures[k - 1]:.0f} GPa, then {pressures[k]:.0f}"
    return "" if pressures[end] >= top else f"ends at {pressures.max():.0f} GPa"


def judge(name: str, config: Config) -> dict[str, Any]:
    """Return a model's curves and faults."""
    found: dict[str, Any] = {}
    with backends.load("model", settings_for(name, config)) as model:
        for title, atoms, first in crystals():
            floor = max(0.14 * first, 1.3 if title.startswith("H ") else 2.3)
            points = curve(model, atoms, first, floor)
            found[title] = {"fault": fault_of(points), "points": [[round(v, 3), round(p, 2)] for v, p in points]}
    return found


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="File for all curves.")
def main(models: Sequence[str], file: Path | None) -> None:
    """Squeeze crystals with MODELS, named as 'uspex-bridge evaluate' takes them."""
    limit_threads(1)
    results = {name: judge(name, Config()) for name in models}
    lines = []
    for name, found in results.items():
        bad = [title for title, one in found.items() if one["fault"]]
        elements = {title.split()[0] for title in bad} & VOLUMES.keys()
        others = ", ".join(title for title in bad if title.split()[0] not in VOLUMES) or "none"
        lines.append([name, f"{len(bad)} of {len(found)}", f"{len(elements)} of {len(VOLUMES)}", others])
    headings = [("model", ""), ("curves with a fault", ""), ("elements", ""), ("compounds", "")]
    click.echo(layout(headings, lines))
    if file is not None:
        file.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
