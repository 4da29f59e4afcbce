"""Entries and structures written for other programs: extxyz, ASE database, CIF, POSCARs, CSV, Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import replacing, write_whole
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.symmetry import SYMPREC, find_group
from uspex_bridge.base.tables import as_csv
from uspex_bridge.results.hulls.hull import Hull
from uspex_bridge.results.hulls.seeds import format_poscar
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.phases.crystal import Crystal, describe
from uspex_bridge.results.reading.convert import to_ase, to_pymatgen
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import Entry, Pool
from uspex_bridge.results.reading.sources import Loose

#: Ending -> format.
ENDINGS = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".db": "db",
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscars": "poscar",
    ".csv": "csv",
    ".parquet": "parquet",
}
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))

#: Structures held at a time.
_CHUNK = 500

Pairs = Iterator[tuple[Entry, Structure]]


def format_of(path: Path, given: str | None = None) -> str:
    """Return the format to write, by name or by the file's ending; a file called POSCARS holds POSCARs.

    Raises:
        ConfigError: the ending says nothing.
    """
    if given is not None:
        return given
    if path.name.upper().endswith("POSCARS"):
        return "poscar"
    if path.suffix.lower() not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise ConfigError(f"{path}: unknown format; known endings: {known}; or say --format")
    return ENDINGS[path.suffix.lower()]


def export(
    pool: Pool,
    entries: Sequence[Entry],
    path: Path,
    kind: str,
    *,
    unrelaxed: bool = False,
    symprec: float = SYMPREC,
    hull: Hull | None = None,
    overwrite: bool = True,
) -> int:
    """Write entries, one structure at a time, and return how many were written.

    Args:
        pool: where structures come from.
        entries: what to write, in this order.
        path: the file; for ``cif`` and ``poscar`` an existing folder, or a path that ends with a slash, gets one file
            per structure. A file is replaced when all is written.
        kind: one of ``FORMATS``.
        unrelaxed: take the structures as the operators made them.
        symprec: CIFs have the symmetry found within so many Å, and names of files its space group; 0 writes P1. Tables
            have that space group too, at 0 USPEX's number alone.
        hull: tables have formation enthalpies and distances to it, eV/atom.
        overwrite: whether files of a folder that are there already may be replaced.

    Raises:
        ConfigError: a file is there already.
        ModuleNotFoundError: a package for this format is missing.
        OutputError: the file cannot be written.
        InputError: there is nothing to write; no file is made.
    """
    pairs = _structures(pool, entries, unrelaxed=unrelaxed)
    if kind in ("cif", "poscar") and path.is_dir():
        return _any(_write_each(pool, pairs, path, kind, symprec, overwrite=overwrite))
    writers: dict[str, Callable[[Path], int]] = {
        "csv": lambda draft: _write_csv(_rows(pool, entries, hull, symprec), draft),
        "parquet": lambda draft: _write_parquet(_rows(pool, entries, hull, symprec), draft),
        "extxyz": lambda draft: _write_extxyz(pool, pairs, draft, forces=not unrelaxed),
        "db": lambda draft: _write_db(pool, pairs, draft, forces=not unrelaxed),
        "cif": lambda draft: _write_text(draft, (cif_text(s, e.name, symprec) for e, s in pairs)),
        "poscar": lambda draft: _write_text(draft, (format_poscar(s, s.comment) for _, s in pairs)),
    }
    with replacing(path) as draft:
        return _any(writers[kind](draft))


def _any(count: int) -> int:
    if not count:
        raise InputError("there is no structure to write")
    return count


def _structures(pool: Pool, entries: Sequence[Entry], *, unrelaxed: bool) -> Pairs:
    """Yield structures in the order of ``entries``, with these entries, some hundred in memory at a time."""
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        found = {entry.name: s for entry, s in (_unrelaxed(pool, chunk) if unrelaxed else pool.structures(chunk))}
        yield from ((entry, found[entry.name]) for entry in chunk if entry.name in found)


def _unrelaxed(pool: Pool, entries: Sequence[Entry]) -> Pairs:
    for source in pool.sources.values():
        if isinstance(source, Results):
            yield from source.unrelaxed([entry for entry in entries if entry.run == source.label])


def _recorded(pool: Pool, entry: Entry) -> dict[str, Any] | None:
    """Return the record's whole line of an entry, for its forces and stress."""
    source = pool.sources[entry.run]
    if entry.record is None or not isinstance(source, Results) or source.record is None:
        return None
    return jsonl.read_at(source.record, entry.record.offset)


def _write_extxyz(pool: Pool, pairs: Pairs, path: Path, *, forces: bool) -> int:
    from ase.io.extxyz import write_extxyz

    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for entry, structure in pairs:
            write_extxyz(stream, _atoms(pool, entry, structure, forces=forces))
            count += 1
    return count


