"""INCAR: read as VASP reads it, and turned into what it asks for. ``docs/incar.md`` shows the table to users."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import split_lines
from uspex_bridge.base.units import kbar_to_gpa
from uspex_bridge.vasp.text import fortran_number

#: Tags that change what the bridge does; every other one is accepted and ignored.
HONOURED = (
    "NSW",
    "IBRION",
    "ISIF",
    "EDIFFG",
    "PSTRESS",
    "NELM",
    "ISYM",
    "SYMPREC",
    "BRIDGE_STAGES",
    "BRIDGE_TEMPERATURE",
)
#: A tag as like to one that counts is taken for a slip of the pen, but for VASP's own.
_MISSPELT, _NEAR = 0.9, ("EDIFF",)
_SETTING = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(.*?)\s*", re.DOTALL)
#: Something that was meant to be a setting, which VASP passes over: ``ISIF: 3``, ``ISIF 3``, another sign than ``=``.
_NO_SETTING = re.compile(r"\s*([A-Za-z]\w*)\s*(?::\s*\S|[^\w\s=,.]+\s*[-+.\d]|\s[-+.\d]).*", re.DOTALL)
_PSTRESS = re.compile(r"PSTRESS\s*=", re.IGNORECASE)
#: What USPEX appends, stuck to a comment (glued to its last word, so that nobody can have meant it as a comment).
_GLUED_COMMENT = re.compile(r"[^#!\s](PSTRESS=[-+.\dEeDd]+)\s*$", re.IGNORECASE)
_RELAXING = (1, 2, 3)
_OTHER_TASKS = {
    0: "molecular dynamics",
    5: "finite-difference phonons",
    6: "finite-difference phonons",
    7: "perturbation-theory phonons",
    8: "perturbation-theory phonons",
    40: "a reaction path",
    44: "the dimer method",
}


@dataclass
class _Scan:
    """All settings of a file: tag -> values in order, each with its line; and remarks on how it was read.

    ``missed`` are statements that name a tag that counts, yet set nothing.
    """

    values: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missed: list[tuple[str, int]] = field(default_factory=list)

    def add(self, statement: str, line: int) -> None:
        merged = _PSTRESS.search(statement)
        if merged and statement[: merged.start()].strip():
            self.notes.append(
                f"line {line}: '{statement.strip()}' read as two settings, "
                "since PSTRESS was appended to a line without a newline; end INCAR with one"
            )
            self.add(statement[: merged.start()], line)
            statement = statement[merged.start() :]
        match = _SETTING.fullmatch(statement)
        if not match:
            near = _NO_SETTING.fullmatch(statement)
            if near and near[1].upper() in HONOURED:
                self.missed.append((statement.strip(), line))
            elif "=" in statement:
                self.notes.append(f"line {line}: '{statement.strip()}' is not a setting")
            return
        tag, value = match[1].upper(), match[2]
        self.values.setdefault(tag, []).append((value, line))
        second = re.search(r"\b([A-Za-z]\w*)\s*=", value)
        if second and second[1].upper() in HONOURED:
            self.notes.append(f"line {line}: {second[1].upper()} after {tag} is not read; put a ';' between them")


def parse_incar(text: str) -> dict[str, str]:
    """Read the settings of an INCAR: upper-case tag -> value as written.

    Settings may be joined by ``;``, comments start with ``#`` or ``!``, a backslash continues a line. Of a tag given
    more than once the last value counts, since USPEX appends its own at the end. PSTRESS that USPEX appended to a
    last line without newline (``NSW=10PSTRESS=125``) is found, and so is the value that it stuck to.
    """
    return {tag: values[-1][0] for tag, values in _scan(text).values.items()}


def stop_asked(stopcar: str) -> bool:
    """Tell whether a STOPCAR asks to stop, at the next ionic (LSTOP) or electronic step (LABORT)."""
    given = parse_incar(stopcar)
    return any(given.get(tag, "").lstrip(".").upper().startswith("T") for tag in ("LSTOP", "LABORT"))


def intent_from_incar(text: str, path: Path | str) -> Intent:
    """Turn an INCAR into what it asks for; absent tags have the defaults of VASP's manual.

    Args:
        text: the whole file.
        path: its name, for messages.

    Raises:
        InputError: a tag has no meaning to a relaxation, or a value is not what the tag needs.
    """
    scan = _scan(text)
    for statement, line in scan.missed:
        raise InputError(f"{path}, line {line}: '{statement}' is not a setting; a setting is written TAG = value")
    reader = _Reader(scan, str(path))
    nsw = reader.integer("NSW", 0)
    if nsw < -1:
        raise reader.wrong("NSW", "it must be 0 (single point) or the largest number of ionic steps")
    nsw = max(nsw, 0)
    nelm = reader.integer("NELM", 60)
    if nelm < 2:
        scan.notes.append(f"NELM = {nelm} raised to 2: the files show one electronic step, and readers want fewer")
    ediffg = reader.number("EDIFFG")
    if ediffg == 0:
        scan.notes.append("EDIFFG = 0 (never stop before NSW) is ignored")
    symprec = reader.number("SYMPREC")
    if symprec is not None and symprec <= 0:
        raise reader.wrong("SYMPREC", "it must be positive")
    reader.refuse_units("PSTRESS", "kbar (10 kbar = 1 GPa)", ("gpa", "mpa", "pa", "mbar", "bar", "atm"))
    reader.refuse_units("BRIDGE_TEMPERATURE", "K", ("c", "°c", "f", "°f", "ev"))
    temperature = reader.number("BRIDGE_TEMPERATURE")
    if temperature is not None and temperature < 0:
        raise reader.wrong("BRIDGE_TEMPERATURE", "it must not be negative, K")
    return Intent(
        isif=_isif(reader),
        nsw=nsw,
        ibrion=_ibrion(reader, nsw),
        ediffg=ediffg or None,
        pressure_gpa=kbar_to_gpa(reader.number("PSTRESS") or 0.0),
        keep_symmetry=reader.integer("ISYM", 0) >= 1,
        symprec=symprec,
        nelm=max(nelm, 2),
        stages=_stages(reader),
        temperature=temperature,
        ignored=tuple(tag for tag in scan.values if tag not in HONOURED),
        notes=tuple(scan.notes),
    )


def _scan(text: str) -> _Scan:
    scan = _Scan()
    for statement, line in _statements(text, scan.notes):
        scan.add(statement, line)
    for tag, values in scan.values.items():
        if tag in HONOURED and len({value for value, _ in values}) > 1:
            lines = ", ".join(str(line) for _, line in values)
            scan.notes.append(f"{tag} is given more than once (lines {lines}); the last value, {values[-1][0]}, counts")
        if tag in HONOURED and re.fullmatch(r"\S+\s+[-+.\d].*", values[-1][0]):
            scan.notes.append(f"line {values[-1][1]}: of {tag} = {values[-1][0]} only the first number is read")
        near = [] if tag in (*HONOURED, *_NEAR) else difflib.get_close_matches(tag, HONOURED, 1, _MISSPELT)
        scan.notes += [f"line {values[-1][1]}: {tag} is not read; write {meant} if that is meant" for meant in near]
    return scan


def _statements(text: str, notes: list[str]) -> Iterator[tuple[str, int]]:
    """Yield each setting with its line number: comments removed, continued lines joined, ``;`` split."""
    pending, first = "", 0
    lines = split_lines(text)
    for number, line in enumerate(lines, 1):
        start = re.search(r"[#!]", line)
        body, comment = (line[: start.start()], line[start.start() :]) if start else (line, "")
        pending, first = pending + body.rstrip(), first or number
        if pending.endswith("\\") and number < len(lines):
            pending = pending[:-1] + " "
            continue
        for statement in pending.rstrip("\\").split(";"):
            yield statement, first
        pending, first = "", 0
        if glued := _GLUED_COMMENT.search(comment):
            notes.append(
                f"line {number}: {glued[1]} read out of a comment that it was appended to; end INCAR with a newline"
            )
            yield glued[1], number
        elif _PSTRESS.search(comment):
            notes.append(f"line {number}: PSTRESS in a comment is not read")


@dataclass(frozen=True)
class _Reader:
    """Typed access to the last value of each tag."""

    scan: _Scan
    path: str

    def word(self, tag: str) -> str | None:
        """Return the first word of a tag's value, "" where there is none, None where the tag is absent."""
        if tag not in self.scan.values:
            return None
        return (self.scan.values[tag][-1][0].split() or [""])[0]

    def number(self, tag: str) -> float | None:
        word = self.word(tag)
        if word is None:
            return None
        try:
            return fortran_number(word)
        except ValueError as error:
            raise self.wrong(tag, f"{error}; write a number such as 125 or 1.0E-02") from None

    def integer(self, tag: str, default: int) -> int:
        value = self.number(tag)
        if value is None:
            return default
        if value != math.floor(value):
            raise self.wrong(tag, "it must be a whole number")
        return int(value)

    def refuse_units(self, tag: str, unit: str, others: Sequence[str]) -> None:
        """Refuse another unit after a tag's value, which VASP passes over.

        Raises:
            InputError: there is another one.
        """
        words = self.scan.values[tag][-1][0].split() if tag in self.scan.values else []
        if len(words) > 1 and words[1].lower() in others:
            raise self.wrong(tag, f"the unit is always {unit}; another unit behind the number has no effect")

    def wrong(self, tag: str, why: str) -> InputError:
        value, line = self.scan.values[tag][-1]
        return InputError(f"{self.path}, line {line}: {tag} = {value}: {why}")


