"""Every family in an environment of its own, through a worker: minutes each, run by .ci/families.

The environments are looked for in $USPEX_BRIDGE_ENVIRONMENTS, else where ``uspex-bridge env create`` makes them. The
weights are made there by the family's own package (``families/make_*.py``); none is published.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from uspex_bridge.models import environments
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.testing import DOUBLE, Case, Conformance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent / "families"
#: M3GNet and CHGNet of random weights jump where an atom's neighbours enter the three-body terms, NEP's slopes bend
#: where they enter the cutoff: steps must be short.
NEAR = replace(DOUBLE, step=1e-4)
#: fairchem's rotations to each pair's frame are exact to single precision only.
ROUGH = replace(DOUBLE, energy=1e-8, force=1e-7, stress=1e-8)
#: Name -> kind, the file that its script makes, the script's further arguments, settings, what else holds of it.
FAMILIES = {
    "orb": (
        "orb",
        "orb.ckpt",
        [],
        {"dtype": "float64", "options": {"architecture": "orb-v3-conservative-inf-omat"}},
        {"tolerance": DOUBLE, "breaks": ("rotation", "extensivity"), "repeats": False},
    ),
    "nequip": ("nequip", "nequip.nequip.zip", [], {}, {"tolerance": DOUBLE}),
    "nequip-compiled": ("nequip", "nequip.nequip.pt2", [], {}, {"tolerance": DOUBLE, "batches": False}),
    "nequip-allegro": ("nequip", "allegro.nequip.zip", ["allegro"], {}, {"tolerance": DOUBLE}),
    "matgl-tensornet": ("matgl", "tensornet", ["TensorNet"], {"dtype": "float64"}, {"tolerance": NEAR}),
    "matgl-m3gnet": ("matgl", "m3gnet", ["M3GNet"], {"dtype": "float64"}, {"tolerance": NEAR}),
    "matgl-chgnet": ("matgl", "chgnet", ["CHGNet"], {"dtype": "float64"}, {"tolerance": NEAR}),
    "upet": (
        "upet",
        "upet.ckpt",
        [],
        {"dtype": "float64"},
        {"tolerance": DOUBLE, "breaks": ("rotation",), "repeats": False},
    ),
    "fairchem-esen": ("fairchem", "esen.pt", [], {"dtype": "float64"}, {"tolerance": ROUGH, "repeats": False}),
    "fairchem-uma": (
        "fairchem",
        "uma.pt",
        ["uma"],
        {"dtype": "float64", "head": "omat"},
        {"tolerance": ROUGH, "repeats": False},
    ),
    "nep": ("nep", "nep.txt", [], {}, {"tolerance": NEAR, "batches": False}),
    "grace": ("grace", "saved", [], {}, {"tolerance": DOUBLE, "batches": False, "repeats": False}),
}


def interpreter(kind: str) -> Path:
    named = os.environ.get("USPEX_BRIDGE_ENVIRONMENTS")
    folder = Path(named) / kind if named else environments.home() / kind
    if not (folder / "bin" / "python").exists():
        (pytest.fail if os.environ.get("USPEX_BRIDGE_REQUIRE_ALL") == "1" else pytest.skip)(
            f"no environment for {kind}: uspex-bridge env create {kind}"
        )
    return folder / "bin" / "python"


class TestFamilies(Conformance):
    @pytest.fixture(scope="class", params=FAMILIES)
    def case(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
        kind, file, arguments, settings, more = FAMILIES[request.param]
        python = interpreter(kind)
        path = tmp_path_factory.mktemp(request.param) / file
        command = [str(python), str(HERE / f"make_{kind}.py"), str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        chosen = CalculatorSettings(kind=kind, model=str(path), device="cpu", python=str(python), **settings)
        return Case(request.param, chosen, **more)
