"""The inventory of calculators: which there are, whether one will run, where its weights are and on what it will run.

No calculator's heavy package is imported here; :mod:`uspex_bridge.models.backends` loads one.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uspex_bridge.base.errors import BridgeError, ConfigError, ModelError
from uspex_bridge.models import weights
from uspex_bridge.models.cards import CalculatorSettings, Card
from uspex_bridge.models.registry import BUILT_IN, GROUP, maker_of, package_version
from uspex_bridge.models.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Whether a calculator will run; ``problem`` is empty where it will.

    Attributes:
        name: of the calculator in the configuration.
        version: of its package, None where that is not installed.
        weights: what was found of them.
        python: the other interpreter it runs in, where one is named.
    """

    name: str
    card: Card
    version: str | None
    weights: Weights | None
    problem: str = ""
    python: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it will run, as far as can be told without loading it."""
        return not self.problem


def cards() -> dict[str, Card]:
    """Return the card of every kind there is, the bridge's own first; a broken plug-in is left out with a warning."""
    found = {kind: maker_of(kind).card for kind in BUILT_IN}
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name not in found:
            try:
                found[point.name] = maker_of(point.name).card
            except BridgeError as error:
                log.warning("%s", error)
    return found


def card_of(name: str, settings: CalculatorSettings) -> Card:
    """Return the card of the calculator ``name``.

    Raises:
        ConfigError: there is no such kind.
        ModelError: a plug-in cannot be imported.
    """
    return maker_of(settings.kind or name).card


def find_weights(name: str, settings: CalculatorSettings) -> Weights:
    """Find the weights of the calculator ``name`` as this environment sees them.

    See :func:`uspex_bridge.models.weights.find`.

    Raises:
        ConfigError: there is no such kind.
        ModelError: there are none, or the wrong ones.
    """
    return weights.find(card_of(name, settings), settings, name)


def fetch(
    kind: str,
    model: str,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download a known model or a URL and return the file; see :func:`uspex_bridge.models.weights.fetch`.

    Raises:
        ConfigError: there is no such kind.
        ModelError: it could not be fetched.
    """
    return weights.fetch(maker_of(kind).card, model, sha256, progress=progress)


def available(name: str, settings: CalculatorSettings) -> Status:
    """Tell whether a calculator's package and weights are there, without importing either.

    One that runs in another interpreter is asked about there.

    Raises:
        ConfigError: there is no such kind.
    """
    try:
        card, problem = card_of(name, settings), ""
    except ModelError as error:  # a plug-in that is broken, or that only the other environment has
        kind = settings.kind or name
        card, problem = Card(kind, kind, kind, kind, f"install {kind}"), str(error)
    if settings.python is not None:
        return _available_elsewhere(name, settings, card)
    version, found = package_version(card), None
    if version is None and not problem:
        problem = f"{card.title} is not installed; install it with: {card.install}"
    try:
        found = weights.find(card, settings, name)
    except ModelError as error:
        problem = problem or str(error)
    return Status(name, card, version, found, problem)


def _available_elsewhere(name: str, settings: CalculatorSettings, card: Card) -> Status:
    from uspex_bridge.models.worker import START_TIMEOUT, ModelProcess, message

    try:
        worker = ModelProcess(settings.python)
        try:
            answer = worker.request(message("status", name, settings), START_TIMEOUT)
        finally:
            worker.close()
    except BridgeError as error:
        return Status(name, card, None, None, str(error), settings.python)
    path, model = answer["path"], answer["model"]
    there = Weights(model, Path(path) if path else None, card.known(model)) if model else None
    return Status(name, card, answer["version"], there, answer["problem"], settings.python)


def resolve_device(card: Card, asked: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for what a user asked for.

    Raises:
        ConfigError: not a device's name.
        ModelError: a GPU that is not there, or that this kind cannot use.
    """
    wanted = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", asked)
    if not wanted:
        raise ConfigError(f"device = '{asked}' is not one of auto, cpu, cuda, cuda:N")
    if asked == "cpu" or "cuda" not in card.devices:
        if asked.startswith("cuda"):
            raise ModelError(f"{card.kind} runs on the CPU only; set device = 'auto' or 'cpu'")
        return "cpu"
    index, count = int(wanted[1] or 0), _gpu_count()
    if asked == "auto" and count == 0:
        return "cpu"
    if index >= count:
        has = f"{count} GPU(s)" if count else "no GPU that PyTorch can use"
        raise ModelError(
            f"device = '{asked}' for {card.kind}, but this machine has {has}; set device = 'auto' or 'cpu'"
        )
    return f"cuda:{index}"


def device_of(name: str, settings: CalculatorSettings) -> str:
    """Return the device that the calculator ``name`` will run on: ``cpu`` or ``cuda:N``.

    One in another interpreter is on a GPU only if its settings say so; it is not asked.

    Raises:
        ConfigError: there is no such kind or device.
        ModelError: the device is not there.
    """
    if settings.python is None:
        return resolve_device(card_of(name, settings), settings.device)
    return {"cuda": "cuda:0", "auto": "cpu"}.get(settings.device, settings.device)


def _gpu_count() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
