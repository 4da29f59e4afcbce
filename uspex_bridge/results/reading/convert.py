"""Structures and entries as other packages want them: ASE atoms, pymatgen structures and entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.atoms import right_handed
from uspex_bridge.base.data import Structure
from uspex_bridge.results.reading.model import Entry

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure as PymatgenStructure


def to_pymatgen(structure: Structure) -> PymatgenStructure:
    """Return a pymatgen structure."""
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as PymatgenStructure

    turned = structure.right_handed
    return PymatgenStructure(Lattice(turned.cell), list(turned.symbols), turned.scaled)


def to_pymatgen_entry(entry: Entry, structure: Structure) -> Any:
    """Return a ComputedStructureEntry whose energy is the enthalpy (eV per cell), named by run and ID.

    pymatgen takes entries with equal ``entry_id`` for the same one, so the name holds both.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    return ComputedStructureEntry(
        to_pymatgen(structure), entry.enthalpy, entry_id=entry.name, parameters={"level": entry.level}, data=entry.row()
    )


def to_ase(entry: Entry, structure: Structure, recorded: dict[str, Any] | None = None) -> Atoms:
    """Return ASE atoms with what is known of them in ``info``.

    Where E is known, a calculator holds it, with the forces and stress of ``recorded`` (a line of the bridge's record,
    see :func:`uspex_bridge.call.record_file.read_at`) if that has the same atoms in the same order; ``info`` holds
    the enthalpy.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(list(structure.symbols), scaled_positions=structure.scaled, cell=structure.cell, pbc=True)
    row = entry.row()
    energy = row.pop("energy")
    atoms.info |= {key: value for key, value in row.items() if value is not None and value != ""}
    results: dict[str, Any] = {} if energy is None else {"energy": energy}
    output = (recorded or {}).get("output") or {}
    if results and _same_atoms(output, structure):
        results |= {"forces": np.array(output["forces"]), "stress": np.array(output["stress"])}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return right_handed(atoms)


def _same_atoms(output: dict[str, Any], structure: Structure) -> bool:
    """Tell whether the record's result is this very cell, so that its forces and stress belong to it.

    USPEX turns cells into another setting after it has read them; then they do not.
    """
    if "forces" not in output or "stress" not in output or tuple(output.get("symbols", ())) != structure.symbols:
        return False
    if not np.allclose(output["cell"], structure.cell, atol=2e-3):
        return False
    difference = np.array(output["scaled"]) - structure.scaled
    return bool(np.abs(difference - np.round(difference)).max() < 1e-3)
