"""Which kinds of models are here, and which of the weights that go by a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from uspex_bridge.base.errors import ModelError
from uspex_bridge.models import environments, inventory, registry
from uspex_bridge.models.cards import CalculatorSettings, Card, KnownModel
from uspex_bridge.models.weights import fetch_command, models_folder


def families() -> list[dict[str, Any]]:
    """Describe every kind of model: whether its package is here or in an environment, and what its code was run on."""
    found = []
    for card, environment in environments.families():
        made = environment is not None and environment.made
        found.append(
            {
                "kind": card.kind,
                "title": card.title,
                "package": card.package,
                "installed": registry.package_version(card),
                "environment": str(environment.folder) if environment and made else None,
                "get": f"uspex-bridge env create {card.kind}" if environment else card.install,
                "verified": card.verified,
                "licence": card.licence,
                "citation": card.citation,
            }
        )
    return found


def known_models() -> Iterator[dict[str, Any]]:
    """Describe all weights that go by a name: where they lie, or how to get them."""
    for kind, card in inventory.cards().items():
        installed = registry.package_version(card)
        for known in card.models:
            yield {
                "kind": kind,
                "model": known.name,
                "package": card.package,
                "installed": installed,
                "install": card.install,
                "size_mb": known.size_mb,
                "licence": known.licence or "on its page",
                "note": known.note,
                **_place(kind, card, known),
            }


def _place(kind: str, card: Card, known: KnownModel) -> dict[str, Any]:
    """Return where known weights lie; ``looked_in`` is the search's own account of a failure."""
    get = card.install if known.in_wheel else known.get or fetch_command(card, known.name)
    try:
        found = inventory.find_weights(kind, CalculatorSettings(kind=kind, model=known.name))
    except ModelError as error:
        looked = re.search(r"looked for .*? in (.*?); get", str(error))
        return {"path": None, "get": get, "problem": str(error), "looked_in": looked[1].split(", ") if looked else []}
    return {"path": str(found.path) if found.path else None, "get": "", "problem": "", "looked_in": []}


def said(kinds: list[dict[str, Any]], models: list[dict[str, Any]]) -> Iterator[tuple[Literal["ok", "note"], str]]:
    """Say of each kind in a line or two what is there, and how to get its first weights.

    Args:
        kinds: as :func:`families` describes them.
        models: as :func:`known_models` describes them.
    """
    absent = []
    for kind in kinds:
        own = [model for model in models if model["kind"] == kind["kind"]]
        here = [describe(model) for model in own if not model["problem"]]
        title = kind["title"]
        if kind["environment"] and not kind["installed"]:
            title = f"{title}, in its environment"
        elif not kind["installed"]:
            absent.append(kind)
            continue
        if here:
            yield "ok", f"{title}: " + ", ".join(here)
        elif own:
            first = own[0]
            more = f" ({len(own) - 1} more: --models)" if len(own) > 1 else ""
            yield "note", f"{title}: no known weights are here; get {describe(first)}{more}: {first['get']}"
        else:
            yield "note", f"{title}: name your weights in bridge.toml"
    if any(model["problem"] for model in models):
        yield "note", f"weights are looked for in {models_folder()}/KIND first, then where the packages keep them"
    for get in dict.fromkeys(kind["get"] for kind in absent if not _by_env(kind)):
        yield "note", f"{', '.join(k['title'] for k in absent if k['get'] == get)} is not installed: {get}"
    if several := [kind for kind in absent if _by_env(kind)]:
        names = ", ".join(f"{kind['title']} ({kind['kind']})" for kind in several)
        yield "note", f"not installed: {names}; uspex-bridge env create KIND installs one"


def _by_env(kind: dict[str, Any]) -> bool:
    return bool(kind["get"] == f"uspex-bridge env create {kind['kind']}")


def describe(model: dict[str, Any]) -> str:
    """Return a known model's name, size and licence."""
    facts = ([f"{model['size_mb']:g} MB"] if model["size_mb"] else []) + (
        [model["licence"]] if model["licence"] else []
    )
    return str(model["model"]) + (f" ({', '.join(facts)})" if facts else "")
