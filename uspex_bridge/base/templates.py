"""The text files in ``templates/``.

Placeholders are written ``@{name}``, so that shell scripts and INPUT.txt keep their own ``$`` and ``%``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path

from uspex_bridge.base.errors import ConfigError

TEMPLATES = Path(__file__).parents[1] / "templates"


class _Text(string.Template):
    """``@{name}`` and nothing else is a placeholder; a lone @ stays."""

    delimiter = "@"
    pattern = r"@(?:\{(?P<braced>[a-z_]+)\}|(?P<named>(?!))|(?P<escaped>(?!))|(?P<invalid>(?!)))"  # type: ignore[assignment]


def render(name: str, values: Mapping[str, object]) -> str:
    """Fill in the template ``name`` (a path below ``templates/``).

    Raises:
        ConfigError: there is no such template.
        KeyError: a placeholder has no value.
    """
    path = TEMPLATES / name
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no template {name}; the installation is incomplete") from None
    return _Text(text).substitute(values)
