"""All of VASP's files or none: old ones go first, new ones come by rename, OSZICAR last.

USPEX takes a folder for finished when OSZICAR holds ``F=``; its MATLAB line ends the whole search if CONTCAR is then
missing. So OSZICAR is the first to be removed and the last to appear.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from uspex_bridge.errors import BridgeError, OutputError
from uspex_bridge.records import VaspRun
from uspex_bridge.vasp.oszicar import format_oszicar
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.structure import format_contcar, parse_poscar
from uspex_bridge.vasp.vasprun import format_vasprun
from uspex_bridge.vasp.xdatcar import format_xdatcar

#: In the order of removal; they are published the other way round.
OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "vasprun.xml", "XDATCAR")


def clear_outputs(folder: Path) -> None:
    """Remove what an earlier run left, OSZICAR first.

    Raises:
        OutputError: a file cannot be removed.
    """
    remove(folder, OUTPUTS)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files and what an interrupted :func:`publish_files` left of them, in order; absent ones are fine.

    Raises:
        OutputError: a file cannot be removed.
    """
    for name in names:
        for path in (folder / name, _temporary(folder, name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: cannot be removed: {_reason(error)}; an old result must not stay") from None


def publish(folder: Path, run: VaspRun) -> None:
    """Write VASP's five files, all or none.

    Raises:
        CalculationError: a number in the run is not finite.
        OutputError: a file cannot be written; none is left.
    """
    now = datetime.now().astimezone()
    files = {
        "XDATCAR": format_xdatcar(run),
        "vasprun.xml": format_vasprun(run, now),
        "CONTCAR": format_contcar(run.structure, run.frames[-1]),
        "OUTCAR": format_outcar(run, now),
        "OSZICAR": format_oszicar(run),
    }
    _check(run, files["CONTCAR"], files["OSZICAR"])
    publish_files(folder, files)


def publish_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files so that they appear in order, the last only when all others are whole and on disk.

    Killed at any moment this leaves hidden temporary files at worst, which :func:`remove` takes away. On any failure
    every file of ``files`` is removed.

    Raises:
        OutputError: a file cannot be written; none is left.
    """
    name = ""
    try:
        for name, text in files.items():
            _write(_temporary(folder, name), text)
        *others, final = files
        for name in others:
            _temporary(folder, name).replace(folder / name)
        _sync_folder(folder)
        name = final
        _temporary(folder, name).replace(folder / name)
    except BaseException as error:
        for written in reversed(list(files)):
            with suppress(OSError):
                (folder / written).unlink(missing_ok=True)
            with suppress(OSError):
                _temporary(folder, written).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{folder / name}: cannot be written: {_reason(error)}; no result is left") from error
        raise
    _sync_folder(folder)


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames last over a power failure, on file systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _check(run: VaspRun, contcar: str, oszicar: str) -> None:
    """Read back what USPEX's MATLAB line reads.

    Raises:
        BridgeError: the text does not say what the run says; a bug of this package.
    """
    final = run.frames[-1]
    read = parse_poscar(contcar, "CONTCAR")
    enthalpy = final.enthalpy(run.pressure_gpa)
    fields = oszicar.splitlines()[-1].split()
    if (
        read.symbols != run.structure.symbols
        or not np.allclose(read.cell, final.cell, rtol=0, atol=1e-12)
        or not np.allclose(read.scaled, final.scaled, rtol=0, atol=1e-12)
        or fields[1] != "F="
        or abs(float(fields[2]) - enthalpy) > 1e-9 * max(1.0, abs(enthalpy))
    ):
        raise BridgeError("CONTCAR or OSZICAR does not read back as written; nothing was written, please report it")
