"""``uspex-bridge evaluate``: models against labels, against each other, and at their limits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, DEVICE, FORCE, THREADS, Finite

if TYPE_CHECKING:
    from uspex_bridge.call.config import Config
    from uspex_bridge.learn.judge.accuracy import Accuracy
    from uspex_bridge.learn.judge.probes import Probed
    from uspex_bridge.models.cards import CalculatorSettings
    from uspex_bridge.relaxation.reach import Limit

#: Files of the folder, beside the answers.
_WRITTEN = ("evaluation.json", "errors.csv", "parity.png", "pv.png")
_PATH = click.Path(path_type=Path)


@click.command(context_settings=q.CONTEXT)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--on",
    "place",
    required=True,
    help="Labels: a dataset's folder, a file, or a public set: mpf-tp, random-tp, mpf-alkali-tp, tp (all three).",
)
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="test",
    show_default=True,
    help="Split of a dataset or a public set.",
)
@click.option(
    "--generation",
    type=click.IntRange(0),
    help="Generation of the labels; with --split all a test of predictions.  [default: all]",
)
@click.option("-o", "--out", type=_PATH, default=Path("evaluated"), show_default=True, help="Folder.")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Fit of each element's energy to the labels'; auto for models of the Materials Project's energies.",
)
@click.option(
    "--window",
    type=Finite(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Distance above the hull of the structures that are ranked, eV/atom.",
)
@click.option(
    "--ultra-high",
    type=Finite(),
    default=500.0,
    show_default=True,
    help="Pressure above which labels count only in the total, GPa.",
)
@click.option(
    "--windows",
    help="Limits of the pressure windows of the tables, GPa.  [default: a line for each pressure of the search, else "
    "5,50,120,300,600]",
)
@click.option(
    "--probes", is_flag=True, help="Compressed structures, approaching atoms and relaxed random structures included."
)
@click.option(
    "--random",
    "count",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of random structures per pressure to relax.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes per model."
)
@CONFIG
@DEVICE
@THREADS
@FORCE
@q.JSON
def command(
    models: tuple[str, ...],
    place: str,
    out: Path,
    force: bool,
    as_json: bool,
    probes: bool,
    count: int,
    **options: Any,
) -> None:
    """Compare MODELS with labelled structures and with each other.

    \b
    uspex-bridge evaluate models/dpa3-02 models/sea-02 mattersim:5M --on dataset
    uspex-bridge evaluate models/dpa3-01 --on dataset --split all --generation 2
    uspex-bridge evaluate chgnet sevennet --on mpf-tp

    A model is a folder of train, a calculator's name in the settings, or KIND:WEIGHTS. Tables give the errors of
    energy, forces, virial, PV and pressure, for each pressure and in total. The total is computed from all structures.
    Further tables give the ranking of structures of one composition and near the hull, the differences between
    models, and holes of the elements up to the highest pressure of the labels. --out gets evaluation.json,
    errors.csv, parity.png and pv.png.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.cli.vasp import read_settings

    written = (*_WRITTEN, "compression.png") if probes else _WRITTEN
    q.keep(*(out / name for name in written), force=force)
    config = read_settings(Path.cwd(), {key: options[key] for key in ("config", "device", "threads")})
    limit_threads(config.threads)
    from uspex_bridge.learn.judge.accuracy import accuracy_of, open_labelled
    from uspex_bridge.learn.judge.metrics import Lines

    split = None if options["split"] == "all" else options["split"]
    labelled = open_labelled(place, split, options["generation"])
    lines = Lines(_edges(options["windows"]), options["ultra_high"])
    chosen = _named(models, config)
    hidden, length = not sys.stderr.isatty(), (len(labelled.frames) + len(labelled.zero)) * len(chosen)
    with click.progressbar(length=length, label="evaluating", file=sys.stderr, hidden=hidden) as bar:
        report = accuracy_of(
            labelled,
            chosen,
            out / "answers",
            offsets=options["offsets"],
            window=options["window"],
            lines=lines,
            workers=options["workers"],
            progress=bar.update,
        )
    from uspex_bridge.learn.judge.ranges import ranges_of

    reach = ranges_of(chosen, labelled.frames, out / "answers", options["ultra_high"])
    probed = _probe(chosen, labelled.frames, config, out, count) if probes else []
    _write(report, probed, reach, out)
    if as_json:
        click.echo(json.dumps(_document(report, probed, reach), indent=1, ensure_ascii=False))
    else:
        from uspex_bridge.learn.judge.tables import tables

        click.echo(tables(report))
        for name, limits in reach[1].items():
            if not limits:
                click.echo(f"{name}: its elements pass the compression test to {reach[0]:g} GPa")
        if probed:
            from uspex_bridge.learn.judge.probes import table

            click.echo("\n" + table(probed))
        click.echo(f"{out}/: {', '.join(written)}")
    q.warn(
        [
            *report.notes,
            *(
                f"{name} is not usable at {reach[0]:g} GPa: {'; '.join(limit.why for limit in limits)}"
                for name, limits in reach[1].items()
                if limits
            ),
        ]
    )


def _edges(text: str | None) -> tuple[float, ...] | None:
    """Read the edges of windows of pressure."""
    from uspex_bridge.base.errors import ConfigError

    if text is None:
        return None
    try:
        edges = tuple(float(word) for word in text.split(","))
    except ValueError:
        edges = ()
    if not edges or list(edges) != sorted(set(edges)):
        raise ConfigError(f"--windows {text}: give rising pressures in GPa, such as 5,50,120,300,600")
    return edges


def _named(models: tuple[str, ...], config: Config) -> dict[str, CalculatorSettings]:
    """Return the settings of each model, once."""
    from uspex_bridge.call.model_names import settings_for

    return {name.rstrip("/"): settings_for(name, config) for name in models}


def _probe(models: dict[str, CalculatorSettings], frames: Any, config: Config, out: Path, count: int) -> list[Probed]:
    from uspex_bridge.learn.judge.probes import probe

    return [probe(name, settings, frames, config, out / "probes", count) for name, settings in models.items()]


def _document(report: Accuracy, probed: list[Probed], reach: tuple[float, dict[str, list[Limit]]]) -> dict[str, Any]:
    document = report.as_dict() | ({"probes": [one.as_dict() for one in probed]} if probed else {})
    if reach[1]:
        breaks = {name: [limit.as_dict() for limit in limits] for name, limits in reach[1].items()}
        document["range"] = {"pressure_gpa": reach[0], "limits": breaks}
    return document


def _write(report: Accuracy, probed: list[Probed], reach: tuple[float, dict[str, list[Limit]]], out: Path) -> None:
    from uspex_bridge.base.files import publish_files
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import parity, style
    from uspex_bridge.learn.judge.tables import error_rows

    text = json.dumps(_document(report, probed, reach), indent=1, ensure_ascii=False) + "\n"
    publish_files(out, {"errors.csv": as_csv(error_rows(report)), "evaluation.json": text})
    style.save(parity.draw(report.models), out / "parity.png")
    style.save(parity.draw_pv(report.models), out / "pv.png")
    if probed:
        from uspex_bridge.figures import compression

        style.save(compression.draw(probed), out / "compression.png")
