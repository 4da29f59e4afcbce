"""Checks of the commands: whether they are found, and whether USPEX and they agree on who waits for whom."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from uspex_bridge.base.files import read_text
from uspex_bridge.uspex.findings import Finding
from uspex_bridge.uspex.setup import EXECUTABLES, SearchStep, Setup

_LAUNCHERS = {"mpirun", "mpiexec", "mpiexec.hydra", "orterun", "srun", "aprun", "ibrun"}
_OUTPUTS = "OUTCAR|OSZICAR|CONTCAR|XDATCAR|vasprun.xml|POSCAR|INCAR|POTCAR|KPOINTS|bridge.log"


def check_commands(setup: Setup) -> Iterator[Finding]:
    """Check every step's command line."""
    name = setup.path.name
    if not any(step.executable for step in setup.steps):
        yield Finding(
            "warning", name, None, "no step runs the bridge", f"commandExecutable should be {' or '.join(EXECUTABLES)}"
        )
    if 1 < setup.command_lines < len(setup.steps):
        yield Finding(
            "warning",
            name,
            setup.steps[0].line,
            f"{setup.command_lines} commands for {len(setup.steps)} steps: USPEX takes the first one for all",
            "give one line for each step, or a single one",
        )
    for step in setup.steps:
        if step.code == "0":
            continue
        if not step.command:
            yield Finding("error", name, step.line, f"step {step.number} has no commandExecutable", "add one")
            continue
        yield from _check_slot(setup, step)
        yield from _check_line(setup, step, step.command)


def _check_slot(setup: Setup, step: SearchStep) -> Iterator[Finding]:
    """Check that the executable stands in the slot it is made for."""
    if step.executable is None or step.code in EXECUTABLES[step.executable]:
        return
    code = " or ".join(EXECUTABLES[step.executable])
    key = f"type {step.code}" if setup.line == "python" else f"abinitioCode {step.code}"
    right = "type vasp with uspex-bridge-vasp" if setup.line == "python" else f"abinitioCode {code}"
    yield Finding(
        "error",
        setup.path.name,
        step.line,
        f"step {step.number} is {key}, for which USPEX writes files that {step.executable} does not read",
        f"it needs {right}",
    )


def _check_line(setup: Setup, step: SearchStep, command: str) -> Iterator[Finding]:
    name = setup.path.name
    try:
        words = shlex.split(command)
    except ValueError as error:
        yield Finding("error", name, step.line, f"commandExecutable '{command}': {error}", "correct the quotes")
        return
    for word in _programs(words):
        if not _is_found(word, setup.work):
            yield Finding(
                "warning" if step.queued else "error",
                name,
                step.line,
                f"'{word}' is not found" + (" on this machine" if step.queued else " on PATH"),
                "the job has to find it on its own PATH" if step.queued else "give its full path",
            )
    if step.executable and (launcher := _launches_many(words, queued=step.queued)):
        yield Finding(
            "warning",
            name,
            step.line,
            f"{launcher} starts several copies of {step.executable} in one folder: one runs, the others wait",
            f"take {launcher} out; threads are set in bridge.toml",
        )
    if match := re.search(rf">>?\s*(USPEX\S*|(?:{_OUTPUTS})(?=\s|$))", command):
        why = "USPEX deletes files of that name" if match[1].startswith("USPEX") else "the relaxation needs that name"
        yield Finding("error", name, step.line, f"the output goes to {match[1]}: {why}", "use another name: bridge.out")
    if "\r" in step.script:
        yield Finding("error", name, step.line, "the script it starts has line ends of Windows", "sed -i 's/\\r$//' it")


def _programs(words: list[str]) -> list[str]:
    """Return the words of a command line that must be programs: the first, and the bridge's executables."""
    words = [word for word in words if not re.match(r"\w+=", word)]
    named = [word for word in words if Path(word).name in EXECUTABLES or word.endswith(".sh")]
    return list(dict.fromkeys([*words[:1], *named]))


def _is_found(word: str, work: Path) -> bool:
    word = os.path.expandvars(os.path.expanduser(word))
    if "/" not in word:
        return shutil.which(word) is not None or word in (
            "cd",
            "exec",
            "source",
            ".",
            "export",
            "ulimit",
            "test",
            "time",
        )
    place = Path(os.path.normpath(work / word))
    return place.is_file() and (os.access(place, os.X_OK) or place.suffix == ".sh")


def _launches_many(words: list[str], *, queued: bool) -> str | None:
    """Return the MPI launcher in front, unless it starts one process; in a job srun may take that from the header."""
    for position, word in enumerate(words):
        if Path(word).name in _LAUNCHERS:
            rest = " ".join(words[position + 1 :])
            number = re.search(r"(?:^|\s)(?:-np|-n|--ntasks)[ =]?(\d+)", rest)
            one = number[1] == "1" if number else queued and Path(word).name == "srun"
            return None if one else Path(word).name
    return None


def check_waiting(setup: Setup) -> Iterator[Finding]:
    """Check that the command blocks where USPEX waits for it, and returns at once where it does not."""
    for step in setup.steps:
        if step.executable is None or not step.command:
            continue
        detached = step.wraps or step.command.rstrip().endswith("&")
        several = setup.line == "matlab" and setup.cluster == "0" and setup.parallel > 1
        if several and not step.wraps:
            yield Finding(
                "error",
                setup.path.name,
                setup.lines.get("numParallelCalcs"),
                f"whichCluster 0 with numParallelCalcs {setup.parallel}: USPEX waits for JOB_IS_FINISHED in JOB_LOG, "
                f"which step {step.number} never writes",
                "start it with Specific/background.sh (`uspex-bridge init matlab --parallel N` writes it)",
            )
        if detached and not several:
            yield Finding(
                "error",
                setup.path.name,
                step.line,
                f"step {step.number} goes to the background, but USPEX reads the files as soon as its command returns",
                "give the executable itself as commandExecutable",
            )
    if setup.line == "matlab":
        yield from _check_submission(setup)


def _check_submission(setup: Setup) -> Iterator[Finding]:
    where = {"1": "local", "2": "remote"}.get(setup.cluster)
    if where is None:
        return
    for task in ("submitJob", "checkStatus"):
        found = [setup.folder / "Submission" / f"{task}_{where}{suffix}" for suffix in (".py", ".m")]
        present = [path for path in found if path.is_file()]
        if not present:
            yield Finding(
                "error",
                "Submission",
                None,
                f"whichCluster {setup.cluster} needs {task}_{where}.py (USPEX 10.x) or .m (9.4)",
                "`uspex-bridge init matlab --scheduler slurm|pbs` writes the local ones" if where == "local" else "",
            )
        elif task == "checkStatus" and where == "remote" and not any("OUTCAR" in read_text(path) for path in present):
            yield Finding(
                "error",
                f"Submission/{present[0].name}",
                None,
                "OUTCAR is not copied back, and without it USPEX counts every step as unconverged",
                "copy it back beside OSZICAR and CONTCAR",
            )
