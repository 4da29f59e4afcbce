"""The two kinds of folder that USPEX hands over: VASP's files (abinitioCode 1), and the external code's (99).

Each reads what USPEX wrote and publishes a result whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from uspex_bridge.base.data import Intent, Structure, VaspRun
from uspex_bridge.base.errors import InputError, OutputError
from uspex_bridge.base.files import publish_files
from uspex_bridge.call.config import Config
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

    def read(self, config: Config) -> Request:
        """Read the request; raises InputError."""

    def publish(self, run: VaspRun, config: Config) -> None:
        """Write the result, all or nothing; raises OutputError."""


class VaspFolder:
    """POSCAR, INCAR and POTCAR in; OUTCAR, OSZICAR, CONTCAR, XDATCAR and vasprun.xml out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, config: Config) -> Request:
        """Read the inputs; KPOINTS means nothing here.

        Raises:
            InputError: a file is missing or cannot be used.
        """
        incar = self.path / "INCAR"
        text = _text(incar)
        potcar = self.path / "POTCAR"
        symbols = read_potcar_symbols(potcar) if potcar.exists() else None
        structure = read_poscar(self.path / "POSCAR", symbols)
        return Request(structure, intent_from_incar(text, incar), parse_incar(text))

    def publish(self, run: VaspRun, config: Config) -> None:
        """Write VASP's outputs, OSZICAR last."""
        commit.publish(self.path, run)


class ExternalFolder:
    """geom.in, usercode.in and parameters.json in; geom.out and energy.txt out (abinitioCode 99).

    usercode.in (USPEX's copy of Specific/userInput_n) holds INCAR tags, so that both slots speak one language.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, config: Config) -> Request:
        """Read the inputs.

        The pressure is the setting's, else PSTRESS of usercode.in, else that of parameters.json, else 0.

        Raises:
            InputError: geom.in is missing or cannot be used.
        """
        parameters = self._parameters()
        user = self.path / "usercode.in"
        text = _text(user) if user.exists() else ""
        given = parse_incar(text)
        defaults = {"ISIF": "3", "IBRION": "2", "NSW": "1000"}
        asked = "\n".join(f"{k} = {v}" for k, v in {**defaults, **given}.items())
        intent = intent_from_incar(asked, user)
        pressure = config.external.pressure
        if pressure is None and "PSTRESS" not in given:
            pressure = _find_number(parameters, ("externalpressure", "pressure"))
        if pressure is not None:
            intent = replace(intent, pressure_gpa=pressure)
        potcar = self.path / "POTCAR"
        species = _find_symbols(parameters) or (read_potcar_symbols(potcar) if potcar.exists() else None)
        return Request(read_poscar(self.path / "geom.in", species), intent, given)

    def publish(self, run: VaspRun, config: Config) -> None:
        """Write geom.out, then energy.txt (one number)."""
        final, settings = run.frames[-1], config.external
        value = final.enthalpy(run.pressure_gpa) if settings.energy == "enthalpy" else final.energy
        if settings.per == "atom":
            value /= len(run.structure)
        if not math.isfinite(value):
            raise OutputError("the energy is not finite; nothing was written")
        layout = format_contcar if settings.geometry == "vasp5" else format_vasp4
        files = {"geom.out": layout(run.structure, final), "energy.txt": f"{value:.10f}\n"}
        publish_files(self.path, files)

    def _parameters(self) -> Any:
        path = self.path / "parameters.json"
        if not path.exists():
            return {}
        try:
            return json.loads(_text(path))
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {os.strerror(error.errno or 0)}; USPEX should have written it") from None


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
