"""What a search's record says of its students: what relaxations took with and without them, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.words import counted
from uspex_bridge.call import record_reading
from uspex_bridge.call.student import FRAMES, HELD_OUT, STUDENT, teacher_of

#: Most of the plain cost that a student may take to pay.
PAYS = 0.8
#: Ends closer than this are the same, eV/atom; higher ends rarer by chance than this are higher.
SAME, _CHANCE = 1e-3, 0.05
#: Fewest held-out structures of a check.
FEWEST = 8
#: Fewest and most structures that tell how a student in use does.
_JUDGED = (10, 30)


@dataclass(frozen=True)
class Cost:
    """What relaxations took, a structure on average.

    Attributes:
        structures: how many.
        evaluations, student: evaluations of the final model and of the student.
        ratio: time of an evaluation of the student in those of the final model.
    """

    structures: int
    evaluations: float
    student: float = 0.0
    ratio: float = 0.0

    @classmethod
    def of(cls, relaxations: Sequence[Sequence[Mapping[str, Any]]], ratio: float = 0.0) -> Cost:
        """Add up the evaluations of relaxations, given by their stages."""
        counts = {False: 0, True: 0}
        for stage in (stage for stages in relaxations for stage in stages):
            counts[stage["calculator"] == STUDENT] += stage["evaluations"]
        number = max(len(relaxations), 1)
        return cls(len(relaxations), counts[False] / number, counts[True] / number, ratio)

    @property
    def total(self) -> float:
        """All evaluations in those of the final model."""
        return self.evaluations + self.student * self.ratio


@dataclass(frozen=True)
class Check:
    """How relaxations with a student compare with those without, from the same starts.

    Attributes:
        plain, taught: cost without and with the student.
        lower, higher: ends more than 1 meV/atom lower and higher with it, a start that has no end with it among the
            higher ones.
    """

    plain: Cost
    taught: Cost
    lower: int
    higher: int

    @property
    def pays(self) -> bool:
        """Whether it is cheaper, and no higher than chance allows (sign test)."""
        differ = self.lower + self.higher
        chance = sum(comb(differ, k) for k in range(self.higher, differ + 1)) / 2**differ
        return self.taught.total <= PAYS * self.plain.evaluations and chance >= _CHANCE

    def __str__(self) -> str:
        return (
            f"{self.taught.evaluations:.1f} evaluations of the final model per structure instead of "
            f"{self.plain.evaluations:.1f} on {counted(self.plain.structures, 'structure')} it was not trained on, "
            f"{self.taught.total:.1f} with its own counted by their time; {self.higher} higher, {self.lower} lower"
        )


@dataclass(frozen=True)
class History:
    """What the record of a search says of its students, relaxations of the present final model only.

    Attributes:
        lines: of converged relaxations, oldest first.
        frames: steps of one relaxation each, none of a structure that is held out.
    """

    lines: tuple[dict[str, Any], ...]
    frames: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, record: Path) -> History:
        """Read a record and the frames beside it; nothing where there is none."""
        entries = record_reading.read(record) if record.is_file() else iter(())
        lines = [
            entry
            for entry in entries
            if entry.get("status") == "converged"
            and entry.get("student")
            and entry.get("stages")
            and entry.get("models")
            and not entry.get("free_energy")
            and "repeats" not in entry
        ]
        if not lines:
            return cls((), ())
        teacher = teacher_in(lines[-1])
        frames = record.with_name(FRAMES)
        found = [line for line in (jsonl.read(frames) if frames.is_file() else ()) if line.get("model") == teacher]
        return cls(tuple(line for line in lines if teacher_in(line) == teacher), tuple(found))

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Lines of relaxations without a student that no student learns from."""
        return [line for line in self.lines if line["student"] == HELD_OUT]

    def in_use(self, name: str, ratio: float) -> tuple[Cost, Cost] | None:
        """Return the cost without a student and with this one; None where there are too few to tell.

        Args:
            name: of the student.
            ratio: see :class:`Cost`.
        """
        own = [line for line in self.lines if line["student"] == name][-_JUDGED[1] :]
        if len(own) < _JUDGED[0]:
            return None
        first = self.lines.index(own[0])
        since = [line for line in self.lines[first:] if line["student"] == HELD_OUT]
        beside = since if len(since) >= FEWEST else self.held_out
        return Cost.of([line["stages"] for line in beside]), Cost.of([line["stages"] for line in own], ratio)


def teacher_in(line: Mapping[str, Any]) -> str:
    """Return what tells the final model of a line of the record from others."""
    return teacher_of(line["models"].get(line["stages"][-1]["calculator"], {}))
