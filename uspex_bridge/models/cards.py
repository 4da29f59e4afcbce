"""What a calculator says of itself (its card) and what it is asked for (its settings).

Every file in ``calculators/`` holds a ``CARD`` and a function ``build``; the registry that finds them is
:mod:`uspex_bridge.models.backends`. Nothing here imports more than the standard library and the modules below it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import nearest

EnergyZero = Literal["mp-pbe", "model"]
#: What a kind's code was run on where it was tested: weights as published, weights that a script makes with the
#: package itself, or nothing.
Verified = Literal["published", "made", "not run"]


def file_of_url(url: str) -> str:
    """Return the file name that a URL ends in, without its query; an empty string for one that names no file here."""
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    return "" if name in (".", "..") or "/" in name or not name.isprintable() else name


@dataclass(frozen=True)
class KnownModel:
    """Weights that go by a name.

    Attributes:
        name: what a user writes; ``aliases`` are accepted too, all regardless of case.
        url: where they are published; ``mirrors`` are tried after it.
        sha256: their published checksum, where there is one.
        size_mb: size of the download or file, where it is published.
        files: names under which they lie in a folder of weights, relative to it; the first is what a download is
            saved as (by default the end of the URL). Of ``in_wheel`` weights, the path inside the package.
        in_wheel: they come with the Python package and need no URL.
        hub: repository on Hugging Face (``OWNER/NAME``) in whose cache they may lie, and from where they are fetched
            if there is no URL.
        get: command of their package that fetches them, where the bridge cannot.
        beside: further files of these weights, in the same folder as the first; they are kept in a folder of their own.
        energy_zero: as in :class:`Card`, where these weights differ from the others.
        data: what they were trained on.
        functional: of that data, as simple-dftd3 calls it; empty where it is not stated.
        dispersion: the data holds a dispersion correction already.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    size_mb: float | None = None
    licence: str = ""
    in_wheel: bool = False
    note: str = ""
    files: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    energy_zero: EnergyZero | None = None
    data: str = ""
    functional: str = ""
    dispersion: bool = False
    hub: str = ""
    get: str = ""
    beside: tuple[str, ...] = ()

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names to look for in a folder of weights, never empty for weights with a URL."""
        if self.beside:
            return (f"{self.name}/{self.files[0]}",)
        return self.files or ((file_of_url(self.url),) if self.url else ())

    def urls(self, file: str) -> tuple[str, ...]:
        """Return where one of its files is published, the first choice first; empty where it cannot be fetched."""
        if self.url:
            return (self.url, *self.mirrors)
        return (f"https://huggingface.co/{self.hub}/resolve/main/{file}",) if self.hub else ()


@dataclass(frozen=True)
class Card:
    """A kind of calculator.

    Attributes:
        kind: the name in the registry (``mace``).
        title: the name people use (``MACE``).
        package: what pip installs, with the tested version; ``module`` is what Python imports.
        install: the exact command that makes it available.
        models: the weights that go by a name, the default first.
        takes_weights: whether it needs weights at all.
        folder_file: the file that stands for weights which are a folder; empty where they are one file.
        pickled: its package unpickles weights, which runs code that they may hold.
        model_required: there is no default, ``model`` must be named.
        search: folders in which the package itself keeps weights: ``{cache}`` is the user's cache folder,
            ``{package}`` the installed package's own.
        keeper: the package that weights ``in_wheel`` come with, where it is another one than ``module``.
        cutoff: interaction range in Å where it is the same for all models.
        dtypes: precisions it can run in, the default first; empty where the weights decide.
        devices: ``cpu``, ``cuda``: what it can run on.
        head: what ``head`` chooses (``head``, ``branch``, ``modal``); empty where there is nothing to choose.
        energy_zero: ``mp-pbe`` where the energies of its known models are on the Materials Project PBE scale,
            else ``model``.
        magmoms: whether it predicts magnetic moments.
        invented: its elements are like no real ones, so that no table of real ones is held against its results.
        licence, citation: of the method; weights may have their own.
        elements: those of its known models, in words; a loaded model knows its own.
        pressure: the range its known models are known to hold in, in words.
        kernels: the faster kernels that its package offers, as ``options`` names them.
        verified: what its code was run on.
    """

    kind: str
    title: str
    package: str
    module: str
    install: str
    models: tuple[KnownModel, ...] = ()
    takes_weights: bool = True
    folder_file: str = ""
    pickled: bool = True
    model_required: bool = False
    search: tuple[str, ...] = ()
    keeper: str = ""
    cutoff: float | None = None
    dtypes: tuple[str, ...] = ("float32",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    head: str = ""
    energy_zero: EnergyZero = "model"
    magmoms: bool = False
    invented: bool = False
    licence: str = ""
    citation: str = ""
    elements: str = "-"
    pressure: str = "not known"
    kernels: str = "-"
    verified: Verified = "published"

    def known(self, name: str) -> KnownModel | None:
        """Return the weights that go by ``name`` (or one of its aliases), whatever its case, or None."""
        wanted = name.lower()
        for model in self.models:
            if wanted in (model.name.lower(), *(alias.lower() for alias in model.aliases)):
                return model
        return None


def kinds_table(cards: Iterable[Card]) -> str:
    """Return the Markdown table of the kinds of calculators (docs/calculators.md)."""
    rows = [
        (
            f"`{card.kind}`",
            card.title,
            f"`{card.package}`" if card.takes_weights else "none",
            ", ".join(card.dtypes) or "as in the weights",
            "yes" if card.magmoms else "no",
            card.head or "-",
            card.licence,
            card.citation,
        )
        for card in cards
    ]
    header = ("kind", "method", "package", "precision, default first", "magnetic moments", "`head` is", "licence")
    return _markdown((*header, "citation"), rows)


def ranges_table(cards: Iterable[Card]) -> str:
    """Return the Markdown table of what is known of the kinds of calculators (docs/calculators.md)."""
    words = {"published": "published weights", "made": "weights made by a script", "not run": "nothing yet"}
    rows = [
        (f"`{card.kind}`", card.elements, card.pressure, card.kernels, words[card.verified])
        for card in cards
        if card.takes_weights
    ]
    return _markdown(("kind", "elements", "known range of pressure", "`options` for kernels", "run here on"), rows)


def models_table(cards: Iterable[Card]) -> str:
    """Return the Markdown table of the weights that go by a name (docs/calculators.md)."""
    rows = [
        (
            f"`{card.kind}`",
            f"`{model.name}`" + (" (default)" if index == 0 and not card.model_required else ""),
            "in the package" if model.in_wheel else "download",
            model.data or "not stated",
            {"r2scan": "r2SCAN"}.get(model.functional, model.functional.upper()) or "-",
            f"{model.size_mb:g} MB" if model.size_mb else "not stated",
            model.licence or "on its page",
            "yes" if model.sha256 else "no",
            "MP PBE" if (model.energy_zero or card.energy_zero) == "mp-pbe" else "its own",
            model.note or "-",
        )
        for card in cards
        for index, model in enumerate(card.models)
    ]
    header = ("kind", "model", "weights", "trained on", "functional", "size", "licence", "checksum published")
    return _markdown((*header, "energy scale", "note"), rows)


def constructor_options(options: Mapping[str, Any], constructor: Callable[..., Any], *own: str) -> dict[str, Any]:
    """Return options after checking that ``constructor`` has them; ``own`` are the bridge's to set.

    ASE's calculators take any keyword and would pass over a misspelt one in silence.

    Raises:
        ConfigError: an option that it does not have, or that has a key of its own in the settings.
    """
    parameters = inspect.signature(constructor).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in own]
    for key in options:
        if key not in names:
            raise ConfigError(f"options: {constructor.__name__} takes no '{key}' here{nearest(key, names)}")
    return dict(options)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))


@dataclass(frozen=True)
class CalculatorSettings:
    """The table ``[calculators.NAME]`` of the configuration.

    Attributes:
        kind: a card's name, an entry point of the group ``uspex_bridge.calculators``, or ``module:factory``;
            empty means the table's own name.
        model: a path, a known name or a URL; None takes the first known model that is found.
        sha256: checksum the weights must have.
        trust: weights of a URL may be unpickled, which runs code that they may hold.
        device: ``auto`` takes a GPU where there is one; ``cpu``, ``cuda`` or ``cuda:N`` must be obeyed.
        dtype: ``float32`` or ``float64``; None takes the card's default.
        head: head or branch of a multi-head model.
        python: another interpreter in whose environment the calculator runs, as a worker process.
        isolate: run as a worker process of this interpreter.
        timeout: seconds that one evaluation in a worker process may take.
        elements: the only elements it may be used for, where the weights were trained on fewer than they accept.
        dispersion: ``d3`` or ``d3:FUNCTIONAL``: D3(BJ) is added.
        repulsion: ``zbl``: the nuclei's repulsion at short range is added.
        repulsion_range: fractions of the sum of two covalent radii where it is whole, and where it ends.
        options: passed on to the calculator's own constructor.
    """

    kind: str = ""
    model: str | None = None
    sha256: str | None = None
    trust: bool = False
    device: str = "auto"
    dtype: Literal["float32", "float64"] | None = None
    head: str | None = None
    python: str | None = None
    isolate: bool = False
    timeout: float = 600.0
    elements: tuple[str, ...] = ()
    dispersion: str | None = None
    repulsion: Literal["zbl"] | None = None
    repulsion_range: tuple[float, float] = (0.5, 0.7)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inner, outer = self.repulsion_range
        if not 0 < inner < outer <= 1.5:
            raise ValueError(f"repulsion_range = [{inner:g}, {outer:g}] must rise and lie between 0 and 1.5")


@dataclass(frozen=True)
class BuildRequest:
    """What ``build`` of a calculator file gets: everything resolved.

    ``path`` is the weights file, None where the weights come with the package under the name ``model``.
    ``dtype`` is empty where the weights decide; ``device`` is ``cpu`` or ``cuda:N``.
    """

    model: str | None
    path: Path | None
    device: str
    dtype: str
    head: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """How a model evaluates structures together: what ``batch`` of a calculator file returns.

    Attributes:
        evaluate: gets structures (ASE, periodic, finite numbers, at least one) and returns for each, in their order,
            what an ASE calculator would have in ``results``, from one pass of the model. It may raise anything.
        cutoff: within which two atoms are a pair of the model's graph, Å.
        angle_cutoff: within which two neighbours of an atom form an angle with it, Å; 0 where the model has none.
    """

    evaluate: Callable[[Sequence[Any]], list[dict[str, Any]]]
    cutoff: float
    angle_cutoff: float = 0.0


def model_name(identity: Mapping[str, Any]) -> str:
    """Return the identity of a loaded model in a few words: kind, weights, head, start of their hash, what is added."""
    digest = str(identity.get("sha256") or "")[:8]
    words = (*(identity.get(key) for key in ("kind", "model", "head")), digest)
    words += tuple(f"+ {identity[key]}" for key in ("dispersion", "repulsion") if identity.get(key))
    return " ".join(str(word) for word in words if word)
