"""How many random cells does a model relax into holes? Si, Ca, Ca-Fe-Ni, Mg-Si-O and La-H at 0, 50 and 150 GPa.

    python benchmarks/random_cells.py chgnet chgnet-hp --cells 7 --json cells.json

The cells hold 4 to 8 atoms in 1.0 to 1.4 times the volume of their elements, as a search of structures starts with,
and are the same for every model. Each is relaxed to 0.01 eV/Å with the guards of the bridge. A stopped run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.cell import Cell

import uspex_bridge
from uspex_bridge.base.tables import layout
from uspex_bridge.relaxation.volumes import dense_radius, expected_volume

SYSTEMS = {
    "Si": ("Si",),
    "Ca": ("Ca",),
    "Ca-Fe-Ni": ("Ca", "Fe", "Ni"),
    "Mg-Si-O": ("Mg", "Si", "O"),
    "La-H": ("La", "H"),
}
PRESSURES = (0.0, 50.0, 150.0)
#: Codes of refusals for a geometry that is denser than a real one.
DENSE = ("hole", "collapse", "distance", "pressure")


def random_cell(elements: Sequence[str], pressure: float, number: int) -> Atoms:
    """Return cell ``number`` of these elements: the same atoms in the same places, wherever it is made."""
    rng = np.random.default_rng([len(elements), int(pressure), number])
    count = int(rng.integers(max(4, len(elements)), 9))
    symbols = [*elements, *rng.choice(elements, count - len(elements))]
    volume = expected_volume(symbols, pressure) * count * rng.uniform(1.0, 1.4)
    radii = np.array([dense_radius(symbol, pressure) for symbol in symbols])
    closest = 0.75 * np.add.outer(radii, radii)
    while True:
        cell = Cell.fromcellpar([*np.exp(rng.uniform(-0.3, 0.3, 3)), *rng.uniform(65.0, 115.0, 3)]).array
        cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
        atoms = Atoms(symbols, cell=cell, scaled_positions=rng.random((count, 3)), pbc=True)
        distances = atoms.get_all_distances(mic=True) + 99.0 * np.eye(count)
        if (distances > closest).all():
            return atoms
        closest *= 0.995


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--cells", type=int, default=7, show_default=True, help="Cells per system and pressure.")
@click.option("--json", "file", type=click.Path(path_type=Path), default=Path("cells.json"), show_default=True)
def main(models: Sequence[str], cells: int, file: Path) -> None:
    """Relax the same random cells with MODELS, named as 'uspex-bridge evaluate' takes them."""
    found: dict[str, list[str]] = json.loads(file.read_text()) if file.is_file() else {}
    for pressure in PRESSURES:
        for system, elements in SYSTEMS.items():
            starts = [random_cell(elements, pressure, number) for number in range(cells)]
            for model in models:
                key = f"{model} {pressure:g} {system}"
                if len(found.get(key, [])) < cells:
                    ended = uspex_bridge.relax(starts, pressure, model=model, protocol="single", threads=1)
                    found[key] = [str(one.fields.get("code") or one.status) for one in ended]
                    file.write_text(json.dumps(found, indent=1) + "\n")
    rows = []
    for model in models:
        for pressure in PRESSURES:
            counts = [Counter(found[f"{model} {pressure:g} {system}"]) for system in SYSTEMS]
            rows.append(
                [
                    model,
                    f"{pressure:g}",
                    *(f"{sum(count[code] for code in DENSE)} of {count.total()}" for count in counts),
                ]
            )
    click.echo(layout([("model", ""), ("GPa", ""), *((system, "") for system in SYSTEMS)], rows))


if __name__ == "__main__":
    main()
