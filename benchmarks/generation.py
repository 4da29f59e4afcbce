"""Push a generation of random Ca-Fe-Ni candidates at 50 GPa through 16 concurrent CalcFolds, by several programs.

    python benchmarks/generation.py --work DIR [--candidates 64] [--few 16] [--vpmdk PATH] [--json FILE]

All relax with CHGNet on the CPU, one thread a process, to 0.05 eV/Å within 500 steps of an optimizer:

- `service`, `one-shot`: uspex_bridge's calls, with and without its service
- `vpmdk server`, `vpmdk one-shot`: vpmdk's calls (BFGS)
- `ASE loop`, `ASE on all cores`: BFGS and ASE's Frechet filter on CHGNet's own calculator, one process, one per core
- `torch-sim`: its batched FIRE (the environment needs torch-sim 0.3); it has no CHGNet and is given the batched one of
  uspex_bridge

--few is the number of candidates, the first ones, for all but the service, which also takes those alone. DIR/runs.jsonl
gets a line per finished run; a second call makes what is missing. Wall time is that of a run with its server already
listening, CPU time that of every process from start to end; on a busy machine only the latter means something. Ends
are evaluated again by one CHGNet; `lowest` counts those within 5 meV/atom of the best that any program found.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from overhead import BIN, table

ROOT = Path(__file__).resolve().parents[1]
PRESSURE, FMAX, STEPS = 50.0, 0.05, 500
INCAR = f"IBRION = 2\nISIF = 3\nNSW = {STEPS}\nEDIFFG = -{FMAX}\nPSTRESS = {10 * PRESSURE:g}\n"
SETTINGS = 'protocol = "single"\nthreads = 1\n[calculators.model]\nkind = "chgnet"\ndevice = "{device}"\n'
SAME = 0.005
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def make_folders(top: Path, count: int, device: str) -> list[Path]:
    """Make a CalcFold for each of the first candidates; vpmdk's settings and ours side by side."""
    sys.path.insert(0, str(ROOT / "tests"))
    from emulators.candidates import candidate

    folders = []
    for index in range(1, count + 1):
        atoms = candidate(index, PRESSURE).atoms
        atoms = atoms[atoms.numbers.argsort(kind="stable")]
        folder = top / f"CalcFold{index}"
        folder.mkdir(parents=True)
        atoms.write(folder / "POSCAR", format="vasp", direct=True, vasp5=True)
        symbols = dict.fromkeys(atoms.get_chemical_symbols())
        (folder / "POTCAR").write_text("".join(f" TITEL  = PAW_PBE {s}\n" for s in symbols))
        (folder / "INCAR").write_text(INCAR)
        (folder / "KPOINTS").write_text("EA\n0\nGamma\n 1 1 1\n")
        (folder / "BCAR").write_text("MLP=CHGNET\nDEVICE=cpu\n")
        folders.append(folder)
    (top / "bridge.toml").write_text(SETTINGS.format(device=device))
    return folders


@contextmanager
def server(start: list[str], ready: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Have a server run and answer.

    Raises:
        RuntimeError: it does not.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(start, env=environment, **quiet)
    try:
        while subprocess.run(ready, env=environment, check=False, **quiet).returncode:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(start)}: ended")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait()


def call_all(command: list[str], folders: list[Path], callers: int, environment: dict[str, str]) -> float:
    """Call a program in every folder, so many at a time; return the wall time, s."""

    def call(folder: Path) -> None:
        with (folder / "log").open("w") as log:
            subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False)

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, folders))
    return time.perf_counter() - began


