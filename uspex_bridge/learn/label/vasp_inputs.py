"""VASP's input files for one label. POTCARs come from the user's own library; the bridge has none."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.learn.label import kpoints
from uspex_bridge.learn.label.settings import LabelSettings
from uspex_bridge.results.hulls.seeds import format_poscar
from uspex_bridge.vasp.structure import element_of

#: Environment variable and pymatgen setting that name the library.
VARIABLE = "PMG_VASP_PSP_DIR"
#: Where a data set lies in a library: VASP's own layout, and pymatgen's.
_FOLDERS = ("", "potpaw_PBE", "potpaw_PBE.*", "PBE", "POT_GGA_PAW_PBE", "POT_GGA_PAW_PBE_*")
#: Grids of structures that are to be relaxed are finer by this.
_RELAXED = 1.15
_NAMES = ("{set}/POTCAR", "{set}/POTCAR.gz", "POTCAR.{set}", "POTCAR.{set}.gz")


def flavours(symbols: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the data set of each element: ``chosen``, else the Materials Project's (pymatgen's MPRelaxSet).

    Raises:
        ConfigError: neither names one.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet

    table = {**MPRelaxSet.CONFIG["POTCAR"], **chosen}
    for symbol in symbols:
        if symbol not in table:
            raise ConfigError(f"no POTCAR data set is known for {symbol}; name one under [potcars] in the settings")
    return {symbol: str(table[symbol]) for symbol in dict.fromkeys(symbols)}


def library(asked: Path | None) -> Path | None:
    """Return the user's folder of POTCARs: ``asked``, $PMG_VASP_PSP_DIR, or the one in pymatgen's settings.

    Raises:
        ConfigError: the one that was named does not exist.
    """
    from pymatgen.core import SETTINGS

    named = asked or SETTINGS.get(VARIABLE)
    if named is None:
        return None
    path = Path(named).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{'--potcars' if asked else VARIABLE}: there is no folder {path}")
    return path


class Potcars:
    """Data sets of a library, each read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: dict[str, str] = {}

    def text(self, flavour: str, symbol: str) -> str:
        """Return one data set.

        Raises:
            InputError: the library lacks it, or it is of another element or of another functional than PBE.
        """
        if flavour not in self.texts:
            path = self._find(flavour)
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
            title = title_of(text)
            if symbol not in map(element_of, title.split()) or "PBE" not in title:
                raise InputError(f"{path}: TITEL = {title or 'nothing'}; a PBE data set of {symbol} is needed")
            self.texts[flavour] = text if text.endswith("\n") else text + "\n"
        return self.texts[flavour]

    def _find(self, flavour: str) -> Path:
        for place, name in itertools.product(_FOLDERS, _NAMES):
            pattern = "/".join(part for part in (place, name.format(set=flavour)) if part)
            if found := sorted(self.folder.glob(pattern)):
                return found[-1]
        raise InputError(
            f"{self.folder}: no POTCAR {flavour}; looked for {flavour}/POTCAR and POTCAR.{flavour}, also compressed, "
            "here and in potpaw_PBE*/ and POT_GGA_PAW_PBE*/. Name another data set under [potcars] in the settings"
        )


def title_of(potcar: str) -> str:
    """Return what stands after TITEL in a POTCAR, empty where there is none."""
    line = next((line for line in potcar.splitlines() if "TITEL" in line), "")
    return " ".join(line.partition("=")[2].split())


def number_of(potcar: str, name: str) -> float | None:
    """Return a number from a POTCAR's head, such as ENMAX (eV) or RCORE (a.u.); None where it is not there."""
    found = re.search(rf"\b{name}\s*=\s*([\d.]+)", potcar)
    return float(found[1]) if found else None


