"""How labels are computed: ``templates/labels/*.toml`` with a file of one's own over it, and the level of theory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import build, read_toml
from uspex_bridge.base.templates import TEMPLATES, render
from uspex_bridge.base.units import gpa_to_kbar
from uspex_bridge.learn.data.labels import Level, settings_hash
from uspex_bridge.vasp.incar import parse_incar

Code = Literal["vasp", "gpaw", "model"]
#: Tags that change how a result is reached or what is printed, not the result.
HARMLESS = (
    *("SYSTEM", "ALGO", "IALGO", "NELM", "NELMIN", "NELMDL", "NSIM", "NPAR", "NCORE", "KPAR", "LPLANE", "LSCALU"),
    *("LSCALAPACK", "ISTART", "ICHARG", "INIWAV", "NWRITE", "LWAVE", "LCHARG", "LVTOT", "LVHAR", "LELF", "LORBIT"),
    *("NEDOS", "EMIN", "EMAX", "AMIX", "BMIX", "AMIX_MAG", "BMIX_MAG", "AMIN", "MAXMIX", "IMIX", "NBANDS", "LMAXMIX"),
    *("LASYNC", "LH5", "ISYM", "SYMPREC", "NGX", "NGY", "NGZ", "POTIM", "KPOINT_BSE", "TIME", "LDIAG", "LSUBROT"),
)
#: Elements that are magnetic more often than not.
MAGNETIC = ("Cr", "Mn", "Fe", "Co", "Ni")
#: Tags that would turn a single point into something else, or its energy into an enthalpy.
_FORBIDDEN = ("PSTRESS", "NSW", "IBRION", "ISIF", "POTIM", "ML_LMLFF", "IMAGES")
#: Tags that change the functional; whoever sets one must call the functional by another name.
_FUNCTIONAL = ("GGA", "METAGGA", "LHFCALC", "LDAU", "IVDW", "LUSE_VDW")


#: What a message names of the tags that a second attempt may change.
_MIXING = ("ALGO", "NELM", "AMIX", "BMIX", "AMIX_MAG", "BMIX_MAG", "TIME")


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

    def parallel(self, points: int) -> dict[str, int]:
        """Return VASP's KPAR and NCORE for a grid of so many k-points.

        Cells of a search are small and have many k-points, so these are shared first, among four groups where that
        leaves each some points; bands of a group are shared by as many cores as four at most.
        """
        groups = max(n for n in (4, 2, 1) if self.cores % n == 0 and (n == 1 or points >= 8 * n))
        return {"KPAR": groups, "NCORE": max(n for n in (4, 2, 1) if self.cores // groups % n == 0)}

    def walltime(self, structures: int) -> str:
        """Return the time for so many structures, one after the other, as HH:MM:00."""
        minutes = math.ceil(60 * self.hours * structures)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


@dataclass(frozen=True)
class RelaxSettings:
    """``[relax]``: the relaxation before the single point, with ``--relax``; VASP only.

    Attributes:
        steps: ionic steps of one run.
        fmax: largest force left, eV/Å.
        runs: of VASP at most, each from the last one's CONTCAR, with plane waves for the new cell; the last one has to
            converge.
    """

    steps: int = 60
    fmax: float = 0.01
    runs: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.fmax <= 0 or self.runs < 1:
            raise ValueError("steps and runs must be at least 1, fmax positive")

    def tags(self, pressure_gpa: float) -> dict[str, str]:
        """Return the tags that differ from those of the single point."""
        return {
            "NSW": str(self.steps),
            "IBRION": "2",
            "ISIF": "3",
            "POTIM": "0.3",
            "EDIFFG": f"-{self.fmax:g}",
            "PSTRESS": f"{gpa_to_kbar(pressure_gpa):g}",
        }


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
        incar: VASP only: further tags; an empty one leaves a tag of the template out.
        second: VASP only: tags of a second attempt where the electrons did not converge; none for no attempt.
        relax: VASP only.
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
    second: dict[str, Any] = field(default_factory=dict)
    relax: RelaxSettings = field(default_factory=RelaxSettings)
    job: JobSettings = field(default_factory=JobSettings)

    def __post_init__(self) -> None:
        if self.encut <= 0 or self.encut_per_gpa < 0 or self.kpoint_distance <= 0 or self.smearing <= 0:
            raise ValueError("encut, kpoint_distance and smearing must be positive, encut_per_gpa not negative")
        for tag in self.incar:
            if tag.upper() in _FORBIDDEN:
                raise ValueError(f"[incar] {tag}: a label is a single point without pressure; remove it")
            if tag.upper() in _FUNCTIONAL and self.functional == "PBE":
                raise ValueError(f"[incar] {tag} changes the functional; name it with functional = '...'")
        given = {tag.upper(): value for tag, value in self.incar.items()}
        if given.get("METAGGA") and given.get("GGA"):
            raise ValueError("[incar] GGA and METAGGA are two functionals; keep one")
        if wrong := sorted({tag.upper() for tag in self.second} - {*HARMLESS}):
            raise ValueError(
                f"[second] {', '.join(wrong)} would be another level of theory; {', '.join(_MIXING)} may be"
            )
        if self.code != "model" and not self.job.command.strip():
            raise ValueError("[job] command is empty; name the command for the folder of every structure")

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
        for key in ("code", "functional", "job", "maxiter", "second", "relax"):
            del settings[key]
        match self.code:
            case "vasp":
                tags = {**self.incar_tags("", 0.0, ""), "MAGMOM": ""}
                settings |= {"incar": {tag: value for tag, value in tags.items() if tag not in HARMLESS}}
                del settings["smearing"], settings["ediff"]
            case "gpaw":
                del settings["potcars"], settings["incar"]
            case "model":
                settings = {}
        return Level(self.code, self.functional, settings_hash(settings))

    def incar_tags(self, name: str, encut: float, magmom: str) -> dict[str, str]:
        """Return the INCAR's tags: the template's, with those of ``incar`` over them."""
        text = render("labels/INCAR", {"id": name, "encut": f"{encut:g}", "magmom": magmom})
        own = {tag.upper(): _incar_value(value) for tag, value in self.incar.items()}
        if own.get("METAGGA"):
            own = {"GGA": "", **own}
        return {tag: value for tag, value in (parse_incar(text) | own).items() if value}

    def second_tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of a second attempt, none where there is to be none."""
        return {**tags, **{tag.upper(): _incar_value(v) for tag, v in self.second.items()}} if self.second else {}


