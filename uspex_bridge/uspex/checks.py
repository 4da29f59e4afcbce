"""Check a USPEX set-up for the mistakes that cost a search: ``check_setup``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from uspex_bridge.base.errors import BridgeError, ConfigError, InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.relaxation.protocol import Protocol, Stage, free_energy_of, select_stages
from uspex_bridge.uspex.command_checks import check_commands, check_waiting
from uspex_bridge.uspex.findings import Finding, in_order, relative
from uspex_bridge.uspex.incar_checks import check_incars
from uspex_bridge.uspex.search_checks import check_search
from uspex_bridge.uspex.setup import SearchStep, Setup, read_setups
from uspex_bridge.uspex.uspex26_checks import check_uspex26
from uspex_bridge.vasp.incar import intent_from_incar, parse_incar
from uspex_bridge.vasp.structure import ELEMENTS, read_potcar_symbols


def check_setup(folder: Path, *, of_26: bool = False) -> list[Finding]:
    """Return what is wrong, odd or worth knowing about the USPEX set-up in ``folder``, worst first.

    Args:
        folder: the folder that USPEX runs in.
        of_26: whether INPUT.txt is known to be for USPEX 26.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        return [Finding("error", str(folder), None, "there is no such folder")]
    found: list[Finding] = []
    setups: list[Setup] = []
    try:
        setups.extend(read_setups(folder, of_26=of_26))
    except InputError as error:
        found.append(_from_error(error, folder))
    if not setups and not found:
        return [
            Finding(
                "error", str(folder), None, "neither INPUT.txt nor input.uspex is here", "uspex-bridge init writes them"
            )
        ]
    for setup in setups:
        for check in _CHECKS:
            found.extend(check(setup))
    return in_order(found)


def _from_error(error: BridgeError, folder: Path) -> Finding:
    """Turn ``FILE, line N: what`` of an error into a finding."""
    match = re.match(r"(?P<file>\S+?)(?:, line (?P<line>\d+))?: (?P<what>.*)", str(error), re.DOTALL)
    if match is None:
        return Finding("error", ".", None, str(error))
    line = int(match["line"]) if match["line"] else None
    return Finding("error", relative(Path(match["file"]), folder), line, match["what"])


def _check_system(setup: Setup) -> Iterator[Finding]:
    """Check elements and composition."""
    name = setup.path.name
    if not setup.elements and setup.method != "META":
        yield Finding("error", name, None, "no elements are given", "")
    for symbol in setup.elements:
        if symbol not in ELEMENTS:
            yield Finding("error", name, None, f"'{symbol}' is not an element", "")
    for row in () if setup.molecular else setup.blocks:
        if len(row) != len(setup.elements):
            text = " ".join(map(str, row))
            yield Finding("error", name, None, f"composition '{text}' for {len(setup.elements)} elements", "")
    if setup.line == "matlab" and setup.varies and setup.bulk:
        for key in ("minAt", "maxAt"):
            if key not in setup.lines:
                yield Finding("error", name, None, f"a variable composition needs {key}: USPEX stops", f"8 : {key}")


def _check_input(setup: Setup) -> Iterator[Finding]:
    """Check the input file's own form."""
    if setup.line != "python":
        return
    if "\r" in read_text(setup.path):
        yield Finding(
            "error", setup.path.name, 1, "line ends of Windows: USPEX finds no definition", "sed -i 's/\\r$//' it"
        )
    for step in setup.steps:
        if step.code == "1" and not isinstance(step.kresol, float):
            given = "no kresol" if step.kresol is None else f"kresol {step.kresol!r}, which is not a float"
            yield Finding(
                "error", setup.path.name, step.line, f"step {step.number} has {given}: USPEX stops", "kresol: 0.2"
            )


def _check_potcars(setup: Setup) -> Iterator[Finding]:
    """Check that each element's POTCAR is there and is of that element."""
    if not any(step.code == "1" for step in setup.steps):
        return
    wanted: dict[Path, list[str]] = {}
    for step in setup.steps:
        own = step.potcars / f"POTCAR_{step.number}"
        if step.code == "1" and setup.line == "matlab" and not setup.varies and own.is_file():
            wanted[own] = [
                s for s, n in zip(setup.elements, setup.blocks[0] if setup.blocks else (), strict=False) if n
            ]
            if setup.molecular or setup.method == "META":
                wanted[own] = list(setup.elements)
        elif step.code == "1":
            wanted |= {step.potcars / f"POTCAR_{symbol}": [symbol] for symbol in setup.elements}
    for path, symbols in wanted.items():
        name = relative(path, setup.folder)
        if not path.is_file():
            yield Finding(
                "error",
                name,
                None,
                "missing",
                "for the bridge a stub is enough: one line TITEL = PAW_PBE " + symbols[0],
            )
            continue
        try:
            present = read_potcar_symbols(path)
        except InputError:
            yield Finding(
                "error", name, None, "names no element (TITEL, VRHFIN)", f"add a line: TITEL = PAW_PBE {symbols[0]}"
            )
            continue
        if present != symbols:
            yield Finding(
                "error",
                name,
                None,
                f"is of {' '.join(present)}, not of {' '.join(symbols)}",
                "use the POTCAR of this element",
            )


