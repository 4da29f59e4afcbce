"""Will this set-up work? Machine, packages, models, settings, a trial relaxation, and the files of a USPEX folder."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import uspex_bridge
from uspex_bridge.base.errors import BridgeError, CalculationError, ConfigError
from uspex_bridge.base.files import home
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import Config, find_config, load_config
from uspex_bridge.call.student import loadable
from uspex_bridge.doctor import weights
from uspex_bridge.models import inventory
from uspex_bridge.models.cards import Card
from uspex_bridge.models.weights import package_folder
from uspex_bridge.uspex.checks import check_setup
from uspex_bridge.uspex.findings import Finding
from uspex_bridge.uspex.setup import EXECUTABLES, read_setups

State = Literal["ok", "note", "bad"]
#: What the trial relaxes where no folder says otherwise.
DEFAULT_ELEMENTS, DEFAULT_PRESSURE = ("Ca", "Fe", "Ni"), 50.0  # GPa
#: What each line of USPEX takes from the trial.
_READERS = {
    "matlab": "H is read by the MATLAB line as",
    "python": "by the Python line as",
    "code20": "energy= of output.xyz is read by USPEX 26 as",
}
#: Distributions that matter here besides those of the calculators.
_PACKAGES = ("numpy", "scipy", "ase", "pymatgen", "spglib", "click", "filelock", "torch", "e3nn")


@dataclass(frozen=True)
class Item:
    """One line of the doctor's report; ``note`` is worth knowing, ``bad`` will hurt."""

    section: str
    state: State
    text: str


@dataclass
class Checkup:
    """Everything the doctor found; ``usable`` is the verdict."""

    items: list[Item] = field(default_factory=list)
    packages: dict[str, str | None] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    trial: dict[str, Any] | None = None
    reach: dict[str, list[dict[str, Any]]] | None = None
    findings: list[Finding] = field(default_factory=list)
    usable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {"usable": self.usable, "version": uspex_bridge.__version__, **asdict(self)}


def examine(
    folder: Path | None,
    explicit: Path | None = None,
    *,
    relax: bool = True,
    of_26: bool = False,
    tell: Callable[[Item], None] = lambda item: None,
) -> Checkup:
    """Examine this environment, and the USPEX set-up in ``folder`` if one is given.

    Args:
        folder: the folder that USPEX runs in.
        explicit: settings file, where one is named.
        relax: relax a small structure too; without that the verdict is a guess from the rest.
        of_26: whether INPUT.txt is known to be for USPEX 26.
        tell: is called with each line of the report as soon as it is known.
    """
    report = Checkup(packages=versions())

    def add(items: Iterator[Item]) -> bool:
        sound = True
        for item in items:
            report.items.append(item)
            tell(item)
            sound = sound and item.state != "bad"
        return sound

    near = (folder / "CalcFold1" if folder else Path.cwd()).absolute()
    add(_machine())
    pins = add(_pins(report.packages))
    report.models = list(weights.known_models())
    add(_models(report.models))
    settings = add(_settings(near, explicit))
    add(_trainers(near, explicit))
    trial = add(_trial(report, folder, near, explicit)) if relax and settings else pins and settings
    reach = add(_reach(report, folder, near, explicit)) if folder and relax and settings else True
    setup = add(_setup(report, folder, of_26)) if folder else True
    report.usable = settings and trial and reach and setup
    return report


def versions() -> dict[str, str | None]:
    """Return the installed version of every package that matters, None where it is not installed."""
    names = [*_PACKAGES, *(_distribution(card) for card in inventory.cards().values())]
    return {name: _version(name) for name in dict.fromkeys(names) if name != "uspex_bridge"}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distribution(card: Card) -> str:
    return re.split(r"[=<>!~ \[]", card.package, maxsplit=1)[0]


def _home(path: object) -> str:
    """Return a path with the home folder written as ~."""
    text, own = str(path), str(home())
    return text.replace(own + os.sep, "~" + os.sep) if len(own) > 1 else text


def _machine() -> Iterator[Item]:
    yield Item(
        "machine",
        "ok",
        f"uspex_bridge {uspex_bridge.__version__}, Python {platform.python_version()} ({_home(sys.executable)}), "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {_memory()}",
    )
    for name in EXECUTABLES:
        own = Path(sys.executable).parent / name
        found = shutil.which(name)
        if not own.exists():
            yield Item("machine", "bad", f"{name} is not installed beside this Python; install uspex_bridge with pip")
        elif found is None:
            yield Item("machine", "note", f"{name} is not on PATH; as commandExecutable give {_home(own)}")
        elif Path(found).resolve() != own.resolve():
            yield Item("machine", "note", f"{name} on PATH is another installation's, {_home(found)}")
    yield from _gpus()


