"""Closed configuration: TOML tables into frozen dataclasses, unknown keys refused with the nearest right one."""

from __future__ import annotations

import difflib
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from uspex_bridge.base.errors import ConfigError

T = TypeVar("T")


#: Types as messages call them.
_SAID: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: 'text in quotes ("...")',
    dict: "a table",
    tuple: "a list",
}


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to ``word``, or the list of known words."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(choices)}"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML.
    """
    import tomllib  # here, so that a worker in a Python 3.10 environment can import this module

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        hint = "; text needs quotes" if "Invalid value" in str(error) else ""
        raise ConfigError(f"{path}: not valid TOML: {error}{hint}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make the frozen dataclass ``cls`` from a TOML ``table``; ``where`` names the place in messages.

    Numbers given as integers become floats where a float is declared; lists become tuples.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {table!r} is not a table")
    hints = _hints(cls)  # type: ignore[arg-type]
    declared = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in declared:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(key, declared)}")
    for name, spec in declared.items():
        if name not in table and spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"{where}: key '{name}' is missing")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the declared types of a dataclass; finding them takes longer than all the rest."""
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        errors = []
        for option in args:
            try:
                return _convert(option, value, where)
            except ConfigError as error:
                errors.append(str(error))
        raise ConfigError(errors[0])
    if origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} = {value!r} is not one of {', '.join(map(repr, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        items = args[:1] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(items) != len(value):
            raise ConfigError(f"{where} needs {len(items)} values, not {len(value)}")
        return tuple(_convert(item, v, where) for item, v in zip(items, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any or (hint is type(None) and value is None):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    kind = origin or hint
    raise ConfigError(f"{where} = {value!r} is not {_SAID.get(kind, getattr(kind, '__name__', str(kind)))}")
