"""``uspex-bridge screen``: the structures on which models disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, DEVICE, FORCE, PARALLEL, THREADS, Finite
from uspex_bridge.cli.soap_options import SOAP, progress, soap_of

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.screening import Screened
    from uspex_bridge.results.reading.failures import Failures

#: As in :mod:`uspex_bridge.learn.choose.screen`, which is not loaded to show the help.
FLAGS = ("short", "dense", "elongated", "far", "unconverged", "rejected", "outside", "failed")
#: Files of the folder, beside the answers.
_WRITTEN = ("label.extxyz", "screen.csv", "screen.json", "screen.png")


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    required=True,
    help="Models, two or more: a calculator's name in the settings, KIND:WEIGHTS (deepmd:sea.pb), a folder of train.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("screened"), show_default=True, help="Folder."
)
@click.option("--pv", type=Finite(), default=0.04, show_default=True, help="Threshold of |ΔPV|, eV/atom; 0 for none.")
@click.option("--energy", type=Finite(), help="Threshold of |ΔE|, eV/atom.  [default: none]")
@click.option("--forces", type=Finite(), help="Threshold of the largest |ΔF| of an atom, eV/Å.  [default: none]")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Fit of the models' energy zeros to each other, per element; auto where they may differ.",
)
@click.option(
    "--min-ratio",
    default=0.5,
    show_default=True,
    help="Distance below which a pair is short, in sums of covalent radii.",
)
@click.option(
    "--packing", default=0.25, show_default=True, help="Volume below which a structure is dense, in covalent spheres."
)
@click.option(
    "--axis-ratio",
    default=3.0,
    show_default=True,
    help="Ratio of lattice vectors above which a structure is elongated.",
)
@click.option(
    "--within",
    type=Finite(min=0),
    help="Largest distance above the hull, eV/atom; beyond it a structure is far.  [default: no limit]",
)
@click.option(
    "--training",
    type=click.Path(path_type=Path),
    help="Training set: a dataset's folder, or a file.  [default: none, no flag outside]",
)
@click.option(
    "--novelty",
    default=1.0,
    show_default=True,
    help="Distance from the training set above which a structure is outside.",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice(FLAGS),
    default=("failed", "rejected"),
    show_default="failed, rejected",
    help="Flags that are a reason to compute a structure. Repeatable.",
)
@click.option(
    "--failures", is_flag=True, help="Lost structures of the searches in PLACES included, at their starting geometry."
)
@click.option(
    "--b-max",
    type=click.IntRange(min=0),
    help="Number of lost structures above which retraining is recommended.  [default: none]",
)
@click.option(
    "--since", default="", help="Earliest time of failures that count (2026-11-29T08:00, UTC).  [default: none]"
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    help="Dataset for the error of PV at given |ΔPV|; only labels outside all training sets are used.  [default: none]",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Confidence of the calibrated threshold.",
)
@PARALLEL
@click.option("--retry", is_flag=True, help="Second evaluation of failed structures.")
@click.option(
    "-n",
    "most",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Largest number of structures in the table.",
)
@q.REFERENCES
@q.LEVELS
@CONFIG
@DEVICE
@THREADS
@SOAP
@FORCE
@q.JSON
def command(
    places: tuple[str, ...],
    models: tuple[str, ...],
    out: Path,
    most: int,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the structures of PLACES on which models disagree; at least one model is wrong there.

    \b
    uspex-bridge screen results1 -m dpa3 -m sea
    uspex-bridge screen results1 -m chgnet -m sevennet --pv 0.03 --forces 1 --workers 4

    Each model evaluates energy, forces and PV (-V tr(stress)/3) of every structure without relaxation. The folder
    --out gets screen.csv, screen.json, screen.png, label.extxyz with the structures to compute and the reasons, and
    all predictions. A repeated (--force) or continued run evaluates only missing structures.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.cli.vasp import read_settings

    q.keep(*(out / name for name in _WRITTEN), force=force)
    config = read_settings(Path.cwd(), {key: options[key] for key in ("config", "device", "threads")})
    limit_threads(config.threads)
    from uspex_bridge.learn.choose.screening import Parallel, screen_pool
    from uspex_bridge.results.reading.model import Pool

    pool = q.open_pool(places, options)
    lost = _lost(places, options)
    if lost is not None and options["failures"]:
        pool = Pool([*pool.sources.values(), *lost.sources])
    found = screen_pool(
        pool,
        models,
        config,
        out,
        _limits(options),
        references=options["references"],
        offsets=options["offsets"],
        also=options["also"],
        training=options["training"],
        calibrate=options["calibrate"],
        confidence=options["confidence"],
        soap=lambda elements: soap_of(options, elements),
        scaling=options["scaling"],
        mix_levels=options["mix_levels"],
        parallel=Parallel(options["workers"], options["scheduler"], options["retry"]),
        progress=progress,
    )
    summary = found.to_dict() | _failures(lost, options["b_max"])
    _write(found, summary, out)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo(report(found, most))
        click.echo(
            f"{out}/: label.extxyz ({counted(len(found.screening.chosen), 'structure')} to compute), screen.csv, "
            "screen.json, screen.png"
        )
    q.warn(found.notes)
    if summary.get("retrain"):
        q.warn(
            [f"the searches lost {lost.total if lost else 0} structures, more than {options['b_max']}: retrain first"]
        )
    q.tell_notes(pool.notes)


def _lost(places: tuple[str, ...], options: dict[str, Any]) -> Failures | None:
    """Read what the searches lost, where that is asked about."""
    if not options["failures"] and options["b_max"] is None:
        return None
    from uspex_bridge.results.reading.failures import read_failures

    return read_failures(places, options["since"])


def _failures(lost: Failures | None, most: int | None) -> dict[str, Any]:
    """Return what was lost as plain values."""
    if lost is None:
        return {}
    return {"failures": dict(lost.counts), "retrain": most is not None and lost.total > most}


def _limits(options: dict[str, Any]) -> Any:
    from uspex_bridge.learn.choose.screen import Limits

    return Limits(
        pv=options["pv"] or None,
        energy=options["energy"],
        force=options["forces"],
        ratio=options["min_ratio"],
        packing=options["packing"],
        axis=options["axis_ratio"],
        within=options["within"],
        novelty=options["novelty"],
    )


def _write(found: Screened, summary: dict[str, Any], out: Path) -> None:
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import disagreement, style
    from uspex_bridge.learn.choose.candidates import candidate, title_of, write_frames

    write_whole(out / "screen.csv", as_csv(found.rows()))
    write_whole(out / "screen.json", json.dumps(summary, indent=1, ensure_ascii=False))
    frames = [
        candidate(
            v.entry,
            v.structure,
            title_of(found.pool, v.entry),
            reason="; ".join(v.reasons),
            delta_pv=v.delta_pv,
            own_pressure_gpa=None if v.own_pressure_gpa != v.own_pressure_gpa else round(v.own_pressure_gpa, 1),
        )
        for v in found.screening.chosen
    ]
    write_frames(out / "label.extxyz", frames)
    style.save(disagreement.draw(found.screening), out / "screen.png")


def report(found: Screened, most: int) -> str:
    """Return the result as text: the worst structures, then the counts."""
    from uspex_bridge.base.tables import fitted, wrapped
    from uspex_bridge.learn.choose.candidates import title_of

    screening = found.screening
    headings = [
        ("", ""),
        ("formula", ""),
        ("|ΔPV|", "eV/atom"),
        ("|ΔE|", "eV/atom"),
        ("max |ΔF|", "eV/Å"),
        ("rms |ΔF|", "eV/Å"),
        ("above hull", "eV/atom"),
        ("novelty", ""),
        ("flags", ""),
        ("compute", ""),
    ]
    rows = [
        [
            title_of(found.pool, verdict.entry),
            verdict.entry.formula,
            *(
                "" if value != value else f"{value:.3f}"
                for value in (
                    verdict.delta_pv,
                    verdict.delta_energy,
                    verdict.delta_force,
                    verdict.rms_force,
                    verdict.above,
                    verdict.novelty,
                )
            ),
            " ".join(verdict.flags),
            "yes" if verdict.reasons else "no",
        ]
        for verdict in screening.verdicts[:most]
    ]
    table = [fitted(headings, rows, ("rms |ΔF|", "|ΔE|")), ""] if rows else []
    total = len(screening.verdicts)
    lines = [f"{counted(total, 'structure')} by {'; '.join(f'{model.name}: {model.title}' for model in found.models)}"]
    for model, shift in zip(screening.models[1:], screening.offsets, strict=False):
        added = ", ".join(f"{element} {value:+.3f}" for element, value in shift.items())
        lines.append(f"energy zero of {model} fitted to {screening.models[0]}'s on these structures, eV/atom: {added}")
    titles = {"pv": "eV/atom in |ΔPV|", "energy": "eV/atom in |ΔE|", "force": "eV/Å in the largest |ΔF|"}
    lines += [
        f"{count} of {total} over {getattr(screening.limits, name):g} {titles[name]}"
        for name, count in found.over().items()
    ]
    if found.calibration is not None:
        lines.append(found.calibration.describe(screening.limits.pv))
    if flagged := {flag: screening.count(flag) for flag in FLAGS if screening.count(flag)}:
        lines.append("flags: " + ", ".join(f"{count} {flag}" for flag, count in flagged.items()))
    return "\n".join([*table, *map(wrapped, lines)])
