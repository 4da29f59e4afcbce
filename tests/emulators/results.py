"""The results folder of an emulated search, in the layout of either line of USPEX: protocol parts A5 and B5."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import spglib
from ase import Atoms
from emulators.records import kpoints
from emulators.search import Individual, Search, above_hull
from results_making import Made, composition, individuals, matlab_label, poscar, table, write_matlab, write_python

#: Structures further above the hull, eV/atom, are left out of extended_convex_hull.
EXTENDED = 0.5
KRESOL = 0.2
_NO_USPEX = (
    "No USPEX: written by the emulated search of uspex_bridge (tests/emulators) in the layout of USPEX's files.\n"
)


def write(folder: Path, search: Search, line: str, *, finished: bool) -> None:
    """Write ``folder`` (results1) anew from a search's state; other things in it stay.

    Left out is what the search does not have: USPEX's quasi-entropy and orders, and with the MATLAB line the
    structures that were dropped, which USPEX gives no ID there.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    hulls = {g: _hull(search, g) for g in range(1, search.generation + 1)}
    (_matlab if line == "matlab" else _python)(part, search, hulls, finished=finished)
    folder.mkdir(exist_ok=True)
    for path in part.iterdir():
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        os.replace(path, folder / path.name)
    part.rmdir()


def _hull(search: Search, generation: int) -> dict[int, float]:
    """Return number -> distance to the hull of the structures up to a generation, eV/atom."""
    known = [one for one in search.good if one.generation <= generation]
    return {one.number: float(d) for one, d in zip(known, above_hull(known, search.limits.species), strict=True)}


def _made(one: Individual, identity: int, fitness: float, parents: Iterable[int]) -> Made:
    symbol, group = space_group(one.atoms or one.start)
    return Made(
        identity,
        one.atoms or one.start,
        one.enthalpies[-1] if one.enthalpies else float("nan"),
        one.generation,
        one.origin,
        tuple(parents),
        one.enthalpies,
        group,
        fitness,
        one.start,
        symbol,
        kpoints((one.atoms or one.start).cell.array, KRESOL)[0],
    )


def space_group(atoms: Atoms) -> tuple[str, int]:
    """Return international symbol and number within 0.1 Å."""
    found = spglib.get_symmetry_dataset(
        (atoms.cell.array, atoms.get_scaled_positions(), atoms.get_atomic_numbers()), symprec=0.1
    )
    return ("P1", 1) if found is None else (str(found.international), int(found.number))


def _matlab(folder: Path, search: Search, hulls: dict[int, dict[int, float]], *, finished: bool) -> None:
    """Write what USPEX 9.4.4 writes of a variable composition."""
    species = search.limits.species
    rows: list[Made] = []
    first: dict[int, Made] = {}
    best: list[Made] = []
    for generation in hulls:
        corners = hulls.get(generation - 1, {})
        kept = [first[n] for n in _different(search, corners)]
        for made in kept:
            again = {"id": len(rows) + 1, "generation": generation, "origin": "convexHull", "parents": (made.id,)}
            rows.append(replace(made, fitness=hulls[generation][_number(first, made)], **again))
        for one in (one for one in search.good if one.generation == generation):
            parents = [first[number].id for number in one.parents]
            made = _made(one, len(rows) + 1, hulls[generation][one.number], parents)
            rows.append(made)
            first[one.number] = made
        best += [replace(first[n], generation=generation) for n in _different(search, hulls[generation])]
    write_matlab(folder, rows, species, search.limits.pressure, orders=False)
    (folder / "BESTIndividuals").write_text(individuals(best, species, orders=False))
    last = hulls[search.generation]
    ranked = [first[one.number] for one in search.unique() if last[one.number] <= EXTENDED]
    ranked = [replace(made, fitness=last[_number(first, made)]) for made in ranked]
    (folder / "extended_convex_hull").write_text(_extended(ranked, species))
    (folder / "extended_convex_hull_POSCARS").write_text(
        "".join(poscar(made.atoms, species, matlab_label(made, made.atoms, made.group)) for made in ranked)
    )
    text = ""
    for generation, above in hulls.items():
        text += f"---- generation{generation:3d} ----\n"
        for made in (first[number] for number in _different(search, above)):
            counts = "".join(f"{n:4d}" for n in made.counts(species))
            text += f"{counts}{made.enthalpy / len(made.atoms):12.4f}\n"
    (folder / "convex_hull").write_text(text)
    (folder / "OUTPUT.txt").write_text(_matlab_output(search, rows, finished=finished))


def _number(first: dict[int, Made], made: Made) -> int:
    return next(number for number, other in first.items() if other.id == made.id)


