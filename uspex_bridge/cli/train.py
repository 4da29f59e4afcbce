"""``uspex-bridge train``: hand labelled structures to an upstream trainer and watch it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import CONFIG, DEVICE, Finite, settings

if TYPE_CHECKING:
    from uspex_bridge.learn.training.order import Data, Order
    from uspex_bridge.learn.training.trainers.base import Trainer
    from uspex_bridge.learn.training.watch import CurvePoint

_PATH = click.Path(path_type=Path)
_DATA = settings(
    click.argument("dataset", required=False, type=_PATH),
    click.option("--generation", type=click.IntRange(0), help="Last generation of the labels.  [default: all]"),
    click.option("--train-file", type=_PATH, help="Extxyz file with energy, forces and stress.  [default: DATASET]"),
    click.option(
        "--valid-file",
        type=_PATH,
        help="Extxyz file for validation, with --train-file.  [default: none]",
    ),
)
_TRAINING = settings(
    click.option("-o", "--out", type=_PATH, required=True, help="Folder of the training and of the model."),
    click.option(
        "--settings",
        "settings_files",
        type=_PATH,
        multiple=True,
        help="TOML file with the differences from the template.",
    ),
    click.option(
        "--from",
        "parent",
        metavar="CHECKPOINT",
        help="File, known name or training to start from.  [default: random weights]",
    ),
    click.option("--branch", "--head", help="Head of a checkpoint with several heads.  [default: the only one]"),
    click.option(
        "--time-limit",
        type=Finite(min=0, min_open=True, infinite=True),
        help="Time limit, s; --resume continues.  [default: none]",
    ),
    click.option(
        "--resume", is_flag=True, help="Continuation from the last checkpoint; a finished training is not changed."
    ),
    click.option("--dry-run", is_flag=True, help="Checks and the upstream input alone; no training."),
    click.option(
        "--python", help="Interpreter with the trainer.  [default: that of [calculators.KIND] in bridge.toml]"
    ),
    DEVICE,
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Number of CPU threads."),
    click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random numbers."),
    CONFIG,
    click.option("--json", "as_json", is_flag=True, help="JSON of the model's card on standard output."),
)
_STEPS = click.option(
    "--steps", "length", type=click.IntRange(min=1), help="Number of training steps.  [default: that of the template]"
)
_EPOCHS = click.option(
    "--epochs",
    "length",
    type=click.IntRange(min=1),
    help="Number of passes through the data.  [default: that of the template]",
)


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Train a potential on a dataset with the trainer of its own package.

    The input is the template of the trainer, changed by --settings; FOLDER/work has the complete file. FOLDER then
    contains the model, its card model.json, loss.csv and loss.png.

    \b
    uspex-bridge train deepmd-dpa3 dataset -o models/dpa3-01 \\
        --from DPA-3.1-3M.pt --branch MP_traj_v024_alldata_mixu
    uspex-bridge train deepmd-sea dataset -o models/sea-01
    """  # noqa: D301 (click's mark for lines that stay as they are)


@command.command("deepmd-dpa3", context_settings=q.CONTEXT)
@_DATA
@_TRAINING
@_STEPS
def dpa3(**options: Any) -> None:
    """DPA-3, fine-tuned from a pretrained checkpoint and branch, or from random weights.

    Example: uspex-bridge train deepmd-dpa3 dataset -o dpa3-01 --from DPA-3.1-3M.pt --branch MP_traj_v024_alldata_mixu
    """
    _train("deepmd-dpa3", options)


@command.command("deepmd-sea", context_settings=q.CONTEXT)
@_DATA
@_TRAINING
@_STEPS
def sea(**options: Any) -> None:
    """The local descriptor se_a with type embedding: the second opinion beside DPA-3.

    Example: uspex-bridge train deepmd-sea dataset -o models/sea-01
    """
    _train("deepmd-sea", options)


@command.command("mace", context_settings=q.CONTEXT)
@_DATA
@_TRAINING
@_EPOCHS
@click.option(
    "--replay",
    type=_PATH,
    help="Extxyz file of the foundation model's own training data, for multi-head replay.  [default: no replay]",
)
def mace(**options: Any) -> None:
    """MACE: multi-head replay fine-tuning, fine-tuning on the new labels alone, or from random weights.

    Example: uspex-bridge train mace dataset -o models/mace-01 --from medium-mpa-0 --replay mp-subset.xyz
    """
    _train("mace", options)


@command.command("mattersim", context_settings=q.CONTEXT)
@_DATA
@_TRAINING
@_EPOCHS
def mattersim(**options: Any) -> None:
    """MatterSim's own fine-tuning, with stresses.

    Example: uspex-bridge train mattersim dataset -o models/mattersim-01 --from 1M
    """
    _train("mattersim", options)


