"""What a model says of many structures as they are, kept on disk as it comes, so that nothing is computed twice.

A folder holds one file of JSON lines per model, named by a hash of its weights and settings; a line holds a
structure's hash and the model's answer, or why it gave none.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.atoms import to_atoms, to_structure
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import BridgeError, CalculationError, InputError, ModelError, OutOfMemoryError
from uspex_bridge.base.parallel import spread
from uspex_bridge.base.units import own_pv
from uspex_bridge.call import record_file
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.cards import CalculatorSettings, model_name

if TYPE_CHECKING:
    from ase import Atoms

    from uspex_bridge.models.backends import Backend

#: Atoms that are handed to a model at once; where they do not fit the memory, half as many.
_ATOMS_AT_ONCE = {"cpu": 200, "cuda": 4000}


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's answer about one structure.

    Attributes:
        energy: E, eV per cell; forces: (N, 3) eV/Å; stress: (6,) eV/Å³, ASE's sign and order.
        problem: why there is no answer; then the others are empty.
    """

    energy: float = math.nan
    forces: Array | None = None
    stress: Array | None = None
    problem: str = ""

    def pv(self, volume: float, natoms: int) -> float:
        """Return PV of the model's own pressure in a cell of ``volume`` Å³, eV/atom; NaN without an answer."""
        return math.nan if self.stress is None else own_pv(self.stress, volume) / natoms


@dataclass(frozen=True)
class Predictor:
    """A model that is to be asked.

    Attributes:
        name: as the user named it.
        settings: of its calculator.
        key: hash of everything that decides its answers: weights, kind, version, head, precision, options.
        title: kind, weights and the start of their hash.
        energy_zero: as in :class:`uspex_bridge.models.cards.Card`.
    """

    name: str
    settings: CalculatorSettings
    key: str
    title: str
    energy_zero: str


def find_predictor(name: str, settings: CalculatorSettings) -> Predictor:
    """Identify a model without loading it.

    Raises:
        ConfigError: there is no such kind.
        ModelError: its package or its weights are missing.
    """
    status = inventory.available(name, settings)
    if not status.ok:
        raise ModelError(status.problem)
    found = status.weights
    digest = found.sha256 if found is not None else None
    model = found.model if found is not None else None
    known = found.known if found is not None else None
    what = [status.card.kind, model if digest is None else digest, status.version, settings.head, settings.dtype]
    key = hashlib.sha256(json.dumps([*what, settings.options], sort_keys=True, default=str).encode()).hexdigest()[:16]
    identity = {
        "kind": status.card.kind,
        "model": Path(model).name if model else None,
        "head": settings.head,
        "sha256": digest,
    }
    zero = (known.energy_zero or status.card.energy_zero) if known is not None else "model"
    return Predictor(name, settings, key, model_name(identity), zero)


def structure_key(structure: Structure) -> str:
    """Return a structure's key: equal where atoms, their order and the cell's orientation are (to 1e-5)."""
    return record_file.job_key(structure, "")


def predict_frames(
    model: Predictor,
    frames: Sequence[Atoms],
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Prediction]:
    """Ask a model about structures as ASE has them; see :func:`predict_all`.

    Returns:
        an answer for each, in their order.
    """
    structures = [to_structure(atoms) for atoms in frames]
    keys = [structure_key(structure) for structure in structures]
    asked = dict(zip(keys, structures, strict=True))
    answers = predict_all(model, asked, folder, workers=workers, progress=progress)
    return [answers[key] for key in keys]


def read_predictions(folder: Path, model: Predictor, keys: Mapping[str, Any]) -> dict[str, Prediction]:
    """Return what ``folder`` holds of a model about the structures with these keys; the latest answer counts."""
    path = _file(folder, model)
    found = {}
    for line in jsonl.read(path) if path.is_file() else ():
        if line.get("structure") in keys:
            found[line["structure"]] = _from_line(line)
    return found


def predict_all(
    model: Predictor,
    structures: Mapping[str, Structure],
    folder: Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    retry: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Prediction]:
    """Ask a model about structures, those that ``folder`` has no answer for; answers go there as they come.

    Args:
        model: which one.
        structures: key -> structure (see :func:`structure_key`).
        folder: holds the answers; it is made where it is missing.
        workers: processes to run side by side; from two on a model that crashes its process costs one structure only.
        scheduler: of a Dask cluster, whose workers are asked instead; they need the weights at the same paths.
        retry: ask again where it failed before.
        progress: called with the number of structures that were just done.

    Raises:
        ModelError: the model cannot be loaded, or is another one on a Dask worker.
        ServiceError: the Dask scheduler does not answer.
        OutputError: the answers cannot be written.
    """
    known = read_predictions(folder, model, structures)
    if retry:
        known = {key: answer for key, answer in known.items() if not answer.problem}
    progress(len(known))
    jobs = [(key, structure) for key, structure in structures.items() if key not in known]
    if not jobs:
        return known
    path = _file(folder, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = _answers(model, jobs, min(workers, len(jobs))) if scheduler is None else _spread(model, jobs, scheduler)
    for answers in found:
        jsonl.append(path, *(_line(key, answer) for key, answer in answers.items()))
        known |= answers
        progress(len(answers))
    return known


def _file(folder: Path, model: Predictor) -> Path:
    return folder / f"{model.key}.jsonl"


def _line(key: str, answer: Prediction) -> dict[str, Any]:
    if answer.problem:
        return {"structure": key, "problem": answer.problem}
    assert answer.forces is not None
    assert answer.stress is not None
    return {
        "structure": key,
        "energy": answer.energy,
        "forces": answer.forces.tolist(),
        "stress": answer.stress.tolist(),
    }


def _from_line(line: dict[str, Any]) -> Prediction:
    if "problem" in line:
        return Prediction(problem=str(line["problem"]))
    return Prediction(float(line["energy"]), np.array(line["forces"]), np.array(line["stress"]))


Job = tuple[str, Structure]


def _answers(model: Predictor, jobs: list[Job], workers: int) -> Iterator[dict[str, Prediction]]:
    """Yield the answers to some jobs at a time, until all are done."""
    if workers == 1:
        with backends.load(model.name, model.settings) as backend:
            for batch in _batches(jobs, _at_once(backend)):
                yield _ask(backend, batch)
        return
    waiting: queue.SimpleQueue[list[Job]] = queue.SimpleQueue()
    for batch in _batches(jobs, min(_ATOMS_AT_ONCE["cpu"], 1 + sum(len(s) for _, s in jobs) // (2 * workers))):
        waiting.put(batch)
    done: queue.SimpleQueue[dict[str, Prediction] | Exception | None] = queue.SimpleQueue()
    settings = replace(model.settings, isolate=True)
    stop = threading.Event()

    def work() -> None:
        try:
            with backends.load(model.name, settings) as backend:
                while not stop.is_set():
                    done.put(_ask(backend, waiting.get_nowait()))
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001 (raised again where the answers are awaited)
            done.put(error)
        finally:
            done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        running = workers
        while running:
            result = done.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        stop.set()


@dataclass(frozen=True)
class _Order:
    """What a Dask worker is to ask a model."""

    model: Predictor
    jobs: list[Job]


#: The model that this Dask worker holds, and who may use it: a worker may have several threads.
_held: tuple[Predictor, Backend] | None = None
_sole_use = threading.Lock()


def _spread(model: Predictor, jobs: list[Job], scheduler: str) -> Iterator[dict[str, Prediction]]:
    """Yield the answers of a Dask cluster's workers, in orders small enough to keep some dozens of them busy."""
    atoms = min(_ATOMS_AT_ONCE["cuda"], 1 + sum(len(structure) for _, structure in jobs) // 100)
    orders = (_Order(model, batch) for batch in _batches(jobs, atoms))
    for _, answers in spread(_carry_out, orders, scheduler=scheduler):
        if isinstance(answers, BridgeError):
            raise ModelError(f"{model.name}: {answers}; what is done is kept")
        yield answers


def _carry_out(order: _Order) -> dict[str, Prediction]:
    """Ask a model, as a Dask worker, which keeps it in a process of its own: a crash costs one structure only.

    Raises:
        ModelError: the model cannot be loaded, or its weights or package are not those that the order is for.
    """
    global _held
    model = order.model
    with _sole_use:
        if _held is None or _held[0] != model:
            if _held is not None:
                _held[1].close()
                _held = None
            if find_predictor(model.name, model.settings).key != model.key:
                raise ModelError(f"{model.name}: its weights or its package on {platform.node()} are not those here")
            _held = model, backends.load(model.name, replace(model.settings, isolate=True))
        backend = _held[1]
        answers: dict[str, Prediction] = {}
        for batch in _batches(order.jobs, _at_once(backend)):
            answers |= _ask(backend, batch)
        return answers


def _at_once(backend: Backend) -> int:
    """Return how many atoms to hand to a model at once."""
    return _ATOMS_AT_ONCE["cuda" if str(backend.identity.get("device")).startswith("cuda") else "cpu"]


def _batches(jobs: list[Job], atoms: int) -> Iterator[list[Job]]:
    """Cut jobs into batches of at most so many atoms, at least one structure each."""
    batch: list[Job] = []
    held = 0
    for job in jobs:
        if batch and held + len(job[1]) > atoms:
            yield batch
            batch, held = [], 0
        batch.append(job)
        held += len(job[1])
    if batch:
        yield batch


def _ask(backend: Backend, jobs: list[Job]) -> dict[str, Prediction]:
    """Ask about several structures; what fails is an answer too."""
    answers: dict[str, Prediction] = {}
    sound: list[Job] = []
    for key, structure in jobs:
        try:
            backend.check_elements(structure.symbols)
            sound.append((key, structure))
        except InputError as error:
            answers[key] = Prediction(problem=str(error))
    given = _evaluate(backend, [to_atoms(structure) for _, structure in sound])
    return answers | {key: _checked(result) for (key, _), result in zip(sound, given, strict=True)}


def _evaluate(backend: Backend, images: list[Atoms]) -> list[Any]:
    if not images:
        return []
    try:
        return list(backend.evaluate_many(images))
    except OutOfMemoryError as error:
        if len(images) == 1:
            return [error]
    half = len(images) // 2
    return _evaluate(backend, images[:half]) + _evaluate(backend, images[half:])


def _checked(result: Any) -> Prediction:
    if isinstance(result, CalculationError):
        return Prediction(problem=str(result))
    energy, forces, stress = float(result["energy"]), result["forces"], result["stress"]
    if not (math.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
        return Prediction(problem="the model gave NaN or infinity")
    return Prediction(energy, np.asarray(forces), np.asarray(stress))
