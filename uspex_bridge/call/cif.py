"""CIFs: ordered crystals, each with all atoms of its cell; everything else is refused.

ASE splits a CIF into tags. What they mean is decided here: ASE takes the likelier element of a mixed site, P 1 where it
does not know how the symmetry is stated, and the first letters of any symbol. Tags: International Tables G, 4.1;
settings of space groups: spglib's table.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.vasp.structure import ELEMENTS

if TYPE_CHECKING:
    from ase import Atoms

#: A site is full if its occupancy differs from 1 by no more than this.
FULL = 1e-3
#: Sites of one atom differ by no more than this, Å; two elements on one site by no more than this, fractional.
_ONE_ATOM, ONE_SITE = 0.05, 2e-3
#: Lengths and angles of a cell may miss the symmetry of its space group by this share.
_OFF = 0.02
_AXES = "abc"
_TYPE = re.compile(r"([A-Za-z]{1,2})(?:\d*[+-]\d*|\d*)")
_NO_VALUE = ("?", ".", "")
#: Symbols of space groups before 1992 -> since; letters for origins and axes in the ICSD -> International Tables'.
_RENAMED = {"abm2": "aem2", "aba2": "aea2", "cmca": "cmce", "cmma": "cmme", "ccca": "ccce"}
_CHOICES = {"S": "1", "Z": "2"}

Operation = tuple[Array, Array]


def read_cif(text: str, name: str) -> list[Atoms]:
    """Return every structure of a CIF; where its formula contradicts the atoms, ``info["contradicted"]`` says so.

    Raises:
        InputError: there is none, or one that is not ordered, not complete, or whose symmetry cannot be known.
    """
    from ase.io.cif import parse_cif

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blocks = [_underscored(block) for block in parse_cif(io.StringIO(text))]
    except Exception as error:
        raise InputError(f"{name}: it is not a CIF ({error or 'no data block'})") from error
    blocks = [tags for tags in blocks if "_atom_site_fract_x" in tags or "_atom_site_cartn_x" in tags]
    if not blocks:
        raise InputError(f"{name}: no structures in it (tags _atom_site_fract_x)")
    images = []
    for number, tags in enumerate(blocks, 1):
        try:
            images.append(_atoms(tags))
        except (_Unreadable, ValueError) as error:
            raise InputError(f"{name}: structure {number}: {error}") from error
    return images


class _Unreadable(Exception):
    """Why a structure is not read."""


def _underscored(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tags of a block under the names of the older dictionaries: the newer have a dot for an underscore."""
    return {key.replace(".", "_"): value for key, value in block.items()}


def _atoms(tags: dict[str, Any]) -> Atoms:
    if any(key.startswith("_cell_wave_vector") for key in tags) or _number(tags, "_cell_modulation_dimension"):
        raise _Unreadable("a modulated crystal: the file holds its average only; build a commensurate cell first")
    cell = _cell(tags)
    symbols, scaled = _sites(tags, cell)
    stated = _stated(tags)
    found = [_expanded(symbols, scaled, operations, cell) for operations in _symmetries(tags, cell)]
    judged = [(_contradiction(atoms, tags, stated), atoms) for atoms in found]
    fitting = [one for one in judged if not one[0]] or judged
    wrong, atoms = fitting[0]
    if any(not _alike(atoms, other) for _, other in fitting[1:]):
        raise _Unreadable("its space group has several origins or settings; add the symmetry operations")
    if any(_value(word) > 0 for word in _column(tags, "_atom_site_attached_hydrogens")) and (wrong or not stated):
        raise _Unreadable("hydrogen atoms without coordinates (_atom_site_attached_hydrogens)")
    if wrong:
        atoms.info["contradicted"] = wrong
    return atoms


def _cell(tags: Mapping[str, Any]) -> Array:
    from ase.geometry import cellpar_to_cell

    lengths = [_number(tags, f"_cell_length_{axis}") for axis in _AXES]
    angles = [_number(tags, f"_cell_angle_{name}") for name in ("alpha", "beta", "gamma")]
    if None in lengths or None in angles:
        raise _Unreadable("no cell (_cell_length_a to _cell_angle_gamma)")
    cell = np.asarray(cellpar_to_cell([*lengths, *angles]), dtype=float)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-3:
        raise _Unreadable("a cell without volume")
    return cell


