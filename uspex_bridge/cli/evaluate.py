"""``uspex-bridge evaluate``: models against labels, against each other, and where they break."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, DEVICE, THREADS

if TYPE_CHECKING:
    from uspex_bridge.call.config import Config
    from uspex_bridge.learn.judge.accuracy import Accuracy
    from uspex_bridge.learn.judge.probes import Probed
    from uspex_bridge.models.cards import CalculatorSettings

_PATH = click.Path(path_type=Path)


@click.command(context_settings=q.CONTEXT)
@click.argument("models", nargs=-1, required=True)
@click.option("--on", "place", type=_PATH, required=True, help="A dataset's folder, or extxyz with labels.")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test", "all"]),
    default="test",
    show_default=True,
    help="Of a dataset.",
)
@click.option(
    "--generation",
    type=click.IntRange(0),
    help="Only labels of this generation, with --split all: how well the models predicted what was computed next.",
)
@click.option("-o", "--out", type=_PATH, default=Path("evaluated"), show_default=True, help="Folder.")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Fit each element's energy to the labels'; auto for models of the Materials Project's energies.",
)
@click.option(
    "--window",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="What is near the hull, eV/atom.",
)
@click.option(
    "--ultra-high",
    type=float,
    default=500.0,
    show_default=True,
    help="Labels of a higher pressure count in the total only, GPa.",
)
@click.option("--probes", is_flag=True, help="Also compress, bring atoms together and relax random structures.")
@click.option(
    "--random",
    "count",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Random structures per pressure to relax.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes per model.")
@CONFIG
@DEVICE
@THREADS
@q.JSON
def command(
    models: tuple[str, ...], place: Path, out: Path, as_json: bool, probes: bool, count: int, **options: Any
) -> None:
    """Compare MODELS with labelled structures and with each other.

    \b
    uspex-bridge evaluate models/dpa3-02 models/sea-02 mattersim:5M --on dataset
    uspex-bridge evaluate models/dpa3-01 --on dataset --split all --generation 2

    A model is a folder that train filled, a calculator's name in the settings, or KIND:WEIGHTS. Errors of energy,
    forces, virial and PV per pressure and in total (the total is over all structures, not over the lines), how the
    structures near the hull are ranked, how far models are apart. --out gets evaluation.json, errors.csv, parity.png.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.cli.vasp import read_settings

    config = read_settings(Path.cwd(), {key: options[key] for key in ("config", "device", "threads")})
    limit_threads(config.threads)
    from uspex_bridge.learn.judge.accuracy import accuracy_of, read_labelled, tables

    split = None if options["split"] == "all" else options["split"]
    frames = read_labelled(place, split, options["generation"])
    chosen = _named(models, config)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(frames) * len(chosen), label="evaluating", file=sys.stderr, hidden=hidden) as bar:
        report = accuracy_of(
            frames,
            chosen,
            out / "answers",
            offsets=options["offsets"],
            window=options["window"],
            ultra_high=options["ultra_high"],
            workers=options["workers"],
            progress=bar.update,
        )
    probed = _probe(chosen, frames, config, out, count) if probes else []
    _write(report, probed, out)
    if as_json:
        click.echo(json.dumps(_document(report, probed), indent=1, ensure_ascii=False))
    else:
        click.echo(tables(report))
        if probed:
            from uspex_bridge.learn.judge.probes import table

            click.echo("\n" + table(probed))
        click.echo(f"{out}/: evaluation.json, errors.csv, parity.png" + (", compression.png" if probed else ""))
    q.warn(report.notes)


def _named(models: tuple[str, ...], config: Config) -> dict[str, CalculatorSettings]:
    """Return the settings of each model, once."""
    from uspex_bridge.call.model_names import settings_for

    return {name.rstrip("/"): settings_for(name, config) for name in models}


def _probe(models: dict[str, CalculatorSettings], frames: Any, config: Config, out: Path, count: int) -> list[Probed]:
    from uspex_bridge.learn.judge.probes import probe

    return [probe(name, settings, frames, config, out / "probes", count) for name, settings in models.items()]


def _document(report: Accuracy, probed: list[Probed]) -> dict[str, Any]:
    return report.as_dict() | ({"probes": [one.as_dict() for one in probed]} if probed else {})


def _write(report: Accuracy, probed: list[Probed], out: Path) -> None:
    from uspex_bridge.base.files import publish_files
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import parity, style
    from uspex_bridge.learn.judge.accuracy import error_rows

    text = json.dumps(_document(report, probed), indent=1, ensure_ascii=False) + "\n"
    publish_files(out, {"errors.csv": as_csv(error_rows(report)), "evaluation.json": text})
    style.save(parity.draw(report.models), out / "parity.png")
    if probed:
        from uspex_bridge.figures import compression

        style.save(compression.draw(probed), out / "compression.png")
