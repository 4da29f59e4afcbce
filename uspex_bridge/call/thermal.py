"""Free energies of many relaxed structures at several temperatures, kept in one folder and computed once."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Intent, Structure
from uspex_bridge.base.errors import BridgeError, ConfigError, Interrupted, ModelError, OutputError, Rejected
from uspex_bridge.base.files import write_whole, writing
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.parallel import spread
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call import record_file
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import Config
from uspex_bridge.call.free_energy import downhill_of, harmonic_of, refuse_imaginary, scha_of, spectrum
from uspex_bridge.call.many import RelaxTask, close_models, kept_models
from uspex_bridge.call.record_line import geometry, reason_of, weights_state
from uspex_bridge.call.run import Models, relax_structure
from uspex_bridge.models.cards import model_name
from uspex_bridge.relaxation.protocol import FreeEnergyStep, Plan, make_plan
from uspex_bridge.vibrations.hessian import hessian
from uspex_bridge.vibrations.modes import Density, Modes
from uspex_bridge.vibrations.qha import at_volumes, quasi_harmonic
from uspex_bridge.vibrations.upscale import small_state

Method = Literal["harmonic", "qha", "scha"]
#: Lines of what was computed, and folders of phonons, with the configurations that ``scha`` averaged over, and of what
#: a calculation goes on from, in the task's folder.
LINES, PHONONS, STATES = "free-energy.jsonl", "phonons", "state"
#: All that phonons hang on of what is asked; the rest is for ``scha``.
_OF_PHONONS = ("supercell", "min_image", "mesh", "isotopes", "seed")
#: eV/Å, forces left at rest before phonons are computed.
_FMAX = 0.005


def asked_of(**settings: Any) -> FreeEnergyStep:
    """Return what is asked of free energies, from settings of ``[free_energy]``.

    Raises:
        ConfigError: one is impossible.
    """
    try:
        return FreeEnergyStep(**settings)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class FreeEnergyTask:
    """What to compute of every structure.

    Attributes:
        config: settings; the model is that of the protocol's last stage.
        out: folder of the results; what it has already is not computed again.
        pressure: GPa.
        temperatures: K.
        asked: supercell, errors, masses and seed; method and temperature come from elsewhere.
        follow: also displaces crystals with imaginary modes along the lowest one.
        workers, scheduler: see :class:`uspex_bridge.call.many.RelaxTask`.
        keep_models: leaves this process's models loaded for the next call.
    """

    config: Config
    out: Path
    pressure: float
    temperatures: tuple[float, ...]
    asked: FreeEnergyStep = field(default_factory=FreeEnergyStep)
    follow: bool = False
    workers: int = 1
    scheduler: str | None = None
    keep_models: bool = False

    def step(self, method: Literal["harmonic", "scha"], temperature: float) -> FreeEnergyStep:
        """Return what is asked at one temperature.

        Raises:
            ConfigError: the temperature is impossible.
        """
        return asked_of(**vars(self.asked) | {"method": method, "temperature": temperature})

    def at_rest(self, *, keep_symmetry: bool) -> RelaxTask:
        """Return the relaxation that free energies begin with; what the folder has of it is kept."""
        return RelaxTask(
            self.config,
            self.out,
            self.pressure,
            fmax=_FMAX,
            keep_symmetry=keep_symmetry,
            resume=True,
            workers=self.workers,
            scheduler=self.scheduler,
            keep_models=self.keep_models,
        )


@dataclass(frozen=True)
class Rest:
    """A structure relaxed at 0 K: its name, itself, and H in eV per cell."""

    name: str
    structure: Structure
    enthalpy: float


def free_energies(structures: Iterable[Rest], method: Method, task: FreeEnergyTask) -> Iterator[dict[str, Any]]:
    """Compute the free energies of structures at every temperature of a task.

    Args:
        structures: relaxed with the same model at the same pressure.
        method: harmonic phonons, also at several volumes (``qha``), serve all temperatures; the self-consistent ones
            are computed at each.
        task: what to compute.

    Yields:
        a line per structure and temperature: ``name``, ``method``, ``temperature``, ``status`` (``converged``,
        ``unconverged``, ``rejected``, ``failed``), ``reason``, ``flags``; with a free energy ``g``, ``g_error``, ``f``
        (eV per cell), ``volume`` (Å³) and the rest that the record of a search has.

    Raises:
        ConfigError, ModelError: nothing can be computed with these settings.
        ServiceError: the Dask scheduler does not answer, or no longer.
        OutputError: the folder cannot be written.
    """
    with writing(task.out):
        for name in (PHONONS, STATES):
            (task.out / name).mkdir(parents=True, exist_ok=True)
    protocol, _ = choose_protocol(task.config)
    plan = make_plan(replace(protocol, free_energy=None), Intent(pressure_gpa=task.pressure), task.config.stages)
    before = kept_lines(task.out / LINES)
    known: list[dict[str, Any]] = []

    def jobs() -> Iterator[_Job]:
        for rest in structures:
            together = [(t,) for t in task.temperatures] if method == "scha" else [task.temperatures]
            for temperatures in together:
                job = _Job(rest, method, temperatures, task, plan)
                done = [before.get((job.key, t)) for t in temperatures]
                if all(line is not None and job.told_by(line) for line in done):
                    known.extend(line | {"name": rest.name} for line in done if line is not None)
                else:
                    yield job

    try:
        for job, found in spread(_compute, jobs(), task.workers, task.scheduler):
            yield from known
            known.clear()
            outcome = _Outcome(_failed(job, found)) if isinstance(found, BridgeError) else found
            if outcome.phonons:
                write_whole(task.out / PHONONS / f"{job.key}.npz", outcome.phonons)
            jsonl.append(task.out / LINES, *outcome.lines)
            yield from outcome.lines
        yield from known
    finally:
        if not task.keep_models:
            close_models()


def kept_lines(path: Path) -> dict[tuple[str, float], dict[str, Any]]:
    """Return the lines of a file by key and temperature, but for those of calculations that were stopped."""
    if not path.is_file():
        return {}
    kept = (line for line in jsonl.read(path) if line.get("code") != Interrupted.__name__ and not line.get("stopped"))
    return {(line["key"], line["temperature"]): line for line in kept if {"key", "temperature"} <= line.keys()}


@dataclass(frozen=True)
class _Job:
    """One structure, at all temperatures of a method that needs no more for them."""

    rest: Rest
    method: Method
    temperatures: tuple[float, ...]
    task: FreeEnergyTask
    plan: Plan

    @property
    def calculator(self) -> str:
        return self.plan.stages[-1].calculator

    @property
    def key(self) -> str:
        what = self.task.step("scha" if self.method == "scha" else "harmonic", self.temperatures[0])
        if self.method != "scha":
            what = FreeEnergyStep(0.0, "harmonic", **{name: getattr(what, name) for name in _OF_PHONONS})
        model = weights_state(self.calculator, self.task.config)
        return record_file.job_key(self.rest.structure, (self.method, what, round(self.task.pressure, 6), model))

    def told_by(self, line: Mapping[str, Any]) -> bool:
        """Tell whether a line that is there already says all that is asked."""
        if self.method == "scha" and "g" in line:
            return (self.task.out / PHONONS / f"{self.key}.npz").is_file()
        return not (self.task.follow and line.get("code") == "unstable") or "downhill" in line


@dataclass(frozen=True)
class _Outcome:
    """Lines of a job, and the file of its phonons where it has any."""

    lines: list[dict[str, Any]]
    phonons: bytes = b""


def _compute(job: _Job) -> _Outcome:
    """Compute one job, in whichever process.

    Raises:
        ConfigError, ModelError, OutputError: what would be the same for all structures.
    """
    task, began = job.task, time.monotonic()
    with kept_models(task.config) as models:
        halter = Halter()
        halter.start(task.config.time_limit)
        try:
            model = models(job.calculator)
            model.check_elements(job.rest.structure.symbols)
            common = {"level": model_name(model.identity)}
            if job.method == "qha":
                found = _quasi_harmonic(job, models, halter)
            else:
                found = _harmonic(job, model, halter) if job.method == "harmonic" else _scha(job, model, halter)
        except BridgeError as error:
            if error.exit_code in (ConfigError.exit_code, ModelError.exit_code, OutputError.exit_code):
                raise
            return _Outcome(_failed(job, error))
        finally:
            halter.close()
    seconds = round(time.monotonic() - began, 3)
    return replace(found, lines=[line | common | {"seconds": seconds} for line in found.lines])


def _harmonic(job: _Job, model: Any, halter: Halter) -> _Outcome:
    phonons = harmonic_of(job.rest.structure, model, job.task.step("harmonic", 0.0), halter)
    summary, lines = phonons.summary(), []
    try:
        refuse_imaginary(phonons)
    except Rejected as refusal:
        lines = [line | summary for line in _failed(job, refusal)]
        if job.task.follow:
            lower = downhill_of(phonons, model, halter)
            lines = [line | {"downhill": None if lower is None else geometry(lower.symbols, lower)} for line in lines]
    else:
        flags = ["imaginary-between"] if phonons.imaginary_between else []
        for temperature in job.temperatures:
            # H of the relaxation, as the phonons' own evaluation at rest may differ by a batch's noise.
            g = job.rest.enthalpy + phonons.phonons.free_energy(temperature)
            f = g - pv_energy(job.task.pressure, job.rest.structure.volume)
            lines.append(
                _base(job, temperature)
                | summary
                | {"status": "converged", "reason": "harmonic", "flags": flags, "g": g, "g_error": None, "f": f}
            )
    return _Outcome(lines, _packed(spectrum(phonons.phi, phonons.lattice)))


def _quasi_harmonic(job: _Job, models: Models, halter: Halter) -> _Outcome:
    """Relax at several volumes, symmetry kept, and find the one of lowest G at each temperature."""
    task, crystals = job.task, []
    intent = Intent(isif=4, nsw=job.plan.intent.nsw, keep_symmetry=True)
    plan = replace(job.plan, intent=intent)
    asked, model = task.step("harmonic", 0.0), models(job.calculator)
    for start in at_volumes(job.rest.structure):
        result = relax_structure(start, plan, models, halter, lambda step: None)
        squeezed = replace(start, cell=result.final.cell, scaled=result.final.scaled)
        crystals.append(harmonic_of(squeezed, model, asked, halter))
        refuse_imaginary(crystals[-1])
    found = quasi_harmonic(crystals, job.temperatures, task.pressure)
    middle = crystals[len(crystals) // 2]
    common = middle.summary() | {"evaluations": sum(one.evaluations for one in crystals)}
    common |= {"flags": ["imaginary-between"] if any(one.imaginary_between for one in crystals) else []}
    lines: list[dict[str, Any]] = []
    for k, temperature in enumerate(job.temperatures):
        line = _base(job, temperature) | common
        if np.isnan(found.gibbs[k]):
            said = "G has no minimum within 5 % of the volume at rest"
            lines.append(line | {"status": "rejected", "code": "volume", "reason": said})
            continue
        g, volume = float(found.gibbs[k]), float(found.volumes[k])
        line |= {"g": g, "g_error": float(found.residuals[k]), "volume": volume}
        line |= {"f": g - pv_energy(task.pressure, volume), "modulus_gpa": float(found.moduli[k])}
        lines.append(line | {"status": "converged", "reason": "quasi-harmonic, the error is that of the fit"})
    return _Outcome(lines)


def _scha(job: _Job, model: Any, halter: Halter) -> _Outcome:
    (temperature,) = job.temperatures
    asked = job.task.step("scha", temperature)
    state = job.task.out / STATES / f"{job.key}.npz"
    stopped: list[str] = []

    def halt() -> Any:
        if why := halter():
            stopped.append(why)
        return why

    found = scha_of(job.rest.structure, model, asked, job.plan, halt, state)
    for path in () if stopped else (state, small_state(state)):
        path.unlink(missing_ok=True)
    crystal = found.structure
    line = _base(job, temperature) | found.summary() | {"structure": geometry(crystal.symbols, crystal)}
    phonons = spectrum(found.phi, found.lattice)
    phonons |= {"displacements": found.ensemble.displacements, "energies": found.ensemble.energies}
    density = Density(Modes.of(found.phi, found.lattice.all_masses), temperature)
    if (curved := hessian(found.lattice, density, found.ensemble)) is not None:
        line |= curved.summary()
        phonons["hessian"] = curved.phi
    line |= {"status": "converged" if found.converged else "unconverged"}
    line |= {"stopped": stopped[0]} if stopped else {}
    return _Outcome([line], _packed(phonons))


def _base(job: _Job, temperature: float) -> dict[str, Any]:
    structure = job.rest.structure
    return {
        "key": job.key,
        "name": job.rest.name,
        "method": job.method,
        "temperature": temperature,
        "pressure_gpa": job.task.pressure,
        "formula": structure.formula,
        "natoms": len(structure),
        "enthalpy_at_rest": job.rest.enthalpy,
    }


def _failed(job: _Job, error: BridgeError) -> list[dict[str, Any]]:
    return [_base(job, temperature) | reason_of(error) | {"flags": []} for temperature in job.temperatures]


def _packed(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()