def _sites(tags: Mapping[str, Any], cell: Array) -> tuple[list[str], Array]:
    """Return the elements and fractional coordinates of the listed sites, dummy sites left out.

    Raises:
        _Unreadable: a site is disordered, holds no element that is known, or has no place.
    """
    cartesian = "_atom_site_fract_x" not in tags
    columns = [_column(tags, f"_atom_site_{'cartn' if cartesian else 'fract'}_{axis}") for axis in "xyz"]
    labels = _column(tags, "_atom_site_label") or _column(tags, "_atom_site_type_symbol")
    types = _column(tags, "_atom_site_type_symbol") or labels
    if not labels or any(len(column) != len(labels) for column in columns):
        raise _Unreadable("sites without symbol or coordinates (_atom_site_label, _atom_site_fract_x to z)")
    flags = _column(tags, "_atom_site_calc_flag") or ["d"] * len(labels)
    real = [k for k, flag in enumerate(flags) if str(flag).lower() != "dum"]
    for k in real:
        if any(not isinstance(column[k], (int, float)) for column in columns):
            raise _Unreadable(f"the site {labels[k]} has no coordinates")
    places: Array = np.array([[column[k] for column in columns] for k in real], dtype=float).reshape(-1, 3)
    scaled = places @ np.linalg.inv(cell) if cartesian else places
    named = "_atom_site_type_symbol" in tags
    hint = {symbol for symbol, _ in _stated(tags)}
    symbols = [_element(str(types[k])) if named else _element_of_label(str(labels[k]), hint) for k in real]
    _refuse_disorder(tags, real, symbols, scaled)
    return symbols, scaled


def _element(word: str) -> str:
    """Return the element of a type symbol such as Fe, FE, Fe3+ or D.

    Raises:
        _Unreadable: it is none.
    """
    match = _TYPE.fullmatch(word)
    symbol = match[1].capitalize() if match else ""
    symbol = "H" if symbol in ("D", "T") else symbol
    if symbol not in ELEMENTS:
        raise _Unreadable(f"'{word}' is not one element (_atom_site_type_symbol)")
    return symbol


def _element_of_label(label: str, hint: set[str]) -> str:
    """Return the element that a label begins with; one of ``hint`` where it may be two, as CL1 may.

    Raises:
        _Unreadable: it is none, or may be two.
    """
    letters = re.match(r"[A-Za-z]*", label)[0]  # type: ignore[index]
    if letters in ELEMENTS:
        return letters
    found = {part for part in (letters[:2].capitalize(), letters[:1].upper()) if part in ELEMENTS}
    found |= {"H"} if letters[:1] in ("D", "T") and not found else set()
    if letters[1:2].islower():  # Ow, not OW
        found = {max(found, key=len)} if found else found
    found = found & hint if len(found) > 1 and len(found & hint) == 1 else found
    if len(found) != 1:
        may = "may be " + " or ".join(sorted(found)) if found else "names no element"
        raise _Unreadable(f"the label {label} {may}; add _atom_site_type_symbol")
    return found.pop()


def _refuse_disorder(tags: Mapping[str, Any], real: Sequence[int], symbols: Sequence[str], scaled: Array) -> None:
    shares = _column(tags, "_atom_site_occupancy") or ["?"] * (max(real, default=-1) + 1)
    parts = [1.0 if str(shares[k]) in _NO_VALUE else _value(shares[k]) for k in real]
    for at, share in enumerate(parts):
        if not abs(share - 1.0) <= FULL:
            near = [k for k in range(len(parts)) if _near(scaled[k] - scaled[at])]
            said = ", ".join(f"{symbols[k]} {parts[k]:g}" for k in near)
            raise _Unreadable(f"the site at {_shown(scaled[at])} is disordered: {said}; build an ordered cell first")
    groups = _column(tags, "_atom_site_disorder_group")
    named = {str(groups[k]) for k in real if str(groups[k]) not in (*_NO_VALUE, "0")} if groups else set()
    if len(named) > 1 or any(group.startswith("-") for group in named):
        raise _Unreadable(
            f"disordered: _atom_site_disorder_group names {', '.join(sorted(named))}; build an ordered cell first"
        )


