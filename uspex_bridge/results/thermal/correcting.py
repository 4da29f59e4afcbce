"""What free energies are corrected to, and the configurations that labels for it are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from uspex_bridge.base.atoms import extxyz
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import write_whole
from uspex_bridge.call.config import Config
from uspex_bridge.call.correction import Second, harvest
from uspex_bridge.call.model_names import with_model
from uspex_bridge.results.reading.sources import open_sources
from uspex_bridge.results.thermal.free_energy import FreeEnergies, sampled


def second_of(name: str, config: Config, number: int) -> Second:
    """Return a second model, or the labels of a file.

    Args:
        name: a model as ``--model`` takes it, or a file of structures with energies.
        config: settings.
        number: configurations that a model evaluates, of each free energy.

    Raises:
        ConfigError, ModelError: it is no model that can be used.
        InputError: its structures have no energies.
    """
    if not Path(name).is_file():
        return Second(with_model(config, name), number=number)
    pool = open_sources([name], record=False)
    labels = [(s, e.energy, e.level) for e, s in pool.structures(list(pool.entries)) if math.isfinite(e.energy)]
    if not labels:
        raise InputError(f"{name}: no structure has an energy")
    return Second(labels=tuple(labels))


def check_harvest(method: str) -> None:
    """Refuse to harvest where nothing is sampled.

    Raises:
        ConfigError: the method has no configurations.
    """
    if method != "scha":
        raise ConfigError(f"only configurations of scha can be harvested; {method} has none")


def write_harvest(answers: Sequence[FreeEnergies], path: Path, number: int) -> int:
    """Write configurations of free energies of ``scha`` to label, and return how many.

    Args:
        answers: one for each pressure.
        path: extxyz file; it is not written where there are none.
        number: of configurations, of each free energy.

    Raises:
        InputError: a file of configurations cannot be read.
        OutputError: the file cannot be written.
    """
    found = []
    for answer in answers:
        found += harvest(sampled(answer.phases), answer.folder, number)
    if found:
        write_whole(path, extxyz(found))
    return len(found)
