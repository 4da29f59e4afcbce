"""All of VASP's files or none: old ones go first, new ones come by rename, OSZICAR last.

USPEX takes a folder for finished when OSZICAR holds ``F=``; its MATLAB line ends the whole search if CONTCAR is then
missing. So OSZICAR is the first to be removed and the last to appear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import VaspRun
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.files import OUTPUTS, publish_files, remove
from uspex_bridge.vasp.bands import format_bands
from uspex_bridge.vasp.oszicar import format_oszicar
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.structure import format_contcar, parse_poscar
from uspex_bridge.vasp.vasprun import format_vasprun
from uspex_bridge.vasp.xdatcar import format_xdatcar


def clear_outputs(folder: Path) -> None:
    """Remove what an earlier run left, OSZICAR first.

    Raises:
        OutputError: a file cannot be removed.
    """
    remove(folder, OUTPUTS["vasp"])


def publish(folder: Path, run: VaspRun, further: Sequence[str] = (), check: Callable[[], None] = lambda: None) -> None:
    """Write VASP's five files, and those of ``further`` (EIGENVAL, DOSCAR), all or none.

    ``check`` is as for :func:`uspex_bridge.base.files.publish_files`.

    Raises:
        CalculationError: a number in the run is not finite.
        OutputError: a file cannot be written; none is left.
    """
    now = datetime.now().astimezone()
    files = {
        **{name: format_bands(name, run) for name in further},
        "XDATCAR": format_xdatcar(run),
        "vasprun.xml": format_vasprun(run, now),
        "CONTCAR": format_contcar(run.structure, run.frames[-1]),
        "OUTCAR": format_outcar(run, now),
        "OSZICAR": format_oszicar(run),
    }
    _check(run, files["CONTCAR"], files["OSZICAR"])
    publish_files(folder, files, check)


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
