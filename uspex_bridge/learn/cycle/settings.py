"""``cycle.toml``: what the loop of screening, labelling and training works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import build, nearest, read_toml

#: Name of the settings file in a cycle's folder.
FILENAME = "cycle.toml"


@dataclass(frozen=True)
class ModelSettings:
    """``[models.NAME]``: a potential that is trained anew in every cycle.

    Attributes:
        trainer: as in ``uspex-bridge train``: deepmd-dpa3, deepmd-sea, mace, mattersim.
        start: checkpoint that the first training starts from; empty for random weights.
        later: what later trainings start from: ``start`` again, so that no error is handed on, or the model in use
            (``current``), which takes fewer steps.
        branch: of the checkpoint's heads.
        replay: extxyz to rehearse (MACE).
        settings: TOML file laid over the trainer's template.
        length: steps or epochs; None is the template's.
        time_limit: seconds of one training; None for none.
    """

    trainer: str
    start: str = ""
    later: Literal["start", "current"] = "start"
    branch: str = ""
    replay: str = ""
    settings: str = ""
    length: int | None = None
    time_limit: float | None = None


@dataclass(frozen=True)
class NextSearch:
    """``[[search.then]]``: a search at the next pressure, which starts from seeds of those before it.

    Attributes:
        places, command: as in :class:`SearchSettings`; the command also starts its first search.
        seeds: folder of the search that gets ``[seeds] count`` seeds; empty for none.
    """

    places: tuple[str, ...]
    command: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class SearchSettings:
    """``[search]``: the structures that are screened.

    Attributes:
        places: results folders, or whatever ``screen`` takes.
        command: starts the next search with the promoted models, before every cycle but the first; empty: the search
            goes on by itself, or is started by hand.
        failures: screen what the searches lost, too.
        b_max: so many lost structures in a cycle keep the loop from ending; None counts none.
        then: searches at the next pressures, each begun when the one before has converged.
    """

    places: tuple[str, ...]
    command: str = ""
    failures: bool = False
    b_max: int | None = None
    then: tuple[NextSearch, ...] = ()

    def at(self, stage: int) -> NextSearch:
        """Return the search of a stage, 0 the first."""
        return self.then[stage - 1] if stage else NextSearch(self.places, self.command)


@dataclass(frozen=True)
class ScreenSettings:
    """``[screen]``: thresholds of disagreement; the last of several counts for all later cycles.

    Attributes:
        pv: |ΔPV|, eV/atom (the paper: 0.04 first, 0.03 later).
        energy: |ΔE|, eV/atom; None for none.
        force: largest |ΔF| of an atom, eV/Å; None for none.
        workers: processes.
        calibrate: say what |ΔPV| means, by the labels that no model was trained on.
    """

    pv: tuple[float, ...] = (0.04, 0.03)
    energy: float | None = None
    force: float | None = None
    workers: int = 1
    calibrate: bool = True


@dataclass(frozen=True)
class SelectSettings:
    """``[select]``: what is computed of what was found.

    Attributes:
        budget: structures a cycle, without their copies.
        first: structures to begin with where there is no dataset yet.
        copies: perturbed copies of each.
        volumes: further copies at these fractions of the volume.
        max_atoms: largest cell that is computed; None for no limit.
        near, within, compositions, each, method: as in ``uspex-bridge select``.
        holdout: structures, or names (.txt), that are never taken.
        seed: of what is random.
    """

    budget: int = 100
    first: int = 200
    copies: int = 5
    volumes: tuple[float, ...] = ()
    max_atoms: int | None = None
    near: float = 0.5
    within: float = 0.05
    compositions: int | None = None
    each: int = 3
    method: Literal["farthest", "clusters", "random"] = "farthest"
    holdout: str = ""
    seed: int = 0


@dataclass(frozen=True)
class LabelStep:
    """``[label]``: what computes the labels.

    Attributes:
        code: vasp, gpaw or model.
        settings: TOML file for ``label prepare``; empty is the code's template.
        model: with code = "model".
        potcars: POTCAR library.
        how: ``run`` computes here; ``submit`` runs ``command`` once in the folder of labels and waits; ``wait`` waits
            for what you do.
        command: for ``submit``, such as ``sbatch slurm-1.sh``; for ``run``, what runs in each structure's folder.
        accept: smallest part of the labels that must be usable.
        estimate: cutoffs follow the pressure that the first model in use sees in each structure (vasp, gpaw).
    """

    code: Literal["vasp", "gpaw", "model"] = "vasp"
    settings: str = ""
    model: str = ""
    potcars: str = ""
    how: Literal["run", "submit", "wait"] = "wait"
    command: str = ""
    accept: float = 0.5
    estimate: bool = True


@dataclass(frozen=True)
class PromoteSettings:
    """``[promote]``: when a new model takes the old one's place.

    Attributes:
        tolerance: by what part an error on the held-out structures may grow.
        probes: the new model must have no more holes than the old one, and lose no more random structures.
        random: random structures per pressure that are relaxed for that.
        foreign: a dataset, a file or a public set of other structures, on which a fine-tuned model is held against the
            checkpoint that it started from; empty for no such gate.
        forgetting: so many times the start's error is too much there.
    """

    tolerance: float = 0.05
    probes: bool = False
    random: int = 10
    foreign: str = ""
    forgetting: float = 2.0


@dataclass(frozen=True)
class SeedSettings:
    """``[seeds]``: seeds for the next search; none with ``count`` 0.

    Attributes:
        count: at most so many, nearest the hull first.
        into: folder of that search.
    """

    count: int = 0
    into: str = "."


@dataclass(frozen=True)
class StopSettings:
    """``[stop]``: when the loop has converged.

    Attributes:
        cycles: at most so many.
        flagged: so few structures over the threshold are enough (the paper stopped at about ten).
    """

    cycles: int = 5
    flagged: int = 10


@dataclass(frozen=True)
class CycleSettings:
    """All of ``cycle.toml``; relative paths are taken from its folder."""

    models: dict[str, ModelSettings]
    search: SearchSettings
    dataset: str = "dataset"
    screen: ScreenSettings = field(default_factory=ScreenSettings)
    select: SelectSettings = field(default_factory=SelectSettings)
    label: LabelStep = field(default_factory=LabelStep)
    promote: PromoteSettings = field(default_factory=PromoteSettings)
    seeds: SeedSettings = field(default_factory=SeedSettings)
    stop: StopSettings = field(default_factory=StopSettings)


_PARTS: dict[str, Any] = {
    "search": SearchSettings,
    "screen": ScreenSettings,
    "select": SelectSettings,
    "label": LabelStep,
    "promote": PromoteSettings,
    "seeds": SeedSettings,
    "stop": StopSettings,
}


def read_cycle_settings(folder: Path) -> CycleSettings:
    """Read ``cycle.toml`` of a cycle's folder.

    Raises:
        ConfigError: it is missing, has unknown keys or impossible values.
    """
    path = folder / FILENAME
    if not path.is_file():
        raise ConfigError(f"{path}: there is none; `uspex-bridge cycle init {folder}` writes one to fill in")
    table = read_toml(path)
    known = {*_PARTS, "models", "dataset"}
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: unknown key '{key}'{nearest(key, known)}")
    models = table.get("models", {})
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ConfigError(f"{path}: needs two or more [models.NAME]; they must be of different architecture")
    given = {name: dict(table.get(name, {})) for name in _PARTS}
    later = given["search"].pop("then", [])
    if not isinstance(later, list):
        raise ConfigError(f"{path}: [search] then is a list of tables: [[search.then]]")
    given["search"]["then"] = tuple(build(NextSearch, one, f"{path}: [[search.then]]") for one in later)
    made = {name: build(kind, given[name], f"{path}: [{name}]") for name, kind in _PARTS.items()}
    settings = CycleSettings(
        models={name: build(ModelSettings, entry, f"{path}: [models.{name}]") for name, entry in models.items()},
        dataset=str(table.get("dataset", "dataset")),
        **made,
    )
    _check(settings, path)
    return settings


def _check(settings: CycleSettings, path: Path) -> None:
    if not settings.search.places or not all(one.places for one in settings.search.then):
        raise ConfigError(f"{path}: [search]: places is empty; name the results folder of the search")
    if not settings.screen.pv:
        raise ConfigError(f"{path}: [screen]: pv is empty; 0.04 is the paper's first threshold")
    if settings.label.how == "submit" and not settings.label.command:
        raise ConfigError(f"{path}: [label]: how = 'submit' needs a command, such as 'sbatch slurm-1.sh'")
    if settings.label.code == "model" and not settings.label.model:
        raise ConfigError(f"{path}: [label]: code = 'model' needs a model")
