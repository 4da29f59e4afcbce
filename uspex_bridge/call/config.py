"""The bridge's settings: one TOML file, found near the folder that USPEX works in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import home, named, write_whole
from uspex_bridge.base.schema import build, read_toml
from uspex_bridge.models.cards import CalculatorSettings

#: Name of the settings file.
FILENAME = "bridge.toml"
#: Environment variable that names a settings file.
VARIABLE = "USPEX_BRIDGE_CONFIG"


@dataclass(frozen=True)
class ExternalSettings:
    """``[external]``: what USPEX's manual leaves open for abinitioCode 20 and 99 (docs/uspex_setup.md).

    Attributes:
        energy: what energy.txt or ``energy=`` of output.xyz is, ``enthalpy`` (E + PV) or ``energy`` (E alone).
        per: energy.txt is for a ``cell`` or an ``atom``.
        geometry: layout of geom.out, VASP-5 (``vasp5``, with an element line) or ``vasp4``.
        pressure: GPa; None takes it from usercode.in or parameters.json.
        tags: INCAR tags of step 1, 2, ..., the last for all that follow; those of usercode.in come first.
        code: 20 or 99; ``auto`` goes by the input file that is there.
    """

    energy: Literal["enthalpy", "energy"] = "enthalpy"
    per: Literal["cell", "atom"] = "cell"
    geometry: Literal["vasp5", "vasp4"] = "vasp5"
    pressure: float | None = None
    tags: tuple[str, ...] = ()
    code: Literal["auto", 20, 99] = "auto"


@dataclass(frozen=True)
class ServiceSettings:
    """``[service]``: whether calls use a service, and how one runs (docs/service.md).

    Attributes:
        mode: what a call does: use a service where one answers (``auto``), never (``off``), start one where there is
            none (``start``), fail without one (``require``).
        workers: processes that relax, each one structure at a time; None is one per ``threads`` CPU cores, with
            batches 32 per device.
        batch: whether one process per device evaluates for all that relax; ``auto`` is where there is a GPU.
        idle_timeout: seconds without a job after which the service ends; ``inf`` is never.
        on_disconnect: what becomes of a job whose caller was killed: ``cancel`` leaves no files, ``finish`` goes on.
        jobs_per_worker: jobs after which a worker is replaced by a fresh one.
    """

    mode: Literal["auto", "off", "start", "require"] = "auto"
    workers: int | None = None
    batch: Literal["auto", True, False] = "auto"
    idle_timeout: float = 3600.0
    on_disconnect: Literal["cancel", "finish"] = "cancel"
    jobs_per_worker: int = 500

    def __post_init__(self) -> None:
        for key in ("workers", "jobs_per_worker"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} = {value} must be at least 1")
        if self.idle_timeout <= 0:
            raise ValueError(f"idle_timeout = {self.idle_timeout} must be positive (seconds)")


@dataclass(frozen=True)
class StudentSettings:
    """``[student]``: a student that a search trains for itself (docs/protocols.md).

    Attributes:
        distill: ``auto`` trains the student on the search's own frames, ``off`` takes ``[calculators.student]``.
        trainer: as in ``uspex-bridge train``.
        start: checkpoint that every training starts from; empty for random weights.
        settings: TOML file laid over the trainer's template; empty for that of students.
        structures: relaxed structures to train on before the first training.
    """

    distill: Literal["off", "auto"] = "off"
    trainer: str = "mace"
    start: str = ""
    settings: str = ""
    structures: int = 100

    def __post_init__(self) -> None:
        if self.structures < 1:
            raise ValueError(f"structures = {self.structures} must be at least 1")


@dataclass(frozen=True)
class Config:
    """Everything that bridge.toml may say (docs/configuration.md).

    Attributes:
        protocol: a named protocol, the path of a TOML file, or ``auto``: ``paper`` where its weights are found,
            else ``embedded``.
        stages: which of its stages to run (``1``, ``2-3``, ``robust``); None is all.
        device: device of every calculator that does not name its own.
        threads: CPU threads per relaxation.
        gpu_runs: runs without a service that may be on one GPU at the same time; the others wait.
        time_limit: seconds after which the best geometry so far is returned; ``inf`` is no limit.
        on_reject: what USPEX gets for a refused structure: no result (``fail``) or a valid one with a
            ``penalty`` enthalpy, eV per atom.
        on_change: what becomes of a call whose search's record holds results of another protocol or model: ``stop`` or
            ``accept``.
        on_repeat: what becomes of a start that the record has a converged result of, by the same settings and weights:
            ``relax`` it again, or ``reuse`` that result.
        stop_above: eV per atom above the best known of a structure's composition from which on its relaxation is ended,
            by a bound from its descent so far; None ends none.
        accept_range: calculators that are used although the equations of state of the search's elements show holes
            below its pressure (``uspex-bridge doctor``).
        steps: which ionic steps the VASP files show: those of the ``final-model`` (energies of one
            model only), ``all``, or the ``last`` one.
        files: further files of VASP for readers that insist on them (EIGENVAL, DOSCAR); they hold no bands.
        record: file of the run-wide record; None puts ``bridge.record`` into the search's folder.
        calculators: settings per calculator name.
        base: folder that relative paths are taken from (set by the reader).
    """

    protocol: str = "auto"
    stages: str | None = None
    device: str = "auto"
    threads: int = 1
    gpu_runs: int = 2
    time_limit: float = 7200.0
    on_reject: Literal["fail", "penalty"] = "fail"
    penalty: float = 100.0
    on_change: Literal["stop", "accept"] = "stop"
    on_repeat: Literal["relax", "reuse"] = "relax"
    stop_above: float | None = None
    accept_range: tuple[str, ...] = ()
    steps: Literal["final-model", "all", "last"] = "final-model"
    files: tuple[Literal["EIGENVAL", "DOSCAR"], ...] = ()
    record: str | None = None
    calculators: dict[str, CalculatorSettings] = field(default_factory=dict)
    external: ExternalSettings = field(default_factory=ExternalSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    base: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("threads", "gpu_runs"):
            if (value := getattr(self, key)) < 1:
                raise ValueError(f"{key} = {value} must be at least 1")
        if not self.time_limit > 0:
            raise ValueError(f"time_limit = {self.time_limit} must be positive (seconds)")
        if self.stop_above is not None and not self.stop_above > 0:
            raise ValueError(f"stop_above = {self.stop_above} must be positive (eV per atom)")
        if not 0 < self.penalty <= 500:
            raise ValueError(f"penalty = {self.penalty} must lie between 0 and 500 eV per atom")

    def settings_of(self, calculator: str) -> CalculatorSettings:
        """Settings of a calculator by name, with the run's device filled in."""
        settings = self.calculators.get(calculator, CalculatorSettings())
        return replace(settings, device=self.device) if settings.device == "auto" else settings


