"""Which protocol a search runs with, and that it is one and the same, with the same models, from start to end."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import BridgeError, ConfigError, ModelError, OutputError
from uspex_bridge.base.files import write_whole
from uspex_bridge.call.config import Config, read_config
from uspex_bridge.call.record_tail import RecordTail
from uspex_bridge.call.student import STUDENT
from uspex_bridge.models import inventory
from uspex_bridge.relaxation.protocol import FreeEnergyStep, Plan, Protocol, load_protocol

#: What ``auto`` decided for a search, beside its record.
FILENAME = "bridge.auto"


def choose_protocol(config: Config) -> tuple[Protocol, str]:
    """Return the configured protocol, and a line to tell the user where ``auto`` had to choose.

    ``auto`` takes ``paper`` if the weights of its calculators are found, else ``embedded``.

    Raises:
        ConfigError: there is no such protocol.
        ModelError: ``auto`` would pass over a model that the settings name, since it is not there.
    """
    if config.protocol != "auto":
        try:
            protocol = load_protocol(config.protocol, Path(config.base or "."))
        except ConfigError as error:
            if _is_configured(config):
                raise ConfigError(f"{config.source}: {error}") from None
            raise
        if STUDENT not in protocol.calculators[:-1]:
            _refuse_student(config)
        return protocol, ""
    _refuse_student(config)
    paper = load_protocol("paper")
    missing = []
    for name in paper.calculators:
        status = inventory.available(name, config.settings_of(name))
        if not status.ok and _is_named(name, config):
            raise ModelError(f"{name}: {status.problem}")
        if not status.ok:
            missing.append(name)
    if not missing:
        return paper, ""
    notice = (
        f"protocol 'embedded' (CHGNet) is used: no weights of {' and '.join(missing)} (protocol 'paper') are found; "
        '`uspex-bridge doctor` shows how to get them; protocol = "embedded" removes this note'
    )
    return load_protocol("embedded"), notice


def _is_configured(config: Config) -> bool:
    """Tell whether the protocol is that of the settings file, and not one named instead of it."""
    return bool(config.source) and read_config(Path(config.source)).protocol == config.protocol


def _refuse_student(config: Config) -> None:
    """Refuse settings that ask for an automatic student, and for a protocol that would never use it."""
    if config.student.distill == "auto" and _is_configured(config):
        raise ConfigError(
            f"{config.source}: protocol '{config.protocol}' has no stage of the calculator '{STUDENT}' before its "
            'last, which [student] distill = "auto" is for; protocol = "student" has'
        )


def settled_protocol(config: Config, search: Path) -> tuple[Protocol, str]:
    """Return the protocol of a search; what ``auto`` decides is written beside the search's record for later calls.

    Args:
        config: settings.
        search: folder of the record.

    Raises:
        ConfigError: there is no such protocol.
        ModelError: a model that the settings name, or that the search began with, is not there.
    """
    if config.protocol != "auto":
        return choose_protocol(config)
    decided = search / FILENAME
    for again in (False, True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            name = str(jsonl.loads(decided.read_text(encoding="utf-8"))["protocol"])
            return _as_begun(load_protocol(name), config, decided), ""
        protocol, notice = choose_protocol(config)
        text = json.dumps({"protocol": protocol.name, "calculators": protocol.calculators}) + "\n"
        try:
            if again and not decided.is_symlink():  # whoever began it was killed
                write_whole(decided, text)
            else:
                with decided.open("x", encoding="utf-8") as stream:
                    stream.write(text)
        except FileExistsError:  # a call beside this one was first
            continue
        except (OSError, OutputError):  # what cannot be kept is decided anew: the record is compared besides
            pass
        return protocol, notice
    return protocol, notice


def check_unchanged(plan: Plan, config: Config, tail: RecordTail, step: str | None, log: logging.Logger) -> None:
    """Check that the latest result of the same step at the end of a search's record is of these models.

    A model whose energies do not count, that of an earlier stage, may change.

    Raises:
        ConfigError: it has others, and the settings do not accept that.
    """
    before = tail.latest_result(step)
    if before is None:
        return
    changes = [] if before.get("protocol") == plan.protocol else [f"protocol '{before.get('protocol')}'"]
    if step is not None:  # else it may be another step, one without a free energy
        changes += _other_free_energy(before.get("free_energy"), plan.free_energy)
    last = plan.stages[-1].calculator
    if not changes and step is not None and last not in before["models"]:  # the protocol of this name was another one
        changes.append(_said(*list(before["models"].items())[-1]))
    for name, known in before["models"].items():
        if name == last:
            changes += _changes(name, known, config)
        elif name == STUDENT and config.student.distill == "auto":
            continue
        elif any(name == stage.calculator for stage in plan.stages) and (other := _changes(name, known, config)):
            log.warning("%s: %s before; its energies do not count, so the search goes on", tail.path, other[0])
    if not changes:
        return
    said = f"{tail.path} holds results of {' and '.join(changes)}, "
    if changes[0].startswith("protocol"):
        said += f"and the settings now give protocol '{plan.protocol}'"
    else:
        said += f"but protocol '{plan.protocol}' now has other models"
    if config.on_change == "accept":
        log.warning("%s; accepted by on_change", said)
        return
    raise ConfigError(
        f"{said}; enthalpies of different models cannot be compared in one search: restore the settings, move the "
        'record to start again, or set on_change = "accept"'
    )


def _other_free_energy(before: dict[str, Any] | None, asked: FreeEnergyStep | None) -> list[str]:
    """Return what the record holds, enthalpies or free energies, where now others are asked for."""
    was = (before["temperature"], before["method"]) if before else None
    now = (asked.temperature, asked.method) if asked else None
    if was == now:
        return []
    return [f"free energies at {was[0]:g} K ({was[1]})" if was else "enthalpies without free energy"]


def _is_named(name: str, config: Config) -> bool:
    """Tell whether the settings name what the calculator is, rather than leave it to the defaults."""
    settings = config.calculators.get(name)
    return settings is not None and bool(settings.model or settings.python or settings.kind or settings.sha256)


def _as_begun(protocol: Protocol, config: Config, decided: Path) -> Protocol:
    for name in protocol.calculators:
        status = inventory.available(name, config.settings_of(name))
        if not status.ok:
            raise ModelError(
                f"{decided}: this search began with protocol '{protocol.name}', but {name} is missing now: "
                f"{status.problem}"
            )
    return protocol


def _changes(name: str, known: dict[str, Any], config: Config) -> list[str]:
    """Return the model that a calculator was in the record, where it is another one now."""
    settings = config.settings_of(name)
    try:
        kind = inventory.card_of(name, settings).kind
        found = inventory.find_weights(name, settings)
        now = {"kind": kind, "sha256": found.sha256, "head": settings.head}
    except BridgeError:  # what is wrong shows when it is loaded; an environment of its own is not asked
        return []
    if all(known.get(key) in (None, value) or value is None for key, value in now.items()):
        return []
    return [_said(name, known)]


def _said(name: str, known: dict[str, Any]) -> str:
    words = (known.get("kind"), known.get("weights") or known.get("model"), str(known.get("sha256") or "")[:8])
    return f"{name} = {' '.join(str(word) for word in words if word)}"
