"""Structures that a search lost: what guards refused and what no model could compute, from the bridge's record.

They are the structures that a potential is worst on, so they are worth labels of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import InputError
from uspex_bridge.call import record_file, record_reading
from uspex_bridge.results.reading.folder import results_folders
from uspex_bridge.results.reading.join import record_of, structure_of
from uspex_bridge.results.reading.model import NAN, Entry, Recorded, composition_of
from uspex_bridge.results.reading.sources import Loose

#: How a call ends without a result.
LOST = ("rejected", "failed", "penalty")


@dataclass(frozen=True)
class Failures:
    """What a search lost.

    Attributes:
        counts: guard's code, kind of error or ``unconverged`` -> structures; one that was tried again counts once.
        sources: the structures that ended without a result, as they began; a source per record.
    """

    counts: Mapping[str, int]
    sources: tuple[Loose, ...]

    @property
    def total(self) -> int:
        """All of them, those that did not converge too."""
        return sum(self.counts.values())


def read_failures(places: Sequence[str], since: str = "") -> Failures:
    """Read the records that belong to results folders.

    Args:
        places: results folders or folders of them, folders that ``uspex-bridge relax`` filled; others have no record.
        since: only what ended at this time or later (ISO 8601, UTC).

    Raises:
        InputError: no place has a record.
    """
    records = records_of(places)
    if not records:
        raise InputError(f"{', '.join(places)}: there is no {record_file.FILENAME}, and lost structures are unknown")
    counts: Counter[str] = Counter()
    sources = []
    for path in records:
        lines = record_reading.read(path)
        last = {str(fields.get("key")): fields for fields in lines if str(fields.get("time", "")) >= since}
        lost = [fields for fields in last.values() if fields.get("status") in LOST and fields.get("input")]
        counts.update(str(fields.get("code") or fields["status"]) for fields in lost)
        counts.update(str(fields["status"]) for fields in last.values() if fields.get("status") == "unconverged")
        if lost:
            sources.append(_source(f"{path} (lost)", lost))
    return Failures(dict(counts.most_common()), tuple(sources))


def records_of(places: Sequence[str]) -> list[Path]:
    """Return the records that belong to places, each once; a place that is not there has none."""
    return list(dict.fromkeys(path for place in places if Path(place).exists() for path in _records(Path(place))))


def _records(place: Path) -> Iterator[Path]:
    if place.is_file():
        return
    if (path := record_file.in_folder(place)).is_file():
        yield path
        return
    try:
        found = results_folders(place)
    except InputError:
        return
    for results in found:
        if (record := record_of(results)) is not None:
            yield record


def _source(label: str, lines: Sequence[dict[str, Any]]) -> Loose:
    entries, held, names = [], {}, {}
    for number, fields in enumerate(lines, 1):
        structure = structure_of(fields["input"])
        code = str(fields.get("code") or fields["status"])
        recorded = Recorded("rejected", (code,), (), NAN, NAN, NAN, 0, float(fields.get("seconds") or 0.0), 0)
        entries.append(
            Entry(
                run=label,
                id=number,
                composition=composition_of(structure.symbols),
                volume=structure.volume,
                pressure_gpa=fields.get("pressure_gpa"),
                generation=fields.get("generation"),
                origin=f"lost: {code}",
                record=recorded,
            )
        )
        name = f"EA{fields['id']}" if fields.get("id") else str(fields.get("slot") or fields.get("label") or number)
        held[number], names[number] = structure, f"{name} lost ({code})"
    return Loose(label, tuple(entries), held, names)
