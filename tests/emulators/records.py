"""What both emulated USPEX lines report, and how they launch a command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

#: Runs ``command`` in ``cwd`` with the given standard streams and returns its exit code.
Launch = Callable[[str, Path, IO[Any], IO[Any], IO[Any]], int]


class SearchDied(Exception):
    """USPEX itself would end here with an uncaught exception."""


class SearchStopped(Exception):
    """USPEX would stop the search on purpose (``quit``)."""


class SearchHung(Exception):
    """USPEX would wait here for ever; the emulator's patience is over."""


@dataclass(frozen=True)
class Candidate:
    """A structure to relax; ``origin`` says how it was made."""

    index: int
    atoms: Atoms
    origin: str = ""


@dataclass
class Call:
    """One start of the executable.

    ``changed`` names input files that it altered or removed and ``strays`` files that it had no right to write
    (``USPEX*``, ``*_old``); ``message`` says why USPEX did not accept what it left.
    """

    step: int
    attempt: int
    folder: Path
    returncode: int | None = None
    seconds: float = 0.0
    accepted: bool = False
    message: str = ""
    changed: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What USPEX took from an accepted step.

    Attributes:
        step: number of the step, from 1.
        enthalpy: eV per cell, as USPEX ranks by it.
        atoms: the structure as read, in the order in which it was written.
        contcar: text of the CONTCAR of this step.
        incar: text of the INCAR of this step.
    """

    step: int
    enthalpy: float
    atoms: Atoms
    contcar: str
    incar: str


@dataclass
class Report:
    """The life of one structure; ``status`` is ``done`` or ``dropped`` (isBad), then ``reason`` says why."""

    candidate: Candidate
    calls: list[Call] = field(default_factory=list)
    steps: list[StepResult] = field(default_factory=list)
    status: str = "running"
    reason: str = ""

    @property
    def done(self) -> bool:
        """All steps finished."""
        return self.status == "done"

    @property
    def enthalpies(self) -> list[float]:
        """Enthalpy of each accepted step, eV per cell."""
        return [step.enthalpy for step in self.steps]

    @property
    def enthalpy(self) -> float:
        """Enthalpy of the last step; 100000 where USPEX dropped the structure."""
        return self.steps[-1].enthalpy if self.done else 100000.0

    @property
    def final(self) -> Atoms:
        """Structure after the last accepted step."""
        return self.steps[-1].atoms

    def drop(self, reason: str) -> None:
        """Mark the structure as given up."""
        self.status, self.reason = "dropped", reason


def shell(command: str, cwd: Path, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]) -> int:
    """Run a command line through the shell, as both USPEX lines do, and wait for it."""
    return subprocess.run(command, shell=True, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr).returncode


class Watch:
    """Notes in a ``call`` how long a launch took and what it did to files that are not its own."""

    def __init__(self, call: Call, inputs: Iterable[str]) -> None:
        self.call = call
        self.inputs = {name: (call.folder / name).read_bytes() for name in inputs}
        self.present = self._names()
        self.start = time.monotonic()

    def finish(self) -> None:
        """Compare the folder with what it was."""
        self.call.seconds = time.monotonic() - self.start
        self.call.changed = tuple(name for name, text in self.inputs.items() if self._read(name) != text)
        new = self._names() - self.present
        self.call.strays = tuple(sorted(name for name in new if name.startswith("USPEX") or name.endswith("_old")))

    def _names(self) -> set[str]:
        return {path.name for path in self.call.folder.iterdir()}

    def _read(self, name: str) -> bytes | None:
        path = self.call.folder / name
        return path.read_bytes() if path.is_file() else None


def kpoints(cell: ArrayLike, resolution: float) -> tuple[tuple[int, int, int], bool]:
    """Return the k-point mesh USPEX writes for a cell (rows, Å), and whether it holds the cell for spoiled.

    N_i = ceil(1 / (d_i * Kresol)) with d_i the distance of the lattice planes; more than 20 in a cell of more than
    50 Å³ is taken for a spoiled cell, which gets 1 1 1.
    """
    rows = np.asarray(cell, dtype=float)
    volume = abs(float(np.linalg.det(rows)))
    heights = [volume / float(np.linalg.norm(np.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]))) for i in range(3)]
    mesh = tuple(int(np.ceil(1.0 / (height * resolution))) for height in heights)
    if max(mesh) > 20 and volume > 50.0:
        return (1, 1, 1), True
    return (mesh[0], mesh[1], mesh[2]), False


def format_kpoints(mesh: tuple[int, int, int]) -> str:
    """Return the four lines of USPEX's KPOINTS."""
    return "EA\n0\nGamma\n{:4d} {:4d} {:4d}\n".format(*mesh)