def _write_db(pool: Pool, pairs: Pairs, path: Path, *, forces: bool) -> int:
    import sqlite3

    from ase.db import connect

    # Columns that an ASE database has of its own.
    reserved = {"id", "energy", "formula", "natoms", "volume", "fmax", "name"}
    count = 0
    try:
        with connect(path, type="db", append=False) as database:
            for entry, structure in pairs:
                atoms = _atoms(pool, entry, structure, forces=forces)
                columns = {f"uspex_{k}" if k in reserved else k: v for k, v in atoms.info.items()}
                atoms.info = {}
                database.write(atoms, **{k: _plain(v) for k, v in columns.items()})
                count += 1
    except sqlite3.OperationalError as error:  # of a full disk too
        raise OSError(str(error)) from error
    return count


def _plain(value: Any) -> Any:
    """Make a string that looks like a number fit for an ASE database, which refuses it."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return value
        return f"#{value}"
    return value


def _atoms(pool: Pool, entry: Entry, structure: Structure, *, forces: bool) -> Any:
    """Return ASE atoms; of an unrelaxed structure no energy, since none is known."""
    if forces:
        return to_ase(entry, structure, _recorded(pool, entry))
    atoms = to_ase(entry, structure)
    atoms.calc = None
    atoms.info = {
        key: atoms.info[key] for key in ("name", "run", "id", "generation", "origin", "parents") if key in atoms.info
    }
    return atoms


def cif_text(structure: Structure, name: str, symprec: float = SYMPREC, crystal: Crystal | None = None) -> str:
    """Return a CIF with the symmetry found within ``symprec`` Å, in P1 where there is none or it is 0.

    ``crystal`` is what :func:`uspex_bridge.results.phases.crystal.describe` says of the structure, where that is known.
    """
    from pymatgen.io.cif import CifWriter

    block = "".join(c if c.isalnum() else "_" for c in name)
    if symprec > 0 and (crystal := crystal or describe(structure, symprec)) is not None:
        return crystal.cif(block)
    text = str(CifWriter(to_pymatgen(structure)))
    return text.replace(text[text.index("data_") :].split("\n", 1)[0], f"data_{block}", 1) + "\n"


def file_stem(pool: Pool, entry: Entry, structure: Structure, symprec: float = SYMPREC) -> str:
    """Return the name of an entry's own file: the one that its source gave it, else ``EA90_FeNi2_P-3m1``."""
    source = pool.sources[entry.run]
    given = source.names.get(entry.id, "") if isinstance(source, Loose) else ""
    if re.fullmatch(rf"(EA)?\d*|{re.escape(Path(entry.run).stem)}-\d+", given):
        group = find_group(structure, symprec) if symprec > 0 else None
        symbol = group.symbol.replace("/", "") if group else "P1"
        given = f"EA{entry.id}_{formula_of(entry.reduced)}_{symbol}"
    return _clean(given)


def _clean(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip("._")


def _write_text(path: Path, texts: Iterator[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for text in texts:
            stream.write(text)
            count += 1
    return count


def _write_each(pool: Pool, pairs: Pairs, folder: Path, kind: str, symprec: float, *, overwrite: bool) -> int:
    texts: dict[str, str] = {}
    for entry, structure in pairs:
        stem = file_stem(pool, entry, structure, symprec)
        stem = f"{_clean(entry.run)}_{stem}" if stem in texts else stem
        stem = f"{stem}_{entry.id}" if stem in texts else stem
        cif = kind == "cif"
        texts[stem] = cif_text(structure, stem, symprec) if cif else format_poscar(structure, structure.comment)
    files = {folder / f"{stem}.{'cif' if kind == 'cif' else 'vasp'}": text for stem, text in texts.items()}
    present = [path for path in files if path.exists()]
    if present and not overwrite:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise ConfigError(f"{present[0]}{more}: exists; --force overwrites")
    for path, text in files.items():
        write_whole(path, text)
    return len(files)


def hull_of(pool: Pool, question: Question) -> tuple[Hull | None, str]:
    """Return the hull of a table of ``pool``, or why it has none."""
    try:
        return assess(pool, question).hull, ""
    except (ConfigError, InputError) as error:
        return None, str(error)


def _rows(pool: Pool, entries: Sequence[Entry], hull: Hull | None, symprec: float) -> list[dict[str, Any]]:
    """Return the rows of a table, with what the hull and spglib say of each entry."""
    groups = {}
    if symprec > 0:
        groups = {e.name: find_group(s, symprec) for e, s in _structures(pool, entries, unrelaxed=False)}
    rows = []
    for entry in entries:
        row = entry.row() | {"space_group_uspex": entry.space_group}
        if group := groups.get(entry.name):
            row |= {"space_group": group.number, "space_group_symbol": group.symbol}
        if hull is not None:
            point = hull.by_name.get(entry.name)
            row["formation_enthalpy"] = round(point.formation, 6) + 0.0 if point else None
            row["above_hull"] = round(point.above, 6) if point else None
        rows.append(row)
    return rows


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> int:
    path.write_text(as_csv(rows), encoding="utf-8")
    return len(rows)


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return len(rows)
