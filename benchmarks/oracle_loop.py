"""A loop on true DFT labels that are looked up: how many does choice by disagreement need, and how many does chance.

    uspex-bridge dataset fetch
    python benchmarks/oracle_loop.py WORK        # hours on one core; a stopped run goes on where it ended

Two models of different make, CHGNet 0.3.0 and 0.2.0 as they come, screen the training part of the public sets. Where
they disagree most, one structure of each crystal (all its thermal copies are one) gets its label; both are fine-tuned
from the start on all labels so far; again. Beside it CHGNet 0.3.0 is fine-tuned on as many and more labels drawn at
random. Errors are those of PV on the test part. Leaves WORK/oracle.json, oracle.png and oracle.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.tables import layout
from uspex_bridge.base.units import pressure_of
from uspex_bridge.learn.choose.screen import Limits, Seen, screen
from uspex_bridge.learn.data.labels import trained_on
from uspex_bridge.learn.data.predictions import find_predictor, predict_all, structure_key
from uspex_bridge.learn.data.public_sets import read_set
from uspex_bridge.learn.judge.accuracy import Labelled, accuracy_of
from uspex_bridge.learn.training.order import Data, Order
from uspex_bridge.learn.training.run import train
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.results.model import Entry, composition_of
from uspex_bridge.results.surroundings import Surroundings

STARTS = {"chgnet-0.3.0": "0.3.0", "chgnet-0.2.0": "0.2.0"}
#: Labels a cycle; cycles; sizes of the random choice, each drawn so often.
BUDGET, CYCLES, RANDOM, DRAWS = 30, 4, (30, 60, 120, 240), 2
#: Largest cells that are labelled and tested; |ΔPV| that flags a structure, eV/atom; epochs of a training.
MOST_ATOMS, TESTED_ATOMS, FLAGGED, EPOCHS = 8, 10, 0.1, 20
#: Surroundings closer than this are one crystal (see uspex_bridge.learn.data.families).
SAME = 0.08


def usable(name: str, most: int) -> list[Atoms]:
    """Return the labels of a split, small cells, without those whose electrons hardly converged (Eu, Gd, P < -15)."""
    frames = [atoms for atoms in read_set("tp", name) if len(atoms) <= most and not {"Eu", "Gd"} & set(atoms.symbols)]
    return [trained_on(atoms) for atoms in frames if -15 < pressure_of(atoms.get_stress()) < 600]


def settings_of(model: str, folder: Path | None) -> CalculatorSettings:
    path = STARTS[model] if folder is None else str(folder / "model.pth.tar")
    return CalculatorSettings("chgnet", model=path, device="cpu", isolate=True)


def fine_tuned(model: str, frames: Sequence[Atoms], valid: Sequence[Atoms], out: Path) -> Path:
    """Train a model from its start on some labels, once."""
    if not (out / "model.json").is_file():
        data = Data({"structures": [atoms.info["name"] for atoms in frames]}, frames, valid)
        resume = (out / "work").exists()
        train(Order("chgnet", out, data, parent=STARTS[model], length=EPOCHS, device="cpu", resume=resume))
    return out


def errors(
    model: str, folder: Path | None, test: Sequence[Atoms], zero: Sequence[Atoms], work: Path
) -> dict[str, float]:
    """Return the mean absolute errors on the test part, one energy per element fitted on other structures."""
    labelled = Labelled(test, zero, foreign=folder is None)
    total = accuracy_of(labelled, {model: settings_of(model, folder)}, work / "answers").models[0].total
    return {name: getattr(total, name).mae for name in ("energy", "forces", "pv", "pressure")}


def screened(folders: dict[str, Path | None], pool: Sequence[Atoms], work: Path) -> Any:
    """Let both models say what they think of the pool."""
    structures = [to_structure(atoms) for atoms in pool]
    asked = {structure_key(structure): structure for structure in structures}
    answers = [
        predict_all(find_predictor(name, settings_of(name, folder)), asked, work / "answers")
        for name, folder in folders.items()
    ]
    seen = [
        Seen(Entry("pool", k, composition_of(one.symbols)), one, tuple(each[structure_key(one)] for each in answers))
        for k, one in enumerate(structures)
    ]
    return screen(seen, list(folders), Limits(pv=FLAGGED), offsets=True)


def worst_crystals(found: Any, pool: Sequence[Atoms], taken: Sequence[int], count: int) -> list[int]:
    """Return the places of the structures with the largest |ΔPV|, one of each crystal, none that has a label."""
    known = [(pool[k].info["family"], Surroundings(to_structure(pool[k]))) for k in taken]
    chosen: list[int] = []
    for verdict in sorted(found.verdicts, key=lambda one: -one.delta_pv):
        family, mine = pool[verdict.entry.id].info["family"], Surroundings(verdict.structure)
        if any(family == name and mine.within(other, SAME) and _same_volume(mine, other) for name, other in known):
            continue
        chosen.append(verdict.entry.id)
        known.append((family, mine))
        if len(chosen) == count:
            break
    return chosen


def _same_volume(one: Surroundings, other: Surroundings) -> bool:
    volumes = [each.structure.volume / len(each.structure) for each in (one, other)]
    return abs(volumes[0] - volumes[1]) < 0.05 * max(volumes)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
def main(work: Path) -> None:
    """Run the loop and the random choice."""
    os.environ["OMP_NUM_THREADS"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    pool, test = usable("train", MOST_ATOMS), usable("test", TESTED_ATOMS)
    valid = usable("valid", MOST_ATOMS)[::2]
    zero = [atoms for atoms in [*pool, *valid] if pressure_of(atoms.get_stress()) < 30]
    facts: dict[str, Any] = {"pool": len(pool), "test": len(test), "budget": BUDGET, "flagged_above": FLAGGED}
    facts |= {"cycles": [], "random": []}
    folders: dict[str, Path | None] = dict.fromkeys(STARTS)
    taken: list[int] = []
    for cycle in range(CYCLES + 1):
        found = screened(folders, pool, work)
        apart = np.array([verdict.delta_pv for verdict in found.verdicts])
        facts["cycles"].append(
            {
                "cycle": cycle,
                "labels": len(taken),
                "flagged": int((apart > FLAGGED).sum()),
                "mean_delta_pv": float(apart.mean()),
                **{name: errors(name, folder, test, zero, work) for name, folder in folders.items()},
            }
        )
        report(work, facts)
        if cycle == CYCLES:
            break
        taken += worst_crystals(found, pool, taken, BUDGET)
        labels = [pool[k] for k in taken]
        folders = {name: fine_tuned(name, labels, valid, work / f"cycle-{cycle + 1}-{name}") for name in STARTS}
    first = next(iter(STARTS))
    for size in RANDOM:
        for draw in range(DRAWS):
            places = np.random.default_rng([size, draw]).permutation(len(pool))[:size]
            folder = fine_tuned(first, [pool[k] for k in places], valid, work / f"random-{size}-{draw}")
            facts["random"].append({"labels": size, "draw": draw, first: errors(first, folder, test, zero, work)})
            report(work, facts)


def report(work: Path, facts: dict[str, Any]) -> None:
    """Write what is known so far as JSON, a table and a figure."""
    (work / "oracle.json").write_text(json.dumps(facts, indent=1) + "\n")
    (work / "oracle.md").write_text(table(facts) + "\n")
    draw(facts, work / "oracle.png")


def table(facts: dict[str, Any]) -> str:
    first, second = STARTS
    headings = [
        ("labels", ""),
        (f"|ΔPV| > {facts['flagged_above']:g}", f"of {facts['pool']}"),
        ("mean |ΔPV|", "meV/atom"),
    ]
    headings += [(f"{name}: PV", "meV/atom") for name in STARTS] + [("E", "meV/atom"), ("F", "meV/Å"), ("P", "GPa")]
    rows = [
        [
            str(one["labels"]),
            str(one["flagged"]),
            f"{1000 * one['mean_delta_pv']:.0f}",
            *(f"{1000 * one[name]['pv']:.0f}" for name in (first, second)),
            *(f"{1000 * one[first][quantity]:.0f}" for quantity in ("energy", "forces")),
            f"{one[first]['pressure']:.1f}",
        ]
        for one in facts["cycles"]
    ]
    for size in dict.fromkeys(one["labels"] for one in facts["random"]):
        drawn = [one[first] for one in facts["random"] if one["labels"] == size]
        means = {quantity: float(np.mean([one[quantity] for one in drawn])) for quantity in drawn[0]}
        numbers = [f"{1000 * means['pv']:.0f}", "", f"{1000 * means['energy']:.0f}", f"{1000 * means['forces']:.0f}"]
        rows.append([f"{size} at random", "", "", *numbers, f"{means['pressure']:.1f}"])
    return layout(headings, rows)


def draw(facts: dict[str, Any], path: Path) -> None:
    from uspex_bridge.figures import style

    first = next(iter(STARTS))

    @style.styled
    def make() -> Any:
        figure = style.new_figure(style.PAGE, 0.36)
        left, right = figure.subplots(1, 2)
        cycles = facts["cycles"]
        left.plot([c["labels"] for c in cycles], [c["flagged"] for c in cycles], marker="o", color=style.PALETTE[1])
        left.set(xlabel="labels", ylabel=f"structures with |ΔPV| > {facts['flagged_above']:g} eV/atom")
        right.plot(
            [c["labels"] for c in cycles],
            [1000 * c[first]["pv"] for c in cycles],
            marker="o",
            color=style.PALETTE[0],
            label="where the models disagree",
        )
        sizes = list(dict.fromkeys(one["labels"] for one in facts["random"]))
        drawn = [[1000 * one[first]["pv"] for one in facts["random"] if one["labels"] == size] for size in sizes]
        if sizes:
            means = [np.mean(values) for values in drawn]
            right.plot(sizes, means, marker="s", color=style.INK, ls="--", label="at random")
            for size, values in zip(sizes, drawn, strict=True):
                right.plot([size] * len(values), values, ls="", marker="_", color=style.INK)
        right.set(xlabel="labels", ylabel=f"error of PV on the test part (meV/atom), {first}")
        right.legend()
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.grid(color=style.GRID, lw=0.5)
        return figure

    style.save(make(), path)


if __name__ == "__main__":
    main()
