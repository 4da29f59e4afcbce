"""The steps of a cycle: each is a command of ``uspex-bridge`` that can be repeated by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uspex_bridge.learn.cycle.settings import CycleSettings

#: ``bridge`` runs a command of uspex-bridge; ``shell`` a command of the user's; ``labels`` waits for them, ``promote``
#: judges and moves ``current``.
Kind = Literal["bridge", "shell", "labels", "promote"]


@dataclass(frozen=True)
class CycleStep:
    """One step.

    Attributes:
        name: unique in its cycle.
        words: of the command.
        kind: what it is.
        folder: where a shell command runs, below the cycle's folder.
    """

    name: str
    words: tuple[str, ...] = ()
    kind: Kind = "bridge"
    folder: str = "."

    def __str__(self) -> str:
        if self.kind in ("bridge", "labels"):
            return "uspex-bridge " + " ".join(self.words)
        return self.words[0] if self.words else self.name


def folder_of(number: int) -> str:
    """Return the name of a cycle's own folder."""
    return f"cycle-{number}"


def training(number: int, model: str) -> str:
    """Return where a model is trained in a cycle."""
    return f"{folder_of(number)}/{model}"


def current(model: str) -> str:
    """Return the link to the folder of the promoted training of a model."""
    return f"models/{model}/current"


def steps_of(settings: CycleSettings, number: int, *, labelled: bool, held_out: str, promoted: bool) -> list[CycleStep]:
    """Return the steps of a cycle in order.

    Args:
        settings: of the loop.
        number: 0 for the first models, then 1, 2, ...
        labelled: whether there was a dataset before cycle 0, which then needs no labels of its own.
        held_out: the split that judges: test, or valid where a small dataset has no test structures.
        promoted: whether there are models to compare with.
    """
    steps: list[CycleStep] = []
    if number > 1 and settings.search.command:
        steps.append(CycleStep("search", (settings.search.command,), "shell"))
    if number > 0:
        steps.append(_screen(settings, number))
    if number > 0 or not labelled:
        steps += _labels(settings, number, labelled=labelled)
    steps += [_train(settings, number, name, promoted=promoted) for name in settings.models]
    steps += _evaluate(settings, number, held_out, promoted=promoted)
    steps.append(CycleStep("promote", kind="promote"))
    if number > 0 and settings.seeds.count:
        words = ("seeds", *settings.search.places, "-n", str(settings.seeds.count), "--into", settings.seeds.into)
        steps.append(CycleStep("seeds", (*words, "--force")))
    return steps


def _screen(settings: CycleSettings, number: int) -> CycleStep:
    limits = settings.screen
    words = ["screen", *settings.search.places]
    for name in settings.models:
        words += ["-m", current(name)]
    words += ["--pv", f"{limits.pv[min(number, len(limits.pv)) - 1]:g}", "--workers", str(limits.workers)]
    for option, value in (("--energy", limits.energy), ("--force", limits.force)):
        words += [] if value is None else [option, f"{value:g}"]
    words += ["--training", settings.dataset, "--out", f"{folder_of(number)}/screened", "--json"]
    return CycleStep("screen", tuple(words))


def _labels(settings: CycleSettings, number: int, *, labelled: bool) -> list[CycleStep]:
    here, chosen, label = folder_of(number), settings.select, settings.label
    seed = str(chosen.seed + number)
    known = labelled or number > 0
    select = ["select", *([f"{here}/screened/label.extxyz"] if number else settings.search.places)]
    if number:
        select += [word for place in settings.search.places for word in ("--reference", place)]
    select += ["-n", str(chosen.budget if number else chosen.first), "--seed", seed]
    select += ["--have", settings.dataset] if known else []
    select += [] if chosen.max_atoms is None else ["--max-atoms", str(chosen.max_atoms)]
    augment = ["augment", f"{here}/selected/selected.extxyz", "-n", str(chosen.copies), "--seed", seed]
    if chosen.volumes:
        augment += ["--volumes", ",".join(f"{volume:g}" for volume in chosen.volumes)]
    prepare = ["label", "prepare", f"{here}/labels", f"{here}/augmented.extxyz", "--code", label.code]
    for option, value in (("--settings", label.settings), ("--model", label.model), ("--potcars", label.potcars)):
        prepare += [option, value] if value else []
    prepare += ["--generation", str(number), *(["--dataset", settings.dataset] if known else [])]
    return [
        CycleStep("select", (*select, "--out", f"{here}/selected", "--json")),
        CycleStep("augment", (*augment, "-o", f"{here}/augmented.extxyz", "--json")),
        CycleStep("prepare", (*prepare, "--json")),
        _computed(settings, here),
        CycleStep("labels", ("label", "status", f"{here}/labels", "--json"), "labels"),
        CycleStep("collect", ("label", "collect", f"{here}/labels", settings.dataset, "--json")),
    ]


def _computed(settings: CycleSettings, here: str) -> CycleStep:
    label = settings.label
    if label.how == "run":
        more = ("--command", label.command) if label.command else ()
        return CycleStep("compute", ("label", "run", f"{here}/labels", *more))
    return CycleStep("compute", (label.command,) if label.how == "submit" else (), "shell", f"{here}/labels")


def _train(settings: CycleSettings, number: int, name: str, *, promoted: bool) -> CycleStep:
    model = settings.models[name]
    words = ["train", model.trainer, settings.dataset, "-o", training(number, name), "--resume"]
    goes_on = promoted and model.later == "current"
    for option, value in (
        ("--from", current(name) if goes_on else model.start),
        ("--branch", "" if goes_on else model.branch),
        ("--replay", model.replay),
        ("--settings", model.settings),
    ):
        words += [option, value] if value else []
    unit = "--steps" if model.trainer.startswith("deepmd") else "--epochs"
    words += [] if model.length is None else [unit, str(model.length)]
    words += [] if model.time_limit is None else ["--time-limit", f"{model.time_limit:g}"]
    return CycleStep(f"train {name}", (*words, "--json"))


def _evaluate(settings: CycleSettings, number: int, held_out: str, *, promoted: bool) -> list[CycleStep]:
    old = [current(name) for name in settings.models] if promoted else []
    models = [*old, *(training(number, name) for name in settings.models)]
    words = ("evaluate", *models, "--on", settings.dataset)
    here = folder_of(number)
    steps = [CycleStep("evaluate", (*words, "--split", held_out, "-o", f"{here}/held-out", "--json"))]
    if number and promoted:
        newest = ("--split", "all", "--generation", str(number))
        steps.append(CycleStep("evaluate newest", (*words, *newest, "-o", f"{here}/newest", "--json")))
    return steps


def evaluation(folder: Path, number: int, which: Literal["held-out", "newest"]) -> Path:
    """Return the file of an evaluation of a cycle."""
    return folder / folder_of(number) / which / "evaluation.json"
