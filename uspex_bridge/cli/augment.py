"""``uspex-bridge augment``: perturbed copies of structures, to be computed with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite


@click.command(context_settings=q.CONTEXT)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--copies", type=click.IntRange(min=0), default=5, show_default=True, help="Number of copies of each structure."
)
@click.option("--displace", type=Finite(min=0), default=0.1, show_default=True, help="Displacement, Å.")
@click.option(
    "--shape",
    type=click.Choice(["uniform", "gaussian"]),
    default="uniform",
    show_default=True,
    help="Distribution of displacements: uniform within --displace, or gaussian with that standard deviation.",
)
@click.option("--strain", type=Finite(0, 0.5), default=0.05, show_default=True, help="Largest strain.")
@click.option(
    "--volumes",
    metavar="V,V,...",
    help="Fractions of the volume for further copies, as a test for holes: 0.9,0.8,0.7,0.6.  [default: none]",
)
@click.option("--min-ratio", default=0.6, show_default=True, help="Closest pair, in sums of covalent radii.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random numbers.")
@click.option("--copies-only", is_flag=True, help="Copies without the structures themselves.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("augmented.extxyz"), show_default=True, help="File."
)
@FORCE
@q.JSON
def command(files: tuple[Path, ...], out: Path, force: bool, as_json: bool, copies_only: bool, **options: Any) -> None:
    """Write the structures of FILES and perturbed copies of each.

    \b
    uspex-bridge augment selected/selected.extxyz
    uspex-bridge augment selected/selected.extxyz --copies 0 --volumes 0.9,0.8,0.7,0.6 -o squeezed.extxyz

    Atoms are displaced and cells strained at random. The same seed gives the same copies. All
    copies share the family of their structure, which keeps them on one side of a dataset's split.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.learn.choose.augment import augment
    from uspex_bridge.learn.choose.candidates import read_frames_of, write_frames

    how = _perturbation(options)
    q.keep(out, force=force)
    frames: dict[str, Any] = {}
    problems, count, given_up = [], 0, 0
    for path in files:
        for atoms in read_frames_of(path):
            count += 1
            if wrong := atoms.info.pop("contradicted", ""):
                problems.append(f"{path}: {atoms.info['name']}: {wrong}")
            if not copies_only:
                frames.setdefault(atoms.info["id"], atoms)
            for made in augment(atoms, how):
                if made.atoms is None:
                    given_up += 1
                    problems.append(made.problem)
                else:
                    frames.setdefault(made.atoms.info["id"], made.atoms)
    write_frames(out, list(frames.values()))
    wanted = count * (how.copies + len(how.volumes) + (not copies_only))
    same = wanted - given_up - len(frames)
    if as_json:
        summary = {
            "structures": count,
            "written": len(frames),
            "given_up": problems,
            "the_same": same,
            "file": str(out),
        }
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo(
            f"{out}: {counted(len(frames), 'structure')} from {count}"
            + (f"; {same} were the same twice" if same else "")
        )
    q.warn(problems)


def _perturbation(options: dict[str, Any]) -> Any:
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.learn.choose.augment import Perturbation

    try:
        volumes = tuple(float(word) for word in (options["volumes"] or "").split(",") if word.strip())
    except ValueError:
        raise ConfigError(f"--volumes {options['volumes']}: numbers with commas between, such as 0.9,0.8") from None
    return Perturbation(
        copies=options["copies"],
        displace=options["displace"],
        shape=options["shape"],
        strain=options["strain"],
        volumes=volumes,
        ratio=options["min_ratio"],
        seed=options["seed"],
    )
