"""The loop on a cheap potential (EMT): it must do just what the plan says, whatever the model does."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from uspex_bridge.base.data import Intent, Structure
from uspex_bridge.base.errors import CalculationError, Interrupted, Rejected
from uspex_bridge.base.units import pressure_of
from uspex_bridge.relaxation import offered, saddles
from uspex_bridge.relaxation.engine import relax
from uspex_bridge.relaxation.guards import check_geometry, check_result, check_start, check_values
from uspex_bridge.relaxation.overlap import push_apart
from uspex_bridge.relaxation.protocol import Guards, Plan, Stage

GUARDS = Guards()


class Broken(Calculator):
    """EMT that goes wrong from a given evaluation on."""

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, how: str, after: int = 3) -> None:
        super().__init__()
        self.how, self.after, self.calls, self.inner = how, after, 0, EMT()

    def calculate(self, atoms=None, properties=None, system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(atoms, ["energy", "forces", "stress"], all_changes)
        self.results = {k: np.copy(v) for k, v in self.inner.results.items()}
        self.calls += 1
        if self.calls > self.after:
            if self.how == "nan":
                self.results["energy"] = np.nan
            elif self.how == "raise":
                raise MemoryError("out of memory")
            elif self.how == "energy":
                self.results["energy"] = -1e14
            elif self.how == "force":
                self.results["forces"] = self.results["forces"] + 1e6
        if self.how == "hole":  # the energy falls without bound on compression
            volume = atoms.get_volume()
            depth = 3000.0 * len(atoms) ** 2 / volume
            self.results["energy"] = -depth
            self.results["forces"] = np.zeros((len(atoms), 3))
            self.results["stress"] = np.array([1, 1, 1, 0, 0, 0]) * depth / volume


def model(calculator=None, zero="model"):
    return SimpleNamespace(
        calculator=calculator or EMT(),
        identity={"kind": "emt", "model": "emt"},
        energy_zero=zero,
        check_elements=lambda symbols: None,
    )


def stage(name="accurate", calculator="b", optimizer="BFGS", fmax=0.01, **more):
    return Stage(name=name, calculator=calculator, optimizer=optimizer, fmax=fmax, **({"stress": 0.1} | more))


ROBUST = stage("robust", "a", "FIRE", 1.0, stress=None)
PAPER = (ROBUST, stage("approach", "b", "FIRE", 0.1, stress=None), stage())


def run(
    structure,
    stages=PAPER,
    guards=GUARDS,
    models=None,
    halt=lambda: None,
    observe=lambda step: None,
    ceiling=lambda: None,
    **intent,
):
    models = models or {"a": model(), "b": model()}
    plan = Plan(tuple(stages), guards, Intent(**intent))
    return relax(structure, plan, models.__getitem__, halt=halt, observe=observe, ceiling=ceiling)


def as_structure(atoms: Atoms, free=None) -> Structure:
    return Structure(
        tuple(atoms.get_chemical_symbols()), atoms.cell.array.copy(), atoms.get_scaled_positions(False), "EA0", free
    )


def distorted(seed=1, scale=1.0, symbol="Cu") -> Structure:
    atoms = bulk(symbol, cubic=True)
    atoms.symbols[0] = "Ni"
    rng = np.random.default_rng(seed)
    atoms.rattle(0.15, rng=rng)
    atoms.set_cell(scale * atoms.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    return as_structure(atoms)


def emt(structure, frame):
    atoms = Atoms(list(structure.symbols), cell=frame.cell, scaled_positions=frame.scaled, pbc=True)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("pressure", [0.0, 12.5, 50.0, 400.0, -2.0])
def test_the_pressure_reached_is_the_pressure_asked(pressure):
    structure = distorted()
    result = run(structure, pressure_gpa=pressure)
    assert result.converged
    assert [s.outcome for s in result.stages] == ["converged"] * 3
    check = emt(structure, result.final)
    assert pressure_of(check.get_stress()) == pytest.approx(pressure, abs=0.1)
    assert np.linalg.norm(check.get_forces(), axis=1).max() < 0.01
    assert result.fmax == pytest.approx(np.linalg.norm(check.get_forces(), axis=1).max(), abs=1e-8)
    assert result.enthalpy == pytest.approx(
        check.get_potential_energy() + pressure / 160.21766208 * check.get_volume(), abs=1e-9
    )


def test_constant_volume_stage_keeps_it_to_1e_6():
    structure = distorted(scale=0.95)
    result = run(structure, isif=4, pressure_gpa=50.0)
    assert result.converged
    assert result.final.volume == pytest.approx(structure.volume, rel=1e-6)
    assert result.final.energy < result.frames[0].energy
    assert not np.allclose(result.final.cell, structure.cell, atol=1e-3)


def test_result_does_not_depend_on_order_or_supercell():
    structure = distorted()
    result = run(structure)
    order = [2, 0, 3, 1]
    shuffled = replace(
        structure, symbols=tuple(structure.symbols[i] for i in order), scaled=structure.scaled[order].copy()
    )
    again = run(shuffled)
    assert again.enthalpy == pytest.approx(result.enthalpy, abs=1e-6)
    assert again.final.scaled == pytest.approx(result.final.scaled[order], abs=1e-3)
    double = as_structure(emt(structure, result.frames[0]) * (2, 1, 1))
    assert run(double).enthalpy == pytest.approx(2 * result.enthalpy, abs=2e-4)


def test_known_structure_stays():
    atoms = bulk("Cu", cubic=True)
    relaxed = run(as_structure(atoms))
    again = run(replace(as_structure(atoms), cell=relaxed.final.cell, scaled=relaxed.final.scaled))
    assert len(again.frames) <= 4
    assert again.final.cell == pytest.approx(relaxed.final.cell, abs=1e-3)


def test_last_frame_is_always_the_last_models():
    """Where steps run out in the first stage, the result still carries the last model's energy."""
    shifted = EMT()
    plain = EMT.calculate

    def calculate(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.results["energy"] += 5.0

    shifted.calculate = calculate.__get__(shifted)
    models = {"a": model(), "b": model(shifted)}
    structure = distorted()
    tight = (replace(ROBUST, fmax=1e-3), stage())
    result = run(structure, tight, models=models, nsw=4)
    assert not result.converged
    assert result.reason == "step limit reached: NSW = 4 in stage 'robust'"
    assert "unconverged" in result.flags
    assert len(result.frames) == 5
    assert result.model_start == 4
    assert result.final.energy == pytest.approx(emt(structure, result.final).get_potential_energy() + 5.0)


@pytest.mark.parametrize("nsw", [1, 2, 7, 30])
def test_nsw_limits_all_stages_together(nsw):
    result = run(distorted(), (replace(ROBUST, calculator="b"), stage(fmax=1e-6)), nsw=nsw)
    assert len(result.frames) == nsw


@pytest.mark.parametrize("intent", [{"nsw": 0}, {"ibrion": -1, "nsw": 50}])
def test_single_point(intent):
    structure = distorted()
    result = run(structure, pressure_gpa=50.0, **intent)
    assert result.converged
    assert len(result.frames) == 1
    assert np.array_equal(result.final.cell, structure.cell)
    assert result.final.scaled == pytest.approx(structure.scaled, abs=1e-12)
    assert result.stages[0].calculator == "b"


def test_energy_criterion():
    loose = run(distorted(), (replace(stage(), ediff=0.05),))
    tight = run(distorted(), (replace(stage(), ediff=1e-5),))
    assert loose.converged
    assert tight.converged
    assert len(loose.frames) < len(tight.frames)
    last = [f.energy for f in loose.frames[-3:]]
    assert max(abs(np.diff(last))) < 0.05


def test_fixed_atoms_stay_and_their_forces_do_not_count():
    structure = distorted()
    free = np.ones((4, 3), dtype=bool)
    free[1] = False
    free[2, 0] = False
    result = run(replace(structure, free=free), isif=2)
    assert result.converged
    assert result.final.scaled[1] == pytest.approx(structure.scaled[1], abs=1e-10)
    assert result.final.scaled[2, 0] == pytest.approx(structure.scaled[2, 0], abs=1e-10)
    assert not np.allclose(result.final.scaled[3], structure.scaled[3], atol=1e-4)
    assert np.linalg.norm(result.final.forces, axis=1).max() > 0.01
    assert result.fmax < 0.01


def test_symmetry_is_kept_when_asked():
    from uspex_bridge.base.symmetry import space_group

    atoms = bulk("Cu", "bcc", a=2.9, cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.1]), scale_atoms=True)
    before = space_group(atoms.get_chemical_symbols(), atoms.cell.array, atoms.get_scaled_positions(), 1e-3)
    result = run(as_structure(atoms), keep_symmetry=True)
    after = space_group(atoms.get_chemical_symbols(), result.final.cell, result.final.scaled, 1e-2)
    assert before == "I4/mmm (139)"
    assert int(after.split("(")[1][:-1]) >= 139


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_broken_preconditioner_is_skipped_and_the_next_stage_starts_where_it_did():
    structure = distorted()
    for how in ("nan", "raise", "energy", "force"):
        result = run(structure, (ROBUST, stage()), models={"a": model(Broken(how, 1)), "b": model()})
        assert result.converged
        assert "robust-failed" in result.flags
        assert result.stages[0].outcome == "failed"
        assert result.stages[0].detail
        assert result.frames[0].scaled == pytest.approx(structure.scaled, abs=1e-9)


