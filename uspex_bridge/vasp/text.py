"""Numbers and words as Fortran programs read and write them; what all the files here have in common."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Array, Structure, VaspRun
from uspex_bridge.base.errors import CalculationError

_FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eEdDqQ]([+-]?\d+)|([+-]\d+))?", re.ASCII)
#: Words that make some reader of OUTCAR or XDATCAR believe that a section starts, wherever they stand.
_SECTION_WORDS = re.compile(
    r"iteration|configuration|titel|ispin|nelm|nkpts|nbands|serial|running"
    r"|in kb|total-force|volume and basis|lattice vectors|ions per type",
    re.IGNORECASE,
)


def fortran_number(word: str) -> float:
    """Read a finite number; exponents may be written e, d or q, or with a bare sign (``1.0D-02``, ``1.0-02``).

    Raises:
        ValueError: ``word`` is anything else, NaN and infinity included.
    """
    match = _FORTRAN.fullmatch(word)
    if not match:
        raise ValueError(f"'{word}' is not a number")
    value = float(f"{match[1]}e{match[2] or match[3] or 0}")
    if not math.isfinite(value):
        raise ValueError(f"'{word}' is too large")
    return value


def exponent(value: float, digits: int = 10) -> str:
    """Write a number as VASP does in OSZICAR, mantissa below one: ``-.6822806755E+02``, ``0.2231930000E-01``."""
    mantissa, power = f"{abs(value):.{digits - 1}E}".split("E")
    shifted = int(power) + 1 if value else 0
    return f"{'-.' if value < 0 else '0.'}{mantissa.replace('.', '')}E{shifted:+03d}"


def table(values: NDArray[Any], column: str) -> str:
    """Write a 2D array as lines, every number in the %-format ``column``, which must begin with a blank.

    That blank keeps numbers apart that outgrow their width.
    """
    count, width = values.shape
    return str(((column * width + "\n") * count) % tuple(values.ravel().tolist()))


def join(numbers: Iterable[float], column: str) -> str:
    """Write numbers on one line, each in the %-format ``column``, which must begin with a blank."""
    return "".join(column % number for number in numbers)


def plain(words: str) -> str:
    """Make free text safe to stand in an output file: printable ASCII on one line, no word that starts a section.

    Words like ``Iteration`` or ``running`` get a dot after their first letter, since ASE, pymatgen, dpdata and
    USPEX look for them anywhere in a file.
    """
    text = " ".join(re.sub(r"[^A-Za-z0-9_.,+/@-]", " ", words).split())
    return _SECTION_WORDS.sub(lambda match: f"{match[0][0]}.{match[0][1:]}", text)


def title(structure: Structure) -> str:
    """Return POSCAR's comment for the first line of CONTCAR; the formula where it is empty.

    An empty first line is more than pymatgen can read.
    """
    return " ".join(structure.comment.split("\n")).rstrip() or structure.formula


def require_finite(run: VaspRun) -> None:
    """Refuse to write a run that no reader could use.

    Raises:
        CalculationError: there is no ionic step, or one of them holds NaN or infinity or a cell without volume.
    """
    if not run.frames:
        raise CalculationError("the calculation ended without an ionic step; there is nothing to write")
    for number, frame in enumerate(run.frames, 1):
        parts: dict[str, float | Array] = {
            "cell": frame.cell,
            "coordinates": frame.scaled,
            "energy": frame.energy,
            "forces": frame.forces,
            "stress": frame.stress,
            "magnetic moments": 0.0 if frame.magmoms is None else frame.magmoms,
        }
        for name, values in parts.items():
            if not np.all(np.isfinite(values)):
                raise CalculationError(
                    f"{name} of ionic step {number} from {run.model}: not finite; nothing is written"
                )
        if frame.volume <= 0.0:
            raise CalculationError(f"the cell of ionic step {number} has no volume; nothing is written")


def magnetic(run: VaspRun) -> bool:
    """Tell whether the model gave magnetic moments for every ionic step."""
    return all(frame.magmoms is not None for frame in run.frames)
