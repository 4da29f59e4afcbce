"""The kinds of folder that USPEX hands over: VASP's files (abinitioCode 1), and those of external codes (20, 99).

Each reads what USPEX wrote and publishes a result whole or not at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Intent, Structure, VaspRun
from uspex_bridge.base.errors import InputError, OutputError
from uspex_bridge.base.files import publish_files, read_text
from uspex_bridge.call.config import Config
from uspex_bridge.call.xyz import Periodic, format_xyz, read_xyz
from uspex_bridge.vasp import commit
from uspex_bridge.vasp.incar import intent_from_incar, parse_incar
from uspex_bridge.vasp.structure import format_contcar, format_vasp4, read_poscar, read_potcar_symbols


@dataclass(frozen=True, eq=False)
class Request:
    """What USPEX asks for: a structure and what to do with it."""

    structure: Structure
    intent: Intent
    incar: dict[str, str] = field(default_factory=dict)


class Folder(Protocol):
    """A working folder of either kind."""

    path: Path
    inputs: tuple[str, ...]

    def read(self, config: Config) -> Request:
        """Read the request; raises InputError."""

    def publish(self, run: VaspRun, config: Config, check: Callable[[], None]) -> None:
        """Write the result, all or nothing, unless ``check`` raises; raises OutputError."""


class VaspFolder:
    """POSCAR, INCAR and POTCAR in; OUTCAR, OSZICAR, CONTCAR, XDATCAR and vasprun.xml out."""

    inputs: tuple[str, ...] = ("POSCAR", "INCAR", "POTCAR")

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, config: Config) -> Request:
        """Read the inputs; KPOINTS means nothing here.

        Raises:
            InputError: a file is missing or cannot be used.
        """
        incar = self.path / "INCAR"
        text = read_text(incar)
        potcar = self.path / "POTCAR"
        symbols = read_potcar_symbols(potcar) if potcar.exists() else None
        structure = read_poscar(self.path / "POSCAR", symbols)
        return Request(structure, intent_from_incar(text, incar), parse_incar(text))

    def publish(self, run: VaspRun, config: Config, check: Callable[[], None]) -> None:
        """Write VASP's outputs, OSZICAR last; raises OutputError, CalculationError."""
        commit.publish(self.path, run, config.files, check)


class ExternalFolder:
    """Abinitio codes 20 (input.xyz in, output.xyz out) and 99 (geom.in in, geom.out and energy.txt out).

    What to do with the structure is said in INCAR tags, so that all slots speak one language: in ``tags`` of the
    settings and, for code 99, in usercode.in (USPEX's copy of Specific/userInput_n).
    """

    inputs: tuple[str, ...] = ("input.xyz", "geom.in", "usercode.in", "parameters.json", "POTCAR")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._periodic: Periodic | None = None

    def read(self, config: Config) -> Request:
        """Read the inputs.

        The pressure is the setting's, else PSTRESS of the tags, else that of parameters.json, else 0.

        Raises:
            InputError: the structure is missing or cannot be used, or there are two.
        """
        parameters = self._parameters()
        user = self.path / "usercode.in"
        tags = parse_incar(_step_tags(self.path, config.external.tags))
        given = tags | parse_incar(read_text(user) if user.exists() else "")
        if self._code(config) == 20:
            structure, self._periodic = read_xyz(self.path / "input.xyz")
        else:
            potcar = self.path / "POTCAR"
            species = _find_symbols(parameters) or (read_potcar_symbols(potcar) if potcar.exists() else None)
            structure = read_poscar(self.path / "geom.in", species)
        vacuum = self._periodic is not None and not all(self._periodic)
        defaults = {"ISIF": "2" if vacuum else "3", "IBRION": "2", "NSW": "1000"}
        asked = "\n".join(f"{k} = {v}" for k, v in {**defaults, **given}.items())
        intent = intent_from_incar(asked, user if user.exists() else "tags of [external]")
        if vacuum and "ISIF" not in given:
            intent = replace(
                intent, notes=(*intent.notes, "pbc is F along a cell vector, so the cell is kept (ISIF 2)")
            )
        pressure = config.external.pressure
        if pressure is None and "PSTRESS" not in given:
            pressure = _find_number(parameters, ("externalpressure", "pressure"))
        if pressure is not None:
            intent = replace(intent, pressure_gpa=pressure)
        return Request(structure, intent, given)

    def publish(self, run: VaspRun, config: Config, check: Callable[[], None]) -> None:
        """Write output.xyz, or geom.out and then energy.txt (one number)."""
        final, settings = run.frames[-1], config.external
        value = final.enthalpy(run.pressure_gpa) if settings.energy == "enthalpy" else final.energy
        if not math.isfinite(value):
            raise OutputError("the energy is not finite; nothing was written")
        if self._periodic is not None:
            text = format_xyz(run.structure, final, value, run.pressure_gpa, self._periodic)
            publish_files(self.path, {"output.xyz": text}, check)
            return
        if settings.per == "atom":
            value /= len(run.structure)
        layout = format_contcar if settings.geometry == "vasp5" else format_vasp4
        files = {"geom.out": layout(run.structure, final), "energy.txt": f"{value:.10f}\n"}
        publish_files(self.path, files, check)

    def _code(self, config: Config) -> int:
        """Return USPEX's number of this slot, by the settings or by the file that USPEX wrote."""
        if config.external.code != "auto":
            return config.external.code
        codes = [code for code, name in ((20, "input.xyz"), (99, "geom.in")) if (self.path / name).exists()]
        if len(codes) == 1:
            return codes[0]
        if codes:
            raise InputError(
                f"{self.path}: input.xyz and geom.in are both here; select one with --code 20 or --code 99"
            )
        raise InputError(f"{self.path}: neither input.xyz (abinitioCode 20) nor geom.in (99) is here")

    def _parameters(self) -> Any:
        path = self.path / "parameters.json"
        if not path.exists():
            return {}
        try:
            return jsonl.loads(read_text(path))
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON: {error}") from None


def _step_tags(folder: Path, tags: tuple[str, ...]) -> str:
    """Return the tags of the step that a folder's name tells, of the first where it tells none."""
    match = re.search(r"_(\d+)$", folder.name)
    number = int(match[1]) if match else 1
    return tags[min(max(number, 1), len(tags)) - 1] if tags else ""


def _walk(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield str(key).lower().replace("_", ""), value
            yield from _walk(value)


def _find_number(data: Any, names: tuple[str, ...]) -> float | None:
    found = dict(_walk(data))
    for name in names:
        value = found.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _find_symbols(data: Any) -> list[str] | None:
    found = dict(_walk(data))
    for name in ("atomtype", "symbols", "species", "elements"):
        value = found.get(name)
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            return list(dict.fromkeys(value))
    return None