@pytest.mark.parametrize(
    ("how", "error", "code"),
    [("nan", Rejected, "not-finite"), ("energy", Rejected, "energy"), ("force", Rejected, "force")],
)
def test_a_broken_last_stage_is_refused(how, error, code):
    with pytest.raises(error) as caught:
        run(distorted(), models={"a": model(), "b": model(Broken(how))})
    assert caught.value.code == code


def test_a_model_that_raises_is_a_calculation_error():
    with pytest.raises(CalculationError, match="out of memory"):
        run(distorted(), models={"a": model(), "b": model(Broken("raise"))})


def test_a_hole_in_the_potential_is_refused():
    """The energy falls without bound on compression: the cell must not be followed down."""
    with pytest.raises(Rejected) as caught:
        run(distorted(), (stage(steps=2000),), models={"b": model(Broken("hole"))}, pressure_gpa=50.0)
    assert caught.value.code in ("collapse", "energy")


def test_energies_no_compound_can_have_are_refused_on_the_mp_scale():
    calculator = Broken("none")
    original = calculator.calculate

    def deep(atoms=None, properties=None, system_changes=tuple(all_changes)):
        original(atoms, properties, system_changes)
        calculator.results["energy"] = -15.0 * len(atoms)

    calculator.calculate = deep
    guards = replace(GUARDS, hole="off")
    assert run(distorted(), (stage(),), guards, {"b": model(calculator)}, nsw=1).final.energy == -60.0
    with pytest.raises(Rejected, match="no compound of these elements") as caught:
        run(distorted(), (stage(),), models={"b": model(calculator, "mp-pbe")}, nsw=1)
    assert caught.value.code == "hole"


