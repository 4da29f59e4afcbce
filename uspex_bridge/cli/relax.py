"""``uspex-bridge relax``: relax structures by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import pressure_folder
from uspex_bridge.base.words import counted
from uspex_bridge.cli.options import MODEL, PARALLEL, RUN_OPTIONS, RUN_SETTINGS, Finite, pressures_of
from uspex_bridge.cli.vasp import read_settings

if TYPE_CHECKING:
    from uspex_bridge.call.relaxed import Relaxed


#: Of the numbers in JSON; the rest is in docs/record.md.
UNITS = {
    "enthalpy": "eV per cell",
    "energy": "eV per cell",
    "volume": "Å³ per cell",
    "pressure_gpa": "GPa",
    "fmax": "eV/Å",
    "forces": "eV/Å",
    "stress": "eV/Å³",
    "seconds": "s",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--pressure",
    "-p",
    "pressures",
    default="0",
    show_default=True,
    help="Pressure, GPa, or several (0,20,50 or 0:100:10) for each structure, in folders of --out such as 50GPa.",
)
@RUN_OPTIONS
@PARALLEL
@MODEL
@click.option(
    "--fmax",
    type=Finite(min=0, min_open=True),
    help="Force target of the last stage, eV/Å.  [default: that of the protocol]",
)
@click.option(
    "--isif", type=click.IntRange(0, 8), default=3, show_default=True, help="Degrees of freedom, as VASP's ISIF."
)
@click.option(
    "--nsw",
    type=click.IntRange(0),
    default=5000,
    show_default=True,
    help="Largest number of steps; 0 is a single point.",
)
@click.option("--keep-symmetry", is_flag=True, help="Fixed symmetry of the starting structure.")
@click.option(
    "--symprec", type=Finite(min=0, min_open=True), default=0.1, show_default=True, help="Tolerance of space groups, Å."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("relaxed"), show_default=True, help="Folder."
)
@click.option("--trajectory", is_flag=True, help="Extxyz file with every step of every stage.")
@click.option("--resume", is_flag=True, help="Continuation of --out; existing results are kept.")
@click.option("--force", is_flag=True, help="Overwriting of --out.")
@click.option("--vasp-files", is_flag=True, help="OUTCAR, OSZICAR, ... of each structure, in folders.")
@click.option("--json", "as_json", is_flag=True, help="JSON with units instead of a table.")
def command(files: tuple[Path, ...], pressures: str, out: Path, as_json: bool, force: bool, **options: Any) -> None:
    """Relax every structure in FILES: POSCAR, CIF, extxyz, gatheredPOSCARS, or any format of ASE.

    The folder --out gets relaxed.extxyz, relaxed.POSCARS and the record, with a subfolder for each of several
    pressures (for 'plot pressure'). A table is printed. The exit code is 0 if every structure gave a result,
    otherwise that of the first failure (see uspex-bridge-vasp -h).

    Example: uspex-bridge relax POSCAR --pressure 50 --model chgnet
    """
    from uspex_bridge.base.threads import limit_threads

    steps = pressures_of(pressures)
    config = read_settings(Path.cwd(), {key: options.pop(key) for key in RUN_SETTINGS})
    limit_threads(config.threads)
    from uspex_bridge.api import relax
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.call.record_file import FILENAME
    from uspex_bridge.call.relaxed import table
    from uspex_bridge.call.structures import read_structures

    places = {at: out if len(steps) == 1 else pressure_folder(out, at) for at in steps}
    for place in places.values():
        if (place / FILENAME).is_file() and not (force or options["resume"]):
            raise InputError(f"{place}: contains results; --resume keeps them and adds to them, --force starts again")
    total = len(steps) * sum(len(read_structures(path)) for path in files)
    results: list[Relaxed] = []
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=total, label="relaxing", file=sys.stderr, hidden=hidden) as bar:
        for at, place in places.items():
            found = relax(files, at, config=config, out=place, progress=lambda _: bar.update(1), **options)
            several = len(steps) > 1
            results += [replace(one, name=f"{one.name} {at:g}GPa") if several else one for one in found]
    inputs = total // len(steps)
    results = [one for k in range(inputs) for one in results[k::inputs]]  # all pressures of an input together
    if as_json:
        document = {"units": UNITS, "structures": [one.to_dict() for one in results]}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        click.echo(table(results))
        good = sum(not int(one.fields["exit"]) for one in results)
        without = f"; {len(results) - good} refused or failed" if good < len(results) else ""
        click.echo(f"{counted(good, 'result')} in {', '.join(f'{place}/' for place in places.values())}{without}")
    sys.exit(next((code for one in results if (code := int(one.fields["exit"]))), 0))
