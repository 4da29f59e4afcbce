"""Where structures lie in the space of average SOAP descriptors: the measure of what a set of structures covers.

A structure's vector is the mean of its atoms' SOAP power spectra (dscribe, spherical Gaussian orbitals, its ``outer``
average), so it does not change with rotation, order of atoms, choice of cell or supercell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError, InputError

Scaling = Literal["standard", "none"]
#: Principal components are kept until they explain this part of the variance.
_KEPT_VARIANCE = 0.99
#: No feature is scaled up by more than this relative to the one that varies most.
_LARGEST_SCALE_UP = 100.0
#: Bins along each of the first two principal components in which coverage is counted.
BINS = 20


@dataclass(frozen=True)
class SoapSettings:
    """Settings of the descriptor; the defaults are those of arXiv:2606.30870 (section 2.3) for Ca-Fe-Ni.

    Attributes:
        r_cut: reach, Å.
        n_max: radial functions.
        l_max: largest angular momentum.
        sigma: width of the atoms' Gaussians, Å.
        cross: keep the terms between different elements; ASAP, which the paper used, leaves them out.
    """

    r_cut: float = 4.2
    n_max: int = 4
    l_max: int = 3
    sigma: float = 0.52
    cross: bool = False

    def __post_init__(self) -> None:
        if self.r_cut <= 1.0:
            raise ConfigError(f"SOAP: r_cut = {self.r_cut:g} Å must be larger than 1 Å")
        if self.n_max < 1 or self.l_max < 0 or self.sigma <= 0:
            raise ConfigError("SOAP: n_max must be at least 1, l_max at least 0, sigma positive")

    def describe(self) -> str:
        """Say in one line what the descriptor is."""
        terms = "with" if self.cross else "without"
        return (
            f"SOAP r_cut {self.r_cut:g} Å, n {self.n_max}, l {self.l_max}, sigma {self.sigma:g} Å, averaged over "
            f"atoms, {terms} cross terms between elements"
        )


def minimal_settings(elements: Iterable[str], *, cross: bool = False) -> SoapSettings:
    """Return settings that fit any elements: r_cut is 1.2 of the largest covalent diameter, sigma an eighth of it.

    In the spirit of ASAP's ``universal_soap minimal``; for Ca-Fe-Ni it gives the paper's 4.2 and 0.52 Å.
    """
    from ase.data import atomic_numbers, covalent_radii

    largest = max(float(covalent_radii[atomic_numbers[element]]) for element in elements)
    r_cut = round(1.2 * 2 * largest, 1)
    return SoapSettings(max(r_cut, 1.5), sigma=round(r_cut / 8 - 1e-9, 2), cross=cross)


def describe_all(structures: Iterable[Structure], elements: Sequence[str], settings: SoapSettings) -> Iterator[Array]:
    """Yield the averaged descriptor (F,) of each structure; vectors of the same ``elements`` can be compared.

    Raises:
        InputError: a structure has another element.
    """
    from ase import Atoms
    from dscribe.descriptors import SOAP

    soap = SOAP(
        species=list(elements),
        r_cut=settings.r_cut,
        n_max=settings.n_max,
        l_max=settings.l_max,
        sigma=settings.sigma,
        average="outer",
        compression={"mode": "off" if settings.cross else "crossover", "species_weighting": None},
        periodic=True,
    )
    for structure in structures:
        if unknown := sorted(set(structure.symbols) - set(elements)):
            raise InputError(f"SOAP of {', '.join(elements)}: {structure.formula} also holds {', '.join(unknown)}")
        atoms = Atoms(list(structure.symbols), cell=structure.cell, scaled_positions=structure.scaled, pbc=True)
        yield np.asarray(soap.create(atoms), dtype=float)


@dataclass(frozen=True, eq=False)
class Space:
    """A linear map from descriptors to principal components, fitted to one set of structures.

    Attributes:
        mean: (F,) subtracted; scale: (F,) divided by.
        axes: (K, F) principal components of what is left.
        explained: (K,) part of the variance along each.
        scaling: ``standard`` brings every feature to unit variance first, as ASAP does; ``none`` leaves them.
    """

    mean: Array
    scale: Array
    axes: Array
    explained: Array
    scaling: Scaling = "standard"

    def normalise(self, features: Array) -> Array:
        """Return features (N, F) shifted and scaled, all of them: distances here also see what the axes leave out."""
        return np.asarray((np.atleast_2d(features) - self.mean) / self.scale)

    def place(self, features: Array) -> Array:
        """Return coordinates (N, K) of features (N, F)."""
        return np.asarray(self.normalise(features) @ self.axes.T)

    def describe(self) -> str:
        """Say in one line what the axes are."""
        scaled = "features scaled to unit variance" if self.scaling == "standard" else "features not scaled"
        return (
            f"PCA of {scaled}: PC1 {100 * self.explained[0]:.0f} %, PC2 {100 * self.explained[1]:.0f} % of the "
            f"variance, {len(self.axes)} components hold {100 * self.explained.sum():.1f} %"
        )


def fit_space(features: Array, scaling: Scaling = "standard") -> Space:
    """Fit principal components to features (N, F): as many as explain 99 % of the variance, at least two.

    A feature that hardly varies is scaled up no more than 100 times as much as the one that varies most.

    Raises:
        InputError: there is no structure.
    """
    from sklearn.decomposition import PCA

    if len(features) == 0:
        raise InputError("there is no structure to describe")
    mean = features.mean(axis=0)
    scale = np.ones(features.shape[1])
    if scaling == "standard":
        deviation = features.std(axis=0)
        scale = np.maximum(deviation, deviation.max() / _LARGEST_SCALE_UP)
        scale[scale == 0.0] = 1.0
    count = min(features.shape)
    axes, explained = np.zeros((2, features.shape[1])), np.zeros(2)
    if len(features) > 1 and np.ptp(features, axis=0).max() > 0:
        pca = PCA(n_components=count, svd_solver="full").fit((features - mean) / scale)
        kept = max(2, 1 + int(np.searchsorted(pca.explained_variance_ratio_.cumsum(), _KEPT_VARIANCE)))
        axes, explained = pca.components_[:kept], pca.explained_variance_ratio_[:kept]
    return Space(mean, scale, axes, explained, scaling)


@dataclass(frozen=True)
class Coverage:
    """How much of an area the points of a subset cover, in a grid of BINS x BINS over the first two components.

    Attributes:
        occupied: bins that hold a point of the subset; of: bins that hold any point.
        evenness: entropy of the subset's points over their bins, over its largest possible value: 1 is uniform.
    """

    occupied: int
    of: int
    evenness: float

    @property
    def fraction(self) -> float:
        """Part of the occupied bins that the subset reaches."""
        return self.occupied / self.of if self.of else 0.0

    def __str__(self) -> str:
        return f"{self.occupied} of {self.of} bins ({100 * self.fraction:.0f} %), evenness {self.evenness:.2f}"


def coverage(points: Array, chosen: Any = None, bins: int = BINS) -> Coverage:
    """Measure what ``chosen`` (indices or mask; all by default) of ``points`` (N, K) cover of the area of all."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    width = np.where(high > low, (high - low) / bins, 1.0)
    cells = np.minimum((points[:, :2] - low) // width, bins - 1).astype(int) @ (bins, 1)
    mine, counts = np.unique(cells if chosen is None else cells[chosen], return_counts=True)
    part = counts / max(1, counts.sum())
    most = np.log(min(len(np.unique(cells)), max(1, counts.sum())))
    evenness = float(-(part * np.log(part)).sum() / most) if most > 0 else 1.0
    return Coverage(len(mine), len(np.unique(cells)), evenness)
