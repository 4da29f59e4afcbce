"""Checks of Specific/INCAR_n: what USPEX does to these files, and what the bridge reads in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, split_lines
from uspex_bridge.base.units import gpa_to_kbar
from uspex_bridge.uspex.findings import Finding, relative
from uspex_bridge.uspex.setup import SearchStep, Setup
from uspex_bridge.vasp.incar import intent_from_incar, parse_incar
from uspex_bridge.vasp.text import fortran_number

#: Fewer ionic steps than this hardly relax anything: NSW limits all stages of a protocol together.
FEW_STEPS = 20
#: ISIF values that let the volume follow the pressure.
_FREE_VOLUME = (3, 6, 7, 8)


def check_incars(setup: Setup) -> Iterator[Finding]:
    """Check the INCAR of every VASP step, and the series as a whole."""
    asked: list[tuple[SearchStep, Intent]] = []
    bridged = any(step.executable for step in setup.steps)
    for step in setup.steps:
        if step.code != "1":
            continue
        name = relative(step.incar, setup.folder)
        if not step.incar.is_file():
            yield Finding("error", name, None, f"missing, step {step.number} needs it: USPEX stops", "write it")
            continue
        text = read_text(step.incar)
        yield from _check_text(setup, name, text)
        yield from _check_pressure(setup, name, text)
        # A step that VASP itself does may ask for what the bridge does not do.
        ours = step.executable is not None or not bridged
        try:
            intent = intent_from_incar(text, name)
        except InputError as error:
            if not ours:
                continue
            line = re.match(r".*?, line (\d+): ", str(error))
            message = str(error)[line.end() :] if line else str(error)
            yield Finding("error", name, int(line[1]) if line else None, message)
            continue
        asked.append((step, intent))
        if not ours:
            continue
        for note in intent.notes:
            line = re.match(r"line (\d+): ", note)
            yield Finding("warning", name, int(line[1]) if line else None, note[line.end() :] if line else note)
        yield from _check_intent(setup, step, intent, name, text)
    yield from _check_series(setup, asked)


def _check_text(setup: Setup, name: str, text: str) -> Iterator[Finding]:
    if setup.line == "matlab" and not text.endswith("\n"):
        last = split_lines(text)[-1] if text else ""
        yield Finding(
            "error",
            name,
            text.count("\n") + 1,
            f"no newline at the end: USPEX appends PSTRESS to this line, '{last}PSTRESS=...'",
            "end the file with a newline",
        )
    if "\r" in text:
        yield Finding("warning", name, 1, "line ends of Windows", f"convert it: sed -i 's/\\r$//' {name}")


def _check_pressure(setup: Setup, name: str, text: str) -> Iterator[Finding]:
    """Look for PSTRESS, which is USPEX's to give: it is overruled or, at 0 GPa in the Python line, counted wrongly."""
    written = parse_incar(text).get("PSTRESS")
    if written is None:
        return
    wanted = gpa_to_kbar(setup.pressure)
    try:
        given = fortran_number((written.split() or [""])[0])
    except ValueError:
        return
    if abs(given - wanted) <= 1e-4 * max(1.0, abs(wanted)):
        return
    key = "externalPressure" if setup.line == "python" else "ExternalPressure"
    if setup.line == "python" and setup.pressure == 0:
        effect = "relaxes to it, but USPEX adds no PV: the enthalpies are wrong"
    else:
        effect = f"is overridden by the PSTRESS={wanted:g} that USPEX appends"
    severe = setup.pressure == 0 and given != 0
    yield Finding(
        "error" if severe else "warning",
        name,
        _line_of(text, "PSTRESS"),
        f"PSTRESS = {given:g} kB against {key} {setup.pressure:g} GPa: it {effect}",
        f"remove PSTRESS and set {key}",
    )


def _check_intent(setup: Setup, step: SearchStep, intent: Intent, name: str, text: str) -> Iterator[Finding]:
    if not intent.static and intent.nsw < FEW_STEPS:
        yield Finding(
            "warning",
            name,
            _line_of(text, "NSW"),
            f"NSW = {intent.nsw} limits the ionic steps of all stages of the protocol together",
            "a few hundred steps are needed to converge",
        )
    if intent.static and step.number < len(setup.steps):
        why = "NSW is absent, which means 0" if "NSW" not in parse_incar(text) else "NSW = 0 or IBRION = -1"
        yield Finding("note", name, _line_of(text, "NSW"), f"{why}: this step relaxes nothing", "")


def _check_series(setup: Setup, asked: list[tuple[SearchStep, Intent]]) -> Iterator[Finding]:
    """Check what only the steps together show."""
    relaxing = [(step, intent) for step, intent in asked if not intent.static]
    file = relative(setup.specific, setup.folder)
    if asked and not relaxing and all(step.code == "1" for step in setup.steps):
        yield Finding("warning", file, None, "no step relaxes: NSW is 0 in every INCAR", "set NSW in INCAR_1")
    if not relaxing:
        return
    if not setup.bulk:  # surfaces, clusters and metadynamics keep their cells
        return
    if all(intent.isif in (0, 1, 2) for _, intent in relaxing):
        yield Finding(
            "warning",
            file,
            None,
            "ISIF is 2 (or absent) in every relaxing step: no cell is relaxed and the pressure has no effect",
            "ISIF = 4 in the first steps and 3 in the last ones",
        )
        return
    step, last = relaxing[-1]
    if last.isif not in _FREE_VOLUME:
        yield Finding(
            "warning",
            relative(step.incar, setup.folder),
            _line_of(read_text(step.incar), "ISIF"),
            f"ISIF = {last.isif} in the last relaxing step: ranked structures are not at the search pressure",
            "ISIF = 3 there",
        )


def _line_of(text: str, tag: str) -> int | None:
    """Return the last line that sets ``tag``."""
    found = None
    for number, line in enumerate(split_lines(text), 1):
        if re.search(rf"(?:^|;)\s*{tag}\s*=", line.split("#")[0].split("!")[0], re.IGNORECASE):
            found = number
    return found
