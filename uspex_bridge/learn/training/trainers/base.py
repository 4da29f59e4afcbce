"""What every trainer has in common: a job, and what is asked of a trainer."""

from __future__ import annotations

import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import writing
from uspex_bridge.base.schema import build, nearest, read_toml
from uspex_bridge.base.templates import TEMPLATES
from uspex_bridge.learn.training.watch import CurvePoint, Run, WatchSettings
from uspex_bridge.models.worker import command_in

#: The settings of each trainer, as files to read and copy.
SETTINGS = TEMPLATES / "training"
_LAUNCH = "uspex_bridge.learn.training.trainers.launch"


def refuse_own(given: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse settings that follow from elsewhere.

    Raises:
        ConfigError: there is one.
    """
    if mine := [key for key in names if key in given]:
        raise ConfigError(f"settings: {', '.join(mine)} follow from the command line and the dataset; leave them out")


@dataclass(frozen=True)
class TrainerSettings:
    """A settings file: how to watch, and the trainer's own input.

    Attributes:
        watch: see :class:`uspex_bridge.learn.training.watch.WatchSettings`.
        input: what the upstream trainer gets, by its own names.
    """

    watch: WatchSettings
    input: dict[str, Any]


def read_trainer_settings(trainer: str, files: Sequence[Path], *, scratch: bool) -> TrainerSettings:
    """Read a trainer's template and lay files of the same form over it.

    Args:
        trainer: name of the template.
        files: later ones count; a table is laid over a table, everything else replaces.
        scratch: no checkpoint is trained on, so that ``[scratch]`` is laid over ``[input]``.

    Raises:
        ConfigError: a file cannot be read or holds other tables.
    """
    merged: dict[str, Any] = {}
    for path in (SETTINGS / f"{trainer}.toml", *files):
        table = read_toml(path)
        for key, value in table.items():
            if key not in ("watch", "input", "scratch"):
                raise ConfigError(f"{path}: unknown table '{key}'{nearest(key, ('watch', 'input', 'scratch'))}")
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {key} is a table: [{key}]")
        given = overlay(table.get("input", {}), table.get("scratch", {}) if scratch else {})
        merged = overlay(merged, {"watch": table.get("watch", {}), "input": given})
    where = " and ".join(map(str, files)) or str(SETTINGS / f"{trainer}.toml")
    return TrainerSettings(build(WatchSettings, merged["watch"], f"{where}: [watch]"), merged["input"])


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``above`` laid over ``below``, tables over tables."""
    return reduce(_over, above.items(), dict(below))


def _over(table: dict[str, Any], item: tuple[str, Any]) -> dict[str, Any]:
    key, value = item
    old = table.get(key)
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        value = overlay(old, value)
    return table | {key: value}


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a training starts from.

    Attributes:
        path: the file.
        sha256: its checksum.
        branch: the head that is trained on, None where it has no heads.
        elements: those that it knows.
        shape: what of its architecture the trainer must be told again.
    """

    path: Path
    sha256: str
    branch: str | None
    elements: frozenset[str]
    shape: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        work: folder of the trainer's files.
        settings: see :class:`TrainerSettings`.
        elements: the type map: those of the dataset, sorted.
        train, valid: labelled structures.
        parent: what it starts from, None for random weights.
        replay: structures of the parent's own training, rehearsed beside the new ones (MACE).
        python: the trainer's interpreter, None for this one.
        device: ``cpu`` or ``cuda:N``.
        threads: of the CPU.
        seed: of the random numbers.
        length: steps or epochs, None takes those of the settings.
    """

    work: Path
    settings: TrainerSettings
    elements: tuple[str, ...]
    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    parent: Parent | None = None
    replay: Sequence[Atoms] = ()
    python: str | None = None
    device: str = "cpu"
    threads: int = 1
    seed: int = 1
    length: int | None = None

    def run(self, title: str, task: str, arguments: Sequence[str], log: str = "train.log") -> Run:
        """Return a task of :mod:`uspex_bridge.learn.training.trainers.launch` in the trainer's interpreter."""
        run = launched(self.work, self.python, title, task, arguments, log=log, threads=self.threads)
        if self.kind_of_device == "cuda":  # the trainers take the first GPU that they see
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            index = int(self.device.partition(":")[2] or 0)
            run.environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[index] if seen else str(index)
        return run

    @property
    def kind_of_device(self) -> str:
        """``cpu`` or ``cuda``, as trainers name it."""
        return self.device.partition(":")[0]


def launched(
    folder: Path,
    python: str | None,
    title: str,
    task: str,
    arguments: Sequence[str],
    *,
    log: str = "train.log",
    threads: int = 1,
) -> Run:
    """Return a task of :mod:`uspex_bridge.learn.training.trainers.launch`, to be run in ``folder``."""
    command, environment = command_in(python, _LAUNCH)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
        # DeePMD-kit's loaders are processes; the small data of this kind of training is read faster without.
        "NUM_WORKERS": os.environ.get("NUM_WORKERS", "0"),
    }
    return Run([*command, task, *arguments], environment, folder, folder / log, title)


