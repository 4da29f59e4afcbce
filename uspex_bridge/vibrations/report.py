"""The result of a self-consistent calculation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from uspex_bridge.base.data import Array, Frame, Structure
from uspex_bridge.base.symmetry import space_group
from uspex_bridge.base.units import pv_energy
from uspex_bridge.vibrations.dispersion import Dispersion
from uspex_bridge.vibrations.ensemble import Ensemble
from uspex_bridge.vibrations.state import Population
from uspex_bridge.vibrations.supercell import Repeats, Supercell

#: Å, tolerance of the space group of centroids, which have statistical errors.
_SYMPREC = 0.05


@dataclass(frozen=True)
class Smaller:
    """What a smaller supercell gave on the way: its repeats, G and the standard error, eV per unit cell."""

    repeats: Repeats
    g: float
    error: float


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """Free energy of a crystal at a temperature and a pressure, energies in eV per unit cell.

    Attributes:
        structure: centroids and cell.
        temperature: K.
        target_gpa: pressure asked for.
        e0: energy with all atoms at their centroids, None where the model fails there.
        f_harmonic: free energy of the auxiliary phonons on the supercell's wave vectors.
        mesh_correction: harmonic free energy on a dense mesh minus that on the supercell's wave vectors.
        f: Helmholtz free energy with the mesh correction.
        error: its standard error, and that of G.
        stress: (6,), eV/Å³, ASE's sign; its standard error.
        stress_error: (6,), eV/Å³.
        pressure_gpa, pressure_error: minus its mean diagonal, GPa.
        forces: mean forces on the centroids, (n, 3), eV/Å.
        lattice, phi: supercell at the centroids and auxiliary force constants (3N, 3N), eV/Å².
        ensemble: the configurations that F is averaged over, all drawn from the final Gaussian.
        evaluations, failed: of the model; configurations without a result.
        lowest_harmonic_thz: lowest frequency on the supercell's wave vectors at the start, negative if imaginary.
        lowest_thz: lowest auxiliary frequency on the dense mesh.
        jump: largest distance between a centroid and its site at 0 K, Å.
        converged: self-consistent, and the error bar is met.
        reason: one line that shows the reason the calculation ended.
        flags: short words a user would want to see.
        history: one entry per batch of configurations.
        smaller: result of the supercell that it came from, None for none.
    """

    structure: Structure
    temperature: float
    target_gpa: float
    e0: float | None
    f_harmonic: float
    mesh_correction: float
    f: float
    error: float
    stress: Array
    stress_error: Array
    pressure_gpa: float
    pressure_error: float
    forces: Array
    lattice: Supercell
    phi: Array
    ensemble: Ensemble
    evaluations: int
    failed: int
    lowest_harmonic_thz: float
    lowest_thz: float
    jump: float
    converged: bool
    reason: str
    flags: tuple[str, ...]
    history: tuple[Population, ...]
    smaller: Smaller | None = None

    @property
    def g(self) -> float:
        """G = F + PV at the target pressure, eV per unit cell."""
        return self.f + pv_energy(self.target_gpa, self.structure.volume)

    @property
    def f_anharmonic(self) -> float | None:
        """What F holds beyond E at the centroids and its harmonic parts, eV."""
        return None if self.e0 is None else self.f - self.e0 - self.f_harmonic - self.mesh_correction

    @cached_property
    def space_group(self) -> str:
        """Space group of the centroids within 0.05 Å."""
        return space_group(self.structure.symbols, self.structure.cell, self.structure.scaled, _SYMPREC)

    @cached_property
    def dispersion(self) -> Dispersion:
        """Auxiliary phonons at any wave vector: positive by construction, not what a spectrometer sees."""
        return Dispersion(self.phi, self.lattice)

    def frame(self, stage: int = 0) -> Frame:
        """Return the result as an ionic step whose energy is F, so that PV is added where it always is."""
        return Frame(self.structure.cell, self.structure.scaled, self.f, self.forces, self.stress, stage=stage)

    def summary(self) -> dict[str, Any]:
        """Return what a record keeps, plain values, energies in eV per unit cell."""
        last, small = self.history[-1], self.smaller
        return {
            "method": "scha",
            "temperature": self.temperature,
            "pressure_gpa": self.target_gpa,
            "supercell": list(self.lattice.repeats),
            "populations": len(self.history),
            "configs": len(self.ensemble),
            "evaluations": self.evaluations,
            "e0": self.e0,
            "f_harmonic": self.f_harmonic,
            "f_anharmonic": self.f_anharmonic,
            "mesh_correction": self.mesh_correction,
            "f": self.f,
            "g": self.g,
            "g_error": self.error,
            "volume": self.structure.volume,
            "found_gpa": self.pressure_gpa,
            "found_gpa_error": self.pressure_error,
            "centroid_force": last.force,
            "strain": last.strain,
            "strain_error": last.strain_error,
            "space_group": self.space_group,
            "lowest_harmonic_thz": self.lowest_harmonic_thz,
            "lowest_thz": self.lowest_thz,
            "r2": last.r2,
            "rms": last.rms,
            "gain": last.gain,
            "variance_share": last.variance_share,
            "jump": self.jump,
            "failed": self.failed,
            "converged": self.converged,
            "reason": self.reason,
            "flags": list(self.flags),
            "smaller": small and {"supercell": list(small.repeats), "g": small.g, "g_error": small.error},
        }
