"""The student that a search trains for itself: trained on its frames, checked on starts not among them, replaced.

Beside the record, ``student/NN`` holds one training and, when it was checked, ``check.json``;
:mod:`uspex_bridge.call.student` has the calls' part. A student pays if relaxations take clearly fewer evaluations of
the final model with it, its own evaluations counted by their time, and end no higher than chance allows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Intent, Structure
from uspex_bridge.base.errors import CalculationError, ConfigError, Rejected
from uspex_bridge.base.files import publish_files, writing
from uspex_bridge.base.locks import held
from uspex_bridge.call.choice import settled_protocol
from uspex_bridge.call.config import Config
from uspex_bridge.call.run import Models, relax_structure
from uspex_bridge.call.student import (
    FOLDER,
    STUDENT,
    Current,
    current,
    set_current,
    with_student,
)
from uspex_bridge.learn.data.exports import write_extxyz
from uspex_bridge.learn.training.order import TRAINERS, Order, from_files
from uspex_bridge.learn.training.run import Draw, Tell, train
from uspex_bridge.learn.training.student_history import FEWEST, PAYS, SAME, Check, Cost, History, teacher_in
from uspex_bridge.learn.training.trainers.base import SETTINGS
from uspex_bridge.models.backends import Backend
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.relaxation.protocol import make_plan
from uspex_bridge.results.reading.join import structure_of

#: The outcome of a check, in the folder of the training.
CHECK = "check.json"
#: Most starts of a check.
_MOST = 12
#: Starts on which evaluations are timed.
_TIMED = 5
#: One relaxation in so many is there to validate; larger forces are no frames to learn from, eV/Å.
_VALID, _LARGEST = 10, 100.0


@dataclass(frozen=True)
class Outcome:
    """What one look at a search came to.

    Attributes:
        said: in words, line by line.
        student: name of the student in use now, None for none.
        check: of the student that was trained, None where none was.
    """

    said: tuple[str, ...]
    student: str | None
    check: Check | None = None


def update(record: Path, config: Config, tell: Tell = lambda *_: None, draw: Draw = lambda *_: None) -> Outcome:
    """Train, check and replace the student of a search, as far as that is due.

    Args:
        record: of the search.
        config: its settings.
        tell: as of :func:`uspex_bridge.learn.training.run.train`.
        draw: as of :func:`uspex_bridge.learn.training.run.train`.

    Raises:
        ConfigError: the settings ask for no student, or for a trainer that there is not.
        BusyError: another process is at it.
        ModelError: the trainer or a model is not there.
        Interrupted: a signal came; the next time goes on.
        OutputError: the folder cannot be written.
    """
    if config.student.distill != "auto":
        raise ConfigError(f'{config.source or "there is no bridge.toml"}: needs [student] with distill = "auto"')
    if config.student.trainer not in TRAINERS:
        raise ConfigError(f"[student]: there is no trainer '{config.student.trainer}'; there are {', '.join(TRAINERS)}")
    settled_protocol(config, record.parent)  # it must have stages of a student
    folder = record.parent / FOLDER
    with writing(folder):
        folder.mkdir(exist_ok=True)
    with held(folder / ".lock", f"{folder}: another process trains or checks a student"):
        return _Students(record.parent, config, History.read(record)).update(tell, draw)


class _Students:
    """The students of a search, whose lock is held."""

    def __init__(self, search: Path, config: Config, history: History) -> None:
        self.search, self.config, self.history = search, config, history
        self.folder = search / FOLDER
        self.trained = sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir())

    def update(self, tell: Tell, draw: Draw) -> Outcome:
        """See :func:`update`."""
        said, using = [], current(self.search)
        if using and (costs := self._in_use(using.name)) and costs[1].total > PAYS * costs[0].evaluations:
            said.append(
                f"student {using.name} no longer pays: {costs[1].total:.1f} evaluations per structure, "
                f"{costs[0].evaluations:.1f} without; it is not used any more"
            )
            set_current(self.search, None)
            using = None
        if waits := self._waits():
            used = f"student {using.name} is in use" if using else "no student is in use"
            return Outcome((*said, f"{used}; {waits}"), using.name if using else None)
        place = self._place()
        try:
            new = self._train(place, tell, draw)
            check = self.check(new)
            better = using is None or check.taught.total <= self.check(using).taught.total
        except CalculationError as error:
            self._file(place, {"failed": str(error)})
            said.append(f"student {place.name} failed: {error}")
            return Outcome(tuple(said), using.name if using else None)
        self._file(place, {"pays": check.pays, "better": better, **asdict(check)})
        verdict = "in use" if check.pays and better else "not used: it does not pay"
        if check.pays and better:
            set_current(self.search, new)
            using = new
        elif check.pays:
            verdict = "not used: no better than the one in use"
        said.append(f"student {new.name}: {check}; {verdict}")
        return Outcome(tuple(said), using.name if using else None, check)

    def check(self, student: Current) -> Check:
        """Relax held-out starts with a student, and compare with what the record says of them without."""
        models = Models(with_student(self.config, student))
        protocol, _ = settled_protocol(self.config, self.search)
        lines = self.history.held_out[-_MOST:]
        taught, change = [], []
        try:
            ratio = time_ratio(
                models(STUDENT),
                models(protocol.stage[-1].calculator),
                [structure_of(line["input"]) for line in lines[-_TIMED:]],
            )
            for line in lines:
                start, plan = structure_of(line["input"]), make_plan(protocol, _intent(line), self.config.stages)
                try:
                    result = relax_structure(start, plan, models, lambda: None, lambda step: None)
                except Rejected:
                    taught.append(line["stages"])
                    change.append(np.inf)
                    continue
                taught.append([asdict(stage) for stage in result.stages])
                change.append(result.enthalpy / len(start) - line["enthalpy_per_atom"])
        finally:
            models.close()
        differ = np.array(change)
        lower, higher = int(np.sum(differ < -SAME)), int(np.sum(differ > SAME))
        return Check(Cost.of([line["stages"] for line in lines]), Cost.of(taught, ratio), lower, higher)

    def _in_use(self, name: str) -> tuple[Cost, Cost] | None:
        told = _told(self.folder / name)
        return self.history.in_use(name, float(told.get("taught", {}).get("ratio", 0.0)))

    def _waits(self) -> str:
        """Return what a training waits for, an empty string where it is due."""
        have, starts = len(self.history.frames), len(self.history.held_out)
        if self.trained and not (self.trained[-1] / CHECK).is_file():
            return ""
        before = max((int(_told(path).get("structures", 0)) for path in self.trained), default=0)
        needed = max(self.config.student.structures, 2 * before)
        if have < needed:
            return f"{have} of {needed} structures to train the next one on"
        return "" if starts >= FEWEST else f"{starts} of {FEWEST} structures to check the next one on"

    def _place(self) -> Path:
        """Return the folder of the training that is due, an interrupted one first."""
        if self.trained and not (self.trained[-1] / CHECK).is_file():
            return self.trained[-1]
        last = int(self.trained[-1].name) if self.trained else 0
        place = self.folder / f"{last + 1:02d}"
        parts: dict[str, list[Atoms]] = {"train": [], "valid": []}
        for number, line in enumerate(self.history.frames, 1):
            parts["valid" if number % _VALID == 0 else "train"] += _frames(line)
        for name, frames in parts.items():
            if frames:
                write_extxyz(frames, place / f"{name}.extxyz")
        return place

    def _train(self, place: Path, tell: Tell, draw: Draw) -> Current:
        asked = self.config.student
        kind = TRAINERS[asked.trainer].kind
        own = SETTINGS / f"student-{asked.trainer}.toml"
        base = Path(self.config.base or ".")
        chosen = [base / asked.settings] if asked.settings else [own] if own.is_file() else []
        valid = place / "valid.extxyz"
        python = self.config.settings_of(kind).python
        order = Order(
            trainer=asked.trainer,
            out=place,
            data=from_files(place / "train.extxyz", valid if valid.is_file() else None),
            settings=tuple(chosen),
            parent=asked.start or None,
            resume=(place / "work").is_dir(),
            python=python,
            device=self.config.device,
            threads=self.config.threads,
            notes={"distilled_from": json.loads(teacher_in(self.history.lines[-1]))},
        )
        card = train(order, tell, draw)
        settings = CalculatorSettings(
            kind=kind,
            model=str((place / card["model"]).resolve()),
            sha256=card["sha256"],
            head=card["head"],
            python=python,
            repulsion=None if kind == "mace" else "zbl",  # MACE is trained with its own
        )
        return Current(place.name, settings, tuple(card["elements"]))

    def _file(self, place: Path, what: dict[str, Any]) -> None:
        about = {"structures": len(self.history.frames), **what}
        publish_files(place, {CHECK: json.dumps(about, indent=1) + "\n"})


def _told(place: Path) -> dict[str, Any]:
    """Return what the check of a student came to; nothing where it cannot be read."""
    try:
        found: dict[str, Any] = json.loads((place / CHECK).read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError):
        return {}


def time_ratio(student: Backend, final: Backend, starts: Sequence[Structure]) -> float:
    """Return the time of an evaluation by the student in those by the final model, each the fastest of three."""
    structures = [to_atoms(start) for start in starts]

    def seconds(backend: Backend) -> float:
        rounds = []
        for _ in range(4):  # the first one compiles and warms up
            began = time.perf_counter()
            for atoms in structures:
                backend.evaluate_many([atoms])
            rounds.append(time.perf_counter() - began)
        return min(rounds[1:])

    return seconds(student) / seconds(final)


def _intent(line: Mapping[str, Any]) -> Intent:
    return Intent(isif=line["isif"], nsw=line["nsw"], ediffg=line.get("ediffg"), pressure_gpa=line["pressure_gpa"])


def _frames(line: Mapping[str, Any]) -> Iterator[Atoms]:
    """Yield the labelled structures of a line of frames."""
    for frame in line["frames"]:
        forces = np.array(frame["forces"])
        if np.abs(forces).max() > _LARGEST:
            continue
        atoms = to_atoms(structure_of({"symbols": line["symbols"], **frame}))
        atoms.calc = SinglePointCalculator(
            atoms, energy=frame["energy"], free_energy=frame["energy"], forces=forces, stress=np.array(frame["stress"])
        )
        atoms.info["pressure_gpa"] = line["pressure_gpa"]
        yield atoms
