"""``uspex-bridge map``: where structures lie in the space of SOAP descriptors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE
from uspex_bridge.cli.soap_options import SOAP, describe

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.structure_map import StructureMap


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-o",
    "--out",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    default=(Path("map.png"),),
    show_default="map.png",
    help="File: PNG, SVG or PDF figure; JSON or JSON.GZ for chemiscope.org; HTML with the viewer in it. Repeatable.",
)
@click.option(
    "--colour",
    "--color",
    type=click.Choice(["pressure", "composition", "energy", "distance"]),
    default="composition",
    show_default=True,
    help="Colour by pressure, the share of each element, formation enthalpy, or distance to the hull.",
)
@click.option("--chosen", type=click.Path(), help="Subset of PLACES, ringed in the map.  [default: none]")
@q.REFERENCES
@q.LEVELS
@q.RECORD
@SOAP
@FORCE
@q.JSON
def command(places: tuple[str, ...], files: tuple[Path, ...], force: bool, as_json: bool, **options: Any) -> None:
    """Draw a map of the structures of PLACES: principal components of their average SOAP descriptors.

    \b
    uspex-bridge map results1 --colour distance -o map.png -o map.html
    uspex-bridge map results* --chosen selected.extxyz -o coverage.pdf

    PLACES are results folders, folders of relax or rescore, or files of structures. Distances to the hull are those
    at each structure's own pressure.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.figures.structure_map import write_map

    q.keep(*files, force=force)
    pool = q.open_pool(places, options)
    drawn = describe(pool, options, options["references"])
    names = _chosen(drawn, options["chosen"])
    for path in files:
        write_map(drawn, pool, path, options["colour"], names)
    if as_json:
        click.echo(json.dumps(document(drawn, names), indent=1, ensure_ascii=False))
    else:
        click.echo(report(drawn, names))
        click.echo(f"written: {', '.join(map(str, files))}")
    q.warn(drawn.notes)
    q.tell_notes(pool.notes)


def _chosen(drawn: StructureMap, place: str | None) -> set[str]:
    """Return the names of the entries whose descriptors are those of a structure in ``place``."""
    if place is None:
        return set()
    import numpy as np

    from uspex_bridge.learn.choose.soap import describe_all
    from uspex_bridge.results.reading.sources import open_sources

    names = set()
    structures = (structure for _, structure in open_sources([place]).structures())
    for vector in describe_all(structures, drawn.elements, drawn.settings):
        away = np.abs(drawn.features - vector).max(axis=1)
        nearest = int(away.argmin())
        if away[nearest] <= 1e-6 * max(1.0, float(np.abs(vector).max())):
            names.add(drawn.entries[nearest].name)
    return names


def document(drawn: StructureMap, chosen: set[str]) -> dict[str, Any]:
    """Return the map as plain values."""
    from dataclasses import asdict

    covered = {"all": drawn.coverage()} | ({"chosen": drawn.coverage(chosen)} if chosen else {})
    return {
        "descriptor": asdict(drawn.settings) | {"elements": list(drawn.elements), "features": drawn.features.shape[1]},
        "scaling": drawn.space.scaling,
        "explained_variance": drawn.space.explained.tolist(),
        "coverage": {k: asdict(c) | {"fraction": c.fraction} for k, c in covered.items()},
        "structures": [
            {"name": entry.name, "formula": entry.formula, "pc": row[:2].tolist(), "chosen": entry.name in chosen}
            for entry, row in zip(drawn.entries, drawn.coordinates, strict=True)
        ],
        "warnings": list(drawn.notes),
    }


def report(drawn: StructureMap, chosen: set[str]) -> str:
    """Return what the map is, in a few lines."""
    lines = [
        f"{counted(len(drawn.entries), 'structure')} of {', '.join(drawn.elements)}, "
        f"{drawn.features.shape[1]} features",
        drawn.settings.describe(),
        drawn.space.describe(),
        f"in the plane of PC1 and PC2 they occupy {drawn.coverage()}",
    ]
    return "\n".join([*lines, *([f"the {len(chosen)} chosen reach {drawn.coverage(chosen)}"] if chosen else [])])
