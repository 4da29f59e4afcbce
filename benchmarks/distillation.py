"""A search that trains its own student: what the student saves on structures that follow, and where they end.

    python benchmarks/distillation.py WORK --system mgsio --atoms 12 --train 60 --after 30 --model chgnet

WORK gets a bridge.toml and CalcFolds as USPEX makes them, at the pressures in turn. Calls go through the code of the
executable, in this process; the student is trained, checked and replaced by the code of `uspex-bridge train student`.
The structures that follow are relaxed once more without the student. A second call goes on where the first one ended.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from optimizers import SYSTEMS, start_of

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.halt import Halter
from uspex_bridge.call.config import Config, StudentSettings, read_config
from uspex_bridge.call.folders import VaspFolder
from uspex_bridge.call.run import run_folder
from uspex_bridge.call.student import STUDENT
from uspex_bridge.learn.training.student import update
from uspex_bridge.models.warm import WarmModels
from uspex_bridge.service.worker import JobModels

LOG = logging.Logger("benchmark")


def write_call(folder: Path, structure: Structure, pressure: float) -> None:
    """Write what USPEX writes for one structure."""
    folder.mkdir(exist_ok=True)
    order = sorted(range(len(structure)), key=lambda index: structure.symbols[index])
    symbols = [structure.symbols[index] for index in order]
    kinds = sorted(set(symbols))
    rows = [*structure.cell, *structure.scaled[order]]
    text = [" ".join(f"{x:.9f}" for x in row) for row in rows]
    counts = " ".join(str(symbols.count(kind)) for kind in kinds)
    poscar = ["EA0", "1.0", *text[:3], " ".join(kinds), counts, "Direct", *text[3:]]
    (folder / "POSCAR").write_text("\n".join(poscar) + "\n")
    (folder / "POTCAR").write_text("".join(f"TITEL  = PAW_PBE {kind}\n End of Dataset\n" for kind in kinds))
    (folder / "INCAR").write_text(f"ISIF = 3\nIBRION = 2\nNSW = 600\nPSTRESS = {10 * pressure:g}\n")


def relaxed(folder: Path, config: Config, source: WarmModels) -> dict[str, Any]:
    """Do one call; return the record's line of it."""
    with suppress(BridgeError):  # the record says it
        run_folder(VaspFolder(folder), config, LOG, Halter(), lambda config: JobModels(config, source))
    return list(jsonl.read(Path(config.base, config.record or "bridge.record")))[-1]


def counts_of(line: dict[str, Any]) -> dict[str, Any]:
    """Return evaluations, seconds of the models and the end of a call."""
    stages = line.get("stages", [])
    return {
        "evaluations": sum(stage["evaluations"] for stage in stages if stage["calculator"] != STUDENT),
        "student": sum(stage["evaluations"] for stage in stages if stage["calculator"] == STUDENT),
        "seconds": sum(stage["seconds"] for stage in stages),
        "enthalpy": line.get("enthalpy_per_atom"),
        "status": line["status"],
    }


@click.command(help=__doc__)
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--system", type=click.Choice(["cafeni", *SYSTEMS]), default="mgsio", show_default=True)
@click.option("--atoms", type=int, help="Most atoms of a cell; not for cafeni.")
@click.option("--pressures", default="0,50,100", show_default=True, help="GPa, taken in turn.")
@click.option("--model", default="chgnet", show_default=True, help="Kind of the final model.")
@click.option("--trainer", default="mace", show_default=True, help="Trainer of the student.")
@click.option("--train", "structures", default=60, show_default=True, help="Structures before the student.")
@click.option("--after", default=30, show_default=True, help="Structures that follow.")
def main(
    work: Path, system: str, atoms: int | None, pressures: str, model: str, trainer: str, structures: int, after: int
) -> None:
    """Run what is missing and print the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work.mkdir(parents=True, exist_ok=True)
    settings = f'protocol = "student"\non_reject = "fail"\n[calculators.model]\nkind = "{model}"\n'
    (work / "bridge.toml").write_text(
        settings + f'[student]\ndistill = "auto"\ntrainer = "{trainer}"\nstructures = 1\n'
    )
    config = read_config(work / "bridge.toml")
    plain = replace(config, record="plain.record", student=StudentSettings(distill="auto"))
    at, source, lines = [float(p) for p in pressures.split(",")], WarmModels(), work / "lines.jsonl"
    done = {line["index"]: line for line in (jsonl.read(lines) if lines.exists() else ())}
    for index in range(1, structures + after + 1):
        if index == structures + 1 and not (work / "student").exists():
            print("\n".join(update(work / "bridge.record", config).said), flush=True)
        if index in done:
            continue
        pressure, folder = at[(index - 1) % len(at)], work / f"CalcFold{index}"
        write_call(folder, start_of(system, index, pressure, atoms), pressure)
        line = relaxed(folder, config, source)
        entry = {"index": index, "pressure": pressure, "formula": line["formula"], "led": line.get("student")}
        entry["with"] = counts_of(line)
        if index > structures and line.get("student") not in ("none", "held out"):
            (work / "plain").mkdir(exist_ok=True)
            entry["without"] = counts_of(relaxed(folder, plain_of(plain, work), source))
        jsonl.append(lines, entry)
        done[index] = entry
        print(json.dumps(entry), flush=True)
    for pressure in (*at, None):
        print(row(pressure, [d for d in done.values() if "without" in d and pressure in (None, d["pressure"])]))


def plain_of(plain: Config, work: Path) -> Config:
    """Return settings whose record has no student beside it."""
    return replace(plain, record=str(work / "plain" / "bridge.record"))


def row(pressure: float | None, pairs: list[dict[str, Any]]) -> str:
    """Return a row of the table in Markdown."""
    both = [d for d in pairs if d["with"]["status"] == d["without"]["status"] == "converged"]
    if not both:
        return f"| {pressure} | 0 |"
    change = np.array([d["with"]["enthalpy"] - d["without"]["enthalpy"] for d in both])

    def mean(how: str, what: str) -> float:
        return float(np.mean([d[how][what] for d in both]))

    return (
        f"| {'all' if pressure is None else format(pressure, 'g')} | {len(both)} of {len(pairs)} "
        f"| {mean('without', 'evaluations'):.1f} | {mean('with', 'evaluations'):.1f} | {mean('with', 'student'):.0f} "
        f"| {mean('with', 'seconds') / mean('without', 'seconds'):.2f} "
        f"| {np.mean(np.abs(change) < 1e-3):.0%} | {np.mean(change < -1e-3):.0%} | {np.mean(change > 1e-3):.0%} "
        f"| {1e3 * change.mean():+.0f} ± {1e3 * change.std() / np.sqrt(len(change)):.0f}, "
        f"median {1e3 * np.median(change):+.0f} |"
    )


if __name__ == "__main__":
    main()
