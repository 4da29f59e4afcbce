"""What a check of a set-up says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that a user would want to know about a set-up.

    Attributes:
        severity: ``error`` where the search would stop or give wrong results, ``warning`` where it would hardly do
            what is meant, ``note`` where there is something to know.
        file: the file, relative to the set-up's folder.
        line: its line, from 1, where there is one to point at.
        remedy: what to do; empty where the message says it.
    """

    severity: Severity
    file: str
    line: int | None
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{self.severity}: {place}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def in_order(findings: list[Finding]) -> list[Finding]:
    """Return the findings without repetitions, errors first, then by file and line."""
    unique = list(dict.fromkeys(findings))
    return sorted(unique, key=lambda found: (_ORDER.index(found.severity), found.file, found.line or 0))


def relative(path: Path, folder: Path) -> str:
    """Return a path as seen from ``folder``, where it lies below it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
