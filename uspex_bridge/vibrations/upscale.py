"""A self-consistent calculation in a small supercell first, then in the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.vibrations.ensemble import Evaluate
from uspex_bridge.vibrations.report import FreeEnergy, Smaller
from uspex_bridge.vibrations.scha import scha
from uspex_bridge.vibrations.settings import Settings
from uspex_bridge.vibrations.supercell import Repeats, choose_repeats, symmetrised

#: Atoms from which on the cell itself is the small supercell, as in the paper (arXiv:2606.30870).
_CELL_ALONE = 9
#: G of both that differs by more is flagged, eV/atom; two standard errors if they are larger.
_AGREE = 0.002


def upscaled(
    structure: Structure,
    evaluate: Evaluate,
    settings: Settings,
    *,
    isotopes: Mapping[str, float] | None = None,
    state: Path | None = None,
    halt: Callable[[], str | None] = lambda: None,
) -> FreeEnergy:
    """Find a free energy as :func:`uspex_bridge.vibrations.scha.scha` does, through a smaller supercell.

    Cell, centroids and force constants of the small one, interpolated, are the start in the large one. The flag
    ``size-uncertain`` says that their G do not agree.

    Args:
        structure: the crystal, relaxed at 0 K.
        evaluate: the model.
        settings: what is asked; its supercell is the large one.
        isotopes: masses in amu in place of the elements' means.
        state: file to go on from; the small one has a file beside it (:func:`small_state`).
        halt: see there.

    Raises:
        ConfigError, ModelError, InputError, Rejected, CalculationError, Interrupted: see there.
    """
    structure = symmetrised(structure, settings.symprec)
    small, large = _sizes(structure, settings)
    settings = replace(settings, repeats=large)
    if small == large:
        return scha(structure, evaluate, settings, isotopes=isotopes, state=state, halt=halt)
    path = None if state is None else small_state(state)
    first = scha(structure, evaluate, replace(settings, repeats=small), isotopes=isotopes, state=path, halt=halt)
    last = scha(structure, evaluate, settings, isotopes=isotopes, start=first, state=state, halt=halt)
    apart = abs(last.g - first.g)
    agree = apart <= max(_AGREE * len(structure), 2.0 * float(np.hypot(last.error, first.error)))
    return replace(
        last,
        evaluations=first.evaluations + last.evaluations,
        smaller=Smaller(small, first.g, first.error),
        flags=last.flags if agree else (*last.flags, "size-uncertain"),
    )


def small_state(state: Path) -> Path:
    """Return the file of the small supercell's state."""
    return state.with_suffix(".small.npz")


def _sizes(structure: Structure, settings: Settings) -> tuple[Repeats, Repeats]:
    """Return the small and the large supercell of a structure whose symmetry is exact."""
    large = choose_repeats(structure, settings.min_image, settings.repeats)
    small = choose_repeats(structure, 0.5 * settings.min_image, (1, 1, 1) if len(structure) >= _CELL_ALONE else None)
    return (large if np.prod(small) >= np.prod(large) else small), large
