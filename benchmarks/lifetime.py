"""A service from its cold start through many jobs: how long until it listens, until a model is warm, and its memory.

    python benchmarks/lifetime.py [--model toy] [--jobs 2000] [--json FILE]

One worker relaxes structures of 4 atoms, each displaced anew, one after the other; it is never replaced
(``jobs_per_worker``), so that what it loses would add up.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ase.io
import click
from overhead import make_folder, relax_first, table
from serving import Service


def cold(service: Service, folder: Path) -> list[dict[str, Any]]:
    """Time the first calls."""
    made = [{"what": "service listens", "seconds": round(service.listening, 2), "memory_mb": round(service.memory())}]
    for what in ("first call: worker starts, model loads", "second call"):
        seconds = service.call(folder)
        made.append({"what": what, "seconds": round(seconds, 2), "memory_mb": round(service.memory())})
    return made


def go_on(service: Service, folder: Path, jobs: int, looks: int = 10) -> list[dict[str, Any]]:
    """Do many jobs and look at the memory now and then."""
    start = ase.io.read(folder / "POSCAR")
    rows, cpu, began = [], service.cpu(), time.perf_counter()
    for number in range(1, jobs + 1):
        atoms = start.copy()
        atoms.rattle(0.02, seed=number)
        atoms.write(folder / "POSCAR", format="vasp", direct=True, vasp5=True)
        if code := service.submit(folder):
            raise RuntimeError(f"job {number}: exit {code}")
        if number % max(1, jobs // looks) == 0:
            status = service.status()
            (worker,) = status["workers"]
            rows.append(
                {
                    "jobs": number,
                    "service_mb": status["memory_mb"],
                    "worker_mb": worker["memory_mb"],
                    "per_min": round(60 * number / (time.perf_counter() - began)),
                    "cpu_s_each": round((service.cpu() - cpu) / number, 3),
                }
            )
    return rows


@click.command(help=__doc__)
@click.option("--model", default="toy", show_default=True, help="Kind of calculator.")
@click.option("--jobs", default=2000, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the numbers here.")
def main(model: str, jobs: int, json_path: Path | None) -> None:
    with Service("--workers", "1", settings="[service]\njobs_per_worker = 1000000\n") as service:
        folder = make_folder(service.top / "search", model)
        starting = cold(service, folder)
        relax_first(folder, service.environment)
        later = go_on(service, folder, jobs)
    print(table(starting), table(later), sep="\n\n")
    if json_path:
        json_path.write_text(json.dumps({"model": model, "start": starting, "jobs": later}, indent=1) + "\n")


if __name__ == "__main__":
    main()