def inputs(
    structure: Structure, cutoff_gpa: float, settings: LabelSettings, potcars: Potcars | None, relax_gpa: float | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what VASP is given, and its input files: name -> text.

    Without a library there is POTCAR.spec, a line per data set, in place of POTCAR.

    Args:
        structure: atoms grouped by element.
        cutoff_gpa: pressure that the cutoff is for.
        settings: how labels are computed.
        potcars: the user's library.
        relax_gpa: pressure to relax at before the single point; None for no relaxation.

    Raises:
        ConfigError, InputError: an element has no data set, or the cutoff is below what a data set asks for.
    """
    elements = [symbol for symbol, _ in structure.groups]
    sets = flavours(elements, settings.potcars)
    # A cell that shrinks on relaxation needs finer points, or the single point at its end would be too coarse.
    distance = settings.kpoint_distance * (1.0 if relax_gpa is None else _RELAXED)
    size = kpoints.grid(structure.cell, distance)
    encut = settings.cutoff(cutoff_gpa)
    tags = settings.incar_tags(structure.comment, encut, _runs(settings.moments(structure.symbols)))
    given: dict[str, Any] = {"encut": encut, "kpoints": list(size), "incar": tags, "sets": sets}
    points = size[0] * size[1] * size[2]
    tags = {**{tag: str(value) for tag, value in settings.job.parallel(points).items()}, **tags}
    files = {
        "POSCAR": format_poscar(structure, structure.comment),
        "INCAR": _incar(tags),
        "KPOINTS": f"{distance:g} A between images\n0\nGamma\n{size[0]} {size[1]} {size[2]}\n0 0 0\n",
        # For the K-Point Grid Server (muellergroup.jhu.edu), whose grids need fewer points.
        "PRECALC": f"MINDISTANCE={distance:g}\n",
    }
    if second := settings.second_tags(tags):
        files["INCAR.second"] = _incar(second)
    if relax_gpa is not None:
        given["relax"] = {"pressure_gpa": relax_gpa, **settings.relax.tags(relax_gpa)}
        files["INCAR.relax"] = _incar({**tags, **settings.relax.tags(relax_gpa)})
    if potcars is None:
        files["POTCAR.spec"] = "".join(f"{sets[symbol]}\n" for symbol in elements)
        return given, files
    texts = {symbol: potcars.text(sets[symbol], symbol) for symbol in elements}
    files["POTCAR"] = "".join(texts[symbol] for symbol in elements)
    given["potentials"] = {symbol: title_of(text) for symbol, text in texts.items()}
    given["potcar_sha256"] = hashlib.sha256(files["POTCAR"].encode()).hexdigest()
    given |= _checked(structure, encut, texts)
    return given, files


def _incar(tags: Mapping[str, str]) -> str:
    return "".join(f"{tag:<8} = {value}\n" for tag, value in tags.items())


def _checked(structure: Structure, encut: float, texts: Mapping[str, str]) -> dict[str, float]:
    """Return the largest cutoff that data sets ask for, eV, and by what part the closest pair's spheres overlap.

    Raises:
        ConfigError: the cutoff is below it.
    """
    asked = {symbol: number for symbol, text in texts.items() if (number := number_of(text, "ENMAX")) is not None}
    if asked and encut < max(asked.values()):
        symbol = max(asked, key=lambda one: asked[one])
        raise ConfigError(
            f"ENCUT = {encut:g} eV is below ENMAX = {asked[symbol]:g} eV of {symbol}'s POTCAR; raise encut"
        )
    facts = {"enmax": max(asked.values())} if asked else {}
    radii = {symbol: 0.529177 * r for symbol, text in texts.items() if (r := number_of(text, "RCORE")) is not None}
    if len(radii) == len(texts):
        overlap = max(1.0 - d / (radii[one] + radii[other]) for one, other, d in _closest(structure))
        facts["sphere_overlap"] = round(max(0.0, overlap), 4)
    return facts


def _closest(structure: Structure) -> Iterator[tuple[str, str, float]]:
    """Yield every pair of atoms that are neighbours within 6 Å, with their distance in Å."""
    from ase.neighborlist import primitive_neighbor_list

    found = primitive_neighbor_list("ijd", (True,) * 3, structure.cell, structure.scaled @ structure.cell, 6.0)
    for i, j, d in zip(*found, strict=True):
        yield structure.symbols[i], structure.symbols[j], float(d)


def _runs(moments: Sequence[float]) -> str:
    """Return moments as INCAR has them: ``2*5 1*0.6``."""
    return " ".join(f"{len(list(group))}*{value:g}" for value, group in itertools.groupby(moments))
