"""Loading a calculator: only :func:`load` imports its heavy package.

Which calculators there are, and whether one will run, is told by :mod:`uspex_bridge.models.inventory`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from uspex_bridge.base.errors import (
    BridgeError,
    CalculationError,
    ConfigError,
    InputError,
    ModelError,
    OutOfMemoryError,
    out_of_memory,
)
from uspex_bridge.models import weights
from uspex_bridge.models.cards import Batch, BuildRequest, CalculatorSettings, Card
from uspex_bridge.models.inventory import card_of, find_weights, resolve_device
from uspex_bridge.models.registry import Maker, maker_of, package_version
from uspex_bridge.models.weights import Weights

if TYPE_CHECKING:
    from ase import Atoms

    from uspex_bridge.models.evaluate import Answer, Results

#: Å, for the size of a structure of a model that does not batch.
ASSUMED_CUTOFF = 6.0

log = logging.getLogger(__name__)


@dataclass
class Backend:
    """A loaded model.

    Attributes:
        name: of the calculator in the configuration.
        calculator: ASE calculator: energy, free_energy (eV), forces (N, 3) (eV/Å), stress (6,) (eV/Å³), for some
            magmoms (N,); float64 always. It evaluates as ``evaluate_many`` does a single structure.
        batch: how the model evaluates structures together, None where it takes one after the other.
        identity: kind, model, weights, sha256, package, torch, device, dtype, head; worker where it runs in one,
            and invented where its elements are.
        elements: the elements it may be used for, None where that is not known.
        energy_zero: ``mp-pbe`` or ``model``, see :class:`uspex_bridge.models.cards.Card`.
    """

    name: str
    calculator: Any
    identity: dict[str, Any]
    elements: frozenset[str] | None
    energy_zero: str
    many: Callable[[Sequence[Atoms]], list[Answer]]
    batch: Batch | None = None
    close: Callable[[], None] = lambda: None

    def evaluate_many(self, structures: Sequence[Atoms]) -> list[Answer]:
        """Evaluate structures of any size and composition, together where the model can (``batch`` is not None).

        A batch that fails is taken apart: every structure is then evaluated alone, and only those fail that do so by
        themselves. What a structure gets does not depend on its company, but for float noise.

        Returns:
            for each structure, in their order, its results as of
            :meth:`uspex_bridge.models.evaluate.Evaluation.one` (energy and free_energy in eV, forces (N, 3) in eV/Å,
            stress (6,) in eV/Å³, magmoms where the model has them; float64, maybe not finite) or the
            CalculationError that it alone caused, which is not raised.

        Raises:
            OutOfMemoryError: they do not fit the memory together. Fewer may: halve and try again; of one alone it is
                that structure's failure. Nothing of the failed attempt holds memory any more.
            ModelError: the model runs in a worker process, which cannot be started again.
        """
        return self.many(structures)

    def size_of(self, atoms: Atoms) -> int:
        """Return what a structure costs in memory and about what in time: its atoms, pairs and angles, added up.

        Sizes of structures can be added up to that of their batch. It takes well under a millisecond.
        """
        from uspex_bridge.base.neighbours import size

        return size(atoms, self.batch.cutoff, self.batch.angle_cutoff) if self.batch else size(atoms, ASSUMED_CUTOFF)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_elements(self, symbols: Iterable[str]) -> None:
        """Check that the model knows the elements of a structure.

        Raises:
            InputError: it does not.
        """
        unknown = sorted(set(symbols) - self.elements) if self.elements is not None else []
        if unknown:
            assert self.elements is not None
            known = (
                f": {' '.join(sorted(self.elements))}" if len(self.elements) <= 10 else f" {len(self.elements)} others"
            )
            raise InputError(
                f"{self.name} ({self.identity['kind']} {self.identity['model'] or ''}".rstrip()
                + f") does not know {', '.join(unknown)}; it knows{known}"
            )


def load(name: str, settings: CalculatorSettings) -> Backend:
    """Load the calculator ``name``, in this process or in a worker, with the corrections that its settings ask for.

    Raises:
        ConfigError: an unknown kind, or a setting that this kind does not take.
        ModelError: package, weights, device or interpreter are missing, or the weights cannot be used.
    """
    if not (settings.dispersion or settings.repulsion):
        return _load_model(name, settings)
    from uspex_bridge.models.corrections import corrected, corrections
    from uspex_bridge.models.evaluate import Evaluator

    # of what goes by a name the card knows the functional, wherever the model runs
    known = card_of(name, settings).known(settings.model) if settings.model else None
    if settings.model is None and settings.python is None:
        known = find_weights(name, settings).known
    terms = corrections(name, settings, known)
    backend = _load_model(name, replace(settings, dispersion=None, repulsion=None))
    many, elements = corrected(backend.many, terms), backend.elements
    each = _strictly(many)
    for term in terms:
        elements = term.elements if elements is None else elements & term.elements
    return replace(
        backend,
        calculator=Evaluator(lambda atoms: each([atoms])[0]),
        identity={**backend.identity, **{key: said for term in terms for key, said in term.identity.items()}},
        elements=elements,
        energy_zero="model" if any(term.absolute for term in terms) else backend.energy_zero,
        many=many,
        batch=replace(backend.batch, evaluate=each) if backend.batch else None,
    )


def _strictly(many: Callable[[Sequence[Atoms]], list[Answer]]) -> Callable[[Sequence[Atoms]], list[Results]]:
    """Return a function that raises the first error where ``many`` would answer with it."""

    def evaluate(structures: Sequence[Atoms]) -> list[Results]:
        found = many(structures)
        for one in found:
            if isinstance(one, CalculationError):
                raise one
        return [one for one in found if not isinstance(one, CalculationError)]

    return evaluate


def _load_model(name: str, settings: CalculatorSettings) -> Backend:
    if settings.python is not None or settings.isolate:
        return _load_in_worker(name, settings)
    maker = maker_of(settings.kind or name)
    card = maker.card
    if package_version(card) is None:
        raise ModelError(f"{card.title} is not installed; install it with: {card.install}")
    found = weights.find(card, settings, name)
    _ask_for_trust(name, card, settings, found)
    request = _request(card, settings, found)
    if maker.own_process(request):
        return _load_in_worker(name, settings)
    calculator = _build(maker, request)
    known = maker.elements(calculator)
    if settings.elements:
        known = frozenset(settings.elements) if known is None else known & frozenset(settings.elements)
    from uspex_bridge.models.evaluate import Evaluation, Evaluator

    evaluation = Evaluation(card.kind, calculator, maker.batch(calculator))
    return Backend(
        name=name,
        calculator=Evaluator(evaluation.one),
        identity=_identity(card, request, found),
        elements=known,
        energy_zero=(found.known.energy_zero or card.energy_zero) if found.known else "model",
        many=evaluation.many,
        batch=evaluation.batch,
    )


class RemoteModel(Protocol):
    """A model in another process; its attributes are those of :class:`Backend`."""

    identity: dict[str, Any]
    elements: frozenset[str] | None
    energy_zero: str

    def evaluate(self, atoms: Atoms) -> Results:
        """Evaluate a structure; raises CalculationError."""


def remote_backend(name: str, model: RemoteModel, close: Callable[[], None] = lambda: None) -> Backend:
    """Return a model in another process as a backend that gives it one structure after the other."""
    from uspex_bridge.models.evaluate import Evaluator

    def answer(atoms: Atoms) -> Answer:
        try:
            return model.evaluate(atoms)
        except CalculationError as error:
            return error

    return Backend(
        name=name,
        calculator=Evaluator(model.evaluate),
        identity=model.identity,
        elements=model.elements,
        energy_zero=model.energy_zero,
        many=lambda structures: [answer(atoms) for atoms in structures],
        close=close,
    )


def _request(card: Card, settings: CalculatorSettings, found: Weights) -> BuildRequest:
    """Resolve device and precision, and refuse what this kind does not take."""
    if settings.head is not None and not card.head:
        raise ConfigError(f"{card.kind} models have no heads; remove head = '{settings.head}'")
    if settings.dtype is not None and settings.dtype not in card.dtypes:
        takes = f"runs in {' or '.join(card.dtypes)}" if card.dtypes else "takes its precision from the weights"
        raise ConfigError(f"{card.kind} {takes}; remove dtype = '{settings.dtype}'")
    return BuildRequest(
        model=found.model,
        path=None if found.known and found.known.in_wheel and not card.keeper else found.path,
        device=resolve_device(card, settings.device),
        dtype=settings.dtype or (card.dtypes[0] if card.dtypes else ""),
        head=settings.head,
        options=dict(settings.options),
    )


def _ask_for_trust(name: str, card: Card, settings: CalculatorSettings, found: Weights) -> None:
    """Refuse to unpickle weights of a URL unless the settings trust them; say that a file of the user's is a pickle.

    Raises:
        ConfigError: ``trust`` is not set.
    """
    if settings.trust or found.known is not None or found.path is None or not card.pickled:
        return
    if weights.is_url(settings.model or ""):
        raise ConfigError(
            f"{settings.model}: {card.title} unpickles weights, which runs any code that they hold; if you trust where "
            f"they come from, set trust = true under [calculators.{name}]"
        )
    log.info("%s is unpickled, which runs any code in it", found.path)


def _build(maker: Maker, request: BuildRequest) -> Any:
    card = maker.card
    try:
        with _quiet:
            return maker.build(request)
    except BridgeError:
        raise
    except Exception as error:  # torch, pickle and the models' own code raise anything on wrong weights
        if out_of_memory(error):
            raise OutOfMemoryError(f"{card.title} cannot be loaded: memory ran out ({error}); see ulimit -v") from error
        if isinstance(error, ImportError):
            raise _not_imported(error, card, request) from error
        what = f"{request.path or request.model or card.kind}"
        reason = " ".join(str(error).split())[:500] or "no message"
        raise ModelError(f"{what}: cannot be used as {card.title} weights: {type(error).__name__}: {reason}") from error


def _not_imported(error: ImportError, card: Card, request: BuildRequest) -> ModelError:
    if missing := _missing_of_weights(error, card):
        return ModelError(
            f"{request.path or request.model}: the weights need the Python module '{missing}', which is not "
            "installed; the code that saved them is missing in this environment"
        )
    return ModelError(f"{card.title} is installed but cannot be imported: {error}; try: {card.install}")


def _missing_of_weights(error: ImportError, card: Card) -> str:
    """Return the module that unpickling weights asked for and that is not there, where the package itself imports."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    try:
        importlib.import_module(card.module)
    except ImportError:
        return ""
    return error.name


