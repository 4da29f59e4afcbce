"""Training a potential: data and input for the upstream trainer, which is watched; a model and its card at the end.

A training's folder holds ``work/`` (everything that the trainer reads and writes) and, once it has ended well, the
model, ``loss.csv``, ``loss.png`` and last of all ``model.json``, the model's card: a folder without that card holds no
model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

import uspex_bridge
from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError, InputError, Interrupted, OutputError
from uspex_bridge.base.files import checksum, publish_files, replacing, write_whole, writing
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.locks import held
from uspex_bridge.base.units import pressure_of
from uspex_bridge.call.model_names import CARD
from uspex_bridge.learn.data.labels import free_energy
from uspex_bridge.learn.judge.accuracy import Labelled, accuracy_of
from uspex_bridge.learn.training import loss
from uspex_bridge.learn.training.order import Order, plan
from uspex_bridge.learn.training.trainers.base import Trainer, Training
from uspex_bridge.learn.training.watch import CurvePoint, check_outcome, watch
from uspex_bridge.models.cards import CalculatorSettings

#: What a training is about.
REQUEST = "request.json"
#: Seconds between two drawings of a curve that grows.
_DRAWN = 20.0


#: Called with a training's length and its curve so far, and with its curve, its trainer and the picture to draw.
Tell = Callable[[int, list[CurvePoint]], None]
Draw = Callable[[list[CurvePoint], Trainer, Path], None]


def train(
    order: Order,
    tell: Tell = lambda total, points: None,
    draw: Draw = lambda points, trainer, path: None,
) -> dict[str, Any]:
    """Train a model and return its card; a training that has ended already is not done again.

    Args:
        order: what is asked for.
        tell: is called with the length and the curve so far whenever that grows.
        draw: draws the curve now and then and at the end, to ``loss.png`` in the training's folder.

    Raises:
        ConfigError, InputError, ModelError: it cannot be begun.
        CalculationError: the trainer died or diverged; nothing is published.
        OutputError: the disk is full.
        BusyError: another training is at work in the folder.
        Interrupted: time was up or a signal came; ``resume`` goes on.
    """
    halter = Halter()
    with writing(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
    with held(order.out / ".lock", f"{order.out}: another training is running there"):
        trainer, job, request = plan(order)
        if (order.out / CARD).is_file():
            return _finished(order, request)
        _begin(order, trainer, job, request)
        began = time.monotonic()
        curve, run = _Curve(order.out, trainer, job, tell, draw), trainer.task(job, resume=order.resume)
        with _stopping(halter, order.time_limit):
            ending = watch(run, lambda: trainer.curve(job.work), job.settings.watch, halter, curve)
        points = trainer.curve(job.work)
        if ending in ("time", "signal"):
            raise Interrupted(
                f"{order.out}: stopped by {'the time limit' if ending == 'time' else 'a signal'} at "
                f"{trainer.unit[:-1]} {points[-1].step if points else 0} of {trainer.length(job)}; --resume continues"
            )
        trainer.check(points)
        check_outcome(points, trivial_errors(job.valid or job.train), job.settings.watch, trainer.title)
        files = trainer.finish(job)
        return _publish(order, trainer, job, request, files, points, ending, time.monotonic() - began, draw)


@contextmanager
def _stopping(halter: Halter, limit: float) -> Iterator[None]:
    """Let a time limit and, in the main thread, signals end what runs inside; afterwards they mean what they did."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    main = threading.current_thread() is threading.main_thread()
    halter.start(limit)
    if main:
        halter.catch_signals()
    try:
        yield
    finally:
        halter.close()
        for number, handler in before.items() if main else ():
            signal.signal(number, handler)


def trivial_errors(frames: Sequence[Atoms]) -> dict[str, float]:
    """Return the errors (RMSE) of knowing nothing: an energy per element and no forces; eV/atom and eV/Å."""
    elements = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    counts = np.array([[list(atoms.symbols).count(symbol) for symbol in elements] for atoms in frames], dtype=float)
    energies = np.array([free_energy(atoms) for atoms in frames])
    left = energies - counts @ np.linalg.lstsq(counts, energies, rcond=None)[0]
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in frames])
    return {"energy": _rms(left / counts.sum(axis=1)), "forces": _rms(forces)}


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _begin(order: Order, trainer: Trainer, job: Training, request: dict[str, Any]) -> None:
    """Write a new training's files, or check that what is gone on with is this very training."""
    place = order.out / REQUEST
    if not order.resume:
        if job.work.exists():
            raise ConfigError(f"{order.out}: contains a training; --resume continues it, or use another folder")
        trainer.prepare(job)
        publish_files(order.out, {REQUEST: json.dumps(request, indent=2) + "\n"})
        return
    if not place.is_file():  # killed before it began
        shutil.rmtree(job.work, ignore_errors=True)
        trainer.prepare(job)
        publish_files(order.out, {REQUEST: json.dumps(request, indent=2) + "\n"})
        return
    _same(place, request, "--resume continues the same training only")


