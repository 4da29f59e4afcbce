"""Relaxing structures by hand: the same plan, loop and record as in a search, results gathered in one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge import journal
from uspex_bridge.config import Config
from uspex_bridge.errors import BridgeError, OutputError
from uspex_bridge.folders import Request
from uspex_bridge.halt import Halter
from uspex_bridge.logs import folder_log
from uspex_bridge.protocol import Plan, Protocol, make_plan
from uspex_bridge.records import Frame, Intent, RelaxResult, Structure
from uspex_bridge.run import Entry, Models, choose_protocol, relax_structure, step_line, vasp_run
from uspex_bridge.symmetry import space_group
from uspex_bridge.vasp import commit
from uspex_bridge.vasp.structure import format_contcar


@dataclass(frozen=True)
class Task:
    """What to do with every structure; the fields are the options of ``uspex-bridge relax``.

    ``resume`` keeps what an earlier run left in ``out`` and does not compute again what its record already has: the
    same structure with the same settings and weights.
    """

    config: Config
    out: Path
    pressure: float = 0.0
    fmax: float | None = None
    isif: int = 3
    nsw: int = 5000
    keep_symmetry: bool = False
    symprec: float = 0.1
    trajectory: bool = False
    vasp_files: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Relaxed:
    """One structure's outcome: the record's fields, and what the table adds."""

    name: str
    before: str
    after: str
    fields: dict[str, Any]


def relax_all(structures: Iterable[tuple[Path, int, Structure]], task: Task) -> Iterator[Relaxed]:
    """Relax structures one after another, each written to ``task.out`` as it is done.

    Args:
        structures: file, number in the file, structure.
        task: what to do.

    Yields:
        One outcome per structure, refused ones included.

    Raises:
        ConfigError, ModelError: nothing can be relaxed with these settings.
        OutputError: the output folder cannot be written.
    """
    try:
        task.out.mkdir(parents=True, exist_ok=True)
        for old in () if task.resume else ("relaxed.extxyz", "relaxed.POSCARS", journal.FILENAME):
            (task.out / old).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{task.out}: cannot be written: {error.strerror}") from error
    protocol, notice = choose_protocol(task.config)
    models = Models(task.config)
    record = task.out / journal.FILENAME
    done = journal.places(record) if record.is_file() else {}
    try:
        with folder_log(task.out) as log:
            if notice:
                log.warning("%s", notice)
            for source, number, structure in structures:
                log.info("%s, structure %d: %s", source, number, structure.formula)
                yield _relax_one(source, number, structure, task, protocol, models, done, log)
    finally:
        models.close()


def _relax_one(
    source: Path,
    number: int,
    structure: Structure,
    task: Task,
    protocol: Protocol,
    models: Models,
    done: dict[str, int],
    log: Any,
) -> Relaxed:
    intent = Intent(isif=task.isif, nsw=task.nsw, pressure_gpa=task.pressure, keep_symmetry=task.keep_symmetry)
    plan = make_plan(protocol, intent, task.config.stages, task.fmax)
    name = structure.comment.split()[0] if structure.comment.split() else f"{source.stem}-{number}"
    entry = Entry(structure, plan, task.config, {"source": str(source), "index": number})
    before = space_group(structure.symbols, structure.cell, structure.scaled, task.symprec)
    if entry.key in done:
        fields = journal.read_at(task.out / journal.FILENAME, done[entry.key])
        log.info("%s, structure %d: done before (%s)", source, number, fields.get("time"))
        output = fields.get("output")
        after = "" if output is None else _group(output, task.symprec)
        return Relaxed(name, before, after, fields | {"source": str(source), "index": number})
    after = ""
    halter = Halter()
    halter.start(task.config.time_limit)
    try:
        result = relax_structure(structure, plan, models, halter, lambda step: log.debug("%s", step_line(step)))
        after = space_group(structure.symbols, result.final.cell, result.final.scaled, task.symprec)
        entry.done(result)
        _write(structure, result, plan, name, number, task)
    except BridgeError as error:
        if error.exit_code in (4, 5, 8):  # settings, models and output are the same for all structures
            raise
        entry.failed(error)
        log.error("%s, structure %d: %s", source, number, error)
    journal.append(task.out / journal.FILENAME, entry.fields)
    return Relaxed(name, before, after, entry.fields)


def _group(geometry: dict[str, Any], symprec: float) -> str:
    return space_group(geometry["symbols"], np.array(geometry["cell"]), np.array(geometry["scaled"]), symprec)


def _write(structure: Structure, result: RelaxResult, plan: Plan, name: str, number: int, task: Task) -> None:
    import ase.io

    stem = f"{number:03d}-{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}"
    try:
        with (task.out / "relaxed.POSCARS").open("a", encoding="utf-8") as stream:
            stream.write(format_contcar(structure, result.final))
        ase.io.write(task.out / "relaxed.extxyz", images(structure, (result.final,), plan), append=True)
        if task.trajectory:
            ase.io.write(task.out / f"{stem}.trajectory.extxyz", images(structure, result.frames, plan))
        if task.vasp_files:
            folder = task.out / stem
            folder.mkdir(exist_ok=True)
            seconds = sum(stage.seconds for stage in result.stages)
            commit.publish(folder, vasp_run(Request(structure, plan.intent), result, task.config, seconds))
    except OSError as error:
        raise OutputError(f"{task.out}: cannot be written: {error.strerror or error}") from error


def images(structure: Structure, frames: tuple[Frame, ...], plan: Plan) -> list[Any]:
    """Return steps as ASE atoms with energy, forces and stress, and stage, calculator and enthalpy in ``info``."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = []
    for frame in frames:
        image = Atoms(list(structure.symbols), scaled_positions=frame.scaled, cell=frame.cell, pbc=True)
        image.calc = SinglePointCalculator(image, energy=frame.energy, forces=frame.forces, stress=frame.stress)
        stage = plan.stages[frame.stage]
        image.info |= {
            "name": structure.comment.strip(),
            "stage": stage.name,
            "calculator": stage.calculator,
            "pressure_GPa": plan.pressure_gpa,
            "enthalpy": frame.enthalpy(plan.pressure_gpa),
        }
        atoms.append(image)
    return atoms
