"""What ending relaxations early saves, and how far the extrapolation behind it can be trusted.

    python benchmarks/early_end.py --candidates 60 --model mattersim:WEIGHTS --lines OUT.jsonl

Random Ca-Fe-Ni candidates at 0 and 50 GPa are relaxed to 0.01 eV/Å and 0.1 GPa. After every step the descent so far
is extrapolated as for `stop_above`. OUT.jsonl gets the enthalpies of each relaxation; a second call goes on where the
first one ended. The table says what share of its steps a structure does not need if it ends so far above the limit, and
by how much structures ended below their extrapolation, the worst two. Symmetric starts are not ended early; they have
rows of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from optimizers import loaded, start_of

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.relaxation import engine
from uspex_bridge.relaxation.descent import extrapolated
from uspex_bridge.relaxation.protocol import Plan, Stage, load_protocol

#: Optimizers to 1 and to 0.01 eV/Å, and their longest step, Å.
METHODS = {"TRQN, TRQN": ("TRQN", "TRQN", 0.35), "FIRE, BFGS": ("FIRE", "BFGS", 0.2)}
PRESSURES = (0.0, 0.0, 50.0, 50.0)
ABOVE = (0.3, 0.5, 1.0)


def relax(method: str, index: int, pressure: float, model: Any) -> dict[str, Any]:
    """Return the enthalpy of each step of a relaxation, eV/atom, and that of its end."""
    first, last, maxstep = METHODS[method]
    stages = (
        Stage("rough", "model", 1.0, first, steps=300, maxstep=maxstep),
        Stage("fine", "model", 0.01, last, stress=0.1, steps=300, maxstep=maxstep),
    )
    guards = replace(load_protocol("paper").guards, hole="off")
    structure = start_of("cafeni", index, pressure)
    steps: list[float] = []
    plan = Plan(stages, guards, Intent(pressure_gpa=pressure, nsw=1500))
    try:
        result = engine.relax(
            structure, plan, lambda name: model, observe=lambda s: steps.append(s.enthalpy / len(structure))
        )
    except BridgeError as error:
        return {"ended": str(error)}
    return {"ended": "converged" if result.converged else "unconverged", "end": result.enthalpy / len(structure)} | {
        "steps": steps
    }


def rows(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a row of the table for each kind of start and method."""
    for starts, parity in (("without symmetry", 0), ("symmetric", 1)):
        for method in METHODS:
            chosen = [r for r in lines if r["method"] == method and r["index"] % 2 == parity and "end" in r]
            wrong, needed, taken = [], dict.fromkeys(ABOVE, 0), 0
            for line in chosen:
                steps = line["steps"]
                ends = [extrapolated(steps[:k]) for k in range(1, len(steps) + 1)]
                over = [-9.0 if end is None else end - line["end"] for end in ends]
                wrong.append(max(0.0, *over))
                taken += len(steps)
                for above in ABOVE:
                    needed[above] += next((k for k, o in enumerate(over, 1) if o > -above), len(steps))
            if chosen:
                saved = " | ".join(f"{1 - needed[above] / taken:.0%}" for above in ABOVE)
                worst = ", ".join(f"{value:.2f}" for value in sorted(wrong, reverse=True)[:2])
                yield f"| {starts} | {method} | {len(chosen)} | {saved} | {worst} |"


@click.command(help=__doc__)
@click.option("--candidates", default=60, show_default=True)
@click.option("--model", required=True, help="KIND or KIND:WEIGHTS.")
@click.option("--lines", type=click.Path(path_type=Path), required=True, help="JSONL of all relaxations; grows.")
def main(candidates: int, model: str, lines: Path) -> None:
    """Run what is missing and print the table."""
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    have, backend = {(line["method"], line["index"]) for line in done}, loaded(model)
    with lines.open("a") as out:
        for index in range(1, candidates + 1):
            pressure = PRESSURES[(index - 1) % len(PRESSURES)]
            for method in (m for m in METHODS if (m, index) not in have):
                done.append({"method": method, "index": index} | relax(method, index, pressure, backend))
                print(json.dumps(done[-1]), file=out, flush=True)
    heads = " | ".join(f"{above:g}" for above in ABOVE)
    print(f"| starts | optimizers | candidates | saved, {heads} | wrong by, eV/atom |\n|{'---|' * (4 + len(ABOVE))}")
    print("\n".join(rows(done)))


if __name__ == "__main__":
    main()
