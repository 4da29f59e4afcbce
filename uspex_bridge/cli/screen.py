"""``uspex-bridge screen``: the structures on which models disagree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, CREW, DEVICE, THREADS
from uspex_bridge.cli.soap_options import SOAP, progress, soap_of

if TYPE_CHECKING:
    from uspex_bridge.base.data import Structure
    from uspex_bridge.learn.choose.screen import Screening
    from uspex_bridge.learn.data.predictions import Predictor
    from uspex_bridge.results.model import Entry, Pool

_FLAGS = ("short", "dense", "elongated", "far", "unconverged", "outside", "failed")


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    required=True,
    help="Two or more: a calculator's name in the settings, KIND:WEIGHTS (deepmd:sea.pb), or a folder of train.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("screened"), show_default=True, help="Folder."
)
@click.option("--pv", type=float, default=0.04, show_default=True, help="Threshold of |ΔPV|, eV/atom; 0 for none.")
@click.option("--energy", type=float, help="Threshold of |ΔE|, eV/atom.  [default: none]")
@click.option("--force", type=float, help="Threshold of the largest |ΔF| of an atom, eV/Å.  [default: none]")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Fit the models' energy zeros to each other, per element; auto where they may differ.",
)
@click.option("--min-ratio", default=0.5, show_default=True, help="short: a pair closer, in sums of covalent radii.")
@click.option("--packing", default=0.25, show_default=True, help="dense: a smaller volume, in covalent spheres.")
@click.option("--axis-ratio", default=3.0, show_default=True, help="elongated: longest over shortest lattice vector.")
@click.option(
    "--within", type=click.FloatRange(min=0), help="far: further above the hull, eV/atom.  [default: no limit]"
)
@click.option("--training", type=click.Path(path_type=Path), help="Training set: a dataset's folder, or a file.")
@click.option("--novelty", default=1.0, show_default=True, help="outside: further from the training set than this.")
@click.option(
    "--also",
    multiple=True,
    type=click.Choice(_FLAGS),
    default=("failed",),
    show_default="failed",
    help="Flags that are a reason to compute a structure. Repeatable.",
)
@CREW
@click.option("--retry", is_flag=True, help="Ask a model again about structures it failed on.")
@click.option("-n", "most", type=click.IntRange(min=0), default=20, show_default=True, help="Lines of the table.")
@q.REFERENCES
@q.LEVELS
@CONFIG
@DEVICE
@THREADS
@SOAP
@q.JSON
def command(
    places: tuple[str, ...], models: tuple[str, ...], out: Path, most: int, as_json: bool, **options: Any
) -> None:
    """Find the structures of PLACES on which models disagree: there one of them is wrong.

    \b
    uspex-bridge screen results1 -m dpa3 -m sea
    uspex-bridge screen results1 -m chgnet -m sevennet --pv 0.03 --force 1 --workers 4

    Energies, forces and PV (-V tr(stress)/3) of every structure as it is, by each model. The folder --out gets
    screen.csv, screen.json, screen.png, the list to compute as label.extxyz with reasons, and all answers: a run
    that was stopped, or is repeated with other thresholds, computes only what is missing.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.cli.vasp import read_settings

    if len(set(models)) < 2:
        raise ConfigError("screen compares models: give -m at least twice, with different models")
    config = read_settings(Path.cwd(), {key: options[key] for key in ("config", "device", "threads")})
    limit_threads(config.threads)
    from uspex_bridge.call.model_names import settings_for
    from uspex_bridge.learn.choose.screen import screen
    from uspex_bridge.learn.data.predictions import find_predictor

    limits = _limits(options)
    asked = [find_predictor(name, settings_for(name, config)) for name in models]
    if len({model.key for model in asked}) < len(asked):
        raise ConfigError(f"{' and '.join(models)} are the same model with the same weights; they cannot disagree")
    pool = q.open_pool(places, options)
    held = _readable(pool, options["references"])
    seen, notes = _ask(pool, held, asked, out, options)
    offsets = options["offsets"] == "on" or (
        options["offsets"] == "auto" and any(m.energy_zero == "model" for m in asked)
    )
    found = screen(seen, models, limits, offsets=offsets, also=options["also"])
    summary = document(found, asked, pool)
    _write(found, summary, pool, out)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo(report(found, asked, pool, most))
        click.echo(
            f"{out}/: label.extxyz ({counted(len(found.chosen), 'structure')} to compute), screen.csv, "
            "screen.json, screen.png"
        )
    q.warn([*found.notes, *notes])
    q.tell_notes(pool.notes)


def _limits(options: dict[str, Any]) -> Any:
    from uspex_bridge.learn.choose.screen import Limits

    return Limits(
        pv=options["pv"] or None,
        energy=options["energy"],
        force=options["force"],
        ratio=options["min_ratio"],
        packing=options["packing"],
        axis=options["axis_ratio"],
        within=options["within"],
        novelty=options["novelty"],
    )


def _readable(pool: Pool, references: Sequence[str]) -> list[tuple[Entry, Structure]]:
    from uspex_bridge.base.errors import InputError

    own = [entry for entry in pool.entries if entry.run not in references]
    held = list(pool.structures(own))
    if not held:
        raise InputError("there is no readable structure to screen")
    if lost := len(own) - len(held):
        q.warn([f"{counted(lost, 'entry')} without a readable structure left out"])
    return held


