"""The steps of a cycle: each is a command of ``uspex-bridge`` that can be repeated by hand."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Standing:
    """What the steps of a cycle depend on besides the settings.

    Attributes:
        number: 0 for the first models, then 1, 2, ...
        labelled: whether there was a dataset before cycle 0, which then needs no labels of its own.
        held_out: the split that judges: test, or valid where a small dataset has no test structures.
        stage: which of the searches, 0 the first.
        begins: whether this is the first cycle of a later search.
        since: when the cycle before ended (ISO 8601), empty at the beginning.
    """

    number: int
    labelled: bool = True
    held_out: str = "test"
    stage: int = 0
    begins: bool = False
    since: str = ""

    @property
    def promoted(self) -> bool:
        """Whether there are models in use."""
        return self.number > 0


def steps_of(settings: CycleSettings, now: Standing) -> list[CycleStep]:
    """Return the steps of a cycle in order."""
    steps: list[CycleStep] = []
    search, number = settings.search.at(now.stage), now.number
    if now.begins and search.seeds and settings.seeds.count:
        earlier = [place for stage in range(now.stage) for place in settings.search.at(stage).places]
        steps.append(_seeds("seeds written", earlier, settings.seeds.count, search.seeds))
    if (number > 1 or now.begins) and search.command:
        steps.append(CycleStep("search", (search.command,), "shell"))
    if number > 0:
        steps.append(_screen(settings, now))
    if number > 0 or not now.labelled:
        steps += _labels(settings, now)
    steps += [_train(settings, number, name, promoted=now.promoted) for name in settings.models]
    steps += _evaluate(settings, now)
    steps.append(CycleStep("promote", kind="promote"))
    if number > 0 and settings.seeds.count:
        into = search.seeds or settings.seeds.into
        steps.append(_seeds("seeds", search.places, settings.seeds.count, into))
    return steps


def _seeds(name: str, places: Sequence[str], count: int, into: str) -> CycleStep:
    return CycleStep(name, ("seeds", *places, "-n", str(count), "--into", into, "--force"))


def _screen(settings: CycleSettings, now: Standing) -> CycleStep:
    limits, search = settings.screen, settings.search
    words = ["screen", *search.at(now.stage).places]
    for name in settings.models:
        words += ["-m", current(name)]
    words += ["--pv", f"{limits.pv[min(now.number, len(limits.pv)) - 1]:g}", "--workers", str(limits.workers)]
    for option, value in (("--energy", limits.energy), ("--forces", limits.force)):
        words += [] if value is None else [option, f"{value:g}"]
    words += ["--failures"] if search.failures else []
    words += [] if search.b_max is None else ["--b-max", str(search.b_max)]
    words += ["--since", now.since] if now.since and (search.failures or search.b_max is not None) else []
    words += ["--calibrate", settings.dataset] if limits.calibrate else []
    words += ["--training", settings.dataset, "--out", f"{folder_of(now.number)}/screened", "--force", "--json"]
    return CycleStep("screen", tuple(words))


def _labels(settings: CycleSettings, now: Standing) -> list[CycleStep]:
    number, chosen, label = now.number, settings.select, settings.label
    here, places = folder_of(number), settings.search.at(now.stage).places
    known = now.labelled or number > 0
    augment = ["augment", f"{here}/selected/selected.extxyz", "--copies", str(chosen.copies)]
    augment += ["--seed", str(chosen.seed + number)]
    if chosen.volumes:
        augment += ["--volumes", ",".join(f"{volume:g}" for volume in chosen.volumes)]
    prepare = ["label", "prepare", f"{here}/labels", f"{here}/augmented.extxyz", "--code", label.code]
    for option, value in (("--settings", label.settings), ("--model", label.model), ("--potcars", label.potcars)):
        prepare += [option, value] if value else []
    if label.estimate and label.code != "model" and now.promoted:
        prepare += ["--estimate", current(next(iter(settings.models)))]
    prepare += ["--generation", str(number), *(["--dataset", settings.dataset] if known else [])]
    return [
        _select(settings, now, places, known=known),
        CycleStep("augment", (*augment, "-o", f"{here}/augmented.extxyz", "--force", "--json")),
        CycleStep("prepare", (*prepare, "--json")),
        _computed(settings, here),
        CycleStep("labels", ("label", "status", f"{here}/labels", "--json"), "labels"),
        CycleStep("collect", ("label", "collect", f"{here}/labels", settings.dataset, "--json")),
    ]


def _select(settings: CycleSettings, now: Standing, places: Sequence[str], *, known: bool) -> CycleStep:
    number, chosen = now.number, settings.select
    here = folder_of(number)
    words = ["select", *([f"{here}/screened/label.extxyz"] if number else places)]
    if number:
        words += [word for place in places for word in ("--reference", place)]
    words += ["-n", str(chosen.budget if number else chosen.first), "--seed", str(chosen.seed + number)]
    words += ["--near-share", f"{chosen.near:g}", "--within", f"{chosen.within:g}", "--each", str(chosen.each)]
    words += ["--method", chosen.method]
    words += ["--have", settings.dataset] if known else []
    for option, value in (("--max-atoms", chosen.max_atoms), ("--compositions", chosen.compositions)):
        words += [] if value is None else [option, str(value)]
    words += ["--holdout", chosen.holdout] if chosen.holdout else []
    return CycleStep("select", (*words, "--out", f"{here}/selected", "--force", "--json"))


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


def _evaluate(settings: CycleSettings, now: Standing) -> list[CycleStep]:
    number, gates = now.number, settings.promote
    old = [current(name) for name in settings.models] if now.promoted else []
    new = [training(number, name) for name in settings.models]
    words = ("evaluate", *old, *new, "--on", settings.dataset)
    probes = ("--probes", "--random", str(gates.random)) if gates.probes else ()
    here = folder_of(number)
    steps = [
        CycleStep("evaluate", (*words, "--split", now.held_out, *probes, "-o", f"{here}/held-out", "--force", "--json"))
    ]
    if now.promoted:
        newest = ("--split", "all", "--generation", str(number))
        steps.append(CycleStep("evaluate newest", (*words, *newest, "-o", f"{here}/newest", "--force", "--json")))
    starts = [start for name in settings.models if (start := start_of(settings, name))]
    if gates.foreign and starts:
        words = ("evaluate", *dict.fromkeys(starts), *new, "--on", gates.foreign)
        steps.append(CycleStep("evaluate foreign", (*words, "-o", f"{here}/foreign", "--force", "--json")))
    return steps


def start_of(settings: CycleSettings, name: str) -> str:
    """Return the checkpoint that a model starts from as ``evaluate`` names it, empty where it has none to compare with.

    One of several heads cannot be loaded without its head.
    """
    model = settings.models[name]
    return f"{model.trainer.partition('-')[0]}:{model.start}" if model.start and not model.branch else ""


def evaluation(folder: Path, number: int, which: Literal["held-out", "newest", "foreign"]) -> Path:
    """Return the file of an evaluation of a cycle."""
    return folder / folder_of(number) / which / "evaluation.json"