def _symmetries(tags: Mapping[str, Any], cell: Array) -> list[list[Operation]]:
    """Return the symmetry operations, in several settings where the file leaves them open; all fit the cell.

    Raises:
        _Unreadable: none is known, or none fits.
    """
    from ase.spacegroup.spacegroup import parse_sitesym

    def read(words: Sequence[Any]) -> list[Operation]:
        spoken = [",".join(str(word).lower().split(",")[:3]) for word in words]
        return list(zip(*parse_sitesym(spoken), strict=True))

    names = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz", "_space_group_symop_magn_operation_xyz")
    words = next((found for name in names if (found := _column(tags, name))), [])
    if words:
        centres = read(_column(tags, "_space_group_symop_magn_centering_xyz") or ["x,y,z"])
        possible = {0: [(turn, move + shift) for _, shift in centres for turn, move in read(words)]}
    elif any(key.startswith("_space_group_magn") for key in tags):
        raise _Unreadable("a magnetic space group without its symmetry operations")
    else:
        possible = {setting: _of_setting(setting) for setting in _settings(tags)}
    fitting = {setting: operations for setting, operations in possible.items() if _fits(operations, cell)}
    if not fitting:
        raise _Unreadable("its cell does not have the symmetry of its space group")
    first = next(iter(fitting))
    if first and 3 <= _table()[first].number <= 15:
        return [fitting[first]]  # that with the axis b before those with others, which a right angle allows too
    return list(fitting.values())


def _of_setting(setting: int) -> list[Operation]:
    import spglib

    table = spglib.get_symmetry_from_database(setting)
    assert table is not None
    return list(zip(table["rotations"].astype(float), table["translations"], strict=True))


def _settings(tags: Mapping[str, Any]) -> list[int]:
    """Return the settings (spglib's numbers) of the space group that is named, all that its names leave open.

    Raises:
        _Unreadable: the names are not known or contradict each other.
    """
    hall = _word(tags, "_space_group_name_hall", "_symmetry_space_group_name_hall")
    symbol = _word(tags, "_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m_full")
    number = _word(tags, "_space_group_it_number", "_symmetry_int_tables_number")
    if not (hall or symbol or number):
        return [1]
    said, _, choice = symbol.partition(":")
    if not choice and (found := re.fullmatch(r"(.*\S)\s*([12HRSZ])", said)) and _plain(said) not in _names():
        said, choice = found[1], found[2]  # F d -3 m Z
    choice = _CHOICES.get(choice.strip().upper(), choice.strip().upper())
    every = _table()
    possible = [
        k for k, one in every.items()
        if (not hall or _plain(one.hall_symbol) == _plain(hall))
        and (not said or hall or k in _names().get(_RENAMED.get(_plain(said), _plain(said)), ()))
        and (not number or str(one.number) == str(number))
        and (not choice or hall or one.choice in ("", choice))
    ]  # fmt: skip
    if not possible:
        named = ", ".join(word for word in (hall, symbol, number and f"number {number}") if word)
        raise _Unreadable(f"no space group is called {named}; add the symmetry operations")
    if hall or said:
        return possible
    first = possible[0]  # a number alone is that of the standard setting, but for its origin or its axes
    return [k for k in possible if k == first or (every[first].choice in ("1", "H") and every[k].choice in ("2", "R"))]


@cache
def _table() -> dict[int, Any]:
    import spglib

    return {k: spglib.get_spacegroup_type(k) for k in range(1, 531)}


@cache
def _names() -> dict[str, list[int]]:
    """Return the settings of each Hermann-Mauguin symbol: short, full, and monoclinic without its two 1."""
    found: dict[str, list[int]] = {}
    first: set[int] = set()
    for k, one in _table().items():
        full = one.international_full
        names = {_plain(full), _plain(one.international.partition("=")[0])}
        if 3 <= one.number <= 15:
            names = {_plain(full), _plain(full.replace(" 1", ""))}
            names |= set() if one.number in first else {_plain(one.international_short)}
        else:
            names.add(_plain(one.international_short))
        if one.number >= 200:
            names |= {name.replace("-3", "3") for name in names}  # as before 1983
        first.add(one.number)
        for name in names:
            found.setdefault(name, []).append(k)
    return found


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_()]", "", symbol).lower()


