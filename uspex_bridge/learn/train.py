"""Training a potential: data and input for the upstream trainer, which is watched; a model and its card at the end.

A training's folder holds ``work/`` (everything that the trainer reads and writes) and, once it has ended well, the
model, ``loss.csv``, ``loss.png`` and last of all ``model.json``, the model's card: a folder without that card holds no
model.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from filelock import FileLock, Timeout

import uspex_bridge
from uspex_bridge import backends, weights
from uspex_bridge.cards import CalculatorSettings
from uspex_bridge.errors import (
    BusyError,
    CalculationError,
    ConfigError,
    InputError,
    Interrupted,
    ModelError,
    OutputError,
)
from uspex_bridge.halt import Halter
from uspex_bridge.learn import loss
from uspex_bridge.learn.accuracy import judge, read_labelled
from uspex_bridge.learn.dataset import MANIFEST, Dataset
from uspex_bridge.learn.labels import checksum, free_energy
from uspex_bridge.learn.models import CARD
from uspex_bridge.learn.trainers.base import Job, Parent, Trainer, branch_of, launched, read_settings
from uspex_bridge.learn.trainers.deepmd import Dpa3, Sea
from uspex_bridge.learn.trainers.mace import Mace
from uspex_bridge.learn.trainers.mattersim import MatterSim
from uspex_bridge.learn.watch import Point, check_outcome, watch
from uspex_bridge.publish import publish_files
from uspex_bridge.records import Array

TRAINERS: dict[str, Trainer] = {trainer.name: trainer for trainer in (Dpa3(), Sea(), Mace(), MatterSim())}
#: What a training is about.
REQUEST = "request.json"
#: Seconds that a look at a checkpoint or an interpreter may take (imports on a busy network file system are slow).
_LOOK = 600.0
#: Seconds between two drawings of a curve that grows.
_DRAWN = 20.0


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        source: where it is from, for the card: path and checksum.
        train, valid: labelled structures.
    """

    source: dict[str, Any]
    train: Sequence[Atoms]
    valid: Sequence[Atoms]

    @property
    def elements(self) -> tuple[str, ...]:
        """All elements, sorted: the type map that every model of this data has."""
        return tuple(sorted({symbol for atoms in (*self.train, *self.valid) for symbol in atoms.symbols}))


@dataclass(frozen=True)
class Order:
    """What is asked for; the fields are the options of ``uspex-bridge train``.

    Attributes:
        trainer: a name of :data:`TRAINERS`.
        out: folder of the training.
        data: see :func:`from_dataset` and :func:`from_files`.
        settings: files laid over the trainer's template.
        parent: a path or known name of the checkpoint to start from.
        branch: of its heads.
        replay: extxyz of structures to rehearse.
        length: steps or epochs.
        time_limit: seconds.
        resume: go on with a training that was stopped.
        python: the trainer's interpreter.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        threads, seed: see :class:`uspex_bridge.learn.trainers.base.Job`.
        notes: what the card should keep besides.
    """

    trainer: str
    out: Path
    data: Data
    settings: tuple[Path, ...] = ()
    parent: str | None = None
    branch: str | None = None
    replay: Path | None = None
    length: int | None = None
    time_limit: float = float("inf")
    resume: bool = False
    python: str | None = None
    device: str = "auto"
    threads: int = 1
    seed: int = 1
    notes: dict[str, Any] = field(default_factory=dict)


def from_dataset(path: Path, *, generation: int | None = None) -> Data:
    """Take training and validation structures from a dataset.

    Args:
        path: its folder.
        generation: only labels up to this one.

    Raises:
        InputError: there is none, it was changed by hand, or it has nothing to train on.
    """
    dataset = Dataset.open(path)
    last = max((label.generation for label in dataset.labels.values()), default=0)
    chosen = range(last + 1 if generation is None else generation + 1)
    parts = {s: [a for a in dataset.frames(s) if a.info["generation"] in chosen] for s in ("train", "valid")}
    source = {"path": str(path.resolve()), "manifest_sha256": checksum(path / MANIFEST), "generation": chosen[-1]}
    return _sound(Data(source, parts["train"], parts["valid"]), str(path))


def from_files(train: Path, valid: Path | None = None) -> Data:
    """Take training and validation structures from extxyz files with energy, forces and stress.

    Raises:
        InputError: one cannot be read, or a structure lacks something.
    """
    source = {"train": str(train.resolve()), "train_sha256": _checksum(train)}
    if valid is not None:
        source |= {"valid": str(valid.resolve()), "valid_sha256": _checksum(valid)}
    return _sound(Data(source, read_labelled(train), read_labelled(valid) if valid else ()), str(train))


