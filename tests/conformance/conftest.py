"""Every calculator as a fixture. Kinds whose weights come in no wheel get tiny ones, made by their own packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from uspex_bridge.models import inventory, registry

pytest.register_assert_rewrite("uspex_bridge.testing")
HERE = Path(__file__).parent


def need(kind: str) -> None:
    """Skip the test where a kind's package is missing; fail it where USPEX_BRIDGE_REQUIRE_ALL forbids that."""
    card = inventory.cards()[kind]
    if registry.package_version(card) is None:
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


@pytest.fixture(scope="session")
def crystal() -> Atoms:
    from uspex_bridge.testing import crystal_of

    return crystal_of(("Ca", "Fe", "Ni"))