def _fits(operations: Sequence[Operation], cell: Array) -> bool:
    """Tell whether the operations keep the lengths and angles of the cell."""
    metric = cell @ cell.T
    size = np.sqrt(np.outer(metric.diagonal(), metric.diagonal()))
    return all(bool((np.abs(turn.T @ metric @ turn - metric) < _OFF * size).all()) for turn, _ in operations)


def _expanded(symbols: Sequence[str], scaled: Array, operations: Sequence[Operation], cell: Array) -> Atoms:
    """Return all atoms of the cell.

    Raises:
        _Unreadable: two elements have one site.
    """
    from ase import Atoms

    kinds: list[str] = []
    places = np.empty((0, 3))
    for symbol, site in zip(symbols, scaled, strict=True):
        for turn, move in operations:
            place = (turn @ site + move) % 1.0
            away = places - place
            away -= np.round(away)
            near = np.flatnonzero(
                (np.linalg.norm(away @ cell, axis=1) < _ONE_ATOM) | (np.abs(away).max(axis=1, initial=0) < ONE_SITE)
            )
            if any(kinds[k] != symbol for k in near):
                raise _Unreadable(f"the site at {_shown(site)} holds {symbol} and another element")
            if not near.size:
                kinds.append(symbol)
                places = np.vstack([places, place])
    return Atoms(kinds, scaled_positions=places, cell=cell, pbc=True)


def _stated(tags: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the stated formula as elements and numbers, deuterium as H; empty where there is none."""
    words = _word(tags, "_chemical_formula_sum").replace(",", " ").split()
    parts = [re.fullmatch(r"([A-Z][a-z]?)(\d*\.?\d*)", word) for word in words]
    if not words or not all(parts):
        return []
    counts: Counter[str] = Counter()
    for part in parts:
        assert part is not None
        counts["H" if part[1] in ("D", "T") else part[1]] += float(part[2] or 1)  # type: ignore[assignment]
    return [(symbol, float(n)) for symbol, n in counts.items()]


def _contradiction(atoms: Atoms, tags: Mapping[str, Any], stated: Sequence[tuple[str, float]]) -> str:
    """Say what the atoms contradict: the formula, and with Z their number; empty where nothing.

    Some programs write the formula of the cell, whatever Z is.
    """
    if not stated:
        return ""
    held = Counter(atoms.symbols)
    units = _number(tags, "_cell_formula_units_z")
    ratios = [held.get(symbol, 0) / n for symbol, n in stated if n > 0]
    same = set(held) == {symbol for symbol, _ in stated} and max(ratios) - min(ratios) < 0.01 * max(ratios)
    if same and (not units or min(abs(ratios[0] - n) for n in (1.0, units)) < 0.01):
        return ""
    shown = _word(tags, "_chemical_formula_sum") + (f", Z = {units:g}" if units else "")
    return f"the file states {shown}, but the atoms are {formula_of(held.items())}"


def _alike(one: Atoms, other: Atoms) -> bool:
    """Tell whether two cells hold the same atoms at the same places."""
    if len(one) != len(other):
        return False
    places, others = one.get_scaled_positions(), other.get_scaled_positions()
    away = places[:, None] - others[None]
    near = np.abs(away - np.round(away)).max(axis=2) < ONE_SITE
    alike = np.equal.outer(one.numbers, other.numbers)
    return bool((near & alike).any(axis=1).all())


def _column(tags: Mapping[str, Any], name: str) -> list[Any]:
    value = tags.get(name, [])
    return value if isinstance(value, list) else [value]


def _word(tags: Mapping[str, Any], *names: str) -> str:
    words = (str(tags.get(name, "")).strip().strip("'\"").strip() for name in names)
    return next((word for word in words if word not in _NO_VALUE), "")


def _number(tags: Mapping[str, Any], name: str) -> float | None:
    value = tags.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _value(word: Any) -> float:
    return float(word) if isinstance(word, (int, float)) else (float("nan") if str(word) not in _NO_VALUE else 0.0)


def _near(difference: Array) -> bool:
    return bool(np.abs(difference - np.round(difference)).max() < ONE_SITE)


def _shown(place: Array) -> list[float]:
    return [float(value) for value in np.asarray(place).round(4)]
