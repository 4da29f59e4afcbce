"""What each USPEX line reads from a folder, rule by rule, and strictly: what USPEX would stumble over raises here.

The MATLAB line (9.4) takes columns with a perl helper and blocks with awk scripts; the Python line takes OSZICAR by
text and OUTCAR through ASE. ``perl_column`` and ``awk`` run the real programs.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np

GPA_PER_EV_A3 = 160.21766208  # the Python line's own constant

# The blocks that the MATLAB line's awk scripts print; `num` is the number of atoms.
AWK = {
    "stress": '/in kB/ { for (i = 3; i <= 8; i++) printf "%s ", $i; print "" }',
    "forces": "/TOTAL-FORCE/ { getline; for (i = 0; i < num; i++) { getline; print $4, $5, $6 } }",
    "moments": "/magnetization \\(x\\)/ { for (i = 0; i < 3; i++) getline;"
    " for (i = 0; i < num; i++) { getline; print $1, $2, $3, $4, $5 } }",
    "path": "/configuration/ { for (i = 0; i < num; i++) { getline; print $1, $2, $3 } }",
}


class MatlabDies(Exception):
    """An uncaught exception in USPEX's MATLAB line: the whole search ends."""


def fields(line: str) -> list[str]:
    """Split as perl does on white space, with an empty first field where the line begins with blanks."""
    return re.split(r"\s+", line.rstrip())


def column(path: Path, pattern: str, number: int) -> list[str]:
    """Return field ``number`` (from 1) of every line that matches."""
    found = []
    for line in path.read_text().splitlines():
        if re.search(pattern, line):
            words = fields(line)
            found.append(words[number - 1] if number <= len(words) else "")
    return found


def perl_column(path: Path, pattern: str, number: int) -> list[str]:
    """The same as :func:`column`, by perl itself."""
    script = 'my ($p, $c) = splice @ARGV, 0, 2; while (<>) { next unless /$p/; print +(split /\\s+/)[$c - 1], "\\n"; }'
    command = ["perl", "-e", script, pattern, str(number), str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def awk(what: str, path: Path, atoms: int) -> np.ndarray:
    """Return the numbers that one of the :data:`AWK` programs prints; anything else than numbers raises."""
    command = ["awk", "-v", f"num={atoms}", AWK[what], str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.array([[float(word) for word in line.split()] for line in text.splitlines()])


def accepted(folder: Path) -> bool:
    """The MATLAB line's acceptance test (flag 0); False means a retry."""
    oszicar = folder / "OSZICAR"
    if not oszicar.exists() or not column(oszicar, " F= ", 4):
        return False
    lines = oszicar.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if "F=" in line)
    before = lines[last - 1] if last else ""
    words = fields(before)
    steps = words[1] if ": " in before and len(words) > 1 else ""
    outcar = folder / "OUTCAR"
    limits = [word.replace(";", "") for word in column(outcar, " NELM ", 4)] if outcar.exists() else []
    if not steps.isdigit() or not limits:
        return False
    return all(int(steps) < int(limit) for limit in limits)


def enthalpies(folder: Path) -> list[float]:
    """The MATLAB line's energies (flag -1): every F, enthalpy per cell as it stands."""
    values = []
    for word in column(folder / "OSZICAR", " F= ", 4):
        if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word):
            raise MatlabDies(f"F = {word!r}")
        values.append(float(word))
    return values


def moment(folder: Path) -> float:
    """The MATLAB line's cell moment (flag 5): field 11 of the lines with mag; 0 where there is none."""
    words = column(folder / "OSZICAR", "mag", 11)
    return float(words[-1]) if words else 0.0


def _str2num(line: str) -> np.ndarray | None:
    try:
        return np.array([float(word) for word in line.split()])
    except ValueError:
        return None


def structure(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The MATLAB line's CONTCAR reader: coordinates wrapped to [0, 1), and the cell."""
    path = folder / "CONTCAR"
    lines = path.read_text().splitlines() if path.exists() else []
    if len(lines) < 7:
        raise MatlabDies("CONTCAR missing or too short")
    scale = _str2num(lines[1])
    cell = np.array([_str2num(line) for line in lines[2:5]], dtype=float) * scale
    at = 5
    counts = _str2num(lines[at])
    if counts is None or not counts.size:
        at += 1
        counts = _str2num(lines[at])
    atoms = int(counts.sum())
    mode = lines[at + 1]
    flagged = mode[0] in "sS"
    if flagged:
        at += 1
        mode = lines[at + 1]
    stream = " ".join(lines[at + 2 :]).split()
    width = 6 if flagged else 3
    rows = [stream[i * width : (i + 1) * width] for i in range(atoms)]
    try:
        coordinates = np.array([[float(word) for word in row[:3]] for row in rows])
        assert coordinates.shape == (atoms, 3)
        assert all(len(word) == 1 for row in rows for word in row[3:])
    except (ValueError, AssertionError):
        raise MatlabDies("CONTCAR: the stream of numbers breaks") from None
    if mode[0] in "cCkK":
        coordinates = np.linalg.solve(cell.T, (coordinates * scale).T).T
    return coordinates - np.floor(coordinates), cell


def python_converged(folder: Path) -> bool:
    """The Python line's test: all three files, and the SCF steps of the last step below NELM."""
    if not all((folder / name).exists() for name in ("OUTCAR", "OSZICAR", "CONTCAR")):
        return False
    lines = (folder / "OSZICAR").read_text().splitlines()
    last = [number for number, line in enumerate(lines) if " F= " in line]
    if not last:
        return False
    steps = int(lines[last[-1] - 1].split(":")[1].split()[0])
    for line in (folder / "OUTCAR").read_text().splitlines():
        if " NELM " in line:
            return steps < int(line.split(" = ")[1].split()[0].replace(";", ""))
    return False


def python_result(folder: Path, pressure_gpa: float):
    """The Python line's result: last ionic step of OUTCAR through ASE, and the enthalpy that USPEX makes of it."""
    from ase.io.vasp import iread_vasp_out

    with (folder / "OUTCAR").open() as file:
        atoms = list(iread_vasp_out(file, None))[-1]
    energy = atoms.get_potential_energy()
    return atoms, energy + atoms.get_volume() * pressure_gpa / GPA_PER_EV_A3