def read_label_settings(path: Path | None, code: Code | None) -> LabelSettings:
    """Read the settings of labels: the template of their code with ``path``, which holds only what differs, over it.

    Raises:
        ConfigError: the file is wrong, is for another code, or neither it nor a code is given.
    """
    own = {} if path is None else dict(read_toml(path))
    wanted = own.get("code", code)
    if wanted is None:
        raise ConfigError("name the code of the labels: --code vasp, gpaw or model, or --settings FILE")
    if code not in (None, wanted):
        raise ConfigError(f"{path} is for {wanted}, not for {code}")
    if wanted not in get_args(Code):
        raise ConfigError(f"{path}: code = '{wanted}' is not one of {', '.join(map(repr, get_args(Code)))}")
    below = read_toml(TEMPLATES / "labels" / f"{wanted}.toml")
    return _built(_over(below, own), str(path or TEMPLATES / "labels" / f"{wanted}.toml"))


def read_prepared_settings(path: Path) -> LabelSettings:
    """Read the settings that a folder of labels was prepared with, which are complete.

    Raises:
        ConfigError: the file is wrong.
    """
    return _built(dict(read_toml(path)), str(path))


def _built(table: dict[str, Any], where: str) -> LabelSettings:
    job = build(JobSettings, table.pop("job", {}), f"{where}: [job]")
    relax = build(RelaxSettings, table.pop("relax", {}), f"{where}: [relax]")
    return build(LabelSettings, table | {"job": job, "relax": relax}, where)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``above`` laid over ``below``, tables over tables."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


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
