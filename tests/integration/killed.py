"""Kill the bridge at random moments in one reused folder and check after each kill what a reader would find.

Run as a program by test_kills.py: imports once, then forks a child per call, which is killed (-9). Prints JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from ase.io.vasp import read_vasp_out
from emulators.matlab_files import accept, read_contcar, read_enthalpy

import uspex_bridge.call.run
import uspex_bridge.relaxation.engine  # noqa: F401 (imported once, here, so that the calls are short)
from uspex_bridge.base.files import VASP_OUTPUTS
from uspex_bridge.cli.vasp import main


def call(fold: Path, label: int) -> int:
    """Fork a call of the executable on a structure labelled EA<label>; return the process once it is at work."""
    old = identity(fold)
    poscar = (fold / "POSCAR").read_text().splitlines()
    (fold / "POSCAR").write_text("\n".join([f"EA{label}", *poscar[1:]]) + "\n")
    child = os.fork()
    if child == 0:
        os.chdir(fold)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main([])
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(99)
    while old is not None and identity(fold) == old:  # a program that has not begun cannot have removed anything
        time.sleep(0.0005)
    return child


def identity(fold: Path) -> int | None:
    """Return what tells one OSZICAR from another, None where there is none."""
    try:
        return (fold / "OSZICAR").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def state(fold: Path, label: int) -> str:
    """``none``, or ``whole`` for a complete result of this very structure; anything else raises."""
    if not (fold / "OSZICAR").exists():
        return "none"
    assert all((fold / name).exists() for name in VASP_OUTPUTS), "OSZICAR without the others"
    assert (fold / "CONTCAR").read_text().startswith(f"EA{label}\n"), "the result of another structure"
    os.chdir(fold)
    assert accept(fold).good
    atoms = read_vasp_out(fold / "OUTCAR")
    pressure = 50 / 160.21766208
    enthalpy = atoms.get_potential_energy() + pressure * atoms.get_volume()
    assert abs(read_enthalpy(fold) - enthalpy) < 1e-5
    assert len(read_contcar(fold)[1]) == len(atoms)
    return "whole"


def kill_all(fold: Path, kills: int) -> dict[str, int]:
    """Kill ``kills`` calls, half of them around the moment of writing; every tenth call is left alone."""
    began = time.monotonic()
    os.waitpid(call(fold, 0), 0)
    lifetime = time.monotonic() - began
    assert state(fold, 0) == "whole"
    chance = random.Random(1)
    seen = {"none": 0, "whole": 0, "let live": 0}
    for label in range(1, kills + 1):
        child = call(fold, label)
        moment = chance.uniform(0.05, 1.0) if label % 2 else chance.gauss(0.93, 0.06)
        time.sleep(max(0.02, moment * lifetime))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen[state(fold, label)] += 1
        if label % 10 == 0:
            assert os.waitstatus_to_exitcode(os.waitpid(call(fold, 1000 + label), 0)[1]) == 0
            assert state(fold, 1000 + label) == "whole"
            assert not list(fold.glob(".*.part"))
            seen["let live"] += 1
    return seen


if __name__ == "__main__":
    print(json.dumps(kill_all(Path(sys.argv[1]), int(sys.argv[2]))))
