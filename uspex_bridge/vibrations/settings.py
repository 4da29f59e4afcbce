"""What a self-consistent calculation is asked, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uspex_bridge.vibrations.supercell import Repeats

#: Fewest configurations of a population.
FEWEST = 12


@dataclass(frozen=True)
class Settings:
    """What is asked of a self-consistent calculation.

    Attributes:
        temperature: K.
        pressure_gpa: target.
        cell: ``full`` relaxes volume and shape, ``volume`` the volume alone, ``fixed`` neither.
        ions: whether centroids move.
        repeats: supercell, None for the smallest with images ``min_image`` apart.
        min_image: Å.
        configs: of a population, None for enough to fit the force constants.
        populations: at most so many to become self-consistent.
        final_configs: at most so many for the result.
        g_error: standard error of G to reach, eV/atom; also what a better Gaussian may still gain.
        volume_error: relative error of the volume that the pressure may stand for; two standard errors if larger.
        centroid_force: mean force that may be left on a centroid, eV/Å; two standard errors if they are larger.
        mesh: length that sets the mesh of the mesh correction, Å.
        symprec: tolerance of the symmetry that is kept, Å.
        seed: of the configurations.
    """

    temperature: float
    pressure_gpa: float = 0.0
    cell: Literal["full", "volume", "fixed"] = "full"
    ions: bool = True
    repeats: Repeats | None = None
    min_image: float = 6.0
    configs: int | None = None
    populations: int = 12
    final_configs: int = 400
    g_error: float = 0.002
    volume_error: float = 0.002
    centroid_force: float = 0.05
    mesh: float = 60.0
    symprec: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("g_error", "volume_error", "centroid_force", "mesh", "symprec"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} = {getattr(self, name)} must be a positive number")
        if not self.temperature >= 0.0:
            raise ValueError(f"temperature = {self.temperature} must not be negative")
        if self.populations < 1 or self.final_configs < FEWEST:
            raise ValueError(f"populations must be at least 1, final_configs at least {FEWEST}")
        if self.configs is not None and (self.configs < 4 or self.configs % 2):
            raise ValueError(f"configs = {self.configs} must be an even number of at least 4")


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a result is flagged or refused.

    Attributes:
        min_r2: share of the forces that effective harmonic force constants must explain, else ``not-harmonic``.
        max_rms: largest rms displacement over the nearest distance (Lindemann), else ``large-amplitude``.
        max_failed: share of configurations that may fail, else the structure is refused.
        min_ess: effective sample, relative to the one at the Gaussian drawn from, below which it is not used again.
        max_strain_error: standard error of the strain that the cell may lack, else ``cell-uncertain``.
        max_jump: Å that a centroid may leave its site at 0 K, else ``transformed``.
    """

    min_r2: float = 0.3
    max_rms: float = 0.25
    max_failed: float = 0.1
    min_ess: float = 0.3
    max_strain_error: float = 0.01
    max_jump: float = 1.0
