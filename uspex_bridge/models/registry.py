"""The registry of calculators: strings, until one is asked about; then its file is imported, not its heavy package."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import uspex_bridge
from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.schema import nearest
from uspex_bridge.models.cards import Batch, BuildRequest, Card

#: Kinds that come with the bridge and the modules they live in.
BUILT_IN = {
    kind: f"uspex_bridge.calculators.{kind.replace('-', '_')}"
    for kind in (
        *("mace", "mattersim", "deepmd", "sevennet", "chgnet", "chgnet-hp"),
        *("orb", "nequip", "matgl", "fairchem", "upet", "grace", "nep", "toy"),
    )
}
#: Entry-point group in which other packages offer calculators: a module with CARD and build, or a function.
GROUP = "uspex_bridge.calculators"


@dataclass(frozen=True)
class Maker:
    """A kind of calculator with the functions of its file; a bare factory has only ``build``."""

    card: Card
    build: Callable[[BuildRequest], Any]
    batch: Callable[[Any], Batch | None] = field(default=lambda calculator: None)
    elements: Callable[[Any], frozenset[str] | None] = field(default=lambda calculator: None)
    own_process: Callable[[BuildRequest], bool] = field(default=lambda request: False)


def maker_of(kind: str) -> Maker:
    """Import the file of a kind.

    Raises:
        ConfigError: there is no such kind.
        ModelError: a plug-in cannot be imported, or lacks what a calculator's file has.
    """
    if kind in BUILT_IN:
        return _from_module(importlib.import_module(BUILT_IN[kind]), kind)
    points = [point for point in importlib.metadata.entry_points(group=GROUP) if point.name == kind]
    target = points[0].value if points else kind
    if ":" not in target and not points:
        known = [*BUILT_IN, *(point.name for point in importlib.metadata.entry_points(group=GROUP))]
        raise ConfigError(
            f"there is no calculator '{kind}'{nearest(kind, known)} (a name of your own needs [calculators.{kind}] "
            f"with kind and model in bridge.toml)"
        )
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
        if not attribute:
            return _from_module(module, kind)
        factory = getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"calculator '{kind}': {target} cannot be imported: {error}") from error
    if isinstance(factory, ModuleType):
        return _from_module(factory, kind)
    package = module_name.partition(".")[0]
    plain = Card(kind, kind, package, package, f"make {module_name} importable", dtypes=(), head="head")
    return Maker(getattr(factory, "CARD", plain), factory)


def _from_module(module: ModuleType, kind: str) -> Maker:
    try:
        maker = Maker(module.CARD, module.build)
    except AttributeError as error:
        raise ModelError(f"calculator '{kind}': {error}; a calculator's module has CARD and build") from None
    extra = {name: getattr(module, name) for name in ("batch", "elements", "own_process") if hasattr(module, name)}
    return Maker(maker.card, maker.build, **extra)


def package_version(card: Card) -> str | None:
    """Return the installed version of a card's package without importing it, None where it is not installed."""
    if card.module == "uspex_bridge":
        return uspex_bridge.__version__
    if card.module not in sys.modules:
        try:
            if importlib.util.find_spec(card.module) is None:
                return None
        except (ImportError, ValueError):
            return None
    try:
        return importlib.metadata.version(re.split(r"[=<>!~ \[]", card.package, maxsplit=1)[0])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