def _memory() -> str:
    """Return the memory of this machine, and on Linux what of it can be had."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        match = None
    free = f"{int(match[1]) / 2**20:.0f} of " if match else ""
    return f"{free}{total:.0f} GiB of memory" + (" free" if match else "")


def _gpus() -> Iterator[Item]:
    """Name the GPUs and their memory, and whether the installed PyTorch can use them, without importing it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        listed = []
    cuda = built_for("torch")[1]
    if not listed:
        yield Item("machine", "note", "no GPU found: models run on the CPU")
        return
    for number, line in enumerate(listed):
        name, free, total = (word.strip() for word in line.rsplit(",", 2))
        yield Item("machine", "ok", f"GPU {number}: {name}, {free} of {total} free")
    if not cuda and _version("torch"):
        yield Item(
            "machine",
            "bad",
            "PyTorch is a CPU build and cannot use the GPU; uspex-bridge docs install shows how to install another",
        )


def built_for(module: str) -> tuple[str | None, str | None]:
    """Return version and CUDA version that a package of the PyTorch family was built with, read from its version.py."""
    folder = package_folder(module)
    try:
        text = (folder / "version.py").read_text() if folder else ""
    except OSError:
        text = ""
    version = re.search(r"^__version__\s*(?::.*?)?=\s*['\"](.+?)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::.*?)?=\s*['\"](.+?)['\"]", text, re.MULTILINE)
    return version[1] if version else None, cuda[1] if cuda else None


def _release(version: str | None) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", (version or "0").split("+")[0])[:3])


def _pins(found: dict[str, str | None]) -> Iterator[Item]:
    """Compare versions that are known to disagree (docs/install.md)."""
    there = [f"{name} {version}" for name, version in found.items() if version]
    yield Item("packages", "ok", ", ".join(there))
    e3nn = found["e3nn"]
    if found.get("mace-torch") and _release(e3nn) > (0, 5, 1):
        yield Item("packages", "bad", f"e3nn {e3nn} cannot load MACE models; pip install e3nn==0.5.1")
    wants = [name for name in ("mattersim", "sevenn") if found.get(name)]
    if wants and e3nn and _release(e3nn) < (0, 5, 0):
        yield Item(
            "packages", "note", f"{' and '.join(wants)} ask for e3nn 0.5, here is {e3nn}; pip install e3nn==0.5.1"
        )
    if found.get("deepmd-kit") and not e3nn:
        yield Item("packages", "bad", "deepmd-kit needs e3nn; pip install e3nn==0.5.1")
    if found.get("mattersim") and _release(found["numpy"]) < (2,):
        yield Item("packages", "note", f"mattersim asks for numpy 2, here is {found['numpy']}")
    if found["ase"] and _release(found["ase"]) < (3, 26):
        yield Item("packages", "bad", f"ase {found['ase']} is too old; pip install 'ase>=3.26'")
    compiled = deepmd_torch()
    if compiled and found["torch"] and _release(compiled)[:2] != _release(found["torch"])[:2]:
        yield Item(
            "packages",
            "note",
            f"deepmd-kit was compiled for torch {compiled}, here is {found['torch']}: its own operators are left out, "
            "which compressed models need",
        )
    yield from _vision(found)


def _vision(found: dict[str, str | None]) -> Iterator[Item]:
    """Compare torchvision with PyTorch: torchmetrics imports it where there is one, for MACE and MatterSim."""
    torch, cuda = built_for("torch")
    for name in ("torchvision", "torchaudio"):
        version = _version(name)
        if version is None or torch is None:
            continue
        wanted = re.search(r"\btorch\s*\(?==\s*([\d.]+)", " ".join(importlib.metadata.requires(name) or []))
        other = built_for(name)[1]
        if (other is not None and cuda is None) or (wanted and _release(wanted[1]) != _release(torch)):
            yield Item(
                "packages",
                "bad",
                f"{name} {version} ({'CUDA ' + other if other else 'CPU'}) does not fit torch {torch}: importing MACE "
                f"or MatterSim may fail; pip uninstall -y {name}",
            )


