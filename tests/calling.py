"""Working folders as USPEX makes them, and the executables called as USPEX calls them."""

import subprocess
import sys
from pathlib import Path

from uspex_bridge.base import jsonl
from uspex_bridge.call import record_file

TOY = '[calculators.model]\nkind = "toy"\n'
SLOW = TOY + "[calculators.model.options]\nsleep = 0.4\n"
POSCAR = """EA0     4.200  4.300  4.100 88.00 91.00 90.00 Sym.group:    0
1.0000
    4.200000     0.100000     0.000000
    0.000000     4.300000     0.150000
    0.050000     0.000000     4.100000
   1    2    1
Direct
    0.010000     0.020000     0.000000
    0.520000     0.480000     0.030000
    0.470000     0.010000     0.550000
    0.020000     0.510000     0.460000
"""
INCAR = "PREC = Accurate ; EDIFF = 1e-5\nIBRION = 2\nISIF = 3\nNSW = 400\nEDIFFG = -0.01\nNELM = 60\nPSTRESS=500\n"
OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "XDATCAR", "vasprun.xml")


def potcar(*symbols: str) -> str:
    return "".join(f"   VRHFIN ={s}: stub\n   TITEL  = PAW_PBE {s} stub\n End of Dataset\n" for s in symbols)


def make_folder(top: Path, *, poscar=POSCAR, incar=INCAR, symbols=("Ca", "Fe", "Ni"), settings=TOY, name="CalcFold1"):
    """Make a run folder with one CalcFold of the MATLAB line; None leaves a file out. Returns the CalcFold."""
    fold = top / name
    fold.mkdir(parents=True)
    texts = {"POSCAR": poscar, "INCAR": incar, "POTCAR": potcar(*symbols) if symbols else None}
    for file, text in {**texts, "KPOINTS": "EA\n0\nGamma\n   3    3    3\n"}.items():
        if text is not None:
            (fold / file).write_text(text)
    if settings is not None:
        (top / "bridge.toml").write_text('protocol = "single"\n' + settings)
    return fold


def leave_stale_outputs(fold: Path) -> None:
    """Put results of an earlier structure into a folder, as the MATLAB line's reused slots have them."""
    for name in OUTPUTS:
        (fold / name).write_text("stale\nDAV:   1 stale\n   1 F= -.1E+03 E0= -.1E+03  d E =0\n")


def call(fold: Path, *args: str, executable="uspex-bridge-vasp", **kwargs):
    """Call an executable as USPEX does: cwd in the folder, stdin empty, output captured."""
    command = [str(Path(sys.executable).parent / executable), *args]
    return subprocess.run(
        command, cwd=fold, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False, **kwargs
    )


def record(fold: Path) -> list[dict]:
    """Return the entries of the record beside a CalcFold."""
    return list(jsonl.read(fold.parent / record_file.FILENAME))
