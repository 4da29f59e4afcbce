"""The staged relaxation as data: protocols in TOML, and the plan that an INCAR's intent makes of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import build, nearest, read_toml
from uspex_bridge.base.templates import TEMPLATES
from uspex_bridge.relaxation.offered import GUARDS, check_offered
from uspex_bridge.relaxation.optimizers import check_name

#: Named protocols ship here, one TOML file each.
PROTOCOLS = TEMPLATES / "protocols"

#: No stage may leave a pressure further from the asked one than this, GPa, however loose EDIFFG is.
LOOSEST_STRESS = 0.5


@dataclass(frozen=True)
class Stage:
    """One stage of a protocol.

    Attributes:
        name: what logs and ``--stages`` call it.
        calculator: name of a calculator (a table of the configuration, or a kind).
        fmax: force target, eV/Å, on every atom that may move.
        optimizer: an optimizer of ASE, TRQN (:mod:`uspex_bridge.relaxation.trqn`), or one of another package
            (:mod:`uspex_bridge.relaxation.optimizers`).
        stress: target for every relaxed component of stress + P, GPa; None asks instead that V |stress + P| / N,
            the cell's generalised force in ASE's Frechet filter, be below ``fmax`` (in eV), as ASE itself does.
        steps: limit of ionic steps of this stage.
        move: ``auto`` moves what ISIF says; ``atoms`` and ``cell`` only that part of it.
        maxstep: largest step of the optimizer, Å.
        on_fail: where the targets are not reached within ``steps``, or the model breaks down:
            go on with the ``next`` stage, ``stop`` with an unconverged result, or ``reject`` the structure.
        ediff: EDIFFG > 0 of the INCAR: stop when the enthalpy changes by less than this, eV per cell.
    """

    name: str
    calculator: str
    fmax: float
    optimizer: str = "FIRE"
    stress: float | None = None
    steps: int = 300
    move: Literal["auto", "atoms", "cell"] = "auto"
    maxstep: float = 0.2
    on_fail: Literal["next", "stop", "reject"] = "next"
    ediff: float | None = None

    def __post_init__(self) -> None:
        check_name(self.optimizer)
        for key in ("fmax", "maxstep", "stress"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{key} = {value} must be a positive number")
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps} must be at least 1")


@dataclass(frozen=True)
class Guards:
    """Limits beyond which a structure is refused, flagged or mended.

    Distances d are compared as d / (r_i + r_j) with the covalent radii of Cordero et al. (2008), the ones in ASE.

    Attributes:
        overlap_ratio: starting pairs closer than this overlap.
        overlap: ``push`` moves overlapping atoms apart before the first stage; ``reject`` refuses them.
        collapse_ratio: a pair closer than this during the relaxation is a collapse.
        final_ratio: a pair closer than this in the result is refused.
        min_packing: smallest volume per atom, as a fraction of the mean volume of the covalent spheres.
        max_volume: largest volume per atom, Å³.
        max_growth: largest volume relative to the start, or to the covalent spheres where the start is denser.
        min_height: smallest distance between opposite faces of the starting cell, after reduction, Å.
        axis_ratio: longest over shortest lattice vector, after reduction (the paper's filter is 3).
        axis: ``flag`` or ``reject`` a result beyond ``axis_ratio``, or ``off``.
        max_force: largest force that is believed, eV/Å.
        energy_window: lowest and highest E per atom, eV.
        hole_depth: for models on the Materials Project's energy scale, how far E per atom may lie below the
            elements' own, eV; no compound is bound by as much.
        max_pressure: largest pressure of a model in a result that is believed, GPa.
        hole: ``reject`` or ``flag`` a result in a hole of the potential (:mod:`uspex_bridge.relaxation.holes`), or
            ``off``.
        scan: which results are compressed and expanded to find holes: those that are dense or would be the best of
            their composition (``auto``), or all (``always``).
        saddle: a symmetric start that ends on a saddle point goes on downhill (``leave``) or is flagged (``flag``);
            ``off`` looks for none and flags it as unprobed.
        max_atoms: largest cell.
        further: guards of other packages, by the names that they offer.
    """

    overlap_ratio: float = 0.5
    overlap: Literal["push", "reject"] = "push"
    collapse_ratio: float = 0.42
    final_ratio: float = 0.5
    min_packing: float = 0.15
    max_volume: float = 150.0
    max_growth: float = 5.0
    min_height: float = 0.7
    axis_ratio: float = 3.0
    axis: Literal["flag", "reject", "off"] = "flag"
    max_force: float = 1e4
    energy_window: tuple[float, float] = (-30.0, 60.0)
    hole_depth: float = 6.0
    max_pressure: float = 3000.0
    hole: Literal["reject", "flag", "off"] = "reject"
    scan: Literal["auto", "always"] = "auto"
    saddle: Literal["leave", "flag", "off"] = "leave"
    max_atoms: int = 1000
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.further:
            check_offered(GUARDS, name)


@dataclass(frozen=True)
class FreeEnergyStep:
    """The free energy that follows the last stage (table ``[free_energy]``; docs/free_energy.md).

    Attributes:
        temperature: K; None where only BRIDGE_TEMPERATURE of an INCAR asks for it.
        method: ``harmonic`` phonons of the structure at rest, or ``scha``, which relaxes atoms and cell at the
            temperature, atomic motion and zero point included.
        supercell: cells along each lattice vector; None for the smallest with images ``min_image`` apart.
        min_image: Å.
        upscale: ``scha`` in a small supercell first, whose result is the start in the large one.
        g_error: standard error of G that ``scha`` samples for, eV/atom.
        configs: configurations of a population of ``scha``; None for enough to fit the force constants.
        populations: of ``scha`` at most, to become self-consistent.
        final_configs: of the last population of ``scha`` at most.
        mesh: length that sets the mesh of wave vectors, Å.
        isotopes: masses in amu in place of the elements' means.
        seed: of the displacements.
    """

    temperature: float | None = None
    method: Literal["harmonic", "scha"] = "scha"
    supercell: tuple[int, int, int] | None = None
    min_image: float = 6.0
    upscale: bool = False
    g_error: float = 0.002
    configs: int | None = None
    populations: int = 12
    final_configs: int = 400
    mesh: float = 60.0
    isotopes: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(f"temperature = {self.temperature} must not be negative")
        for key in ("min_image", "g_error", "mesh"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) > 0.0):
                raise ValueError(f"{key} = {getattr(self, key)} must be a positive number")
        if self.supercell is not None and min(self.supercell) < 1:
            raise ValueError(f"supercell = {list(self.supercell)}: whole numbers from 1")
        if self.populations < 1 or self.final_configs < 12:
            raise ValueError("populations must be at least 1, final_configs at least 12")
        if self.configs is not None and (self.configs < 4 or self.configs % 2):
            raise ValueError(f"configs = {self.configs} must be an even number of at least 4")


@dataclass(frozen=True)
class Protocol:
    """Stages and guards, and the free energy where one is wanted; ``name`` is the file's."""

    stage: tuple[Stage, ...]
    guards: Guards = field(default_factory=Guards)
    free_energy: FreeEnergyStep | None = None
    description: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.stage:
            raise ValueError("a protocol needs at least one [[stage]]")

    @property
    def calculators(self) -> tuple[str, ...]:
        """Names of the calculators it needs, in order of first use."""
        return tuple(dict.fromkeys(stage.calculator for stage in self.stage))


@dataclass(frozen=True)
class Plan:
    """A protocol fitted to one job: the stages that will run, their targets, what may move, and a free energy."""

    stages: tuple[Stage, ...]
    guards: Guards
    intent: Intent
    protocol: str = ""
    free_energy: FreeEnergyStep | None = None

    @property
    def pressure_gpa(self) -> float:
        """Target pressure, GPa."""
        return self.intent.pressure_gpa


def protocol_names() -> list[str]:
    """Names of the protocols that ship with the package."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.toml"))


def load_protocol(name: str, base: Path | None = None) -> Protocol:
    """Read a protocol by name, or from a TOML file (relative paths are taken from ``base``).

    Raises:
        ConfigError: no such protocol, or the file is wrong.
    """
    if name in protocol_names():
        return read_protocol(PROTOCOLS / f"{name}.toml")
    path = Path(name).expanduser()
    if not path.is_absolute() and base is not None:
        path = base / path
    if path.suffix != ".toml" and not path.exists():
        raise ConfigError(f"unknown protocol '{name}'{nearest(name, protocol_names())} (or the path of a .toml file)")
    return read_protocol(path)


def read_protocol(path: Path) -> Protocol:
    """Read one protocol file.

    Raises:
        ConfigError: the file is missing, not TOML, has unknown keys or impossible values.
    """
    table = dict(read_toml(path))
    stages = table.pop("stage", [])
    if not isinstance(stages, list) or not all(isinstance(entry, Mapping) for entry in stages):
        raise ConfigError(f"{path}: stages are written as [[stage]] tables")
    thermal = table.pop("free_energy", None)
    made: dict[str, Any] = {
        "stage": tuple(build(Stage, entry, f"{path}: stage {i}") for i, entry in enumerate(stages, 1)),
        "guards": build(Guards, table.pop("guards", {}), f"{path}: [guards]"),
        "free_energy": None if thermal is None else build(FreeEnergyStep, thermal, f"{path}: [free_energy]"),
        "name": path.stem,
    }
    if unknown := set(table) - {"description"}:
        word, known = min(unknown), ["stage", "guards", "free_energy", "description"]
        raise ConfigError(f"{path}: unknown key '{word}'{nearest(word, known)}")
    try:
        return Protocol(description=str(table.get("description", "")), **made)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def select_stages(stages: tuple[Stage, ...], choice: str | None) -> tuple[Stage, ...]:
    """Pick stages by number, range or name: ``1``, ``2-3``, ``robust``, ``1,3``; None or ``all`` is all.

    Raises:
        ConfigError: no such stage.
    """
    if choice is None or choice.strip().lower() == "all":
        return stages
    names = {stage.name.lower(): i for i, stage in enumerate(stages, 1)}
    picked: list[int] = []
    for part in choice.replace(" ", "").split(","):
        if part.lower() in names:
            picked.append(names[part.lower()])
            continue
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            raise ConfigError(f"stages '{choice}': no stage '{part}'{nearest(part, names)}")
        picked.extend(range(int(first), int(last or first) + 1))
    if not picked or min(picked) < 1 or max(picked) > len(stages):
        raise ConfigError(f"stages '{choice}': the protocol has stages 1 to {len(stages)}")
    return tuple(stages[i - 1] for i in sorted(set(picked)))


def make_plan(protocol: Protocol, intent: Intent, stages: str | None = None, fmax: float | None = None) -> Plan:
    """Fit ``protocol`` to what an INCAR asks.

    EDIFFG < 0 (or ``fmax``) replaces the force target of the last stage; earlier stages never aim below it, and the
    last stage's stress target is loosened or tightened in proportion. EDIFFG > 0 makes the last stage stop on the
    change of the enthalpy. ``stages`` (or the INCAR's own choice, which wins) picks stages. A free energy follows where
    the INCAR names a temperature, or the protocol does and its last stage runs.

    Raises:
        ConfigError: the choice of stages does not fit the protocol, pressure or ``fmax`` is not a number, there is no
            such ISIF or NSW, or a free energy is asked for that cannot be had.
    """
    for what, value in (("the pressure", intent.pressure_gpa), ("fmax", fmax)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{what} is {value}, not a finite number")
    if fmax is not None and fmax <= 0:
        raise ConfigError(f"fmax = {fmax:g} must be positive")
    if not 0 <= intent.isif <= 8:
        raise ConfigError(f"isif = {intent.isif} must be one of 0 to 8, as VASP's ISIF")
    if intent.nsw < 0:
        raise ConfigError(f"nsw = {intent.nsw} must be 0 (a single point) or the largest number of steps")
    chosen = select_stages(protocol.stage, intent.stages or stages)
    target = fmax
    ediff = None
    if target is None and intent.ediffg is not None:
        if intent.ediffg < 0:
            target = -intent.ediffg
        elif intent.ediffg > 0:
            ediff = intent.ediffg
    last = chosen[-1]
    if target is not None:
        stress = None if last.stress is None else min(last.stress * target / last.fmax, LOOSEST_STRESS)
        last = replace(last, fmax=target, stress=stress)
    fitted = [replace(stage, fmax=max(stage.fmax, last.fmax)) for stage in chosen[:-1]]
    made = (*fitted, replace(last, ediff=ediff))
    asked = free_energy_of(protocol, intent, ends=chosen[-1] == protocol.stage[-1])
    return Plan(made, protocol.guards, intent, protocol.name, asked)


def free_energy_of(protocol: Protocol, intent: Intent, *, ends: bool) -> FreeEnergyStep | None:
    """Return the free energy that a job ends with, None for none; ``ends`` says that the last stage runs.

    Raises:
        ConfigError: it cannot be had.
    """
    asked = protocol.free_energy or FreeEnergyStep()
    if intent.temperature is not None:
        asked = replace(asked, temperature=intent.temperature)
    elif protocol.free_energy is None or not ends:
        return None
    if asked.temperature is None:
        return None
    if intent.static:
        raise ConfigError(
            f"a free energy at {asked.temperature:g} K needs a relaxed structure; NSW = 0 or IBRION = -1 relaxes none"
        )
    if asked.method == "scha" and intent.isif in (4, 5):
        raise ConfigError(f"ISIF = {intent.isif}: scha relaxes no cell at constant volume; take ISIF = 2, 3 or 8")
    return asked
