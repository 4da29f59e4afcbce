"""Where a self-consistent calculation stands, and its file, so that it goes on bit for bit where it was stopped."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import write_whole
from uspex_bridge.vibrations.ensemble import Ensemble

_ARRAYS = ("cell", "scaled", "phi", "displacements", "energies", "forces", "stresses")


@dataclass(frozen=True)
class Population:
    """What was found after one batch of configurations; per unit cell where an energy is meant.

    Attributes:
        number: counts the batches from 0.
        configs: configurations of the Gaussian at hand, those of earlier batches from it included.
        evaluations: of the model so far, all kinds.
        g, g_error: F + PV on the supercell's wave vectors alone and its standard error, eV, earlier populations
            averaged in.
        variance_share: share of the error's square that the surrogate's help leaves, 1 without it.
        pressure_gpa, pressure_error: of the crystal, not the target.
        force, force_error: largest mean force on a centroid, eV/Å.
        strain, strain_error: what the cell lacks to be the one at the pressure.
        gain: about how much G would fall if the force constants were those of the fit, eV.
        r2: share of the forces that the fit explains.
        ess: effective number of configurations in the fit.
        volume: Å³.
        lowest_thz: lowest frequency of the Gaussian's modes.
        rms: largest root mean square displacement over the distance to the nearest atom.
        self_consistent: whether force constants, centroids and cell are what they should be.
    """

    number: int
    configs: int
    evaluations: int
    g: float
    g_error: float
    variance_share: float
    pressure_gpa: float
    pressure_error: float
    force: float
    force_error: float
    strain: float
    strain_error: float
    gain: float
    r2: float
    ess: float
    volume: float
    lowest_thz: float
    rms: float
    self_consistent: bool


@dataclass(frozen=True)
class Found:
    """What one population says by itself: G, eV per unit cell, and the stress along the strains (D,), eV/Å³."""

    g: float
    g_error: float
    stress: tuple[float, ...]
    stress_error: tuple[float, ...]


@dataclass
class State:
    """A calculation between two batches.

    Attributes:
        cell, scaled, phi: what the next configurations are drawn from.
        stiffness: against the strains that may change the cell, (D, D), eV/Å³.
        pool: earlier populations, each of another Gaussian.
        current: configurations of the present Gaussian so far, None before the first.
        found: what each population of ``pool`` and ``current`` found.
        history: one entry per batch.
        evaluations: of the model so far.
        lowest_harmonic_thz: lowest frequency of the harmonic start.
    """

    cell: Array
    scaled: Array
    phi: Array
    stiffness: Array
    pool: list[Ensemble] = field(default_factory=list)
    current: Ensemble | None = None
    found: list[Found] = field(default_factory=list)
    history: list[Population] = field(default_factory=list)
    evaluations: int = 0
    lowest_harmonic_thz: float = 0.0


def save_state(path: Path, state: State, key: str) -> None:
    """Write a state; the file is whole or the old one.

    Raises:
        OutputError: it cannot be written.
    """
    ensembles = [*state.pool, *([] if state.current is None else [state.current])]
    head = {
        "key": key,
        "pool": len(state.pool),
        "failed": [e.failed for e in ensembles],
        "found": [asdict(one) for one in state.found],
        "history": [asdict(entry) for entry in state.history],
        "evaluations": state.evaluations,
        "lowest_harmonic_thz": state.lowest_harmonic_thz,
    }
    arrays: dict[str, Any] = {
        "cell": state.cell,
        "scaled": state.scaled,
        "phi": state.phi,
        "stiffness": state.stiffness,
    }
    for number, ensemble in enumerate(ensembles):
        arrays |= {f"{name}_{number}": getattr(ensemble, name) for name in _ARRAYS}
    text = io.BytesIO()
    np.savez(text, head=np.array(json.dumps(head)), **arrays)
    write_whole(path, text.getvalue())


#: What reading arrays from a damaged file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def load_state(path: Path, key: str) -> State | None:
    """Read a state, or return None where there is none or it belongs to another calculation.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            if head["key"] != key:
                return None
            ensembles = [
                Ensemble(**{name: file[f"{name}_{number}"] for name in _ARRAYS}, failed=failed)
                for number, failed in enumerate(head["failed"])
            ]
            return State(
                file["cell"],
                file["scaled"],
                file["phi"],
                file["stiffness"],
                ensembles[: head["pool"]],
                ensembles[head["pool"]] if len(ensembles) > head["pool"] else None,
                [
                    Found(one["g"], one["g_error"], *map(tuple, (one["stress"], one["stress_error"])))
                    for one in head["found"]
                ],
                [Population(**entry) for entry in head["history"]],
                head["evaluations"],
                head["lowest_harmonic_thz"],
            )
    except DAMAGED as error:
        raise InputError(f"{path}: no state of a free-energy calculation ({error}); remove it to start again") from None
