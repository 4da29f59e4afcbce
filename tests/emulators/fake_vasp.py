"""A scripted stand-in for VASP, to test the emulated USPEX lines themselves; standard library only.

Shrinks the cell by 1 %, takes E = -3.5 eV per atom and leaves complete files. Call number n is spoiled in the way
that word n of ``../plan`` says; ``../calls`` keeps one line per call.
"""

import os
import re
import sys

ENERGY = -3.5
Rows = list[list[float]]
ROW = "%.10f %.10f %.10f"


def text(path: str) -> str:
    """Return what a file holds, nothing where there is none."""
    if not os.path.exists(path):
        return ""
    with open(path) as stream:
        return stream.read()


def determinant(cell: Rows) -> float:
    (a, b, c), (d, e, f), (g, h, i) = cell
    return abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def cartesian(row: list[float], cell: Rows) -> tuple[float, ...]:
    return tuple(sum(row[k] * cell[k][j] for k in range(3)) for j in range(3))


def next_kind() -> str:
    """Return what this call is to do, and note the call."""
    plan, done = text("../plan").split(), text("../calls").count("\n")
    kind = plan[done] if done < len(plan) else "good"
    isym = "ISYM" in text("INCAR")
    with open("../calls", "a") as log:
        log.write(f"{kind} {os.path.basename(os.getcwd())} ISYM={isym} tty={sys.stdin.isatty()}\n")
    return kind


def read_input() -> tuple[list[str], list[int], Rows, Rows]:
    """Return symbols, counts, the shrunk cell and the fractional coordinates."""
    lines = text("POSCAR").splitlines()
    at = 5 if lines[5].split()[0].isdigit() else 6
    counts = [int(x) for x in lines[at].split()]
    cell = [[0.99 * float(x) for x in line.split()] for line in lines[2:5]]
    rows = [[float(x) for x in line.split()] for line in lines[at + 2 : at + 2 + sum(counts)]]
    return re.findall(r"VRHFIN =(\w+)", text("POTCAR")), counts, cell, rows


def oszicar(kind: str, enthalpy: float) -> str:
    steps = {"equal": 60, "unconverged": 61}.get(kind, 9)
    value = {"NaN": "NaN", "NAN": "NAN", "inf": "inf", "stars": "*" * 12}.get(kind, f"{enthalpy:.8E}")
    line = f"   1 F= {value} E0= {value}  d E =-.1E+00\n"
    if kind == "glued":
        line = line.replace("F= ", "F=")
    if kind == "no-blank":
        line = line.lstrip()
    before = f"DAV: {steps:3d}    -0.100000000000E+02\n"
    before = {"foreign-line": "something else\n", "blank-line": "\n", "indented": " DAV:   9  x\n"}.get(kind, before)
    return "       N       E\n" + before + line


def outcar(kind: str, symbols: list[str], counts: list[int], cell: Rows, rows: Rows) -> str:
    nelm = "   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
    nelm = {"no-nelm": "", "extra-nelm": nelm + " NELM = 5\n"}.get(kind, nelm)
    energy = ENERGY * len(rows)
    listed = symbols if kind == "single-potcar" else symbols * 2
    out = "".join(f" POTCAR:    PAW_PBE {symbol} 06Sep2000\n" for symbol in listed) + nelm
    out += "   ions per type =            " + " ".join(f"{count:3d}" for count in counts) + "\n"
    out += "----- Iteration    1(   1)  -----\n  in kB     10.0 10.0 10.0 0.0 0.0 0.0\n"
    out += "      direct lattice vectors                 reciprocal lattice vectors\n"
    out += "".join("{:13.9f}{:13.9f}{:13.9f}  0.0 0.0 0.0\n".format(*row) for row in cell)
    out += " POSITION                                       TOTAL-FORCE (eV/Angst)\n ----\n"
    out += "".join("{:13.5f}{:13.5f}{:13.5f}    0.0 0.0 0.0\n".format(*cartesian(row, cell)) for row in rows)
    out += "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  -----\n"
    out += f"  free  energy   TOTEN  = {energy:18.8f} eV\n\n"
    return out + f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}\n" + "\n" * 5


def contcar(kind: str, symbols: list[str], counts: list[int], cell: Rows, rows: Rows) -> str:
    if kind == "empty-contcar":
        return ""
    scale = 2.0 if kind == "scaled" else 1.0
    out = f"CONTCAR\n {scale}\n" + "".join(ROW % tuple(x / scale for x in row) + "\n" for row in cell)
    out += "" if kind == "vasp4" else "  ".join(symbols) + "\n"
    out += " ".join(map(str, counts)) + "\n"
    out += {"cartesian": "Cartesian\n", "selective": "Selective dynamics\nDirect\n"}.get(kind, "Direct\n")
    if kind == "close":
        rows = [*rows[:-1], [rows[0][0] + 0.001, rows[0][1], rows[0][2]]]
    if kind == "swapped":
        rows = rows[::-1]
    lines = [ROW % (cartesian(row, cell) if kind == "cartesian" else tuple(row)) for row in rows]
    tail = {"labels": " Ca", "selective": " T T F"}.get(kind, "")
    lines = [line + tail for line in lines]
    keep = {"fewer-rows": len(lines) - 1, "no-rows": 0}.get(kind, len(lines))
    velocities = "\n" + "0.0 0.0 0.0\n" * len(rows) if kind == "velocities" else ""
    return out + "".join(f"{line}\n" for line in lines[:keep]) + velocities


def main() -> int:
    kind = next_kind()
    if kind == "nothing":
        return 1
    symbols, counts, cell, rows = read_input()
    pstress = float((re.findall(r"PSTRESS=\s*(\S+)", text("INCAR")) or ["0"])[-1])
    texts = {
        "OUTCAR": outcar(kind, symbols, counts, cell, rows),
        "CONTCAR": contcar(kind, symbols, counts, cell, rows),
        "OSZICAR": oszicar(kind, ENERGY * len(rows) + pstress * determinant(cell) / 1602.1766208),
    }
    texts.pop({"no-outcar": "OUTCAR", "no-contcar": "CONTCAR"}.get(kind, ""), None)
    texts |= {"extra-input": {"POSCAR": "changed\n"}, "stray": {"USPEX.log": ""}}.get(kind, {})
    for name, content in texts.items():
        with open(name, "w") as stream:
            stream.write(content)
    return 7 if kind == "exit-7" else 0


if __name__ == "__main__":
    sys.exit(main())
