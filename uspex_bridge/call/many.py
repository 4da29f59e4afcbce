"""Relaxing structures by hand: the same plan, loop and record as in a search, results gathered in one folder."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import growing, jsonl
from uspex_bridge.base.atoms import extxyz, right_handed
from uspex_bridge.base.data import Intent, RelaxResult, Structure
from uspex_bridge.base.errors import BridgeError, ConfigError, ModelError, OutputError
from uspex_bridge.base.files import write_whole, writing
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.logs import folder_log
from uspex_bridge.base.parallel import spread
from uspex_bridge.base.symmetry import check_symprec, space_group
from uspex_bridge.call import record_file
from uspex_bridge.call.choice import check_unchanged, choose_protocol
from uspex_bridge.call.config import Config
from uspex_bridge.call.folders import Request
from uspex_bridge.call.record_line import RecordLine
from uspex_bridge.call.record_tail import RecordTail
from uspex_bridge.call.relaxed import Relaxed
from uspex_bridge.call.run import Models, relax_structure, step_line, vasp_run
from uspex_bridge.call.slot import sole_use
from uspex_bridge.call.student import without_student
from uspex_bridge.relaxation.protocol import Plan, Protocol, make_plan
from uspex_bridge.vasp import commit
from uspex_bridge.vasp.structure import format_contcar

#: Files of all results in the output folder, besides the record, and end of the name of one structure's steps.
_STRUCTURES, _POSCARS, _TRAJECTORY = "relaxed.extxyz", "relaxed.POSCARS", ".trajectory.extxyz"
#: Where results are kept in memory only, nothing is logged.
_silent = logging.Logger("uspex_bridge.silent", logging.CRITICAL)


@dataclass(frozen=True)
class RelaxTask:
    """What to do with every structure; the fields are the options of ``uspex-bridge relax``.

    ``out`` is the folder of the results, None keeps them in memory only. ``resume`` keeps what an earlier run left
    there and does not compute again what its record already has: the same structure with the same settings and
    weights. ``workers`` processes share the work, or the workers of the Dask ``scheduler``, which need the weights at
    the same paths. ``keep_models`` leaves this process's models loaded for the next call.

    Raises:
        ConfigError: ``symprec`` is no positive number.
    """

    config: Config
    out: Path | None = None
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
    keep_models: bool = False

    def __post_init__(self) -> None:
        check_symprec(self.symprec)


def relax_all(structures: Iterable[tuple[Path, int, Structure]], task: RelaxTask) -> Iterator[Relaxed]:
    """Relax structures, each written to ``task.out``, where there is one, as it is done.

    Args:
        structures: file, number in the file, structure.
        task: what to do.

    Yields:
        One outcome per structure, refused ones included; with several workers in the order in which they are done.

    Raises:
        ConfigError, ModelError: nothing can be relaxed with these settings.
        ServiceError: the Dask scheduler does not answer, or no longer.
        OutputError: the output folder cannot be written.
        BusyError: another call is at work there.
    """
    protocol, notice = choose_protocol(task.config)
    if task.out is None:
        yield from _relax_all(structures, task, protocol, None, _silent)
        return
    with _alone(task.out), folder_log(task.out) as log:
        if notice:
            log.warning("%s", notice)
        yield from _relax_all(structures, task, protocol, _begin(task.out, resume=task.resume), log)


def _relax_all(
    structures: Iterable[tuple[Path, int, Structure]],
    task: RelaxTask,
    protocol: Protocol,
    record: Path | None,
    log: logging.Logger,
) -> Iterator[Relaxed]:
    places = record_file.places(record) if record is not None and record.is_file() else {}
    before: list[Relaxed] = []
    names = _Names(task.out, resume=task.resume) if task.out is not None else None

    def jobs() -> Iterator[_Job]:
        for count, (source, number, structure) in enumerate(structures):
            job = _Job(source, number, structure, task, protocol)
            if record is not None and places and count == 0:
                check_unchanged(job.plan, task.config, RecordTail(record), None, _silent)
            if record is None or (place := places.get(job.entry.key)) is None:
                yield job
            else:
                before.append(_done_before(job, jsonl.read_at(record, place)))

    try:
        for job, outcome in spread(_relax, jobs(), task.workers, task.scheduler):
            while before:
                yield before.pop(0)
            yield _keep(job, outcome if isinstance(outcome, _Outcome) else _lost(job, outcome), log, names)
        yield from before
    finally:
        if not task.keep_models:
            close_models()


def _alone(out: Path) -> AbstractContextManager[object]:
    """Make the folder of the results and hold its lock; where nothing can be written, results there can be read."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return sole_use(out) if os.access(out, os.W_OK) else nullcontext()


