"""Options and messages that the commands about results share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli.options import Finite, settings

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.stability import Question
    from uspex_bridge.results.reading.model import Pool

#: Notes about files that are shown before the rest is only counted.
_SHOWN_NOTES = 10
CONTEXT = {"help_option_names": ["-h", "--help"]}

PLACES = click.argument("places", nargs=-1, required=True)
REFERENCES = click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Path(),
    help="Further structures with energies: extxyz, a CSV table of CIFs, OPTIMADE or Materials Project JSON.",
)
LEVELS = settings(
    click.option(
        "--level",
        "levels",
        multiple=True,
        metavar="[PATH=]LABEL",
        help="Level of theory of sources without one, or of one source or reference.",
    ),
    click.option("--mix-levels", is_flag=True, help="One hull for several levels of theory."),
)
PRESSURE = click.option("-p", "--pressure", type=Finite(), help="Pressure, GPa.  [default: that of all sources]")
COMPONENTS = click.option(
    "--components",
    help="Corners of the hull: Ca,Fe,Ni or MgO,SiO2.  [default: the elements, else the blocks of the search]",
)
HOLES = click.option("--with-holes", is_flag=True, help="Structures in holes of the model included.")
#: Which hull is meant.
HULL = settings(PRESSURE, COMPONENTS, LEVELS, HOLES)
STABILITY = click.option(
    "--stability",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of free-energy: phases with imaginary modes get the flag unstable, JSON and CSV the frequency.  "
    "[default: no flag]",
)
SYMPREC = click.option(
    "--symprec",
    type=Finite(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Tolerance of space groups, Å.",
)
RECORD = click.option("--no-record", is_flag=True, help="Results without the bridge's record (faster).")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON with units instead of a table.")


def within(default: float) -> Callable[..., Any]:
    """Return the option --within with a default, eV/atom."""
    return click.option(
        "--within",
        type=Finite(min=0),
        default=default,
        show_default=True,
        help="Largest distance above the hull, eV/atom.",
    )


#: How a new dataset is split.
NEW_SPLITS = settings(
    *(
        click.option(
            f"--{split}",
            type=Finite(),
            default=0.1,
            show_default=True,
            help="Fraction of families for this split, in a new dataset.",
        )
        for split in ("valid", "test")
    )
)
#: What the same phase is.
DUPLICATES = settings(
    click.option(
        "--duplicates",
        "method",
        type=click.Choice(["phase", "uspex", "none"]),
        default="phase",
        show_default=True,
        help="Definition of the same phase: the bridge's, USPEX's fingerprint, or none.",
    ),
    click.option(
        "--same-energy",
        type=Finite(),
        default=0.015,
        show_default=True,
        help="Largest difference of enthalpies in the same phase, eV/atom.",
    ),
    click.option(
        "--same-volume",
        type=Finite(),
        default=0.05,
        show_default=True,
        help="Largest relative difference of volumes in the same phase.",
    ),
    click.option(
        "--same-distance",
        type=Finite(min=0, min_open=True),
        default=0.022,
        show_default=True,
        help="Largest difference of the surroundings of atoms in the same phase, in units of (V/N)^(1/3).",
    ),
)


def ask(options: Mapping[str, Any]) -> Question:
    """Return the question that the options ask."""
    from uspex_bridge.base.symmetry import SYMPREC as SYMPREC_DEFAULT
    from uspex_bridge.results.hulls.stability import Question
    from uspex_bridge.results.phases.definition import Tolerances

    tolerances = Tolerances(options["same_energy"], options["same_volume"], options["same_distance"])
    return Question(
        pressure_gpa=options.get("pressure"),
        components=components_of(options),
        within=options["within"],
        method=options["method"],
        tolerances=tolerances,
        symprec=options.get("symprec") or SYMPREC_DEFAULT,
        mix_levels=options.get("mix_levels", False),
        with_holes=options.get("with_holes", False),
    )


def components_of(options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the corners of the hull that are asked for."""
    text = options.get("components")
    return tuple(text.replace(" ", "").split(",")) if text else None


def open_pool(places: Iterable[str], options: Mapping[str, Any]) -> Pool:
    """Open places and references."""
    from uspex_bridge.results.reading.sources import open_sources

    everything = [*places, *options.get("references", ())]
    pool = open_sources(everything, options.get("levels", ()), record=not options.get("no_record", False))
    if options.get("stability") is None:
        return pool
    from uspex_bridge.results.thermal.free_energy import with_stability

    return with_stability(pool, options["stability"])


def warn(lines: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for line in lines:
        click.echo(f"warning: {line}", err=True)


def tell_notes(notes: Iterable[str]) -> None:
    """Print on stderr what could not be read."""
    listed = list(notes)
    for note in listed[:_SHOWN_NOTES]:
        click.echo(f"note: {note}", err=True)
    if len(listed) > _SHOWN_NOTES:
        click.echo(f"note: and {len(listed) - _SHOWN_NOTES} more of this kind (results summary --notes)", err=True)


def keep(*paths: Path | None, force: bool) -> None:
    """Refuse to overwrite files and folders with something in them, before anything is computed.

    Raises:
        ConfigError: one is there already and ``force`` is not set.
    """
    from uspex_bridge.base.errors import ConfigError

    given = [path for path in paths if path is not None]
    present = ", ".join(str(path) for path in given if path.is_file() or (path.is_dir() and any(path.iterdir())))
    if present and not force:
        raise ConfigError(f"{present}: exists; --force overwrites")
