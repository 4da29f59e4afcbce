"""Do small searches end without a hole or a saddle point that nobody marked?

    python benchmarks/searches.py --work DIR [--protocols embedded,single] [--systems Si] [--pressures 50,150]

One search for each protocol, system and pressure, driven as USPEX's MATLAB line drives one, with one step that relaxes
everything. `single` runs CHGNet-hp; `fast` and `paper` run the demo weights and thus Ca-Fe-Ni alone. The phases that
end on the hull are then tried by ASE alone, on the calculator of the protocol's last model:

- saddle: moved at random by 0.05 Å and 1 % strain, and relaxed by BFGS, it ends more than 5 meV/atom lower in H;
- hole: compressed and expanded at fixed fractional coordinates, its pressure rises with the volume.

DIR keeps everything; a second call goes on there, and prints the table alone once all is done.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from emulators.forkserver import ForkServer  # noqa: E402
from emulators.inputs import demo_weights, embedded_settings, paper_settings, single_relaxation  # noqa: E402
from emulators.matlab_line import MatlabLine  # noqa: E402
from emulators.operators import Limits  # noqa: E402
from emulators.records import Launch, SearchStopped  # noqa: E402
from emulators.search import Individual, Search, above_hull  # noqa: E402

import uspex_bridge  # noqa: E402

SYSTEMS = {"Si": ("Si",), "Ca-Fe-Ni": ("Ca", "Fe", "Ni"), "Mg-Si-O": ("Mg", "Si", "O"), "La-H": ("La", "H")}
PRESSURES = "0,50,150"
WEIGHTS = ROOT / "examples" / "demo_weights"
#: Winners of a search that are tried, the lowest of each composition on its hull; displacement, Å; what is a saddle,
#: eV/atom; steps of the restart.
TRIED, MOVED, STRAIN, LOWER, STEPS = 3, 0.05, 0.01, 0.005, 300
#: Volumes over the winner's own at which the pressure is asked, and by how much it may rise, GPa.
RATIOS, RISE = np.linspace(0.88, 1.4, 14), 2.0


@dataclass(frozen=True)
class Place:
    """One search."""

    protocol: str
    system: str
    pressure: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.protocol}_{self.system}_{self.pressure:g}"

    @property
    def settings(self) -> str:
        """Its bridge.toml; a model is used beyond its range on purpose."""
        if self.protocol == "single":
            return 'protocol = "single"\n[calculators.model]\nkind = "chgnet-hp"\n'
        if self.protocol == "embedded":
            return embedded_settings()
        return paper_settings(WEIGHTS).replace('"paper"', f'"{self.protocol}"')

    def model(self) -> Any:
        """Return the ASE calculator of its last model."""
        if self.protocol in ("fast", "paper"):
            return uspex_bridge.load_model("mattersim", demo_weights(WEIGHTS)[1]).calculator
        return uspex_bridge.load_model("chgnet" if self.protocol == "embedded" else "chgnet-hp").calculator


def places(protocols: str, systems: str, pressures: str) -> Iterator[Place]:
    """Yield the searches of some protocols, systems and pressures (lists with commas), the protocols by turns."""
    for pressure in pressures.split(","):
        for system in systems.split(","):
            for protocol in protocols.split(","):
                if protocol in ("embedded", "single") or system == "Ca-Fe-Ni":
                    yield Place(protocol, system, float(pressure))


def search(place: Place, folder: Path, generations: int, population: int, launch: Launch) -> tuple[Search, str]:
    """Go on with a search; return it, and why USPEX would have stopped it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bridge.toml").write_text(place.settings)
    limits = Limits(SYSTEMS[place.system], (2, 8), place.pressure)
    one = Search(folder / "search.jsonl", limits, population, seed=1)
    one.load()
    while one.generation < generations:
        line = MatlabLine(
            folder, limits.species, single_relaxation(), pressure=place.pressure, distances=limits.distances,
            generation=one.generation + 1, launch=launch,
        )  # fmt: skip
        try:
            one.step(line)
        except SearchStopped as why:
            return one, str(why)
    return one, ""


