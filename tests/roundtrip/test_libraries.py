"""ASE, pymatgen and dpdata read what was written, and agree with it and with each other."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read
from ase.io.vasp import iread_vasp_out, read_vasp_out
from roundtrip import uspex_readers as uspex
from roundtrip.vasp_runs import CAFENI, relaxed

from uspex_bridge.base.units import pv_energy
from uspex_bridge.vasp import commit


@pytest.fixture(autouse=True)
def _no_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_frame(atoms, case, frame, *, decimals=8):
    """Everything but the energy."""
    assert atoms.get_chemical_symbols() == list(case.run.structure.symbols)
    np.testing.assert_allclose(atoms.cell.array, frame.cell, atol=10**-decimals)
    np.testing.assert_allclose(atoms.positions, frame.positions, atol=10**-decimals)


def assert_labels(atoms, frame):
    """Forces and stress, in ASE's sign and order."""
    np.testing.assert_allclose(atoms.get_forces(apply_constraint=False), frame.forces, atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), frame.stress, atol=1e-8)


def test_ase_outcar_last(case):
    """Items 7, 36, 37, 38: symbols, positions, cell and E without PV, in the last ionic step."""
    atoms = read_vasp_out(case.folder / "OUTCAR")
    assert_frame(atoms, case, case.final)
    assert_labels(atoms, case.final)
    assert atoms.get_potential_energy() == pytest.approx(case.final.energy, abs=1e-8)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(case.final.energy, abs=1e-8)


def test_ase_outcar_all(case):
    """Items 30, 39: every ionic step has its own cell, positions, forces, stress and energy."""
    with (case.folder / "OUTCAR").open() as file:
        images = list(iread_vasp_out(file, None))
    assert len(images) == len(case.run.frames)
    for atoms, frame in zip(images, case.run.frames, strict=True):
        assert_frame(atoms, case, frame)
        assert_labels(atoms, frame)
        assert atoms.get_potential_energy() == pytest.approx(frame.energy, abs=1e-8)
        if frame.magmoms is not None:
            np.testing.assert_allclose(atoms.get_magnetic_moments(), frame.magmoms, atol=1e-4)
    if case.final.magmoms is not None:
        assert images[-1].get_magnetic_moment() == pytest.approx(case.final.magmoms.sum(), abs=1e-6)


def test_ase_contcar_keeps_constraints(case):
    """Items 7, 28, 41: CONTCAR is the last step to full precision, with the flags of POSCAR."""
    atoms = read(case.folder / "CONTCAR")
    assert_frame(atoms, case, case.final, decimals=14)
    free = case.run.structure.free
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        mask = getattr(constraint, "mask", [True] * 3)
        fixed[constraint.index] |= np.asarray(mask)
    np.testing.assert_array_equal(fixed, np.zeros_like(fixed) if free is None else ~free)


def test_ase_xdatcar(case):
    """Item 30: as many blocks as ionic steps, in POSCAR's order, not wrapped."""
    images = read(case.folder / "XDATCAR", index=":")
    assert len(images) == len(case.run.frames)
    for atoms, frame in zip(images, case.run.frames, strict=True):
        assert_frame(atoms, case, frame)


def test_ase_vasprun(case):
    """ASE 3.29 takes PV off with VASP's older value of the elementary charge: E to 5 parts in 10^7 of PV."""
    images = read(case.folder / "vasprun.xml", index=":")
    assert len(images) == len(case.run.frames)
    for atoms, frame in zip(images, case.run.frames, strict=True):
        assert_frame(atoms, case, frame)
        assert_labels(atoms, frame)
        error = 1e-7 + 5e-7 * abs(pv_energy(case.pressure, frame.volume))
        assert atoms.get_potential_energy() == pytest.approx(frame.energy, abs=error)


