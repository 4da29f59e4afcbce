"""Make uspex_bridge/relaxation/elements.json: energies of the elements on the Materials Project's PBE scale.

CHGNet 0.3.0 (trained on that scale, weights in its wheel) relaxes simple structures of every element it knows and
a dimer; the lowest counts. The guard that uses the table (``hole_depth``) has a margin of several eV per atom, so
some 0.1 eV matter to nobody.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from chgnet.model.dynamics import CHGNetCalculator

OUT = Path(__file__).parents[1] / "uspex_bridge" / "relaxation" / "elements.json"


def candidates(symbol: str) -> list[Atoms]:
    bond = 2 * covalent_radii[chemical_symbols.index(symbol)]
    d = max(1.05 * bond, 2.0)
    return [
        bulk(symbol, "fcc", a=np.sqrt(2) * d),
        bulk(symbol, "bcc", a=d * 2 / np.sqrt(3)),
        bulk(symbol, "hcp", a=d, c=d * 1.633),
        Atoms([symbol] * 2, positions=[[0, 0, 0], [0, 0, bond]], cell=[9, 9, 9], pbc=True),
    ]


def main() -> None:
    calculator = CHGNetCalculator(use_device="cpu")
    table = {}
    for symbol in chemical_symbols[1:95]:
        energies = []
        for atoms in candidates(symbol):
            atoms.calc = calculator
            free = atoms if atoms.cell[0, 0] == 9 else FrechetCellFilter(atoms)
            FIRE(free, logfile=None).run(fmax=0.1, steps=30)
            per_atom = float(atoms.get_potential_energy()) / len(atoms)
            if np.isfinite(per_atom) and per_atom > -20:
                energies.append(per_atom)
        table[symbol] = round(min([0.0, *energies]), 2)
        print(symbol, table[symbol], flush=True)
    made = "CHGNet 0.3.0, lowest of fcc, bcc, hcp and a dimer (benchmarks/elemental_energies.py); never above 0"
    OUT.write_text(json.dumps({"made_by": made, "energy_per_atom": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