def test_runaway_volume_is_refused():
    with pytest.raises(Rejected) as caught:
        run(distorted(), (stage(stress=0.01, steps=3000),), pressure_gpa=-60.0)
    assert caught.value.code == "explosion"


@pytest.mark.parametrize("on_fail", ["reject", "stop", "next"])
def test_what_happens_when_a_stage_does_not_reach_its_target(on_fail):
    stages = (replace(ROBUST, calculator="b", fmax=1e-7, steps=3, on_fail=on_fail), stage())
    if on_fail == "reject":
        with pytest.raises(Rejected, match="did not reach") as caught:
            run(distorted(), stages)
        assert caught.value.code == "unconverged"
        return
    result = run(distorted(), stages)
    assert result.converged == (on_fail == "next")
    assert len(result.stages) == (2 if on_fail == "next" else 1)


def test_overlapping_atoms_are_pushed_apart():
    """Two atoms 0.3 Å apart: three known tools end in a fake minimum there."""
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
    structure = as_structure(atoms)
    reference = run(as_structure(bulk("Cu", cubic=True)))
    result = run(structure)
    assert result.converged
    assert "overlap-pushed" in result.flags
    assert result.enthalpy > reference.enthalpy - 1e-3
    with pytest.raises(Rejected, match="Cu1-Cu2 0.300 Å apart") as caught:
        run(structure, guards=replace(GUARDS, overlap="reject"))
    assert caught.value.code == "overlap"
    with pytest.raises(Rejected) as caught:
        run(structure, nsw=0)
    assert caught.value.code == "distance"


