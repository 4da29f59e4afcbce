"""``uspex-bridge label``: structures to a DFT code and back."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, Finite

if TYPE_CHECKING:
    from uspex_bridge.learn.label.collect import LabelState

LABELS = click.argument("labels", type=click.Path(path_type=Path))
STALE = click.option(
    "--stale",
    type=Finite(min=0),
    default=1.0,
    show_default=True,
    help="Time without a change after which a run counts as stopped, h.",
)


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Compute structures with DFT, or with a model in its place, and collect the labels in a dataset.

    \b
    uspex-bridge label prepare labels chosen.extxyz --code vasp --potcars ~/potpaw_PBE --generation 3
    (cd labels && sbatch slurm-1.sh)
    uspex-bridge label status labels
    uspex-bridge label collect labels dataset
    """  # noqa: D301 (click's mark for lines that stay as they are)


@command.command(context_settings=q.CONTEXT)
@LABELS
@q.PLACES
@click.option(
    "--code",
    type=click.Choice(["vasp", "gpaw", "model"]),
    help="Code that computes the labels.  [default: that of --settings]",
)
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    help="TOML file with the differences from the template of --code.  [default: none]",
)
@click.option(
    "-m",
    "--model",
    help="Model for --code model: a calculator's name, KIND:WEIGHTS, a folder of train.  [default: none]",
)
@click.option("--potcars", type=click.Path(path_type=Path), help="POTCAR library.  [default: $PMG_VASP_PSP_DIR]")
@click.option(
    "--generation", type=click.IntRange(min=0), required=True, help="Generation of the search, or number of the cycle."
)
@click.option(
    "-p",
    "--pressure",
    type=Finite(),
    help="Pressure of the search, GPa, for PLACES without one.  [default: none]",
)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Dataset; structures with a label in it are left out.  [default: none]",
)
@click.option(
    "--relax", is_flag=True, help="Relaxation of each at its pressure (ISIF = 3) before the single point; VASP only."
)
@click.option(
    "--estimate",
    metavar="MODEL",
    help="Model for the pressure of each structure; the cutoff follows it if it is above that of the search.  "
    "[default: none]",
)
@CONFIG
@q.JSON
def prepare(
    labels: Path,
    places: tuple[str, ...],
    code: Any,
    file: Path | None,
    model: str | None,
    dataset: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write complete input for each structure of PLACES into LABELS, and job scripts for SLURM and PBS.

    PLACES are extxyz files (info: origin, family, pressure_gpa, reason), results folders, or any source of 'hull'.
    Existing structures of LABELS are not changed. 'uspex-bridge label settings CODE' prints all settings.

    --relax is for the final phases: VASP relaxes each structure repeatedly from its CONTCAR until it is unchanged,
    and computes a single point. 'label collect' reports the change of enthalpy.

    Example: uspex-bridge label prepare labels chosen.extxyz --code vasp --generation 3
    """
    from dataclasses import asdict, replace

    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.learn.data.dataset import Dataset
    from uspex_bridge.learn.label import prepare as preparing
    from uspex_bridge.learn.label.settings import read_label_settings

    settings = read_label_settings(file, code)
    if model is not None:
        if settings.code != "model":
            raise ConfigError("--model goes with --code model")
        settings = replace(settings, functional=model)
    wanted = preparing.candidates(places)
    if options["estimate"] is not None:
        wanted = iter(_estimated(wanted, options["estimate"], options["config"], labels))
    done = preparing.prepare(
        wanted,
        labels,
        settings,
        generation=options["generation"],
        pressure_gpa=options["pressure"],
        potcars=options["potcars"],
        known=() if dataset is None else set(Dataset.open(dataset).labels),
        relax=options["relax"],
    )
    q.warn(done.notes)
    facts = {key: value for key, value in asdict(done).items() if key != "notes"}
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        submit = ""
        if done.scripts and not done.without_potcar:
            slurm, pbs = (", ".join(done.scripts[k::2]) for k in (0, 1))
            submit = f"; in {labels}: sbatch {slurm}, or qsub {pbs}"
        click.echo(
            f"{counted(len(done.made), 'structure')} prepared in {labels} ({settings.level}), "
            f"{len(done.there)} were there, {len(done.labelled)} have a label{submit}"
        )


def _estimated(wanted: Any, model: str, config: Path | None, labels: Path) -> Any:
    """Let a model estimate each structure's own pressure."""
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.config import load_config
    from uspex_bridge.call.model_names import settings_for

    chosen = load_config(Path.cwd(), config)
    limit_threads(chosen.threads)
    from uspex_bridge.learn.label.estimate import with_estimates

    return with_estimates(wanted, model, settings_for(model, chosen), labels)


@command.command(context_settings=q.CONTEXT)
@click.argument("code", type=click.Choice(["vasp", "gpaw", "model"]))
def settings(code: str) -> None:
    """Print the settings of 'label prepare --code CODE'; your own file contains only the differences.

    Example: uspex-bridge label settings vasp > labels.toml
    """
    from uspex_bridge.base.templates import TEMPLATES

    click.echo((TEMPLATES / "labels" / f"{code}.toml").read_text(encoding="utf-8"), nl=False)


@command.command(context_settings=q.CONTEXT)
@LABELS
@click.option(
    "--command", "line", help="Command for VASP or GPAW in each structure's folder.  [default: that of the settings]"
)
@click.option(
    "--python",
    type=click.Path(exists=True, path_type=Path),
    help="Python interpreter with gpaw.  [default: that of the settings]",
)
@click.option("--retry", is_flag=True, help="Second calculation of failed structures.")
@CONFIG
def run(labels: Path, line: str | None, python: Path | None, retry: bool, config: Path | None) -> None:
    """Compute the prepared structures of LABELS on this machine, one after the other. Several calls share the work.

    The exit code is 7 if all in LABELS have failed or the input of one cannot be read, and 5 if the Python for GPAW
    has no gpaw.

    Example: uspex-bridge label run labels --python ~/gpaw/bin/python
    """
    import shlex

    from uspex_bridge.base.errors import CalculationError
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.call.config import load_config

    chosen = load_config(Path.cwd(), config)
    limit_threads(chosen.threads)
    from uspex_bridge.learn.label.run import SCRIPT
    from uspex_bridge.learn.label.run import run as compute
    from uspex_bridge.learn.label.tasks import folders

    if python is not None:
        line = f"{shlex.quote(str(python.absolute()))} {SCRIPT}"
    total = len(list(folders(labels)))
    jobs = []
    with click.progressbar(length=total, label="labelling", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for job in compute(labels, chosen, command=line, retry=retry):
            jobs.append(job)
            bar.update(1)
    click.echo(f"{len(jobs)} computed: {_counts(jobs)}")
    for job in jobs:
        if job.state != "done":
            click.echo(f"{job.state}: {job.folder.name}: {job.reason}", err=True)
    if unread := [job.folder.name for job in jobs if job.task is None]:
        raise CalculationError(f"{labels}: the input of {', '.join(unread)} cannot be read; the others are computed")
    if jobs and all(job.state == "failed" for job in _inspect(labels, stale=1.0)):
        sys.exit(CalculationError.exit_code)


@command.command(context_settings=q.CONTEXT)
@LABELS
@STALE
@q.JSON
def status(labels: Path, stale: float, as_json: bool) -> None:
    """Show the state of every structure in LABELS: prepared, running, done, or failed with the reason.

    Example: uspex-bridge label status labels
    """
    jobs = _inspect(labels, stale)
    if as_json:
        click.echo(json.dumps({"labels": [_row(job) for job in jobs]}, indent=1, ensure_ascii=False))
    else:
        click.echo(table(jobs))
        click.echo(f"{counted(len(jobs), 'structure')}: {_counts(jobs)}")


@command.command(context_settings=q.CONTEXT)
@LABELS
@click.argument("dataset", type=click.Path(path_type=Path))
@STALE
@q.NEW_SPLITS
@q.JSON
def collect(labels: Path, dataset: Path, stale: float, valid: float, test: float, as_json: bool) -> None:
    """Add the finished labels of LABELS to DATASET, and list the others with reasons.

    Only converged, complete single points are taken. uspex-bridge docs learning lists the checks.

    Example: uspex-bridge label collect labels dataset
    """
    from uspex_bridge.cli.dataset import describe_added
    from uspex_bridge.learn.data.dataset import Dataset, is_dataset
    from uspex_bridge.learn.label.collect import collect as file_labels

    opened = Dataset.open(dataset) if is_dataset(dataset) else None
    jobs = _inspect(labels, stale)
    opened = opened or Dataset.at(dataset, valid=valid, test=test)
    added = file_labels(jobs, opened)
    states = Counter(job.state for job in jobs)
    if as_json:
        refused = [{"name": one.name, "reason": one.reason} for one in added.refused]
        gains = {job.folder.name: job.gain for job in jobs if job.gain is not None}
        facts = {"added": added.counts, "refused": refused, "states": dict(states), "gained_ev_per_atom": gains}
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        click.echo(describe_added(added, opened))
        click.echo(f"{counted(len(jobs), 'structure')}: {_counts(jobs)}")
        click.echo(_gains(jobs), nl=False)


def _gains(jobs: list[LabelState]) -> str:
    """Say what relaxation by DFT has gained: E(DFT at the model's geometry) - E(DFT relaxed), with PV."""
    from statistics import median

    gains = sorted((job.gain, job.task.origin) for job in jobs if job.gain is not None and job.task is not None)
    if not gains:
        return ""
    most, name = gains[-1]
    middle = median(gain for gain, _ in gains)
    return (
        f"relaxation by DFT lowered the enthalpy of {counted(len(gains), 'structure')} by {1000 * middle:.1f} meV/atom "
        f"(median), {1000 * most:.1f} at most ({name})\n"
    )


def _inspect(labels: Path, stale: float) -> list[LabelState]:
    from uspex_bridge.learn.label.collect import inspect
    from uspex_bridge.learn.label.tasks import folders

    places = list(folders(labels))
    with click.progressbar(places, label="reading", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        return [inspect(folder, 3600 * stale) for folder in bar]


def _counts(jobs: list[LabelState]) -> str:
    counts = Counter(job.state for job in jobs)
    return ", ".join(f"{counts[state]} {state}" for state in ("prepared", "running", "done", "failed") if counts[state])


def _row(job: LabelState) -> dict[str, Any]:
    row: dict[str, Any] = {"id": job.folder.name, "state": job.state, "reason": job.reason or None}
    if job.task is not None:
        row |= {
            "formula": job.task.structure.formula,
            "pressure_gpa": job.task.pressure_gpa,
            "generation": job.task.generation,
            "origin": job.task.origin,
        }
    if job.atoms is not None:
        results = job.atoms.calc.results
        row |= {
            "energy_per_atom": results["energy"] / len(job.atoms),
            "magmom": results.get("magmom"),
            "gained_ev_per_atom": job.gain,
        }
    return row


def table(jobs: list[LabelState]) -> str:
    """Return the jobs as a table."""
    from uspex_bridge.base.tables import layout

    headings = [
        ("label", ""),
        ("formula", ""),
        ("P", "GPa"),
        ("generation", ""),
        ("state", ""),
        ("E0", "eV/atom"),
        ("moment", "μB"),
        ("origin or reason", ""),
    ]
    rows = []
    for row in map(_row, jobs):
        numbers = [("energy_per_atom", ".4f"), ("magmom", ".2f")]
        rows.append(
            [
                row["id"],
                row.get("formula", ""),
                f"{row['pressure_gpa']:g}" if "pressure_gpa" in row else "",
                str(row.get("generation", "")),
                row["state"],
                *("" if row.get(key) is None else format(row[key], spec) for key, spec in numbers),
                row["reason"] or row.get("origin", ""),
            ]
        )
    return layout(headings, rows)