def train(order: Order, tell: Callable[[int, list[Point]], None] = lambda total, points: None) -> dict[str, Any]:
    """Train a model and return its card; a training that has ended already is not done again.

    Args:
        order: what is asked for.
        tell: is called with the length and the curve so far whenever that grows.

    Raises:
        ConfigError, InputError, ModelError: it cannot be begun.
        CalculationError: the trainer died or diverged; nothing is published.
        OutputError: the disk is full.
        BusyError: another training is at work in the folder.
        Interrupted: time was up or a signal came; ``resume`` goes on.
    """
    halter = Halter()
    try:
        order.out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(order.out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise BusyError(f"{order.out}: another training is at work there") from None
    except OSError as error:
        raise OutputError(f"{order.out}: cannot be written: {error.strerror}") from error
    try:
        trainer, job, request = plan(order)
        if (order.out / CARD).is_file():
            return _finished(order, request)
        _begin(order, trainer, job, request)
        halter.start(order.time_limit)
        halter.catch_signals()
        began = time.monotonic()
        curve = _Curve(order.out, trainer, trainer.length(job), tell)
        ending = watch(
            trainer.task(job, resume=order.resume), lambda: trainer.curve(job.work), job.settings.watch, halter, curve
        )
        halter.close()
        points = trainer.curve(job.work)
        if ending in ("time", "signal"):
            raise Interrupted(
                f"{order.out}: stopped by {'the time limit' if ending == 'time' else 'a signal'} at "
                f"{trainer.unit[:-1]} {points[-1].step if points else 0} of {trainer.length(job)}; --resume goes on"
            )
        trainer.check(points)
        check_outcome(points, trivial_errors(job.valid or job.train), job.settings.watch, trainer.title)
        files = trainer.finish(job)
        return _publish(order, trainer, job, request, files, points, ending, time.monotonic() - began)
    finally:
        halter.close()
        lock.release()


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


def plan(order: Order) -> tuple[Trainer, Job, dict[str, Any]]:
    """Work out what will be done, and check all that can be checked before.

    Returns:
        the trainer, its job, and what identifies the request.

    Raises:
        ConfigError, InputError, ModelError: it cannot be done.
    """
    if order.trainer not in TRAINERS:
        raise ConfigError(f"there is no trainer '{order.trainer}'; there are {', '.join(TRAINERS)}")
    trainer = TRAINERS[order.trainer]
    settings = read_settings(trainer.name, order.settings, scratch=order.parent is None)
    surroundings = _surroundings(trainer, order.python)
    parent = _parent(trainer, order) if order.parent is not None else None
    if parent is None and trainer.needs_parent:
        raise ConfigError(f"{trainer.title} trains from a checkpoint only; name one with --from")
    elements = order.data.elements
    if parent is not None and (unknown := sorted(set(elements) - parent.elements)):
        raise InputError(
            f"{parent.path}: knows {_listed(parent.elements)}, but the data has {', '.join(unknown)}; take a "
            "checkpoint that knows them, or train from random weights (no --from)"
        )
    if order.replay is not None and trainer.kind != "mace":
        raise ConfigError(f"--replay is MACE's; {trainer.title} has no such thing")
    job = Job(
        work=(order.out / "work").resolve(),
        settings=settings,
        elements=elements,
        train=order.data.train,
        valid=order.data.valid,
        parent=parent,
        replay=read_labelled(order.replay) if order.replay else (),
        python=order.python,
        device=_device(order.device, surroundings["gpus"]),
        threads=order.threads,
        seed=order.seed,
        length=order.length,
    )
    request = {
        "trainer": trainer.name,
        "data": order.data.source,
        "parent": None if parent is None else {"sha256": parent.sha256, "branch": parent.branch},
        "replay_sha256": checksum(order.replay) if order.replay else None,
        "input": trainer.input(job),
    }
    return trainer, job, {"request": request, "versions": surroundings["versions"]}


def _begin(order: Order, trainer: Trainer, job: Job, request: dict[str, Any]) -> None:
    """Write a new training's files, or check that what is gone on with is this very training."""
    place = order.out / REQUEST
    if not order.resume:
        if job.work.exists():
            raise ConfigError(
                f"{order.out}: holds a training already; --resume goes on with it, or take another folder"
            )
        trainer.prepare(job)
        publish_files(order.out, {REQUEST: json.dumps(request, indent=2) + "\n"})
        return
    if not place.is_file():  # killed before it began
        shutil.rmtree(job.work, ignore_errors=True)
        trainer.prepare(job)
        publish_files(order.out, {REQUEST: json.dumps(request, indent=2) + "\n"})
        return
    _same(place, request, "--resume goes on with the same training only")


def _same(place: Path, request: dict[str, Any], consequence: str) -> None:
    """Check that a folder's training is the one that is asked for.

    Raises:
        ConfigError: it is another one.
    """
    old, new = json.loads(place.read_text())["request"], json.loads(json.dumps(request["request"]))
    different = [key for key in new if old.get(key) != new[key]]
    if different:
        raise ConfigError(
            f"{place.parent}: holds a training with another {' and '.join(different)} ({REQUEST}); {consequence}. "
            "Take another folder"
        )


def _finished(order: Order, request: dict[str, Any]) -> dict[str, Any]:
    _same(order.out / REQUEST, request, "it is finished")
    card: dict[str, Any] = json.loads((order.out / CARD).read_text())
    return card


class _Curve:
    """Keeps ``loss.csv`` and ``loss.png`` of a running training up to date."""

    def __init__(self, out: Path, trainer: Trainer, total: int, tell: Callable[[int, list[Point]], None]) -> None:
        self.out, self.trainer, self.total, self.tell = out, trainer, total, tell
        self.drawn = 0.0

    def __call__(self, points: list[Point]) -> None:
        self.tell(self.total, points)
        publish_files(self.out, {"loss.csv": loss.as_csv(points, self.trainer.unit)})
        if time.monotonic() - self.drawn > _DRAWN:
            _draw(points, self.out, self.trainer)
            self.drawn = time.monotonic()


def _publish(
    order: Order,
    trainer: Trainer,
    job: Job,
    request: dict[str, Any],
    files: dict[str, Path],
    points: list[Point],
    ending: str,
    seconds: float,
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
        _draw(points, order.out, trainer)
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
            f"{order.out}: the model cannot be written: {error.strerror or error}; make room, then --resume"
        ) from error
    return card


def _errors(trainer: Trainer, job: Job, model: Path, head: str | None) -> dict[str, Any]:
    """Return the model's errors on the validation structures (or else those trained on), as a search would load it.

    Raises:
        ModelError, CalculationError: it cannot be loaded, or computes nothing.
    """
    settings = CalculatorSettings(
        trainer.kind, model=str(model), head=head, device=job.device, python=job.python, isolate=True
    )
    report = judge(job.valid or job.train, {trainer.name: settings}, job.work / "answers", offsets="off")
    return {"on": "validation" if job.valid else "training", **asdict(report.models[0].total)}


def _draw(points: list[Point], out: Path, trainer: Trainer) -> None:
    from uspex_bridge.figures import loss as figure
    from uspex_bridge.figures import style

    style.save(figure.draw(points, trainer.unit, trainer.measure), out / "loss.png", dpi=150)


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _surroundings(trainer: Trainer, python: str | None) -> dict[str, Any]:
    """Return versions and number of GPUs of the trainer's interpreter.

    Raises:
        ModelError: it lacks the trainer's package.
    """
    found = _asked(python, trainer.title, "environment", [*trainer.packages])
    if found["versions"][trainer.packages[0]] is None:
        card = backends.card_of(trainer.kind, CalculatorSettings())
        where = python or "this Python"
        raise ModelError(
            f"{where} has no {trainer.packages[0]}; name an interpreter that has it with --python or as python under "
            f"[calculators.{trainer.kind}] in bridge.toml, or install it: {card.install}"
        )
    return found


def _parent(trainer: Trainer, order: Order) -> Parent:
    """Find the checkpoint to start from and read what it is for.

    Raises:
        ModelError: it is not there, or not what this trainer reads.
        ConfigError: it has no such branch.
    """
    card = backends.card_of(trainer.kind, CalculatorSettings())
    path = weights.find(card, CalculatorSettings(kind=trainer.kind, model=order.parent), trainer.kind).path
    if path is None:
        raise ModelError(f"{order.parent}: no file to train on")
    if trainer.kind == "deepmd" and path.suffix != ".pt":
        raise ModelError(f"{path}: a frozen model cannot be trained on; name the checkpoint (.pt) it was made from")
    try:
        facts = _asked(order.python, trainer.title, "describe", [trainer.kind, str(path.resolve())])
    except CalculationError as error:
        raise ModelError(f"{path}: not a checkpoint of {trainer.title}: {error}") from None
    branch = branch_of(order.branch, facts["branches"], path)
    known = facts["elements"].get(branch or "", facts["elements"].get("", []))
    return Parent(path.resolve(), weights.file_sha256(path), branch, frozenset(known), facts.get("shape", {}))


def _asked(python: str | None, title: str, task: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a short task in the trainer's interpreter writes (see :mod:`uspex_bridge.learn.trainers.launch`).

    Raises:
        CalculationError, ModelError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="uspex-bridge-train-") as scratch:
        out = Path(scratch, "answer.json")
        launched(Path(scratch), python, title, task, [*arguments, str(out)]).finish(_LOOK)
        answer: dict[str, Any] = json.loads(out.read_text())
        return answer


def _device(asked: str, gpus: int) -> str:
    """Return ``cpu`` or ``cuda:N``.

    Raises:
        ModelError: a GPU that the trainer's interpreter does not have.
    """
    if asked == "auto":
        return "cuda:0" if gpus else "cpu"
    index = int(asked.partition(":")[2] or 0) if asked.startswith("cuda") else -1
    if index >= gpus:
        raise ModelError(f"device = '{asked}', but the trainer's interpreter sees {gpus or 'no'} GPU(s)")
    return asked if asked != "cuda" else "cuda:0"


def _sound(data: Data, name: str) -> Data:
    if not data.train:
        raise InputError(f"{name}: nothing to train on; label some structures first")
    return data


def _checksum(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    return checksum(path)


def _listed(elements: frozenset[str]) -> str:
    return " ".join(sorted(elements)) if len(elements) <= 10 else f"{len(elements)} elements"
