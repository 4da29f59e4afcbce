"""What is to be trained: the data, the checkpoint it starts from, and everything that can be checked before.

Nothing is written here, and no trainer's package is imported: its own interpreter is asked.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, ModelError
from uspex_bridge.base.files import checksum
from uspex_bridge.call.model_names import start_of
from uspex_bridge.learn.data.dataset import MANIFEST, Dataset
from uspex_bridge.learn.data.labels import problem_of, read_frames
from uspex_bridge.learn.data.public_sets import NAMES, SETS, read_set
from uspex_bridge.learn.training.trainers.base import (
    Parent,
    Trainer,
    Training,
    branch_of,
    launched,
    read_trainer_settings,
)
from uspex_bridge.learn.training.trainers.chgnet import Chgnet
from uspex_bridge.learn.training.trainers.deepmd import Dpa3, Sea
from uspex_bridge.learn.training.trainers.mace import Mace
from uspex_bridge.learn.training.trainers.mattersim import MatterSim
from uspex_bridge.models import inventory
from uspex_bridge.models.cards import CalculatorSettings

TRAINERS: dict[str, Trainer] = {trainer.name: trainer for trainer in (Dpa3(), Sea(), Mace(), MatterSim(), Chgnet())}
#: Seconds that a look at a checkpoint or an interpreter may take (imports on a busy network file system are slow).
_LOOK = 600.0


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        source: where it is from, for the card: path and checksum.
        train, valid: labelled structures.
        notes: what is not among them.
    """

    source: dict[str, Any]
    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    notes: tuple[str, ...] = ()

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
        parent: the checkpoint to start from: a path, a known name, or the folder of a training.
        branch: of its heads.
        replay: extxyz of structures to rehearse.
        length: steps or epochs.
        time_limit: seconds.
        resume: go on with a training that was stopped.
        python: the trainer's interpreter.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        threads, seed: see :class:`uspex_bridge.learn.training.trainers.base.Training`.
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
    notes = tuple(f"{path}: not in the manifest and not trained on: {name}" for name in dataset.strangers())
    return _sound(Data(source, parts["train"], parts["valid"], notes), str(path))


def from_public(name: str) -> Data:
    """Take the training and validation structures of a public set, whose test structures nobody trains on.

    Raises:
        InputError: it is not on this machine.
    """
    source = {"public_set": name, **{f"{one}_sha256": SETS[one].sha256 for one in NAMES[name]}}
    frames = read_set(name)
    train, valid = ([atoms for atoms in frames if atoms.info["split"] == split] for split in ("train", "valid"))
    return Data(source, train, valid)


def from_files(train: Path, valid: Path | None = None) -> Data:
    """Take training and validation structures from extxyz files with energy, forces and stress.

    Raises:
        InputError: one cannot be read, or a structure lacks something.
    """
    trained, sha256 = _labelled(train)
    source = {"train": str(train.resolve()), "train_sha256": sha256}
    judged: list[Atoms] = []
    if valid is not None:
        judged, sha256 = _labelled(valid)
        source |= {"valid": str(valid.resolve()), "valid_sha256": sha256}
    return _sound(Data(source, trained, judged), str(train))


def plan(order: Order) -> tuple[Trainer, Training, dict[str, Any]]:
    """Work out what will be done, and check all that can be checked before.

    Returns:
        the trainer, its job, and what identifies the request.

    Raises:
        ConfigError, InputError, ModelError: it cannot be done.
    """
    if order.trainer not in TRAINERS:
        raise ConfigError(f"there is no trainer '{order.trainer}'; there are {', '.join(TRAINERS)}")
    trainer = TRAINERS[order.trainer]
    settings = read_trainer_settings(trainer.name, order.settings, scratch=order.parent is None)
    around = surroundings(trainer, order.python, trainer.packages)
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
        raise ConfigError(f"--replay is an option of MACE, not of {trainer.title}")
    replay, replay_sha256 = _labelled(order.replay) if order.replay else ([], None)
    job = Training(
        work=(order.out / "work").resolve(),
        settings=settings,
        elements=elements,
        train=order.data.train,
        valid=order.data.valid,
        parent=parent,
        replay=replay,
        python=order.python,
        device=_device(order.device, around["gpus"]),
        threads=order.threads,
        seed=order.seed,
        length=order.length,
    )
    request = {
        "trainer": trainer.name,
        "data": {key: value for key, value in order.data.source.items() if not isinstance(value, str) or "sha" in key},
        "parent": None if parent is None else {"sha256": parent.sha256, "branch": parent.branch},
        "replay_sha256": replay_sha256,
        "input": trainer.input(job),
    }
    return trainer, job, {"request": request, "versions": around["versions"]}


