"""The record's line of one job, filled in as the job goes on (docs/record.md)."""

from __future__ import annotations

import platform
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from uspex_bridge.base.data import Frame, RelaxResult, Structure
from uspex_bridge.base.errors import BridgeError, Rejected
from uspex_bridge.base.version import version
from uspex_bridge.call import record_file
from uspex_bridge.call.config import Config
from uspex_bridge.models import inventory
from uspex_bridge.models.cards import model_name
from uspex_bridge.models.registry import package_version
from uspex_bridge.relaxation.protocol import Plan

#: How a stage ended, where its outcome is no word that says it.
_OUTCOMES = {
    "steps": "targets missed",
    "time": "out of time",
    "file": "stopped by STOPCAR",
    "above": "stopped by stop_above",
    "static": "single point",
}
#: Fields of a result that do not hang on when and where it was computed.
_RESULT = (
    *("versions", "flags", "energy", "volume", "fmax", "stress_left_gpa", "pressure_reached_gpa", "steps", "stages"),
    *("models", "free_energy", "output", "status", "enthalpy", "enthalpy_per_atom"),
)


class RecordLine:
    """The record's line of one job, filled in as the job goes on."""

    def __init__(self, structure: Structure, plan: Plan, config: Config, where: dict[str, Any]) -> None:
        self.began = time.monotonic()
        calculators = [weights_state(name, config) for name in dict.fromkeys(s.calculator for s in plan.stages)]
        intent = plan.intent
        asked = (intent.isif, intent.nsw, intent.ibrion, intent.ediffg, round(intent.pressure_gpa, 6), intent.symprec)
        further = [word for word in (plan.free_energy, intent.keep_symmetry and "symmetry kept") if word]
        self.key = record_file.job_key(structure, (asked, plan.stages, plan.guards, calculators, *further))
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
            "input": geometry(structure.symbols, structure),
            "versions": {"uspex_bridge": version(), "python": platform.python_version()},
        }
        if config.accept_range:
            self.fields["accepted_range"] = list(config.accept_range)
        self.symbols = structure.symbols
        self.calculator = plan.stages[-1].calculator

    @property
    def step(self) -> str | None:
        """Which step of the search this is, None where the folder does not tell."""
        step: str | None = self.fields.get("step")
        return step

    @property
    def seconds(self) -> float:
        """Wall time since the job began."""
        return time.monotonic() - self.began

    def failed(self, error: Exception) -> None:
        """Fill in an error, an unexpected one too."""
        refused = error.result if isinstance(error, Rejected) else None
        self.fields |= {} if refused is None else self._measured(refused)
        self.fields |= reason_of(error)
        self.fields |= {
            "lasting": isinstance(error, Rejected) and error.lasting,
            "exit": error.exit_code if isinstance(error, BridgeError) else BridgeError.exit_code,
            "seconds": round(self.seconds, 3),
        }

    def done(self, result: RelaxResult) -> None:
        """Fill in a result."""
        self.fields |= self.outcome(result)

    def outcome(self, result: RelaxResult) -> dict[str, Any]:
        """Return what a result fills in."""
        return self._measured(result) | {
            "status": "converged" if result.converged else "unconverged",
            "reason": result.reason,
            "exit": 0,
            "enthalpy": result.enthalpy,
            "enthalpy_per_atom": result.enthalpy / len(self.symbols),
            "seconds": round(self.seconds, 3),
        }

    def repeated(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """Return what the earlier result of the same job fills in where it stands for this one."""
        return {name: earlier[name] for name in _RESULT if name in earlier} | {
            "reason": f"the same start was relaxed before, at {earlier.get('time')}; this is its result",
            "repeats": earlier.get("time"),
            "exit": 0,
            "seconds": round(self.seconds, 3),
        }

    def _measured(self, result: RelaxResult) -> dict[str, Any]:
        """Return what is training data, whether or not it is a result."""
        final = result.final
        ase = sys.modules.get("ase")
        fields: dict[str, Any] = {
            "versions": {**self.fields["versions"], "ase": getattr(ase, "__version__", "")},
            "flags": list(result.flags),
            "energy": final.energy,
            "volume": final.volume,
            "fmax": result.fmax,
            "stress_left_gpa": result.stress_gpa,
            "pressure_reached_gpa": result.pressure_reached_gpa,
            "steps": len(result.frames),
            "stages": [asdict(stage) for stage in result.stages],
            "models": result.models,
            **({} if result.free_energy is None else {"free_energy": result.free_energy}),
            "output": geometry(self.symbols, final)
            | {"forces": final.forces.round(6).tolist(), "stress": final.stress.tolist()},
        }
        if final.magmoms is not None:
            fields["output"]["magmoms"] = final.magmoms.round(4).tolist()
        return fields

    def summary(self, result: RelaxResult) -> str:
        """Return the line that ends a run."""
        stages = ", ".join(f"{s.name} {s.steps} steps, {_OUTCOMES.get(s.outcome, s.outcome)}" for s in result.stages)
        flags = f" [{' '.join(result.flags)}]" if result.flags else ""
        left = f"stress left {result.stress_gpa:.3f} GPa"
        if result.off_pressure:
            left += f", pressure {result.pressure_reached_gpa:.1f} GPa instead of {result.pressure_gpa:g}"
        return (
            f"{self.fields['formula']}: {ending(self.outcome(result))}, "
            f"{symbol_of(result.free_energy)} = {result.enthalpy:.6f} eV "
            f"({result.enthalpy / len(self.symbols):.6f} eV/atom) at {result.pressure_gpa:g} GPa, "
            f"V = {result.final.volume:.3f} Å³, fmax {result.fmax:.4f} eV/Å, {left}; "
            f"{stages}; {self.seconds:.1f} s{flags}"
        )


def reason_of(error: Exception) -> dict[str, str]:
    """Return the status, code and reason that a line says of an error."""
    return {
        "status": "rejected" if isinstance(error, Rejected) else "failed",
        "code": error.code if isinstance(error, Rejected) else type(error).__name__,
        "reason": str(error),
    }


def ending(fields: dict[str, Any]) -> str:
    """Return how a record's line ended: its status, or ``single point`` where nothing was to be relaxed."""
    single = str(fields.get("reason", "")).startswith("single point")
    return "single point" if single and fields.get("status") == "converged" else str(fields.get("status", ""))


def words_of(free_energy: dict[str, Any]) -> str:
    """Return which free energy a record's ``free_energy`` is: ``300 K scha``."""
    return f"{free_energy['temperature']:g} K {free_energy['method']}"


def level_of(fields: dict[str, Any]) -> str:
    """Return the level of theory of a record's line: the last model, and the temperature of a free energy."""
    used = [stage["calculator"] for stage in fields.get("stages") or []]
    models = fields.get("models") or {}
    if not used or used[-1] not in models:
        return ""
    name = model_name(models[used[-1]])
    free_energy = fields.get("free_energy")
    return f"{name}, G at {words_of(free_energy)}" if free_energy else name


def symbol_of(free_energy: dict[str, Any] | None) -> str:
    """Return ``H``, or ``G(300 K scha)`` where a free energy is in it."""
    return "H" if free_energy is None else f"G({words_of(free_energy)})"


def weights_state(name: str, config: Config) -> tuple[object, ...]:
    """Return what tells, without loading it, whether a calculator is still the same: its weights and its package."""
    settings = config.settings_of(name)
    try:
        package = package_version(inventory.card_of(name, settings))
        path = inventory.find_weights(name, settings).path
        state = path.stat() if path else None
    except (BridgeError, OSError):
        return (settings,)
    return (settings, package, state.st_size, state.st_mtime_ns) if state else (settings, package)


def geometry(symbols: tuple[str, ...], place: Structure | Frame) -> dict[str, Any]:
    """Return cell and atoms as the record keeps them."""
    return {"symbols": list(symbols), "cell": place.cell.tolist(), "scaled": place.scaled.tolist()}
