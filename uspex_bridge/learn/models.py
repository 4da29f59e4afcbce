"""Models as a user names them: a calculator of the settings, KIND:WEIGHTS, or the folder of a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from uspex_bridge.cards import CalculatorSettings
from uspex_bridge.config import Config
from uspex_bridge.errors import ModelError

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


def _of_training(folder: Path, config: Config) -> CalculatorSettings:
    card_file = folder / CARD
    if not card_file.is_file():
        raise ModelError(f"{folder}: there is no {CARD}: no training has ended there")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
        return replace(
            config.settings_of(card["kind"]),
            kind=card["kind"],
            model=str((folder / card["model"]).resolve()),
            sha256=card["sha256"],
            head=card["head"],
            elements=tuple(card["elements"]),
        )
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{card_file}: not a model's card: {error}") from None