@command.command("chgnet", context_settings=q.CONTEXT)
@_DATA
@_TRAINING
@_EPOCHS
def chgnet(**options: Any) -> None:
    """CHGNet's own trainer, from one of its packaged models.

    Example: uspex-bridge train chgnet dataset -o models/chgnet-01 --from 0.3.0
    """
    _train("chgnet", options)


@command.command("distill", context_settings=q.CONTEXT)
@click.argument("teacher")
@click.argument("places", nargs=-1, required=True)
@click.option(
    "--student",
    type=click.Choice(["deepmd-sea", "deepmd-dpa3", "mace", "mattersim", "chgnet"]),
    default="deepmd-sea",
    show_default=True,
    help="Kind of model that is trained.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes of the teacher."
)
@_TRAINING
@click.option(
    "--steps",
    "--epochs",
    "length",
    type=click.IntRange(min=1),
    help="Length of the student's training.  [default: that of the template]",
)
def distill(teacher: str, places: tuple[str, ...], student: str, workers: int, **options: Any) -> None:
    """Label the structures of PLACES with TEACHER, and train a fast student on the labels.

    \b
    uspex-bridge train distill models/dpa3-03 results1 results2 -o models/fast

    TEACHER is a folder of a training, a calculator's name in the settings, or KIND:WEIGHTS. FOLDER/dataset keeps
    the labels. Do not screen with a student and its own teacher: they have the same errors.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.call.model_names import settings_for
    from uspex_bridge.cli import questions as q
    from uspex_bridge.cli.vasp import read_settings
    from uspex_bridge.learn.training.distill import teach

    config = read_settings(Path.cwd(), {"config": options["config"], "device": options["device"]})
    pool = q.open_pool(places, {})
    structures = list(pool.structures(pool.entries))
    if options["dry_run"]:
        click.echo(
            f"{teacher} would label {counted(len(structures), 'structure')} for {student}; nothing was written",
            err=True,
        )
        return
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(structures), label=f"asking {teacher}", file=sys.stderr, hidden=hidden) as bar:
        added = teach(
            teacher,
            settings_for(teacher, config),
            structures,
            options["out"],
            workers=workers,
            progress=bar.update,
        )
    if added.refused and not options["resume"]:
        first = added.refused[0]
        click.echo(f"{len(added.refused)} not added, such as {first.name}: {first.reason}", err=True)
    files = {"dataset": options["out"] / "dataset", "generation": None, "train_file": None, "valid_file": None}
    _train(student, options | files | {"notes": {"distilled_from": teacher}})


@command.command("student", context_settings=q.CONTEXT)
@click.argument("search", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("."))
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def student(search: Path, config: Path | None, as_json: bool) -> None:
    """Train, check and replace the student of SEARCH, the folder with its record, as far as that is due.

    The settings need [student] with distill = "auto". A running service does this by itself; without one, repeat the
    command, for example hourly by cron. It runs at the lowest priority.

    Example: uspex-bridge train student search
    """
    from uspex_bridge.call.record_file import in_folder
    from uspex_bridge.cli.vasp import read_settings
    from uspex_bridge.learn.training.student import update

    os.setpriority(os.PRIO_PROCESS, 0, 19)
    read = read_settings(search, {"config": config})
    record = Path(read.base, read.record) if read.record else in_folder(search)
    done = update(record.resolve(), read, draw=_draw)
    if as_json:
        check = None if done.check is None else asdict(done.check)
        click.echo(json.dumps({"said": done.said, "student": done.student, "check": check}, indent=1))
        return
    click.echo("\n".join(done.said))


@command.command("list", context_settings=q.CONTEXT)
@click.argument("folder", type=_PATH)
@q.JSON
def stored(folder: Path, as_json: bool) -> None:
    """List the models in FOLDER and below it, with their training data.

    Example: uspex-bridge train list models
    """
    from uspex_bridge.learn.training.stored import list_table, stored_models

    models = stored_models(folder)
    click.echo(json.dumps({"models": [one.row() for one in models]}, indent=1) if as_json else list_table(models))


@command.command("choose", context_settings=q.CONTEXT)
@click.argument("folder", type=_PATH)
@click.argument("places", nargs=-1, required=True)
@click.option(
    "--second",
    metavar="MODEL",
    help="Second opinion, if no two models have the same training labels.  [default: the median of the others]",
)
@click.option(
    "--pv",
    type=float,
    default=0.04,
    show_default=True,
    help="Threshold of |ΔPV| from which a label is needed, eV/atom.",
)
@click.option(
    "-o",
    "--out",
    type=_PATH,
    default=Path("chosen"),
    show_default=True,
    help="Folder of the predictions; existing ones are kept.",
)
@CONFIG
@DEVICE
@q.JSON
def choose(folder: Path, places: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Find the model in FOLDER that needs the fewest new labels for the structures of PLACES.

    A structure needs a label if the model and its second opinion differ in PV by more than --pv. The second opinion
    is a model of another kind with the same training labels, otherwise --second, otherwise the median of the other
    models.

    Example: uspex-bridge train choose models new-compositions.extxyz
    """
    from uspex_bridge.cli import questions as q
    from uspex_bridge.cli.vasp import read_settings
    from uspex_bridge.learn.training.stored import fitness_of, fitness_table, stored_models

    config = read_settings(Path.cwd(), {"config": options["config"], "device": options["device"]})
    pool = q.open_pool(places, {})
    structures = [structure for _, structure in pool.structures(pool.entries)]
    found = fitness_of(
        stored_models(folder), structures, config, out / "answers", second=options["second"], pv=options["pv"]
    )
    if as_json:
        rows = [
            {
                "folder": str(fit.model.folder),
                "new_labels": None if fit.unknown else fit.needed,
                "mean_delta_pv": None if fit.unknown else fit.mean,
                "unknown_elements": list(fit.unknown),
                "second_opinion": fit.beside,
            }
            for fit in found
        ]
        click.echo(json.dumps({"structures": len(structures), "models": rows}, indent=1))
        return
    click.echo(fitness_table(found, len(structures)))


