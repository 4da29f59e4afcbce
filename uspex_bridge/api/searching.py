"""Results of searches and their record from Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.hulls.stability import Assessment, Question
from uspex_bridge.results.reading.model import Entry, Pool

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


def open_results(*places: str | Path, references: Sequence[str | Path] = (), record: bool = True) -> Search:
    """Open results folders of USPEX, folders of ``relax`` or ``rescore``, or files of structures with energies.

    Args:
        places: folders and files.
        references: further structures with energies.
        record: whether the bridge's record is read too.

    Raises:
        InputError: a folder or file contains no results.
    """
    from uspex_bridge.results.reading.sources import open_sources

    return Search(open_sources([str(place) for place in (*places, *references)], record=record))


class Search:
    """Structures with enthalpies, of one search or several.

    Attributes:
        pool: its sources and entries (``uspex_bridge.results.reading.model.Pool``).
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.pool.entries)

    def __repr__(self) -> str:
        return f"<{', '.join(self.pool.sources)}: {len(self)} structures>"

    @property
    def notes(self) -> list[str]:
        """Notes on data that could not be read, one line each."""
        return self.pool.notes

    def entry(self, which: int | str) -> Entry:
        """Return the entry of a USPEX ID (7 or ``EA7``), or of a name with its run (``results1:EA7``).

        Raises:
            InputError: there is none, or there are several.
        """
        word = str(which)
        found = [e for e in self.pool.entries if word == e.name or word.removeprefix("EA") == str(e.id)]
        if len(found) != 1:
            said = f"{len(found)} entries have it, name the run too" if found else "no entry has it"
            raise InputError(f"{which}: {said}")
        return found[0]

    def atoms(self, which: int | str) -> Atoms:
        """Return a structure as ASE atoms, its entry's values in ``info``.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        from uspex_bridge.base.atoms import to_atoms

        entry = self.entry(which)
        atoms = to_atoms(self.pool.structure(entry))
        atoms.info |= {key: value for key, value in entry.row().items() if value is not None}
        return atoms

    def hull(self, within: float = 0.1, **question: Any) -> Phases:
        """Return the phases near the convex hull, without duplicates.

        Args:
            within: distance to the hull, eV/atom.
            question: further fields of ``uspex_bridge.results.hulls.stability.Question``, such as ``pressure_gpa`` and
                ``components``.

        Raises:
            ConfigError: pressures or levels of theory are mixed.
            InputError: there is no hull to be built.
        """
        from uspex_bridge.results.hulls.stability import assess

        return Phases(assess(self.pool, Question(within=within, **question)))

    def best(self, most: int = 20, **question: Any) -> Phases:
        """Return the phases nearest the hull, or lowest in enthalpy where there is one composition."""
        found = self.hull(within=question.pop("within", math.inf), **question)
        return Phases(replace(found.answer, phases=found.answer.phases[:most]))

    def to_dataframe(self) -> DataFrame:
        """Return every entry as a row."""
        import pandas

        return pandas.DataFrame([entry.row() for entry in self.pool.entries])

    def export(self, path: str | Path, entries: Iterable[Entry] | None = None, *, format: str | None = None) -> int:
        """Write structures to an extxyz, ASE database, CIF, POSCAR, CSV or Parquet file; return how many.

        Raises:
            ConfigError: the ending of the path names no format.
            OutputError: the file cannot be written.
        """
        from uspex_bridge.results.hulls.export import export, format_of, hull_of

        chosen = self.pool.entries if entries is None else tuple(entries)
        kind = format or format_of(Path(path))
        hull = hull_of(self.pool, Question(within=0.0, method="none"))[0] if kind in ("csv", "parquet") else None
        return export(self.pool, chosen, Path(path), kind, hull=hull)

    def plot(self, kind: str = "hull", ax: Axes | None = None, **options: Any) -> Figure:
        """Draw a figure of ``uspex-bridge plot``: hull, ternary (``solid=True``: --3d), quaternary, volume or coverage.

        Args:
            kind: name of the figure.
            ax: axes to draw the figure into; None makes a new figure.
            options: arguments of the figure's ``draw`` function (``uspex_bridge.figures``).

        Raises:
            ConfigError: the figure cannot show these components.
        """
        from uspex_bridge.figures.plots import plot

        return plot(self.pool, kind, ax, **options)


class Phases:
    """Phases by their distance to the hull.

    Attributes:
        answer: hull, phases and warnings (``uspex_bridge.results.hulls.stability.Assessment``).
    """

    def __init__(self, answer: Assessment) -> None:
        self.answer = answer

    def __len__(self) -> int:
        return len(self.answer.phases)

    def __iter__(self) -> Iterator[Entry]:
        return (phase.entry for phase in self.answer.phases)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know before believing it."""
        return self.answer.warnings

    @property
    def stable(self) -> list[Entry]:
        """The entries that span the hull."""
        return [point.entry for point in self.answer.hull.vertices]

    def rows(self) -> list[dict[str, Any]]:
        """Return the phases as plain values, as ``uspex-bridge hull --json`` prints them."""
        from uspex_bridge.results.hulls.tables import phase_rows

        return phase_rows(self.answer)

    def to_dataframe(self) -> DataFrame:
        """Return a row per phase."""
        import pandas

        return pandas.DataFrame(self.rows())

    def table(self) -> str:
        """Return the phases as a table."""
        from uspex_bridge.results.hulls.tables import phase_table

        return phase_table(self.answer)

    def __repr__(self) -> str:
        return self.table()


def read_record(place: str | Path = ".", which: str | int | None = None) -> list[dict[str, Any]]:
    """Return lines of the record: all, or those of a structure (``uspex-bridge log``), the oldest first.

    Args:
        place: the record, or the folder of the search that holds it.
        which: a USPEX ID, a slot, a formula or the start of a key; None is all.

    Raises:
        InputError: there is no record.
    """
    from uspex_bridge.results.reading.lookup import find

    return find(Path(place), None if which is None else str(which))