def test_coincident_atoms_and_dense_starts_survive():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0]
    assert run(as_structure(atoms)).converged
    dense = bulk("Cu", cubic=True)
    dense.set_cell(0.5 * dense.cell.array, scale_atoms=True)
    result = run(as_structure(dense))
    assert result.converged
    assert result.final.volume / 4 == pytest.approx(11.6, abs=0.6)
    dense.set_cell(0.83 * dense.cell.array, scale_atoms=True)
    with pytest.raises(Rejected, match="cannot be pushed apart"):
        run(as_structure(dense), isif=4)


def test_a_dense_start_at_constant_volume_goes_to_the_model_if_it_can_cope():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(0.51 * atoms.cell.array, scale_atoms=True)
    guards = replace(GUARDS, overlap_ratio=0.6, final_ratio=0.45, max_pressure=1e4)
    result = run(as_structure(atoms), isif=4, guards=guards)
    assert result.converged
    assert "overlap-pushed" in result.flags
    assert result.final.volume == pytest.approx(atoms.get_volume(), rel=1e-6)


def test_flat_dilute_and_huge_cells_are_refused():
    flat = bulk("Cu", cubic=True)
    flat.set_cell(flat.cell.array @ np.diag([1, 1, 0.08]), scale_atoms=True)
    dilute = bulk("Cu", cubic=True)
    dilute.set_cell(dilute.cell.array * 20, scale_atoms=True)
    for atoms, code in ((flat, "flat"), (dilute, "dilute"), (bulk("Cu") * (11, 10, 10), "too-large")):
        with pytest.raises(Rejected) as caught:
            run(as_structure(atoms))
        assert caught.value.code == code


def test_a_refusal_names_the_setting_that_decides():
    table = (Path(__file__).parents[3] / "docs" / "exit_codes.md").read_text().partition("What a guard")[2]
    settings = {row[1].strip("` "): row[3] for line in table.splitlines() if len(row := line.split("|")) == 5}
    copper, close = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    close.positions[1] = close.positions[0] + [0.6, 0, 0]
    inflated, dense = (as_structure(copper).cell * factor for factor in (2.0, 0.4))
    flat, volume = bulk("Cu", cubic=True), copper.get_volume()
    flat.set_cell(flat.cell.array @ np.diag([1, 1, 0.08]), scale_atoms=True)
    still = np.zeros((4, 3))
    refusals = [
        lambda: check_start(copper, replace(GUARDS, max_atoms=1)),
        lambda: check_start(flat, GUARDS),
        lambda: check_start(copper, replace(GUARDS, max_volume=5.0)),
        lambda: check_start(close, replace(GUARDS, overlap="reject")),
        lambda: push_apart(close.copy(), 0.5, 0.42, ions=False, expand=False),
        lambda: check_geometry(Atoms("Cu4", copper.positions, cell=inflated, pbc=True), GUARDS, volume),
        lambda: check_geometry(Atoms("Cu4", copper.positions, cell=dense, pbc=True), GUARDS, volume),
        lambda: check_geometry(close, GUARDS, volume),
        lambda: check_values(copper, 0.0, still + 1e5, np.zeros(6), GUARDS),
        lambda: check_values(copper, 1e5, still, np.zeros(6), GUARDS),
        lambda: check_values(copper, -90.0, still, np.zeros(6), GUARDS, "mp-pbe"),
        lambda: check_result(close, GUARDS),
        lambda: check_result(copper * (1, 1, 4), replace(GUARDS, axis="reject")),
        lambda: check_result(copper, GUARDS, 1e5),
    ]
    seen = set()
    for refuse in refusals:
        with pytest.raises(Rejected) as caught:
            refuse()
        setting = re.search(r"\((\w+)\)$", str(caught.value))[1]
        assert setting in vars(GUARDS)
        seen.add(caught.value.code)
        assert f"`{setting}`" in settings[caught.value.code]
    assert seen == set(settings) - {"code", "---", "not-finite", "unconverged", "vacuum", "a name of yours"}


