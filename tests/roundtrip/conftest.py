"""Every case of ``vasp_runs`` published once into a folder as USPEX leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from roundtrip.vasp_runs import CASES

from uspex_bridge.base.data import VaspRun
from uspex_bridge.vasp import commit


class Case(NamedTuple):
    """A result and the folder it was written to."""

    name: str
    run: VaspRun
    folder: Path

    @property
    def pressure(self) -> float:
        return self.run.pressure_gpa

    @property
    def final(self):
        return self.run.frames[-1]


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    run = CASES[request.param]()
    folder = tmp_path_factory.mktemp("CalcFold")
    counts = " ".join(str(count) for _, count in run.structure.groups)
    head = ["EA0", "1.0", "4 0 0", "0 4 0", "0 0 4", counts, "Direct"]
    (folder / "POSCAR").write_text("\n".join(head + ["0 0 0"] * len(run.structure)) + "\n")
    commit.clear_outputs(folder)
    commit.publish(folder, run)
    return Case(request.param, run, folder)
