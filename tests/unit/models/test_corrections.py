"""Dispersion and repulsion on top of a model: physics, batches, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, Hartree

from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, ModelError
from uspex_bridge.models import backends, dispersion, repulsion
from uspex_bridge.models.cards import CalculatorSettings, KnownModel, model_name
from uspex_bridge.testing import DOUBLE, Case, Conformance, crystal_of

D3 = {"kind": "toy", "dispersion": "d3:pbe"}
ZBL = {"kind": "toy", "repulsion": "zbl", "repulsion_range": (0.6, 1.3)}  # wide enough to be felt by all structures


#: The particle mesh that simple-dftd3 sums on moves energies by some 10 neV, forces by some 0.1 µeV/Å.
TOLERANCE = replace(DOUBLE, energy=1e-8, force=1e-6, stress=1e-8)


class TestConformance(Conformance):
    """A corrected model is held to all that a model is held to."""

    @pytest.fixture(scope="class", params=[(ZBL, DOUBLE), ({**D3, **ZBL}, TOLERANCE)], ids=["zbl", "both"])
    def case(self, request):
        settings, tolerance = request.param
        return Case("toy", CalculatorSettings(**settings), tolerance)


def load(**settings) -> backends.Backend:
    return backends.load("toy", CalculatorSettings(**{"kind": "toy", **settings}))


def evaluated(atoms: Atoms, **settings) -> dict:
    (found,) = load(**settings).evaluate_many([atoms])
    return found


# --------------------------------------------------------------------------------------------------- dispersion


def test_dispersion_is_that_of_simple_dftd3_itself():
    """Its ASE calculator sums in real space up to 60 bohr, which leaves out half a meV per atom."""
    from dftd3.ase import DFTD3

    atoms = crystal_of(("Ca", "Fe", "Ni"))
    added, plain = evaluated(atoms, dispersion="d3:pbe"), evaluated(atoms)
    atoms.calc = DFTD3(method="PBE", damping="d3bj")
    assert added["energy"] - plain["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-3 * len(atoms))
    np.testing.assert_allclose(added["forces"] - plain["forces"], atoms.get_forces(), atol=1e-3)
    np.testing.assert_allclose(added["stress"] - plain["stress"], atoms.get_stress(), atol=1e-4)


def test_dispersion_binds_graphite():
    """PBE-D3(BJ) binds the layers of graphite by 40 to 60 meV per atom about 3.4 Å apart."""
    a, energies = 2.46, {}
    for height in (3.1, 3.25, 3.4, 3.55, 12.0):
        cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 2 * height]]
        scaled = [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]]
        atoms = Atoms("C4", cell=cell, scaled_positions=scaled, pbc=True)
        energies[height] = (evaluated(atoms, dispersion="d3:pbe")["energy"] - evaluated(atoms)["energy"]) / 4
    assert -0.075 < energies[3.4] - energies[12.0] < -0.035


def test_the_functional_comes_from_the_model():
    known = KnownModel("m", functional="r2scan")
    assert dispersion.dispersion("x", "d3", known).identity == {"dispersion": "D3(BJ) r2scan"}
    assert dispersion.dispersion("x", "D3:PBE", known).identity == {"dispersion": "D3(BJ) pbe"}


@pytest.mark.parametrize(
    ("setting", "known", "reason"),
    [
        ("d3", None, "which is not known of a model of one's own; write it as dispersion = 'd3:pbe'"),
        ("d3", KnownModel("m"), "not known of m"),
        ("d3:pbe", KnownModel("m", dispersion=True), "the data of m hold dispersion"),
        ("d3:pbee", None, "no D3\\(BJ\\) parameters for 'pbee'"),
        ("d4", None, "neither d3 nor d3:FUNCTIONAL"),
    ],
)
def test_dispersion_that_is_refused(setting, known, reason):
    with pytest.raises(ConfigError, match=reason):
        dispersion.dispersion("x", setting, known)


def test_dispersion_without_its_package(monkeypatch):
    monkeypatch.setattr(dispersion.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install dftd3=="):
        dispersion.dispersion("x", "d3:pbe", None)


def test_an_element_without_dispersion_is_refused():
    """simple-dftd3 itself gives elements beyond its table no energy."""
    heavy = Atoms("Rf", cell=[3, 3, 3], pbc=True)
    with pytest.raises(CalculationError, match="no parameters for Rf"):
        dispersion.dispersion("x", "d3:pbe", None).evaluate(heavy)
    with pytest.raises(InputError, match="does not know Rf"):
        load(dispersion="d3:pbe").check_elements(["Rf"])


# ---------------------------------------------------------------------------------------------------- repulsion


def test_a_pair_under_repulsion():
    """The universal potential of two silicon nuclei: bare at no distance, and as tabulated screening elsewhere."""
    charge = np.array([14.0, 14.0, 14.0])
    distances = np.array([1e-6, 0.5, 1.0])
    energies, slopes = repulsion.zbl(distances, charge, charge)
    bare = Hartree * Bohr * 14**2 / distances
    assert energies[0] == pytest.approx(bare[0], rel=1e-4)
    length = 0.8854 * 0.529177 / (2 * 14**0.23)
    for k in (1, 2):
        x = distances[k] / length
        screening = 0.1818 * np.exp(-3.2 * x) + 0.5099 * np.exp(-0.9423 * x) + 0.2802 * np.exp(-0.4029 * x)
        assert energies[k] == pytest.approx(bare[k] * (screening + 0.02817 * np.exp(-0.2016 * x)), rel=1e-3)
    step = 1e-5
    up, _ = repulsion.zbl(distances + step, charge, charge)
    down, _ = repulsion.zbl(distances - step, charge, charge)
    np.testing.assert_allclose(slopes[1:], ((up - down) / 2 / step)[1:], rtol=1e-6)


def test_sound_structures_keep_the_model_s_numbers():
    """Iron at 300 GPa, hydrogen molecules and diamond feel nothing of it, to the bit."""
    iron = bulk("Fe", "hcp", a=2.15, c=3.45)
    hydrogen = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]], cell=[3, 3, 3], pbc=True)
    for atoms in (iron, hydrogen, bulk("C", "diamond", a=3.2), bulk("Ca", "sc", a=2.6)):
        found, plain = evaluated(atoms, repulsion="zbl"), evaluated(atoms)
        for key in ("energy", "forces", "stress"):
            np.testing.assert_array_equal(found[key], plain[key])


def test_repulsion_closes_a_hole():
    """A model that falls without bound as atoms are pressed together rises instead."""
    energies = []
    for a in (1.0, 1.2, 1.4):
        atoms = bulk("Fe", "bcc", a=a)
        hole = {"options": {"hole": True, "epsilon": 1e-6}}
        assert evaluated(atoms, **hole)["energy"] < 0
        energies.append(evaluated(atoms, repulsion="zbl", **hole)["energy"])
    assert energies[0] > energies[1] > energies[2] > 0


def test_two_atoms_on_one_site_fail_alone():
    good = bulk("Fe", "bcc", a=2.7, cubic=True)
    bad = good.copy()
    bad.positions[1] = bad.positions[0]
    first, second = repulsion.repulsion((0.5, 0.7)), load(repulsion="zbl").evaluate_many([bad, good])
    with pytest.raises(CalculationError, match="on one site"):
        first.evaluate(bad)
    assert isinstance(second[0], CalculationError) or not np.isfinite(second[0]["energy"])
    assert second[1]["energy"] == evaluated(good)["energy"]


@pytest.mark.parametrize("reach", [(0.7, 0.5), (0.0, 0.5), (0.5, 2.0)])
def test_a_range_that_is_none(reach):
    with pytest.raises(ValueError, match="must rise and lie between 0 and 1.5"):
        CalculatorSettings(repulsion_range=reach)


# ----------------------------------------------------------------------------------------------------- identity


def test_the_record_tells_what_was_added():
    with load(dispersion="d3:pbe", repulsion="zbl") as backend:
        assert backend.identity["dispersion"] == "D3(BJ) pbe"
        assert backend.identity["repulsion"] == "ZBL 0.5-0.7"
        assert model_name(backend.identity) == "toy + D3(BJ) pbe + ZBL 0.5-0.7"
        assert backend.energy_zero == "model"


def test_dispersion_leaves_the_scale_of_the_labels_and_repulsion_does_not():
    def scale(**more):
        with backends.load("chgnet", CalculatorSettings(device="cpu", **more)) as backend:
            return backend.energy_zero

    assert scale(repulsion="zbl") == "mp-pbe"
    assert scale(dispersion="d3") == "model"
