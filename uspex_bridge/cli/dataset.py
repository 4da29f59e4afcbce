"""``uspex-bridge dataset``: the labelled structures that models are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite

if TYPE_CHECKING:
    from uspex_bridge.learn.data.dataset import Dataset
    from uspex_bridge.learn.data.labels import Added, Label

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
SPLIT = click.option(
    "--split", type=click.Choice(["train", "valid", "test"]), help="Split that is written.  [default: all]"
)


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Manage datasets of labelled structures: one file per generation, splits fixed by structure family."""


@command.command(context_settings=q.CONTEXT)
@FOLDER
@q.JSON
def summary(folder: Path, as_json: bool) -> None:
    """Summarise the dataset in FOLDER: labels by generation, split and pressure, level of theory, ranges.

    Example: uspex-bridge dataset summary dataset
    """
    from uspex_bridge.learn.data.dataset import Dataset

    facts = facts_of(Dataset.open(folder))
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else describe(facts))


@command.command(context_settings=q.CONTEXT)
@FOLDER
@click.option("--accept", is_flag=True, help="Acceptance of the present files; missing labels leave the dataset.")
@click.option("--twins", is_flag=True, help="Search for the same phase on both sides of a split (slow).")
def check(folder: Path, accept: bool, twins: bool) -> None:
    """Compare the files of FOLDER with the manifest; exit code 3 if one was changed.

    The manifest keeps its old lines as a history of --accept. Twins are only reported: a label stays in its split.

    Example: uspex-bridge dataset check dataset
    """
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.learn.data.dataset import Dataset

    dataset = Dataset.open(folder, verify=False)
    before = len(dataset.labels)
    changes = dataset.accept() if accept else dataset.changes()
    for line in changes:
        click.echo(f"changed: {line}")
    for name in dataset.strangers():
        click.echo(
            f"not in the manifest: {name} (left by an addition that was interrupted, put there, or the manifest is not "
            "whole); not used"
        )
    if changes and not accept:
        raise InputError(
            f"{folder}: {counted(len(changes), 'file')} changed; restore them, or accept them with --accept"
        )
    if twins:
        from uspex_bridge.learn.data.families import twins as find_twins

        labels = list(dataset.labels.values())
        for one, other in find_twins(labels, dataset.structures(labels)):
            click.echo(f"twins: {one.id} ({one.formula}, {one.split}) and {other.id} ({other.formula}, {other.split})")
    gone = f", {before - len(dataset.labels)} left the dataset" if accept and changes else ""
    click.echo(f"{counted(len(dataset.labels), 'label')} in {counted(len(dataset.files), 'file')}{gone}")


@command.command(context_settings=q.CONTEXT)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="Source distribution of mattersim 1.2.3, if pip cannot download it (27 MB).  [default: download]",
)
def fetch(source: Path | None) -> None:
    """Download the public sets of DFT calculations at high pressure for 'evaluate --on mpf-tp' and others.

    They are 2222 structures of 89 elements to 1077 GPa for training and testing, and 1000 more for training only: PBE,
    by the MatterSim project, under the MIT licence. They go to $USPEX_BRIDGE_SETS, else to the user's data folder.

    Example: uspex-bridge dataset fetch --from mattersim-1.2.3.tar.gz
    """
    from uspex_bridge.learn.data import public_sets

    for path in public_sets.fetch(source):
        click.echo(path)


