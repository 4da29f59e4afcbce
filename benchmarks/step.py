"""What TRQN itself costs beside the evaluations of a model.

    python benchmarks/step.py [--model chgnet] [--atoms 24,64,128,256] [--steps 30]

A random Ca-Fe-Ni cell as dense as at 50 GPa is relaxed for so many steps, atoms and cell. CPU time on one thread of the
model's evaluations and of everything else in the optimizer's steps, per step.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
from ase import Atoms
from evaluation import candidate

from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.evaluate import Evaluator
from uspex_bridge.relaxation.cell import movable
from uspex_bridge.relaxation.trqn import TRQN


class Timed:
    """A model that adds up the CPU time of its evaluations."""

    def __init__(self, backend: backends.Backend) -> None:
        self.backend, self.seconds = backend, list[float]()

    def __call__(self, atoms: Atoms) -> dict[str, Any]:
        """Evaluate one structure."""
        start = time.process_time()
        (found,) = self.backend.evaluate_many([atoms])
        self.seconds.append(time.process_time() - start)
        return found


@click.command()
@click.option("--model", default="chgnet", help="Kind of the model, or KIND:WEIGHTS.")
@click.option("--atoms", default="24,64,128,256")
@click.option("--steps", default=30)
def main(model: str, atoms: str, steps: int) -> None:
    """Print a line per size."""
    limit_threads(1)
    kind, _, weights = model.partition(":")
    with backends.load(kind, CalculatorSettings(kind=kind, model=weights or None, device="cpu")) as backend:
        print("atoms  evaluation, ms  TRQN, ms  share, %")
        for size in map(int, atoms.split(",")):
            structure, timed = candidate(size, seed=1), Timed(backend)
            structure.calc = Evaluator(timed)
            optimizer = TRQN(movable(structure, ions=True, cell="full", pressure_gpa=50.0), logfile=None)
            structure.get_forces()  # warm
            timed.seconds, start = [], time.process_time()
            optimizer.run(fmax=1e-9, steps=steps)
            whole, mean = time.process_time() - start, float(np.median(timed.seconds))
            own = (whole - sum(timed.seconds)) / len(timed.seconds)
            print(f"{size:5d}  {1e3 * mean:14.1f}  {1e3 * own:8.1f}  {100 * own / mean:8.1f}", flush=True)


if __name__ == "__main__":
    main()
