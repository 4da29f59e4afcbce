"""Models as a user names them: a calculator of the settings, KIND:WEIGHTS, or the folder of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import ModelError
from uspex_bridge.call.config import Config
from uspex_bridge.models import inventory
from uspex_bridge.models.cards import CalculatorSettings

#: The card of a finished model.
CARD = "model.json"


def settings_for(name: str, config: Config) -> CalculatorSettings:
    """Return the settings of a model.

    Args:
        name: a calculator's name in bridge.toml, ``KIND:WEIGHTS``, or a folder that ``uspex-bridge train`` filled.
        config: the settings.

    Raises:
        ModelError: the folder's training has not ended, or its card cannot be read.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_training(folder, config)
    kind, _, weights = name.partition(":")
    settings = config.settings_of(kind)
    return replace(settings, kind=settings.kind or kind, model=weights or settings.model)


def with_model(config: Config, model: str) -> Config:
    """Return settings in which the protocol ``single`` runs on one model.

    Args:
        config: the settings.
        model: a calculator's name, ``KIND:WEIGHTS`` or the folder of a training.

    Raises:
        ConfigError: there is no such kind.
        ModelError: the weights are not there, or the folder's training has not ended.
    """
    settings = settings_for(model, config)
    if settings.python is None or (
        settings.model is None and inventory.card_of(settings.kind, settings).model_required
    ):
        inventory.find_weights(settings.kind, settings)  # here its message names the kind, not the protocol's "model"
    return replace(config, protocol="single", calculators={**config.calculators, "model": settings})


def start_of(name: str) -> tuple[str, str | None]:
    """Return the file that a further training starts from, and its head where the file may have several.

    Args:
        name: a file or a known name, which is returned as it is, or a folder that ``uspex-bridge train`` filled.

    Raises:
        ModelError: the folder's training has not ended, or its card cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name, None
    with _card(folder) as card:
        return str(folder / (card["checkpoint"] or card["model"])), card["head"]


def _of_training(folder: Path, config: Config) -> CalculatorSettings:
    with _card(folder) as card:
        return replace(
            config.settings_of(card["kind"]),
            kind=card["kind"],
            model=str((folder / card["model"]).resolve()),
            sha256=card["sha256"],
            head=card["head"],
            elements=tuple(card["elements"]),
        )


@contextmanager
def _card(folder: Path) -> Iterator[dict[str, Any]]:
    """Give the card of a training's folder; what the block finds wrong in it is a ModelError."""
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder}: there is no {CARD}: no training has ended there")
    try:
        yield jsonl.loads(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{path}: not a model's card: {error}") from None