def _isif(reader: _Reader) -> int:
    """Return ISIF; absent it is 2, or 0 for hybrid functionals (VASP manual, ISIF)."""
    hybrid = (reader.word("LHFCALC") or "").lstrip(".").upper().startswith("T")
    isif = reader.integer("ISIF", 0 if hybrid else 2)
    if not 0 <= isif <= 8:
        raise reader.wrong("ISIF", "it must be one of 0 to 8")
    return isif


def _ibrion(reader: _Reader, nsw: int) -> int:
    """Return IBRION; absent it is -1 without steps, and 2 with them, where VASP would start molecular dynamics."""
    images = reader.number("IMAGES")
    if images:
        raise reader.wrong("IMAGES", "a path between images is not a relaxation; remove IMAGES")
    if "IBRION" not in reader.scan.values:
        if nsw == 0:
            return -1
        reader.scan.notes.append(f"IBRION is absent; NSW = {nsw} is taken as a relaxation (IBRION = 2)")
        return 2
    ibrion = reader.integer("IBRION", 2)
    if ibrion == -1 or ibrion in _RELAXING or (ibrion == 0 and nsw == 0):
        return ibrion
    task = _OTHER_TASKS.get(ibrion, "that task")
    raise reader.wrong(
        "IBRION", f"{task} is not done here; IBRION = 2 with NSW > 0 relaxes, NSW = 0 gives a single point"
    )


def _stages(reader: _Reader) -> str | None:
    """Return BRIDGE_STAGES as written (``1``, ``1-2``, ``robust``); its meaning is the protocol's."""
    if "BRIDGE_STAGES" not in reader.scan.values:
        return None
    value = reader.scan.values["BRIDGE_STAGES"][-1][0]
    if not value:
        raise reader.wrong("BRIDGE_STAGES", "name stages as in 1, 1-2 or robust, or remove the tag")
    return value
