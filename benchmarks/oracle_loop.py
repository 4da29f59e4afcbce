"""A loop on DFT labels that are looked up: how many does choice by disagreement need, and how many does chance.

    uspex-bridge dataset fetch
    python benchmarks/oracle_loop.py WORK        # about an hour of one core; a stopped run goes on where it ended

Two models, CHGNet 0.3.0 and 0.2.0 as they come, screen the training part of the public sets. Where they disagree most,
one structure of each crystal (all its thermal copies are one) gets its label. Both are fine-tuned from the start on all
labels so far, and screen again. Beside it CHGNet 0.3.0 is fine-tuned on as many and twice as many labels drawn at
random: from all structures, and from one of each crystal, which tells what disagreement adds to leaving copies out.
Errors are those of PV on the test part. Leaves WORK/oracle.json, oracle.png and oracle.md.
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
from uspex_bridge.learn.data.predictions import find_predictor, predict_frames
from uspex_bridge.learn.data.public_sets import read_set
from uspex_bridge.learn.judge.accuracy import Labelled, accuracy_of
from uspex_bridge.learn.training.order import Data, Order
from uspex_bridge.learn.training.run import train
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.model import Entry, composition_of

STARTS = {"chgnet-0.3.0": "0.3.0", "chgnet-0.2.0": "0.2.0"}
#: Largest cells that are labelled and tested; thresholds of |ΔPV|, eV/atom.
MOST_ATOMS, TESTED_ATOMS, FLAGGED = 6, 10, (0.1, 1.0)
#: Laid over the trainer's template: few labels need small batches.
SETTINGS = "[input]\nbatch_size = 4\n"
#: Surroundings closer than this are one crystal (see uspex_bridge.learn.data.families).
SAME = 0.08


def usable(name: str, most: int) -> list[Atoms]:
    """Return the labels of a split, small cells, without those whose electrons hardly converged (Eu, Gd, P < -15)."""
    frames = [atoms for atoms in read_set("tp", name) if len(atoms) <= most and not {"Eu", "Gd"} & set(atoms.symbols)]
    return [trained_on(atoms) for atoms in frames if -15 < pressure_of(atoms.get_stress()) < 600]


def settings_of(model: str, folder: Path | None) -> CalculatorSettings:
    path = STARTS[model] if folder is None else str(folder / "model.pth.tar")
    return CalculatorSettings("chgnet", model=path, device="cpu")


def fine_tuned(model: str, frames: Sequence[Atoms], out: Path, epochs: int) -> Path:
    """Train a model from its start on some labels, once; a quarter of them validates, and no further label is used."""
    if not (out / "model.json").is_file():
        data = Data({"structures": [atoms.info["name"] for atoms in frames]}, frames, frames[::4])
        resume = (out / "work").exists()
        own = out.parent / "train.toml"
        own.write_text(SETTINGS, encoding="utf-8")
        train(Order("chgnet", out, data, (own,), parent=STARTS[model], length=epochs, device="cpu", resume=resume))
    return out


def errors(model: str, folder: Path | None, test: Sequence[Atoms], work: Path) -> dict[str, float]:
    """Return the mean absolute errors on the test part; energies, whose zero has to be fitted, are left out."""
    total = accuracy_of(Labelled(test), {model: settings_of(model, folder)}, work / "answers").models[0].total
    return {name: getattr(total, name).mae for name in ("forces", "pv", "pressure")}


def screened(folders: dict[str, Path | None], pool: Sequence[Atoms], work: Path) -> Any:
    """Let both models say what they think of the pool."""
    answers = [
        predict_frames(find_predictor(name, settings_of(name, folder)), pool, work / "answers")
        for name, folder in folders.items()
    ]
    seen = [
        Seen(Entry("pool", k, composition_of(tuple(atoms.symbols))), to_structure(atoms), said)
        for k, (atoms, said) in enumerate(zip(pool, zip(*answers, strict=True), strict=True))
    ]
    return screen(seen, list(folders), Limits(pv=FLAGGED[0]), offsets=True)


def worst_crystals(found: Any, pool: Sequence[Atoms], taken: Sequence[int], count: int) -> list[int]:
    """Return the places of the structures with the largest |ΔPV|, one of each crystal, none that has a label."""
    return new_crystals([v.entry.id for v in sorted(found.verdicts, key=lambda v: -v.delta_pv)], pool, taken, count)


def new_crystals(places: Sequence[int], pool: Sequence[Atoms], taken: Sequence[int], count: int) -> list[int]:
    """Return the first places whose crystals are neither among those taken nor named before."""
    known = [(pool[k].info["family"], Surroundings(to_structure(pool[k]))) for k in taken]
    chosen: list[int] = []
    for k in places:
        family, mine = pool[k].info["family"], Surroundings(to_structure(pool[k]))
        if any(family == name and mine.within(other, SAME) and _same_volume(mine, other) for name, other in known):
            continue
        chosen.append(k)
        known.append((family, mine))
        if len(chosen) == count:
            break
    return chosen


def _same_volume(one: Surroundings, other: Surroundings) -> bool:
    volumes = [each.structure.volume / len(each.structure) for each in (one, other)]
    return abs(volumes[0] - volumes[1]) < 0.05 * max(volumes)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--budget", default=20, show_default=True, help="Labels a cycle.")
@click.option("--cycles", default=3, show_default=True, help="Cycles.")
@click.option("--draws", default=2, show_default=True, help="Random choices of each size.")
@click.option("--epochs", default=15, show_default=True, help="Epochs of a training.")
def main(work: Path, budget: int, cycles: int, draws: int, epochs: int) -> None:
    """Run the loop and the random choice; a WORK folder is for one set of options."""
    os.environ["OMP_NUM_THREADS"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    pool, test = usable("train", MOST_ATOMS), usable("test", TESTED_ATOMS)
    facts: dict[str, Any] = {"pool": len(pool), "test": len(test), "budget": budget, "flagged_above": list(FLAGGED)}
    facts |= {"cycles": [], "random": [], "random crystals": []}
    folders: dict[str, Path | None] = dict.fromkeys(STARTS)
    taken: list[int] = []
    for cycle in range(cycles + 1):
        found = screened(folders, pool, work)
        apart = np.array([verdict.delta_pv for verdict in found.verdicts])
        facts["cycles"].append(
            {
                "cycle": cycle,
                "labels": len(taken),
                "flagged": [int((apart > limit).sum()) for limit in FLAGGED],
                "mean_delta_pv": float(apart.mean()),
                **{name: errors(name, folder, test, work) for name, folder in folders.items()},
            }
        )
        report(work, facts)
        if cycle == cycles:
            break
        taken += worst_crystals(found, pool, taken, budget)
        labels = [pool[k] for k in taken]
        folders = {name: fine_tuned(name, labels, work / f"cycle-{cycle + 1}-{name}", epochs) for name in STARTS}
    first = next(iter(STARTS))
    for draw in range(draws):
        order = np.random.default_rng([draw]).permutation(len(pool)).tolist()
        for arm, size in (
            ("random", 2 * budget * cycles),
            ("random", budget * cycles),
            ("random crystals", budget * cycles),
        ):
            places = order[:size] if arm == "random" else new_crystals(order, pool, [], size)
            folder = fine_tuned(first, [pool[k] for k in places], work / f"{arm}-{size}-{draw}", epochs)
            facts[arm].append({"labels": size, "draw": draw, first: errors(first, folder, test, work)})
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
        *((f"|ΔPV| > {limit:g}", f"of {facts['pool']}") for limit in facts["flagged_above"]),
        ("mean |ΔPV|", "meV/atom"),
    ]
    headings += [(f"{name}: PV", "meV/atom") for name in STARTS] + [("F", "meV/Å"), ("P", "GPa")]
    rows = [
        [
            str(one["labels"]),
            *map(str, one["flagged"]),
            f"{1000 * one['mean_delta_pv']:.0f}",
            *(f"{1000 * one[name]['pv']:.0f}" for name in (first, second)),
            f"{1000 * one[first]['forces']:.0f}",
            f"{one[first]['pressure']:.1f}",
        ]
        for one in facts["cycles"]
    ]
    for arm in ("random", "random crystals"):
        for size in sorted({one["labels"] for one in facts[arm]}):
            drawn = [one[first] for one in facts[arm] if one["labels"] == size]
            pv, forces, pressure = (float(np.mean([one[q] for one in drawn])) for q in ("pv", "forces", "pressure"))
            name = f"{size} {arm}" + (f" (mean of {len(drawn)})" if len(drawn) > 1 else "")
            rows.append([name, "", "", "", f"{1000 * pv:.0f}", "", f"{1000 * forces:.0f}", f"{pressure:.1f}"])
    return layout(headings, rows)


def draw(facts: dict[str, Any], path: Path) -> None:
    from uspex_bridge.figures import style

    first = next(iter(STARTS))

    @style.styled
    def make() -> Any:
        figure = style.new_figure(style.PAGE, 0.36)
        left, right = figure.subplots(1, 2)
        cycles = facts["cycles"]
        for k, limit in enumerate(facts["flagged_above"]):
            counts = [c["flagged"][k] for c in cycles]
            left.plot([c["labels"] for c in cycles], counts, marker="o", color=style.PALETTE[1 + k], label=f"{limit:g}")
        left.set(xlabel="labels", ylabel="structures with |ΔPV| above (eV/atom)")
        left.legend()
        right.plot(
            [c["labels"] for c in cycles],
            [1000 * c[first]["pv"] for c in cycles],
            marker="o",
            color=style.PALETTE[0],
            label="where the models disagree",
        )
        for arm, marker, colour in (("random", "s", style.INK), ("random crystals", "D", style.PALETTE[3])):
            sizes = sorted({one["labels"] for one in facts[arm]})
            drawn = [[1000 * one[first]["pv"] for one in facts[arm] if one["labels"] == size] for size in sizes]
            if sizes:
                right.plot(
                    sizes, [np.mean(values) for values in drawn], marker=marker, ls="--", color=colour, label=arm
                )
                for size, values in zip(sizes, drawn, strict=True):
                    right.plot([size] * len(values), values, ls="", marker="_", color=colour)
        right.set(xlabel="labels", ylabel="error of PV (meV/atom)")
        right.legend(loc="lower right")
        for axes in (left, right):
            axes.set_ylim(0, 1.05 * axes.dataLim.ymax)
            axes.grid(color=style.GRID, lw=0.5)
        return figure

    style.save(make(), path)


if __name__ == "__main__":
    main()