def _begin(out: Path, *, resume: bool) -> Path:
    """Make the folder of the results whole, or empty unless they are to be kept, and return the record in it."""
    record = record_file.in_folder(out)
    growing.take_back(out)
    with writing(out):
        for old in () if resume else (_STRUCTURES, _POSCARS, record.name):
            (out / old).unlink(missing_ok=True)
    return record


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
        return without_student(make_plan(self.protocol, intent, task.config.stages, task.fmax), task.config)

    @property
    def entry(self) -> RecordLine:
        where = {"source": str(self.source), "index": self.number}
        return RecordLine(self.structure, self.plan, self.task.config, where)

    @property
    def name(self) -> str:
        words = self.structure.comment.split()
        return words[0] if words else f"{self.source.stem}-{self.number}"


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


@contextmanager
def kept_models(config: Config) -> Iterator[Models]:
    """Lend the models of this process, kept from one structure to the next, to one thread at a time."""
    global _models
    with _sole_use:
        if _models is None or _models.config != config:
            close_models()
            _models = Models(config)
        yield _models


def _relax(job: _Job) -> _Outcome:
    """Relax one structure, in whichever process.

    Raises:
        ConfigError, ModelError, OutputError: what would be the same for all structures.
    """
    config = job.task.config
    lines: list[str] = []
    result = None
    with kept_models(config) as models:
        entry, halter = job.entry, Halter()
        halter.start(config.time_limit)
        try:
            result = relax_structure(
                job.structure, job.plan, models, halter, lambda step: lines.append(step_line(step))
            )
            entry.done(result)
        except BridgeError as error:
            if error.exit_code in (ConfigError.exit_code, ModelError.exit_code, OutputError.exit_code):
                raise
            entry.failed(error)
        finally:
            halter.close()
    return _Outcome(entry.fields, result, tuple(lines))


def _lost(job: _Job, error: BridgeError) -> _Outcome:
    """Return the outcome of a structure with which worker processes died."""
    entry = job.entry
    entry.failed(error)
    return _Outcome(entry.fields, None, ())


def close_models() -> None:
    """Let go of the models that this process keeps."""
    global _models
    if _models is not None:
        _models.close()
    _models = None


class _Names:
    """Names of what is written of each structure, none given twice; with ``resume`` none that an earlier run gave."""

    def __init__(self, out: Path, *, resume: bool) -> None:
        self._taken = {path.name.partition(".")[0] for path in out.glob("*")} if resume else set()

    def new(self, name: str, number: int) -> str:
        """Return a name for structure ``number`` of a file."""
        stem = f"{number:03d}-{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}"
        free = next(word for k in itertools.count(1) if (word := stem if k == 1 else f"{stem}-{k}") not in self._taken)
        self._taken.add(free)
        return free


def _keep(job: _Job, outcome: _Outcome, log: logging.Logger, names: _Names | None) -> Relaxed:
    """Write an outcome to the task's folder."""
    fields, task = outcome.fields, job.task
    log.info("%s, structure %d: %s", job.source, job.number, job.structure.formula)
    for line in outcome.lines:
        log.debug("%s", line)
    if outcome.result is None:
        log.error("%s, structure %d: %s", job.source, job.number, fields["reason"])
    relaxed = _relaxed(job, fields, outcome.result)
    if task.out is not None and names is not None:
        record = record_file.in_folder(task.out)
        if outcome.result is None:
            record_file.append(record, fields)
        else:
            stem = names.new(relaxed.name, job.number)
            with growing.together(task.out, f"{stem}{_TRAJECTORY}", stem, _POSCARS, _STRUCTURES, record.name):
                _write(relaxed, outcome.result, stem, task, task.out)
                record_file.append(record, fields)
    return relaxed


def _done_before(job: _Job, fields: dict[str, Any]) -> Relaxed:
    return _relaxed(job, fields | {"source": str(job.source), "index": job.number}, None)


def _relaxed(job: _Job, fields: dict[str, Any], result: RelaxResult | None) -> Relaxed:
    output, symprec = fields.get("output"), job.task.symprec
    after = "" if output is None else _group(output["symbols"], output["cell"], output["scaled"], symprec)
    before = _group(job.structure.symbols, job.structure.cell, job.structure.scaled, symprec)
    return Relaxed(job.name, job.structure, job.plan, before, after, fields, result)


def _group(symbols: Sequence[str], cell: Any, scaled: Any, symprec: float) -> str:
    return space_group(symbols, np.array(cell), np.array(scaled), symprec)


def _write(relaxed: Relaxed, result: RelaxResult, stem: str, task: RelaxTask, out: Path) -> None:
    structure, plan = relaxed.structure, relaxed.plan
    final = replace(structure, cell=result.final.cell, scaled=result.final.scaled).right_handed
    if task.trajectory:
        write_whole(out / f"{stem}{_TRAJECTORY}", extxyz([right_handed(atoms) for atoms in relaxed.trajectory]))
    if task.vasp_files:
        folder = out / stem
        with writing(folder):
            folder.mkdir(exist_ok=True)
        seconds = sum(stage.seconds for stage in result.stages)
        commit.publish(folder, vasp_run(Request(structure, plan.intent), result, task.config, seconds))
    growing.append(out / _POSCARS, format_contcar(final, replace(result.final, cell=final.cell, scaled=final.scaled)))
    growing.append(out / _STRUCTURES, extxyz([right_handed(relaxed.atoms)]))
