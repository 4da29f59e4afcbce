"""The hull of elements, binaries and ternaries of Ca-Fe-Ni in known structure types, relaxed with one model.

    python benchmarks/reference_hull.py --model chgnet --pressures 0,50 --out references

Every prototype is relaxed through the bridge with its symmetry kept; ``uspex-bridge hull references/50GPa`` shows the
same hull. Called again it goes on where it was. Printed beside: what is known of each phase (NOTES).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from emulators.candidates import ELEMENTS, atomic_volume  # noqa: E402

#: What experiment says at 0 GPa, and of the elements at 50 GPa; where nothing stands no such phase is known.
NOTES = {
    "Ca-fcc": "stable at 0 GPa",
    "Ca-sc": "seen at 50 GPa at room temperature",
    "Ca-I4_1/amd": "stable at 50 GPa at low temperature",
    "Fe-bcc": "stable at 0 GPa (ferromagnetic)",
    "Fe-hcp": "stable at 50 GPa",
    "Ni-fcc": "stable at 0 and 50 GPa",
    "FeNi-L1_0": "known at 0 GPa (tetrataenite)",
    "FeNi3-L1_2": "known at 0 GPa (awaruite)",
    "CaNi5-CaCu5": "known at 0 GPa",
    "CaNi3-PuNi3": "known at 0 GPa",
    "Ca2Ni7-Gd2Co7": "known at 0 GPa",
    "CaNi2-C15": "known at 0 GPa",
}


def elements() -> Iterator[tuple[str, Atoms]]:
    for symbol in ELEMENTS:
        yield f"{symbol}-fcc", bulk(symbol, "fcc", 4.0)
        yield f"{symbol}-bcc", bulk(symbol, "bcc", 3.0)
        yield f"{symbol}-hcp", bulk(symbol, "hcp", 2.8, 4.6)
    yield "Ca-sc", bulk("Ca", "sc", 2.6)
    tin = [(0, 0, 0), (0.5, 0.5, 0.5), (0, 0.5, 0.25), (0.5, 0, 0.75)]
    yield "Ca-I4_1/amd", Atoms("Ca4", scaled_positions=tin, cell=[4.8, 4.8, 2.6], pbc=True)


def binaries(a: str, b: str) -> Iterator[tuple[str, Atoms]]:
    """Yield structure types of ``a`` and ``b``; ``a`` is the larger atom where that matters."""
    yield f"{a}{b}-B2", _crystal([a, b], [(0, 0, 0), (0.5, 0.5, 0.5)], 221, (2.9,))
    yield f"{a}{b}-L1_0", _crystal([a, b], [(0, 0, 0), (0.5, 0.5, 0.5)], 123, (2.6, 3.7))
    for one, other in ((a, b), (b, a)):
        yield f"{one}{other}3-L1_2", _crystal([one, other], [(0, 0, 0), (0.5, 0.5, 0)], 221, (3.7,))


def intermetallics(a: str, b: str) -> Iterator[tuple[str, Atoms]]:
    """Yield structure types of a large atom ``a`` and a small ``b``, among them all of the Ca-Ni system."""
    yield f"{a}{b}-B33", _crystal([a, b], [(0, 0.14, 0.25), (0, 0.43, 0.25)], 63, (3.6, 9.4, 4.1))
    yield f"{a}{b}-B27", _crystal([a, b], [(0.18, 0.25, 0.13), (0.04, 0.25, 0.61)], 62, (7.0, 4.2, 5.2))
    yield f"{a}{b}2-C15", _crystal([a, b], [(0.125, 0.125, 0.125), (0.5, 0.5, 0.5)], 227, (7.2,), setting=2)
    sites = [(1 / 3, 2 / 3, 0.062), (0, 0, 0), (0.83, 0.66, 0.25)]
    yield f"{a}{b}2-C14", _crystal([a, b, b], sites, 194, (5.1, 8.3))
    sites = [(0, 0, 0), (1 / 3, 2 / 3, 0), (0.5, 0, 0.5)]
    yield f"{a}{b}5-CaCu5", _crystal([a, b, b], sites, 191, (4.95, 3.94))
    sites = [(0, 0, 0), (0, 0, 0.139), (0, 0, 0.5), (0, 0, 0.333), (0.5, 0.5, 0.083)]
    yield f"{a}{b}3-PuNi3", _crystal([a, a, b, b, b], sites, 166, (5.0, 24.4))
    sites = [(0, 0, 0.055), (0, 0, 0.149), (0, 0, 0.278), (0, 0, 0.388), (0, 0, 0.5), (0.5, 0, 0), (0.5, 0.5, 0.111)]
    yield f"{a}2{b}7-Gd2Co7", _crystal([a, a, b, b, b, b, b], sites, 166, (5.0, 36.1))
    sites = [(0, 0, 0), (0.181, 0.681, 0.5), (0.389, 0.889, 0)]
    yield f"{a}3{b}2-U3Si2", _crystal([a, a, b], sites, 127, (7.3, 4.1))
    yield f"{a}2{b}-C16", _crystal([a, b], [(0.16, 0.66, 0), (0, 0, 0.25)], 140, (6.5, 5.2))
    yield (
        f"{a}3{b}-D0_11",
        _crystal([a, a, b], [(0.18, 0.06, 0.33), (0.04, 0.25, 0.85), (0.88, 0.25, 0.43)], 62, (7.0, 9.0, 6.2)),
    )


def ternaries() -> Iterator[tuple[str, Atoms]]:
    for sites, formula in ((("Fe", "Ni"), "CaFe2Ni3"), (("Ni", "Fe"), "CaFe3Ni2")):
        yield (
            f"{formula}-CaCu5",
            _crystal(["Ca", *sites], [(0, 0, 0), (1 / 3, 2 / 3, 0), (0.5, 0, 0.5)], 191, (4.95, 3.94)),
        )
    heusler = [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
    for symbols, formula in (
        (("Ca", "Fe", "Ni"), "CaFeNi2"),
        (("Ca", "Ni", "Fe"), "CaFe2Ni"),
        (("Fe", "Ni", "Ca"), "Ca2FeNi"),
    ):
        yield f"{formula}-L2_1", _crystal(list(symbols), heusler, 225, (5.6,))


def _crystal(
    symbols: list[str],
    sites: list[tuple[float, float, float]],
    group: int,
    lengths: tuple[float, ...],
    setting: int = 1,
) -> Atoms:
    """Return a primitive cell; of one or two lengths the first is also b."""
    a, b, c = lengths if len(lengths) == 3 else (lengths[0], lengths[0], lengths[-1])
    cell = [a, b, c, 90, 90, 120 if 143 <= group <= 194 else 90]
    return crystal(symbols, sites, spacegroup=group, cellpar=cell, setting=setting, primitive_cell=True, symprec=1e-3)


def prototypes(pressure: float) -> Iterator[tuple[str, Atoms]]:
    """Yield name and structure; the volume is that of the elements at ``pressure`` GPa."""
    made = [*elements(), *binaries("Fe", "Ni")]
    for small in ("Fe", "Ni"):
        made += [*binaries("Ca", small), *intermetallics("Ca", small)]
    for name, atoms in (*made, *ternaries()):
        volume = sum(atomic_volume(symbol, pressure) for symbol in atoms.get_chemical_symbols())
        atoms.set_cell(atoms.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
        yield name, atoms


def relax(model: str, pressure: float, out: Path) -> None:
    """Relax every prototype with its symmetry kept; what ``out`` has already is kept."""
    from uspex_bridge.base.data import Structure
    from uspex_bridge.call.config import Config
    from uspex_bridge.call.many import RelaxTask, relax_all
    from uspex_bridge.call.model_names import with_model

    jobs = [
        (Path(name), 1, Structure(tuple(atoms.symbols), atoms.cell.array, atoms.get_scaled_positions(), name))
        for name, atoms in prototypes(pressure)
    ]
    task = RelaxTask(with_model(Config(), model), out, pressure=pressure, keep_symmetry=True, symprec=0.01, resume=True)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(jobs), label=f"{pressure:g} GPa", file=sys.stderr, hidden=hidden) as bar:
        for done in relax_all(jobs, task):
            if "enthalpy" not in done.fields:
                click.echo(f"{done.fields['source']}: {done.fields['reason']}", err=True)
            bar.update(1)


@dataclass(frozen=True)
class Place:
    """Where a prototype came out: eV/atom, Å³/atom, space group, corner of the hull."""

    formation: float
    above: float
    volume: float
    group: str
    corner: bool


def places(folder: Path) -> tuple[str, dict[str, Place]]:
    """Return the level of theory and where each relaxed prototype lies on the hull of all."""
    from uspex_bridge.base.symmetry import space_group
    from uspex_bridge.results.hulls.hull import build_hull, levels_of
    from uspex_bridge.results.reading.sources import read_relaxed

    relaxed = read_relaxed(folder)
    found = {}
    for point in build_hull(relaxed.entries).points:
        structure = relaxed.held[point.entry.id]
        group = space_group(structure.symbols, structure.cell, structure.scaled)
        found[relaxed.names[point.entry.id]] = Place(
            point.formation, point.above, point.entry.volume_per_atom, group, point.vertex
        )
    return ", ".join(levels_of(relaxed.entries)), found


def report(level: str, tables: dict[float, dict[str, Place]]) -> str:
    """Return one row per prototype, each pressure beside the other."""
    from uspex_bridge.base.tables import layout

    headings = [("", "")]
    for pressure in tables:
        headings += [(f"{pressure:g} GPa", "formation"), ("", "above hull"), ("", "Å³/atom"), ("", "space group")]
    headings.append(("experiment", ""))
    rows = []
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        row = [name]
        for table in tables.values():
            place = table.get(name)
            if place is None:
                row += ["failed", "", "", ""]
                continue
            above = "stable" if place.corner else f"{place.above:.3f}"
            row += [f"{place.formation:.3f}", above, f"{place.volume:.2f}", place.group]
        rows.append([*row, NOTES.get(name, "")])
    return f"{level}; eV/atom\n{layout(headings, rows)}"


@click.command()
@click.option("--model", default="chgnet", show_default=True, help="A calculator's name, or KIND:WEIGHTS.")
@click.option("--pressures", default="0,50", show_default=True, help="GPa, separated by commas.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("references"), show_default=True)
def main(model: str, pressures: str, out: Path) -> None:
    """Relax the prototypes with MODEL at each pressure and print their formation enthalpies and hull distances."""
    tables: dict[float, dict[str, Place]] = {}
    level = ""
    for pressure in map(float, pressures.split(",")):
        folder = out / f"{pressure:g}GPa"
        relax(model, pressure, folder)
        level, tables[pressure] = places(folder)
    click.echo(report(level, tables))


if __name__ == "__main__":
    main()
