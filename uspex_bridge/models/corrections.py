"""What is added to a model's energy, forces and stress, whatever the model: dispersion, repulsion at short range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.models.cards import CalculatorSettings, KnownModel
from uspex_bridge.models.evaluate import Answer, Results

Many = Callable[[Sequence[Atoms]], list[Answer]]


@dataclass(frozen=True)
class Correction:
    """A term that is added.

    Attributes:
        identity: key of the model's identity -> what it says there.
        elements: those it has parameters for.
        evaluate: returns energy (eV), forces (N, 3) (eV/Å) and stress (6,) (eV/Å³, ASE's sign and order).
        absolute: it shifts the energies of sound structures too, so that they leave the scale of the model's labels.
    """

    identity: dict[str, str]
    elements: frozenset[str]
    evaluate: Callable[[Atoms], Results]
    absolute: bool


def corrections(name: str, settings: CalculatorSettings, known: KnownModel | None) -> list[Correction]:
    """Return the corrections that a calculator's settings ask for.

    Args:
        name: of the calculator, for messages.
        settings: of the calculator.
        known: the weights, where they go by a name.

    Raises:
        ConfigError: a correction that there is not, or that this model must not have.
        ModelError: its package is not installed.
    """
    found = []
    if settings.dispersion:
        from uspex_bridge.models.dispersion import dispersion

        found.append(dispersion(name, settings.dispersion, known))
    if settings.repulsion:
        from uspex_bridge.models.repulsion import repulsion

        found.append(repulsion(settings.repulsion_range))
    return found


def corrected(many: Many, terms: Sequence[Correction]) -> Many:
    """Return a function that evaluates structures as ``many`` and adds the terms to each of its own."""

    def evaluate(structures: Sequence[Atoms]) -> list[Answer]:
        return [_added(found, atoms, terms) for found, atoms in zip(many(structures), structures, strict=True)]

    return evaluate


def _added(found: Answer, atoms: Atoms, terms: Sequence[Correction]) -> Answer:
    if isinstance(found, CalculationError):
        return found
    total: dict[str, Any] = dict(found)
    try:
        for term in terms:
            for key, value in term.evaluate(atoms).items():
                total[key] = total[key] + value
                if key == "energy":
                    total["free_energy"] = total["free_energy"] + value
    except CalculationError as error:
        return error
    return total