def _ask(
    pool: Pool, held: list[tuple[Entry, Structure]], models: list[Predictor], out: Path, options: dict[str, Any]
) -> tuple[list[Any], list[str]]:
    """Gather everything that is to be known of each structure."""
    from uspex_bridge.learn.choose.hulls import points_of
    from uspex_bridge.learn.choose.screen import Seen
    from uspex_bridge.learn.data.predictions import predict_all, structure_key

    keys = [structure_key(structure) for _, structure in held]
    structures = {key: structure for key, (_, structure) in zip(keys, held, strict=True)}
    answers = []
    for model in models:
        with progress(model.name, len(structures)) as step:
            answers.append(
                predict_all(
                    model,
                    structures,
                    out / "evaluations",
                    workers=options["workers"],
                    scheduler=options["scheduler"],
                    retry=options["retry"],
                    progress=step,
                )
            )
    points, notes = points_of(pool, options["references"], mix_levels=options["mix_levels"])
    novelty = _novelty([structure for _, structure in held], options)
    seen = [
        Seen(entry, structure, tuple(one[key] for one in answers), points.get(entry.name), far)
        for key, (entry, structure), far in zip(keys, held, novelty, strict=True)
    ]
    return seen, notes


def _novelty(structures: list[Structure], options: dict[str, Any]) -> list[float]:
    """Return each structure's distance to the training set, NaN where none is given."""
    if options["training"] is None:
        return [float("nan")] * len(structures)
    from uspex_bridge.learn.choose.novelty import reach_of
    from uspex_bridge.learn.judge.candidates import read_labelled_structures

    training = read_labelled_structures(options["training"], "train")
    settings = soap_of(options, {symbol for structure in training for symbol in structure.symbols})
    return [float(value) for value in reach_of(training, settings, options["scaling"]).novelty(structures)]


def _write(found: Screening, summary: dict[str, Any], pool: Pool, out: Path) -> None:
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import disagreement, style
    from uspex_bridge.learn.judge.candidates import candidate, title_of, write_frames

    q.write_text(
        out / "screen.csv",
        as_csv([verdict.row(found.models, title_of(pool, verdict.entry)) for verdict in found.verdicts]),
    )
    q.write_text(out / "screen.json", json.dumps(summary, indent=1, ensure_ascii=False))
    frames = [
        candidate(v.entry, v.structure, title_of(pool, v.entry), reason="; ".join(v.reasons), delta_pv=v.delta_pv)
        for v in found.chosen
    ]
    write_frames(out / "label.extxyz", frames)
    style.save(disagreement.draw(found), out / "screen.png")


def document(found: Screening, models: list[Predictor], pool: Pool) -> dict[str, Any]:
    """Return the result as plain values."""
    from dataclasses import asdict

    from uspex_bridge.learn.judge.candidates import title_of

    return {
        "models": [{"name": m.name, "what": m.title, "key": m.key, "energy_zero": m.energy_zero} for m in models],
        "thresholds": asdict(found.limits),
        "offsets": [
            {"model": model, "added": shift} for model, shift in zip(found.models[1:], found.offsets, strict=False)
        ],
        "structures": len(found.verdicts),
        "to_compute": len(found.chosen),
        "over": _over(found),
        "flags": {flag: found.count(flag) for flag in _FLAGS},
        "mean": {name: _mean(found, name) for name in ("delta_pv", "delta_energy", "delta_force", "rms_force")},
        "label": [verdict.row(found.models, title_of(pool, verdict.entry)) for verdict in found.chosen],
        "warnings": list(found.notes),
    }


def _over(found: Screening) -> dict[str, int]:
    limits = {"pv": found.limits.pv, "energy": found.limits.energy, "force": found.limits.force}
    return {
        name: sum(getattr(verdict, f"delta_{name}") > limit for verdict in found.verdicts)
        for name, limit in limits.items()
        if limit is not None
    }


def _mean(found: Screening, name: str) -> float | None:
    import numpy as np

    values = np.array([getattr(verdict, name) for verdict in found.verdicts])
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def report(found: Screening, models: list[Predictor], pool: Pool, most: int) -> str:
    """Return the result as text: the worst structures, then the counts."""
    from uspex_bridge.base.tables import layout
    from uspex_bridge.learn.judge.candidates import title_of

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
            title_of(pool, verdict.entry),
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
        for verdict in found.verdicts[:most]
    ]
    lines = [layout(headings, rows), ""] if rows else []
    total = len(found.verdicts)
    lines.append(f"{counted(total, 'structure')} by {'; '.join(f'{model.name}: {model.title}' for model in models)}")
    for model, shift in zip(found.models[1:], found.offsets, strict=False):
        added = ", ".join(f"{element} {value:+.3f}" for element, value in shift.items())
        lines.append(f"energy zero of {model} fitted to {found.models[0]}'s on these structures, eV/atom: {added}")
    titles = {"pv": "eV/atom in |ΔPV|", "energy": "eV/atom in |ΔE|", "force": "eV/Å in the largest |ΔF|"}
    lines += [
        f"{count} of {total} over {getattr(found.limits, name):g} {titles[name]}"
        for name, count in _over(found).items()
    ]
    if flagged := {flag: found.count(flag) for flag in _FLAGS if found.count(flag)}:
        lines.append("flags: " + ", ".join(f"{count} {flag}" for flag, count in flagged.items()))
    return "\n".join(lines)
