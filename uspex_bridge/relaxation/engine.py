"""The staged relaxation of one structure. It knows no file: structure and plan in, result out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixSymmetry

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Frame, Outcome, RelaxResult, StageReport, Structure
from uspex_bridge.base.errors import CalculationError, Interrupted, Rejected
from uspex_bridge.base.symmetry import is_symmetric
from uspex_bridge.base.units import gpa_to_ev_a3, pressure_of
from uspex_bridge.relaxation.cell import CellMode, largest_force, motion, movable, stress_left
from uspex_bridge.relaxation.descent import extrapolated
from uspex_bridge.relaxation.guards import check_further, check_geometry, check_result, check_start
from uspex_bridge.relaxation.holes import COMFORTABLE, fill, scan, too_dense
from uspex_bridge.relaxation.monitor import Halt, Monitor, Potential, Why
from uspex_bridge.relaxation.optimizers import optimizer as optimizer_class
from uspex_bridge.relaxation.overlap import push_apart
from uspex_bridge.relaxation.protocol import Plan, Stage
from uspex_bridge.relaxation.saddles import step_off
from uspex_bridge.relaxation.trajectory import Trajectory

#: Symmetry is looked for with this tolerance (Å) unless SYMPREC says otherwise: POSCARs of USPEX have 6 digits.
_SYMPREC = 1e-3
#: A start that is symmetric to this many Å ends on a saddle point for want of anything that pulls it off.
_ALIKE = 0.02
#: A stage to forces of this, eV/Å, ends near enough to a stationary point to be probed before another model goes on.
_STATIONARY = 0.1
#: Saddle points that are left one after the other, and what that must gain, eV/atom; less is the noise of models.
_ROUNDS, _GAIN = 3, 1e-3


@dataclass(frozen=True)
class IonicStep:
    """What an observer hears after every ionic step (units of :mod:`uspex_bridge.base.data`)."""

    stage: str
    index: int
    energy: float
    enthalpy: float
    fmax: float
    stress_gpa: float
    volume: float


def relax(
    structure: Structure,
    plan: Plan,
    model_of: Callable[[str], Potential],
    *,
    halt: Callable[[], Why | None] = lambda: None,
    observe: Callable[[IonicStep], None] = lambda step: None,
    lowest: Callable[[], float | None] = lambda: None,
    ceiling: Callable[[], float | None] = lambda: None,
) -> RelaxResult:
    """Relax ``structure`` as ``plan`` says.

    Args:
        structure: the starting structure.
        plan: stages, guards and intent.
        model_of: gives the loaded model of a calculator name; called when a stage needs it.
        halt: asked before every evaluation; ``time`` or ``file`` ends the run with what is reached.
        observe: called after every ionic step.
        lowest: gives the lowest enthalpy known of this composition at this pressure, eV/atom, or None: a result below
            it is scanned for holes.
        ceiling: gives the enthalpy, eV/atom, above which a result is of no use, or None; asked once. A relaxation
            that by its descent so far ends above it is ended there, unconverged.

    Returns:
        The result, converged or not. Its last frame is always the last stage's model's; where the relaxation ended
        before its targets were reached, it is the lowest in enthalpy that this model saw.

    Raises:
        Rejected: a guard refused the structure; it carries the result where that lies in a hole.
        CalculationError: the model of the last stage failed.
        InputError: a model does not know an element.
        Interrupted: stopped by a signal, or otherwise before there was any step.
    """
    return _Relaxation(structure, plan, model_of, halt, observe, lowest, ceiling).run()


class _Relaxation:
    """State of one run: the atoms as they are now, and everything that was recorded on the way."""

    def __init__(
        self,
        structure: Structure,
        plan: Plan,
        model_of: Callable[[str], Potential],
        halt: Callable[[], Why | None],
        observe: Callable[[IonicStep], None],
        lowest: Callable[[], float | None],
        ceiling: Callable[[], float | None],
    ) -> None:
        self.plan = plan
        self.model_of = model_of
        self.halt = halt
        self.observe = observe
        self.lowest = lowest
        self.ceiling = cache(ceiling)
        self.atoms = to_atoms(structure)
        self.done = Trajectory(plan.pressure_gpa)
        self.flags: list[str] = []
        self.monitors: dict[str, Monitor] = {}
        self.start_volume = 0.0
        self.symmetric = False
        self.ended_in = ""

    def run(self) -> RelaxResult:
        plan, intent = self.plan, self.plan.intent
        ions, cell = motion(intent.isif)
        moves = not intent.static and cell != "fixed"
        overlapping = check_start(self.atoms, plan.guards, cell_moves=moves, pressure_gpa=plan.pressure_gpa)
        check_further(self.atoms, plan.guards, "start", plan.pressure_gpa)
        if intent.static:
            self.start_volume = float(np.linalg.det(self.atoms.cell.array))
            check_result(self.atoms, plan.guards)
            return self._static()
        if overlapping:
            aim, floor = plan.guards.overlap_ratio, plan.guards.collapse_ratio
            push_apart(self.atoms, aim, floor, ions=ions, expand=cell in ("full", "volume"))
            self.flags.append("overlap-pushed")
        self.start_volume = float(np.linalg.det(self.atoms.cell.array))
        self.symmetric = self._is_symmetric()
        if intent.keep_symmetry:
            symmetry = FixSymmetry(self.atoms, symprec=max(intent.symprec or _SYMPREC, 1e-5))
            self.atoms.set_constraint([*self.atoms.constraints, symmetry])
        outcome = self._stages()
        self._final_model()
        return self._result(self._leave_saddles(len(self.plan.stages) - 1, outcome))

    def _static(self) -> RelaxResult:
        """One evaluation by the last stage's model."""
        self._evaluate_once(len(self.plan.stages) - 1)
        return self._result("static")

    def _stages(self) -> Outcome:
        """Run the stages; return how the last of them ended."""
        outcome: Outcome = "steps"
        for index, stage in enumerate(self.plan.stages):
            if len(self.done) >= self.plan.intent.nsw:
                return "steps"
            self.ended_in = stage.name
            start, first = self.atoms.copy(), len(self.done)
            try:
                outcome = self._stage(index, stage)
            except (Rejected, CalculationError):
                # A preconditioning stage that breaks down is skipped: the next one starts where it did.
                if index == len(self.plan.stages) - 1 or stage.on_fail != "next":
                    raise
                self.atoms.set_cell(start.cell)
                self.atoms.set_positions(start.positions, apply_constraint=False)
                self.done.forget(first)
                self.flags.append(f"{stage.name}-failed")
                continue
            if outcome in ("time", "file", "above"):
                return outcome
            if outcome == "steps" and stage.on_fail == "reject":
                left = f"{self.done.reports[-1].fmax:.3g} eV/Å left after {self.done.reports[-1].steps} steps"
                raise Rejected("unconverged", f"stage '{stage.name}' did not reach its targets: {left} (on_fail)")
            if outcome == "steps" and stage.on_fail == "stop":
                return outcome
            self._leave_early(index, outcome)
        return outcome

    def _stage(self, index: int, stage: Stage) -> Outcome:
        monitor = self._monitor(stage.calculator)
        began, before, first = time.monotonic(), monitor.evaluations, len(self.done)
        ions, cell = motion(self.plan.intent.isif, stage.move)
        self.atoms.calc = monitor
        target = movable(self.atoms, ions, cell, self.plan.pressure_gpa)
        limit = min(stage.steps, self.plan.intent.nsw - first - int(self.done.is_new(stage.calculator)))
        outcome: Outcome = "failed"
        detail, steps = "", 0
        try:
            optimizer = optimizer_class(stage.optimizer)(target, logfile=None, maxstep=stage.maxstep)
            for _ in optimizer.irun(fmax=0.0, steps=limit):
                steps = optimizer.nsteps
                if self._record(index, stage, ions, cell, first):
                    outcome = "converged"
                    break
                if self._is_hopeless(stage):
                    outcome = "above"
                    break
            else:
                outcome = "steps"
        except Halt as halt:
            outcome = halt.why
        except (np.linalg.LinAlgError, ValueError, RuntimeError, FloatingPointError) as error:
            detail = f"{stage.optimizer} failed: {error}"
            raise CalculationError(f"{detail} (stage '{stage.name}')") from error
        except (Rejected, CalculationError) as error:
            detail = str(error)
            raise
        finally:
            if outcome in ("steps", "time", "file", "above"):
                self._return_to_lowest()
            self._report(index, stage, outcome, steps, monitor.evaluations - before, began, detail)
        return outcome

    def _record(self, index: int, stage: Stage, ions: bool, cell: CellMode, first: int) -> bool:
        """Keep the step the atoms are at, tell the observer, return whether the stage's targets are reached."""
        frame = self.monitors[stage.calculator].frame(self.atoms, index)
        self.done.add(frame, stage.calculator)
        fmax, stress = self._residuals(frame, ions, cell)
        enthalpy = frame.enthalpy(self.plan.pressure_gpa)
        self.observe(IonicStep(stage.name, len(self.done), frame.energy, enthalpy, fmax, stress, frame.volume))
        if stage.ediff is not None:
            recent = self.done.enthalpies(first)[-3:]
            return len(recent) == 3 and float(np.abs(np.diff(recent)).max()) < stage.ediff
        if stage.stress is not None:
            return fmax < stage.fmax and stress < stage.stress
        per_atom = frame.volume / len(self.atoms)
        return fmax < stage.fmax and gpa_to_ev_a3(stress) * per_atom < stage.fmax

    def _is_hopeless(self, stage: Stage) -> bool:
        """Tell whether the last model's descent so far ends above the ceiling."""
        last, intent = self.plan.stages[-1].calculator, self.plan.intent
        if stage.calculator != last or self.symmetric or motion(intent.isif, stage.move) != (True, "full"):
            return False
        enthalpies = self.done.enthalpies(self.done.start_of_model)
        end = extrapolated([enthalpy / len(self.atoms) for enthalpy in enthalpies])
        return end is not None and (ceiling := self.ceiling()) is not None and end > ceiling

    def _residuals(self, frame: Frame, ions: bool, cell: CellMode) -> tuple[float, float]:
        """Return the largest force on what may move (eV/Å) and the stress left to relax (GPa) at the atoms' frame."""
        forces = frame.forces.copy()
        for constraint in self.atoms.constraints:
            constraint.adjust_forces(self.atoms, forces)
        return largest_force(forces, ions), stress_left(frame.stress, cell, self.plan.pressure_gpa)

    def _return_to_lowest(self) -> None:
        """Put the atoms at the lowest of the steps of the last model in a row, which becomes the last step."""
        if self.done.frames:
            self.done.put_lowest_last()
            self._return_to(self.done.last)

    def _return_to(self, frame: Frame) -> None:
        """Put the atoms back where a step was taken."""
        self.atoms.set_cell(frame.cell)
        self.atoms.set_positions(frame.positions, apply_constraint=False)

    def _monitor(self, calculator: str) -> Monitor:
        if calculator not in self.monitors:
            model = self.model_of(calculator)
            model.check_elements(self.atoms.get_chemical_symbols())
            self.monitors[calculator] = Monitor(model, self.plan.guards, self.start_volume, self.halt)
        return self.monitors[calculator]

    def _final_model(self) -> None:
        """Make sure that the result carries the last stage's energy, however early the run ended."""
        last = len(self.plan.stages) - 1
        if not self.done.frames:
            raise Interrupted("stopped before the end of the first step; nothing was written")
        if self.done.is_new(self.plan.stages[last].calculator):
            self._return_to(self.done.last)
            self._evaluate_once(last)

    def _moving(self, stage: Stage | None = None) -> tuple[bool, CellMode]:
        """Return whether the ions move and how the cell does; of a single point all that a relaxation would move."""
        if self.plan.intent.static:
            return True, "full"
        return motion(self.plan.intent.isif, "auto" if stage is None else stage.move)

    def _evaluate_once(self, index: int) -> None:
        stage = self.plan.stages[index]
        began = time.monotonic()
        monitor = self._monitor(stage.calculator)
        monitor.halt = lambda: None
        check_geometry(self.atoms, self.plan.guards, self.start_volume)
        self.atoms.calc = monitor
        ions, cell = self._moving()
        self._record(index, stage, ions, cell, len(self.done))
        self._report(index, stage, "static", 0, 1, began, "single point")

    def _report(
        self, index: int, stage: Stage, outcome: Outcome, steps: int, evaluations: int, began: float, detail: str
    ) -> None:
        reached = outcome != "failed" and self.done.frames and self.done.last.stage == index
        last = self.done.last if reached else None
        ions, cell = self._moving(stage)
        fmax, stress = self._residuals(last, ions, cell) if last is not None else (None, None)
        model = self.monitors[stage.calculator].model.identity
        self.done.reports.append(
            StageReport(
                name=stage.name,
                calculator=stage.calculator,
                model=str(model.get("model", "")),
                optimizer=stage.optimizer,
                outcome=outcome,
                steps=steps,
                evaluations=evaluations,
                seconds=round(time.monotonic() - began, 3),
                energy=None if last is None else last.energy,
                enthalpy=None if last is None else last.enthalpy(self.plan.pressure_gpa),
                fmax=fmax,
                stress_gpa=stress,
                detail=detail,
            )
        )

    def _leave_early(self, index: int, outcome: Outcome) -> None:
        """Let a model that hands a stationary point on to another one leave it, if it is a saddle point.

        That is cheaper than to let the other one find out. What there is to tell of the result is up to the last model.
        """
        stages, guards = self.plan.stages, self.plan.guards
        hands_on = index + 1 < len(stages) and stages[index + 1].calculator != stages[index].calculator
        if hands_on and stages[index].fmax <= _STATIONARY and guards.saddle == "leave" and self.symmetric:
            flags = list(self.flags)
            if not self.plan.intent.keep_symmetry:
                self._leave_saddles(index, outcome)
            self.flags, self.symmetric = flags, self._is_symmetric()

    def _leave_saddles(self, index: int, outcome: Outcome) -> Outcome:
        """Go on downhill from where only the symmetry of the start holds the atoms; return how that ended.

        Args:
            index: of the stage that does so.
            outcome: of the relaxation so far.
        """
        guards, intent = self.plan.guards, self.plan.intent
        if outcome != "converged" or not self.symmetric:
            return outcome
        if guards.saddle == "off" or intent.keep_symmetry:
            self.flags.append("unprobed")
            return outcome
        for left in range(_ROUNDS):
            before, count = self.done.last, len(self.done)
            try:
                if not self._step_off(index):
                    return outcome
                if guards.saddle == "leave" and len(self.done) < intent.nsw:
                    outcome = self._stage(index, self.plan.stages[index])
            except (Halt, Rejected, CalculationError):
                self.done.forget(count)
                self.flags.append("saddle" if left else "unprobed")
                break
            gain = before.enthalpy(intent.pressure_gpa) - self.done.last.enthalpy(intent.pressure_gpa)
            if len(self.done) == count:
                self.flags.append("saddle")
                break
            if gain < _GAIN * len(self.atoms):
                self.done.forget(count)
                self._return_to(before)
                return "converged"
            if not left:
                self.flags.append("saddle-left")
            if outcome != "converged":
                return outcome
        else:
            self.flags.append("saddle")
        self._return_to(self.done.last)
        return outcome

    def _step_off(self, index: int) -> bool:
        """Displace the atoms to where the enthalpy is lower along the softest mode; return whether it is anywhere."""
        stage = self.plan.stages[index]
        monitor = self._monitor(stage.calculator)
        before = monitor.evaluations
        ions, cell = motion(self.plan.intent.isif, stage.move)
        self.atoms.calc = monitor
        try:
            found, _ = step_off(movable(self.atoms, ions, cell, self.plan.pressure_gpa))
        finally:
            self.done.charge(monitor.evaluations - before)
        return found

    def _is_symmetric(self) -> bool:
        """Tell whether the atoms stand as symmetry has them."""
        scaled = self.atoms.get_scaled_positions(wrap=False)
        return is_symmetric(self.atoms.get_chemical_symbols(), self.atoms.cell.array, scaled, _ALIKE)

    def _hole(self, outcome: Outcome) -> str:
        """Say why the result lies in a hole of the potential; return an empty string where it does not."""
        guards, frame = self.plan.guards, self.done.last
        if guards.hole == "off":
            return ""
        target, found = self.plan.pressure_gpa, pressure_of(frame.stress)
        monitor = self.monitors[self.done.calculators[-1]]
        real = not monitor.model.identity.get("invented")
        if self._volume_free and not self._cannot_win(real):
            if outcome not in ("time", "file", "above"):
                before = monitor.evaluations
                own = (found, frame.energy / len(self.atoms))
                (verdict,) = scan([self.atoms], monitor.evaluate_many, target, own=[own], real=real)
                self.done.charge(monitor.evaluations - before)
                return verdict.why
            self.flags.append("unscanned")
        return too_dense(self.atoms, target if self._volume_free else max(target, found)) if real else ""

    def _cannot_win(self, real: bool) -> bool:
        """Tell whether a result that is not dense, or of invented elements, lies above the lowest known one."""
        target = self.plan.pressure_gpa
        if self.plan.guards.scan != "auto" or (real and fill(self.atoms, target) <= COMFORTABLE):
            return False
        lowest = self.lowest()
        return lowest is not None and self.done.last.enthalpy(target) / len(self.atoms) > lowest

    @property
    def _volume_free(self) -> bool:
        return not self.plan.intent.static and motion(self.plan.intent.isif)[1] in ("full", "volume")

    def _result(self, outcome: Outcome) -> RelaxResult:
        final, guards = self.done.last, self.plan.guards
        self._return_to(final)
        self.flags.extend(check_result(self.atoms, guards, pressure_of(final.stress)))
        self.atoms.calc = SinglePointCalculator(
            self.atoms, energy=final.energy, forces=final.forces, stress=final.stress
        )
        check_further(self.atoms, guards, "result", self.plan.pressure_gpa)
        ions, cell = self._moving()
        fmax, stress = self._residuals(final, ions, cell)
        converged = outcome in ("converged", "static")
        if not converged:
            self.flags.append("unconverged")
        if outcome == "above":
            self.flags.append("stopped-above")
        hole = self._hole(outcome)
        if hole:
            self.flags.append("hole")
        result = RelaxResult(
            frames=tuple(self.done.frames),
            stages=tuple(self.done.reports),
            converged=converged,
            reason=self._reason(outcome) + (f"; hole of the potential: {hole}" if hole else ""),
            flags=tuple(self.flags),
            fmax=fmax,
            stress_gpa=stress,
            pressure_gpa=self.plan.pressure_gpa,
            model_start=self.done.start_of_model,
            models={name: dict(monitor.model.identity) for name, monitor in self.monitors.items()},
        )
        if outcome == "static" and result.off_pressure:
            result = replace(result, flags=(*result.flags, "off-pressure"))
        if hole and guards.hole == "reject" and self._volume_free:
            raise Rejected("hole", f"a hole of the potential: {hole}", result=result)
        return result

    def _reason(self, outcome: Outcome) -> str:
        """Say what ended the relaxation."""
        if outcome == "steps" and len(self.done) >= self.plan.intent.nsw:
            return f"step limit reached: NSW = {self.plan.intent.nsw} in stage '{self.ended_in}'"
        if outcome == "steps":
            (steps,) = [stage.steps for stage in self.plan.stages if stage.name == self.ended_in]
            return f"step limit reached: {steps} steps of stage '{self.ended_in}'"
        return _REASONS[outcome].format(self.ended_in)


_REASONS: dict[str, str] = {
    "converged": "reached the targets of the last stage",
    "static": "single point",
    "time": "time limit reached in stage '{}'",
    "file": "stopped by STOPCAR in stage '{}'",
    "above": "stopped in stage '{}': its descent ends more than stop_above above the best enthalpy of the search",
}
