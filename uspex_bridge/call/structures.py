"""Structures from a user's files: POSCARs (many in one file, as USPEX gathers them) and all that ASE reads."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, regular_bytes
from uspex_bridge.base.formulas import parts_of
from uspex_bridge.call.cif import FULL, ONE_SITE, read_cif
from uspex_bridge.call.foreign import refuse_what_is_passed_over
from uspex_bridge.vasp.structure import ELEMENTS, parse_poscars, read_potcar_symbols

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure as PymatgenStructure

    from uspex_bridge.base.data import Array

#: Endings of files that are compressed, whatever is in them.
_COMPRESSED = re.compile(r"\.(gz|bz2|xz)$", re.IGNORECASE)
#: Names that USPEX and VASP give to POSCARs; ASE would read only the first of several.
POSCAR_NAME = re.compile(r"POSCAR|CONTCAR|\.vasp$|\.poscar$|geom\.(in|out)$", re.IGNORECASE)
#: Columns of occupancies, and of constraints that are not read (ASE reads move_mask).
_OCCUPANCIES = re.compile(r"(site_|partial_)?occ(up\w*)?", re.IGNORECASE)
_MASKS = re.compile(r"\w*(mask|fix|frozen|freeze|constrain|selective)\w*", re.IGNORECASE)
_XYZ_NAME = re.compile(r"\.(ext)?xyz$", re.IGNORECASE)
_CIF_NAME = re.compile(r"\.m?cif$", re.IGNORECASE)


def read_structures(path: Path) -> list[Structure]:
    """Read every structure of a file; of a POSCAR or CONTCAR the POTCAR beside it may name the elements.

    Raises:
        InputError: the file is missing, is no structure, or has one that is no crystal as :func:`from_ase` says.
    """
    name = _COMPRESSED.sub("", path.name)
    if POSCAR_NAME.search(name):
        potcar = path.with_name("POTCAR")
        symbols = read_potcar_symbols(potcar) if name in ("POSCAR", "CONTCAR") and potcar.is_file() else None
        return parse_poscars(read_text(path), str(path), symbols)
    images = read_images(path)
    stem = Path(name).stem
    names = [f"{stem}-{k}" for k in range(1, len(images) + 1)] if len(images) > 1 else [stem]
    return [_named(path, k, atoms, name) for k, (atoms, name) in enumerate(zip(images, names, strict=True), 1)]


def read_images(path: Path, kind: str | None = None) -> list[Atoms]:
    """Read all that ASE finds in a file, of a format if one is named.

    Raises:
        InputError: the file is missing or no regular file, ASE cannot read it, or a site is disordered.
    """
    import ase.io

    if kind == "cif" or (kind is None and _CIF_NAME.search(_COMPRESSED.sub("", path.name))):
        return read_cif(read_text(path), str(path))
    source: Any = path
    if kind == "extxyz" or (kind is None and _XYZ_NAME.search(_COMPRESSED.sub("", path.name))):
        source, kind = io.StringIO(read_text(path), newline=None), "extxyz"
    elif regular_bytes(path)[:2] == b"\x1f\x8b" and not _COMPRESSED.search(path.name):
        raise InputError(f"{path}: is compressed by gzip; its name must end in .gz")
    else:
        refuse_what_is_passed_over(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images: list[Atoms] = list(ase.io.iread(source, index=":", format=kind, do_not_split_by_at_sign=True))
    except Exception as error:
        raise InputError(f"{path}: ASE cannot read it: {type(error).__name__}: {error}") from error
    if not images:
        raise InputError(f"{path}: no structures in it")
    for k, atoms in enumerate(images, 1):
        if site := _disordered(atoms):
            raise InputError(f"{path}: structure {k}: {site}; build an ordered cell first")
    return images


def from_ase(atoms: Atoms, name: str) -> Structure:
    """Return the structure of ASE atoms, fixed atoms as selective dynamics; ``name`` is for those that have none.

    Raises:
        InputError: there are no atoms, no cell in three dimensions or one that is not periodic in all, a site is
            disordered, or a constraint is none that VASP's selective dynamics can say.
    """
    if len(atoms) == 0 or atoms.cell.rank < 3:
        raise InputError(f"{name}: no atoms or no cell in three dimensions")
    _check_periodic(atoms.pbc, name)
    if strange := next((symbol for symbol in atoms.symbols if symbol not in ELEMENTS), None):
        raise InputError(f"{name}: {strange} is not an element")
    if not (np.isfinite(atoms.cell.array).all() and np.isfinite(atoms.positions).all()):
        raise InputError(f"{name}: a position or the cell is not finite")
    if site := _disordered(atoms) or _shared(atoms):
        raise InputError(f"{name}: {site}")
    structure = to_structure(atoms, str(atoms.info.get("name", name)))
    return replace(structure, free=_free(atoms, name), contradicted=str(atoms.info.get("contradicted", "")))


def from_pymatgen(structure: PymatgenStructure, name: str) -> Structure:
    """Return the structure of a pymatgen Structure.

    Raises:
        InputError: a site is disordered, or the crystal is not periodic in all directions.
    """
    for site in structure:
        if not site.is_ordered:
            raise InputError(f"{name}: the site at {site.frac_coords.round(4).tolist()} is disordered: {site.species}")
    _check_periodic(structure.lattice.pbc, name)
    symbols = tuple(site.specie.symbol for site in structure)
    free = structure.site_properties.get("selective_dynamics")
    return Structure(
        symbols,
        np.array(structure.lattice.matrix),
        np.array(structure.frac_coords),
        name,
        free=None if free is None or np.all(free) else np.array(free, dtype=bool),
    )


def _check_periodic(pbc: Iterable[bool], name: str) -> None:
    if not all(pbc):
        shown = " ".join("FT"[bool(axis)] for axis in pbc)
        raise InputError(
            f"{name}: not periodic in three dimensions (pbc = {shown}); set pbc to T T T; relax a slab or a cluster in "
            "vacuum with ISIF = 2 (fixed cell)"
        )


def wrong_label(label: str, structure: Structure) -> str:
    """Say that a label has no formula but a wrong one: ``Fe3Ni5`` of a cell Fe2Ni13; empty where it has none.

    A wrong one is the label's first word, or has the elements of the structure; others may name a structure type. What
    the structure's own file says of it counts first.
    """
    if structure.contradicted:
        return structure.contradicted
    held = _reduced(Counter(structure.symbols))
    words = [word for word in re.split(r"[\s_:;,/-]+", label) if word]
    read = {word: formula for word in words if len(formula := _formula(word)) > 1}
    if held in read.values():
        return ""
    for word, formula in read.items():
        if set(formula) == set(held) or (word == words[0] and not word.isupper()):
            return f"it is called {word} and its atoms are {structure.formula}"
    return ""


def _formula(word: str) -> dict[str, int]:
    """Read a word as a formula and reduce it; empty where it is none."""
    parts = parts_of(word)
    if not ELEMENTS.issuperset(symbol for symbol, _ in parts):
        return {}
    counts: Counter[str] = Counter()
    for symbol, count in parts:
        counts[symbol] += count
    return _reduced(counts)


def _reduced(counts: Mapping[str, int]) -> dict[str, int]:
    divisor = max(math.gcd(*counts.values()), 1)
    return {symbol: n // divisor for symbol, n in counts.items()}


def _named(path: Path, number: int, atoms: Atoms, name: str) -> Structure:
    try:
        return from_ase(atoms, name)
    except InputError as error:
        raise InputError(f"{path}: structure {number}: {str(error).removeprefix(f'{name}: ')}") from None


def _disordered(atoms: Atoms) -> str:
    """Name the first site that holds several elements, or one only in part; ASE keeps the likeliest in silence."""
    kinds = atoms.arrays.get("spacegroup_kinds")
    for kind, shares in (atoms.info.get("occupancy") or {}).items():
        if len(shares) > 1 or any(_partly(share) for share in shares.values()):
            at = int(np.flatnonzero(kinds == int(kind))[0]) if kinds is not None and (kinds == int(kind)).any() else 0
            said = ", ".join(f"{symbol} {share}" for symbol, share in shares.items())
            return f"the site at {atoms.get_scaled_positions()[at].round(4).tolist()} is disordered: {said}"
    for key in filter(_OCCUPANCIES.fullmatch, atoms.arrays):
        shares = np.asarray(atoms.arrays[key], dtype=float)
        if (partly := np.flatnonzero(np.abs(shares - 1.0) > FULL)).size:
            place = atoms.get_scaled_positions()[partly[0]].round(4).tolist()
            return f"the site at {place} is disordered: {atoms.symbols[partly[0]]} {shares[partly[0]]:g}"
    return ""


def _shared(atoms: Atoms) -> str:
    """Name the first site that two elements share, which is disorder in a file that knows no occupancies."""
    from scipy.spatial import cKDTree

    places = atoms.get_scaled_positions(wrap=True) % 1.0
    for one, other in sorted(cKDTree(places, boxsize=1.0).query_pairs(ONE_SITE, p=np.inf)):
        if atoms.symbols[one] != atoms.symbols[other]:
            return f"the site at {places[one].round(4).tolist()} holds {atoms.symbols[other]} and another element"
    return ""


def unconstrained(atoms: Atoms) -> Atoms:
    """Take away what says which atoms were fixed, which does not matter where nothing moves."""
    atoms.set_constraint()
    for key in list(filter(_MASKS.fullmatch, atoms.arrays)):
        del atoms.arrays[key]
    return atoms


def _partly(share: Any) -> bool:
    """Return whether an occupancy is not 1; ``?`` and ``.`` stand for 1 in a CIF."""
    return share not in ("?", ".") and abs(float(share) - 1.0) > FULL


def _free(atoms: Atoms, name: str) -> NDArray[np.bool_] | None:
    """Return which fractional coordinates may move, None where all may.

    Raises:
        InputError: a constraint says something else.
    """
    for key in filter(_MASKS.fullmatch, atoms.arrays):
        values = atoms.arrays[key]
        if values.dtype.kind == "b" and values.any() and not values.all():
            raise InputError(f"{name}: the column {key} is not read; call it move_mask (T: may move) or remove it")
    if not atoms.constraints:
        return None
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        fixed = _fixed(constraint, atoms.cell.array)
        if fixed is None:
            raise InputError(
                f"{name}: the constraint {type(constraint).__name__} is not kept; FixAtoms, FixScaled, and "
                "FixCartesian along the lattice vectors are"
            )
        free[np.asarray(constraint.get_indices(), dtype=int)] &= ~fixed
    return None if free.all() else free


def _fixed(constraint: Any, cell: Array) -> NDArray[np.bool_] | None:
    """Return which fractional coordinates a constraint fixes (3,), None where that cannot say it."""
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    if isinstance(constraint, FixAtoms):
        return np.ones(3, dtype=bool)
    if not isinstance(constraint, (FixCartesian, FixScaled)):
        return None
    mask = np.asarray(constraint.mask, dtype=bool)
    aligned = np.allclose(cell, np.diag(np.diag(cell)), atol=1e-6)
    return mask if isinstance(constraint, FixScaled) or mask.all() or aligned else None
