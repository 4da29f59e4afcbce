"""Perturbed copies of structures: atoms displaced, cells strained, cells compressed step by step.

Each copy depends only on the seed, the structure and its number, not on what else is in the file. It belongs to the
family of the structure it was made from, so that a dataset never splits the two between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.learn.data.labels import identity_of
from uspex_bridge.relaxation.guards import closest_pair

Shape = Literal["uniform", "gaussian"]
#: Times that a copy with atoms too close is drawn anew before it is given up.
_TRIES = 20


@dataclass(frozen=True)
class Perturbation:
    """How copies are made; the defaults are those of arXiv:2606.30870 (0.1 Å, 5 %, five copies).

    Attributes:
        copies: of each structure.
        displace: Å: how far an atom moves at most in a random direction (``uniform``, in the ball of this radius), or
            the standard deviation of each coordinate (``gaussian``).
        shape: of the displacements.
        strain: every component of the random symmetric strain lies within plus and minus this.
        volumes: further copies, only compressed or stretched to these fractions of the volume.
        ratio: closest pair that is allowed, in units of the sum of covalent radii; copies of a structure that is closer
            itself may come as close as nine tenths of that.
        seed: of the random numbers.
    """

    copies: int = 5
    displace: float = 0.1
    shape: Shape = "uniform"
    strain: float = 0.05
    volumes: tuple[float, ...] = ()
    ratio: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.copies < 0 or self.displace < 0 or not 0 <= self.strain < 0.5 or self.seed < 0:
            raise ConfigError("copies, displace and seed must not be negative, strain must lie between 0 and 0.5")
        if any(not 0.1 <= fraction <= 3 for fraction in self.volumes):
            raise ConfigError("volumes are fractions of the volume between 0.1 and 3")


@dataclass(frozen=True)
class Made:
    """A copy, or why there is none.

    Attributes:
        atoms: the copy, with name, id, family, origin, parent and reason in ``info``; None where it was given up.
        problem: why.
    """

    atoms: Atoms | None
    problem: str = ""


def augment(atoms: Atoms, how: Perturbation) -> Iterator[Made]:
    """Yield the copies of one structure: perturbed ones, then the volumes.

    ``atoms.info`` may hold name, family and pressure_gpa; the enthalpy is not handed on, since a copy has another.
    """
    identity = identity_of(atoms)
    own = closest_pair(atoms, how.ratio)
    ratio = how.ratio if own is None else 0.9 * own[0]
    for number in range(1, how.copies + 1):
        copy = _perturbed(atoms, how, _generator(how.seed, identity, number), ratio)
        reason = f"displaced {how.displace:g} Å ({how.shape}), strained {100 * how.strain:g} %"
        yield _made(atoms, copy, identity, f"p{number}", reason, ("pressure_gpa", "own_pressure_gpa"))
    for fraction in how.volumes:
        copy = _at_volume(atoms, fraction)
        yield _made(atoms, copy, identity, f"v{fraction:g}", f"{fraction:g} of the volume")


def _generator(seed: int, identity: str, number: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {identity} {number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _perturbed(atoms: Atoms, how: Perturbation, rng: np.random.Generator, ratio: float) -> Atoms | None:
    """Return a copy in which no pair is too close, None where none is found."""
    for _ in range(_TRIES):
        copy = _bare(atoms)
        random = rng.uniform(-how.strain, how.strain, (3, 3))
        strain = np.tril(random) + np.tril(random, -1).T
        copy.set_cell(copy.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        copy.positions += _displacements(len(copy), how, rng)
        if closest_pair(copy, ratio) is None:
            return copy
    return None


def _displacements(count: int, how: Perturbation, rng: np.random.Generator) -> Array:
    """Return displacements (N, 3), Å."""
    drawn = rng.normal(size=(count, 3))
    if how.shape == "uniform":
        drawn *= (rng.random(count) ** (1 / 3) / np.linalg.norm(drawn, axis=1))[:, None]
    return np.asarray(how.displace * drawn)


def _at_volume(atoms: Atoms, fraction: float) -> Atoms:
    copy = _bare(atoms)
    copy.set_cell(fraction ** (1 / 3) * copy.cell.array, scale_atoms=True)
    return copy


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def _made(
    atoms: Atoms,
    copy: Atoms | None,
    identity: str,
    ending: str,
    reason: str,
    kept: Sequence[str] = ("pressure_gpa",),
) -> Made:
    """Say where a copy comes from; ``kept`` is what of ``info`` holds for it too."""
    name = str(atoms.info.get("name") or identity)
    if copy is None:
        return Made(None, f"{name}-{ending}: atoms too close in {_TRIES} tries; smaller displacements or strain help")
    copy.info = {
        "name": f"{name}-{ending}",
        "id": identity_of(copy),
        "family": str(atoms.info.get("family") or identity),
        "origin": f"{atoms.info.get('origin') or name} perturbed",
        "parent": identity,
        "reason": reason,
    }
    copy.info |= {key: atoms.info[key] for key in kept if key in atoms.info}
    return Made(copy)
