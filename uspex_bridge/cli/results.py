"""``uspex-bridge results``: what a results folder of USPEX holds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite

if TYPE_CHECKING:
    from uspex_bridge.results.reading.folder import Results
    from uspex_bridge.results.reading.model import Entry, Pool


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Analyse results folders of USPEX, of all lines, finished or not."""


@command.command(context_settings=q.CONTEXT)
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path))
@q.RECORD
@click.option("--notes", "all_notes", is_flag=True, help="All notes on unreadable data; every structure is read.")
@q.JSON
def summary(places: tuple[Path, ...], no_record: bool, all_notes: bool, as_json: bool) -> None:
    """Summarise the results folders at PLACES.

    Example: uspex-bridge results summary results1
    """
    from uspex_bridge.results.hulls.tables import UNITS
    from uspex_bridge.results.reading.folder import open_all

    opened = open_all(places, record=not no_record)
    if all_notes:
        for results in opened:
            for _ in (*results.structures(), *results.unrelaxed()):
                pass
    if as_json:
        searches = {"searches": [facts(results) for results in opened], "units": UNITS}
        click.echo(json.dumps(searches, indent=1, ensure_ascii=False))
    else:
        click.echo("\n\n".join(describe(results) for results in opened))
    for results in opened:
        if all_notes:
            for note in results.notes:
                click.echo(f"note: {note}", err=True)
        else:
            q.tell_notes(results.notes)


def facts(results: Results) -> dict[str, Any]:
    """Return what a results folder holds as plain values; of copies that USPEX kept the record tells nothing new."""
    from uspex_bridge.results.hulls.stability import without_holes
    from uspex_bridge.results.reading.model import KEPT

    entries = results.entries
    valid = [entry for entry in entries if entry.valid]
    made = [entry for entry in entries if entry.origin not in KEPT]
    recorded = [entry.record for entry in made if entry.record is not None]
    ranked = [] if results.settings.no_hull else [entry for entry in without_holes(valid)[0] if entry.valid]
    best = min(ranked, key=lambda entry: entry.enthalpy_per_atom, default=None)
    return {
        "folder": str(results.path),
        "line": results.line,
        "state": results.state,
        "kind": results.settings.describe() or "crystals",
        "method": results.settings.method,
        "calculation": results.settings.calculation or None,
        "pressure_gpa": results.settings.pressure_gpa,
        "species": list(results.settings.species),
        "structures": len(entries),
        "without_enthalpy": len(entries) - len(valid),
        "generations": list(results.generations),
        "compositions": len({entry.reduced for entry in valid}),
        "lowest": None if best is None else best.row(),
        "origins": dict(Counter(entry.origin for entry in entries).most_common()),
        "levels": dict(Counter(entry.level or "not stated" for entry in valid).most_common()),
        "recorded": len(recorded),
        "status": dict(Counter(one.status for one in recorded).most_common()),
        "flags": dict(Counter(flag for entry in made for flag in entry.flags).most_common()),
        "notes": len(results.notes),
    }


def describe(results: Results) -> str:
    """Return the same as text."""
    from uspex_bridge.base.tables import wrapped
    from uspex_bridge.results.reading.settings import LINES

    f = facts(results)
    pressure = "pressure unknown" if f["pressure_gpa"] is None else f"{f['pressure_gpa']:g} GPa"
    generations = f["generations"]
    span = f"generations {generations[0]} to {generations[-1]}" if generations else "generations unknown"
    head = (
        f"{results.label}: {LINES[results.line]}, {f['state']}, "
        f"{' '.join(f['species']) or 'elements unknown'}, {pressure}"
    )
    if f["kind"] != "crystals":
        head += f"\n  a search for {f['kind']}" if f["method"] != "META" else "\n  metadynamics"
    if results.settings.surfaces:
        head += ": enthalpies include the substrate, compositions are those of the surface"
    if not results.entries:
        return f"{head}\n  no relaxed structure yet" + (
            "; uspex-bridge log shows the relaxations" if results.record else ""
        )
    lines = [
        head,
        f"  {counted(f['structures'], 'structure')}, {f['without_enthalpy']} without an enthalpy; {span}; "
        f"{counted(f['compositions'], 'composition')}",
    ]
    if f["lowest"] is not None:
        low = f["lowest"]
        lines.append(
            f"  lowest enthalpy per atom: EA{low['id']} {low['formula']} {low['enthalpy_per_atom']:.4f} eV/atom "
            f"(generation {low['generation']}, {low['origin']})" + (f" [{low['flags']}]" if low["flags"] else "")
        )
    lines.append(wrapped(f"made by {_counted(f['origins'])}", "  "))
    if f["levels"]:
        lines.append(wrapped(f"enthalpies from {_counted(f['levels'])}", "  "))
    if f["recorded"]:
        lines.append(f"  in the bridge's record: {_counted(f['status'])}")
    if f["flags"]:
        lines.append(f"  flags: {_counted(f['flags'])}")
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name or 'unknown'} {number}" for name, number in counts.items())


