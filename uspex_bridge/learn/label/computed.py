"""Labels computed through ASE: by GPAW's script in its own interpreter, or by a foundation model that stands in.

Both leave ``label.json``, with the numbers in full.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import CalculationError, InputError
from uspex_bridge.base.files import publish_files
from uspex_bridge.learn.label.tasks import RESULT, LabelTask
from uspex_bridge.models.backends import Backend


def read(folder: Path, task: LabelTask) -> Atoms:
    """Read ``label.json`` as a label.

    Returns:
        the structure as it was prepared, with energy (E0), free_energy (F), forces, stress and moments.

    Raises:
        InputError: it cannot be used, and why.
    """
    try:
        found: dict[str, Any] = jsonl.loads((folder / RESULT).read_text(encoding="utf-8"))
        return _labelled(found, task)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{RESULT} cannot be read: {error}") from None


def _labelled(found: dict[str, Any], task: LabelTask) -> Atoms:
    if found.get("id") != task.id or found.get("key") != task.key:
        raise InputError(f"{RESULT} was computed from other input than {task.id}'s")
    if not found.get("converged"):
        raise InputError(str(found.get("reason", "not converged")))
    results: dict[str, Any] = {}
    for name, shape in (("forces", (len(task.symbols), 3)), ("stress", (6,)), ("magmoms", (len(task.symbols),))):
        if found.get(name) is not None:
            results[name] = np.array(found[name], dtype=float)
            if results[name].shape != shape:
                raise InputError(f"{name} in {RESULT} have shape {results[name].shape} instead of {shape}")
    for name in ("energy", "free_energy", "magmom"):
        if found.get(name) is not None:
            results[name] = float(found[name])
    atoms = task.atoms
    atoms.info["provenance"] |= {"version": found["version"], "potentials": dict(found.get("potentials") or {})}
    if found.get("core_hours") is not None:
        atoms.info["provenance"]["core_hours"] = float(found["core_hours"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def compute(folder: Path, task: LabelTask, backend: Backend) -> str:
    """Compute a label with a loaded model and leave ``label.json``; returns why that failed, empty where it did not.

    Raises:
        OutputError: the file cannot be written.
    """
    identity = backend.identity
    weights = " ".join(filter(None, (identity["kind"], identity["model"], identity["sha256"], identity["head"])))
    label: dict[str, Any] = {
        "id": task.id,
        "key": task.key,
        "version": identity["package"],
        # Other weights under the same name are another level of theory; the dataset then refuses them.
        "potentials": dict.fromkeys(task.symbols, weights),
    }
    reason, began = "", time.process_time()
    try:
        backend.check_elements(task.symbols)
        backend.calculator.calculate(task.atoms)
        results = backend.calculator.results
        label |= {"converged": True} | {name: np.asarray(values).tolist() for name, values in results.items()}
    except (InputError, CalculationError) as error:
        reason = str(error)
        label |= {"converged": False, "reason": reason}
    label["core_hours"] = round((time.process_time() - began) / 3600, 6)
    publish_files(folder, {RESULT: json.dumps(label)})
    return reason
