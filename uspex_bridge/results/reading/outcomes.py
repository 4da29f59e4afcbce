"""What the bridge's record says of a whole search: how its calls ended, why some failed, and what computed them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uspex_bridge.call import record_reading
from uspex_bridge.call.record_line import ending


@dataclass(frozen=True)
class Failure:
    """Calls that ended for one reason.

    Attributes:
        status: ``rejected``, ``failed``, ``penalty``.
        code: guard's or error's name.
        calls: how many.
        formulas: the commonest compositions of them, at most three.
        example: the message of the first one.
    """

    status: str
    code: str
    calls: int
    formulas: tuple[str, ...]
    example: str


@dataclass(frozen=True)
class Outcomes:
    """A record in numbers.

    Attributes:
        calls: lines that say how they ended.
        status: status, or ``single point`` -> calls.
        flags: flag -> calls.
        failures: the commonest first.
        models: name of a calculator -> its identity, of all that was used.
        students: name of the automatic student, or why there was none -> structures; empty where none is trained.
        accepted: calculators that were used although they do not hold to the search's pressure.
        protocols, versions: what occurs, the commonest first.
        seconds: wall time of all calls.
    """

    calls: int
    status: dict[str, int]
    flags: dict[str, int]
    failures: tuple[Failure, ...]
    models: tuple[dict[str, Any], ...]
    protocols: tuple[str, ...]
    versions: tuple[str, ...]
    seconds: float
    accepted: tuple[str, ...] = ()
    students: dict[str, int] = field(default_factory=dict)


def read_outcomes(path: Path) -> Outcomes:
    """Count the lines of a record; those without a status are passed over."""
    status: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    formulas: dict[tuple[str, str], Counter[str]] = {}
    examples: dict[tuple[str, str], str] = {}
    models: dict[str, dict[str, Any]] = {}
    protocols: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    accepted: dict[str, None] = {}
    students: Counter[str] = Counter()
    seconds = 0.0
    for line in record_reading.read(path):
        if not line.get("status"):
            continue
        status[ending(line)] += 1
        flags.update(line.get("flags") or ())
        accepted |= dict.fromkeys(line.get("accepted_range") or ())
        seconds += float(line.get("seconds") or 0.0)
        students.update([str(line["student"])] if line.get("student") else ())
        protocols[str(line.get("protocol") or "")] += 1
        versions[str((line.get("versions") or {}).get("uspex_bridge") or "")] += 1
        for identity in (line.get("models") or {}).values():
            models[str(sorted(identity.items()))] = identity
        if line.get("code"):
            reason = (line["status"], str(line["code"]))
            reasons[reason] += 1
            formulas.setdefault(reason, Counter())[str(line.get("formula", ""))] += 1
            examples.setdefault(reason, str(line.get("reason", "")))
    failures = tuple(
        Failure(*reason, calls, tuple(name for name, _ in formulas[reason].most_common(3)), examples[reason])
        for reason, calls in reasons.most_common()
    )
    return Outcomes(
        calls=sum(status.values()),
        status=dict(status.most_common()),
        flags=dict(flags.most_common()),
        failures=failures,
        models=tuple(models.values()),
        protocols=tuple(name for name, _ in protocols.most_common() if name),
        versions=tuple(name for name, _ in versions.most_common() if name),
        seconds=seconds,
        accepted=tuple(accepted),
        students=dict(sorted(students.items())),
    )
