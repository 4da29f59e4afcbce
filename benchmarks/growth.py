"""How the cost of a service grows: 1 to 256 calls at once, 2 to 200 atoms; time, CPU time and memory.

    python benchmarks/growth.py [--model toy] [--calls 1,4,16,64,256] [--atoms 2,8,24,64,200] [--json FILE]

First many calls at once of a structure of 4 atoms that is already relaxed, then one call after the other of random
crystals of growing size, a single point each. CPU time is that of callers, service and workers together.
"""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms
from overhead import INCAR, make_folder, relax_first, table
from serving import Service

SIZES = "2,8,24,64,200"
#: Å³ per atom of the random crystals, about those of Ca-Fe-Ni alloys at 50 GPa.
VOLUME = 12.0


def crystal(atoms: int) -> Atoms:
    """Return a distorted simple cubic supercell of Ca, Fe and Ni, cut to so many atoms."""
    rng = np.random.default_rng(atoms)
    side = int(np.ceil(atoms ** (1 / 3)))
    sites = np.array([(i, j, k) for i in range(side) for j in range(side) for k in range(-(-atoms // side**2))])[:atoms]
    cell = np.diag([side, side, -(-atoms // side**2)]) * VOLUME ** (1 / 3)
    positions = sites * VOLUME ** (1 / 3) + rng.normal(scale=0.05, size=sites.shape)
    return Atoms(sorted(rng.choice(["Ca", "Fe", "Ni"], atoms)), positions=positions, cell=cell, pbc=True)


def many_calls(service: Service, model: str, count: int) -> dict[str, Any]:
    """Call in so many folders at once."""
    first = service.top / f"{model}-first" / "CalcFold1"
    top = service.top / f"calls{count}"
    folders = [make_folder(top / str(k), model) for k in range(count)]
    for folder in folders:
        (folder / "POSCAR").write_bytes((first / "POSCAR").read_bytes())
    before, began = service.cpu(), time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        seconds = list(pool.map(service.call, folders))
    wall = time.perf_counter() - began
    return {
        "calls at once": count,
        "wall_s": round(wall, 2),
        "per_s": round(count / wall, 1),
        "longest_s": round(max(seconds), 2),
        "cpu_s_each": round((service.cpu() - before) / count, 4),
        "memory_mb": round(service.memory()),
    }


def size(service: Service, model: str, atoms: int, repeats: int) -> dict[str, Any]:
    """Call for a single point of so many atoms, several times."""
    folder = make_folder(service.top / f"atoms{atoms}", model)
    made = crystal(atoms)
    made.write(folder / "POSCAR", format="vasp", direct=True, vasp5=True)
    (folder / "POTCAR").write_text("".join(f" TITEL  = PAW_PBE {s}\n" for s in dict.fromkeys(made.symbols)))
    (folder / "INCAR").write_text(INCAR.replace("NSW = 200", "NSW = 0"))
    service.call(folder)
    before = service.cpu()
    seconds = [service.call(folder) for _ in range(repeats)]
    return {
        "atoms": atoms,
        "wall_s": round(statistics.median(seconds), 3),
        "cpu_s_each": round((service.cpu() - before) / repeats, 4),
        "memory_mb": round(service.memory()),
    }


@click.command(help=__doc__)
@click.option("--model", default="toy", show_default=True, help="Kind of calculator.")
@click.option("--calls", default="1,4,16,64,256", show_default=True)
@click.option("--atoms", default=SIZES, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="Calls for each size.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the numbers here.")
def main(model: str, calls: str, atoms: str, repeats: int, json_path: Path | None) -> None:
    with Service() as service:
        first = make_folder(service.top / f"{model}-first", model)
        relax_first(first, service.environment)
        by_calls = [many_calls(service, model, int(n)) for n in calls.split(",")]
        by_atoms = [size(service, model, int(n), repeats) for n in atoms.split(",")]
    print(table(by_calls), table(by_atoms), sep="\n\n")
    if json_path:
        json_path.write_text(json.dumps({"model": model, "calls": by_calls, "atoms": by_atoms}, indent=1) + "\n")


if __name__ == "__main__":
    main()