class _Quiet:
    """Keeps what libraries print and warn while loading off the user's screen; it goes to the debug log.

    Output and warnings belong to the whole process, so of several threads that load at once the first redirects them
    and the last puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                printed, disabled = io.StringIO(), logging.root.manager.disable
                self._undo.callback(_tell_debug, printed)
                self._undo.callback(logging.disable, disabled)
                logging.disable(max(disabled, logging.WARNING))
                # recorded, not filtered: some libraries set warning filters of their own when they are imported
                self._undo.enter_context(warnings.catch_warnings(record=True))
                self._undo.enter_context(contextlib.redirect_stdout(printed))

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


def _tell_debug(printed: io.StringIO) -> None:
    if text := printed.getvalue().strip():
        log.debug("while loading: %s", text)


_quiet = _Quiet()


def _identity(card: Card, request: BuildRequest, found: Weights) -> dict[str, Any]:
    torch = sys.modules.get("torch") if "cuda" in card.devices else None
    return {
        "kind": card.kind,
        "model": found.model,
        "weights": found.path.name if found.path else None,
        "sha256": found.sha256,
        "package": f"{re.split('[=<>!~ ]', card.package, maxsplit=1)[0]} {package_version(card)}",
        "torch": torch.__version__ if torch else None,
        "device": request.device,
        "dtype": request.dtype or "as in the weights",
        "head": request.head,
        **({"invented": True} if card.invented else {}),
    }


def _load_in_worker(name: str, settings: CalculatorSettings) -> Backend:
    from uspex_bridge.models.worker import ProcessModel

    model = ProcessModel(name, settings)
    backend = remote_backend(name, model, model.close)
    if model.cutoffs is None:
        return backend
    batch = Batch(_strictly(model.evaluate_many), **model.cutoffs)
    return replace(backend, many=model.evaluate_many, batch=batch)
