"""The labelled structures that models are trained on: a folder that only grows.

``manifest.jsonl`` has one line per label: where it came from, what computed it, which split it is in, and where its
frame lies; ``generation-003.extxyz`` holds the frames of generation 3. A file is never written a second time; labels
of the same generation that arrive later go to ``generation-003.2.extxyz``. docs/learning.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base import jsonl
from uspex_bridge.base.atoms import extxyz
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import checksum, publish_files, writing
from uspex_bridge.base.locks import held
from uspex_bridge.base.schema import build
from uspex_bridge.base.units import pressure_of
from uspex_bridge.base.words import counted
from uspex_bridge.learn.data import repair
from uspex_bridge.learn.data.exports import Keys, write_deepmd, write_extxyz
from uspex_bridge.learn.data.families import Families
from uspex_bridge.learn.data.identity import Split, split_of
from uspex_bridge.learn.data.labels import (
    Added,
    Label,
    Level,
    Refused,
    free_energy,
    identity_of,
    informed,
    problem_of,
    provenance_of,
    read_frames,
    trained_on,
)

MANIFEST = "manifest.jsonl"
VERSION = 1
#: Seconds to wait for another command that changes the dataset.
_WAIT = 600.0


class Dataset:
    """An open dataset.

    Attributes:
        path: its folder.
        valid, test: fractions of families that validate and test.
        labels: id -> label, in the order they were added.
    """

    def __init__(self, path: Path, valid: float, test: float, labels: dict[str, Label]) -> None:
        self.path, self.valid, self.test, self.labels = path, valid, test, labels

    @classmethod
    def create(cls, path: Path, *, valid: float = 0.1, test: float = 0.1) -> Dataset:
        """Make an empty dataset.

        Raises:
            ConfigError: the fractions are impossible.
            InputError: there is a dataset already.
            OutputError: the folder cannot be written.
        """
        if not (valid >= 0 and test >= 0 and valid + test < 1):
            raise ConfigError(f"valid = {valid} and test = {test}: fractions of families, together below 1")
        dataset = cls(path, valid, test, {})
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with dataset._alone():
            if is_dataset(path):
                raise InputError(f"{path}: a dataset exists there; use it, or name another folder")
            head = {"dataset": VERSION, "valid": valid, "test": test}
            publish_files(path, {MANIFEST: json.dumps(head) + "\n"})
        return dataset

    @classmethod
    def at(cls, path: Path, *, valid: float = 0.1, test: float = 0.1) -> Dataset:
        """Open a dataset; make an empty one where there is none, which another command may do at the same time.

        Raises:
            ConfigError, InputError, OutputError: see :meth:`create` and :meth:`open`.
        """
        if not is_dataset(path):
            try:
                return cls.create(path, valid=valid, test=test)
            except InputError:
                if not is_dataset(path):
                    raise
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Dataset:
        """Open a dataset.

        Args:
            path: its folder.
            verify: compare every file with its checksum.

        Raises:
            InputError: there is none, or its files are not as they were written (see :meth:`changes`).
        """
        dataset = _read(path)
        if verify and (changes := dataset.changes()):
            raise InputError(
                f"{path}: changed by hand: {'; '.join(changes[:3])}{' ...' if len(changes) > 3 else ''}. Put the files "
                f"back, or look at 'uspex-bridge dataset check {path}' and accept it with --accept"
            )
        return dataset

    @property
    def level(self) -> Level | None:
        """The level of theory, None while there is no label."""
        return next((label.level for label in self.labels.values()), None)

    @property
    def elements(self) -> list[str]:
        """The elements of all labels, in alphabetic order."""
        return sorted({symbol for label in self.labels.values() for symbol in label.counts})

    @property
    def files(self) -> dict[str, list[Label]]:
        """File -> its labels by index."""
        found: dict[str, list[Label]] = {}
        for label in sorted(self.labels.values(), key=lambda one: one.index):
            found.setdefault(label.file, []).append(label)
        return dict(sorted(found.items()))

    def select(self, split: Split | None = None, generation: int | None = None) -> list[Label]:
        """Return the labels of a split and a generation; None is all."""
        return [
            label
            for label in self.labels.values()
            if split in (None, label.split) and generation in (None, label.generation)
        ]

    def frames(self, split: Split | None = None, generation: int | None = None) -> Iterator[Atoms]:
        """Yield labelled structures, file by file.

        Each has a calculator with ``energy`` = ``free_energy`` = F (eV), forces (eV/Å), stress (eV/Å³, ASE's sign),
        magnetic moments where known, and in ``info``: id, family, split, generation, origin, level, e0, pressure_gpa.

        Raises:
            InputError: a file is missing or shorter than the manifest says.
        """
        wanted = {label.id for label in self.select(split, generation)}
        for name, labels in self.files.items():
            if not any(label.id in wanted for label in labels):
                continue
            images = self._images(name, labels[-1].index)
            for label in labels:
                if label.id in wanted:
                    yield informed(images[label.index], label)

    def structures(self, labels: Iterable[Label]) -> dict[str, Atoms]:
        """Return the structures of some labels by identity.

        Raises:
            InputError: a file is missing or shorter than the manifest says.
        """
        places: dict[str, list[Label]] = {}
        for label in labels:
            places.setdefault(label.file, []).append(label)
        found: dict[str, Atoms] = {}
        for name, listed in places.items():
            images = self._images(name, max(label.index for label in listed))
            found |= {label.id: images[label.index] for label in listed}
        return found

    def _images(self, name: str, last: int) -> list[Atoms]:
        images = read_frames(self.path / name)
        if len(images) <= last:
            raise InputError(f"{self.path / name}: {len(images)} frames where the manifest has {last + 1}")
        return images

    def add(
        self,
        frames: Iterable[Atoms],
        *,
        generation: int,
        level: Level,
        split: Split | None = None,
    ) -> Added:
        """Add labelled structures; what cannot be used is refused with its reason, everything else is kept.

        A structure joins the family of the same phase that is there already (see
        :class:`uspex_bridge.learn.data.families.Families`), whatever family it says.

        Args:
            frames: each with a calculator that holds energy, forces, stress and, where the code has it, free_energy
                (ASE's meaning: ``energy`` is extrapolated to zero smearing). ``info`` may hold family, origin,
                pressure_gpa, e0 (instead of ``energy``) and provenance (a dictionary).
            generation: of the search, or number of the cycle.
            level: what computed them.
            split: for families that are new here, instead of the split that their name gives.

        Raises:
            InputError: the dataset has another level of theory.
            OutputError: it cannot be written; nothing is added then.
            BusyError: another command has been changing it for ten minutes.
        """
        with self._alone():
            self.labels = _read(self.path).labels
            if self.level not in (None, level):
                raise InputError(
                    f"{self.path}: its labels are {self.level}, these are {level}; energies of two levels of theory "
                    "cannot be trained on together. Start another dataset"
                )
            draft = _Draft(self, generation, level, split)
            for number, atoms in enumerate(frames, 1):
                draft.take(atoms, number)
            return draft.write()

    def export_deepmd(self, folder: Path, split: Split | None = None, *, mixed: bool = False) -> int:
        """Write the frames for DeePMD-kit, all splits with one type_map; see :mod:`uspex_bridge.learn.data.exports`."""
        return write_deepmd(list(self.frames(split)), folder, mixed=mixed, elements=self.elements)

    def export_extxyz(self, file: Path, split: Split | None = None, *, keys: Keys = "ase") -> int:
        """Write the frames into one extxyz file; see :func:`uspex_bridge.learn.data.exports.write_extxyz`."""
        return write_extxyz(list(self.frames(split)), file, keys)

    def changes(self) -> list[str]:
        """Return what is not as it was written, one line per file; empty for a sound dataset."""
        found = []
        for name, labels in self.files.items():
            path = self.path / name
            if not path.is_file():
                found.append(f"{name} is gone, with {counted(len(labels), 'label')}")
            elif checksum(path) != labels[0].sha256:
                found.append(f"{name} is not as it was written: {'; '.join(repair.differences(path, labels))}")
        return found

    def strangers(self) -> list[str]:
        """Return extxyz files in the folder, and how many frames of a file, that the manifest does not name.

        They were left by an addition that was killed, or only a part of the manifest was copied.
        """
        found, known = [], self.files
        for path in sorted(self.path.glob("*.extxyz")):
            if path.name not in known:
                found.append(path.name)
            elif (more := repair.count_frames(path) - len(known[path.name])) > 0:
                found.append(f"{path.name} ({counted(more, 'frame')})")
        return found

    def accept(self) -> list[str]:
        """Take the files as they are now and return what that changed; the manifest keeps the old lines.

        Frames that are gone or have become other structures leave the dataset; other frames keep their label with
        the numbers that now stand in the file. Frames without a label stay without.

        Raises:
            OutputError: the manifest cannot be written.
            BusyError: another command has been changing it for ten minutes.
        """
        with self._alone():
            self.labels = _read(self.path).labels
            changes, lines = self.changes(), []
            for name, labels in self.files.items():
                path = self.path / name
                if path.is_file() and checksum(path) == labels[0].sha256:
                    continue
                lines += repair.as_they_are(path, labels)
            if lines:
                jsonl.append(self.path / MANIFEST, *lines)
                self.labels = _read(self.path).labels
        return changes

    def _alone(self) -> AbstractContextManager[object]:
        return held(self.path / ".lock", f"{self.path}: another command is changing it; run this again later", _WAIT)


class _Draft:
    """The labels of one addition, before they are written."""

    def __init__(self, dataset: Dataset, generation: int, level: Level, split: Split | None) -> None:
        self.dataset, self.generation, self.level, self.split = dataset, generation, level, split
        self.families = Families(list(dataset.labels.values()), dataset.structures)
        self.potentials: dict[str, str] = {}
        for label in dataset.labels.values():
            self.potentials |= _potentials(label.provenance)
        self.accepted: dict[str, Atoms] = {}
        self.fields: list[dict[str, Any]] = []
        self.refused: list[Refused] = []

    def take(self, atoms: Atoms, number: int) -> None:
        name = str(atoms.info.get("origin") or atoms.info.get("name") or f"frame {number}")
        identity = identity_of(atoms)
        reason = self._known(identity) or problem_of(atoms) or self._other_potentials(atoms)
        if reason:
            self.refused.append(Refused(name, reason))
            return
        info, results = atoms.info, atoms.calc.results
        family = self.families.of(atoms, str(info.get("family") or identity), self._new_split)
        pressure = info.get("pressure_gpa")
        provenance = provenance_of(atoms)
        self.potentials |= _potentials(provenance)
        moments = results.get("magmoms")
        moment = results.get("magmom", None if moments is None else float(np.sum(moments)))
        self.accepted[identity] = atoms
        self.fields.append(
            {
                "id": identity,
                "family": family,
                "split": self.families.splits[family],
                "generation": self.generation,
                "origin": str(info.get("origin") or ""),
                "pressure_gpa": None if pressure is None else float(pressure),
                "own_pressure_gpa": round(pressure_of(results["stress"]), 6),
                "formula": atoms.get_chemical_formula("metal"),
                "natoms": len(atoms),
                "level": self.level,
                "energy": free_energy(atoms),
                "e0": float(info.get("e0", results["energy"])),
                "magmom": None if moment is None else float(moment),
                "fmax": float(np.linalg.norm(results["forces"], axis=1).max()),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "provenance": provenance,
                "volume": round(float(atoms.get_volume()), 6),
            }
        )

    def _new_split(self, family: str) -> Split:
        return self.split or split_of(family, self.dataset.valid, self.dataset.test)

    def _known(self, identity: str) -> str:
        if identity in self.accepted:
            return "the same structure as an earlier one of these"
        if old := self.dataset.labels.get(identity):
            return f"already in the dataset ({identity}, generation {old.generation}, {old.file})"
        return ""

    def _other_potentials(self, atoms: Atoms) -> str:
        for symbol, title in _potentials(provenance_of(atoms)).items():
            if self.potentials.get(symbol, title) != title:
                return f"potential of {symbol} is '{title}', in the dataset '{self.potentials[symbol]}'"
        return ""

    def write(self) -> Added:
        """Write the frames, then the manifest's lines; a frame without its line is as good as not there."""
        folder = self.dataset.path
        if not self.fields:
            return Added((), tuple(self.refused))
        stem, k = f"generation-{self.generation:03d}", 1
        while (folder / (name := f"{stem}.extxyz" if k == 1 else f"{stem}.{k}.extxyz")).exists():
            k += 1
        images = list(self.accepted.values())
        made = [Label(file=name, index=i, sha256="", **fields) for i, fields in enumerate(self.fields)]
        text = extxyz([informed(trained_on(atoms), label) for atoms, label in zip(images, made, strict=True)])
        labels = [replace(label, sha256=hashlib.sha256(text.encode()).hexdigest()) for label in made]
        publish_files(folder, {name: text})
        jsonl.append(folder / MANIFEST, *(asdict(label) for label in labels))
        self.dataset.labels |= {label.id: label for label in labels}
        return Added(tuple(labels), tuple(self.refused))


def is_dataset(path: Path) -> bool:
    """Tell whether a folder holds a dataset; a manifest without a line beside no frames is what a kill left of none."""
    manifest = path / MANIFEST
    with suppress(OSError):
        return manifest.is_file() and (any(path.glob("*.extxyz")) or next(jsonl.read(manifest), None) is not None)
    return True


def _read(path: Path) -> Dataset:
    """Read the manifest; of an id's several lines the last one counts.

    Raises:
        InputError: there is no manifest, or one of another version.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{path}: no dataset there ({MANIFEST} is missing); 'uspex-bridge dataset add' makes one")
    head: dict[str, Any] | None = None
    labels: dict[str, Label] = {}
    for number, line in enumerate(jsonl.read(manifest), 1):
        line.pop("schema", None)
        if head is None:
            head = line
            fractions = head.get("valid"), head.get("test")
            if head.get("dataset") != VERSION or not all(isinstance(one, (int, float)) for one in fractions):
                raise InputError(f"{manifest}: not a dataset of version {VERSION}")
        elif "withdrawn" in line:
            labels.pop(str(line.get("id")), None)
        else:
            label = build(
                Label,
                line | {"level": build(Level, line.get("level", {}), f"{manifest}, line {number}")},
                f"{manifest}, line {number}",
            )
            labels[label.id] = label
    if head is None:
        raise InputError(f"{manifest}: empty; take the dataset from a copy")
    return Dataset(path, float(head["valid"]), float(head["test"]), labels)


def _potentials(provenance: dict[str, Any]) -> dict[str, str]:
    found = provenance.get("potentials")
    return found if isinstance(found, dict) else {}
