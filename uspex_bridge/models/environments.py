"""One environment per kind of model: made from pins that were tested, and looked at through its own interpreter.

The pins are pip's requirements files in ``templates/environments``, one per kind, with every package in it; pip or uv
can install them without the bridge too. Nothing here imports a model's package in this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.files import replacing, user_data
from uspex_bridge.base.schema import nearest
from uspex_bridge.base.templates import TEMPLATES
from uspex_bridge.models.cards import CalculatorSettings, Card
from uspex_bridge.models.inventory import card_of, cards
from uspex_bridge.models.worker import START_TIMEOUT

#: What an environment says of itself: Python, the version of every package, and what importing ``argv[1:]`` gives.
_ASK = """
import importlib, importlib.metadata, json, os, platform, sys
answer = {"python": platform.python_version(), "problem": "",
          "packages": {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}}
out, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
os.dup2(2, 1)
try:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    torch = sys.modules.get("torch")
    answer["gpus"] = torch.cuda.device_count() if torch and torch.cuda.is_available() else 0
except BaseException as error:
    answer["problem"] = type(error).__name__ + ": " + " ".join(str(error).split())
json.dump(answer, out)
"""
#: Folder of the pins.
PINS = TEMPLATES / "environments"
#: The copy of the pins that a finished environment holds.
_STAMP = "uspex_bridge_pins.txt"


@dataclass(frozen=True)
class Environment:
    """The environment of one kind, made or not.

    Attributes:
        folder: where it is or would be.
    """

    kind: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def made(self) -> bool:
        """Whether it was made to the end."""
        return (self.folder / _STAMP).is_file() and self.python.exists()

    @property
    def outdated(self) -> bool:
        """Whether it was made from other pins than today's."""
        return self.made and (self.folder / _STAMP).read_text() != pins_file(self.kind).read_text()

    @cached_property
    def card(self) -> Card:
        """The kind's card."""
        return card_of(self.kind, CalculatorSettings(kind=self.kind))


@dataclass(frozen=True)
class Inspection:
    """What an environment says of itself.

    Attributes:
        python: its version.
        packages: distribution -> version.
        differing: distribution -> (pinned, found), ``found`` empty where it is missing.
        gpus: that its PyTorch can use.
        problem: why the kind's package cannot be imported; empty where it can.
    """

    python: str
    packages: dict[str, str]
    differing: dict[str, tuple[str, str]]
    gpus: int
    problem: str

    @property
    def ok(self) -> bool:
        """Whether a worker can run here; other versions than the tested ones are no obstacle."""
        return not self.problem


def kinds() -> list[str]:
    """Return the kinds that have pins."""
    return sorted(path.stem for path in PINS.glob("*.txt"))


def pins_file(kind: str) -> Path:
    """Return the requirements file of a kind.

    Raises:
        ConfigError: there is none.
    """
    path = PINS / f"{kind}.txt"
    if not path.is_file():
        raise ConfigError(f"there are no tested versions for an environment '{kind}'{nearest(kind, kinds())}")
    return path