@command.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-n", "most", type=click.IntRange(min=1), default=20, show_default=True, help="Largest number of structures."
)
@q.within(0.05)
@q.REFERENCES
@q.HULL
@q.DUPLICATES
@q.STABILITY
@q.SYMPREC
@q.RECORD
@q.JSON
def best(places: tuple[str, ...], most: int, as_json: bool, **options: Any) -> None:
    """Show the best phases of PLACES: nearest the hull, or lowest in enthalpy for one composition.

    Example: uspex-bridge results best results1 -n 10
    """
    from uspex_bridge.results.hulls.stability import assess
    from uspex_bridge.results.hulls.tables import document, phase_rows, report

    pool = q.open_pool(places, options)
    answer = assess(pool, q.ask(options))
    q.warn(answer.warnings)
    if as_json:
        rows = phase_rows(answer, None, answer.phases[:most])
        click.echo(json.dumps(document(answer, rows), indent=1, ensure_ascii=False))
    else:
        click.echo(report(answer, most=most))
    q.tell_notes(pool.notes)


@command.command(context_settings=q.CONTEXT)
@click.argument("place", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1, required=True)
@q.SYMPREC
@click.option("--poscar", is_flag=True, help="POSCARs of the structures, without other output.")
@click.option("--unrelaxed", is_flag=True, help="Structures before their relaxation.")
@q.JSON
def show(place: Path, ids: tuple[str, ...], symprec: float, poscar: bool, unrelaxed: bool, as_json: bool) -> None:
    """Show structures IDS (7 or EA7) of the results folder PLACE: enthalpies, crystal, family, record.

    Example: uspex-bridge results show results1 137 EA12
    """
    from uspex_bridge.results.hulls.tables import UNITS
    from uspex_bridge.results.reading.folder import open_all

    opened = open_all([place])
    results = opened[-1]
    if len(opened) > 1:
        click.echo(f"{len(opened)} results folders; this is {results.label}", err=True)
    chosen = [results.find(word) for word in ids]
    found = dict((results.unrelaxed if unrelaxed else results.structures)(chosen))
    structures = {entry.id: structure for entry, structure in found.items()}
    if as_json:
        found_ones = [_document(results, entry, structures.get(entry.id), symprec) for entry in chosen]
        click.echo(json.dumps({"structures": found_ones, "units": UNITS}, indent=1, ensure_ascii=False))
    elif poscar:
        from uspex_bridge.results.hulls.seeds import format_poscar

        for entry in chosen:
            if entry.id in structures:
                click.echo(format_poscar(structures[entry.id], structures[entry.id].comment), nl=False)
    else:
        click.echo("\n\n".join(_detail(results, entry, structures.get(entry.id), symprec) for entry in chosen))
    q.tell_notes(results.notes)


def _children(results: Results, entry: Entry) -> list[int]:
    return [other.id for other in results.entries if entry.id in other.parents]


def _document(results: Results, entry: Entry, structure: Any, symprec: float) -> dict[str, Any]:
    from uspex_bridge.results.phases.crystal import describe as describe_crystal

    crystal = describe_crystal(structure, symprec) if structure is not None else None
    document = entry.row() | {"children": _children(results, entry), "crystal": crystal.row() if crystal else None}
    if structure is not None:
        document["structure"] = {
            "symbols": list(structure.symbols),
            "cell": structure.cell.tolist(),
            "scaled": structure.scaled.tolist(),
        }
    return document


def _enthalpy(entry: Entry) -> str:
    if not entry.valid:
        return "  no enthalpy: its relaxation failed or was refused"
    pressure = "" if entry.pressure_gpa is None else f" at {entry.pressure_gpa:g} GPa"
    if entry.substrate:
        return f"  H {entry.enthalpy:.4f} eV{pressure}, the substrate's included"
    per_atom = f"{entry.enthalpy_per_atom:.4f} eV/atom{pressure}; V {entry.volume_per_atom:.3f} Å³/atom"
    return f"  H {entry.enthalpy:.4f} eV = {per_atom}"