def test_pymatgen_outcar(case):
    """E, final timing, drift and moments of the last ionic step."""
    from pymatgen.io.vasp import Outcar

    outcar = Outcar(case.folder / "OUTCAR")
    assert outcar.final_energy == pytest.approx(case.final.energy, abs=1e-8)
    assert outcar.final_fr_energy == pytest.approx(case.final.energy, abs=1e-8)
    assert outcar.run_stats["Elapsed time (sec)"] == pytest.approx(case.run.seconds)
    assert outcar.run_stats["cores"] == 1
    assert len(outcar.drift) == len(case.run.frames)
    np.testing.assert_allclose(outcar.drift[-1], case.final.forces.sum(axis=0), atol=1e-8)
    if case.final.magmoms is None:
        assert not outcar.spin
        assert outcar.magnetization == ()
        assert outcar.total_mag is None
    else:
        assert outcar.spin
        assert [site["tot"] for site in outcar.magnetization] == pytest.approx(case.final.magmoms, abs=1e-4)
        assert outcar.total_mag == pytest.approx(case.final.magmoms.sum(), abs=1e-6)


def test_pymatgen_oszicar(case):
    """OSZICAR holds E + PV, as VASP's does."""
    from pymatgen.io.vasp import Oszicar

    oszicar = Oszicar(case.folder / "OSZICAR")
    frames = case.run.frames
    assert len(oszicar.ionic_steps) == len(oszicar.electronic_steps) == len(frames)
    for step, electronic, frame in zip(oszicar.ionic_steps, oszicar.electronic_steps, frames, strict=True):
        enthalpy = frame.enthalpy(case.pressure)
        assert step["F"] == step["E0"] == pytest.approx(enthalpy, abs=1e-6)
        assert electronic[0]["E"] == pytest.approx(frame.energy, abs=1e-8)
        if frame.magmoms is not None:
            assert step["mag"] == pytest.approx(frame.magmoms.sum(), abs=1e-4)
    changes = np.diff([frame.enthalpy(case.pressure) for frame in frames])
    np.testing.assert_allclose([step["dE"] for step in oszicar.ionic_steps[1:]], changes, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("options", [{"parse_dos": False, "parse_eigen": False}, {}])
def test_pymatgen_vasprun(case, options):
    """vasprun.xml gives E + PV at PSTRESS as VASP's does, and calls the run neither DFT nor converged unless it is."""
    from pymatgen.io.vasp import Vasprun

    vasprun = Vasprun(case.folder / "vasprun.xml", **options)
    assert vasprun.final_energy == pytest.approx(case.final.enthalpy(case.pressure), abs=1e-7)
    assert len(vasprun.ionic_steps) == len(case.run.frames)
    for step, frame in zip(vasprun.ionic_steps, case.run.frames, strict=True):
        assert step["electronic_steps"][-1]["e_fr_energy"] == pytest.approx(frame.energy, abs=1e-7)
        np.testing.assert_allclose(step["structure"].lattice.matrix, frame.cell, atol=1e-9)
        np.testing.assert_allclose(step["forces"], frame.forces, atol=1e-8)
    assert [site.specie.symbol for site in vasprun.final_structure] == list(case.run.structure.symbols)
    np.testing.assert_allclose(vasprun.final_structure.frac_coords, case.final.scaled, atol=1e-9)
    assert vasprun.converged is case.run.converged
    assert vasprun.run_type == "MLIP"
    assert vasprun.is_spin is (case.final.magmoms is not None)
    assert vasprun.incar.get("METAGGA") is None
    if case.run.structure.free is not None:
        flags = vasprun.initial_structure.site_properties["selective_dynamics"]
        np.testing.assert_array_equal(flags, case.run.structure.free)


def test_pymatgen_poscar_and_xdatcar(case):
    """Items 7, 41: order, cell and coordinates of CONTCAR and of each block of XDATCAR."""
    from pymatgen.io.vasp import Poscar, Xdatcar

    contcar = Poscar.from_file(case.folder / "CONTCAR")
    assert [site.specie.symbol for site in contcar.structure] == list(case.run.structure.symbols)
    np.testing.assert_allclose(contcar.structure.frac_coords, case.final.scaled, atol=1e-15)
    assert contcar.comment == (case.run.structure.comment or case.run.structure.formula)
    path = Xdatcar(case.folder / "XDATCAR").structures
    assert len(path) == len(case.run.frames)
    for structure, frame in zip(path, case.run.frames, strict=True):
        np.testing.assert_allclose(structure.lattice.matrix, frame.cell, atol=1e-9)
        np.testing.assert_allclose(structure.frac_coords, frame.scaled, atol=1e-9)


@pytest.mark.parametrize(("layout", "name"), [("vasp/outcar", "OUTCAR"), ("vasp/xml", "vasprun.xml")])
def test_dpdata(case, layout, name):
    """All frames, labels and order; virial = -stress x V in ASE's sign. From the XML dpdata takes H for E, always."""
    import dpdata

    system = dpdata.LabeledSystem(str(case.folder / name), fmt=layout)
    frames = case.run.frames
    assert system.get_nframes() == len(frames)
    symbols = [system["atom_names"][kind] for kind in system["atom_types"]]
    assert symbols == list(case.run.structure.symbols)
    for i, frame in enumerate(frames):
        rotation = np.linalg.solve(frame.cell, system["cells"][i])  # dpdata turns cells to lower triangles
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-8)
        np.testing.assert_allclose(system["coords"][i], frame.positions @ rotation, atol=1e-7)
        np.testing.assert_allclose(system["forces"][i], frame.forces @ rotation, atol=1e-7)
        xx, yy, zz, yz, xz, xy = -frame.stress * frame.volume
        virial = rotation.T @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ rotation
        np.testing.assert_allclose(system["virials"][i], virial, atol=1e-7 * frame.volume)
        expected = frame.energy if layout == "vasp/outcar" else frame.enthalpy(case.pressure)
        assert system["energies"][i] == pytest.approx(expected, abs=1e-7)