def test_cell_inflated_in_volume_comes_back_under_pressure():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(1.3 * atoms.cell.array, scale_atoms=True)
    result = run(as_structure(atoms), pressure_gpa=50.0)
    assert result.converged
    assert result.final.volume / 4 < 11


def test_elongated_cells_are_flagged_or_refused():
    atoms = bulk("Cu", cubic=True) * (1, 1, 4)
    assert "elongated" in run(as_structure(atoms)).flags
    with pytest.raises(Rejected) as caught:
        run(as_structure(atoms), guards=replace(GUARDS, axis="reject"))
    assert caught.value.code == "elongated"
    assert run(as_structure(atoms), guards=replace(GUARDS, axis="off")).flags == ()


@pytest.mark.parametrize("why", ["time", "file"])
def test_told_to_stop_it_returns_the_last_models_view_of_what_was_reached(why):
    calls = iter([None] * 3 + [why] * 1000)
    structure = distorted()
    result = run(structure, (replace(ROBUST, fmax=1e-5), stage()), halt=lambda: next(calls))
    assert not result.converged
    assert result.stages[0].outcome == why
    assert result.stages[-1].detail == "single point"
    check = emt(structure, result.final)
    assert result.final.energy == pytest.approx(check.get_potential_energy(), abs=1e-9)
    assert result.fmax == pytest.approx(np.linalg.norm(check.get_forces(), axis=1).max(), abs=1e-9)


def test_a_signal_leaves_no_half_way_geometry():
    calls = iter([None] * 3 + ["signal"] * 1000)
    with pytest.raises(Interrupted, match="before the relaxation reached its targets"):
        run(distorted(), halt=lambda: next(calls))


def test_told_to_stop_at_once():
    with pytest.raises(Interrupted):
        run(distorted(), halt=lambda: "time")


def test_observer_hears_every_step():
    heard = []
    result = run(distorted(), observe=heard.append)
    assert heard[-1].index == len(result.frames)
    assert heard[-1].enthalpy == pytest.approx(result.enthalpy)
    assert {step.stage for step in heard} == {"robust", "approach", "accurate"}


def test_one_atom():
    result = run(as_structure(bulk("Cu")), pressure_gpa=50.0)
    assert result.converged
    assert result.fmax < 1e-6


def simple_cubic() -> Structure:
    """Copper that its symmetry alone holds far above fcc."""
    return as_structure(bulk("Cu", "sc", a=2.4) * (2, 2, 2))


def test_a_symmetric_start_leaves_its_saddle_point():
    on_top = run(simple_cubic(), (stage(optimizer="TRQN"),), replace(GUARDS, saddle="off"))
    left = run(simple_cubic(), (stage(optimizer="TRQN"),))
    assert "saddle-left" in left.flags
    assert left.converged
    assert left.enthalpy / 8 < on_top.enthalpy / 8 - 0.1
    assert left.stages[0].evaluations < left.stages[0].steps + 20


