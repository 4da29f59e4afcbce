"""Space groups of phases: that of the structure that stands for one, and those of the copies that were joined to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from uspex_bridge.base.data import Structure
from uspex_bridge.base.symmetry import SpaceGroup, find_group
from uspex_bridge.base.words import counted
from uspex_bridge.results.hulls.stability import Assessment
from uspex_bridge.results.phases.definition import Phase
from uspex_bridge.results.phases.surroundings import CLEAN, clean_group
from uspex_bridge.results.reading.model import KEPT


@dataclass(frozen=True)
class PhaseGroups:
    """The space groups of a phase.

    Attributes:
        name: of the structure that stands for it, by spglib, else by the results, else ``?``.
        own: the same by spglib, None where it finds none.
        clean: the group that the structure has without noise, where that is another one.
        copies: groups of joined copies, where they differ from ``own``, and how many have each.
        highest: the most symmetric of all.
    """

    name: str
    own: SpaceGroup | None = None
    clean: SpaceGroup | None = None
    copies: dict[SpaceGroup, int] = field(default_factory=dict)
    highest: SpaceGroup | None = None

    def row(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {
            "space_group": self.own.number if self.own else None,
            "space_group_symbol": self.own.symbol if self.own else None if self.name == "?" else self.name,
            "clean_space_group": str(self.clean) if self.clean else None,
            "copies_space_groups": {str(group): number for group, number in self.copies.items()},
            "highest_space_group": str(self.highest) if self.highest else None,
        }

    def remarks(self) -> list[str]:
        """Say what the one group does not tell."""
        said = []
        if self.clean is not None:
            said.append(f"{self.clean} within {CLEAN[1]:g} Å")
        if self.copies:
            listed = ", ".join(f"{group} in {counted(number, 'copy')}" for group, number in self.copies.items())
            top = f"; highest symmetry {self.highest}" if self.highest != self.own else ""
            said.append(f"joined: {listed}{top}")
        return said


def phase_groups(answer: Assessment, phases: Sequence[Phase]) -> dict[str, PhaseGroups]:
    """Return the space groups of phases by the name of their entry; copies that USPEX kept tell nothing new."""
    copies = [entry for phase in phases for entry in phase.duplicates if entry.origin not in KEPT]
    found = {entry.name: _group(structure, answer) for entry, structure in answer.pool.structures(copies)}
    made = {}
    for phase in phases:
        structure = answer.structures.get(phase.entry.name)
        own = _group(structure, answer)
        clean = clean_group(structure) if structure is not None else None
        joined = Counter(group for entry in phase.duplicates if (group := found.get(entry.name)) not in (None, own))
        others = {group: number for group, number in joined.most_common() if group is not None}
        every = [group for group in (own, *others) if group is not None]
        made[phase.entry.name] = PhaseGroups(
            name=str(own) if own is not None else answer.space_group(phase),
            own=own,
            clean=clean if own is not None and clean is not None and clean.number != own.number else None,
            copies=others,
            highest=max(every, key=lambda group: (group.operations, group.number), default=None),
        )
    return made


def _group(structure: Structure | None, answer: Assessment) -> SpaceGroup | None:
    return None if structure is None else find_group(structure, answer.question.symprec)
