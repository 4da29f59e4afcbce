"""Phases of lower symmetry that the imaginary modes of unstable ones lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.data import Structure
from uspex_bridge.base.files import write_whole
from uspex_bridge.base.symmetry import primitive
from uspex_bridge.results.reading.join import line_of, structure_of
from uspex_bridge.results.reading.model import NAN, Entry, composition_of

if TYPE_CHECKING:
    from uspex_bridge.call.relaxed import Relaxed
    from uspex_bridge.call.thermal import FreeEnergyTask

#: File of what was found, in the folder of the free energies.
FILE = "followed.extxyz"
#: Enthalpy that must be gained for it to be another phase, eV/atom.
_LOWER = 2e-4


@dataclass(frozen=True, eq=False)
class Followed:
    """Where the lowest mode of an unstable phase leads.

    Attributes:
        before: the unstable phase.
        after: the phase below it; None where none was found.
        structure: of ``after``, at rest, in its primitive cell.
        reason: why there is none.
    """

    before: Entry
    after: Entry | None
    structure: Structure | None = None
    reason: str = ""

    @property
    def gain(self) -> float:
        """Enthalpy of the unstable phase above the one below it, eV/atom; NaN where there is none."""
        return NAN if self.after is None else self.before.enthalpy_per_atom - self.after.enthalpy_per_atom


def follow(
    starts: Iterable[tuple[Entry, Structure | None]],
    task: FreeEnergyTask,
    count: int,
    observe: Callable[[str], None],
    *,
    with_holes: bool = False,
) -> list[Followed]:
    """Relax unstable phases from where their lowest mode is displaced, without symmetry, and write what is found.

    Args:
        starts: unstable phases, each with its displaced supercell, None where nothing along the mode lies lower.
        task: free energies.
        count: phases that were found before; the file is begun anew with the first.
        observe: called with a word after every structure.
        with_holes: a phase in a hole of the model is one too.
    """
    from uspex_bridge.call.many import relax_all

    path = task.out / FILE
    if not count:
        path.unlink(missing_ok=True)
    found, parents, jobs = [], {}, []
    for number, (entry, structure) in enumerate(starts):
        if structure is None:
            found.append(Followed(entry, None, reason="no lower structure along its lowest mode"))
        else:
            parents[number] = entry
            jobs.append((path, number, replace(structure, comment=f"EA{entry.id} {entry.formula} {entry.run}")))
    for done in relax_all(jobs, task.at_rest(keep_symmetry=False)):
        observe("followed")
        parent = parents[done.fields["index"]]
        one = _below(parent, done, Entry(str(path), count + 1, ()), with_holes=with_holes)
        found.append(one)
        if one.after is not None:
            count += 1
            _write(path, one, done)
    return found


def _below(parent: Entry, done: Relaxed, empty: Entry, *, with_holes: bool) -> Followed:
    """Return what a relaxation came to, as ``empty`` with a phase in it."""
    fields: dict[str, Any] = done.fields
    if "enthalpy" not in fields:
        return Followed(parent, None, reason=f"{fields.get('code')}: {fields.get('reason')}")
    if "hole" in (fields.get("flags") or ()) and not with_holes:
        return Followed(parent, None, reason="its lowest mode leads into a hole of the model")
    line, whole = line_of(fields), structure_of(fields["output"])
    cell = primitive(whole)
    share = len(cell) / len(whole)
    after = replace(
        empty,
        composition=composition_of(cell.symbols),
        enthalpy=share * line.enthalpy,
        volume=share * line.volume,
        pressure_gpa=line.pressure_gpa,
        level=line.level,
        origin=f"followed from EA{parent.id}",
        symbol=done.after,
    )
    if parent.enthalpy_per_atom - after.enthalpy_per_atom < _LOWER:
        return Followed(parent, None, reason="no lower structure along its lowest mode")
    return Followed(parent, after, replace(cell, comment=after.origin))


def _write(path: Path, one: Followed, done: Relaxed) -> None:
    """Append a phase to the file, E per primitive cell."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from uspex_bridge.base.atoms import extxyz, to_atoms

    assert one.structure is not None
    assert one.after is not None
    atoms = to_atoms(one.structure)
    atoms.calc = SinglePointCalculator(atoms, energy=done.energy * len(atoms) / done.fields["natoms"])
    atoms.info |= {"name": one.after.origin, "pressure_gpa": one.after.pressure_gpa, "level": one.after.level}
    write_whole(path, (path.read_bytes() if path.exists() else b"") + extxyz([atoms]).encode())
