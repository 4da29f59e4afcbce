"""From a working folder to a result: the one path that every front end takes.

read (folders) -> plan (protocol) -> relax (relax.engine) -> publish (folders) -> record (journal)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.data import RelaxResult, Structure, VaspRun
from uspex_bridge.base.errors import BridgeError, Interrupted, OutputError, Rejected
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.logs import say
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.base.version import version
from uspex_bridge.call import record_file
from uspex_bridge.call.choice import check_unchanged, settled_protocol
from uspex_bridge.call.config import Config, search_root
from uspex_bridge.call.folders import Folder, Request
from uspex_bridge.call.gpu_turns import take_turn
from uspex_bridge.call.record_line import RecordLine, symbol_of, words_of
from uspex_bridge.call.record_tail import RecordTail, can_stand_again, refused_for_good
from uspex_bridge.call.repeat import repeated_run
from uspex_bridge.call.slot import SlotState
from uspex_bridge.call.stopcar import Stopcar
from uspex_bridge.call.student import fit_student, keep_frames
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.cards import model_name
from uspex_bridge.relaxation.protocol import Plan, make_plan

if TYPE_CHECKING:
    from uspex_bridge.relaxation.engine import IonicStep
    from uspex_bridge.relaxation.monitor import Why

#: Begins the reason of a refusal that the record gave.
_AS_BEFORE = "refused as before: "


@dataclass
class Models:
    """Loaded calculators by name; loads each once, and only when a stage asks for it."""

    config: Config
    loaded: dict[str, backends.Backend] = field(default_factory=dict)

    def __call__(self, name: str) -> backends.Backend:
        """Return the loaded calculator ``name``.

        Raises:
            ModelError: its package, weights or device is not available.
        """
        if name not in self.loaded:
            limit_threads(self.config.threads)
            self.loaded[name] = backends.load(name, self.config.settings_of(name))
        return self.loaded[name]

    def reserve(self, names: Iterable[str], log: logging.Logger, halt: Callable[[], object | None]) -> float:
        """Wait until these calculators may be used; return the seconds that it took. These need not wait."""
        return 0.0

    def close(self) -> None:
        """Let go of every model and end worker processes."""
        for backend in self.loaded.values():
            backend.close()
        self.loaded.clear()


class OneShotModels(Models):
    """The models of a run that has this process to itself: where it needs a GPU, it waits for its turn."""

    def reserve(self, names: Iterable[str], log: logging.Logger, halt: Callable[[], object | None]) -> float:
        """Wait for a turn on the GPUs of these calculators, held until this process ends.

        Raises:
            ModelError: a device is not there.
            Interrupted: ``halt`` told to stop.
        """
        devices = [inventory.device_of(name, self.config.settings_of(name)) for name in names]
        self._turns, waited = take_turn(devices, self.config.gpu_runs, log, halt)
        return waited


class Watcher:
    """Hears of a run as it goes on; this one keeps it to itself."""

    def began(self, fields: dict[str, Any]) -> None:
        """Hear what the record's entry holds before the first step."""

    def step(self, step: IonicStep) -> None:
        """Hear of an ionic step."""

    def ended(self, fields: dict[str, Any]) -> None:
        """Hear what the record's entry holds in the end, however that came."""


def run_folder(
    folder: Folder,
    config: Config,
    log: logging.Logger,
    halter: Halter,
    models: Callable[[Config], Models] = OneShotModels,
    watcher: Watcher | None = None,
) -> None:
    """Do what USPEX asks for in ``folder``, whose old results are gone (:func:`uspex_bridge.call.slot.run_in_slot`).

    Raises:
        BridgeError: of the kind that says what went wrong; then no result was written.
    """
    with SlotState(folder.path, folder.inputs) as slot:

        def check() -> None:
            halter.check()
            slot.check()

        _run(folder, config, log, halter, models, watcher or Watcher(), check)


def record_of(folder: Path, config: Config) -> Path:
    """Return the record of the search that a working folder belongs to, whether it is there or not."""
    if config.record:
        return Path(config.base, config.record).resolve()
    return record_file.in_folder(search_root(folder, config))


