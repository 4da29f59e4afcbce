"""Results folders for tests: real ones, and both lines' written from a list of structures.

The MATLAB line's layouts are USPEX 9.4.4's format strings; the Python line's tables are drawn with the library it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms
from prettytable import PrettyTable

#: Searches that USPEX itself has made; the README there says which.
DATA = Path(__file__).parent / "data" / "uspex_results"


@dataclass
class Made:
    """One structure of a search that is made up."""

    id: int
    atoms: Atoms
    enthalpy: float
    generation: int = 1
    origin: str = "Random"
    parents: tuple[int, ...] = ()
    steps: tuple[float, ...] = ()
    group: int = 1
    fitness: float | None = 0.0
    start: Atoms | None = field(default=None, repr=False)
    symbol: str = "P1"
    mesh: tuple[int, int, int] = (2, 2, 2)

    def counts(self, species: Sequence[str]) -> list[int]:
        return [self.atoms.symbols.count(symbol) for symbol in species]


def composition(counts: Sequence[int]) -> str:
    """Numbers of atoms as the MATLAB line prints them: in the middle of 11 columns."""
    text = "".join(f"{n:3d}" for n in counts)
    return f"{' ' * ((12 - len(text)) // 2)}{text}".ljust(11)


def poscar(atoms: Atoms, species: Sequence[str], label: str) -> str:
    """A POSCAR as USPEX gathers them: VASP-5, grouped by species, 8 decimals."""
    kinds = [s for s in species if s in atoms.symbols]
    lines = [label, "1.0000", *("".join(f"{x:13.8f}" for x in row) for row in atoms.cell.array)]
    lines += ["".join(f"{s:>4s}" for s in kinds), "".join(f"{atoms.symbols.count(s):4d} " for s in kinds), "Direct"]
    scaled = atoms.get_scaled_positions()
    for kind in kinds:
        lines += ["".join(f"{x:13.8f}" for x in scaled[a.index]) for a in atoms if a.symbol == kind]
    return "\n".join(lines) + "\n"


def matlab_label(made: Made, atoms: Atoms, group: int) -> str:
    a, b, c, alpha, beta, gamma = atoms.cell.cellpar()
    return f"EA{made.id:<4d} {a:6.3f} {b:6.3f} {c:6.3f} {alpha:5.2f} {beta:5.2f} {gamma:5.2f} Sym.group: {group:4d}"


def individuals(structures: Sequence[Made], species: Sequence[str], *, orders: bool = True) -> str:
    """The lines of Individuals; ``orders`` are the last three columns, with made-up values."""
    text = "Gen   ID    Origin   Composition    Enthalpy   Volume  Density   Fitness   KPOINTS  SYMM"
    text += " Q_entr A_order S_order\n" if orders else "\n"
    text += "                                      (eV)     (A^3)  (g/cm^3)\n"
    for made in structures:
        volume = made.atoms.get_volume()
        density = made.atoms.get_masses().sum() / volume * 1.66053907
        fitness = "       N/A" if made.fitness is None else f"{made.fitness:10.3f}"
        text += (
            f"{made.generation:3d} {made.id:4d} {made.origin:^11s} [{composition(made.counts(species))}] "
            f"{made.enthalpy:9.3f} {volume:9.3f} "
            f"{density:7.3f} {fitness} [{'{:2d} {:2d} {:2d}'.format(*made.mesh)}] {made.group:3d}"
            + (f" {0.1:6.3f} {2.0:6.3f} {1.5:6.3f}\n" if orders else "\n")
        )
    return text


#: Columns of USPEX 26 after the first three.
COLUMNS_OF_26 = (
    *("energy", "cell_volume", "density", "space_group", "space_group_symbol", "origin", "expected_origin", "parents"),
    *("e_above_hull", "quasi_entropy", "a_order", "s_order"),
)


def table_of_26(
    structures: Sequence[Made], species: Sequence[str], columns: Sequence[str] = COLUMNS_OF_26, comma: str = ", "
) -> str:
    """Individuals, or extended_convex_hull with other columns, as USPEX 26 writes them."""
    lines = [" ".join(("generation number num_atoms_all", *columns))]
    for made in structures:
        failed = made.enthalpy != made.enthalpy
        volume = made.atoms.get_volume()
        values = {
            "energy": f"{made.enthalpy:.4f}",
            "cell_volume": "None" if failed else f"{volume:.4f}",
            "density": "nan" if failed else f"{made.atoms.get_masses().sum() / volume * 1.66053907:.3f}",
            "space_group": "None" if failed else str(made.group),
            "space_group_symbol": "None" if failed else made.symbol,
            "origin": made.origin,
            "expected_origin": made.origin,
            "parents": f"[{comma.join(map(str, made.parents))}]",
            "e_above_hull": "nan" if failed or made.fitness is None else f"{made.fitness:.4f}",
            "formation_energy": "0.0",
            "hardness": "12.5",
        }
        counts = f"[{comma.join(map(str, made.counts(species)))}]"
        row = [str(made.generation), str(made.id), counts, *(values.get(name, "0.1") for name in columns)]
        lines.append("  ".join(row))
    return "\n".join(lines) + "\n"


def write_26(
    folder: Path, structures: Sequence[Made], species: Sequence[str], columns: Sequence[str] = COLUMNS_OF_26
) -> Path:
    """Write a results folder of USPEX 26 in which nothing but the structures tells the elements."""
    folder.mkdir(parents=True)
    (folder / "Individuals").write_text(table_of_26(structures, species, columns))
    done = [made for made in structures if made.enthalpy == made.enthalpy]
    texts = (poscar(made.atoms, species, f"number={made.id} Sym.group: {made.group}") for made in done)
    (folder / "gatheredPOSCARS").write_text("".join(texts))
    if "e_above_hull" in columns:
        best = sorted(done, key=lambda made: made.fitness or 0.0)
        hull = table_of_26(best, species, ("energy", "cell_volume", "e_above_hull", "formation_energy", "space_group"))
        (folder / "extended_convex_hull").write_text(hull)
    return folder


def write_matlab(
    folder: Path, structures: Sequence[Made], species: Sequence[str], pressure: float = 0.0, *, orders: bool = True
) -> Path:
    """Write a results folder of the MATLAB line (blocks: one atom of each species)."""
    folder.mkdir(parents=True)
    blocks = "\n".join(" ".join(str(int(i == j)) for j in range(len(species))) for i in range(len(species)))
    (folder / "Parameters.txt").write_text(
        f"301 : calculationType\n% atomType\n{' '.join(species)}\n% EndAtomType\n"
        f"% numSpecies\n{blocks}\n% EndNumSpecies\n"
        f"{pressure:g} : ExternalPressure\n"
    )
    (folder / "Individuals").write_text(individuals(structures, species, orders=orders))
    best = {m.generation: m for m in structures}
    (folder / "BESTIndividuals").write_text(individuals(list(best.values()), species, orders=orders))
    level = {m.id: m.enthalpy / len(m.atoms) for m in structures}
    rows = []
    for m in structures:
        before = [level[parent] for parent in m.parents if parent in level] or [level[m.id]]
        parents = "".join(f"{parent:4d}" for parent in m.parents or (0,))
        rows.append(
            f"{m.id:4d} {m.origin:^11s} {level[m.id]:8.3f}  {sum(before) / len(before):8.3f}  [{parents:>10s}]\n"
        )
    (folder / "origin").write_text(" ID    Origin    Enthalpy   Parent-E   Parent-ID\n" + "".join(rows))
    steps = (" ".join(f"{x:.3f}" for x in (m.steps or (m.enthalpy,))) + "\n" for m in structures)
    (folder / "enthalpies_complete.dat").write_text("".join(steps))
    gathered = (poscar(m.atoms, species, matlab_label(m, m.atoms, m.group)) for m in structures)
    (folder / "gatheredPOSCARS").write_text("".join(gathered))
    starts = (poscar(m.start or m.atoms, species, matlab_label(m, m.start or m.atoms, 0)) for m in structures)
    (folder / "gatheredPOSCARS_unrelaxed").write_text("".join(starts))
    return folder


def table(structures: Sequence[Made], species: Sequence[str], *, rank: bool = False) -> str:
    drawn = PrettyTable(
        ["ID", *(["Rank"] if rank else []), "Origin", "Composition", "Enthalpy (eV)", "Volume (A^3)", "SYMMETRY (N)"]
    )
    for k, made in enumerate(structures):
        counts = zip(species, made.counts(species), strict=True)
        elements = "  ".join(f"{symbol}: {n}" for symbol, n in counts if n)
        row = [made.id, made.origin, elements, f"{made.enthalpy: 6.5f}", f"{made.atoms.get_volume(): 6.5f}"]
        drawn.add_row([*row[:1], *([k] if rank else []), *row[1:], f"{made.symbol:<8}({made.group})"])
    return drawn.get_string() + "\n"


def write_python(folder: Path, structures: Sequence[Made], species: Sequence[str], pressure: float = 0.0) -> Path:
    """Write a results folder of the Python line; structures without a group (0) are bad ones, not gathered."""
    folder.mkdir(parents=True)
    blocks = [[int(i == j) for j in range(len(species))] for i in range(len(species))]
    target = {"compositionSpace": {"symbols": list(species), "blocks": blocks}, "type": "Atomistic"}
    target["conditions"] = {"externalPressure": pressure}
    (folder / "parameters.uspex").write_text(repr({"optimizer": {"type": "GlobalOptimizer", "target": target}}) + "\n")
    good = [m for m in structures if m.group]
    (folder / "Individuals").write_text(table(structures, species))
    (folder / "origin").write_text(
        "".join(f"{m.id} {m.origin} {' '.join(map(str, m.parents)) or None}\n" for m in structures)
    )
    steps = (",".join(f"{x:6.6f}" for x in (m.steps or (m.enthalpy,))) + "\n" for m in structures)
    (folder / "enthalpies_complete.csv").write_text("".join(steps))
    (folder / "gatheredPOSCARS").write_text("".join(poscar(m.atoms, species, f"EA{m.id}") for m in good))
    (folder / "gatheredPOSCARS_unrelaxed").write_text(
        "".join(poscar(m.start or m.atoms, species, f"EA{m.id}") for m in structures)
    )
    output, best, hull = f"* External Pressure is: {pressure:6.4f} GPa *\n\n", "", ""
    for generation in sorted({m.generation for m in structures}):
        born = [m for m in structures if m.generation == generation]
        output += (
            f" Generation {generation:4d}\n    Optimization results\n{table(born, species)}    Generation Summary\n\n"
        )
        lowest = min((m for m in good if m.generation <= generation), key=lambda m: m.enthalpy / len(m.atoms))
        best += f"Generation {generation}\n{table([lowest], species)}"
        hull += f"Generation {generation}\n{table([lowest], species)}"
    (folder / "OUTPUT.txt").write_text(output + "Calculation results\n")
    (folder / "BESTIndividuals").write_text(best)
    (folder / "convex_hull").write_text(hull)
    ranked = sorted(good, key=lambda m: m.enthalpy / len(m.atoms))
    (folder / "extended_convex_hull").write_text(table(ranked, species, rank=True))
    return folder
