"""One structure to label: its folder, and the file in it that says where it comes from and what it was given.

A folder of labels holds ``labels.toml`` (the settings that all of it was prepared with), one folder per structure
named by its identity, ``jobs.txt`` and job scripts. Whatever a code leaves behind stays beside ``structure.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.schema import build
from uspex_bridge.learn.data.labels import Level, settings_hash

STRUCTURE = "structure.json"
SETTINGS = "labels.toml"
#: What GPAW's script and a foundation model leave.
RESULT = "label.json"
#: What runs VASP in a structure's folder, from the folder of labels.
RUN_VASP = "run_vasp.sh"


@dataclass(frozen=True)
class LabelTask:
    """What ``structure.json`` says.

    Attributes:
        id: see :func:`uspex_bridge.learn.data.identity.content_id`; the folder's name.
        family: of structures that must not straddle splits.
        generation: of the search, or number of the cycle.
        origin: the structure's name where it comes from; ``reason``: why it was chosen.
        pressure_gpa: of the search.
        symbols, cell, scaled: the structure, atoms grouped by element; cell in Å, fractional coordinates.
        level: the level of theory.
        inputs: what the code was given: cutoff, k-points, moments, potentials ...
        files: input file -> SHA-256, of the files written beside this one.
    """

    id: str
    family: str
    generation: int
    origin: str
    reason: str
    pressure_gpa: float
    symbols: tuple[str, ...]
    cell: Any
    scaled: Any
    level: Level
    inputs: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result."""
        return settings_hash([self.symbols, self.cell, self.scaled, asdict(self.level), self.inputs, self.files])

    @property
    def structure(self) -> Structure:
        """The structure."""
        return Structure(self.symbols, np.array(self.cell), np.array(self.scaled), self.id)

    @property
    def atoms(self) -> Atoms:
        """The structure as ASE atoms with everything a dataset wants to know in ``info``."""
        atoms = Atoms(list(self.symbols), cell=self.cell, scaled_positions=self.scaled, pbc=True)
        atoms.info = {
            "family": self.family,
            "origin": self.origin,
            "pressure_gpa": self.pressure_gpa,
            "provenance": {"reason": self.reason, "key": self.key, **self.inputs},
        }
        return atoms

    def text(self) -> str:
        """Return what ``structure.json`` holds."""
        return json.dumps(asdict(self) | {"key": self.key}, indent=1, ensure_ascii=False) + "\n"


def read_task(folder: Path) -> LabelTask:
    """Read a structure's folder.

    Raises:
        InputError: ``structure.json`` is missing, damaged or was edited.
    """
    path = folder / STRUCTURE
    try:
        fields = jsonl.loads(path.read_text(encoding="utf-8"))
        key, level = fields.pop("key"), build(Level, fields.pop("level"), str(path))
        task = build(LabelTask, fields | {"level": level}, str(path))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {error!r}; prepare the structure again") from None
    except ConfigError as error:
        raise InputError(f"{error}; prepare the structure again") from None
    if task.key != key:
        raise InputError(f"{path}: was edited after it was prepared; remove the folder and prepare it again")
    return task


def folders(labels: Path) -> Iterator[Path]:
    """Yield the structures' folders in order of name.

    Raises:
        InputError: ``labels`` is no folder of labels.
    """
    if not (labels / SETTINGS).is_file():
        raise InputError(f"{labels}: no labels were prepared there ({SETTINGS} is missing)")
    yield from sorted(path.parent for path in labels.glob(f"*/{STRUCTURE}"))