def test_a_model_that_hands_on_a_saddle_point_leaves_it_first():
    """So that the evaluations of the way down are its own; what is flagged is the last model's word."""
    stages = (stage("student", "a", "TRQN", 0.05, stress=0.5), stage(optimizer="TRQN"))
    alone, both = run(simple_cubic(), stages[1:]), run(simple_cubic(), stages)
    assert both.converged
    assert both.enthalpy == pytest.approx(alone.enthalpy, abs=0.02)
    first, second = ([s.evaluations for s in result.stages if s.calculator == "b"] for result in (alone, both))
    assert sum(second) < sum(first) / 2
    assert both.flags == ()
    assert "saddle" in run(simple_cubic(), stages, replace(GUARDS, saddle="flag")).flags


@pytest.mark.parametrize(
    ("guards", "intent", "flag"),
    [
        (replace(GUARDS, saddle="off"), {}, "unprobed"),
        (replace(GUARDS, saddle="flag"), {}, "saddle"),
        (GUARDS, {"keep_symmetry": True}, "unprobed"),
    ],
)
def test_a_symmetric_start_that_is_not_taken_further_says_so(guards, intent, flag):
    """No protocol and no setting hands back where symmetry holds the atoms as if it were a minimum."""
    result = run(simple_cubic(), (stage(optimizer="TRQN", fmax=0.05, stress=0.5),), guards, **intent)
    assert flag in result.flags
    assert "saddle-left" not in result.flags


def test_a_guard_of_another_package(monkeypatch):
    """It is asked about the start, and about the result with the model's energy and forces; its word is the reason."""
    heard = []

    def guard(atoms, moment, pressure):
        heard.append((moment, pressure, atoms.get_potential_energy() if moment == "result" else None))
        if moment == "result" and atoms.get_volume() / len(atoms) < 10.6:
            return f"{atoms.get_volume() / len(atoms):.1f} Å³/atom is less than we believe"
        if atoms.symbols[0] == "Ag":
            raise KeyError("silver")
        return None

    point = SimpleNamespace(name="dense", load=lambda: guard)
    monkeypatch.setattr(
        offered.importlib.metadata, "entry_points", lambda group, name=None: [point] * (group == offered.GUARDS)
    )
    guards = Guards(further=("dense",))
    result = run(distorted(), guards=guards)
    assert [moment for moment, _, _ in heard] == ["start", "result"]
    assert heard[1][2] == pytest.approx(result.final.energy)
    with pytest.raises(Rejected, match="less than we believe") as caught:
        run(distorted(), guards=guards, pressure_gpa=40.0)
    assert caught.value.code == "dense"
    assert heard[-1][:2] == ("result", 40.0)
    with pytest.raises(CalculationError, match="guard 'dense' failed: KeyError: 'silver'"):
        run(as_structure(bulk("Ag")), guards=guards)
    with pytest.raises(ValueError, match="no guard 'denser'; did you mean 'dense'"):
        Guards(further=("denser",))


def test_a_minimum_keeps_its_symmetry_and_a_start_without_any_is_not_probed():
    for atoms in (bulk("Cu"), bulk("Cu", cubic=True), bulk("Ag", "hcp", a=2.9, c=4.75)):
        result = run(as_structure(atoms))
        assert result.flags == ()
        assert is_symmetric(result, 48 if len(atoms) != 2 else 12)
    one, other = run(distorted()), run(distorted(), guards=replace(GUARDS, saddle="off"))
    assert [s.evaluations for s in one.stages] == [s.evaluations for s in other.stages]


def is_symmetric(result, operations: int) -> bool:
    atoms = ([29] * len(result.final.scaled)), result.final.cell, result.final.scaled
    found = spglib.get_symmetry((atoms[1].tolist(), atoms[2].tolist(), atoms[0]), symprec=1e-4)
    return len(found["rotations"]) >= operations