def _train(trainer: str, options: dict[str, Any]) -> None:
    as_json, dry_run = options.pop("as_json"), options.pop("dry_run")
    order = _order(trainer, options)
    from uspex_bridge.cli.questions import warn
    from uspex_bridge.learn.training.order import plan
    from uspex_bridge.learn.training.run import train

    warn(order.data.notes)
    if dry_run:
        chosen, job, _ = plan(order)
        click.echo(json.dumps(chosen.input(job), indent=2))
        begin = "random weights"
        if job.parent is not None:
            begin = f"{job.parent.path}" + (f", branch {job.parent.branch}" if job.parent.branch else "")
        click.echo(
            f"{chosen.title} from {begin}: {chosen.length(job)} {chosen.unit} on {job.device}, {len(job.train)} "
            f"structures, {len(job.valid)} to validate, elements {' '.join(job.elements)}; nothing was written",
            err=True,
        )
        return
    card = _watched(order, train)
    if as_json:
        click.echo(json.dumps(card, indent=1, ensure_ascii=False))
        return
    click.echo(
        f"{order.out / card['model']}: {card['kind']}, {' '.join(card['elements'])}, sha256 {card['sha256'][:12]}"
    )


def _order(trainer: str, options: dict[str, Any]) -> Order:
    """Turn the options into an order; the interpreter may stand in bridge.toml."""
    from uspex_bridge.cli.vasp import read_settings
    from uspex_bridge.learn.training.order import TRAINERS, Order

    config = read_settings(Path.cwd(), {"config": options.pop("config"), "device": options.get("device")})
    data = _data({key: options.pop(key) for key in ("dataset", "generation", "train_file", "valid_file")})
    python = options.pop("python") or config.settings_of(TRAINERS[trainer].kind).python
    limit = options.pop("time_limit") or float("inf")
    options["device"] = options["device"] or config.device
    settings_files = tuple(options.pop("settings_files"))
    return Order(trainer=trainer, data=data, settings=settings_files, time_limit=limit, python=python, **options)


def _data(options: dict[str, Any]) -> Data:
    """Read what is trained on.

    Raises:
        ConfigError: neither or both of a dataset and files.
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.learn.data.public_sets import is_public
    from uspex_bridge.learn.training.order import from_dataset, from_files, from_public

    if (options["dataset"] is None) == (options["train_file"] is None):
        raise ConfigError("name one of DATASET and --train-file")
    if options["dataset"] is None:
        return from_files(options["train_file"], options["valid_file"])
    if options["valid_file"] is not None:
        raise ConfigError("--valid-file belongs to --train-file; a dataset has its own split")
    if is_public(str(options["dataset"])):
        return from_public(str(options["dataset"]))
    return from_dataset(options["dataset"], generation=options["generation"])


def _watched(order: Order, train: Any) -> dict[str, Any]:
    """Train with a progress bar where there is a terminal."""
    from uspex_bridge.learn.training.loss import summary

    done, text = 0, ""
    bar: Any
    with click.progressbar(
        length=1, label=order.trainer, file=sys.stderr, hidden=not sys.stderr.isatty(), item_show_func=lambda _: text
    ) as bar:

        def tell(total: int, points: list[CurvePoint]) -> None:
            nonlocal done, text
            bar.length, text = total, summary(points[-1])
            bar.update(points[-1].step - done)
            done = points[-1].step

        card: dict[str, Any] = train(order, tell, _draw)
    return card


def _draw(points: list[CurvePoint], trainer: Trainer, path: Path) -> None:
    from uspex_bridge.figures import loss as figure
    from uspex_bridge.figures import style

    style.save(figure.draw(points, trainer.unit, trainer.measure), path, dpi=150)