def _run(
    folder: Folder,
    config: Config,
    log: logging.Logger,
    halter: Halter,
    models: Callable[[Config], Models],
    watcher: Watcher,
    check: Callable[[], None],
) -> None:
    request = folder.read(config)
    record = record_of(folder.path, config)
    protocol, notice = settled_protocol(config, record.parent)
    plan = make_plan(protocol, request.intent, config.stages)
    plan, config, student = fit_student(plan, config, record.parent, request.structure)
    _announce(request, plan, config, notice, log)
    entry = RecordLine(request.structure, plan, config, record_file.whereabouts(folder.path, request.structure.comment))
    entry.fields |= {} if student is None else {"student": student}
    earlier = _earlier(record, plan, config, entry, log)
    watcher.began(entry.fields)

    def observe(step: IonicStep) -> None:
        log.debug("%s", step_line(step))
        watcher.step(step)

    def give_up() -> None:
        error = Interrupted("one evaluation exceeds the time limit; nothing was written")
        entry.failed(error)
        log.error("%s", error)
        _keep(record, entry, log)

    try:
        _refuse_penalty(request, record, entry)
        _refuse_again(earlier)
        halt = Stopcar(folder.path, halter)
        if earlier is not None and config.on_repeat == "reuse" and can_stand_again(earlier):
            done = entry.repeated(earlier)
            value = f"{symbol_of(done.get('free_energy'))} = {done['enthalpy']:.6f} eV"
            summary = f"{request.structure.formula}: {done['reason']}, {value}"
            folder.publish(repeated_run(request, earlier), config, check)
        else:
            lent = models(config)
            waited = lent.reserve(dict.fromkeys(stage.calculator for stage in plan.stages), log, halter)
            entry.began += waited
            halter.start(config.time_limit + waited, give_up)
            known = _Known(record, request.structure, plan, config.stop_above)
            result = relax_structure(request.structure, plan, lent, halt, observe, known.lowest, known.ceiling)
            done, summary = entry.outcome(result), entry.summary(result)  # before a result stands, for they might fail
            folder.publish(vasp_run(request, result, config, entry.seconds), config, check)
            _keep_frames(record, entry.key, request.structure, result, student, log)
        halt.remove()
    except BridgeError as error:
        if isinstance(error, Rejected) and not error.lasting:
            latest = RecordTail(record).latest(entry.key)
            error.lasting = latest is not None and latest.get("code") == error.code
        entry.failed(error)
        if not (isinstance(error, Rejected) and config.on_reject == "penalty"):
            raise
        entry.fields |= {"status": "penalty", "exit": 0, **_publish_penalty(folder, request, config, error, log, check)}
    except Exception as error:
        entry.failed(error)
        raise
    else:
        entry.fields |= done
        log.info("%s", summary)
        say(summary)
    finally:
        _keep(record, entry, log)
        watcher.ended(entry.fields)


def _earlier(record: Path, plan: Plan, config: Config, entry: RecordLine, log: logging.Logger) -> dict[str, Any] | None:
    """Check that the search goes on with its protocol and models; return the latest entry of this very job."""
    tail = RecordTail(record)
    check_unchanged(plan, config, tail, entry.step, log)
    return tail.latest(entry.key)


@dataclass(frozen=True)
class _Known:
    """What the record knows of a structure's composition when it is asked, eV/atom; None where that is nothing."""

    record: Path
    structure: Structure
    plan: Plan
    stop_above: float | None

    def lowest(self) -> float | None:
        """Return the lowest enthalpy of the formula."""
        formula = self.structure.formula
        return self._lowest(formula).get(formula)

    def ceiling(self) -> float | None:
        """Return the enthalpy above which the settings call a structure hopeless.

        A free energy has none: it is not the enthalpy at rest that decides there.
        """
        if self.stop_above is None or self.plan.free_energy is not None:
            return None
        from uspex_bridge.call.hopeless import lowest_known

        best = lowest_known(self._lowest(), self.structure.symbols)
        return None if best is None else best + self.stop_above

    def _lowest(self, formula: str | None = None) -> dict[str, float]:
        calculator = self.plan.stages[-1].calculator
        return RecordTail(self.record).lowest(self.plan.pressure_gpa, calculator, formula)


def _refuse_again(earlier: dict[str, Any] | None) -> None:
    """Refuse what the record says was refused before, this very job for a lasting reason."""
    if earlier is not None and refused_for_good(earlier):
        reason = str(earlier.get("reason")).removeprefix(_AS_BEFORE)
        raise Rejected(str(earlier.get("code")), _AS_BEFORE + reason, lasting=True)


def _refuse_penalty(request: Request, record: Path, entry: RecordLine) -> None:
    """Refuse the geometry of a penalty that an earlier step wrote: relaxed, it would be a crystal like any other."""
    from uspex_bridge.call.penalty import is_penalty

    structure = request.structure
    moved = entry.step != "1" and is_penalty(structure, moved=True)
    before = RecordTail(record).latest_beside(entry.fields) if moved else None
    follows = before is not None and before["status"] == "penalty" and before.get("formula") == structure.formula
    if follows or is_penalty(structure):
        raise Rejected("penalty", "the structure is the penalty of an earlier step for a refused structure")