def _check_external(setup: Setup) -> Iterator[Finding]:
    """Check the inputs of abinitioCode 99."""
    for step in setup.steps:
        path = setup.specific / f"userInput_{step.number}"
        if step.code == "99" and setup.line == "matlab" and not path.is_file():
            yield Finding(
                "warning",
                relative(path, setup.folder),
                None,
                f"missing: USPEX copies it to usercode.in for step {step.number}, from which the bridge takes ISIF, "
                "EDIFFG and PSTRESS",
                "write INCAR tags into it",
            )


def _check_names(setup: Setup) -> Iterator[Finding]:
    """Look for file names that USPEX deletes."""
    mixed = len({step.code for step in setup.steps}) > 1
    if setup.line == "matlab" and setup.cluster not in ("", "0") and mixed and setup.specific.is_dir():
        for path in sorted(setup.specific.glob("USPEX*")):
            yield Finding(
                "warning",
                relative(path, setup.folder),
                None,
                "is copied into each CalcFold and deleted there when a job ends, as all USPEX* are",
                "rename it",
            )


def _check_settings(setup: Setup) -> Iterator[Finding]:
    """Check bridge.toml, its protocol and the models that this one needs."""
    from uspex_bridge.call.choice import choose_protocol
    from uspex_bridge.call.config import find_config, load_config
    from uspex_bridge.models import inventory

    steps = [step for step in setup.steps if step.executable]
    if not steps:
        return
    try:
        path = find_config(setup.work)
        config = load_config(setup.work)
        protocol, notice = choose_protocol(config)
        statuses = [inventory.available(name, config.settings_of(name)) for name in protocol.calculators]
    except ConfigError as error:
        yield _from_error(error, setup.folder)
        return
    name = relative(path, setup.folder.resolve()) if path else "bridge.toml"
    if path is None:
        yield Finding("note", name, None, "none is found: the defaults apply", "uspex-bridge init writes one")
    if notice:
        yield Finding("note", name, None, notice)
    for status in statuses:
        if status.problem:
            yield Finding("error", name, None, f"protocol {protocol.name} needs {status.name}: {status.problem}")
    if math.isinf(config.time_limit) and any(not step.queued for step in steps):
        yield Finding(
            "warning",
            name,
            None,
            "no time_limit; USPEX waits for a step without end",
            "time_limit = 3600 (seconds)",
        )
    for step in steps:
        yield from _check_stages(step, setup, protocol.stage, config.stages)
    yield from _check_free_energy(steps, setup, protocol, config.stages)


def _check_free_energy(
    steps: list[SearchStep], setup: Setup, protocol: Protocol, choice: str | None
) -> Iterator[Finding]:
    """Check that a free energy is computed in the last step, and there alone."""
    for step in steps:
        name, last = relative(step.incar, setup.folder), step.number == len(setup.steps)
        try:
            intent = intent_from_incar(read_text(step.incar), name)
            chosen = select_stages(protocol.stage, intent.stages or choice)
        except (InputError, ConfigError):
            continue  # told elsewhere
        try:
            asked = free_energy_of(protocol, intent, ends=chosen[-1] == protocol.stage[-1]) is not None
        except ConfigError as error:
            yield Finding("error", name, None, str(error), "relax there, or BRIDGE_STAGES without the last stage")
            continue
        if asked and not last:
            said = "a free energy is computed in this step too: it takes long, and refuses what is not yet relaxed"
            yield Finding("warning", name, None, said, "BRIDGE_STAGES without the protocol's last stage")
        elif last and not asked and protocol.free_energy is not None and protocol.free_energy.temperature is not None:
            said = "the protocol has a free energy, but the last step does not end with it"
            yield Finding("warning", name, None, said, "the protocol's last stage there")


def _check_stages(step: SearchStep, setup: Setup, stages: tuple[Stage, ...], choice: str | None) -> Iterator[Finding]:
    """Check that the stages a step asks for are the protocol's."""
    own = parse_incar(read_text(step.incar)).get("BRIDGE_STAGES") if step.incar.is_file() else None
    try:
        select_stages(stages, own or choice)
    except ConfigError as error:
        yield Finding("error", relative(step.incar, setup.folder) if own else "bridge.toml", None, str(error))


_CHECKS: tuple[Callable[[Setup], Iterator[Finding]], ...] = (
    _check_input,
    _check_system,
    check_commands,
    check_waiting,
    check_incars,
    check_search,
    check_uspex26,
    _check_potcars,
    _check_external,
    _check_names,
    _check_settings,
)