def uspex_folder(folder: Path) -> Path | None:
    """Return the folder that USPEX runs in, of a working folder that it made; None where another program made it.

    USPEX up to 10.x makes ``CalcFold<N>``, its Python line ``CalcFold<ID>_<tag>``, USPEX 26
    ``Calculation/Calcfold_<system>_<step>``.
    """
    if not folder.name.lower().startswith("calcfold"):
        return None
    return folder.parents[1] if folder.parent.name in ("Calculation", "CalculationTemp") else folder.parent


def find_config(folder: Path, explicit: Path | None = None) -> Path | None:
    """Return the settings file of a working folder, or None.

    Looked for in this order: ``explicit``, $USPEX_BRIDGE_CONFIG, the folder itself, the folders above it, each with
    its ``Specific``, the user's configuration directory. The look upwards ends where the file system does, or where a
    folder is another user's; the parent and the folder that USPEX runs in are looked at in any case. Above a folder
    that is a link lie two folders: the one that holds the link comes first.

    Raises:
        ConfigError: a file that was named does not exist, or one that is there cannot be read.
    """
    for given, origin in ((explicit, "--config"), (os.environ.get(VARIABLE), VARIABLE)):
        if given:
            path = Path(given).expanduser()
            if not path.is_file():
                raise ConfigError(f"{origin}: there is no file {path}")
            return path
    real, link = folder.resolve(), named(folder)
    for place in dict.fromkeys((real, *_above(link), *_above(real))):
        for path in (place / FILENAME, place / "Specific" / FILENAME):
            if _is_there(path):
                return path
    own = user_config()
    return own if _is_there(own) else None


def _is_there(path: Path) -> bool:
    """Return whether settings are there to be read.

    Raises:
        ConfigError: what is there is no file: other settings must not take its place.
    """
    if path.is_file():
        return True
    if os.path.lexists(path):
        raise ConfigError(f"{path}: is {'a link to nothing' if path.is_symlink() else 'a folder, a pipe or a device'}")
    return False


