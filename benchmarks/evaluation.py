"""What one evaluation costs: the bridge, alone and in batches, against each package's own ASE calculator.

    python benchmarks/evaluation.py [--models chgnet,mace=FILE] [--atoms 2,8,24] [--batches 1,8,64] [--json FILE]

Times are CPU time on one thread per structure (energy, forces, stress) for random Ca-Fe-Ni cells as dense as at 50 GPa.
The two are called in turn, round by round, and the best of each counts; ratios of one run mean something, times of two
runs on a busy machine do not. Memory is the process's peak during a pass, with both models loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from uspex_bridge.base.neighbours import pairs
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

#: Å³ per atom and smallest distance (Å) of the cells.
VOLUME, APART = 11.0, 2.0


@dataclass
class Row:
    """One size of structure and batch: CPU milliseconds per structure, MB, and how far energies differ, eV/atom.

    ``package`` is the package's own calculator, which takes one structure at a time.
    """

    model: str
    atoms: int
    batch: int
    package: float
    bridge: float
    memory: float
    differs: float

    @property
    def ratio(self) -> float:
        """How many times faster the bridge is."""
        return self.package / self.bridge


def candidate(atoms: int, seed: int) -> Atoms:
    """A random triclinic cell whose atoms are pushed apart until none are closer than APART."""
    rng = np.random.default_rng((seed, atoms))
    cell = np.eye(3) + rng.normal(0, 0.1, (3, 3))
    cell *= (atoms * VOLUME / abs(np.linalg.det(cell))) ** (1 / 3)
    found = Atoms(rng.choice(["Ca", "Fe", "Ni"], atoms), scaled_positions=rng.random((atoms, 3)), cell=cell, pbc=True)
    for _ in range(500):
        first, second, images = pairs(found, APART)
        if not len(first):
            break
        vectors = found.positions[second] + images @ found.cell.array - found.positions[first]
        distance = np.linalg.norm(vectors, axis=1)[:, None] + 1e-9
        np.add.at(found.positions, first, -0.3 * (APART - distance) * vectors / distance)
    return found


def package_calculator(kind: str, model: str | None, device: str = "cpu") -> Any:
    """Return a package's own ASE calculator, made as its manual says."""
    if kind == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device=device, on_isolated_atoms="ignore")
    if kind == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(model or "7net-0", device=device)
    if kind == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=model, device=device, default_dtype="float64")
    if kind == "mattersim":
        from mattersim.forcefield import MatterSimCalculator

        return MatterSimCalculator.from_checkpoint(model, device=device)
    from deepmd.calculator import DP

    return DP(model=model)


def once(function: Callable[[], Any]) -> float:
    """CPU time of one call, s."""
    began = time.process_time()
    function()
    return time.process_time() - began


def memory(function: Callable[[], Any]) -> float:
    """Peak memory of the process during one call, MB; what the model holds and what was freed and kept included."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    function()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(name: str, sizes: Sequence[int], batches: Sequence[int], rounds: int, most: int) -> list[Row]:
    """Measure one model; batches of more than ``most`` atoms are left out."""
    kind, _, path = name.partition("=")
    rows = []
    with backends.load(kind, CalculatorSettings(model=path or None, device="cpu")) as backend:
        own = package_calculator(kind, path or None)
        label = f"{kind} {backend.identity['model']}"
        for atoms in sizes:
            for batch in (count for count in batches if count == 1 or count * atoms <= most):
                structures = [candidate(atoms, seed) for seed in range(batch)]

                def one_by_one(structures: list[Atoms] = structures[:4]) -> list[float]:
                    found = []
                    for structure in structures:
                        own.calculate(structure.copy(), ["energy", "forces", "stress"], list(all_changes))
                        found.append(float(np.asarray(own.results["energy"]).item()))
                    return found

                def together(structures: list[Atoms] = structures) -> list[Any]:
                    return backend.evaluate_many(structures)

                expected, found = one_by_one(), together()
                differs = max(abs(r["energy"] - e) for r, e in zip(found, expected, strict=False)) / atoms
                times = [(once(one_by_one), once(together)) for _ in range(rounds)]
                package, bridge = (1000 * min(column) for column in zip(*times, strict=True))
                rows.append(
                    Row(label, atoms, batch, package / len(expected), bridge / batch, memory(together), differs)
                )
                show(rows[-1])
    return rows


def show(row: Row) -> None:
    """Print a row of the table."""
    cells = (row.model, row.atoms, row.batch, f"{row.package:.1f}", f"{row.bridge:.1f}", f"{row.ratio:.2f}")
    print("| " + " | ".join(map(str, (*cells, f"{row.memory:.0f}", f"{row.differs:.0e}"))) + " |", flush=True)


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, print a table, write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="chgnet,sevennet", help="KIND or KIND=FILE, between commas")
    parser.add_argument("--atoms", type=numbers, default=[2, 4, 8, 16, 24, 50, 100, 200], help="per structure")
    parser.add_argument("--batches", type=numbers, default=[1, 4, 16, 64], help="structures per pass")
    parser.add_argument("--most", type=int, default=600, help="atoms in a batch, larger ones are left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    limit_threads(1)
    print("| model | atoms | batch | package, ms | bridge, ms | ratio | memory, MB | differs, eV/atom |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for name in options.models.split(","):
        rows += measure(name, options.atoms, options.batches, options.rounds, options.most)
    if options.json:
        machine = {"platform": platform.platform(), "python": sys.version.split()[0], "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
