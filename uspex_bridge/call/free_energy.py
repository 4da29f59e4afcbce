"""The free energy of a relaxed structure, the last frame of its result in place of a potential energy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.data import Array, Frame, RelaxResult, StageReport, Structure
from uspex_bridge.base.errors import ConfigError, InputError, Interrupted, OutOfMemoryError, Rejected
from uspex_bridge.models.batcher import gpu_of
from uspex_bridge.models.passes import Budget
from uspex_bridge.relaxation.cell import largest_force, motion
from uspex_bridge.relaxation.protocol import FreeEnergyStep, Plan
from uspex_bridge.vibrations.downhill import downhill
from uspex_bridge.vibrations.harmonic import Harmonic, harmonic
from uspex_bridge.vibrations.report import FreeEnergy
from uspex_bridge.vibrations.scha import CONVERGED, scha
from uspex_bridge.vibrations.settings import Settings
from uspex_bridge.vibrations.supercell import Supercell
from uspex_bridge.vibrations.upscale import upscaled

if TYPE_CHECKING:
    from uspex_bridge.models.backends import Backend
    from uspex_bridge.relaxation.monitor import Why
    from uspex_bridge.vibrations.ensemble import Evaluate

#: Structures that a model gets at most at once, on a CPU, where a batch gains little, and on a GPU. A run that is told
#: to stop does so between such pieces.
_AT_ONCE = (4, 32)
#: Name of the free energy's report beside those of the stages.
STAGE = "free-energy"
_WORDS = {"time": "time limit reached", "file": "stopped by STOPCAR"}


class Stopped(Exception):
    """Told to stop between two pieces of a population."""


def with_free_energy(
    structure: Structure, result: RelaxResult, plan: Plan, model: Backend, halt: Callable[[], Why | None]
) -> RelaxResult:
    """Append the free energy that a plan asks for to the result of its stages.

    Args:
        structure: as it came.
        result: of the stages, at rest.
        plan: with a ``free_energy``.
        model: of the last stage.
        halt: asked between evaluations.

    Raises:
        Rejected: harmonic phonons are imaginary, the crystal melts, or too many configurations fail.
        InputError: atoms are fixed, or no symmetry is found.
        ConfigError, ModelError, CalculationError: see :func:`uspex_bridge.vibrations.scha.scha`.
        Interrupted: told to stop before there was a free energy.
    """
    asked = plan.free_energy
    assert asked is not None
    assert asked.temperature is not None
    if structure.free is not None and not structure.free.all():
        raise InputError("a free energy of a structure with fixed atoms is meaningless; remove selective dynamics")
    rest = replace(structure, cell=result.final.cell, scaled=result.final.scaled, free=None)
    began = time.monotonic()
    if asked.method == "harmonic":
        phonons = harmonic_of(rest, model, asked, halt)
        found = _at_rest(phonons, result, asked.temperature, plan)
    else:
        found = _relaxed(scha_of(rest, model, asked, plan, halt), result, plan)
    frame, report, summary, flags, converged = found
    return replace(
        result,
        frames=(*result.frames, frame),
        stages=(*result.stages, replace(report, seconds=round(time.monotonic() - began, 3))),
        converged=result.converged and converged,
        reason=f"{result.reason}; {report.detail}",
        flags=tuple(dict.fromkeys((*result.flags, *flags))),
        fmax=report.fmax if report.fmax is not None else result.fmax,
        stress_gpa=report.stress_gpa if report.stress_gpa is not None else result.stress_gpa,
        model_start=len(result.frames),
        free_energy=summary | {"enthalpy_at_rest": result.enthalpy, "seconds": round(time.monotonic() - began, 3)},
    )


def harmonic_of(rest: Structure, model: Backend, asked: FreeEnergyStep, halt: Callable[[], Why | None]) -> Harmonic:
    """Return the harmonic phonons of a relaxed structure.

    Raises:
        Interrupted: told to stop.
        ConfigError, InputError, ModelError, CalculationError: see :func:`uspex_bridge.vibrations.harmonic.harmonic`.
    """
    with interrupting("the phonons were done; there is no free energy"):
        return harmonic(
            rest,
            evaluator(model, halt),
            repeats=asked.supercell,
            min_image=asked.min_image,
            mesh=asked.mesh,
            isotopes=asked.isotopes,
            seed=asked.seed,
        )


def downhill_of(phonons: Harmonic, model: Backend, halt: Callable[[], Why | None]) -> Structure | None:
    """Return an unstable crystal displaced along its lowest mode, None where nothing there lies lower.

    Raises:
        Interrupted: told to stop.
        CalculationError: the model failed.
    """
    with interrupting("the lowest mode was followed"):
        return downhill(phonons, evaluator(model, halt))


def scha_of(
    rest: Structure,
    model: Backend,
    asked: FreeEnergyStep,
    plan: Plan,
    halt: Callable[[], Why | None],
    state: Path | None = None,
) -> FreeEnergy:
    """Return the self-consistent free energy of a structure that has been relaxed at 0 K.

    Args:
        rest: it.
        model: what evaluates.
        asked: with a temperature.
        plan: what may move, and the pressure.
        halt: a reason ends the calculation with the last population that is whole.
        state: file to go on from; None keeps it for this call alone.

    Raises:
        Interrupted: told to stop before the first population.
        Rejected, ConfigError, InputError, ModelError, CalculationError: see :func:`uspex_bridge.vibrations.scha.scha`.
    """
    with tempfile.TemporaryDirectory(prefix="uspex-bridge-") as folder:
        path = state or Path(folder) / "state.npz"
        settings, run = _settings(asked, plan), upscaled if asked.upscale else scha
        try:
            return run(rest, evaluator(model, halt), settings, isotopes=asked.isotopes, state=path)
        except Stopped as stop:
            said = str(stop)
        return run(
            rest, evaluator(model, lambda: None), settings, isotopes=asked.isotopes, state=path, halt=lambda: said
        )


def _settings(asked: FreeEnergyStep, plan: Plan) -> Settings:
    assert asked.temperature is not None
    ions, cell = motion(plan.intent.isif)
    if cell == "shape":
        raise ConfigError(f"ISIF = {plan.intent.isif}: scha relaxes no cell at constant volume")
    return Settings(
        temperature=asked.temperature,
        pressure_gpa=plan.pressure_gpa,
        cell=cell,
        ions=ions,
        repeats=asked.supercell,
        min_image=asked.min_image,
        configs=asked.configs,
        populations=asked.populations,
        final_configs=asked.final_configs,
        g_error=asked.g_error,
        mesh=asked.mesh,
        seed=asked.seed,
    )


def evaluator(model: Backend, halt: Callable[[], Why | None]) -> Evaluate:
    """Return what evaluates structures in pieces that fit the memory.

    What it returns raises Stopped or, where a signal came, Interrupted between pieces.
    """
    gpu = gpu_of(model)
    budget, most = Budget(gpu), _AT_ONCE[bool(gpu)]

    def evaluate(structures: Sequence[Any]) -> list[Any]:
        answers: list[Any] = []
        while len(answers) < len(structures):
            if why := halt():
                if why == "signal":
                    raise Interrupted("stopped by a signal before the free energy was done; nothing was written")
                raise Stopped(_WORDS[why])
            piece = structures[len(answers) : len(answers) + most]
            sizes = [model.size_of(atoms) for atoms in piece]
            number = budget.fitting(sizes)
            budget.begin()
            try:
                answers += model.evaluate_many(piece[:number])
            except OutOfMemoryError:
                if number == 1:
                    raise
                budget.failed(sum(sizes[:number]))
            else:
                budget.passed(sum(sizes[:number]))
        return answers

    return evaluate


@contextmanager
def interrupting(what: str) -> Iterator[None]:
    """End a calculation that keeps nothing to go on from where an :func:`evaluator` is told to stop.

    Raises:
        Interrupted: it was, before ``what``.
    """
    try:
        yield
    except Stopped as stop:
        raise Interrupted(f"{stop} before {what}") from None


_Found = tuple[Frame, StageReport, dict[str, Any], tuple[str, ...], bool]


def _at_rest(phonons: Harmonic, result: RelaxResult, temperature: float, plan: Plan) -> _Found:
    """Return the frame, report, record, flags of a harmonic free energy, which moves nothing."""
    refuse_imaginary(phonons)
    final = result.final
    frame = replace(final, energy=phonons.free_energy(temperature) - phonons.energy + final.energy)
    said = f"harmonic free energy at {temperature:g} K"
    flags = ("imaginary-between",) if phonons.imaginary_between else ()
    summary = {"method": "harmonic", "temperature": temperature, **phonons.summary()}
    return frame, _report(result, plan, "harmonic", frame, 1, phonons.evaluations, said, True), summary, flags, True


def refuse_imaginary(phonons: Harmonic) -> None:
    """Refuse a crystal that is no minimum.

    Raises:
        Rejected: it has imaginary modes.
    """
    if phonons.imaginary:
        raise Rejected(
            "unstable",
            f"imaginary modes, the lowest at {phonons.lowest_held_thz:.2f} THz: there is no harmonic free energy; "
            'method = "scha" may find the crystal stable at this temperature',
        )


def _relaxed(found: FreeEnergy, result: RelaxResult, plan: Plan) -> _Found:
    """Return the same of a self-consistent one."""
    frame = found.frame(len(plan.stages) - 1)
    said = f"scha at {found.temperature:g} K: {found.reason}, G ± {found.error:.4f} eV"
    report = _report(result, plan, "scha", frame, len(found.history), found.evaluations, said, found.converged)
    ions, _ = motion(plan.intent.isif)
    report = replace(
        report,
        fmax=largest_force(found.forces, ions),
        stress_gpa=abs(found.pressure_gpa - plan.pressure_gpa),
    )
    flags = tuple(flag for flag in found.flags if flag != "scha-unconverged")
    if found.reason != CONVERGED:
        flags = (*flags, "unconverged")
    return frame, report, found.summary(), flags, found.converged


def _report(
    result: RelaxResult, plan: Plan, method: str, frame: Frame, steps: int, evaluations: int, said: str, done: bool
) -> StageReport:
    last = result.stages[-1]
    return StageReport(
        name=STAGE,
        calculator=last.calculator,
        model=last.model,
        optimizer=method,
        outcome="converged" if done else "steps",
        steps=steps,
        evaluations=evaluations,
        seconds=0.0,
        energy=float(frame.energy),
        enthalpy=float(frame.enthalpy(plan.pressure_gpa)),
        fmax=None,
        stress_gpa=None,
        detail=said,
    )


def spectrum(phi: Array, lattice: Supercell) -> dict[str, Any]:
    """Return what a file keeps of phonons: force constants and the supercell they belong to."""
    return {"phi": phi} | lattice.arrays