def deepmd_torch() -> str | None:
    """Return the PyTorch release that the installed deepmd-kit was compiled for."""
    folder = package_folder("deepmd")
    try:
        text = (folder / "lib" / "run_config.ini").read_text() if folder else ""
    except OSError:
        return None
    match = re.search(r"^PT_VERSION\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else None


def _models(models: list[dict[str, Any]]) -> Iterator[Item]:
    for state, text in weights.said(weights.families(), models):
        yield Item("models", state, text)


def _settings(near: Path, explicit: Path | None) -> Iterator[Item]:
    """Read the settings that a run near there would have, and ask for each model that its protocol needs."""
    try:
        path = find_config(near, explicit)
        config: Config = load_config(near, explicit)
        protocol, notice = choose_protocol(config)
    except ConfigError as error:
        yield Item("settings", "bad", str(error))
        return
    stages = " > ".join(f"{stage.calculator} {stage.optimizer} {stage.fmax:g}" for stage in protocol.stage)
    yield Item(
        "settings", "ok", f"{_home(path) if path else 'no bridge.toml, defaults'}: {protocol.name} ({stages} eV/Å)"
    )
    if notice:
        yield Item("settings", "note", notice)
    for name in loadable(protocol, config):
        try:
            status = inventory.available(name, config.settings_of(name))
        except BridgeError as error:
            yield Item("settings", "bad", f"{name}: {error}")
            continue
        where = f" in {_home(status.python)}" if status.python else ""
        weights = status.weights.model if status.weights else None
        if status.problem:
            yield Item("settings", "bad", f"{name}{where}: {_home(status.problem)}")
        else:
            yield Item(
                "settings",
                "ok",
                f"{name}: {status.card.title} {status.version or ''}{where}, {weights or 'no weights'}",
            )


def _trainers(near: Path, explicit: Path | None) -> Iterator[Item]:
    """Say which of ``uspex-bridge train``'s trainers can run, and in which interpreter."""
    from uspex_bridge.learn.training.order import TRAINERS

    try:
        config = load_config(near, explicit)
    except ConfigError:
        return  # the section on the settings says it
    for kind in dict.fromkeys(trainer.kind for trainer in TRAINERS.values()):
        names = ", ".join(name for name, trainer in TRAINERS.items() if trainer.kind == kind)
        status = inventory.available(kind, config.settings_of(kind))
        where = f" in {_home(status.python)}" if status.python else ""
        if status.version:
            yield Item("training", "ok", f"{names}: {status.card.title} {status.version}{where}")
        else:
            yield Item(
                "training",
                "note",
                f"{names}: no {status.card.title}{where}; install it there, or name the interpreter that has it as "
                f"python under [calculators.{kind}]: {status.card.install}",
            )


def _trial(report: Checkup, folder: Path | None, near: Path, explicit: Path | None) -> Iterator[Item]:
    from uspex_bridge.doctor.trial import run_trial

    elements, pressure, code20 = _search(folder) or (DEFAULT_ELEMENTS, DEFAULT_PRESSURE, False)
    trial = run_trial(elements, pressure, near, explicit, code20=code20)
    report.trial = trial.as_dict()
    what = f"{trial.formula} at {pressure:g} GPa"
    if trial.problem:
        yield Item("trial", "bad", f"{what}: {_home(trial.problem)}")
        return
    stages = ", ".join(f"{s['name']} {s['steps']} steps ({s['calculator']})" for s in trial.stages)
    devices = ", ".join(dict.fromkeys(str(identity.get("device")) for identity in trial.models.values()))
    seconds = f"{trial.seconds:.1f} s, with start-up {trial.wall:.1f} s"
    yield Item("trial", "ok", f"{what}: {stages} on {devices}; {seconds}")
    yield Item("trial", "ok", ", ".join(f"{_READERS[line]} {value:.6f} eV" for line, value in trial.enthalpy.items()))


def _search(folder: Path | None) -> tuple[tuple[str, ...], float, bool] | None:
    """Return elements and pressure (GPa) of a search, and whether abinitioCode is 20; None where they are not known."""
    try:
        setups = list(read_setups(folder)) if folder else []
    except BridgeError:  # the section on the set-up says it
        return None
    if not setups or not setups[-1].elements:
        return None
    last = setups[-1]
    return last.elements, last.pressure, any(step.code == "20" for step in last.steps)


def _reach(report: Checkup, folder: Path, near: Path, explicit: Path | None) -> Iterator[Item]:
    """Compress the search's elements to its pressure with each model: where one breaks down, results are holes."""
    from uspex_bridge.call.reach import limits_of

    if (search := _search(folder)) is None:
        return
    elements, pressure, _ = search
    try:
        report.reach = limits_of(elements, pressure, near, explicit)
    except CalculationError as error:
        yield Item("range", "note", f"the models were not compressed: {_home(error)}")
        return
    accepted = load_config(near, explicit).accept_range
    for name, limits in report.reach.items():
        for limit in limits:
            yield Item("range", "note" if name in accepted else "bad", f"{name}: {limit['why']}")
        if limits and name not in accepted:
            yield Item(
                "range",
                "bad",
                f"{name} fails the compression test to {pressure:g} GPa: searches with it find holes; "
                f'use another model, or set accept_range = ["{name}"] in bridge.toml',
            )
        elif limits:
            yield Item(
                "range", "note", f"{name} fails the compression test to {pressure:g} GPa; accepted by accept_range"
            )
        else:
            yield Item("range", "ok", f"{name}: {', '.join(elements)} pass the compression test to {pressure:g} GPa")


def _setup(report: Checkup, folder: Path, of_26: bool) -> Iterator[Item]:
    report.findings = check_setup(folder, of_26=of_26)
    said = {item.text for item in report.items}
    for finding in report.findings:
        if finding.message in said:
            continue
        yield Item("set-up", "bad" if finding.severity == "error" else "note", str(finding))
    if not report.findings:
        yield Item("set-up", "ok", f"{folder}: no mistake found")