def restarted(atoms: Atoms, pressure: float, model: Any) -> float:
    """Return how much lower in H a structure ends that is moved a little and relaxed again, eV/atom."""
    rng = np.random.default_rng(len(atoms))
    moved = atoms.copy()
    strain = rng.normal(scale=STRAIN, size=(3, 3))
    moved.set_cell(moved.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    moved.positions += rng.normal(scale=MOVED, size=(len(moved), 3))
    moved.calc = model
    filtered = FrechetCellFilter(moved, scalar_pressure=pressure * GPa)
    BFGS(filtered, logfile=None, maxstep=0.1).run(fmax=0.02, steps=STEPS)
    return (enthalpy(atoms, pressure, model) - enthalpy(moved, pressure, model)) / len(atoms)


def enthalpy(atoms: Atoms, pressure: float, model: Any) -> float:
    """Return E + PV, eV per cell."""
    copy = atoms.copy()
    copy.calc = model
    return float(copy.get_potential_energy() + pressure * GPa * copy.get_volume())


def rising(atoms: Atoms, model: Any) -> float:
    """Return by how much the pressure rises with the volume while it is positive, GPa."""
    lowest, rise = np.inf, 0.0
    for ratio in RATIOS:
        copy = atoms.copy()
        copy.set_cell(copy.cell.array * ratio ** (1 / 3), scale_atoms=True)
        copy.calc = model
        pressure = -float(np.trace(copy.get_stress(voigt=False))) / 3 / GPa
        if pressure > 0:
            rise = max(rise, pressure - lowest)
        lowest = min(lowest, pressure)
    return rise


def winners(found: Search) -> list[Individual]:
    """Return what ends on the hull, the lowest per composition."""
    good = found.unique()
    above = above_hull(good, found.limits.species) if good else []
    return [one for one, value in zip(good, above, strict=True) if value < 1e-6][:TRIED]


def try_place(place: Place, folder: Path, generations: int, population: int, launch: Launch) -> dict[str, Any]:
    """Return the row of one search."""
    found, stopped = search(place, folder, generations, population, launch)
    record = [json.loads(line) for line in (folder / "bridge.record").read_text().splitlines()]
    first = {entry["key"]: entry for entry in reversed(record)}.values()
    model = place.model()
    tried = []
    for one in winners(found):
        flags = next(
            e.get("flags", []) for e in record
            if "enthalpy" in e and abs(e["enthalpy"] - one.enthalpies[-1]) < 1e-5 * max(1, abs(e["enthalpy"]))
        )  # fmt: skip
        lower, rise = restarted(one.relaxed, place.pressure, model), rising(one.relaxed, model)
        row = {"formula": one.relaxed.get_chemical_formula(), "flags": flags, "lower": lower, "rise": rise}
        tried.append(row | {"volume": one.relaxed.get_volume() / len(one.relaxed)})
    return {
        "protocol": place.protocol,
        "system": place.system,
        "pressure": place.pressure,
        "candidates": len(first),
        "ends": dict(Counter(str(entry.get("code") or entry["status"]) for entry in first)),
        "flags": dict(Counter(flag for entry in first for flag in entry.get("flags", ()))),
        "evaluations": sum(stage["evaluations"] for entry in first for stage in entry.get("stages", [])),
        "stopped": stopped,
        "winners": tried,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| protocol | GPa | system | candidates | converged | refused | evaluations | tested | saddles | holes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        refused = {code: n for code, n in row["ends"].items() if code not in ("converged", "unconverged")}
        said = ", ".join(f"{code} {n}" for code, n in sorted(refused.items())) or "0"
        tried = row["winners"]
        lines.append(
            f"| {row['protocol']} | {row['pressure']:g} | {row['system']} | {row['candidates']} | "
            f"{row['ends'].get('converged', 0)} | {said} | {row['evaluations']} | {len(tried)} | "
            f"{sum(one['lower'] > LOWER for one in tried)} | {sum(one['rise'] > RISE for one in tried)} |"
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--protocols", default="embedded,single,fast,paper", show_default=True)
@click.option("--systems", default=",".join(SYSTEMS), show_default=True)
@click.option("--pressures", default=PRESSURES, show_default=True, help="GPa.")
@click.option("--generations", default=2, show_default=True)
@click.option("--population", default=4, show_default=True)
def main(work: Path, protocols: str, systems: str, pressures: str, generations: int, population: int) -> None:
    """Run what is missing and print the table."""
    rows = []
    with ForkServer() as server:
        for place in places(protocols, systems, pressures):
            done = work / f"{place.name}.json"
            if not done.exists():
                folder = (work / place.name).resolve()
                row = try_place(place, folder, generations, population, server.launch)
                done.write_text(json.dumps(row) + "\n")
            rows.append(json.loads(done.read_text()))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