def run_service(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    command = str(BIN / "uspex-bridge")
    environment = {**os.environ, "USPEX_BRIDGE_SOCKET": str(top / "service.sock"), "USPEX_BRIDGE_SERVER": "require"}
    with server([command, "serve"], [command, "status", "--json"], environment):
        return call_all([str(BIN / "uspex-bridge-vasp")], folders, callers, environment)


def run_one_shot(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    return call_all([str(BIN / "uspex-bridge-vasp"), "--server", "off"], folders, callers, dict(os.environ))


def run_vpmdk_server(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    place = ["--socket", str(top / "vpmdk.sock")]
    start = [str(vpmdk), "serve", "--dir", str(folders[0]), *place]
    with server(start, [str(vpmdk), "status", *place], dict(os.environ)):
        return call_all([str(vpmdk), "run", *place], folders, callers, dict(os.environ))


def run_vpmdk_one_shot(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    return call_all([str(vpmdk)], folders, callers, dict(os.environ))


def in_processes(what: str, folders: list[Path], count: int) -> float:
    """Run one of the loops below in processes of their own, the folders dealt out to them; return the wall time, s."""
    began = time.perf_counter()
    shares = [[str(folder) for folder in folders[k::count]] for k in range(count)]
    started = [subprocess.Popen([sys.executable, __file__, "--loop", what, *share]) for share in shares if share]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f"{what} failed")
    return time.perf_counter() - began


def run_ase(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    return in_processes("ase", folders, 1)


def run_ase_cores(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    return in_processes("ase", folders, len(os.sched_getaffinity(0)))


def run_torch_sim(top: Path, folders: list[Path], callers: int, vpmdk: Path | None) -> float:
    return in_processes("torch-sim", folders, 1)


RUNS: dict[str, Callable[[Path, list[Path], int, Path | None], float]] = {
    "service": run_service,
    "one-shot": run_one_shot,
    "vpmdk server": run_vpmdk_server,
    "vpmdk one-shot": run_vpmdk_one_shot,
    "ASE loop": run_ase,
    "ASE on all cores": run_ase_cores,
    "torch-sim": run_torch_sim,
}


def ase_loop(folders: list[Path]) -> None:
    """Relax as a script with ASE does."""
    import ase.io
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS
    from ase.units import GPa
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu")
    for folder in folders:
        atoms = ase.io.read(folder / "POSCAR")
        atoms.calc = calculator
        optimizer = BFGS(FrechetCellFilter(atoms, scalar_pressure=PRESSURE * GPa), logfile=None)
        optimizer.run(fmax=FMAX, steps=STEPS)
        atoms.write(folder / "CONTCAR", format="vasp", direct=True)
        (folder / "evaluations").write_text(str(optimizer.nsteps + 1))


def torch_sim_loop(folders: list[Path]) -> None:
    """Relax all at once with torch-sim's Frechet-cell FIRE."""
    import ase.io
    import torch
    import torch_sim
    from ase.stress import voigt_6_to_full_3x3_stress
    from ase.units import GPa

    from uspex_bridge.models import backends
    from uspex_bridge.models.cards import CalculatorSettings

    class Batched(torch.nn.Module):
        """CHGNet's batched evaluation as torch-sim asks for one."""

        device, dtype = torch.device("cpu"), torch.float64
        compute_stress = compute_forces = True
        memory_scales_with = "n_atoms"
        backend = backends.load("chgnet", CalculatorSettings(device="cpu"))
        evaluations = 0

        def forward(self, state: Any, **_: Any) -> dict[str, Any]:
            state = state if hasattr(state, "to_atoms") else torch_sim.SimState(**state, masses=None, pbc=True)
            found = self.backend.evaluate_many(state.to_atoms())
            self.evaluations += len(found)
            return {
                "energy": torch.tensor([results["energy"] for results in found]),
                "forces": torch.cat([torch.from_numpy(results["forces"]) for results in found]),
                "stress": torch.stack(
                    [torch.from_numpy(voigt_6_to_full_3x3_stress(results["stress"])) for results in found]
                ),
            }

    model = Batched()
    final = torch_sim.optimize(
        [ase.io.read(folder / "POSCAR") for folder in folders],
        model,
        optimizer=torch_sim.frechet_cell_fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(FMAX),
        max_steps=STEPS,
        steps_between_swaps=1,
        scalar_pressure=PRESSURE * GPa,
    )
    for folder, atoms in zip(folders, final.to_atoms(), strict=True):
        atoms.write(folder / "CONTCAR", format="vasp", direct=True)
        (folder / "evaluations").write_text(str(model.evaluations / len(folders)))


def evaluations_of(folder: Path) -> float | None:
    """Return how many evaluations a run took: as it said, else a line of OSZICAR each."""
    said = folder / "evaluations"
    if said.exists():
        return float(said.read_text())
    for line in (folder.parent / "bridge.record").open() if (folder / "bridge.log").exists() else ():
        entry = json.loads(line)
        if entry["slot"] == folder.name and "stages" in entry:
            return sum(stage["evaluations"] for stage in entry["stages"])
    oszicar = folder / "OSZICAR"
    return oszicar.read_text().count(" F=") if oszicar.exists() else None


def why(folder: Path) -> str:
    """Return the last line that a call without an end printed."""
    log = folder / "log"
    said = log.read_text().strip().splitlines() if log.exists() else []
    return said[-1] if said else "it said nothing"


def enthalpies(folders: list[Path]) -> list[float | None]:
    """Return the enthalpy of every end, eV/atom, by one and the same evaluation; None where there is none."""
    import ase.io

    from uspex_bridge.base.units import gpa_to_ev_a3
    from uspex_bridge.models import backends
    from uspex_bridge.models.cards import CalculatorSettings

    backend = backends.load("chgnet", CalculatorSettings(device="cpu"))
    found: list[float | None] = []
    for folder in folders:
        if not (folder / "CONTCAR").exists():
            found.append(None)
            continue
        atoms = ase.io.read(folder / "CONTCAR")
        (results,) = backend.evaluate_many([atoms])
        found.append((results["energy"] + gpa_to_ev_a3(PRESSURE) * atoms.get_volume()) / len(atoms))
    return found


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(name: str, count: int, callers: int, vpmdk: Path | None, device: str) -> dict[str, Any]:
    """Make one run."""
    top = Path(tempfile.mkdtemp(prefix="generation-", dir="/tmp"))
    try:
        folders = make_folders(top / "search", count, device)
        before = cpu_of_children()
        wall = RUNS[name](top, folders, callers, vpmdk)
        cpu = cpu_of_children() - before
        counts = [evaluations_of(folder) for folder in folders]
        return {
            "run": name,
            "candidates": count,
            "callers": callers,
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "load": round(os.getloadavg()[0], 1),
            "evaluations": [n for n in counts if n is not None],
            "enthalpies": enthalpies(folders),
            "lost": {folder.name: why(folder) for folder in folders if not (folder / "CONTCAR").exists()},
        }
    finally:
        shutil.rmtree(top)


def rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per run, minima compared candidate by candidate."""
    best: dict[int, float] = {}
    for run in runs:
        for k, value in enumerate(run["enthalpies"]):
            if value is not None:
                best[k] = min(value, best.get(k, value))
    found = []
    for run in runs:
        ends = [(k, value) for k, value in enumerate(run["enthalpies"]) if value is not None]
        found.append(
            {
                "run": run["run"],
                "candidates": run["candidates"],
                "ended": len(ends),
                "wall_s": run["wall_s"],
                "per_min": round(60 * len(ends) / run["wall_s"], 1),
                "cpu_s_each": round(run["cpu_s"] / run["candidates"], 2),
                "evaluations_each": round(statistics.mean(run["evaluations"]), 1) if run["evaluations"] else None,
                "lowest": sum(value < best[k] + SAME for k, value in ends),
                "load": run["load"],
            }
        )
    return found


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), help="Folder for runs.jsonl.")
@click.option("--candidates", default=64, show_default=True)
@click.option("--few", default=16, show_default=True, help="Candidates for all but the service.")
@click.option("--callers", default=16, show_default=True, help="CalcFolds at once.")
@click.option("--only", multiple=True, type=click.Choice(list(RUNS)), help="These runs; else all.")
@click.option("--device", default="cpu", show_default=True, help="Device of the service and of the one-shot calls.")
@click.option("--vpmdk", type=click.Path(path_type=Path), help="Executable of vpmdk; else it is left out.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table's numbers here.")
@click.option("--loop", type=click.Choice(["ase", "torch-sim"]), hidden=True)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
def main(
    work: Path | None,
    candidates: int,
    few: int,
    callers: int,
    only: tuple[str, ...],
    device: str,
    vpmdk: Path | None,
    json_path: Path | None,
    loop: str | None,
    folders: tuple[Path, ...],
) -> None:
    """Make the runs that are missing and print the table, or be one of the loops."""
    if loop:
        return (ase_loop if loop == "ase" else torch_sim_loop)(list(folders))
    if work is None:
        raise click.UsageError("give --work DIR")
    os.environ.update(THREADS)
    work.mkdir(parents=True, exist_ok=True)
    lines = work / "runs.jsonl"
    runs = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    have = {(run["run"], run["candidates"], run["callers"]) for run in runs}
    wanted = [(name, few) for name in RUNS] + ([("service", candidates)] if candidates != few else [])
    for name, count in wanted:
        asked = (not only or name in only) and (vpmdk or not name.startswith("vpmdk"))
        if asked and (name, count, callers) not in have:
            runs.append(measure(name, count, callers, vpmdk, device))
            with lines.open("a") as out:
                print(json.dumps(runs[-1]), file=out)
    if runs:
        print(table(rows(runs)))
        for run in runs:
            for name, reason in run.get("lost", {}).items():
                print(f"{run['run']}: no end of {name}: {reason}")
        if json_path:
            json_path.write_text(
                json.dumps({"cpus": os.cpu_count(), "rows": rows(runs), "runs": runs}, indent=1, default=float) + "\n"
            )
    return None


if __name__ == "__main__":
    main()