def surroundings(trainer: Trainer, python: str | None, packages: Sequence[str]) -> dict[str, Any]:
    """Return versions of packages in the trainer's interpreter and, where torch is among them, its number of GPUs.

    Args:
        trainer: whose own package must be there.
        python: the interpreter, None for this one.
        packages: the trainer's own first.

    Raises:
        ModelError: it lacks the trainer's package.
    """
    found = _asked(python, trainer.title, "environment", packages)
    if found["versions"][trainer.packages[0]] is None:
        card = inventory.card_of(trainer.kind, CalculatorSettings())
        where = python or "this Python"
        raise ModelError(
            f"{where} has no {trainer.packages[0]}; name an interpreter that has it with --python or as python under "
            f"[calculators.{trainer.kind}] in bridge.toml, or install it: {card.install}"
        )
    return found


def checkpoint(trainer: Trainer, name: str) -> tuple[Path, str, str | None]:
    """Find the checkpoint to start from: its file, checksum, and its head where the file may have several.

    Raises:
        ModelError: it is not there, or cannot be trained on.
    """
    card = inventory.card_of(trainer.kind, CalculatorSettings())
    start, head = start_of(name)
    same = {kind for kind, one in inventory.cards().items() if one.module == card.module}
    kind = start if start in same else trainer.kind
    found = inventory.find_weights(kind, CalculatorSettings(kind=kind, model=None if kind == start else start))
    path, sha256 = found.path, found.sha256
    if path is None or sha256 is None:
        raise ModelError(f"{name}: no file to train on")
    if trainer.kind == "deepmd" and path.suffix != ".pt":
        raise ModelError(f"{path}: a frozen model cannot be trained on; name the checkpoint (.pt) it was made from")
    return path, sha256, head


def _parent(trainer: Trainer, order: Order) -> Parent:
    """Find the checkpoint to start from and read what it is for.

    Raises:
        ModelError: it is not there, or not what this trainer reads.
        ConfigError: it has no such branch.
    """
    path, sha256, head = checkpoint(trainer, order.parent or "")
    try:
        facts = _asked(order.python, trainer.title, "describe", [trainer.kind, str(path.resolve())])
    except CalculationError as error:
        raise ModelError(f"{path}: not a checkpoint of {trainer.title}: {error}") from None
    branch = branch_of(order.branch or head, facts["branches"], path)
    known = facts["elements"].get(branch or "", facts["elements"].get("", []))
    return Parent(path.resolve(), sha256, branch, frozenset(known), facts.get("shape", {}))


def _asked(python: str | None, title: str, task: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a short task in the trainer's interpreter writes (see :mod:`.trainers.launch`).

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


def _labelled(path: Path) -> tuple[list[Atoms], str]:
    """Return the structures of an extxyz file, and its checksum."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    frames = read_frames(path)
    for number, atoms in enumerate(frames, 1):
        if problem := problem_of(atoms):
            raise InputError(f"{path}, structure {number} ({atoms.symbols}): {problem}; remove it or label it again")
    if not frames:
        raise InputError(f"{path}: holds no structure")
    return frames, checksum(path)


def _listed(elements: frozenset[str]) -> str:
    return " ".join(sorted(elements)) if len(elements) <= 10 else f"{len(elements)} elements"