@command.command(context_settings=q.CONTEXT)
@FOLDER
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["extxyz", "mace", "deepmd", "deepmd-mixed"]),
    required=True,
    help="Format: extxyz with energy, forces, stress as MatterSim reads them; mace with REF_ keys; deepmd npy systems.",
)
@SPLIT
@FORCE
def export(folder: Path, target: Path, kind: str, split: Any, force: bool) -> None:
    """Write the frames of FOLDER to TARGET, a file or (deepmd) a folder, for a trainer.

    FOLDER may also be the name of a public set (see 'uspex-bridge dataset fetch').

    Example: uspex-bridge dataset export dataset train.extxyz --format mace --split train
    """
    from uspex_bridge.learn.data.dataset import Dataset
    from uspex_bridge.learn.data.exports import write_deepmd, write_extxyz
    from uspex_bridge.learn.data.public_sets import is_public, read_set

    q.keep(target, force=force)
    if is_public(str(folder)):
        everything = read_set(str(folder))
        frames = [atoms for atoms in everything if split in (None, atoms.info["split"])]
        elements = sorted({symbol for atoms in everything for symbol in atoms.symbols})
    else:
        dataset = Dataset.open(folder)
        frames, elements = list(dataset.frames(split)), dataset.elements
    if kind.startswith("deepmd"):
        count = write_deepmd(frames, target, mixed=kind == "deepmd-mixed", elements=elements)
    else:
        count = write_extxyz(frames, target, "mace" if kind == "mace" else "ase")
    click.echo(f"{counted(count, 'label')} in {target}")


