"""A toy potential for tests and for trying things out: fast, smooth, no weights; it can be told to misbehave."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.switching import switch
from uspex_bridge.models.cards import Batch, BuildRequest, Card

CARD = Card(
    kind="toy",
    title="toy potential",
    package="uspex_bridge",
    module="uspex_bridge",
    install="nothing to install",
    takes_weights=False,
    dtypes=("float64",),
    devices=("cpu",),
    invented=True,
    licence="MIT",
    citation="none: it describes no real material",
)

#: Reach of a pair in units of its equilibrium distance; the switch to zero starts at SWITCH.
REACH, SWITCH = 1.8, 1.35
#: Compressed below this fraction of its equilibrium distance a pair with a hole starts to fall, this strongly.
HOLE, DEPTH = 0.95, 200.0


@dataclass(frozen=True)
class ToyOptions:
    """The table ``options`` of a toy calculator.

    Attributes:
        epsilon: depth of the pair potential, eV.
        hole: the energy falls without bound once atoms are pressed together.
        nan_after: evaluations after which energy, forces and stress are NaN.
        raise_after: evaluations after which every evaluation raises RuntimeError.
        raise_below: volume per atom (Å³) below which the evaluation of a structure raises RuntimeError.
        sleep: seconds added to each pass, however many structures it takes.
        until: a file that ends the sleeping once it is there.
        elements: the only elements it knows; empty for all that have a covalent radius.
    """

    epsilon: float = 0.5
    hole: bool = False
    nan_after: int | None = None
    raise_after: int | None = None
    raise_below: float = 0.0
    sleep: float = 0.0
    until: str | None = None
    elements: tuple[str, ...] = ()


def build(request: BuildRequest) -> Any:
    """Return the toy potential as an ASE calculator.

    Raises:
        ConfigError: an option it does not have.
    """
    from ase.calculators.calculator import Calculator, all_changes

    options = _options(request.options)

    class Toy(Calculator):
        """Sum of switched 9-6 pair potentials whose distances are sums of covalent radii."""

        implemented_properties = ["energy", "free_energy", "forces", "stress"]
        evaluations = 0
        toy_options = options

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            """Evaluate, and misbehave where asked to."""
            super().calculate(atoms, properties, system_changes)
            (self.results,) = self.evaluate([self.atoms])

        def evaluate(self, structures: Sequence[Any]) -> list[dict[str, Any]]:
            """Evaluate structures together, and misbehave where asked to."""
            self.evaluations += len(structures)
            _sleep(options)
            if options.raise_after is not None and self.evaluations > options.raise_after:
                raise RuntimeError(f"toy: told to raise after {options.raise_after} evaluations")
            for atoms in structures:
                if atoms.get_volume() < options.raise_below * len(atoms):
                    raise RuntimeError(f"toy: told to raise below {options.raise_below} Å³ per atom")
            found = _evaluate(structures, options)
            if options.nan_after is not None and self.evaluations > options.nan_after:
                found = [{name: value * np.nan for name, value in results.items()} for results in found]
            return found

    return Toy()


def batch(calculator: Any) -> Batch:
    """Return the toy potential for many structures; its reach is that of the largest atoms."""
    from ase.data import covalent_radii

    return Batch(calculator.evaluate, cutoff=REACH * 2 * float(covalent_radii.max()))


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements of its options, else all that have a covalent radius (H to Cm)."""
    from ase.data import chemical_symbols, covalent_radii, missing

    if calculator.toy_options.elements:
        return frozenset(calculator.toy_options.elements)
    return frozenset(
        s for s, radius in zip(chemical_symbols[1:], covalent_radii[1:], strict=False) if radius != missing
    )


def _options(given: Mapping[str, Any]) -> ToyOptions:
    known = {field.name for field in fields(ToyOptions)}
    for key in given:
        if key not in known:
            raise ConfigError(f"toy: unknown option '{key}'; known: {', '.join(sorted(known))}")
    return ToyOptions(**{**given, "elements": tuple(given.get("elements", ()))})


def _sleep(options: ToyOptions) -> None:
    if options.until is None:
        time.sleep(options.sleep)
        return
    end, file = time.monotonic() + options.sleep, Path(options.until)
    while time.monotonic() < end and not file.exists():
        time.sleep(0.02)


def _evaluate(structures: Sequence[Any], options: ToyOptions) -> list[dict[str, Any]]:
    """Return E (eV), forces (N, 3) (eV/Å) and stress (6,) (eV/Å³, ASE's sign and order) of each structure."""
    from ase.data import covalent_radii
    from ase.stress import full_3x3_to_voigt_6_stress

    graph = neighbours.graph(structures, REACH * 2 * float(max(covalent_radii[a.numbers].max() for a in structures)))
    radii = covalent_radii[graph.numbers]
    distance = np.linalg.norm(graph.vectors, axis=1)
    equilibrium = radii[graph.first] + radii[graph.second]
    near = distance < REACH * equilibrium
    first, vector, distance, equilibrium = (a[near] for a in (graph.first, graph.vectors, distance, equilibrium))
    owner = graph.owners[first]
    energy, slope = _pair(distance / equilibrium, options)
    pull = (slope / equilibrium / distance)[:, None] * vector
    forces = np.zeros((len(radii), 3))
    np.add.at(forces, first, pull)
    stresses = np.zeros((len(structures), 3, 3))
    np.add.at(stresses, owner, 0.5 * pull[:, :, None] * vector[:, None, :])
    stresses /= graph.volumes[:, None, None]
    energies = 0.5 * np.bincount(owner, energy, minlength=len(structures))
    return [
        {"energy": float(total), "free_energy": float(total), "forces": own, "stress": full_3x3_to_voigt_6_stress(s)}
        for total, own, s in zip(energies, graph.split(forces), stresses, strict=True)
    ]


def _pair(x: Array, options: ToyOptions) -> tuple[Array, Array]:
    """Return the pair energy (eV) and its derivative by x, the distance over the equilibrium distance, (M,)."""
    energy = 2.0 * x**-9 - 3.0 * x**-6
    slope = -18.0 * x**-10 + 18.0 * x**-7
    factor, bend = switch(x, SWITCH, REACH)
    energy, slope = energy * factor, slope * factor + energy * bend
    if options.hole:
        inside = np.maximum(HOLE / x - 1.0, 0.0)
        energy = energy - DEPTH * inside**3 * x**-9
        slope = slope + DEPTH * (3.0 * inside**2 * HOLE * x**-11 + 9.0 * inside**3 * x**-10)
    return options.epsilon * energy, options.epsilon * slope