def _detail(results: Results, entry: Entry, structure: Any, symprec: float) -> str:
    from uspex_bridge.results.phases.crystal import describe as describe_crystal

    made = f"generation {entry.generation}, {entry.origin}" if entry.generation is not None else entry.origin
    if entry.parents:
        made += " from " + " ".join(f"EA{k}" for k in entry.parents)
    lines = [f"EA{entry.id}  {entry.formula}, {made}", _enthalpy(entry)]
    if entry.steps:
        lines.append("  after each step: " + "  ".join(f"{value:.3f}" for value in entry.steps) + " eV")
    if entry.fitness == entry.fitness:
        orders = f", orders {entry.average_order:g} and {entry.structure_order:g}"
        lines.append(f"  fitness {entry.fitness:g}" + (orders if entry.average_order == entry.average_order else ""))
    if children := _children(results, entry):
        lines.append("  parent of " + " ".join(f"EA{k}" for k in children))
    crystal = describe_crystal(structure, symprec) if structure is not None else None
    if crystal is not None:
        a, b, c, alpha, beta, gamma = crystal.lattice
        lines.append(
            f"  {crystal.symbol} ({crystal.number}), {crystal.system}, {crystal.atoms} atoms in the conventional cell "
            f"(within {symprec:g} Å)"
        )
        lines.append(f"  a {a:.4f}  b {b:.4f}  c {c:.4f} Å   {alpha:.2f} {beta:.2f} {gamma:.2f}°")
        lines += [
            f"    {site.element:<2} {site.wyckoff:>5}  " + "  ".join(f"{x:.5f}" for x in site.position)
            for site in crystal.sites
        ]
    if entry.record is not None and entry.record.status == "penalty":
        lines.append(
            f"  refused by the bridge, the enthalpy is a penalty: uspex-bridge log {entry.id} shows the reason"
        )
    elif entry.record is not None:
        r = entry.record
        lines.append(
            f"  {r.status} with {' > '.join(r.models)}: {r.steps} steps, fmax {r.fmax:.4f} eV/Å, "
            f"stress left {r.stress_left_gpa:.3f} GPa"
        )
    if entry.flags:
        lines.append(f"  flags: {' '.join(entry.flags)}")
    return "\n".join(lines)


@command.command(context_settings=q.CONTEXT)
@q.PLACES
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["extxyz", "db", "cif", "poscar", "csv", "parquet"]),
    help="Format.  [default: by the ending of OUT]",
)
@click.option(
    "-n",
    "most",
    type=click.IntRange(min=1),
    help="Largest number of structures, nearest the hull first.  [default: all]",
)
@click.option(
    "--within",
    type=Finite(min=0),
    help="Largest distance above the hull, eV/atom; duplicates are left out.  [default: all structures]",
)
@click.option("--ids", help="IDs of the structures: 7,12,30-40.  [default: all]")
@click.option("--unrelaxed", is_flag=True, help="Structures before their relaxation.")
@click.option(
    "--symprec",
    type=Finite(min=0),
    default=0.1,
    show_default=True,
    help="Tolerance of space groups in CIFs, tables and names of files, Å; 0 writes P1.",
)
@q.HULL
@q.DUPLICATES
@q.RECORD
@FORCE
def export(
    places: tuple[str, ...], out: Path, force: bool, kind: str | None, unrelaxed: bool, symprec: float, **options: Any
) -> None:
    """Write the structures of PLACES into OUT: extxyz, ASE database, CIF, POSCARs, CSV or Parquet.

    If OUT is an existing folder, each CIF or POSCAR is a file of its own, such as EA90_FeNi2_P-3m1.cif, or with the
    name in the source. All structures are written unless -n, --within or --ids is given. Tables have distances
    to the hull of all PLACES.

    Example: uspex-bridge results export results1 near.cif --within 0.02
    """
    from uspex_bridge.results.hulls.export import export as write
    from uspex_bridge.results.hulls.export import format_of, hull_of

    if kind is None and not out.is_dir():
        kind = format_of(out)
    if not out.is_dir():
        q.keep(out, force=force)
    pool = q.open_pool(places, options)
    entries = _chosen(pool, options)
    hull = None
    if kind in ("csv", "parquet"):
        hull, why = hull_of(pool, q.ask(options | {"within": 0.0, "method": "none"}))
        if why:
            click.echo(f"note: the table has no distances to a hull: {why}", err=True)
    chosen = kind or "poscar"
    count = write(pool, entries, out, chosen, unrelaxed=unrelaxed, symprec=symprec, hull=hull, overwrite=force)
    click.echo(
        f"{out}: {count} of {len(entries)} chosen structures"
        if count < len(entries)
        else f"{out}: {counted(count, 'structure')}"
    )
    q.tell_notes(pool.notes)


def _chosen(pool: Pool, options: dict[str, Any]) -> list[Entry]:
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.results.hulls.stability import assess

    if options["ids"]:
        wanted = _ids(options["ids"])
        pool = pool.only([entry for entry in pool.entries if entry.id in wanted])
        if not pool.entries:
            raise InputError(f"--ids {options['ids']}: no such structure")
    if options["within"] is None and options["most"] is None:
        return list(pool.entries)
    whole = options["within"] is None
    answer = assess(pool, q.ask(options | {"within": float("inf") if whole else options["within"]}))
    q.warn(answer.warnings)
    return [answer.point(phase).entry for phase in answer.phases][: options["most"]]


def _ids(text: str) -> set[int]:
    """Read ``7,12,30-40``.

    Raises:
        ConfigError: it is none.
    """
    from uspex_bridge.base.errors import ConfigError

    numbers: set[int] = set()
    for part in text.replace(" ", "").replace("EA", "").split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not last)):
            raise ConfigError(f"--ids {text}: '{part}' is neither an ID nor a range of them")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers
