"""Relaxations from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from uspex_bridge.api.models import settings_of
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import BridgeError, CalculationError, InputError, Rejected
from uspex_bridge.call.config import Config
from uspex_bridge.call.relaxed import Relaxed

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure as PymatgenStructure

    #: What can be relaxed: ASE atoms, a pymatgen Structure, the bridge's own, or a file.
    Crystal = Atoms | PymatgenStructure | Structure | str | Path


@overload
def relax(structures: Crystal, pressure: float = ..., **options: Any) -> Relaxed: ...
@overload
def relax(structures: Iterable[Crystal], pressure: float = ..., **options: Any) -> list[Relaxed]: ...
def relax(  # type: ignore[misc]  # the overloads leave the options to this signature
    structures: Crystal | Iterable[Crystal],
    pressure: float = 0.0,
    *,
    model: str | None = None,
    protocol: str | None = None,
    stages: str | None = None,
    isif: int = 3,
    nsw: int = 5000,
    fmax: float | None = None,
    keep_symmetry: bool = False,
    symprec: float = 0.1,
    device: str | None = None,
    threads: int | None = None,
    time_limit: float | None = None,
    config: Config | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    trajectory: bool = False,
    vasp_files: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[Relaxed], object] | None = None,
) -> Relaxed | list[Relaxed]:
    """Relax a structure, or many, as ``uspex-bridge relax`` does; models stay loaded for the next call.

    Args:
        structures: ASE atoms, a pymatgen Structure or a file with one structure; or a list of these, with any number
            of structures per file.
        pressure: target pressure, GPa.
        model: model for all stages: name of a calculator, ``KIND:WEIGHTS`` or folder of a training.
        protocol: name of a protocol or TOML file; None: from the settings.
        stages: stages of the protocol to run, such as ``1`` or ``2-3``; None: all.
        isif: degrees of freedom, as VASP's ISIF.
        nsw: largest number of ionic steps; 0: single point.
        fmax: force target of the last stage, eV/Å; None: from the protocol.
        keep_symmetry: whether the symmetry of the start is kept.
        symprec: tolerance of the space groups, Å.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None: from the settings.
        threads: number of CPU threads; None: from the settings.
        time_limit: time limit per structure, s; the result is then the best geometry so far. None: from the settings.
        config: settings, or path of a bridge.toml; None: search for one, as the commands do.
        out: folder for the files of the command; None: no files.
        resume: whether results in ``out`` are kept and not computed again.
        trajectory: whether every step of every stage is written to ``out``.
        vasp_files: whether VASP's files are written to ``out``.
        workers: number of processes.
        scheduler: address of a Dask scheduler; its workers relax the structures.
        progress: function that is called with every result.

    Returns:
        The result, or a list in the order of the structures. Refused and failed structures have ``ok`` False.

    Raises:
        InputError: a structure is not a crystal, or a file cannot be read.
        ConfigError, ModelError: settings or models are not usable.
        Rejected, CalculationError, Interrupted: a single structure has no result.
        OutputError: ``out`` cannot be written.
    """
    from uspex_bridge.call.many import RelaxTask, relax_all
    from uspex_bridge.call.model_names import with_model

    settings = settings_of(
        config, device=device, threads=threads, protocol=protocol, stages=stages, time_limit=time_limit
    )
    if model is not None:
        settings = with_model(settings, model)
    task = RelaxTask(
        settings,
        None if out is None else Path(out),
        float(pressure),
        fmax=fmax,
        isif=isif,
        nsw=nsw,
        keep_symmetry=keep_symmetry,
        symprec=symprec,
        trajectory=trajectory,
        vasp_files=vasp_files,
        resume=resume,
        workers=workers,
        scheduler=scheduler,
        keep_models=True,
    )
    single = isinstance(structures, (str, Path)) or not _is_collection(structures)
    crystals: Any = [structures] if single else structures
    listed = list(_crystals(crystals))
    if single and len(listed) != 1:
        raise InputError(f"{structures}: holds {len(listed)} structures; relax([file]) relaxes them all")
    places: dict[tuple[Any, Any], list[int]] = {}  # a structure may be given more than once
    for k, (path, number, _) in enumerate(listed):
        places.setdefault((str(path), number), []).append(k)
    found: dict[int, Relaxed] = {}
    for result in relax_all(listed, task):
        found[places[result.fields["source"], result.fields["index"]].pop(0)] = result
        if progress is not None:
            progress(result)
    results = [found[k] for k in range(len(listed))]
    if not single:
        return results
    if not results[0].ok:
        raise _error_of(results[0])
    return results[0]


def _is_collection(crystals: Any) -> bool:
    """Tell a collection of crystals from one crystal; ASE's and pymatgen's are collections of atoms themselves."""
    return isinstance(crystals, Iterable) and not hasattr(crystals, "lattice") and not hasattr(crystals, "cell")


def _crystals(crystals: Iterable[Any]) -> Iterator[tuple[Path, int, Structure]]:
    """Yield where each structure comes from, its number there, and the structure.

    Raises:
        InputError: one is disordered, has no cell or cannot be read.
    """
    from uspex_bridge.call.structures import read_structures

    for number, one in enumerate(crystals, 1):
        if isinstance(one, (str, Path)):
            for k, structure in enumerate(read_structures(Path(one)), 1):
                yield Path(one), k, structure
        else:
            yield Path("structure"), number, _structure(one, number)


def _structure(crystal: Any, number: int) -> Structure:
    if isinstance(crystal, Structure):
        return crystal
    from uspex_bridge.call.structures import from_ase, from_pymatgen

    name = f"structure-{number}"
    if not hasattr(crystal, "lattice") and not hasattr(crystal, "cell"):
        raise InputError(
            f"{name}: {type(crystal).__name__} is not a crystal; ASE atoms, a pymatgen Structure or a file is"
        )
    return from_pymatgen(crystal, name) if hasattr(crystal, "lattice") else from_ase(crystal, name)


def _error_of(result: Relaxed) -> BridgeError:
    """Return the error that a result without a structure stands for."""
    from uspex_bridge.base import errors

    if result.status == "rejected":
        return Rejected(str(result.fields["code"]), result.reason)
    kind = getattr(errors, str(result.fields["code"]), CalculationError)
    return kind(result.reason) if issubclass(kind, BridgeError) else CalculationError(result.reason)