class Trainer(ABC):
    """An upstream trainer.

    Attributes:
        name: of the trainer and its template.
        kind: of calculator that its models are.
        title: for people.
        packages: distributions whose versions the model card states, the trainer's own first.
        unit: what its length is counted in, ``steps`` or ``epochs``.
        measure: what kind of errors its curve has.
        suffix: of its models.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    measure: ClassVar[str] = "RMSE"
    suffix: ClassVar[str]
    needs_parent: ClassVar[bool] = False

    @abstractmethod
    def input(self, job: Training) -> dict[str, Any]:
        """Return the complete input that the upstream trainer gets.

        Raises:
            ConfigError: settings that contradict each other or what the bridge sets itself.
        """

    @abstractmethod
    def write_data(self, job: Training) -> None:
        """Write the labelled structures as the trainer reads them, below ``job.work / "data"``."""

    @abstractmethod
    def length(self, job: Training) -> int:
        """Return how many steps or epochs it will take."""

    @abstractmethod
    def upstream(self, job: Training) -> list[str]:
        """Return the upstream command that does the same in ``job.work``."""

    @abstractmethod
    def task(self, job: Training, *, resume: bool) -> Run:
        """Return the process that trains, from the last checkpoint with ``resume``."""

    @abstractmethod
    def curve(self, work: Path) -> list[CurvePoint]:
        """Read the loss curve so far, by step."""

    @abstractmethod
    def checkpoint(self, work: Path) -> Path | None:
        """Return the last whole checkpoint to go on from."""

    @abstractmethod
    def finish(self, job: Training) -> dict[str, Path]:
        """Make the final model of a training that has ended.

        Returns:
            ``model``, the file to compute with, and where that is another one ``checkpoint``, to train on.

        Raises:
            CalculationError: it cannot be made.
        """

    def tidy(self, work: Path) -> None:  # noqa: B027 (most trainers keep few checkpoints themselves)
        """Remove checkpoints that are not needed any more."""

    def facts(self, job: Training) -> dict[str, Any]:
        """Return what is worth keeping from the log."""
        return {}

    @abstractmethod
    def check(self, points: Sequence[CurvePoint]) -> None:
        """Check that what was to be trained on was trained on.

        Raises:
            CalculationError: it was not.
        """

    def prepare(self, job: Training) -> None:
        """Write data and input of a new training.

        Raises:
            OutputError: they cannot be written.
        """
        table = self.input(job)
        with writing(job.work):
            job.work.mkdir(parents=True)
            self.write_data(job)
            (job.work / "input.json").write_text(json.dumps(table, indent=2) + "\n")
            lines = "# The upstream command that does the same, in this folder.\n" + " ".join(self.upstream(job))
            (job.work / "command.txt").write_text(lines + "\n")


def whole(path: Path) -> bool:
    """Tell whether a file that torch wrote is there to its end."""
    return path.is_file() and zipfile.is_zipfile(path)


def log_of(job: Training) -> str:
    """Return the trainer's output so far."""
    path = job.work / "train.log"
    return path.read_text(errors="replace") if path.is_file() else ""


def branch_of(asked: str | None, branches: Sequence[str], path: Path) -> str | None:
    """Return the branch of a checkpoint that is meant, as the file spells it.

    Raises:
        ConfigError: there is none of that name, or several and none is named.
    """
    listed = ", ".join(branches)
    if asked is None:
        if len(branches) > 1:
            raise ConfigError(f"{path}: has {len(branches)} branches; name one with --branch: {listed}")
        return branches[0] if branches else None
    if asked.upper() == "RANDOM":
        raise ConfigError(f"{path}: branch RANDOM is an untrained head; name one of its own: {listed or 'it has none'}")
    if not branches:
        raise ConfigError(f"{path}: has no branches; leave --branch {asked} out")
    found = [name for name in branches if name.lower() == asked.lower()]
    if not found:
        raise ConfigError(f"{path}: no branch '{asked}'{nearest(asked, branches)}; it has: {listed}")
    return asked if asked in found else found[0]
