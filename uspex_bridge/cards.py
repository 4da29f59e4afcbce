"""What a calculator says of itself (its card) and what it is asked for (its settings).

Every file in ``calculators/`` holds a ``CARD`` and a function ``build``; the registry that finds them is
:mod:`uspex_bridge.backends`. Nothing here imports more than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class KnownModel:
    """Weights that go by a name.

    ``url`` is where they are published and ``sha256`` their published checksum, where there is one;
    ``in_wheel`` weights come with the Python package and need neither.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size_mb: float | None = None
    licence: str = ""
    in_wheel: bool = False
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A kind of calculator.

    Attributes:
        kind: the name in the registry (``mace``).
        title: the name people use (``MACE``).
        package: what pip installs, with the tested version; ``module`` is what Python imports.
        install: the exact command that makes it available.
        models: the weights that go by a name, the default first.
        model_required: whether ``model`` must be given where no default is found.
        search: folders in which the package itself keeps downloaded weights (``~`` allowed).
        cutoff: interaction range in Å where it is the same for all models.
        dtypes: precisions it can run in, the default first.
        energy_zero: ``mp-pbe`` where energies are on the Materials Project PBE scale, else ``model``.
        magmoms: whether it predicts magnetic moments.
        licence, citation: of the method; weights may have their own.
    """

    kind: str
    title: str
    package: str
    module: str
    install: str
    models: tuple[KnownModel, ...] = ()
    model_required: bool = False
    search: tuple[str, ...] = ()
    cutoff: float | None = None
    dtypes: tuple[str, ...] = ("float32",)
    energy_zero: Literal["mp-pbe", "model"] = "model"
    magmoms: bool = False
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class CalculatorSettings:
    """The table ``[calculators.NAME]`` of the configuration.

    Attributes:
        kind: a card's name, an entry point of the group ``uspex_bridge.calculators``, or ``module:factory``;
            empty means the table's own name.
        model: a path, a known name or a URL; None takes the first known model that is found.
        sha256: checksum the weights must have.
        device: ``auto`` takes a GPU where there is one; ``cpu``, ``cuda`` or ``cuda:N`` must be obeyed.
        dtype: ``float32`` or ``float64``; None takes the card's default.
        head: head or branch of a multi-head model.
        python: another interpreter in whose environment the calculator runs, as a worker process.
        isolate: run as a worker process of this interpreter.
        options: passed on to the calculator's own constructor.
    """

    kind: str = ""
    model: str | None = None
    sha256: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64"] | None = None
    head: str | None = None
    python: str | None = None
    isolate: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildRequest:
    """What ``build`` of a calculator file gets: everything resolved.

    ``path`` is the weights file, None where the weights come with the package under the name ``model``.
    """

    model: str | None
    path: Path | None
    device: str
    dtype: str
    head: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