@command.command(context_settings=q.CONTEXT)
@FOLDER
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--generation", type=click.IntRange(min=0), required=True, help="Generation of the search, or number of the cycle."
)
@click.option("--code", help="Code of the labels: vasp, gpaw, model ...  [default: the files', the dataset's]")
@click.option(
    "--functional",
    help="Functional, PBE ..., or the model's name; PBE/PBE+U for both together.  [default: the files', the dataset's]",
)
@click.option(
    "--details",
    "settings",
    default="",
    help="Text on further settings; a different text is a different level of theory.  [default: none]",
)
@click.option(
    "-p",
    "--pressure",
    type=Finite(),
    help="Pressure of the search, GPa, for files without one.  [default: none]",
)
@click.option(
    "--frames",
    default="last",
    show_default=True,
    help="Frames of relaxations by VASP: last, all, or a number n for every n-th ionic step, counted from the last.",
)
@click.option("--keep-outliers", is_flag=True, help="Labels with outlying energies included.")
@click.option(
    "--split", type=click.Choice(["train", "valid", "test"]), help="Split of new families.  [default: by name]"
)
@q.NEW_SPLITS
@q.JSON
def add(folder: Path, places: tuple[Path, ...], frames: str, as_json: bool, **options: Any) -> None:
    """Add other labels to the dataset in FOLDER, or create it.

    \b
    uspex-bridge dataset add dataset archive/ --generation 0 --frames 5
    uspex-bridge dataset add dataset more.extxyz --generation 0 --code vasp --functional PBE

    PLACES are folders of VASP (OUTCAR, vasprun.xml, also .gz) and trees of them, systems of DeePMD-kit, extxyz files
    (also with REF_energy as MACE has it). Labels of 'uspex-bridge label' are added by 'label collect'.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.learn.data.adding import offer
    from uspex_bridge.learn.data.dataset import Dataset, is_dataset
    from uspex_bridge.learn.data.labels import Added, Level, settings_hash

    there = Dataset.open(folder) if is_dataset(folder) else None
    found = offer(
        places,
        code=options["code"],
        functional=options["functional"],
        pressure_gpa=options["pressure"],
        every=_every(frames),
        labels=list(there.labels.values()) if there else (),
        keep_outliers=options["keep_outliers"],
    )
    words = settings_hash(options["settings"])
    level = there.level if there and there.level and not options["settings"] else None
    if level is None or (level.code, level.functional) != (found.code, found.functional):
        level = Level(found.code, found.functional, words)
    dataset = there or Dataset.at(folder, valid=options["valid"], test=options["test"])
    added = dataset.add(found.frames, generation=options["generation"], level=level, split=options["split"])
    added = Added(added.labels, (*found.refused, *added.refused))
    if as_json:
        refused = [{"name": one.name, "reason": one.reason} for one in added.refused]
        facts = {"added": added.counts, "refused": refused, "notes": list(found.notes)}
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        click.echo(describe_added(added, dataset))
    q.warn(found.notes)


def _every(text: str) -> int:
    """Read which ionic steps are meant."""
    from uspex_bridge.base.errors import ConfigError

    named = {"last": 0, "all": 1}
    if text not in named and (not text.isdecimal() or int(text) < 1):
        raise ConfigError(f"--frames {text}: give last, all, or a number")
    return named[text] if text in named else int(text)


def describe_added(added: Added, dataset: Dataset) -> str:
    """Return what was added and refused as text."""
    counts = ", ".join(f"{number} {split}" for split, number in added.counts.items())
    lines = [f"{counted(len(added.labels), 'label')} added ({counts}); {len(dataset.labels)} in {dataset.path}"]
    lines += [f"refused: {one.name}: {one.reason}" for one in added.refused]
    return "\n".join(lines)


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """Return what a dataset holds as plain values."""
    labels = list(dataset.labels.values())
    return {
        "folder": str(dataset.path),
        "labels": len(labels),
        "families": len({label.family for label in labels}),
        "level": None if dataset.level is None else str(dataset.level),
        "formulas": len({label.formula for label in labels}),
        "split_fractions": {"valid": dataset.valid, "test": dataset.test},
        "groups": _groups(labels),
        "ranges": _ranges(labels),
        "strangers": dataset.strangers(),
    }


def _groups(labels: list[Label]) -> list[dict[str, Any]]:
    """Count labels by generation and pressure of the search."""
    groups: dict[tuple[int, float | None], dict[str, Any]] = {}
    for label in labels:
        key = (label.generation, label.pressure_gpa)
        group = groups.setdefault(
            key, {"generation": key[0], "pressure_gpa": key[1], "train": 0, "valid": 0, "test": 0}
        )
        group[label.split] += 1
    return sorted(groups.values(), key=lambda one: (one["generation"], one["pressure_gpa"] or 0.0))


def _ranges(labels: list[Label]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {
        "natoms": [label.natoms for label in labels],
        "energy_per_atom": [label.energy / label.natoms for label in labels],
        "own_pressure_gpa": [label.own_pressure_gpa for label in labels],
        "fmax": [label.fmax for label in labels],
        "magmom_per_atom": [label.magmom / label.natoms for label in labels if label.magmom is not None],
    }
    return {name: [min(numbers), max(numbers)] for name, numbers in values.items() if numbers}


def describe(facts: dict[str, Any]) -> str:
    """Return the same as text."""
    from uspex_bridge.base.tables import layout

    headings = [("generation", ""), ("search at", "GPa"), *_COUNTED]
    rows = [
        [
            str(group["generation"]),
            "" if group["pressure_gpa"] is None else f"{group['pressure_gpa']:g}",
            *(str(group[split]) for split, _ in _COUNTED),
        ]
        for group in facts["groups"]
    ]
    lines = [
        f"{facts['folder']}: {facts['labels']} labels of {facts['families']} families, {facts['formulas']} formulas; "
        f"{facts['level'] or 'no level of theory yet'}",
        *([layout(headings, rows)] if rows else []),
        *(
            f"{_NAMES[name][0]} {low:.4g} to {high:.4g}{_NAMES[name][1]}"
            for name, (low, high) in facts["ranges"].items()
        ),
        *_empty_splits(facts),
        *(f"not in the manifest: {name}" for name in facts["strangers"]),
    ]
    return "\n".join(lines)


def _empty_splits(facts: dict[str, Any]) -> list[str]:
    """Say which splits have no label though they should: names of few families may all fall into one."""
    wanted = [split for split, fraction in facts["split_fractions"].items() if fraction > 0]
    empty = [split for split in wanted if facts["labels"] and not any(group[split] for group in facts["groups"])]
    return [
        f"nothing in {split} yet: of few families all may be in other splits; more will fill it, or labels of new "
        f"families added with 'dataset add --split {split}'"
        for split in empty
    ]


_COUNTED = (("train", ""), ("valid", ""), ("test", ""))
_NAMES = {
    "natoms": ("atoms per cell", ""),
    "energy_per_atom": ("free energy", " eV/atom"),
    "own_pressure_gpa": ("pressure of the labels", " GPa"),
    "fmax": ("largest force", " eV/Å"),
    "magmom_per_atom": ("magnetic moment", " μB/atom"),
}
