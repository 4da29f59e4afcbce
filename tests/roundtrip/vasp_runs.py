"""Results to write and read back: real relaxations with Lennard-Jones or EMT, in every shape that matters."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.base.units import gpa_to_ev_a3


def start(symbols: list[str], spacing: float = 2.35, seed: int = 1) -> Atoms:
    """Atoms on a strained, rattled primitive fcc supercell, in the given order."""
    rng = np.random.default_rng(seed)
    n = len(symbols)
    a, b = next((a, b) for a in range(1, n + 1) for b in range(a, n + 1) if n % (a * b) == 0 and n // (a * b) <= b + 1)
    atoms = bulk("Ni", "fcc", a=spacing * np.sqrt(2)) * (a, b, n // (a * b))
    atoms.symbols[:] = symbols
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3))), scale_atoms=True)
    atoms.positions += rng.uniform(-0.06, 0.06, (n, 3))
    return atoms


def frame(atoms: Atoms, magmoms: np.ndarray | None = None) -> Frame:
    """What the atoms' calculator says, as one ionic step."""
    return Frame(
        cell=atoms.cell.array.copy(),
        scaled=atoms.cell.scaled_positions(atoms.positions),
        energy=float(atoms.calc.get_potential_energy(atoms)),
        forces=atoms.calc.get_forces(atoms).copy(),
        stress=atoms.calc.get_stress(atoms).copy(),
        magmoms=magmoms,
    )


def relaxed(
    symbols: list[str],
    pressure: float,
    *,
    steps: int = 6,
    comment: str = "EA0     4.200  4.200  4.200 90.00 90.00 90.00 Sym.group:    0",
    magnetic: bool = False,
    free: np.ndarray | None = None,
    fixed_cell: bool = False,
    converged: bool = True,
    model: str = "lj CaFeNi 0123456789ab",
) -> VaspRun:
    """A relaxation of ``steps`` steps at ``pressure`` GPa, unfinished but real."""
    atoms = start(symbols)
    atoms.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=5.0, smooth=True)
    rng = np.random.default_rng(len(symbols))
    frames: list[Frame] = []

    def keep() -> None:
        frames.append(frame(atoms, rng.uniform(-3, 3, len(atoms)) if magnetic else None))

    target = atoms if fixed_cell else FrechetCellFilter(atoms, scalar_pressure=gpa_to_ev_a3(pressure))
    optimizer = BFGS(target, logfile=None, maxstep=0.1)
    optimizer.attach(keep)
    optimizer.run(fmax=1e-9, steps=steps)
    first = frames[0]
    structure = Structure(tuple(symbols), first.cell, first.scaled, comment, free)
    intent = Intent(isif=2 if fixed_cell else 3, nsw=100, ediffg=-0.01, pressure_gpa=pressure, nelm=60)
    incar = {"NSW": "100", "ISIF": "3", "EDIFFG": "-1E-2", "PSTRESS": f"{10 * pressure:g}", "METAGGA": "SCAN"}
    return VaspRun(structure, tuple(frames), intent, converged, model, 12.5, incar)


def many_steps(count: int, pressure: float) -> VaspRun:
    """One atom in ``count`` cells that shrink slowly."""
    atoms = start(["Ni"])
    atoms.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=4.0)
    frames = []
    for _ in range(count):
        atoms.set_cell(atoms.cell * 0.9999, scale_atoms=True)
        frames.append(frame(atoms))
    structure = Structure(("Ni",), frames[0].cell, frames[0].scaled, "EA1")
    return VaspRun(structure, tuple(frames), Intent(nsw=count, pressure_gpa=pressure), False, "lj", 1.0)


def many_atoms(pressure: float) -> VaspRun:
    """300 atoms of three kinds with EMT, two steps."""
    atoms = start(["Ni"] * 100 + ["Al"] * 150 + ["Cu"] * 50, spacing=2.6)
    atoms.calc = EMT()
    frames = [frame(atoms)]
    atoms.positions += 0.02 * frames[0].forces
    frames.append(frame(atoms))
    structure = Structure(tuple(atoms.get_chemical_symbols()), frames[0].cell, frames[0].scaled, "EA300")
    return VaspRun(structure, tuple(frames), Intent(nsw=2, pressure_gpa=pressure), False, "emt", 3.0)


def static(pressure: float) -> VaspRun:
    """A single point (NSW = 0)."""
    run = relaxed(["Fe", "Ca"], pressure, steps=0)
    return VaspRun(run.structure, run.frames, Intent(nsw=0, ibrion=-1, pressure_gpa=pressure), True, "lj", 0.1)


def selective(pressure: float) -> VaspRun:
    """A surface's flags: one atom fixed, one in part, the rest free; the cell fixed."""
    free = np.ones((6, 3), dtype=bool)
    free[0] = False
    free[1, 2] = False
    return relaxed(["Ni", "Ni", "Ca", "Fe", "Fe", "Fe"], pressure, free=free, fixed_cell=True)


CAFENI = ["Ni", "Ni", "Ca", "Fe"]

#: Every shape of result, by name; made on first use.
CASES = {
    "one atom, 0 GPa": lambda: relaxed(["Ni"], 0.0, comment=""),
    "4 atoms, 12.5 GPa": lambda: relaxed(CAFENI, 12.5),
    "8 atoms, 50 GPa, magnetic": lambda: relaxed(["Fe"] * 4 + ["Ca"] + ["Ni"] * 3, 50.0, magnetic=True),
    "one atom, 50 GPa, magnetic": lambda: relaxed(["Fe"], 50.0, magnetic=True, steps=2),
    "24 atoms, 400 GPa": lambda: relaxed(["Ni"] * 8 + ["Ca"] * 4 + ["Fe"] * 12, 400.0),
    "6 atoms, -5 GPa": lambda: relaxed(["Ni", "Ca", "Ca", "Fe", "Fe", "Fe"], -5.0),
    "species come twice": lambda: relaxed(["Fe", "Ca", "Ca", "Fe"], 50.0, converged=False),
    "selective dynamics, 50 GPa": lambda: selective(50.0),
    "single point, 50 GPa": lambda: static(50.0),
    "300 atoms, 50 GPa": lambda: many_atoms(50.0),
    "1200 steps, 12.5 GPa": lambda: many_steps(1200, 12.5),
    "unkind names, 50 GPa": lambda: relaxed(
        CAFENI,
        50.0,
        comment="Iteration 3 ISPIN  =  2 NELM = 1 Direct configuration= 7",
        model="running serial/Iteration NELM = 1; POTCAR: in kB (sec) <i> & \u00e9\x01",
    ),
}
