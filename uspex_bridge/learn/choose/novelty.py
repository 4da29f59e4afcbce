"""How far a structure is from those that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.learn.choose.soap import Scaling, SoapSettings, Space, describe_all, fit_space

#: Part of the training structures that lie within the unit distance of another one.
_USUAL = 0.99


@dataclass(frozen=True, eq=False)
class Reach:
    """The training set in the space of descriptors.

    Attributes:
        elements: of the training set; any other element is infinitely far.
        settings: of the descriptor.
        space: fitted to the training set; distances are in all its scaled features.
        neighbours: scikit-learn's search tree of the training structures.
        unit: distance to the nearest other training structure that 99 % of them have at most.
    """

    elements: tuple[str, ...]
    settings: SoapSettings
    space: Space
    neighbours: Any
    unit: float

    def novelty(self, structures: Sequence[Structure]) -> Array:
        """Return the distance of each structure to the nearest training structure, in units of ``unit``."""
        found = np.full(len(structures), np.inf)
        known = [k for k, s in enumerate(structures) if set(s.symbols) <= set(self.elements)]
        if known:
            features = np.array(list(describe_all((structures[k] for k in known), self.elements, self.settings)))
            found[known] = self.neighbours.kneighbors(self.space.normalise(features), 1)[0][:, 0] / self.unit
        return found


def reach_of(training: Sequence[Structure], settings: SoapSettings, scaling: Scaling = "standard") -> Reach:
    """Describe a training set.

    Raises:
        InputError: it is empty.
    """
    from sklearn.neighbors import NearestNeighbors

    elements = tuple(sorted({symbol for structure in training for symbol in structure.symbols}))
    features = np.array(list(describe_all(training, elements, settings)))
    space = fit_space(features, scaling)
    scaled = space.normalise(features)
    neighbours = NearestNeighbors().fit(scaled)
    unit = 0.0
    if len(training) > 1:
        nearest = neighbours.kneighbors(scaled, 2)[0][:, 1]
        unit = float(np.quantile(nearest, _USUAL)) or float(nearest.max())
    return Reach(elements, settings, space, neighbours, unit or 1.0)
