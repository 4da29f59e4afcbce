"""What a batch gains on a device, what it takes of its memory, and whether its numbers are those of the CPU.

    python benchmarks/batch_sizes.py [--models chgnet,mace=FILE] [--device cuda] [--atoms 8,24] [--batches 1,4,16,64]

Wall time of energy, forces and stress of random Ca-Fe-Ni cells as dense as at 50 GPa, in µs per atom and structure; the
best of --rounds counts. The first line of each size is the package's own ASE calculator on that device, one structure
after the other. Batches double until they no longer fit the memory. *differs* is the largest difference from the same
model on the CPU: energies in eV/atom, forces in eV/Å.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase.calculators.calculator import all_changes
from evaluation import candidate, package_calculator

from uspex_bridge.base.errors import OutOfMemoryError
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings


def seconds(function: Callable[[], Any], rounds: int) -> float:
    """Return the shortest wall time of some calls, s; answers are on the host, so that the device has ended."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory(device: str, function: Callable[[], Any]) -> float | None:
    """Return the device's memory that PyTorch held at most during a call, MB; None on the CPU."""
    if device == "cpu":
        function()
        return None
    import torch

    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() / 1e6


def measure(name: str, device: str, sizes: list[int], batches: list[int], rounds: int) -> list[dict[str, Any]]:
    """Measure one model."""
    kind, _, path = name.partition("=")
    rows: list[dict[str, Any]] = []
    on = CalculatorSettings(kind=kind, model=path or None, device=device)
    with (
        backends.load(kind, on) as backend,
        backends.load(kind, CalculatorSettings(kind=kind, model=path or None, device="cpu")) as cpu,
    ):
        own = package_calculator(kind, path or None, device)
        for atoms in sizes:
            some = [candidate(atoms, seed) for seed in range(4)]

            def one_by_one(structures: list[Any] = some) -> None:
                for structure in structures:
                    own.calculate(structure.copy(), ["energy", "forces", "stress"], list(all_changes))

            one_by_one()
            loop = 1e6 * seconds(one_by_one, rounds) / (atoms * len(some))
            rows.append({"model": kind, "atoms": atoms, "batch": "ASE", "us_per_atom": loop})
            show(rows[-1])
            expected = cpu.evaluate_many(some)
            for batch in batches:
                structures = [candidate(atoms, seed) for seed in range(batch)]
                try:
                    backend.evaluate_many(structures)  # warm
                    took = seconds(lambda s=structures: backend.evaluate_many(s), rounds)  # type: ignore[misc]
                    memory = peak_memory(device, lambda s=structures: backend.evaluate_many(s))  # type: ignore[misc]
                except OutOfMemoryError as error:
                    print(f"{kind}: {batch} x {atoms} atoms do not fit: {error}", flush=True)
                    break
                pairs = list(zip(backend.evaluate_many(structures), expected, strict=False))
                rows.append(
                    {
                        "model": kind,
                        "atoms": atoms,
                        "batch": batch,
                        "us_per_atom": 1e6 * took / (atoms * batch),
                        "ratio": loop / (1e6 * took / (atoms * batch)),
                        "memory_mb": memory,
                        "energy_differs": max(abs(a["energy"] - b["energy"]) for a, b in pairs) / atoms,
                        "force_differs": max(float(np.abs(a["forces"] - b["forces"]).max()) for a, b in pairs),
                    }
                )
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    memory = f"{row['memory_mb']:.0f}" if row.get("memory_mb") else "-"
    more = (
        (f"{row['ratio']:.2f}", memory, f"{row['energy_differs']:.0e}", f"{row['force_differs']:.0e}")
        if "ratio" in row
        else ("1", "-", "-", "-")
    )
    cells = (row["model"], row["atoms"], row["batch"], f"{row['us_per_atom']:.1f}", *more)
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def numbers(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


@click.command(help=__doc__)
@click.option("--models", default="chgnet,sevennet", help="KIND or KIND=FILE, between commas.")
@click.option("--device", default="cuda")
@click.option("--atoms", default="8,24,64", callback=numbers)
@click.option("--batches", default="1,4,16,64,256,1024", callback=numbers)
@click.option("--rounds", default=3)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there.")
def main(models: str, device: str, atoms: list[int], batches: list[int], rounds: int, json_path: Path | None) -> None:
    """Print the table."""
    print("| model | atoms | batch | µs per atom | ratio | memory, MB | differs, eV/atom | eV/Å |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for name in models.split(","):
        rows += measure(name, device, atoms, batches, rounds)
    if json_path:
        json_path.write_text(json.dumps({"device": device_name(device), "rows": rows}, indent=1))


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    if device == "cpu":
        return platform.processor() or platform.machine()
    import torch

    return str(torch.cuda.get_device_name(device))


if __name__ == "__main__":
    main()
