"""Relaxing structures by hand: the same plan, loop and record as in a search, results gathered in one folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Frame, Intent, RelaxResult, Structure
from uspex_bridge.base.errors import BridgeError, ConfigError, ModelError, OutputError
from uspex_bridge.base.files import writing
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.logs import folder_log
from uspex_bridge.base.parallel import spread
from uspex_bridge.base.symmetry import space_group
from uspex_bridge.call import record_file
from uspex_bridge.call.config import Config
from uspex_bridge.call.folders import Request
from uspex_bridge.call.run import Models, RecordLine, choose_protocol, relax_structure, step_line, vasp_run
from uspex_bridge.models.cards import model_name
from uspex_bridge.relaxation.protocol import Plan, Protocol, make_plan
from uspex_bridge.vasp import commit
from uspex_bridge.vasp.structure import format_contcar


@dataclass(frozen=True)
class RelaxTask:
    """What to do with every structure; the fields are the options of ``uspex-bridge relax``.

    ``resume`` keeps what an earlier run left in ``out`` and does not compute again what its record already has: the
    same structure with the same settings and weights. ``workers`` processes share the work, or the workers of the Dask
    ``scheduler``, which need the weights at the same paths.
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
    workers: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Relaxed:
    """One structure's outcome: the record's fields, and what the table adds."""

    name: str
    before: str
    after: str
    fields: dict[str, Any]


def relax_all(structures: Iterable[tuple[Path, int, Structure]], task: RelaxTask) -> Iterator[Relaxed]:
    """Relax structures, each written to ``task.out`` as it is done.

    Args:
        structures: file, number in the file, structure.
        task: what to do.

    Yields:
        One outcome per structure, refused ones included; with several workers in the order in which they are done.

    Raises:
        ConfigError, ModelError: nothing can be relaxed with these settings.
        ServiceError: the Dask scheduler does not answer.
        OutputError: the output folder cannot be written.
    """
    with writing(task.out):
        task.out.mkdir(parents=True, exist_ok=True)
        for old in () if task.resume else ("relaxed.extxyz", "relaxed.POSCARS", record_file.FILENAME):
            (task.out / old).unlink(missing_ok=True)
    protocol, notice = choose_protocol(task.config)
    record = task.out / record_file.FILENAME
    places = record_file.places(record) if record.is_file() else {}
    before: list[Relaxed] = []

    def jobs() -> Iterator[_Job]:
        for source, number, structure in structures:
            job = _Job(source, number, structure, task, protocol)
            if (place := places.get(job.entry.key)) is None:
                yield job
            else:
                before.append(_done_before(job, jsonl.read_at(record, place)))

    try:
        with folder_log(task.out) as log:
            if notice:
                log.warning("%s", notice)
            for job, outcome in spread(_relax, jobs(), task.workers, task.scheduler):
                while before:
                    yield before.pop(0)
                yield _keep(job, outcome, log)
            yield from before
    finally:
        _close_models()


@dataclass(frozen=True)
class _Job:
    """One structure to relax."""

    source: Path
    number: int
    structure: Structure
    task: RelaxTask
    protocol: Protocol

    @property
    def plan(self) -> Plan:
        task = self.task
        intent = Intent(isif=task.isif, nsw=task.nsw, pressure_gpa=task.pressure, keep_symmetry=task.keep_symmetry)
        return make_plan(self.protocol, intent, task.config.stages, task.fmax)

    @property
    def entry(self) -> RecordLine:
        where = {"source": str(self.source), "index": self.number}
        return RecordLine(self.structure, self.plan, self.task.config, where)

    @property
    def name(self) -> str:
        words = self.structure.comment.split()
        return words[0] if words else f"{self.source.stem}-{self.number}"

    @property
    def group(self) -> str:
        """Space group as it came."""
        return space_group(self.structure.symbols, self.structure.cell, self.structure.scaled, self.task.symprec)


@dataclass(frozen=True)
class _Outcome:
    """What a worker hands back: the record's fields, the result or None where there is none, what to log."""

    fields: dict[str, Any]
    result: RelaxResult | None
    lines: tuple[str, ...]


#: The models of this process, kept from one structure to the next, and who may use them: a Dask worker may have
#: several threads.
_models: Models | None = None
_sole_use = threading.Lock()


def _relax(job: _Job) -> _Outcome:
    """Relax one structure, in whichever process.

    Raises:
        ConfigError, ModelError, OutputError: what would be the same for all structures.
    """
    global _models
    config = job.task.config
    lines: list[str] = []
    result = None
    with _sole_use:
        if _models is None or _models.config != config:
            _close_models()
            _models = Models(config)
        entry, halter = job.entry, Halter()
        halter.start(config.time_limit)
        try:
            result = relax_structure(
                job.structure, job.plan, _models, halter, lambda step: lines.append(step_line(step))
            )
            entry.done(result)
        except BridgeError as error:
            if error.exit_code in (ConfigError.exit_code, ModelError.exit_code, OutputError.exit_code):
                raise
            entry.failed(error)
        finally:
            halter.close()
    return _Outcome(entry.fields, result, tuple(lines))


def _close_models() -> None:
    global _models
    if _models is not None:
        _models.close()
    _models = None


def _keep(job: _Job, outcome: _Outcome, log: logging.Logger) -> Relaxed:
    """Write an outcome to the task's folder."""
    fields, task = outcome.fields, job.task
    log.info("%s, structure %d: %s", job.source, job.number, job.structure.formula)
    for line in outcome.lines:
        log.debug("%s", line)
    after = ""
    if outcome.result is None:
        log.error("%s, structure %d: %s", job.source, job.number, fields["reason"])
    else:
        after = _group(fields["output"], task.symprec)
        _write(job.structure, outcome.result, job.plan, job.name, job.number, task)
    record_file.append(task.out / record_file.FILENAME, fields)
    return Relaxed(job.name, job.group, after, fields)


def _done_before(job: _Job, fields: dict[str, Any]) -> Relaxed:
    output = fields.get("output")
    after = "" if output is None else _group(output, job.task.symprec)
    return Relaxed(job.name, job.group, after, fields | {"source": str(job.source), "index": job.number})


def _group(geometry: dict[str, Any], symprec: float) -> str:
    return space_group(geometry["symbols"], np.array(geometry["cell"]), np.array(geometry["scaled"]), symprec)


def _write(structure: Structure, result: RelaxResult, plan: Plan, name: str, number: int, task: RelaxTask) -> None:
    import ase.io

    stem = f"{number:03d}-{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}"
    with writing(task.out):
        with (task.out / "relaxed.POSCARS").open("a", encoding="utf-8") as stream:
            stream.write(format_contcar(structure, result.final))
        (last,) = images(structure, (result.final,), plan)
        last.info["level"] = model_name(result.models[last.info["calculator"]])
        ase.io.write(task.out / "relaxed.extxyz", last, append=True)
        if task.trajectory:
            ase.io.write(task.out / f"{stem}.trajectory.extxyz", images(structure, result.frames, plan))
        if task.vasp_files:
            folder = task.out / stem
            folder.mkdir(exist_ok=True)
            seconds = sum(stage.seconds for stage in result.stages)
            commit.publish(folder, vasp_run(Request(structure, plan.intent), result, task.config, seconds))


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