def _different(search: Search, above: dict[int, float]) -> list[int]:
    """Return the numbers of the corners of a hull, one for each composition."""
    found: dict[object, int] = {}
    composition = {one.number: one.start.symbols.formula.reduce()[0].count() for one in search.individuals}
    for number in sorted(n for n, distance in above.items() if distance < 1e-6):
        found.setdefault(frozenset(composition[number].items()), number)
    return list(found.values())


def _extended(ranked: Sequence[Made], species: Sequence[str]) -> str:
    text = (
        f"# {_NO_USPEX}"
        "# X axis: X = y/(x+y) \n# Y axis: Y = (E(AxBy)-x*E(A)-y*E(B))/(x+y)\n"
        "# Fitness: its distance to the convex hull (eV/block)\n"
        "  ID   Compositions    Enthalpies     Volumes     Fitness   SYMM    X        Y     \n"
        "                       (eV/atom)    (A^3/atom)   (eV/block)              (eV/block) \n"
    )
    for made in ranked:
        counts, natoms = composition(made.counts(species)), len(made.atoms)
        text += (
            f"{made.id:4d}  [{counts}]   {made.enthalpy / natoms:9.4f}    {made.atoms.get_volume() / natoms:9.4f}"
            f"   {made.fitness:9.4f}   {made.group:4d}\n"
        )
    return text


def _matlab_output(search: Search, rows: Sequence[Made], *, finished: bool) -> str:
    limits = search.limits
    text = _NO_USPEX + (
        f"    There are {len(limits.species)} types of atoms in the system:    {'   '.join(limits.species)}\n"
        f"*  External Pressure is : {limits.pressure:7.4f}  GPa*\n"
    )
    for generation in range(1, search.generation + 1):
        text += f"{'Generation':>44s} {generation:3d}\n"
        text += "  ID   Origin     Composition  Enthalpy(eV)  Volume(A^3)  KPOINTS  SYMMETRY\n"
        for made in (row for row in rows if row.generation == generation):
            counts = composition(made.counts(limits.species))
            mesh = " ".join(f"{n:2d}" for n in made.mesh)
            text += (
                f"{made.id:4d} {made.origin:^11s} [{counts}] {made.enthalpy:10.3f}  "
                f"{made.atoms.get_volume():9.3f}   [{mesh}]  {made.group:3d}\n"
            )
    return text + ("            Job Finished\n" if finished else "")


def _python(folder: Path, search: Search, hulls: dict[int, dict[int, float]], *, finished: bool) -> None:
    """Write what the Python line writes; generations count from 0 and kept structures keep their IDs."""
    species = search.limits.species
    last = hulls[search.generation]
    made = {}
    for one in search.individuals:
        above = last.get(one.number, float("nan"))
        each = replace(_made(one, one.number, above, one.parents), generation=one.generation - 1)
        made[one.number] = each if one.atoms is not None else replace(each, group=0)
    write_python(folder, list(made.values()), species, search.limits.pressure)
    corners = {g - 1: [made[n] for n in _different(search, above)] for g, above in hulls.items()}
    text = "".join(f"Generation {g}\n{table(members, species)}" for g, members in corners.items())
    for name in ("BESTIndividuals", "convex_hull"):
        (folder / name).write_text(text)
    ranked = [made[one.number] for one in search.unique() if last[one.number] <= EXTENDED]
    (folder / "extended_convex_hull").write_text(table(ranked, species, rank=True))
    (folder / "extended_convex_hull_POSCARS").write_text(
        "".join(poscar(each.atoms, species, f"EA{each.id}") for each in ranked)
    )
    _good_structures(folder / "goodStructures", [made[one.number] for one in search.unique()], species)
    output = folder / "OUTPUT.txt"
    text = output.read_text()
    output.write_text(_NO_USPEX + (text if finished else text.replace("Calculation results\n", "")))


def _good_structures(folder: Path, ranked: Sequence[Made], species: Sequence[str]) -> None:
    """Write the unique structures of each composition, best first, into files of their own."""
    folder.mkdir()
    groups: dict[tuple[int, ...], list[Made]] = {}
    for made in ranked:
        counts = np.array(made.counts(species))
        groups.setdefault(tuple(int(n) for n in counts // np.gcd.reduce(counts)), []).append(made)
    for counts, members in groups.items():
        name = "_".join(map(str, counts))
        members.sort(key=lambda each: each.enthalpy / len(each.atoms))
        (folder / name).write_text(table(members, species, rank=True))
        (folder / f"{name}_POSCARS").write_text(
            "".join(poscar(each.atoms, species, f"EA{each.id}") for each in members)
        )
