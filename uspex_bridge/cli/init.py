"""``uspex-bridge init``: a ready folder for a search."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from uspex_bridge.cli.options import Finite


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("line", type=click.Choice(["matlab", "python", "uspex26", "cryspy"]))
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option(
    "--elements",
    help="Elements or compounds of a search with variable composition: Ca,Fe,Ni; MgO,SiO2.  [default: none]",
)
@click.option("--composition", help="Fixed composition, instead of --elements: Mg4Al8O16.  [default: none]")
@click.option("--atoms", help="Smallest and largest cell of a variable composition.  [default: 2-24]")
@click.option("-p", "--pressure", type=Finite(), default=0.0, show_default=True, help="Pressure of the search, GPa.")
@click.option(
    "--population",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Number of structures per generation.",
)
@click.option(
    "--generations", type=click.IntRange(min=1), default=20, show_default=True, help="Largest number of generations."
)
@click.option(
    "--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Number of relaxations at a time."
)
@click.option(
    "--scheduler",
    type=click.Choice(["local", "slurm", "pbs"]),
    default="local",
    show_default=True,
    help="Scheduler of the relaxations.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1, max=9),
    default=5,
    show_default=True,
    help="Number of relaxation steps per structure (INCAR_1 .. INCAR_N).",
)
@click.option("--protocol", default="auto", show_default=True, help="Protocol of the bridge, by name or a TOML file.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Number of CPU threads per relaxation."
)
@click.option(
    "--time-limit",
    type=click.IntRange(min=1),
    default=3600,
    show_default=True,
    help="Time limit per step of a structure, s.",
)
@click.option("--command", "executable", help="Executable.  [default: the one of this environment]")
@click.option("--force", is_flag=True, help="Overwriting of files that are there.")
def command(
    line: str, folder: Path, elements: str | None, composition: str | None, force: bool, **options: Any
) -> None:
    """Write a ready search into FOLDER (default: here).

    matlab is USPEX 9.4-10.x (INPUT.txt), python the line of 2021-2023 (input.uspex), uspex26 is USPEX 25-26, cryspy
    a random search of CrySPY. The POTCARs are stubs with the names of the elements. uspex-bridge docs uspex_setup
    describes each file.

    Example: uspex-bridge init matlab search --elements Ca,Fe,Ni --pressure 50
    """
    from uspex_bridge.uspex import new_search

    search = new_search.Search(
        line,  # type: ignore[arg-type]
        **_composition(elements, composition, options.pop("atoms")),
        **_protocol(options.pop("protocol"), options["steps"]),
        command=options.pop("executable") or _executable(line),
        bin=str(Path(sys.executable).parent),
        **options,
    )
    rendered = new_search.files(search)
    new_search.write(folder, rendered, force=force)
    click.echo(f"{folder}: wrote {', '.join(str(item.path) for item in rendered)}")
    if any(item.path.name.startswith("POTCAR") for item in rendered):
        click.echo("The POTCAR files are stubs for the bridge, without pseudopotentials for VASP.")
    click.echo("Next:")
    for number, text in enumerate(new_search.next_steps(search, folder), 1):
        click.echo(f"  {number}. {text}")


def _composition(elements: str | None, composition: str | None, atoms: str | None) -> dict[str, Any]:
    """Return the fields of a Search that say what it is made of."""
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.uspex.new_search import parse_atoms, parse_blocks, parse_composition, parse_elements

    if composition is None:
        if elements is None:
            raise ConfigError("no elements are given; use --elements Ca,Fe,Ni or --composition Si8")
        symbols, compounds = parse_blocks(elements)
        return {"elements": symbols, "compounds": compounds, "atoms": parse_atoms(atoms or "2-24")}
    if atoms is not None:
        raise ConfigError("--composition fixes the number of atoms; leave --atoms out")
    counts = parse_composition(composition)
    order = parse_elements(elements) if elements else tuple(counts)
    if set(order) != set(counts):
        raise ConfigError(f"--elements {elements} and --composition {composition} name different elements")
    return {"elements": order, "counts": tuple(counts[symbol] for symbol in order)}


def _protocol(name: str, steps: int) -> dict[str, Any]:
    """Return the fields of a Search that say how it relaxes; the protocol as bridge.toml should name it, read once.

    Raises:
        ConfigError: there is no such protocol, or it cannot end the last of several steps with a free energy.
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.relaxation.protocol import load_protocol, protocol_names

    if name == "auto":
        return {"protocol": name}
    protocol = load_protocol(name, Path.cwd())
    named = name if name in protocol_names() else str(Path(name).expanduser().resolve())
    if protocol.free_energy is None or protocol.free_energy.temperature is None or steps == 1:
        return {"protocol": named}
    before = len(protocol.stage) - 1
    if not before:
        raise ConfigError(f"{name}: a free energy in the last of {steps} steps needs two stages or more, or --steps 1")
    return {"protocol": named, "rest": "1" if before == 1 else f"1-{before}"}


def _executable(line: str) -> str:
    """Return the executable's name where the shell finds this environment's own, else its path.

    USPEX 26 gets the path: it runs with an environment of its own.
    """
    name = "uspex-bridge-external" if line == "uspex26" else "uspex-bridge-vasp"
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if line != "uspex26" and found and (not own.exists() or Path(found).resolve() == own.resolve()):
        return name
    return str(own) if own.exists() else name
