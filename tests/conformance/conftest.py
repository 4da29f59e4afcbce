"""Every calculator as a fixture. Kinds whose weights come in no wheel get tiny ones, made by their own packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

HERE = Path(__file__).parent
FAMILY = ("Ca", "Fe", "Ni")


@dataclass(frozen=True)
class Tolerance:
    """What two ways to the same number may differ by.

    ``energy`` eV per atom; ``force`` eV/Å; ``stress`` eV/Å³: for a number computed twice.
    ``slope`` and ``strain``: for a derivative against finite differences with ``step`` (Å, or strain).
    """

    energy: float
    force: float
    stress: float
    slope: float
    strain: float
    step: float


DOUBLE = Tolerance(energy=1e-9, force=1e-8, stress=1e-10, slope=1e-5, strain=1e-7, step=1e-3)
SINGLE = Tolerance(energy=2e-6, force=1e-4, stress=1e-5, slope=5e-3, strain=1e-4, step=3e-3)
#: Random weights: all numbers are small, so are the errors.
SINGLE_TINY = Tolerance(energy=1e-7, force=1e-6, stress=1e-7, slope=3e-5, strain=3e-6, step=1e-2)


@dataclass(frozen=True)
class Case:
    """One calculator of the suite.

    ``model`` is the fixture that makes its weights; ``repeats`` says that the same input gives the same bits, which
    PyTorch's just-in-time compiler denies to DeePMD-kit's models: it rewrites them after their first calls.
    """

    name: str
    kind: str
    tolerance: Tolerance
    elements: int
    model: str | None = None
    magmoms: bool = False
    repeats: bool = True


CASES = (
    Case("toy", "toy", DOUBLE, 95),
    Case("chgnet", "chgnet", SINGLE, 94, magmoms=True),
    Case("sevennet", "sevennet", SINGLE, 89),
    Case("mace", "mace", DOUBLE, 3, "mace_model"),
    Case("mattersim", "mattersim", SINGLE_TINY, 94, "mattersim_model"),
    Case("deepmd-se_a", "deepmd", DOUBLE, 3, "se_a_model", repeats=False),
    Case("deepmd-dpa3", "deepmd", DOUBLE, 3, "dpa3_model", repeats=False),
)


def need(kind: str) -> None:
    """Skip the test where a kind's package is missing; fail it where USPEX_BRIDGE_REQUIRE_ALL forbids that."""
    card = backends.cards()[kind]
    if backends.package_version(card) is None:
        (pytest.fail if os.environ.get("USPEX_BRIDGE_REQUIRE_ALL") == "1" else pytest.skip)(
            f"{card.package} is missing"
        )


@pytest.fixture(scope="session")
def need_kind() -> Callable[[str], None]:
    return need


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def mace_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mace")
    path = tmp_path_factory.mktemp("mace") / "tiny.model"
    run("make_mace.py", path)
    return path


@pytest.fixture(scope="session")
def mattersim_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mattersim")
    path = tmp_path_factory.mktemp("mattersim") / "tiny.pth"
    run("make_mattersim.py", path)
    return path


@pytest.fixture(scope="session")
def deepmd_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("deepmd")
    folder = tmp_path_factory.mktemp("deepmd")
    run("make_deepmd.py", folder)
    return folder


@pytest.fixture(scope="session")
def se_a_model(deepmd_models: Path) -> Path:
    return deepmd_models / "se_a.pth"


@pytest.fixture(scope="session")
def dpa3_model(deepmd_models: Path) -> Path:
    return deepmd_models / "dpa3.pth"


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    need(request.param.kind)
    return request.param


@pytest.fixture(scope="session")
def settings(case: Case, request: pytest.FixtureRequest) -> CalculatorSettings:
    model = str(request.getfixturevalue(case.model)) if case.model else None
    return CalculatorSettings(kind=case.kind, model=model, device="cpu")


@pytest.fixture(scope="session")
def backend(case: Case, settings: CalculatorSettings) -> Iterator[backends.Backend]:
    limit_threads(1)
    with backends.load(case.name, settings) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def crystal() -> Atoms:
    """Four atoms of three elements in a general cell under some pressure, all symmetry broken."""
    rng = np.random.default_rng(3)
    cell = np.array([[3.5, 0.3, 0.1], [-0.2, 3.7, 0.4], [0.3, -0.1, 3.9]])
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) + rng.normal(0, 0.02, (4, 3))
    return Atoms("CaFe2Ni", scaled_positions=scaled, cell=cell, pbc=True)


Evaluate = Callable[[Atoms], dict]


@pytest.fixture(scope="session")
def evaluate(backend: backends.Backend) -> Evaluate:
    def function(atoms: Atoms) -> dict:
        backend.calculator.calculate(atoms)
        return dict(backend.calculator.results)

    return function


@pytest.fixture(scope="session")
def reference(evaluate: Evaluate, crystal: Atoms) -> dict:
    return evaluate(crystal)
