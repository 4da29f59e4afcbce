"""20,000 structures through summary, duplicates, hull, convergence and export: how long, and how much memory.

    python benchmarks/results_20000.py [--structures 20000] [--folder DIR]

Writes a results folder of the MATLAB line of USPEX: a made-up search over Ca-Fe-Ni, 2 to 24 atoms, in which four of
ten structures are copies of earlier ones in another cell with a little noise, as in a search that converges. The
energies are made up too; only the times mean anything. No calculator is needed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SPECIES = ("Ca", "Fe", "Ni")
#: Å³ and eV per atom of the pure elements at this made-up pressure.
VOLUME, LEVEL = np.array([17.0, 8.2, 8.6]), np.array([2.0, -4.0, -2.5])
GENERATION = 256


def new_structure(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return cell, fractional coordinates, counts and enthalpy per atom of a random structure."""
    while True:
        counts = rng.multinomial(rng.integers(2, 25), rng.dirichlet([0.8, 0.8, 0.8]))
        if counts.sum() >= 2:
            break
    volume = float(counts @ VOLUME)
    shape = np.eye(3) + rng.normal(0, 0.12, (3, 3))
    cell = shape * (volume / abs(np.linalg.det(shape))) ** (1 / 3)
    x = counts / counts.sum()
    bound = -1.2 * x[0] * (x[1] + x[2]) - 0.4 * x[1] * x[2]
    return cell, rng.random((int(counts.sum()), 3)), counts, float(x @ LEVEL + bound + rng.gamma(2.0, 0.08))


def copied(structure: Any, rng: np.random.Generator) -> Any:
    """Return the same structure in another cell, with noise of 0.001 Å and 0.5 meV/atom."""
    cell, scaled, counts, enthalpy = structure
    turn = [
        np.eye(3, dtype=int),
        np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
        np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]]),
    ]
    matrix = turn[rng.integers(3)]
    noise = rng.normal(0, 1e-4, scaled.shape)
    return matrix @ cell, scaled @ np.linalg.inv(matrix) + noise + rng.random(3), counts, enthalpy + rng.normal(0, 5e-4)


def write_search(folder: Path, number: int) -> None:
    """Write the results folder in USPEX 9.4.4's layouts."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "Parameters.txt").write_text(
        "% atomType\nCa Fe Ni\n% EndAtomType\n% numSpecies\n1 0 0\n0 1 0\n0 0 1\n% EndNumSpecies\n"
        "50 : ExternalPressure\n"
    )
    made: list[Any] = []
    with (
        (folder / "Individuals").open("w") as individuals,
        (folder / "gatheredPOSCARS").open("w") as gathered,
        (folder / "origin").open("w") as origin,
        (folder / "enthalpies_complete.dat").open("w") as steps,
    ):
        individuals.write(
            "Gen   ID    Origin   Composition    Enthalpy   Volume  Density   Fitness   KPOINTS  SYMM  Q_entr A_order "
            "S_order\n                                      (eV)     (A^3)  (g/cm^3)\n"
        )
        origin.write(" ID    Origin    Enthalpy   Parent-E   Parent-ID\n")
        for identity in range(1, number + 1):
            parent = int(rng.integers(len(made))) + 1 if made and rng.random() < 0.4 else 0
            structure = copied(made[parent - 1], rng) if parent else new_structure(rng)
            if identity <= 3:  # the elements
                counts = np.eye(3, dtype=int)[identity - 1] * 2
                cell = np.eye(3) * float(counts @ VOLUME) ** (1 / 3)
                structure = cell, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), counts, float(LEVEL[identity - 1])
            made.append(structure)
            cell, scaled, counts, enthalpy = structure
            natoms, volume = int(counts.sum()), abs(float(np.linalg.det(cell)))
            name = "softmutate" if parent else "Random"
            composition = "".join(f"{n:3d}" for n in counts)
            individuals.write(
                f"{(identity - 1) // GENERATION + 1:3d} {identity:4d} {name:^11s} [{composition:>11s}] "
                f"{enthalpy * natoms:9.3f} {volume:9.3f} {5.0:7.3f} {0.0:10.3f} [ 3  3  3] {1:3d} "
                f"{0.1:6.3f} {2.0:6.3f} {2.0:6.3f}\n"
            )
            origin.write(f"{identity:4d} {name:^11s} {enthalpy:8.3f}  {enthalpy:8.3f}  [{parent:>10d}]\n")
            steps.write(f"{enthalpy * natoms + 1:.3f} {enthalpy * natoms:.3f}\n")
            symbols = [s for s, n in zip(SPECIES, counts, strict=True) if n]
            lines = [f"EA{identity:<4d} Sym.group:    1", "1.0000"]
            lines += ["".join(f"{x:13.8f}" for x in row) for row in cell]
            lines += ["".join(f"{s:>4s}" for s in symbols), "".join(f"{n:4d} " for n in counts if n), "Direct"]
            lines += ["".join(f"{x:13.8f}" for x in row) for row in scaled % 1.0]
            gathered.write("\n".join(lines) + "\n")


class Clock:
    """Times steps and prints one line for each."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, name: str, work: Callable[[], Any], describe: Callable[[Any], str]) -> Any:
        """Do ``work``, print its times and what ``describe`` says of the result, and return that."""
        began, cpu = time.perf_counter(), time.process_time()
        result = work()
        wall = time.perf_counter() - began
        self.total += wall
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        used = time.process_time() - cpu
        print(
            f"{name:<34} {wall:7.2f} s ({used:6.2f} s CPU)  {memory:6.0f} MiB at most  {describe(result)}", flush=True
        )
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="keep the results folder here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = (options.folder or Path(place)) / "results1"
        if not folder.exists():
            write_search(folder, options.structures)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        print(f"{options.structures} structures, {size:.0f} MiB of text")
        measure(folder)


def measure(folder: Path) -> None:
    from uspex_bridge.cli.results import describe
    from uspex_bridge.results.hulls.converged import history
    from uspex_bridge.results.hulls.export import export
    from uspex_bridge.results.hulls.hull import build_hull
    from uspex_bridge.results.hulls.stability import Question, assess
    from uspex_bridge.results.phases.definition import find_phases
    from uspex_bridge.results.reading.folder import open_results
    from uspex_bridge.results.reading.model import Pool

    clock = Clock()
    results = clock("read", lambda: open_results(folder), lambda r: f"{len(r.entries)} entries")
    clock("summary", lambda: describe(results), lambda text: text.splitlines()[1].strip())
    clock("every structure, one at a time", lambda: sum(1 for _ in results.structures()), lambda n: f"{n} structures")
    pool = Pool([results])
    clock("phases of all", lambda: find_phases(pool), lambda p: f"{len(p)} phases")
    clock("hull", lambda: build_hull(results.entries), lambda h: f"{len(h.vertices)} corners")
    main_part = clock.total
    question = Question(within=0.1)
    clock("best within 0.1", lambda: assess(pool, question), lambda a: f"{len(a.phases)} phases")
    clock("converged", lambda: history(results, [], question), lambda c: f"{c.settled} generations settled")
    out = folder.parent / "all.extxyz"
    clock("export to extxyz", lambda: export(pool, results.entries, out, "extxyz"), lambda n: f"{n} structures")
    out.unlink()
    print(f"read, summary, structures, duplicates and hull together: {main_part:.1f} s")


if __name__ == "__main__":
    main()
