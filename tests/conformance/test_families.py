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

from uspex_bridge.models import backends, environments
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.testing import DOUBLE, Case, Conformance, crystal_of, same_answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent / "families"
#: M3GNet and CHGNet of random weights jump where an atom's neighbours enter the three-body terms, NEP's slopes bend
#: where they enter the cutoff: steps must be short.
NEAR = replace(DOUBLE, step=1e-4)
BENT = replace(NEAR, strain=1e-6)
#: MatGL's CHGNet has such a bend a strain of 1e-4 away from the crystal of the tests.
NEARER = replace(BENT, step=2e-5)
#: fairchem's rotations to each pair's frame are exact to single precision only.
ROUGH = replace(DOUBLE, energy=1e-8, force=1e-6, stress=1e-8)
#: A kernel may add in another order, and in single precision.
COARSE = replace(DOUBLE, energy=1e-5, force=1e-4, stress=1e-5)
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
    "matgl-chgnet": ("matgl", "chgnet", ["CHGNet"], {"dtype": "float64"}, {"tolerance": NEARER}),
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
    "mattersim": ("mattersim", "mattersim.pth", [], {"dtype": "float64"}, {"tolerance": NEAR}),
    "nep": ("nep", "nep.txt", [], {}, {"tolerance": BENT, "batches": False}),
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
        script = next(
            place / f"make_{kind}.py" for place in (HERE, HERE.parent) if (place / f"make_{kind}.py").exists()
        )
        command = [str(python), str(script), str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        chosen = CalculatorSettings(kind=kind, model=str(path), device="cpu", python=str(python), **settings)
        return Case(request.param, chosen, **more)


# ------------------------------------------------------------------------------------------------------- kernels

#: Name of a family -> the options that choose its kernel on a CPU.
COMPILED = {
    "orb": {"compile": True},
    "matgl-tensornet": {"compile": True},
    "fairchem-uma": {"inference_settings": "high-precision"},
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_as_plain(name, tmp_path):
    """torch.compile changes nothing but the time."""
    kind, file, arguments, settings, _ = FAMILIES[name]
    python = interpreter(kind)
    path = tmp_path / file
    subprocess.run([python, HERE / f"make_{kind}.py", path, *arguments], check=True, capture_output=True)
    plain = CalculatorSettings(kind=kind, model=str(path), device="cpu", python=str(python), **settings)
    fast = replace(plain, options={**plain.options, **COMPILED[name]})
    crystal = crystal_of(("Ca", "Fe", "Ni"))
    with backends.load(name, plain) as one, backends.load(name, fast) as other:
        expected, found = one.evaluate_many([crystal])[0], other.evaluate_many([crystal])[0]
    same_answers(found, expected, Case(name, plain, COARSE), len(crystal))


@pytest.mark.parametrize(
    ("kind", "option", "needs"),
    [
        ("mace", "enable_cueq", "cuequivariance_torch"),
        ("mace", "enable_oeq", "openequivariance"),
        ("sevennet", "enable_cueq", "cuequivariance_torch"),
        ("sevennet", "enable_oeq", "openequivariance"),
        ("sevennet", "enable_flash", "flashTP_e3nn"),
    ],
)
def test_kernels_of_a_gpu_as_plain(kind, option, needs, request):
    """In this environment, where it has the kernels and a GPU."""
    torch = pytest.importorskip("torch")
    pytest.importorskip(needs)
    if not torch.cuda.is_available():
        pytest.skip("these kernels need a GPU")
    model = str(request.getfixturevalue("mace_model")) if kind == "mace" else None
    plain = CalculatorSettings(kind=kind, model=model)
    crystal = crystal_of(("Ca", "Fe", "Ni"))
    with (
        backends.load(kind, plain) as one,
        backends.load(kind, replace(plain, options={option: True})) as other,
    ):
        expected, found = one.evaluate_many([crystal])[0], other.evaluate_many([crystal])[0]
    same_answers(found, expected, Case(kind, plain, COARSE), len(crystal))