class Worsening(Calculator):
    """EMT whose energy rises by 1 eV from the fifth evaluation on, as where an optimizer loses its way."""

    implemented_properties = ["energy", "forces", "stress"]
    calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        inner = EMT()
        inner.calculate(atoms, ["energy", "forces", "stress"], all_changes)
        self.calls += 1
        self.results = {**inner.results, "energy": inner.results["energy"] + (self.calls > 5)}


@pytest.mark.parametrize("ending", ["steps", "nsw", "time", "file"])
@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "TRQN"])
def test_the_lowest_step_is_the_result_where_the_targets_were_missed(optimizer, ending):
    calculator = Worsening()
    stop = ending if ending in ("time", "file") else None
    result = run(
        distorted(),
        (stage(optimizer=optimizer, fmax=1e-6, steps=12 if ending == "steps" else 50),),
        replace(GUARDS, hole="off"),
        models={"b": model(calculator)},
        halt=lambda: stop if stop and calculator.calls >= 12 else None,
        nsw=12 if ending == "nsw" else 500,
    )
    enthalpies = [frame.enthalpy(0.0) for frame in result.frames]
    assert not result.converged
    assert len(result.frames) >= 6
    assert result.enthalpy == min(enthalpies)
    assert result.stages[-1].enthalpy == result.enthalpy
    assert {"steps": "12 steps", "nsw": "NSW = 12", "file": "STOPCAR"}.get(ending, ending) in result.reason


def test_one_nan_is_computed_once_more():
    once, always = Broken("none"), Broken("nan")
    plain = once.calculate

    def flicker(*args, **kwargs):
        plain(*args, **kwargs)
        if once.calls == 4:
            once.results["forces"] = once.results["forces"] * np.nan

    once.calculate = flicker
    assert run(distorted(), (stage(),), models={"b": model(once)}).converged
    with pytest.raises(Rejected, match="twice") as caught:
        run(distorted(), (stage(),), models={"b": model(always)})
    assert not caught.value.lasting
    assert always.calls == 5


# ------------------------------------------------------------------------------------------------ hopeless relaxations


@pytest.mark.parametrize("pressure", [0.0, 50.0])
def test_what_ends_above_the_ceiling_is_ended_early_and_nothing_else_is(pressure):
    structure = distorted()
    whole = run(structure, pressure_gpa=pressure)
    end = whole.enthalpy / len(structure)
    below = run(structure, pressure_gpa=pressure, ceiling=lambda: end + 0.02)
    assert (below.converged, below.enthalpy) == (True, whole.enthalpy)
    above = run(structure, pressure_gpa=pressure, ceiling=lambda: end - 0.5)
    assert (above.converged, above.stages[-1].outcome) == (False, "above")
    assert {"unconverged", "stopped-above"} <= set(above.flags)
    assert len(above.frames) < len(whole.frames)
    assert above.enthalpy >= whole.enthalpy
    assert above.enthalpy == min(frame.enthalpy(pressure) for frame in above.frames[above.model_start :])


def test_where_the_descent_tells_nothing_the_ceiling_is_not_asked_for():
    """Symmetry may hold the atoms on a saddle point, and at constant volume the pressure is not reached."""

    def ceiling():
        raise AssertionError

    assert run(as_structure(bulk("Cu", cubic=True)), ceiling=ceiling, pressure_gpa=50.0).converged
    assert run(distorted(), ceiling=ceiling, isif=4).converged


def test_a_crystal_without_springs_has_a_softest_mode_all_the_same(monkeypatch):
    """The spring model may have no spring at all, as for hydrogen at 150 GPa."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.01, seed=1)
    atoms.calc = EMT()
    known = saddles.softest(atoms)
    monkeypatch.setattr(saddles, "_springs", lambda target: np.zeros((3 * len(target), 3 * len(target))))
    mode = saddles.softest(atoms)
    assert known.curvature > 0
    assert mode.curvature > 0
    assert np.isfinite(mode.direction).all()
