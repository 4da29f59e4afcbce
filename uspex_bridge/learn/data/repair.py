"""What of a dataset's files is not as it was written, and taking it as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import checksum
from uspex_bridge.base.units import pressure_of
from uspex_bridge.learn.data.labels import Label, free_energy, identity_of, problem_of, read_frames


def count_frames(path: Path) -> int:
    """Return how many whole headers of frames an extxyz file has, without reading the frames."""
    count = 0
    with path.open("rb") as stream:
        while (line := stream.readline().strip()).isdigit():
            count += 1
            for _ in range(int(line) + 1):
                stream.readline()
    return count


def differences(path: Path, labels: Sequence[Label]) -> list[str]:
    """Return what of a file's frames is not what their labels say."""
    try:
        images = read_frames(path)
    except InputError as error:
        return [str(error)]
    found = []
    if len(images) > len(labels):
        found.append(f"{len(images)} frames for {len(labels)} labels")
    present = {identity_of(atoms): atoms for atoms in images}
    for label in labels:
        name = f"{label.id} ({label.formula}, frame {label.index + 1})"
        if (atoms := present.get(label.id)) is None:
            found.append(f"{name} is gone")
        elif problem := problem_of(atoms):
            found.append(f"{name}: {problem}")
        elif not math.isclose(free_energy(atoms), label.energy, rel_tol=0, abs_tol=1e-6):
            found.append(f"{name}: energy {free_energy(atoms):.6f} instead of {label.energy:.6f} eV")
    gone = [text for text in found if text.endswith("is gone")]
    if len(gone) > 3:
        found = [text for text in found if text not in gone] + [f"{len(gone)} frames are gone"]
    return found or ["forces, stress or text"]


def as_they_are(path: Path, labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Return the manifest's lines that make a changed file's frames the truth."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    places: dict[str, tuple[int, Atoms]] = {}
    sha256 = ""
    if path.is_file():
        sha256 = checksum(path)
        places = {identity_of(atoms): (k, atoms) for k, atoms in enumerate(read_frames(path))}
    lines: list[dict[str, Any]] = []
    for label in labels:
        index, atoms = places.get(label.id, (0, None))
        if atoms is None or problem_of(atoms):
            lines.append({"id": label.id, "withdrawn": "by hand", "time": now})
            continue
        results = atoms.calc.results
        changed = replace(
            label,
            index=index,
            sha256=sha256,
            time=now,
            energy=free_energy(atoms),
            own_pressure_gpa=round(pressure_of(results["stress"]), 6),
            fmax=float(np.linalg.norm(results["forces"], axis=1).max()),
        )
        lines.append(asdict(changed))
    return lines
