"""Files of many POSCARs (gatheredPOSCARS and its like), found by USPEX's ID without being held in memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import split_lines
from uspex_bridge.results.reading.model import Composition
from uspex_bridge.vasp.structure import ELEMENTS, parse_poscar

#: USPEX's first line of a structure: ``EA12 ...``, in one of its files ``Structure_12 ...``, of USPEX 26 ``number=12``.
_LABEL = re.compile(rb"^[ \t]*(?:EA|Structure_|number[ \t]*=)[ \t]*(\d+)\b.*$", re.MULTILINE)
_MESSAGE_LINE = re.compile(r", line (\d+):")


@dataclass(frozen=True, slots=True)
class Block:
    """Where one structure lies: bytes ``start`` to ``end``, first line number ``line``.

    ``composition`` and ``volume`` (Å³) are None where its head cannot be read at sight.
    """

    id: int
    start: int
    end: int
    line: int
    composition: Composition | None
    volume: float | None


@dataclass
class PoscarFile:
    """An index of one such file; a structure is read from disk when it is asked for.

    Attributes:
        path: the file.
        species: elements to use where the file has no element lines.
        blocks: ID -> place; of an ID that occurs twice, the last.
        unread: what could not be read, with file and line; grows as structures are read.
        others: ID -> earlier places of an ID that occurs more than once.
    """

    path: Path
    species: Sequence[str] = ()
    blocks: dict[int, Block] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    others: dict[int, list[Block]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, species: Sequence[str] = ()) -> PoscarFile:
        """Index a file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {os.strerror(error.errno or 0)}") from None
        index = cls(path, species)
        marks = list(_LABEL.finditer(data))
        if not marks and data.strip():
            index.unread.append(f"{path}, line 1: no line begins with EA or number= and a number; no structure is read")
        line, counted = 1, 0
        for k, mark in enumerate(marks):
            start = mark.start()
            end = marks[k + 1].start() if k + 1 < len(marks) else len(data)
            line += data.count(b"\n", counted, start)
            counted = start
            number = int(mark[1])
            if end == len(data) and not data.endswith(b"\n"):
                last = line + data.count(b"\n", start)
                index.unread.append(f"{path}, line {last}: the file ends within a line; EA{number} is left out")
                continue
            if number in index.blocks:
                index.others.setdefault(number, []).append(index.blocks[number])
            head = data[mark.end() : end].split(b"\n", 7)
            index.blocks[number] = Block(number, start, end, line, _composition(head), _volume(head))
        return index

    @property
    def notes(self) -> list[str]:
        """IDs that occur more than once and of which none was chosen, then ``unread``."""
        later = [place for number in self.others for place in (*self.others[number][1:], self.blocks[number])]
        later.sort(key=lambda place: place.line)
        said = "a second time; the last one is used"
        return [*(f"{self.path}, line {place.line}: EA{place.id} {said}" for place in later), *self.unread]

    def choose(self, number: int, volume: float) -> None:
        """Of several structures of one ID take the one whose volume (Å³) is nearest to ``volume``."""
        if number not in self.others or not math.isfinite(volume):
            return
        places = [*self.others.pop(number), self.blocks[number]]
        self.blocks[number] = min(places, key=lambda block: abs((block.volume or math.inf) - volume))

    def read(self, ids: Sequence[int]) -> Iterator[tuple[int, Structure]]:
        """Yield the structures of ``ids`` in the order of the file; one that cannot be read becomes a note.

        Raises:
            InputError: the file is gone, or was rewritten since it was indexed.
        """
        wanted = sorted((self.blocks[i] for i in set(ids) if i in self.blocks), key=lambda block: block.start)
        try:
            with self.path.open("rb") as stream:
                for block in wanted:
                    stream.seek(block.start)
                    data = stream.read(block.end - block.start)
                    mark = _LABEL.match(data)
                    if mark is None or int(mark[1]) != block.id:
                        raise InputError(f"{self.path}: it changed while it was read (the search goes on); try again")
                    structure = self._parse(block, data.decode("utf-8", errors="replace"))
                    if structure is not None:
                        yield block.id, structure
        except OSError as error:
            raise InputError(f"{self.path}: {os.strerror(error.errno or 0)}") from None

    def _parse(self, block: Block, text: str) -> Structure | None:
        structure = parse_plain(text)
        if structure is not None:
            return structure
        try:
            return parse_poscar(text, str(self.path), self._names(text))
        except InputError as error:
            place = _MESSAGE_LINE.sub(lambda m: f", line {int(m[1]) + block.line - 1}:", str(error), count=1)
            self.unread.append(f"{place} (EA{block.id} is left out)")
            return None

    def _names(self, text: str) -> Sequence[str] | None:
        """Return the search's species where the block has no element line."""
        lines = split_lines(text)
        numeric = len(lines) > 5 and re.fullmatch(r"[\s\d]+", lines[5])
        return self.species if numeric and self.species else None


def _composition(lines: Sequence[bytes]) -> Composition | None:
    """Read element and count lines of a block (from its title), None where they are not as USPEX writes them."""
    if len(lines) < 7:
        return None
    symbols, counts = lines[5].decode("ascii", "replace").split(), lines[6].split()
    if len(symbols) != len(counts) or not symbols or not ELEMENTS.issuperset(symbols):
        return None
    if not all(count.isdigit() for count in counts):
        return None
    return tuple((symbol, int(count)) for symbol, count in zip(symbols, counts, strict=True) if int(count))


def _volume(lines: Sequence[bytes]) -> float | None:
    try:
        scale = float(lines[1])
        a, b, c = ([float(word) for word in line.split()] for line in lines[2:5])
        cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
        return abs(cross[0] * c[0] + cross[1] * c[1] + cross[2] * c[2]) * scale**3 if scale > 0 else None
    except (ValueError, IndexError):
        return None


def parse_plain(text: str) -> Structure | None:
    """Read a POSCAR in the plain layout that both lines of USPEX gather; None where it is anything else.

    Plain: one positive scale, an element line, fractional coordinates, no selective dynamics.
    :func:`uspex_bridge.vasp.structure.parse_poscar` reads everything, at a tenth of the speed.
    """
    lines = text.split("\n")
    try:
        symbols, counts = lines[5].split(), [int(word) for word in lines[6].split()]
        if lines[7].strip()[:1] not in ("D", "d") or not ELEMENTS.issuperset(symbols) or len(symbols) != len(counts):
            return None
        cell = np.array([line.split() for line in lines[2:5]], dtype=float) * float(lines[1])
        rows = [line.split()[:3] for line in lines[8 : 8 + sum(counts)]]
        scaled = np.array(rows, dtype=float)
    except (ValueError, IndexError):
        return None
    good = scaled.shape == (sum(counts), 3) and cell.shape == (3, 3) and float(lines[1]) > 0
    if not good or not np.isfinite(scaled).all() or not np.linalg.det(cell):
        return None
    atoms = tuple(symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count))
    return Structure(atoms, cell, scaled, lines[0])