def relax_structure(
    structure: Structure,
    plan: Plan,
    models: Models,
    halt: Callable[[], Why | None],
    observe: Callable[[IonicStep], None],
    lowest: Callable[[], float | None] = lambda: None,
    ceiling: Callable[[], float | None] = lambda: None,
) -> RelaxResult:
    """Relax one structure with the loop of :mod:`uspex_bridge.relaxation.engine` (imported here: it brings ASE).

    Where the plan asks for a free energy, that of the relaxed structure is the last frame.
    """
    from uspex_bridge.relaxation.engine import relax

    result = relax(structure, plan, models, halt=halt, observe=observe, lowest=lowest, ceiling=ceiling)
    if plan.free_energy is None:
        return result
    from uspex_bridge.call.free_energy import with_free_energy

    return with_free_energy(structure, result, plan, models(plan.stages[-1].calculator), halt)


def step_line(step: IonicStep) -> str:
    """Return the log line of one ionic step."""
    return (
        f"{step.stage:>10} {step.index:5d}  E {step.energy:14.6f}  H {step.enthalpy:14.6f} eV  "
        f"fmax {step.fmax:9.4f} eV/Å  stress left {step.stress_gpa:9.3f} GPa  V {step.volume:9.3f} Å³"
    )


def vasp_run(request: Request, result: RelaxResult, config: Config, seconds: float) -> VaspRun:
    """Return what VASP's files are written from: the steps that the configuration wants shown."""
    first = {"final-model": result.model_start, "all": 0, "last": len(result.frames) - 1}[config.steps]
    if result.free_energy is not None:  # no file holds potential and free energies side by side
        first = len(result.frames) - 1
    name = result.stages[-1].calculator
    return VaspRun(
        structure=request.structure,
        frames=result.frames[first:],
        intent=request.intent,
        converged=result.converged,
        model=model_name(result.models[name]),
        seconds=seconds,
        free_energy="" if result.free_energy is None else words_of(result.free_energy),
        incar=request.incar,
    )


def _announce(request: Request, plan: Plan, config: Config, notice: str, log: logging.Logger) -> None:
    intent = request.intent
    log.info(
        "uspex_bridge %s: %s, %d atoms, %g GPa, ISIF %d, NSW %d, protocol %s (%s), settings %s",
        version(),
        request.structure.formula,
        len(request.structure),
        intent.pressure_gpa,
        intent.isif,
        intent.nsw,
        plan.protocol,
        " > ".join(f"{s.name}: {s.calculator} {s.optimizer} {s.fmax:g}" for s in plan.stages),
        config.source or "none found, defaults",
    )
    if notice:
        log.warning("%s", notice)
    if plan.free_energy is not None:
        log.info("then the free energy at %g K: %s", plan.free_energy.temperature, plan.free_energy.method)
    for note in intent.notes:
        log.warning("INCAR: %s", note)
    if intent.ignored:
        log.info("INCAR tags without meaning here: %s", " ".join(intent.ignored))


def _publish_penalty(
    folder: Folder,
    request: Request,
    config: Config,
    error: Rejected,
    log: logging.Logger,
    check: Callable[[], None],
) -> dict[str, float]:
    """Write a penalty for a refused structure; return what USPEX reads, by which results are found in the record."""
    from uspex_bridge.call.penalty import penalty_run

    run = penalty_run(request, config.penalty, f"penalty, {error.code}")
    folder.publish(run, config, check)
    log.warning("refused (%s): %s; wrote a penalty of %g eV/atom", error.code, error, config.penalty)
    (frame,) = run.frames
    return {"enthalpy": frame.enthalpy(request.intent.pressure_gpa), "volume": frame.volume}


def _keep_frames(
    record: Path, key: str, structure: Structure, result: RelaxResult, student: str | None, log: logging.Logger
) -> None:
    """Keep frames for the next student; where they cannot be written, that is no reason to lose a result."""
    try:
        keep_frames(record, key, structure, result, student)
    except OutputError as error:
        log.warning("%s", error)


def _keep(record: Path, entry: RecordLine, log: logging.Logger) -> None:
    """Append to the record; a record that cannot be written is no reason to lose a result."""
    try:
        record_file.append(record, entry.fields)
    except OutputError as error:
        log.warning("%s", error)
