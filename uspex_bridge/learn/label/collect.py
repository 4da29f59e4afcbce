"""What became of prepared labels, and the finished ones filed in a dataset, each once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ase import Atoms

from uspex_bridge.base.errors import BusyError, InputError
from uspex_bridge.base.locks import held
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.labels import Added, Label, Level, Refused, identity_of, problem_of
from uspex_bridge.learn.data.vasp_output import ended
from uspex_bridge.learn.label import computed, vasp_runs
from uspex_bridge.learn.label.tasks import RESULT, LabelTask, folders, read_task

State = Literal["prepared", "running", "done", "failed"]
#: What the command of ``label run`` or of a job prints.
LOG = "run.log"
#: ... and how its last line begins once the command has ended.
EXIT = "exit code"
#: Logs that grow while a code is at work.
_LOGS = (LOG, "OUTCAR", "OSZICAR", "gpaw.txt", "relax/OUTCAR", "relax/OSZICAR")
#: How lines begin that say of a code that it failed, but not why.
_LAUNCHER = "srun:"
#: Held in a structure's folder while ``label run`` computes it.
LOCK = ".running"
#: Seconds after which a lock that is not free is that of a run, not of a question for the status.
MOMENT = 0.1


@dataclass(frozen=True, eq=False)
class LabelState:
    """One structure's label so far.

    Attributes:
        folder: where it is computed; ``task`` is None where ``structure.json`` cannot be used.
        reason: why it failed.
        frames: the labels, where it is done: one, or of a structure that was relaxed as it was prepared and relaxed.
    """

    folder: Path
    task: LabelTask | None
    state: State
    reason: str = ""
    frames: tuple[Atoms, ...] = ()

    @property
    def atoms(self) -> Atoms | None:
        """The label, the relaxed one where there are two."""
        return self.frames[-1] if self.frames else None

    @property
    def gain(self) -> float | None:
        """What relaxation by DFT has gained in enthalpy, eV/atom; None where there was none."""
        atoms = self.atoms
        return None if atoms is None else atoms.info["provenance"].get("gain_ev_per_atom")


def inspect(folder: Path, stale: float = 3600.0) -> LabelState:
    """Say what became of one structure.

    Args:
        folder: the structure's.
        stale: seconds without a change after which a run that has not ended counts as stopped.
    """
    task = None
    try:
        task = read_task(folder)
        # Read before its result is looked for: the log's last line comes after the result.
        log = (folder / LOG).read_text(errors="replace").splitlines() if (folder / LOG).is_file() else []
        if not _ended(folder, task):
            return _unfinished(folder, task, log, stale)
        frames = vasp_runs.read(folder, task) if task.level.code == "vasp" else [computed.read(folder, task)]
        if problem := next(filter(None, map(problem_of, frames)), ""):
            return LabelState(folder, task, "failed", problem)
        return LabelState(folder, task, "done", frames=tuple(frames))
    except InputError as error:
        return LabelState(folder, task, "failed", str(error))


def _ended(folder: Path, task: LabelTask) -> bool:
    return ended(folder) if task.level.code == "vasp" else (folder / RESULT).is_file()


def _unfinished(folder: Path, task: LabelTask, log: list[str], stale: float) -> LabelState:
    if task.level.code == "vasp" and (folder / "OUTCAR.gz").is_file() and not (folder / "OUTCAR").exists():
        return LabelState(folder, task, "failed", "OUTCAR is compressed: gunzip it and vasprun.xml, and collect again")
    here = (folder / LOCK).exists()
    if here and _locked(folder / LOCK):
        return LabelState(folder, task, "running")
    if log and log[-1].startswith(EXIT):
        said = [line for line in log[:-1] if not line.startswith(_LAUNCHER)]
        return LabelState(folder, task, "failed", ": ".join([f"no result, {log[-1]} ({LOG})", *said[-1:]]))
    if here:
        return LabelState(folder, task, "prepared", "interrupted")
    changed = [path.stat().st_mtime for name in _LOGS if (path := folder / name).is_file()]
    if not changed:
        return LabelState(folder, task, "prepared")
    quiet = time.time() - max(changed)
    if quiet < stale:
        return LabelState(folder, task, "running")
    return LabelState(folder, task, "failed", f"stopped before its end; nothing changed for {quiet / 3600:.1f} hours")


def _locked(path: Path) -> bool:
    """Tell whether ``label run`` holds a structure's lock, which whoever asks holds for a moment too."""
    try:
        with held(path, "", MOMENT):
            return False
    except BusyError:
        return True


def status(labels: Path, stale: float = 3600.0) -> Iterator[LabelState]:
    """Yield what became of every structure of a folder of labels.

    Raises:
        InputError: there are no labels.
    """
    for folder in folders(labels):
        yield inspect(folder, stale)


def collect(jobs: list[LabelState], dataset: Dataset) -> Added:
    """File the labels that are done, those that the dataset lacks; each with the generation it was prepared for.

    Returns:
        the new labels; refused are those that failed and those that the dataset does not take, with their reasons.

    Raises:
        InputError: the dataset has another level of theory.
        OutputError: the dataset cannot be written.
    """
    refused = [Refused(job.folder.name, job.reason) for job in jobs if job.state == "failed"]
    groups: dict[tuple[int, Level], list[Atoms]] = {}
    for job in jobs:
        new = [atoms for atoms in job.frames if identity_of(atoms) not in dataset.labels]
        if job.task is not None and new:
            groups.setdefault((job.task.generation, job.task.level), []).extend(new)
    labels: list[Label] = []
    for (generation, level), frames in sorted(groups.items(), key=lambda item: item[0][0]):
        added = dataset.add(frames, generation=generation, level=level)
        labels += added.labels
        refused += added.refused
    return Added(tuple(labels), tuple(refused))
