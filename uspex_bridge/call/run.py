"""From a working folder to a result: the one path that every front end takes.

read (folders) -> plan (protocol) -> relax (relax.engine) -> publish (folders) -> record (journal)
"""

from __future__ import annotations

import logging
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.data import RelaxResult, Structure, VaspRun
from uspex_bridge.base.errors import BridgeError, ConfigError, OutputError, Rejected
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.logs import say
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.base.version import version
from uspex_bridge.call import record_file
from uspex_bridge.call.config import Config, read_config, search_root
from uspex_bridge.call.folders import Folder, Request
from uspex_bridge.call.gpu_turns import take_turn
from uspex_bridge.call.slot import SlotState
from uspex_bridge.call.stopcar import Stopcar
from uspex_bridge.models import backends
from uspex_bridge.models.cards import model_name
from uspex_bridge.relaxation.protocol import Plan, Protocol, load_protocol, make_plan

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
        devices = [backends.device_of(name, self.config.settings_of(name)) for name in names]
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


def choose_protocol(config: Config) -> tuple[Protocol, str]:
    """Return the configured protocol, and a line to tell the user where ``auto`` had to choose.

    ``auto`` takes ``paper`` if the weights of its calculators are found, else ``embedded``.

    Raises:
        ConfigError: there is no such protocol.
    """
    if config.protocol != "auto":
        try:
            return load_protocol(config.protocol, Path(config.base or ".")), ""
        except ConfigError as error:
            if config.source and read_config(Path(config.source)).protocol == config.protocol:
                raise ConfigError(f"{config.source}: {error}") from None
            raise
    paper = load_protocol("paper")
    missing = [name for name in paper.calculators if not backends.available(name, config.settings_of(name)).ok]
    if not missing:
        return paper, ""
    notice = (
        f"protocol 'embedded' (CHGNet), since no weights are found for {' and '.join(missing)} of the default "
        "protocol 'paper'; `uspex-bridge doctor` says how to get them, protocol = \"embedded\" silences this"
    )
    return load_protocol("embedded"), notice


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
    protocol, notice = choose_protocol(config)
    plan = make_plan(protocol, request.intent, config.stages)
    _announce(request, plan, config, notice, log)
    entry = RecordLine(request.structure, plan, config, record_file.whereabouts(folder.path, request.structure.comment))
    named = Path(config.base, config.record) if config.record else None
    record = named.resolve() if named else record_file.in_folder(search_root(folder.path, config))
    watcher.began(entry.fields)

    def observe(step: IonicStep) -> None:
        log.debug("%s", step_line(step))
        watcher.step(step)

    try:
        _refuse_again(record, entry.key)
        lent = models(config)
        waited = lent.reserve(dict.fromkeys(stage.calculator for stage in plan.stages), log, halter)
        entry.began += waited
        halter.start(config.time_limit + waited)
        halt = Stopcar(folder.path, halter)
        result = relax_structure(request.structure, plan, lent, halt, observe)
        done, summary = entry.outcome(result), entry.summary(result)  # before a result stands, for they might fail
        folder.publish(vasp_run(request, result, config, entry.seconds), config, check)
        halt.remove()
    except BridgeError as error:
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


def _refuse_again(record: Path, key: str) -> None:
    """Refuse what the record says was refused before, this very job for a lasting reason."""
    if earlier := record_file.earlier_refusal(record, key):
        reason = str(earlier.get("reason")).removeprefix(_AS_BEFORE)
        raise Rejected(str(earlier.get("code")), _AS_BEFORE + reason, lasting=True)


def relax_structure(
    structure: Structure,
    plan: Plan,
    models: Models,
    halt: Callable[[], Why | None],
    observe: Callable[[IonicStep], None],
) -> RelaxResult:
    """Relax one structure with the loop of :mod:`uspex_bridge.relaxation.engine` (imported here: it brings ASE)."""
    from uspex_bridge.relaxation.engine import relax

    return relax(structure, plan, models, halt=halt, observe=observe)


def step_line(step: IonicStep) -> str:
    """Return the log line of one ionic step."""
    return (
        f"{step.stage:>10} {step.index:5d}  E {step.energy:14.6f}  H {step.enthalpy:14.6f} eV  "
        f"fmax {step.fmax:9.4f} eV/Å  stress left {step.stress_gpa:9.3f} GPa  V {step.volume:9.3f} Å³"
    )


