"""The steps of a relaxation so far, each with the calculator that gave it, and the reports of its stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from uspex_bridge.base.data import Frame, StageReport


class Trajectory:
    """What was recorded on the way.

    Attributes:
        frames: the steps, the last one is where the atoms are.
        calculators: name of the calculator of each step.
        reports: of the stages.
    """

    def __init__(self, pressure_gpa: float) -> None:
        self.pressure_gpa = pressure_gpa
        self.frames: list[Frame] = []
        self.calculators: list[str] = []
        self.reports: list[StageReport] = []

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def last(self) -> Frame:
        """Return the last step."""
        return self.frames[-1]

    def add(self, frame: Frame, calculator: str) -> None:
        """Append a step; it replaces the last one where the same calculator gave that for the same geometry."""
        if not self.is_new(calculator) and _same_geometry(frame, self.last):
            self.forget(len(self) - 1)
        self.frames.append(frame)
        self.calculators.append(calculator)

    def forget(self, first: int) -> None:
        """Drop the steps from number ``first`` on."""
        del self.frames[first:], self.calculators[first:]

    def is_new(self, calculator: str) -> bool:
        """Tell whether the next step is the first of this calculator in a row."""
        return not self.calculators or self.calculators[-1] != calculator

    @property
    def start_of_model(self) -> int:
        """Return the number of the first of the last steps in a row that are one calculator's."""
        start = len(self) - 1
        while start > 0 and self.calculators[start - 1] == self.calculators[-1]:
            start -= 1
        return start

    def enthalpies(self, first: int) -> list[float]:
        """Return the enthalpies of the steps from number ``first`` on, eV."""
        return [frame.enthalpy(self.pressure_gpa) for frame in self.frames[first:]]

    def put_lowest_last(self) -> None:
        """Move the lowest in enthalpy of the last calculator's steps to the end."""
        start = self.start_of_model
        self.frames.append(self.frames.pop(start + int(np.argmin(self.enthalpies(start)))))

    def charge(self, evaluations: int) -> None:
        """Add evaluations that were no steps to the last stage's report."""
        self.reports[-1] = replace(self.reports[-1], evaluations=self.reports[-1].evaluations + evaluations)


def _same_geometry(one: Frame, other: Frame) -> bool:
    return bool(np.array_equal(one.cell, other.cell) and np.allclose(one.scaled, other.scaled, rtol=0, atol=1e-14))