def _above(folder: Path) -> Iterator[Path]:
    """Yield the folders above one, up to the border of the file system or of what is the user's."""
    yield folder.parent
    top = uspex_folder(folder) or folder.parent
    if top != folder.parent:
        yield top
    try:
        device = top.stat().st_dev
        for place in top.parents:
            found = place.stat()
            if found.st_dev != device or found.st_uid != os.getuid():
                return
            yield place
    except OSError:
        return


def user_config() -> Path:
    """Return the settings file in the user's configuration directory, whether it is there or not."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or home() / ".config") / "uspex_bridge" / FILENAME


def search_root(folder: Path, config: Config) -> Path:
    """Return the folder of the search that a working folder belongs to; the record lies there.

    It is the folder that USPEX runs in; for other programs' folders that of the settings file (above ``Specific``),
    unless there is none or it is the user's general one: then the working folder itself.
    """
    if top := uspex_folder(folder):
        return top
    source = Path(config.source) if config.source else None
    if source is None or source == user_config().resolve():
        return folder
    place = source.parent.parent if source.parent.name == "Specific" else source.parent
    return place if os.access(place, os.W_OK) else folder


def set_interpreter(path: Path, calculator: str, python: str) -> bool:
    """Write ``python`` under ``[calculators.NAME]`` of a settings file, which is made if it is not there.

    The rest of the file stays as it is, to the letter.

    Returns:
        whether it stands there now; False where the table names another interpreter, which is left.

    Raises:
        ConfigError: the file is wrong, or its table is not written as ``[calculators.NAME]``.
        OutputError: it cannot be written.
    """
    known = read_config(path).calculators.get(calculator) if path.exists() else None
    if known and known.python:
        return Path(known.python).expanduser() == Path(python)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line, header = f"python = {json.dumps(python)}\n", f"[calculators.{calculator}]"
    if known is None:
        text = f"{text.rstrip()}\n\n{header}\n{line}".lstrip("\n")
    else:
        pattern = rf"^[ \t]*{re.escape(header)}.*\n?"
        text, found = re.subn(pattern, lambda match: match[0].rstrip("\n") + "\n" + line, text, flags=re.MULTILINE)
        if not found:
            raise ConfigError(f"{path}: {header} is not written as a table of its own; write there: {line.strip()}")
    write_whole(path, text)
    return read_config(path).calculators[calculator].python == python


def load_config(folder: Path, explicit: Path | None = None) -> Config:
    """Read the settings for a working folder; defaults where there is no file.

    Raises:
        ConfigError: a named file is missing, or the file is wrong.
    """
    path = find_config(folder, explicit)
    return Config(base=str(folder)) if path is None else read_config(path)


def read_config(path: Path) -> Config:
    """Read one settings file.

    Raises:
        ConfigError: the file is not TOML, has unknown keys or impossible values.
    """
    table = dict(read_toml(path))
    for hidden in ("base", "source"):
        if hidden in table:
            raise ConfigError(f"{path}: unknown key '{hidden}'")
    calculators = table.pop("calculators", {})
    external = build(ExternalSettings, table.pop("external", {}), f"{path}: [external]")
    service = build(ServiceSettings, table.pop("service", {}), f"{path}: [service]")
    student = build(StudentSettings, table.pop("student", {}), f"{path}: [student]")
    if not isinstance(calculators, dict) or not all(isinstance(entry, dict) for entry in calculators.values()):
        raise ConfigError(f"{path}: calculators are written as [calculators.NAME] tables")
    base = path.resolve().parent
    made = {
        name: _anchored(build(CalculatorSettings, entry, f"{path}: [calculators.{name}]"), base)
        for name, entry in calculators.items()
    }
    if student.distill == "auto" and "student" in made:
        raise ConfigError(f'{path}: [student] distill = "auto" makes its own [calculators.student]; remove one of them')
    config = build(Config, table, str(path))
    config = replace(config, calculators=made, external=external, service=service, student=student)
    return replace(config, base=str(base), source=str(path.resolve()))


def _anchored(settings: CalculatorSettings, base: Path) -> CalculatorSettings:
    """Make a model path relative to the settings file absolute; a bare name only where there is such a file."""
    model = settings.model
    if not model or Path(model).expanduser().is_absolute() or "://" in model:
        return settings
    if os.sep in model or (base / model).is_file():
        return replace(settings, model=str(base / model))
    return settings
