"""Options about descriptors and maps that map, screen and select share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli.options import Finite, settings

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.soap import SoapSettings
    from uspex_bridge.learn.choose.structure_map import StructureMap
    from uspex_bridge.results.reading.model import Pool

SOAP = settings(
    click.option(
        "--soap",
        type=click.Choice(["paper", "minimal"]),
        default="paper",
        show_default=True,
        help="Descriptor: as in the paper for Ca-Fe-Ni, or with reach and width from the elements' radii.",
    ),
    click.option("--r-cut", type=Finite(), help="Reach of the descriptor, Å.  [default: 4.2]"),
    click.option("--sigma", type=Finite(), help="Width of the descriptor's Gaussians, Å.  [default: 0.52]"),
    click.option(
        "--n-max", type=click.IntRange(min=1), help="Number of radial functions of the descriptor.  [default: 4]"
    ),
    click.option(
        "--l-max", type=click.IntRange(min=0), help="Largest angular momentum of the descriptor.  [default: 3]"
    ),
    click.option("--cross/--no-cross", default=False, show_default=True, help="Terms between different elements."),
    click.option(
        "--scaling",
        type=click.Choice(["standard", "none"]),
        default="standard",
        show_default=True,
        help="Scaling of every feature to unit variance before the PCA.",
    ),
)


def soap_of(options: Mapping[str, Any], elements: Iterable[str]) -> SoapSettings:
    """Return the descriptor's settings that the options ask for."""
    from dataclasses import replace

    from uspex_bridge.learn.choose.soap import SoapSettings, minimal_settings

    base = minimal_settings(elements) if options["soap"] == "minimal" else SoapSettings()
    given = {key: options[key] for key in ("r_cut", "sigma", "n_max", "l_max") if options[key] is not None}
    return replace(base, cross=options["cross"], **given)


def elements_of(pool: Pool) -> list[str]:
    """Return the elements that occur, sorted."""
    return sorted({symbol for entry in pool.entries for symbol, _ in entry.composition})


def describe(pool: Pool, options: Mapping[str, Any], references: Iterable[str] = ()) -> StructureMap:
    """Make the map of everything in ``pool``, with a progress bar."""
    from uspex_bridge.learn.choose.structure_map import make_map

    elements = elements_of(pool)
    with progress("describing", len(pool.entries)) as step:
        return make_map(
            pool,
            soap_of(options, elements),
            options["scaling"],
            tuple(references),
            elements=elements,
            mix_levels=options.get("mix_levels", False),
            progress=step,
        )


@contextmanager
def progress(label: str, length: int) -> Iterator[Callable[..., None]]:
    """Show a progress bar where stderr is a terminal; gives what is to be called after each piece of work."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield lambda count=1: bar.update(count)
