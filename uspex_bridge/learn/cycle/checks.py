"""What a loop needs and can be looked at before it starts, or it would find it out hours later; all at once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

from uspex_bridge.base.errors import BridgeError, ConfigError, InputError, ModelError
from uspex_bridge.base.schema import nearest
from uspex_bridge.call import record_file
from uspex_bridge.call.config import Config, load_config
from uspex_bridge.call.model_names import settings_for
from uspex_bridge.learn.cycle.settings import FILENAME, CycleSettings, LabelStep, ModelSettings
from uspex_bridge.learn.cycle.steps import folder_of
from uspex_bridge.learn.data.public_sets import is_public, read_set
from uspex_bridge.learn.label import vasp_inputs
from uspex_bridge.learn.label.run import refuse_without_gpaw
from uspex_bridge.learn.label.settings import read_label_settings
from uspex_bridge.learn.training.order import TRAINERS, checkpoint, surroundings
from uspex_bridge.learn.training.trainers.base import Trainer, read_trainer_settings
from uspex_bridge.models import inventory
from uspex_bridge.results.reading.folder import results_folders

#: What is wrong where in cycle.toml.
_Look = tuple[str, Callable[[], object]]


def check(folder: Path, settings: CycleSettings, *, promoted: bool) -> None:
    """Look for everything that ``cycle.toml`` names: places, checkpoints, files, interpreters, POTCARs, programs.

    Args:
        folder: of the loop, in which its commands run.
        settings: of the loop.
        promoted: whether there are models in use, which trainings with ``later = "current"`` start from.

    Raises:
        ConfigError: something is not there; names all that is not.
    """
    problems = []
    with chdir(folder):
        for where, look in _looks(settings, load_config(Path.cwd()), promoted=promoted):
            try:
                look()
            except BridgeError as error:
                problems.append(f"  {where}: {error}")
    if problems:
        raise ConfigError(f"{folder / FILENAME}: the loop cannot run:", *problems)


def _looks(settings: CycleSettings, config: Config, *, promoted: bool) -> Iterator[_Look]:
    for place in settings.search.places:
        yield "[search] places", lambda place=place: _place(place)  # type: ignore[misc]
    for command in [settings.search.command, *(one.command for one in settings.search.then)]:
        if command:
            yield "[search] command", lambda command=command: _program(command, Path())  # type: ignore[misc]
    for one in settings.search.then:
        if one.seeds and settings.seeds.count:
            yield "[[search.then]] seeds", lambda one=one: _folder(one.seeds)  # type: ignore[misc]
    if settings.select.holdout:
        yield "[select] holdout", lambda: _file(settings.select.holdout)
    if settings.promote.foreign:
        yield "[promote] foreign", lambda: _foreign(settings.promote.foreign)
    for name, model in settings.models.items():
        yield from _looks_at_model(f"[models.{name}]", model, config, promoted=promoted)
    yield from _looks_at_labels(settings.label, config)
    if settings.seeds.count:
        yield "[seeds] into", lambda: _folder(settings.seeds.into)


def _looks_at_model(where: str, model: ModelSettings, config: Config, *, promoted: bool) -> Iterator[_Look]:
    trainer = TRAINERS.get(model.trainer)
    if trainer is None:
        yield f"{where} trainer", lambda: _unknown(model.trainer)
        return
    python = config.settings_of(trainer.kind).python
    yield f"{where} trainer", lambda: surroundings(trainer, python, trainer.packages[:1])
    if not (promoted and model.later == "current"):
        yield f"{where} start", lambda: _start(trainer, model.start)
    files = [Path(model.settings)] if model.settings else []
    yield f"{where} settings", lambda: read_trainer_settings(trainer.name, files, scratch=not model.start)
    if model.replay:
        yield f"{where} replay", lambda: _replay(trainer, model.replay)


def _looks_at_labels(label: LabelStep, config: Config) -> Iterator[_Look]:
    yield "[label] settings", lambda: read_label_settings(Path(label.settings) if label.settings else None, label.code)
    if label.code == "model":
        yield "[label] model", lambda: _model(label.model, config)
        return
    if label.code == "vasp":
        yield "[label] potcars", lambda: _potcars(label)
    labels = Path(folder_of(0), "labels")
    if label.how == "submit":
        yield "[label] command", lambda: _program(label.command, labels)
    elif label.how == "run":
        yield "[label] command", lambda: _runs(label, labels / "structure")


def _place(place: str) -> None:
    path = Path(place)
    if not path.exists():
        raise InputError(f"there is no {place}; name results folders of the search, or files of structures")
    if path.is_dir() and not record_file.in_folder(path).is_file():
        results_folders(path)


def _folder(name: str) -> None:
    if not Path(name).is_dir():
        raise InputError(f"there is no folder {name}; make it, or name that of the next search")


def _file(name: str) -> None:
    if not Path(name).is_file():
        raise InputError(f"there is no file {name}")


def _foreign(name: str) -> None:
    if is_public(name):
        read_set(name, "test")
    elif not Path(name).exists():
        raise InputError(f"there is no {name}; name a dataset, a file of labels, or a public set")


def _unknown(trainer: str) -> None:
    raise ConfigError(f"there is no trainer '{trainer}'{nearest(trainer, TRAINERS)}")


def _start(trainer: Trainer, start: str) -> None:
    if start:
        checkpoint(trainer, start)
    elif trainer.needs_parent:
        raise ConfigError(f"{trainer.title} trains from a checkpoint only; name one")


def _replay(trainer: Trainer, replay: str) -> None:
    if trainer.kind != "mace":
        raise ConfigError(f"is an option of MACE, not of {trainer.title}")
    _file(replay)


def _model(name: str, config: Config) -> None:
    status = inventory.available(name, settings_for(name, config))
    if not status.ok:
        raise ModelError(status.problem)


def _potcars(label: LabelStep) -> None:
    """Look for a library; whoever sees to the labels may put POTCARs there too."""
    if vasp_inputs.library(Path(label.potcars) if label.potcars else None) is None and label.how != "wait":
        raise ConfigError(f"no POTCAR library is named; name yours, or set {vasp_inputs.VARIABLE}")


def _runs(label: LabelStep, where: Path) -> None:
    file = Path(label.settings) if label.settings else None
    command = label.command or read_label_settings(file, label.code).job.command
    _program(command, where)
    refuse_without_gpaw(command)


def _program(command: str, where: Path) -> None:
    """Look for the program that a shell command begins with; ``where`` it will run need not be there yet."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        word = next((word for word in list(words) if not re.match(r"\w+=", word)), "")
    except ValueError as error:
        raise ConfigError(f"'{command}' is not a shell command: {error}") from None
    word = os.path.expandvars(os.path.expanduser(word))
    if "/" not in word:
        done = subprocess.run(["sh", "-c", 'command -v "$1"', "sh", word], stdout=subprocess.DEVNULL, check=False)
        found = done.returncode == 0 or re.match(r"[\w.+-]+$", word) is None
    else:
        path = Path(os.path.normpath(where / word))
        found = (path.is_relative_to(where) and where != Path()) or os.access(path, os.X_OK)
    if not found:
        raise ConfigError(f"'{command}' cannot be run: there is no program {word}")
