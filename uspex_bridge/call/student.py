"""The student that a search trains for itself: which one a structure gets, and the frames that the next one learns.

``learn/training/student.py`` trains, checks and replaces it, outside the calls. Here a call looks up the student in
use, relaxes some structures without it for comparison, and keeps some steps of the final model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import RelaxResult, Structure
from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.files import write_whole
from uspex_bridge.call import record_file
from uspex_bridge.call.config import Config
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.relaxation.protocol import Plan, Protocol

#: Name of the calculator in the protocol ``student``.
STUDENT = "student"
#: Folder of the students, the file in it that names the one in use, and the file of frames, all beside the record.
FOLDER, CURRENT, FRAMES = "student", "current.json", "bridge.frames"
#: What the record says of a structure that had no student: none in use knows it, or it serves the comparison.
NONE, HELD_OUT = "none", "held out"

#: Of so many structures one is relaxed without a student; before the first one, so many are never trained on.
_OF, _PLAIN, _UNSEEN = 10, 1, 2
#: What is kept of a student's settings.
_SETTINGS = ("kind", "sha256", "head", "python", "repulsion")
#: Most frames of one relaxation.
_MOST = 10


@dataclass(frozen=True)
class Current:
    """The student in use.

    Attributes:
        name: of its folder, ``02``.
        calculator: settings of its calculator.
        elements: that it was trained on.
    """

    name: str
    calculator: CalculatorSettings
    elements: tuple[str, ...]


def current(search: Path) -> Current | None:
    """Return the student in use in a search's folder, None for none.

    Raises:
        ModelError: the file that names it cannot be read.
    """
    path = search / FOLDER / CURRENT
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        weights = path.parent.resolve() / told["weights"]
        settings = CalculatorSettings(**told["calculator"], model=str(weights))
        return Current(str(told["name"]), settings, tuple(told["elements"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; remove it to go on without a student") from None


def set_current(search: Path, student: Current | None) -> None:
    """Put a student to use, its weights named relative to the folder of the students; None ends the use of any.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = search / FOLDER / CURRENT
    if student is None:
        path.unlink(missing_ok=True)
        return
    weights = Path(str(student.calculator.model)).relative_to(path.parent.resolve())
    given = {name: value for name in _SETTINGS if (value := getattr(student.calculator, name)) is not None}
    about = {"name": student.name, "elements": student.elements, "weights": str(weights), "calculator": given}
    write_whole(path, json.dumps(about, indent=1) + "\n")


def fit_student(plan: Plan, config: Config, search: Path, structure: Structure) -> tuple[Plan, Config, str | None]:
    """Return the plan and the settings with which a search relaxes a structure, and which student that is.

    Where the settings ask for no automatic student, all stays as it is and there is nothing to say (None).

    Raises:
        ConfigError: the energy that counts would be the student's.
        ModelError: it is not known which student is in use.
    """
    if config.student.distill == "off" or all(stage.calculator != STUDENT for stage in plan.stages):
        return plan, config, None
    without, draw = without_student(plan, config), _draw(structure)
    found = current(search)
    if found is None or not set(structure.symbols) <= set(found.elements):
        return without, config, HELD_OUT if draw < _UNSEEN else NONE
    if draw < _PLAIN:
        return without, config, HELD_OUT
    return plan, with_student(config, found), found.name


def with_student(config: Config, student: Current) -> Config:
    """Return settings in which the student's stages have this one."""
    return replace(config, calculators={**config.calculators, STUDENT: student.calculator})


def without_student(plan: Plan, config: Config) -> Plan:
    """Return the plan without an automatic student's stages; that of other settings as it is.

    Raises:
        ConfigError: the last stage, whose energy counts, is the student's.
    """
    if config.student.distill == "off":
        return plan
    if plan.stages[-1].calculator == STUDENT:
        raise ConfigError("[student]: the last stage is the student's, and its energy would count; choose other stages")
    return replace(plan, stages=tuple(stage for stage in plan.stages if stage.calculator != STUDENT))


def loadable(protocol: Protocol, config: Config) -> tuple[str, ...]:
    """Return the calculators that a protocol loads by the settings: all but an automatic student."""
    automatic = config.student.distill == "auto"
    return tuple(name for name in protocol.calculators if not (automatic and name == STUDENT))


def keep_frames(record: Path, key: str, structure: Structure, result: RelaxResult, student: str | None) -> None:
    """Append steps of the final model to the search's frames, unless the structure is held out.

    They lie dense at the beginning, where the geometry changes most. Free energies are no frames.

    Raises:
        OutputError: they cannot be written.
    """
    if student in (None, HELD_OUT) or result.free_energy is not None:
        return
    ours = result.frames[result.model_start :]
    chosen = np.unique(np.geomspace(1, len(ours), _MOST).round().astype(int)) - 1
    frames = [
        {
            "cell": frame.cell.tolist(),
            "scaled": frame.scaled.round(8).tolist(),
            "energy": frame.energy,
            "forces": frame.forces.round(6).tolist(),
            "stress": frame.stress.tolist(),
        }
        for frame in (ours[index] for index in chosen)
    ]
    model = teacher_of(result.models[result.stages[-1].calculator])
    about = {"key": key, "model": model, "symbols": list(structure.symbols), "pressure_gpa": result.pressure_gpa}
    jsonl.append(record.with_name(FRAMES), about | {"frames": frames})


def teacher_of(identity: dict[str, Any]) -> str:
    """Return what tells a final model from others, from its identity in the record."""
    names = ("kind", "model", "sha256", "head", "dispersion", "repulsion")
    return json.dumps({name: identity[name] for name in names if identity.get(name) is not None}, sort_keys=True)


def _draw(structure: Structure) -> int:
    """Return a number below 10 that a starting structure always has; one with fixed atoms is never held out."""
    if structure.free is not None:
        return _OF - 1
    return int(record_file.job_key(structure, STUDENT), 16) % _OF
