"""Several processes that ``mpirun`` or ``srun -n N`` started in one folder: one works, the others leave as it does.

A potential is no parallel program: N processes would relax the same structure N times and overwrite each other's files.
Whoever comes first holds the lock of ``.bridge.ranks`` and works. The others wait for the lock, find there what became
of the same launch and the same input, and end with its exit code. A process that finds something else, as one that a
parallel driver of searches calls in a folder of its own does, works.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import InputError, OutputError
from uspex_bridge.base.files import OUTPUTS, regular_bytes
from uspex_bridge.base.locks import NO_LOCKS
from uspex_bridge.call.slot import clear_slot

FILENAME = ".bridge.ranks"
#: What the executables read, by kind: who asks for something else is no part of the same call.
_INPUTS = {
    "vasp": ("POSCAR", "INCAR", "POTCAR"),
    "external": ("geom.in", "usercode.in", "parameters.json", "input.xyz"),
}
#: Number of the process and of all processes, as launchers name them.
_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
#: Programs that start the processes of one launch on one machine.
_STARTERS = ("mpirun", "mpiexec", "orted", "prted", "prterun", "hydra_pmi_proxy", "pmi_proxy", "mpiexec.hydra")
_LOOK = 0.05  # s between two looks at the lock
#: Where there are no locks: seconds in which the first process must have left a sign.
_SIGN_OF_LIFE = 60.0


@dataclass(frozen=True)
class Rank:
    """The place of this process in a launch; ``launch`` is the same for all of it and for no other."""

    number: int
    size: int
    launch: str


def rank_of(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Return the place of this process among those that a launcher started, None where it is the only one."""
    for number, size in _VARIABLES:
        try:
            rank = int(environment[number]), int(environment[size])
        except (KeyError, ValueError):
            continue
        return Rank(*rank, _launch(environment)) if rank[1] > 1 else None
    return None


def _launch(environment: Mapping[str, str]) -> str:
    for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"):
        if environment.get(name):
            return environment[name]
    if starter := _starter():
        return starter
    step = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", "")
    return ".".join(step) if all(step) else f"{socket.gethostname()}:{os.getsid(0)}"


def _starter() -> str:
    """Return what tells the launcher's process above this one from every other, empty where there is none."""
    process = os.getppid()
    while process > 1:
        try:
            head, _, tail = Path(f"/proc/{process}/stat").read_text().rpartition(")")
        except OSError:
            return ""
        words = tail.split()
        if head.partition("(")[2] in _STARTERS:
            return f"{socket.gethostname()}:{process}:{words[19]}"
        process = int(words[1])
    return ""


def one_of_many(kind: str, folder: str, argv: list[str], work: Callable[[], int]) -> int:
    """Do ``work`` if this process is the one of its launch to do it in ``folder``, and return its exit code.

    Otherwise wait for the one that does, and return that one's.
    """
    rank, place = rank_of(), Path(folder).absolute()
    if rank is None or not place.is_dir():
        return work()
    asked = _asked(kind, place, argv)
    try:
        board = (place / FILENAME).open("a+", encoding="utf-8")
    except OSError:
        return work()  # it says what is wrong with the folder
    with board:
        locked = _lock(board)
        if not locked and rank.number > 0:
            code = _without_locks(board, rank, asked)
            return work() if code is None else code
        told = _read(board)
        if _is_ours(told, rank, asked) and _still_there(kind, place, told["exit"]):
            return _leave(rank, told)
        _write(board, rank, asked, None)
        with suppress(OutputError):  # the run says it
            clear_slot(place, OUTPUTS[kind])  # where one process is started, its shell part has done so
        code = work()
        _write(board, rank, asked, code)
        return code


def _lock(board: IO[str]) -> bool:
    """Wait for the lock; return False where the file system has none."""
    while True:
        try:
            fcntl.flock(board, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOOK)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise


def _without_locks(board: IO[str], rank: Rank, asked: str) -> int | None:
    """Wait for what the first process tells; return None where it has given no sign of life."""
    end = time.monotonic() + _SIGN_OF_LIFE
    while time.monotonic() < end:
        told = _read(board)
        if told.get("launch") == rank.launch and told.get("asked") == asked:
            if told["exit"] is not None:
                return _leave(rank, told)
            end = time.monotonic() + _SIGN_OF_LIFE
        time.sleep(_LOOK)
    return None


def _asked(kind: str, folder: Path, argv: list[str]) -> str:
    digest = hashlib.sha256(json.dumps([kind, argv]).encode())
    for name in _INPUTS[kind]:
        try:
            digest.update(name.encode() + regular_bytes(folder / name))
        except InputError:
            continue
    return digest.hexdigest()


def _is_ours(told: dict[str, Any], rank: Rank, asked: str) -> bool:
    same = told.get("launch") == rank.launch and told.get("asked") == asked
    return same and told.get("rank") != rank.number and told.get("exit") is not None


def _still_there(kind: str, folder: Path, code: int) -> bool:
    """Tell whether the result is there that a good exit code speaks of."""
    names = ("OSZICAR",) if kind == "vasp" else OUTPUTS["external"]
    return code != 0 or any((folder / name).exists() for name in names)


def _leave(rank: Rank, told: dict[str, Any]) -> int:
    print(
        f"uspex-bridge: mpirun or srun started {rank.size} processes here; rank {told['rank']} did the work, rank "
        f"{rank.number} ends with its exit code {told['exit']}; start one process",
        file=sys.stderr,
    )
    return int(told["exit"])


def _read(board: IO[str]) -> dict[str, Any]:
    board.seek(0)
    try:
        told = jsonl.loads(board.read())
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _write(board: IO[str], rank: Rank, asked: str, code: int | None) -> None:
    try:
        board.seek(0)
        board.truncate()
        board.write(json.dumps({"launch": rank.launch, "rank": rank.number, "asked": asked, "exit": code}))
        board.flush()
    except OSError:
        pass  # a full disk: the next process works again