def test_left_handed_cell(tmp_path):
    """VASP refuses one, and two readers have never met any: dpdata fails, ASE takes the wrong PV off vasprun.xml."""
    import dpdata
    from pymatgen.io.vasp import Vasprun

    run = relaxed(CAFENI, 50.0, steps=1)
    flip = np.diag([1.0, 1.0, -1.0])
    frames = tuple(replace(frame, cell=frame.cell @ flip, forces=frame.forces @ flip) for frame in run.frames)
    commit.publish(tmp_path, replace(run, frames=frames))
    final = frames[-1]
    for atoms in (read_vasp_out(tmp_path / "OUTCAR"), read(tmp_path / "CONTCAR"), read(tmp_path / "XDATCAR")):
        np.testing.assert_allclose(atoms.cell.array, final.cell, atol=1e-8)
        np.testing.assert_allclose(atoms.positions, final.positions, atol=1e-8)
    assert read_vasp_out(tmp_path / "OUTCAR").get_potential_energy() == pytest.approx(final.energy, abs=1e-8)
    assert uspex.enthalpies(tmp_path)[-1] == pytest.approx(final.enthalpy(50.0), abs=1e-6)
    assert uspex.python_result(tmp_path, 50.0)[1] == pytest.approx(final.enthalpy(50.0), abs=1e-6)
    assert Vasprun(tmp_path / "vasprun.xml").final_energy == pytest.approx(final.enthalpy(50.0), abs=1e-7)
    twice = final.enthalpy(50.0) + pv_energy(50.0, final.volume)
    assert read(tmp_path / "vasprun.xml").get_potential_energy() == pytest.approx(twice, abs=1e-4)
    with pytest.raises(AssertionError):
        dpdata.LabeledSystem(str(tmp_path / "OUTCAR"), fmt="vasp/outcar")
