"""How labels are computed: one closed TOML file (``templates/labels/*.toml``), and the level of theory it means."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import build, read_toml
from uspex_bridge.base.templates import TEMPLATES, render
from uspex_bridge.learn.data.labels import Level, settings_hash
from uspex_bridge.vasp.incar import parse_incar

Code = Literal["vasp", "gpaw", "model"]
#: Tags that would turn a single point into something else, or its energy into an enthalpy.
_FORBIDDEN = ("PSTRESS", "NSW", "IBRION", "ISIF", "POTIM", "ML_LMLFF", "IMAGES")
#: Tags that change the functional; whoever sets one must call the functional by another name.
_FUNCTIONAL = ("GGA", "METAGGA", "LHFCALC", "LDAU", "IVDW", "LUSE_VDW")


@dataclass(frozen=True)
class JobSettings:
    """``[job]``: how one structure is computed on a cluster.

    Attributes:
        command: run in the structure's folder.
        cores: processes of one job.
        hours: wall time of one structure.
        at_once: jobs of the array that may run side by side.
        tasks: jobs of the array at most; with more structures each takes several, one after the other.
    """

    command: str = ""
    cores: int = 1
    hours: float = 12.0
    at_once: int = 50
    tasks: int = 1000

    def __post_init__(self) -> None:
        if min(self.cores, self.at_once, self.tasks) < 1 or self.hours <= 0:
            raise ValueError("cores, at_once and tasks must be at least 1, hours positive")

    def walltime(self, structures: int) -> str:
        """Return the time for so many structures, one after the other, as HH:MM:00."""
        minutes = math.ceil(60 * self.hours * structures)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


@dataclass(frozen=True)
class LabelSettings:
    """Everything that a settings file of labels may say; the templates say what each key is.

    Attributes:
        code: what computes the labels.
        functional: name of the functional; with ``model``, a calculator's name or KIND:WEIGHTS.
        encut, encut_per_gpa: plane-wave cutoff E0 + kappa P, eV and eV/GPa.
        kpoint_distance: see :mod:`uspex_bridge.learn.label.kpoints`, Å.
        magmom: element -> moment to start from, Bohr magnetons; ``default`` for all others.
        smearing, ediff, maxiter: GPAW only: Fermi-Dirac width in eV, energy convergence, electronic iterations.
        potcars: VASP only: element -> data set, where it is not the Materials Project's.
        incar: VASP only: further tags.
        job: how a cluster runs them.
    """

    code: Code
    functional: str = "PBE"
    encut: float = 500.0
    encut_per_gpa: float = 1.0
    kpoint_distance: float = 35.0
    magmom: dict[str, float] = field(default_factory=dict)
    smearing: float = 0.1
    ediff: float = 1e-6
    maxiter: int = 300
    potcars: dict[str, str] = field(default_factory=dict)
    incar: dict[str, Any] = field(default_factory=dict)
    job: JobSettings = field(default_factory=JobSettings)

    def __post_init__(self) -> None:
        if self.encut <= 0 or self.encut_per_gpa < 0 or self.kpoint_distance <= 0 or self.smearing <= 0:
            raise ValueError("encut, kpoint_distance and smearing must be positive, encut_per_gpa not negative")
        for tag in self.incar:
            if tag.upper() in _FORBIDDEN:
                raise ValueError(f"[incar] {tag}: a label is a single point without pressure; remove it")
            if tag.upper() in _FUNCTIONAL and self.functional == "PBE":
                raise ValueError(f"[incar] {tag} changes the functional; name it with functional = '...'")

    def cutoff(self, pressure_gpa: float) -> float:
        """Return the plane-wave cutoff at a pressure, eV; negative pressures count as 0."""
        return self.encut + self.encut_per_gpa * max(0.0, pressure_gpa)

    def moments(self, symbols: Sequence[str]) -> list[float]:
        """Return the moments to start from, all up."""
        return [self.magmom.get(symbol, self.magmom.get("default", 0.0)) for symbol in symbols]

    @property
    def level(self) -> Level:
        """The level of theory: code, functional and all that changes numbers; not how jobs are run."""
        settings = asdict(self)
        for key in ("code", "functional", "job", "maxiter"):
            del settings[key]
        match self.code:
            case "vasp":
                settings |= {"incar": {**self.incar_tags("", 0.0, ""), "SYSTEM": "", "MAGMOM": ""}}
                del settings["smearing"], settings["ediff"]
            case "gpaw":
                del settings["potcars"], settings["incar"]
            case "model":
                settings = {}
        return Level(self.code, self.functional, settings_hash(settings))

    def incar_tags(self, name: str, encut: float, magmom: str) -> dict[str, str]:
        """Return the INCAR's tags: the template's, with those of ``incar`` over them."""
        text = render("labels/INCAR", {"id": name, "encut": f"{encut:g}", "magmom": magmom})
        return parse_incar(text) | {tag.upper(): _incar_value(value) for tag, value in self.incar.items()}


def read_label_settings(path: Path | None, code: Code | None) -> LabelSettings:
    """Read the settings of labels; without a file, the template of ``code``.

    Raises:
        ConfigError: the file is wrong, is for another code, or neither it nor a code is given.
    """
    if path is None:
        if code is None:
            raise ConfigError("say what computes the labels: --code vasp, gpaw or model, or --settings FILE")
        path = TEMPLATES / "labels" / f"{code}.toml"
    table = dict(read_toml(path))
    job = build(JobSettings, table.pop("job", {}), f"{path}: [job]")
    settings = build(LabelSettings, table | {"job": job}, str(path))
    if code not in (None, settings.code):
        raise ConfigError(f"{path} is for {settings.code}, not for {code}")
    return settings


def format_settings(settings: LabelSettings) -> str:
    """Return settings as TOML that :func:`read_label_settings` reads."""
    fields = asdict(settings)
    tables = {key: value for key, value in fields.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _incar_value(value: Any) -> str:
    if isinstance(value, bool):
        return f".{str(value).upper()}."
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