def _same(place: Path, request: dict[str, Any], consequence: str) -> None:
    """Check that a folder's training is the one that is asked for.

    Raises:
        ConfigError: it is another one.
    """
    old, new = _document(place).get("request"), json.loads(json.dumps(request["request"]))
    old = old if isinstance(old, dict) else {}
    different = [key for key in new if old.get(key) != new[key]]
    if different:
        raise ConfigError(
            f"{place.parent}: holds a training with another {' and '.join(different)} ({REQUEST}); {consequence}. "
            "Take another folder"
        )


def _finished(order: Order, request: dict[str, Any]) -> dict[str, Any]:
    _same(order.out / REQUEST, request, "it is finished")
    return _document(order.out / CARD)


def _document(path: Path) -> dict[str, Any]:
    """Read one of a training's own files.

    Raises:
        InputError: it is not as it was written.
    """
    try:
        found: dict[str, Any] = jsonl.loads(path.read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {error}; was it edited? Train in another folder") from None


class _Curve:
    """Keeps ``loss.csv`` and ``loss.png`` of a running training up to date."""

    def __init__(self, out: Path, trainer: Trainer, job: Training, tell: Tell, draw: Draw) -> None:
        self.out, self.trainer, self.job, self.tell, self.draw = out, trainer, job, tell, draw
        self.drawn = 0.0

    def __call__(self, points: list[CurvePoint]) -> None:
        self.tell(self.trainer.length(self.job), points)
        self.trainer.tidy(self.job.work)
        try:
            write_whole(self.out / "loss.csv", loss.as_csv(points, self.trainer.unit))
            if time.monotonic() - self.drawn > _DRAWN:
                self.draw(points, self.trainer, self.out / "loss.png")
                self.drawn = time.monotonic()
        except OutputError as error:
            raise OutputError(f"{error}; the training was ended: free disk space, then --resume") from None


def _publish(
    order: Order,
    trainer: Trainer,
    job: Training,
    request: dict[str, Any],
    files: dict[str, Path],
    points: list[CurvePoint],
    ending: str,
    seconds: float,
    draw: Draw,
) -> dict[str, Any]:
    """Put model and card in their place, the card last.

    Raises:
        OutputError: they cannot be written; no model is left.
    """
    names = {"model": f"model{trainer.suffix}", "checkpoint": "checkpoint.pt"}
    facts = {"head": None} | trainer.facts(job)
    errors = _errors(trainer, job, files["model"], facts["head"])
    try:
        for role, path in files.items():
            _copy(path, order.out / names[role])
        draw(points, trainer, order.out / "loss.png")
        card = {
            "kind": trainer.kind,
            "trainer": trainer.name,
            "model": names["model"],
            "sha256": checksum(order.out / names["model"]),
            "checkpoint": names["checkpoint"] if "checkpoint" in files else None,
            "head": facts.pop("head"),
            "elements": list(job.elements),
            "parent": None
            if job.parent is None
            else {"file": str(job.parent.path), "sha256": job.parent.sha256, "branch": job.parent.branch},
            "data": order.data.source,
            "trained_on": _trained_on(job),
            "structures": {"train": len(job.train), "valid": len(job.valid), "replay": len(job.replay)},
            "ended": ending,
            trainer.unit: points[-1].step if points else 0,
            "curve_errors": {"measure": trainer.measure, **(points[-1].errors if points else {})},
            "errors": errors,
            "trivial_errors": trivial_errors(job.valid or job.train),
            "input": request["request"]["input"],
            "seed": order.seed,
            "device": job.device,
            "seconds": round(seconds, 1),
            "versions": {"uspex_bridge": uspex_bridge.__version__, **request["versions"]},
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
            **order.notes,
        }
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        publish_files(order.out, {"loss.csv": loss.as_csv(points, trainer.unit), CARD: text})
    except OSError as error:
        for name in names.values():
            with suppress(OSError):
                (order.out / name).unlink(missing_ok=True)
        raise OutputError(
            f"{order.out}: the model cannot be written: {error.strerror or error}; free disk space, then --resume"
        ) from error
    return card


def _trained_on(job: Training) -> dict[str, Any]:
    """Return what is worth knowing of the labels for whoever looks for a model later."""
    pressures = [pressure_of(atoms.get_stress()) for atoms in job.train]
    return {
        "formulas": len({atoms.get_chemical_formula(empirical=True) for atoms in job.train}),
        "atoms": [min(map(len, job.train)), max(map(len, job.train))],
        "pressure_gpa": [round(min(pressures), 2), round(max(pressures), 2)],
    }


def _errors(trainer: Trainer, job: Training, model: Path, head: str | None) -> dict[str, Any]:
    """Return the model's errors on the validation structures (or else those trained on), as a search would load it.

    Raises:
        ModelError, CalculationError: it cannot be loaded, or computes nothing.
    """
    settings = CalculatorSettings(
        trainer.kind, model=str(model), head=head, device=job.device, python=job.python, isolate=True
    )
    report = accuracy_of(
        Labelled(job.valid or job.train), {trainer.name: settings}, job.work / "answers", offsets="off"
    )
    return {"on": "validation" if job.valid else "training", **asdict(report.models[0].total)}


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as draft:
        shutil.copyfile(source, draft)
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
