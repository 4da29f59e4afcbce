"""Compare uspex_bridge with vpmdk, vasp-mace and macer by running them on the same folders.

    python benchmarks/peers/run.py --vpmdk VENV --vasp-mace VENV --macer VENV --mace-model FILE --work DIR

writes table.md and table.json beside this file. A call whose run.json is already in DIR is not repeated, so a stopped
comparison goes on where it ended. table.md tells how to make the environments.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
from cases import all_cases, killed, staged
from reference import Reference
from report import markdown
from rows import ROWS, Lab
from tools import ONE_THREAD, Bridge, Macer, Run, Tool, VaspMace, Vpmdk, call, run

HERE = Path(__file__).resolve().parent
KILLS = (0.35, 0.5, 0.65, 0.8, 0.95)
WARM_CALLS = 3
folder_option = click.Path(path_type=Path, exists=True, resolve_path=True)


@click.command()
@click.option("--vpmdk", type=folder_option, required=True, help="Environment with vpmdk and chgnet.")
@click.option("--vasp-mace", type=folder_option, required=True, help="Environment with vasp-mace.")
@click.option("--macer", type=folder_option, required=True, help="Environment with macer and chgnet.")
@click.option("--bridge", type=folder_option, default=Path(sys.prefix), help="Ours; default: this interpreter's.")
@click.option("--mace-model", type=folder_option, required=True, help="A MACE .model for Ca, Fe and Ni.")
@click.option("--work", type=click.Path(path_type=Path, resolve_path=True), required=True, help="Where the runs go.")
@click.option("--rounds", default=3, show_default=True, help="How often the timed calls are repeated, tool after tool.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Where table.md and table.json go.")
def main(
    vpmdk: Path, vasp_mace: Path, macer: Path, bridge: Path, mace_model: Path, work: Path, rounds: int, out: Path
) -> None:
    """Run every tool on every case and write the table."""
    tools: list[Tool] = [
        Bridge("uspex_bridge", bridge / "bin", "uspex_bridge", mace_model),
        Vpmdk("vpmdk", vpmdk / "bin", "vpmdk", variant="WRITE_PSEUDO_SCF=1"),
        VaspMace("vasp-mace", vasp_mace / "bin", "vasp-mace", mace_model, model="mace", needs="MACE_MODEL_PATH"),
        Macer("macer", macer / "bin", "macer", reads_incar=False),
    ]
    labs = [Lab(tool, {}, Reference(tool.model, tool.mace)) for tool in tools]
    for lab in labs:
        run_cases(lab, work)
    run_rounds(labs, work, rounds)
    for lab in labs:
        run_server(lab, work / f"{lab.tool.name}-server")
    table = [(row, [row.check(lab) for lab in labs]) for row in ROWS]
    versions = {tool.name: tool.version() for tool in tools}
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown(table, versions, mace_model, rounds, WARM_CALLS))
    cells = {
        row.key: {
            lab.tool.name: {"ok": None if cell.ok is None else bool(cell.ok), "text": cell.text}
            for lab, cell in zip(labs, row_cells, strict=True)
        }
        for row, row_cells in table
    }
    note = {"versions": versions, "cells": cells, "runs": {lab.tool.name: figures(lab) for lab in labs}}
    (out / "table.json").write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n")
    click.echo((out / "table.md").read_text())


def run_cases(lab: Lab, work: Path) -> None:
    """Run every case with one tool; the earlier results in a folder are those of the tool's first run."""
    for name, case in all_cases().items():
        lab.runs[name] = said(lab, run(lab.tool, case, work, lab.stale), name)
        if lab.stale is None:
            lab.stale = lab.runs[name].folder
    if lab.tool.variant:
        lab.runs["variant"] = said(lab, run(lab.tool, all_cases()["relax-50"], work, None, variant=True), "variant")
    if isinstance(lab.tool, Bridge):
        lab.runs["staged"] = said(lab, run(lab.tool, staged(), work, None), "staged")
    whole = lab.runs["relax-50"].cpu
    for number, share in enumerate(KILLS):
        case = killed(number)
        lab.runs[case.name] = said(lab, run(lab.tool, case, work, lab.stale, kill_after=share * whole), case.name)


def run_rounds(labs: list[Lab], work: Path, rounds: int) -> None:
    """Time one single point and one short relaxation, tool after tool, several times over."""
    for what, source in (("cold", "static"), ("relax", "relax-50")):
        for lab in labs:
            lab.times[what] = [lab.runs[source]]
        for number in range(rounds):
            case = replace(all_cases()[source], name=f"time-{source}-{number}")
            for lab in labs:
                lab.times[what].append(said(lab, run(lab.tool, case, work, None), case.name))


def run_server(lab: Lab, top: Path) -> None:
    """Time further single points through the tool's resident server, if it has one, after one call to warm up."""
    folders = [top / f"CalcFold{number}" for number in range(WARM_CALLS + 1)]
    server = lab.tool.server(folders[0], top / "s")
    if server is None:
        return
    note = top / "runs.json"
    if not note.exists():
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(mode=0o700, parents=True)
        case = all_cases()["static"]
        for folder in folders:
            case.write(folder, None)
            lab.tool.prepare(folder, case, variant=False)
        with (top / "server.log").open("wb") as log:
            process = subprocess.Popen(server.start, env=os.environ | ONE_THREAD, stdout=log, stderr=log)
            try:
                wait_until_ready(server.ready, process)
                done = [call(server.call, f, server.environment, top / f"{f.name}.log", 30) for f in folders]
            finally:
                process.terminate()
                process.wait()
        note.write_text(json.dumps([[one.rc, one.wall, one.cpu] for one in done]))
    runs = [Run(f, *kept) for f, kept in zip(folders, json.loads(note.read_text()), strict=True)]
    lab.times["server"] = [said(lab, one, "server") for one in runs[1:]]


def wait_until_ready(status: list[str], server: subprocess.Popen) -> None:
    """Wait until the server answers."""
    for _ in range(240):
        if server.poll() is not None:
            raise click.ClickException("the server ended; see server.log")
        if subprocess.run(status, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise click.ClickException("the server did not answer within two minutes")


def figures(lab: Lab) -> dict:
    """Return exit codes and times of a tool's runs, and the medians of the timed ones."""
    runs = {
        name: {"rc": one.rc, "wall_s": round(one.wall, 2), "cpu_s": round(one.cpu, 2)} for name, one in lab.runs.items()
    }
    medians = {
        f"median-{what}": round(statistics.median(one.wall for one in many), 2) for what, many in lab.times.items()
    }
    return runs | medians


def said(lab: Lab, done: Run, name: str) -> Run:
    """Tell the terminal how a run ended."""
    click.echo(f"{lab.tool.name:>12}  {name:<14} rc {done.rc!s:>4}  {done.wall:6.1f} s", err=True)
    return done


if __name__ == "__main__":
    main()
