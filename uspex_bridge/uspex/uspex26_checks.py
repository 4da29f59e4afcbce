"""Checks of a set-up for USPEX 26, which hands structures out by abinitioCode 20 or 99, or as to VASP."""

from __future__ import annotations

from collections.abc import Iterator

from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.call.config import Config, find_config, load_config
from uspex_bridge.uspex.findings import Finding, relative
from uspex_bridge.uspex.setup import SearchStep, Setup
from uspex_bridge.vasp.incar import intent_from_incar


def check_uspex26(setup: Setup) -> Iterator[Finding]:
    """Check where the settings lie, the pressure and the tags of each step, and name what no public text decides."""
    if setup.line != "uspex26" or not any(step.executable for step in setup.steps):
        return
    try:
        source, config = find_config(setup.work), load_config(setup.work)
    except ConfigError:
        return  # the check of the settings says it
    name = relative(source, setup.folder.resolve()) if source else "bridge.toml"
    if source and source.parent == setup.specific.resolve():
        yield Finding(
            "warning",
            name,
            None,
            "USPEX 26 deletes Specific at the start of a search",
            "put bridge.toml beside INPUT.txt",
        )
    external = [step for step in setup.steps if step.executable == "uspex-bridge-external"]
    if external:
        yield from _check_pressure(setup, config, name)
        yield from _check_tags(external, config, name)
    codes = {step.code for step in external}
    if setup.molecular and "99" in codes:
        yield Finding(
            "error",
            setup.path.name,
            None,
            "abinitioCode 99 sorts the atoms by element, and molecules cannot be rebuilt from that",
            "abinitioCode 20 keeps their order",
        )
    yield from _undecided(setup, config, codes, name)


def _check_pressure(setup: Setup, config: Config, name: str) -> Iterator[Finding]:
    """Compare the pressure of [external] with that of INPUT.txt, of which the working folder says nothing."""
    given = config.external.pressure
    if given is None and setup.pressure:
        yield Finding(
            "error",
            name,
            None,
            f"structures would be relaxed at 0 GPa: no file that USPEX writes tells the {setup.pressure:g} GPa of "
            f"{setup.path.name}",
            f"pressure = {setup.pressure:g} in [external]",
        )
    elif given is not None and abs(given - setup.pressure) > 1e-6:
        yield Finding(
            "error",
            name,
            None,
            f"pressure = {given:g} GPa in [external], but ExternalPressure is {setup.pressure:g} GPa",
            "make them equal",
        )


def _check_tags(steps: list[SearchStep], config: Config, name: str) -> Iterator[Finding]:
    """Read the tags of each step."""
    tags = config.external.tags
    for number, text in enumerate(tags, 1):
        try:
            intent = intent_from_incar(text, f"tags of step {number}")
        except InputError as error:
            yield Finding("error", name, None, str(error))
            continue
        for note in intent.notes:
            yield Finding("warning", name, None, f"tags of step {number}: {note}")
    last = steps[-1].number
    if tags and len(tags) < last:
        yield Finding(
            "note", name, None, f"tags for {len(tags)} of {last} steps: the last ones apply to all further steps"
        )


def _undecided(setup: Setup, config: Config, codes: set[str], name: str) -> Iterator[Finding]:
    """Say which settings are the likeliest answers to what USPEX's public texts leave open."""
    external = config.external
    if codes and setup.pressure:
        what = "H = E + PV" if external.energy == "enthalpy" else "E without PV"
        other = "energy" if external.energy == "enthalpy" else "enthalpy"
        yield Finding(
            "note",
            name,
            None,
            f"USPEX gets {what}; no public text says which of the two it expects under pressure",
            f'compare Individuals with `uspex-bridge log` after some structures; energy = "{other}" is the other one',
        )
    if "99" in codes:
        yield Finding(
            "note",
            name,
            None,
            f"energy.txt holds eV per {external.per}, geom.out is a POSCAR ({external.geometry}): the likeliest layout "
            "for abinitioCode 99",
            "`per` and `geometry` of [external] change it; abinitioCode 20 leaves only the choice of E or H",
        )
    if any(step.code == "1" and step.executable for step in setup.steps):
        yield Finding(
            "note",
            setup.path.name,
            None,
            "no public text says which of VASP's files USPEX 26 reads; all files that USPEX up to 25 reads are written",
            "abinitioCode 20 with uspex-bridge-external is the documented way",
        )
    if config.on_reject == "fail":
        yield Finding(
            "note",
            name,
            None,
            "a refused structure ends with exit code 6, which USPEX 26 counts as a failed task",
            'on_reject = "penalty" gives it a very high energy instead',
        )