def vasp_run(request: Request, result: RelaxResult, config: Config, seconds: float) -> VaspRun:
    """Return what VASP's files are written from: the steps that the configuration wants shown."""
    first = {"final-model": result.model_start, "all": 0, "last": len(result.frames) - 1}[config.steps]
    name = result.stages[-1].calculator
    return VaspRun(
        structure=request.structure,
        frames=result.frames[first:],
        intent=request.intent,
        converged=result.converged,
        model=model_name(result.models[name]),
        seconds=seconds,
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


def _keep(record: Path, entry: RecordLine, log: logging.Logger) -> None:
    """Append to the record; a record that cannot be written is no reason to lose a result."""
    try:
        record_file.append(record, entry.fields)
    except OutputError as error:
        log.warning("%s", error)


class RecordLine:
    """The record's line of one job, filled in as the job goes on."""

    def __init__(self, structure: Structure, plan: Plan, config: Config, where: dict[str, Any]) -> None:
        self.began = time.monotonic()
        calculators = [_weights_state(name, config) for name in dict.fromkeys(s.calculator for s in plan.stages)]
        intent = plan.intent
        asked = (intent.isif, intent.nsw, intent.ibrion, intent.ediffg, round(intent.pressure_gpa, 6), intent.symprec)
        self.key = record_file.job_key(structure, (asked, plan.stages, plan.guards, calculators))
        self.fields: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            **where,
            "label": structure.comment.strip(),
            "formula": structure.formula,
            "natoms": len(structure),
            "pressure_gpa": intent.pressure_gpa,
            "isif": intent.isif,
            "nsw": intent.nsw,
            "ediffg": intent.ediffg,
            "protocol": plan.protocol,
            "key": self.key,
            "input": _geometry(structure.symbols, structure.cell, structure.scaled),
            "versions": {"uspex_bridge": version(), "python": platform.python_version()},
        }
        self.symbols = structure.symbols

    @property
    def seconds(self) -> float:
        """Wall time since the job began."""
        return time.monotonic() - self.began

    def failed(self, error: Exception) -> None:
        """Fill in an error, an unexpected one too."""
        rejected = isinstance(error, Rejected)
        self.fields |= {
            "status": "rejected" if rejected else "failed",
            "code": error.code if isinstance(error, Rejected) else type(error).__name__,
            "reason": str(error),
            "lasting": isinstance(error, Rejected) and error.lasting,
            "exit": error.exit_code if isinstance(error, BridgeError) else BridgeError.exit_code,
            "seconds": round(self.seconds, 3),
        }

    def done(self, result: RelaxResult) -> None:
        """Fill in a result."""
        self.fields |= self.outcome(result)

    def outcome(self, result: RelaxResult) -> dict[str, Any]:
        """Return what a result fills in."""
        final = result.final
        ase = sys.modules.get("ase")
        fields: dict[str, Any] = {
            "versions": {**self.fields["versions"], "ase": getattr(ase, "__version__", "")},
            "status": "converged" if result.converged else "unconverged",
            "reason": result.reason,
            "flags": list(result.flags),
            "exit": 0,
            "energy": final.energy,
            "enthalpy": result.enthalpy,
            "enthalpy_per_atom": result.enthalpy / len(self.symbols),
            "volume": final.volume,
            "fmax": result.fmax,
            "stress_left_gpa": result.stress_gpa,
            "steps": len(result.frames),
            "stages": [asdict(stage) for stage in result.stages],
            "models": result.models,
            "output": _geometry(self.symbols, final.cell, final.scaled)
            | {"forces": final.forces.round(6).tolist(), "stress": final.stress.tolist()},
            "seconds": round(self.seconds, 3),
        }
        if final.magmoms is not None:
            fields["output"]["magmoms"] = final.magmoms.round(4).tolist()
        return fields

    def summary(self, result: RelaxResult) -> str:
        """Return the line that ends a run."""
        stages = ", ".join(f"{s.name} {s.steps} steps {s.outcome}" for s in result.stages)
        flags = f" [{' '.join(result.flags)}]" if result.flags else ""
        status = "converged" if result.converged else "unconverged"
        return (
            f"{self.fields['formula']}: {status}, H = {result.enthalpy:.6f} eV "
            f"({result.enthalpy / len(self.symbols):.6f} eV/atom) at {result.pressure_gpa:g} GPa, "
            f"V = {result.final.volume:.3f} Å³, fmax {result.fmax:.4f} eV/Å, stress left {result.stress_gpa:.3f} GPa; "
            f"{stages}; {self.seconds:.1f} s{flags}"
        )


def _weights_state(name: str, config: Config) -> tuple[object, ...]:
    """Return what tells, without reading them, whether a calculator's weights are still the same."""
    settings = config.settings_of(name)
    try:
        path = backends.find_weights(name, settings).path
        state = path.stat() if path else None
    except (BridgeError, OSError):
        state = None
    return (settings, state.st_size, state.st_mtime_ns) if state else (settings,)


def _geometry(symbols: tuple[str, ...], cell: Any, scaled: Any) -> dict[str, Any]:
    return {"symbols": list(symbols), "cell": cell.tolist(), "scaled": scaled.tolist()}