def pins(kind: str) -> dict[str, str]:
    """Return the pinned version of every package of a kind's environment.

    Raises:
        ConfigError: there are no pins for it.
    """
    lines = (line.partition("#")[0].split(";")[0].strip() for line in pins_file(kind).read_text().splitlines())
    return {name: version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


def pinned(card: Card) -> str:
    """Return the package of a kind with the version that its environment gets, which may be another than here."""
    name = card.package.partition("==")[0]
    version = pins(card.kind).get(name) if card.kind in kinds() else None
    return f"{name}=={version}" if version else card.package


def home() -> Path:
    """Return the folder that environments are made in: ``environments`` in the user's data folder."""
    return user_data() / "environments"


def environment(kind: str, folder: Path | None = None) -> Environment:
    """Return the environment of a kind, in a folder of the user's or where environments are made.

    Raises:
        ConfigError: there are no pins for it.
    """
    pins_file(kind)
    return Environment(kind, (folder.expanduser() if folder else home() / kind).absolute())


def create(
    wanted: Environment,
    *,
    python: str | None = None,
    index: str | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Make an environment and install its pins: with uv where it is on PATH, else with venv and pip.

    Args:
        wanted: the environment; one that is made already from the same pins is left as it is.
        python: the interpreter to make it with, this one by default.
        index: URL of a further package index, such as one of pytorch.org with the build for a GPU.
        force: make it anew.
        tell: is called with each line that pip or uv prints.

    Raises:
        ConfigError: the folder holds something else.
        ModelError: the interpreter does not fit, or a package cannot be installed.
    """
    if wanted.made and not wanted.outdated and not force:
        return
    folder = wanted.folder
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(f"{folder}: is not an environment; give another folder")
    base = python or sys.executable
    _fits(wanted.kind, base)
    (folder / _STAMP).unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in _commands(wanted, base, index):
        _run(command, tell)
    with replacing(folder / _STAMP) as draft:
        shutil.copy(pins_file(wanted.kind), draft)


def inspect(kind: str, python: str | Path) -> Inspection:
    """Ask an interpreter for its packages, and import the kind's package there.

    Raises:
        ConfigError: there are no pins for the kind.
        ModelError: the interpreter cannot be run.
    """
    module = card_of(kind, CalculatorSettings(kind=kind)).module
    modules = ["numpy", "ase", *([] if module == "uspex_bridge" else [module])]
    said = _ask(str(python), *modules)
    found = {_canonical(name): version for name, version in said["packages"].items()}
    differing = {
        name: (version, there)
        for name, version in pins(kind).items()
        if _release(there := found.get(_canonical(name), "")) != _release(version)
    }
    return Inspection(said["python"], said["packages"], differing, said.get("gpus", 0), said["problem"])


def families() -> Iterator[tuple[Card, Environment | None]]:
    """Give every kind that takes weights, with its environment where it has pins."""
    pinned = kinds()
    for kind, card in cards().items():
        if card.takes_weights:
            yield card, environment(kind) if kind in pinned else None


def _fits(kind: str, python: str) -> None:
    """Refuse an interpreter older than the pins ask for, in a line ``# python >= 3.12``."""
    found = re.search(r"^# python >= (\d+)\.(\d+)", pins_file(kind).read_text(), re.MULTILINE)
    if not found:
        return
    least = (int(found[1]), int(found[2]))
    version = str(_ask(python)["python"])
    if tuple(map(int, version.split(".")[:2])) < least:
        raise ModelError(
            f"the environment {kind} needs Python {least[0]}.{least[1]} or newer, {python} is {version}; "
            f"name another interpreter with --python"
        )


def _commands(wanted: Environment, base: str, index: str | None) -> Iterator[list[str]]:
    """Give the commands that make an environment, in order."""
    more = ["--extra-index-url", index] if index else []
    requirements = ["-r", str(pins_file(wanted.kind))]
    if uv := shutil.which("uv"):
        yield [uv, "venv", "--quiet", "--clear", "--python", base, str(wanted.folder)]
        # uv takes a package from the first index that has it unless told to look at all of them, as pip does
        strategy = ["--index-strategy", "unsafe-best-match"] if index else []
        yield [uv, "pip", "install", "--python", str(wanted.python), *more, *strategy, *requirements]
    else:
        yield [base, "-m", "venv", "--clear", str(wanted.folder)]
        yield [str(wanted.python), "-m", "pip", "install", "--disable-pip-version-check", *more, *requirements]


def _run(command: Sequence[str], tell: Callable[[str], None]) -> None:
    """Run a command and hand its lines on.

    Raises:
        ModelError: it fails; with the last line that shows the reason.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise ModelError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    lines: list[str] = []
    with process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            tell(lines[-1])
    if process.returncode:
        said = [line for line in lines if re.match(r"\s*(ERROR|error|×|╰)", line)] or [line for line in lines if line]
        reason = " ".join(said[-1].split()) if said else "it said nothing"
        raise ModelError(f"{' '.join(command[:4])} ... failed: {reason[:500]}")


def _ask(python: str, *modules: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")}
    try:
        done = subprocess.run(
            [python, "-c", _ASK, *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
            env=clean,
            check=False,
        )
        said: dict[str, Any] = json.loads(done.stdout)
    except OSError as error:
        raise ModelError(f"{python}: cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        imported = f" (importing {', '.join(modules)})" if modules else ""
        raise ModelError(f"{python}: gave no answer within {START_TIMEOUT:g} s{imported}") from None
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with exit code {done.returncode}"]
        raise ModelError(f"{python}: does not answer: {last[0]}") from None
    return said


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> str:
    """Return a version without the name of its build: 2.13.0+cpu is 2.13.0."""
    return version.partition("+")[0]
